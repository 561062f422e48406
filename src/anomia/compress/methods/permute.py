"""Channel permutation for patterns: an order of the inputs in which a pattern costs less, put into the weights.

Hardware reads a pattern off consecutive stored inputs, so the order has to be in the file. The inputs of an MLP's last
matrix are hidden channels that only the MLP's own first matrices write: their rows and its columns can change places
together. So can the channels of attention's values within each head, with the columns of its last matrix. Inputs from
the residual stream have an order that the whole model shares; they stay.
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

from anomia.compress.blocks import FusedExperts, WeightMatrix, find_fused_experts, run_block
from anomia.compress.methods.base import BlockWork
from anomia.compress.statistics import InputStatistic
from anomia.compress.steps import Pattern
from anomia.models.rewritten import REORDERED

# Groups that are assigned together: the authors' fast mode splits wide layers as well.
_GROUPS = 512
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-6}

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Order = Callable[[torch.Tensor], torch.Tensor]


class Link(NamedTuple):
    """Matrices that write channels, and the one that reads them.

    writers: for each, its weight [k·channels, in], and its bias or None.
    interleaved: whether a writer with several rows for a channel has them side by side, not in halves.
    head: channels of a head, which they don't leave, 0 where there are none. repeats: how many heads read each.
    """

    reader: WeightMatrix
    writers: tuple[tuple[torch.Tensor, torch.Tensor | None], ...]
    interleaved: bool = False
    head: int = 0
    repeats: int = 1

    @property
    def channels(self) -> int:
        """How many there are."""
        return int(self.reader.weight.shape[1]) // self.repeats

    def columns(self, order: torch.Tensor) -> torch.Tensor:
        """The order of the reader's inputs for an order of the channels."""
        if not self.head:
            return order
        inside = (order.view(-1, self.head) % self.head).repeat_interleave(self.repeats, dim=0)
        return (inside + self.head * torch.arange(len(inside), device=order.device)[:, None]).reshape(-1)

    def apply(self, order: torch.Tensor) -> None:
        """Put channel `order[i]` into place i, in rows, biases and columns. order: [channels]."""
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
        """An order of all channels from one of each head, or of all together. order(i): of head i."""
        if not self.head:
            return order(0)
        heads = range(self.channels // self.head)
        return torch.cat([order(index) + index * self.head for index in heads])

    def fit(self, scores: torch.Tensor, order: Order) -> torch.Tensor:
        """The order that suits the scores of the reader, [out, in]."""
        if not self.head:
            return order(scores)
        heads = scores.view(len(scores), -1, self.repeats, self.head)
        return self.within(lambda index: order(heads[:, index].reshape(-1, self.head)))


def fitting_order(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """An order of the columns in which a pattern keeps more of the scores. scores: [out, in]; returns [in] int64.

    First the columns are dealt out by their sums, back and forth, so that each group gets strong and weak ones; then,
    position after position, the columns there are exchanged among the groups for the highest sum that is kept, a linear
    sum assignment. Where all that brings nothing, the order stays as it is.

    Source: Zhang et al. (2024), Section 3.3; wide matrices in parts of 512 groups, as their code's fast mode does.
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
    """The sum of the scores that a pattern keeps. scores: [out, in]."""
    grouped = scores.reshape(-1, pattern.group)
    return float(grouped.topk(pattern.keep, dim=1).values.sum(dtype=torch.float64))


def _assign(scores: torch.Tensor, order: torch.Tensor, place: int, keep: int) -> None:
    """Exchange the columns at one place of all groups, in place. order: [groups, M] of columns."""
    others = torch.cat([order[:, :place], order[:, place + 1 :]], dim=1)  # [G, M − 1]
    movable = order[:, place]
    strongest = scores[:, others].topk(keep, dim=2).values  # [out, G, keep]
    # Of a group with a further column c the best `keep` are its best keep − 1 and the larger of the next and c.
    certain = strongest[:, :, : keep - 1].sum(dim=(0, 2), dtype=torch.float64)  # [G]
    last = strongest[:, :, keep - 1].T.contiguous()  # [G, out]
    values = scores[:, movable].T.contiguous()  # [G, out]
    gains = torch.stack([torch.maximum(mine, values).sum(dim=1) for mine in last])  # [G, G]
    chosen = linear_sum_assignment((gains + certain[:, None]).cpu().numpy(), maximize=True)[1]
    order[:, place] = movable[torch.from_numpy(chosen).to(order.device)]


def permute_channels(work: BlockWork, score: Score, order: Order, *, multiple: int = 1) -> dict[str, str]:
    """Reorder the channels inside a block's MLPs and attention heads, where the block computes the same in any order.

    Candidates are found by their shapes and tried with a random order on the tokens of the first batch; where the module
    then puts out something else, they are left as they were. The statistics of the readers' inputs are reordered too.

    Args:
        score: of a reader's weights, [out, in], from them and the norms of its inputs.
        order: of the columns of scores.
        multiple: heads whose channels it doesn't divide are left alone.

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
    done: dict[str, str] = {}
    for owner, ways in candidates:
        if owner not in inputs:
            continue
        module = work.block.get_submodule(owner)
        links = next((links for links in ways if _same(module, *inputs[owner], links)), ())
        for link in links:
            statistic = alone.get(link.reader.name)
            if statistic is not None and link.reader.name not in done:
                chosen = link.fit(score(link.reader.weight, statistic.norms), order)
                link.apply(chosen)
                _reorder(statistic, link.columns(chosen))
                done[link.reader.name] = REORDERED
    return done


def _links(work: BlockWork) -> Iterator[tuple[str, list[list[Link]]]]:
    """Candidates by shape, with the module that holds them: each way in which its matrices may be linked."""
    for owner, module in work.block.named_modules():
        layers = {n: c for n, c in module.named_children() if isinstance(c, nn.Linear | Conv1D)}
        for name, layer in layers.items():
            reader = _matrix(f"{owner}.{name}" if owner else name, layer)
            beside = [(_matrix(n, c).weight, c.bias) for n, c in layers.items() if n != name]
            if ways := _ways([reader], [beside]):
                yield owner, ways
    experts: dict[str, list[FusedExperts]] = {}
    for fused in find_fused_experts(work.block, where=work.where):
        experts.setdefault(fused.name.rpartition(".")[0], []).append(fused)
    for owner, stacks in experts.items():
        module = work.block.get_submodule(owner)
        for stack in stacks:
            others = [
                (other.matrices(), _biases(module, other))
                for other in stacks
                if other is not stack and len(other.parameter) == len(stack.parameter)
            ]
            beside_each = [
                [
                    (matrices[index].weight, None if biases is None else biases[index])
                    for matrices, biases in others
                ]
                for index in range(len(stack.parameter))
            ]
            if ways := _ways(stack.matrices(), beside_each):
                yield owner, ways


def _head_links(work: BlockWork, multiple: int) -> Iterator[tuple[str, list[list[Link]]]]:
    """Candidates in attention: a matrix that reads whole heads, and what may write the values for them.

    Values are rows of a matrix of their own, or the last ones of a matrix that writes queries and keys too.
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
    """The links of readers with what lies beside each, all in halves or all interleaved; none where no shape fits.

    beside: for each reader [out, channels], weights [channels or 2·channels, in] that may write them, with their biases.
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
    """What each module is called with on the first batch; modules that no token of it reaches are left out."""
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
    """Whether a module puts out the same with its channels in a random order; leaves every bit as it was."""
    generator = torch.Generator().manual_seed(0)
    first, device = links[0], links[0].reader.weight.device
    trial = first.within(lambda _: torch.randperm(first.head or first.channels, generator=generator)).to(
        device
    )
    expected = _results(module, args, kwargs)
    if not expected:
        # Choices alone, such as the positions that attention looks at.
        return False
    for link in links:
        link.apply(trial)
    got = _results(module, args, kwargs)
    for link in links:
        link.apply(trial.argsort())
    # Of a module that adds to what enters it, only what it adds counts.
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
    """What a module puts out, and leaves for other blocks in what it was given (keys and values that they share)."""
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
