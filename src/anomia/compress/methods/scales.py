"""Fold scales of inputs into their producer: the norm before a matrix, or the rows of another matrix.

Producers are found by experiment, not by module names: the weights of each candidate are scaled by random factors and
the block is run; if an input changes by exactly these factors, the candidate produces it. A norm that multiplies by
(1 + weight) is recognized in the same way, by trying both offsets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.calls import Call, run_block
from anomia.compress.kept import kept_names
from anomia.compress.shared import names_elsewhere

_TOLERANCE = 1e-3


class Producer(NamedTuple):
    """The module that produces the input of a group.

    name: the module's path in the block. first: the row of its weight (for a norm, the element) that produces input 0.
    offset: added to a norm's weight before it multiplies, 0 or 1. linear: whether the module is a linear layer.
    """

    name: str
    first: int
    offset: float
    linear: bool


class Folding(NamedTuple):
    """A group of matrices that share their input. matrices: their names in the block. size: number of inputs."""

    matrices: tuple[str, ...]
    size: int


FoldingsByLayer = Mapping[str, Folding]


@torch.no_grad()
def find_producers(
    block: nn.Module, groups: FoldingsByLayer, hidden: torch.Tensor, call: Call
) -> dict[str, Producer]:
    """Find the producer of each group's input, by the group's first matrix; groups without a producer are left out.

    hidden: real input states of the block, [B, S, H]. The experiments run on a float32 copy of the block. A producer
    must pass two tests: its factors arrive in the group's input; and with the group's columns divided by them, the
    outputs of all other layers and of the block stay the same, so nothing else reads the producer.
    """
    trial = copy.deepcopy(block).float()
    hidden, call = hidden.float(), _as_float32(call)
    base, made = _run(trial, groups, hidden, call)
    generator = torch.Generator().manual_seed(0)
    factors = {
        size: (0.5 + 1.5 * torch.rand(size, generator=generator)).to(hidden.device)
        for size in {group.size for group in groups.values()}
    }
    found: dict[str, Producer] = {}
    for producer, size in _candidates(trial, set(factors)):
        open_groups = [n for n, g in groups.items() if g.size == size and n not in found and n in base]
        if not open_groups:
            continue
        with _scaled(trial, producer, factors[size]):
            seen, _ = _run(trial, groups, hidden, call)
        for name in open_groups:
            if name not in seen or not _arrived(seen[name], base[name], factors[size]):
                continue
            with ExitStack() as stack:
                stack.enter_context(_scaled(trial, producer, factors[size]))
                stack.enter_context(_columns_divided(trial, groups[name].matrices, factors[size]))
                _, now = _run(trial, groups, hidden, call)
            if _same(now, made, but={producer.name}):
                found[name] = producer
    return found


@torch.no_grad()
def unchanged(
    block: nn.Module,
    folded: Callable[[nn.Module], None],
    producers: Iterable[Producer],
    hidden: torch.Tensor,
    call: Call,
) -> bool:
    """Whether a block computes the same after `folded` changed a copy of it, both in float32.

    Compares the outputs of all layers except the producers, and the difference between the block's output and input,
    because a large residual stream would hide changes. hidden: input states of the block, [B, S, H].
    """
    trial = copy.deepcopy(block).float()
    hidden, call = hidden.float(), _as_float32(call)
    _, before = _run(trial, {}, hidden, call)
    folded(trial)
    _, after = _run(trial, {}, hidden, call)
    return _same(after, before, but={producer.name for producer in producers})


def weight_of(block: nn.Module, name: str) -> torch.Tensor:
    """Return a view of a module's weight: [out, in] for a linear layer, [n] for a norm."""
    module: Any = block.get_submodule(name)
    weight: torch.Tensor = module.weight.data
    return weight.T if isinstance(module, Conv1D) else weight


def realize(block: nn.Module, producer: Producer, scales: torch.Tensor) -> torch.Tensor:
    """Return the nearest scales [in] that can be folded exactly: a norm's new weight is rounded to its stored type."""
    if producer.linear:
        return scales
    weight = weight_of(block, producer.name)[producer.first : producer.first + len(scales)]
    dense = weight.float() + producer.offset
    stored = (dense / scales - producer.offset).to(weight.dtype).float() + producer.offset
    sound = (stored != 0) & (dense != 0) & torch.isfinite(stored)
    exact = torch.where(sound, dense / stored, scales)
    # If rounding changes the sign of a tiny weight, or its size by a factor of two or more, keep scale 1.
    return torch.where(sound & (exact > scales / 2) & (exact < scales * 2), exact, torch.ones_like(scales))


def divide(block: nn.Module, producer: Producer, scales: torch.Tensor) -> None:
    """Divide a producer's output by `scales` [n], by changing its weight and bias in place, rounded to their type."""
    rows = slice(producer.first, producer.first + len(scales))
    module: Any = block.get_submodule(producer.name)
    if producer.linear:
        part = weight_of(block, producer.name)[rows]
        part.copy_(part.float() / scales[:, None])
    else:
        part = module.weight.data[rows]
        changed = (part.float() + producer.offset) / scales - producer.offset
        part.copy_(torch.where(scales == 1, part.float(), changed))
    bias = getattr(module, "bias", None)
    if bias is not None:
        part = bias.data[rows]
        part.copy_(part.float() / scales)


