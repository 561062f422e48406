"""Scales of inputs, folded into what produces them: the norm before a matrix, or the rows of another matrix.

What produces an input is found by looking. The weights of each candidate are scaled by random factors, the block is
run, and where exactly these factors arrive in an input the candidate produces it. No module is known by name, and a
norm that computes with (1 + weight) shows itself by the only change of its weight that does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.blocks import Call, run_block

_TOLERANCE = 1e-3


class Producer(NamedTuple):
    """What an input of a group comes out of.

    name: the module's path in the block. first: row of its weight (element, if a norm's) that makes input 0.
    offset: what is added to a norm's weight before it multiplies, 0 or 1. linear: whether it is a matrix.
    """

    name: str
    first: int
    offset: float
    linear: bool


class Folding(NamedTuple):
    """Groups by the name of their first matrix. matrices: names of all. size: inputs."""

    matrices: tuple[str, ...]
    size: int


Watched = Mapping[str, Folding]


@torch.no_grad()
def find_producers(
    block: nn.Module, groups: Watched, hidden: torch.Tensor, call: Call
) -> dict[str, Producer]:
    """What produces the input of each group, by its first matrix; a group is missing where its scales can't be folded.

    hidden: some real states that enter the block, [B, S, H]. The block is left as it is: all is tried on a copy in
    float32. A producer counts where its factors arrive in the group's input and, with the group's columns divided by
    them, all else stays the same, what every other layer makes and what the block adds: nothing else reads it.
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

    What every layer makes is compared, but for the producers', and what the block adds to the states that enter it: on
    top of a large residual stream much could change unseen. hidden: states that enter the block, [B, S, H].
    """
    trial = copy.deepcopy(block).float()
    hidden, call = hidden.float(), _as_float32(call)
    _, before = _run(trial, {}, hidden, call)
    folded(trial)
    _, after = _run(trial, {}, hidden, call)
    return _same(after, before, but={producer.name for producer in producers})


def weight_of(block: nn.Module, name: str) -> torch.Tensor:
    """The weight of a module as a view: [out, in] of a matrix, [n] of a norm."""
    module: Any = block.get_submodule(name)
    weight: torch.Tensor = module.weight.data
    return weight.T if isinstance(module, Conv1D) else weight


def realize(block: nn.Module, producer: Producer, scales: torch.Tensor) -> torch.Tensor:
    """The scales nearest to these that folding makes exactly: a norm's new weight is rounded to its stored type."""
    if producer.linear:
        return scales
    weight = weight_of(block, producer.name)[producer.first : producer.first + len(scales)]
    dense = weight.float() + producer.offset
    stored = (dense / scales - producer.offset).to(weight.dtype).float() + producer.offset
    sound = (stored != 0) & (dense != 0) & torch.isfinite(stored)
    exact = torch.where(sound, dense / stored, scales)
    # A weight so close to zero that rounding turns it around, or far off: it keeps scale 1.
    return torch.where(sound & (exact > scales / 2) & (exact < scales * 2), exact, torch.ones_like(scales))


def divide(block: nn.Module, producer: Producer, scales: torch.Tensor) -> None:
    """Make a module of a block produce its output divided by `scales`, in place. Matrices are float32 or rounded."""
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
    """Norms first: what leaves one is its own, whatever came before."""
    modules = [(name, m) for name, m in block.named_modules() if name and _weight(m) is not None]
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
            # The last slice first: fused matrices have what is multiplied, the values or `up`, behind the rest.
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
    block: nn.Module, groups: Watched, hidden: torch.Tensor, call: Call
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Run a block on states `hidden`, [B, S, H].

    Returns what enters each group, [..., in], by its first matrix; and what every layer makes, [..., out], by its name,
    with what the block adds to `hidden` under "".
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
    """Whether an input was multiplied by the factors, channel by channel."""
    if got.shape != base.shape or not bool(base.any()):
        return False
    wanted = (base * factors).flatten(0, -2)  # [T, n]
    lost, size = (part.pow(2).sum(dim=0).sqrt() for part in (got.flatten(0, -2) - wanted, wanted))
    return bool((lost <= _TOLERANCE * size + 1e-6 * size.max()).all())


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal but for float32's rounding, on average and at every single place."""
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
