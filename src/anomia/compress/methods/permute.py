"""Channel permutation for N:M patterns: reorder the inputs of matrices so that a pattern costs less.

Hardware applies a pattern to consecutive stored inputs, so the order must be in the file. The inputs of an MLP's last
matrix are hidden channels that only the MLP's first matrices write, so their rows can be permuted together with its
columns. The value channels of attention can be permuted within each head, together with the columns of the output
matrix. Inputs from the residual stream share one order in the whole model and stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.calls import run_block
from anomia.compress.kept import kept_storages
from anomia.compress.matrices import FusedExperts, WeightMatrix, find_fused_experts
from anomia.compress.methods.base import BlockWork
from anomia.compress.shared import storages_elsewhere
from anomia.compress.statistics import InputStatistic
from anomia.compress.steps import Pattern
from anomia.models.rewritten import REORDERED

# Groups that are assigned together; the authors' fast mode splits wide layers too.
_GROUPS = 512
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-6}

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Order = Callable[[torch.Tensor], torch.Tensor]


class Link(NamedTuple):
    """Matrices that write channels, and the matrix that reads them.

    reader: weight [out, repeats·channels].
    writers: for each, its weight [k·channels, in], and its bias [k·channels] or None.
    interleaved: whether the k rows of a channel are adjacent in a writer; otherwise a writer has k parts.
    head: channels per head, within which they are permuted; 0 if there are no heads.
    repeats: how many query heads read each value head.
    """

    reader: WeightMatrix
    writers: tuple[tuple[torch.Tensor, torch.Tensor | None], ...]
    interleaved: bool = False
    head: int = 0
    repeats: int = 1

    @property
    def channels(self) -> int:
        """The number of channels."""
        return int(self.reader.weight.shape[1]) // self.repeats

    def columns(self, order: torch.Tensor) -> torch.Tensor:
        """Return the order of the reader's inputs, [repeats·channels], for an order of the channels, [channels]."""
        if not self.head:
            return order
        inside = (order.view(-1, self.head) % self.head).repeat_interleave(self.repeats, dim=0)
        return (inside + self.head * torch.arange(len(inside), device=order.device)[:, None]).reshape(-1)

    def apply(self, order: torch.Tensor) -> None:
        """Move channel `order[i]` to place i in rows, biases and columns, in place. order: [channels]."""
        count = len(order)
        for weight, bias in self.writers:
            parts = len(weight) // count
            first = order * parts if self.interleaved else order
            inside = torch.arange(parts, device=order.device) * (1 if self.interleaved else count)
            rows = first[:, None] + inside if self.interleaved else inside[:, None] + first
            weight.copy_(weight[rows.reshape(-1)])
            if bias is not None:
                bias.copy_(bias[rows.reshape(-1)])
        self.reader.weight.copy_(self.reader.weight[:, self.columns(order)])

    def within(self, order: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Return an order of all channels, [channels], from `order(i)` of each head i, or `order(0)` without heads."""
        if not self.head:
            return order(0)
        heads = range(self.channels // self.head)
        return torch.cat([order(index) + index * self.head for index in heads])

    def fit(self, scores: torch.Tensor, order: Order) -> torch.Tensor:
        """Return the order of the channels for the reader's scores [out, in], by calling `order` once or per head."""
        if not self.head:
            return order(scores)
        heads = scores.view(len(scores), -1, self.repeats, self.head)
        return self.within(lambda index: order(heads[:, index].reshape(-1, self.head)))


def fitting_order(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Find an order of the columns in which a pattern keeps more of the scores. scores: [out, in]; returns [in] int64.

    First the columns are dealt to the groups by their sums, back and forth, so that each group gets strong and weak
    columns. Then, for one position after the other, the columns there are exchanged among the groups for the highest
    kept sum, by linear sum assignment. If that isn't better, the identity is returned.

    Source: Zhang et al. (2024), Section 3.3; wide matrices in parts of 512 groups, like the fast mode of their code.
    """
    columns = scores.shape[1]
    size, groups = pattern.group, columns // pattern.group
    by_sum = scores.sum(dim=0).argsort()
    order = torch.empty_like(by_sum)
    for place, dealt in enumerate(torch.split(by_sum, groups)):
        order[place::size] = dealt.flip(0) if place % 2 else dealt
    parts = math.ceil(groups / _GROUPS)
    for part in torch.arange(groups, device=scores.device).tensor_split(parts):
        mine = order[int(part[0]) * size : (int(part[-1]) + 1) * size]
        for place in range(size):
            _assign(scores, mine.view(-1, size), place, pattern.keep)
    if kept_score(scores[:, order], pattern) <= kept_score(scores, pattern):
        return torch.arange(columns, device=scores.device)
    return order


def kept_score(scores: torch.Tensor, pattern: Pattern) -> float:
    """Return the sum of the scores that a pattern keeps. scores: [out, in]."""
    grouped = scores.reshape(-1, pattern.group)
    return float(grouped.topk(pattern.keep, dim=1).values.sum(dtype=torch.float64))


def _assign(scores: torch.Tensor, order: torch.Tensor, place: int, keep: int) -> None:
    """Exchange the columns at one position of all groups, in place. scores: [out, in]; order: columns, [G, M]."""
    others = torch.cat([order[:, :place], order[:, place + 1 :]], dim=1)  # [G, M − 1]
    movable = order[:, place]
    strongest = scores[:, others].topk(keep, dim=2).values  # [out, G, keep]
    # With a further column c, a group keeps its best keep − 1 and the larger of its next best and c.
    certain = strongest[:, :, : keep - 1].sum(dim=(0, 2), dtype=torch.float64)  # [G]
    last = strongest[:, :, keep - 1].T.contiguous()  # [G, out]
    values = scores[:, movable].T.contiguous()  # [G, out]
    gains = torch.stack([torch.maximum(mine, values).sum(dim=1) for mine in last])  # [G, G]
    chosen = linear_sum_assignment((gains + certain[:, None]).cpu().numpy(), maximize=True)[1]
    order[:, place] = movable[torch.from_numpy(chosen).to(order.device)]


def permute_channels(work: BlockWork, score: Score, order: Order, *, multiple: int = 1) -> dict[str, str]:
    """Reorder the channels inside a block's MLPs and attention heads, if the block computes the same in any order.

    Candidates are found by their shapes, and tested with a random order on the first batch; if the module's output
    changes, they are left unchanged. The statistics of the readers' inputs are reordered too.

    Args:
        work: the block.
        score: computes scores [out, in] from a reader's weights [out, in] and the norms of its inputs [in].
        order: computes an order [n] of the columns of scores [out, n].
        multiple: attention is skipped if this doesn't divide the channels per head.

    Returns a note by the name of each reader.
    """
    if work.hidden is None or not work.calls or work.calls[0].whole is not None:
        return {}
    alone = {
        g.matrices[0].name: g.statistic
        for g in work.groups
        if g.statistic is not None and len(g.matrices) == 1
    }
    candidates = [*_links(work), *_head_links(work, multiple)]
    inputs = _record_inputs(work, {owner for owner, _ in candidates})
    fixed = kept_storages(work.block) | storages_elsewhere(work.block)
    done: dict[str, str] = {}
    for owner, ways in candidates:
        if owner not in inputs:
            continue
        module = work.block.get_submodule(owner)
        links = next((links for links in ways if _same(module, *inputs[owner], links)), ())
        for link in links:
            statistic = alone.get(link.reader.name)
            touched = [
                link.reader.weight,
                *(each for pair in link.writers for each in pair if each is not None),
            ]
            if fixed and any(each.untyped_storage().data_ptr() in fixed for each in touched):
                continue
            if statistic is not None and link.reader.name not in done:
                chosen = link.fit(score(link.reader.weight, statistic.norms), order)
                link.apply(chosen)
                _reorder(statistic, link.columns(chosen))
                done[link.reader.name] = REORDERED
    return done


def _links(work: BlockWork) -> Iterator[tuple[str, list[list[Link]]]]:
    """Yield candidates by shape: a module's name, and the possible ways to link its matrices.

    A matrix [out, channels] may read what its siblings write, [channels, in] or [2·channels, in] (see `_ways`).
    """
    for owner, module in work.block.named_modules():
        layers = {n: c for n, c in module.named_children() if isinstance(c, nn.Linear | Conv1D)}
        for name, layer in layers.items():
            reader = _matrix(f"{owner}.{name}" if owner else name, layer)
            beside = [(_matrix(n, c).weight, c.bias) for n, c in layers.items() if n != name]
            if ways := _ways([reader], [beside]):
                yield owner, ways
    experts: dict[str, list[FusedExperts]] = {}
    for fused in find_fused_experts(work.block, where=work.where):
        if fused.fold is None:
            experts.setdefault(fused.name.rpartition(".")[0], []).append(fused)
    for owner, stacks in experts.items():
        module = work.block.get_submodule(owner)
        for stack in stacks:
            others = [
                (other.matrices(), _biases(module, other))
                for other in stacks
                if other is not stack and len(other.stack) == len(stack.stack)
            ]
            beside_each = [
                [
                    (matrices[index].weight, None if biases is None else biases[index])
                    for matrices, biases in others
                ]
                for index in range(len(stack.stack))
            ]
            if ways := _ways(stack.matrices(), beside_each):
                yield owner, ways


def _head_links(work: BlockWork, multiple: int) -> Iterator[tuple[str, list[list[Link]]]]:
    """Yield candidates in attention: a matrix that reads whole heads, and one that may write their values.

    The reader is [out, heads·head]. Values are the rows of a separate matrix, [values·head, in], or the last rows of a
    matrix that also writes queries and keys, [(heads + 2·values)·head, in].
    """
    for owner, module in work.block.named_modules():
        size = getattr(module, "head_dim", None)
        layers = {n: c for n, c in module.named_children() if isinstance(c, nn.Linear | Conv1D)}
        if not isinstance(size, int) or size < 1 or size % multiple:
            continue
        for name, layer in layers.items():
            reader = _matrix(f"{owner}.{name}" if owner else name, layer)
            heads, rest = divmod(reader.weight.shape[1], size)
            if rest:
                continue
            ways = []
            for other, writer in layers.items():
                weight, bias = _matrix(other, writer).weight, writer.bias
                for values in (len(weight) // size, (len(weight) // size - heads) // 2):
                    rows = values * size
                    if other != name and values > 0 and heads % values == 0 and rows <= len(weight):
                        last = None if bias is None else bias.data[-rows:]
                        ways.append(
                            [Link(reader, ((weight[-rows:], last),), head=size, repeats=heads // values)]
                        )
            if ways:
                yield owner, ways


def _ways(
    readers: Sequence[WeightMatrix], beside: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor | None]]]
) -> list[list[Link]]:
    """Return the possible links of readers with sibling matrices, in halves or interleaved; none if no shape fits.

    beside: for each reader [out, channels], the siblings' weights and biases; a weight [channels, in] or
    [2·channels, in] may write its inputs.
    """
    channels = readers[0].weight.shape[1]
    writers = [
        tuple(
            (weight, None if bias is None else bias.data)
            for weight, bias in mine
            if len(weight) in (channels, 2 * channels)
        )
        for mine in beside
    ]
    if not all(writers):
        return []
    both = any(len(weight) != channels for weight, _ in writers[0])
    return [
        [Link(reader, mine, interleaved) for reader, mine in zip(readers, writers, strict=True)]
        for interleaved in ((False, True) if both else (False,))
    ]


def _matrix(name: str, layer: Any) -> WeightMatrix:
    return WeightMatrix(name, layer.weight.data.T if isinstance(layer, Conv1D) else layer.weight.data)


def _biases(module: nn.Module, fused: FusedExperts) -> torch.Tensor | None:
    biases = getattr(module, f"{fused.name.rpartition('.')[2]}_bias", None)
    return biases.data if torch.is_tensor(biases) else None


def _record_inputs(work: BlockWork, owners: set[str]) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Record the arguments of each module on the first batch, [B, S, H], except for modules that no token reaches."""
    found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def recorder(name: str) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.setdefault(name, (args, dict(kwargs)))

        return read

    handles = [
        work.block.get_submodule(owner).register_forward_pre_hook(recorder(owner), with_kwargs=True)
        for owner in owners
    ]
    try:
        assert work.hidden is not None
        run_block(work.block, work.hidden(0), work.calls[0])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _same(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], links: Sequence[Link]) -> bool:
    """Whether a module's output is the same with its channels in a random order; restores every bit.

    args, kwargs: of a call of the module, tensors of any shape. links: of its matrices, which all get one order,
    [channels].
    """
    generator = torch.Generator().manual_seed(0)
    first, device = links[0], links[0].reader.weight.device
    trial = first.within(lambda _: torch.randperm(first.head or first.channels, generator=generator)).to(
        device
    )
    expected = _results(module, args, kwargs)
    if not expected:
        # The module outputs only indices, such as the positions to attend to.
        return False
    for link in links:
        link.apply(trial)
    got = _results(module, args, kwargs)
    for link in links:
        link.apply(trial.argsort())
    # If a module adds to its input, the tolerance is relative to what it adds.
    entered = args[0] if args and torch.is_tensor(args[0]) and args[0].shape == expected[0].shape else None
    added = None if entered is None else float((expected[0].float() - entered.float()).norm())
    return len(expected) == len(got) and all(map(partial(_is_close, added=added), got, expected))


def _is_close(mine: torch.Tensor, theirs: torch.Tensor, *, added: float | None) -> bool:
    if mine.shape != theirs.shape:
        return False
    scale = float(theirs.float().norm())
    scale = scale if added is None else min(scale, added)
    difference = float((mine.float() - theirs.float()).norm())
    return scale > 0 and difference <= _TOLERANCES.get(theirs.dtype, 2e-2) * scale


def _results(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Run a module; returns its outputs, and the tensors that it stored in its arguments (shared keys and values)."""
    out = module(*args, **kwargs)
    left = [value for value in (*args, *kwargs.values()) if isinstance(value, Mapping)]
    return [found.detach().clone() for found in _tensors([out, left])]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(value):
        if value.is_floating_point() and bool(value.any()):
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _reorder(statistic: InputStatistic, order: torch.Tensor) -> None:
    statistic.sum_squares = statistic.sum_squares[order]
    if statistic.hessian is not None:
        statistic.hessian = statistic.hessian[order][:, order]
    if statistic.sum is not None:
        statistic.sum = statistic.sum[order]
    if statistic.sum_abs is not None:
        statistic.sum_abs = statistic.sum_abs[order]
    for language in statistic.languages.values():
        language.sum_squares = language.sum_squares[order]
        language.active = language.active[order]