def _candidates(block: nn.Module, sizes: set[int]) -> Iterator[tuple[Producer, int]]:
    """Yield possible producers and their number of outputs; norms first: only a norm's own weight scales its output.

    A module that shares a parameter with another block, or with a part outside the blocks, is left out: the parameter
    would change there too.
    """
    kept, elsewhere = kept_names(block), names_elsewhere(block)
    modules = [
        (name, m)
        for name, m in block.named_modules()
        if name and name not in kept and _weight(m) is not None
        if not any(f"{name}.{own}" in elsewhere for own, _ in m.named_parameters(recurse=False))
    ]
    for name, module in modules:
        weight = _weight(module)
        if weight is not None and weight.dim() == 1 and len(weight) in sizes:
            for offset in (0.0, 1.0):
                yield Producer(name, 0, offset, linear=False), len(weight)
    for name, module in modules:
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        rows = len(weight_of(block, name))
        for size in sizes:
            # The last slice first: in fused matrices the values or `up`, which take scales, come last.
            for first in range(rows - size, -1, -size) if rows % size == 0 else ():
                yield Producer(name, first, 0.0, linear=True), size


def _weight(module: nn.Module) -> torch.Tensor | None:
    weight = module._parameters.get("weight")
    return weight.data if weight is not None and weight.is_floating_point() else None


@contextmanager
def _scaled(block: nn.Module, producer: Producer, factors: torch.Tensor) -> Iterator[None]:
    module: Any = block.get_submodule(producer.name)
    kept = [(p.data, p.data.clone()) for p in module.parameters(recurse=False)]
    divide(block, producer, 1 / factors)
    try:
        yield
    finally:
        for data, before in kept:
            data.copy_(before)


@contextmanager
def _columns_divided(block: nn.Module, names: Sequence[str], factors: torch.Tensor) -> Iterator[None]:
    kept = [(weight, weight.clone()) for weight in (weight_of(block, name) for name in names)]
    for weight, _ in kept:
        weight.div_(factors)
    try:
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)


def _run(
    block: nn.Module, groups: FoldingsByLayer, hidden: torch.Tensor, call: Call
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Run a block on states `hidden`, [B, S, H].

    Returns the input of each group, [..., in], by its first matrix; and the output of every layer, [..., out], by name,
    with the block's output minus `hidden` under "".
    """
    seen: dict[str, torch.Tensor] = {}
    made: dict[str, torch.Tensor] = {}

    def entering(name: str) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[name] = (args[0] if args else next(iter(kwargs.values()))).detach().clone()

        return read

    def leaving(name: str) -> Callable[..., None]:
        def read(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
            # Some routers return several values.
            made[name] = (out if torch.is_tensor(out) else out[0]).detach().clone()

        return read

    with ExitStack() as stack:
        for name in groups:
            handle = block.get_submodule(name).register_forward_pre_hook(entering(name), with_kwargs=True)
            stack.callback(handle.remove)
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                stack.callback(module.register_forward_hook(leaving(name)).remove)
        out = run_block(block, hidden, call)
    made[""] = out - hidden if out.shape == hidden.shape else out
    return seen, made


def _same(now: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor], *, but: set[str]) -> bool:
    return now.keys() == before.keys() and all(
        _close(now[name], made) for name, made in before.items() if name not in but
    )


def _arrived(got: torch.Tensor, base: torch.Tensor, factors: torch.Tensor) -> bool:
    """Whether an input was multiplied by the factors, per channel. got, base: [..., n]; factors: [n]."""
    if got.shape != base.shape or not bool(base.any()):
        return False
    wanted = (base * factors).flatten(0, -2)  # [T, n]
    lost, size = (part.pow(2).sum(dim=0).sqrt() for part in (got.flatten(0, -2) - wanted, wanted))
    return bool((lost <= _TOLERANCE * size + 1e-6 * size.max()).all())


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether two tensors differ only by float32 rounding, on average and in every element."""
    if got.shape != wanted.shape:
        return False
    difference, size = (got - wanted).abs(), wanted.pow(2).mean().sqrt()
    return bool(difference.pow(2).mean().sqrt() <= _TOLERANCE * size) and bool(
        difference.max() <= 10 * _TOLERANCE * wanted.abs().max()
    )


def _as_float32(call: Call) -> Call:
    def convert(value: Any) -> Any:
        if torch.is_tensor(value):
            return value.float() if value.is_floating_point() else value
        if type(value) in (tuple, list):
            return type(value)(map(convert, value))
        if type(value) is dict:
            return {key: convert(item) for key, item in value.items()}
        return value

    return Call(convert(call.args), convert(dict(call.kwargs)))
