"""FLAP: remove the attention heads and feed-forward channels whose activations fluctuate least (An et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Windows
from anomia.compress.matrices import find_fused_experts
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.axes import (
    NAME,
    Axis,
    Units,
    find_biases,
    find_channels,
    find_heads,
    rows_of_units,
)
from anomia.compress.reshape.base import Reshaper, Walk, by_weights
from anomia.compress.reshape.fluctuation import Fluctuation, matrix_of, measure_fluctuations
from anomia.compress.reshape.parts import ReshapePlan, TensorRecipe, all_taken, given, outline, rows_of
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Subject
from anomia.errors import RefusedError


def narrow(subject: Subject, share: float, walk: Walk) -> ReshapeReport:
    """Remove the same number of heads and channels from every block, and add their mean outputs to a bias.

    This is the authors' structure UL-MM, in which all blocks keep the same width: it removes as many heads as the share
    covers, then channels for the rest. A channel's score is the variance of its input times the squared norm of its
    weights (WIFV, An et al. 2024, Section 3.2); a head's is the sum of its channels' squared scores, as in the authors'
    code. With grouped queries, either whole groups are removed or the same number of query heads from each group,
    whichever comes closer to the share. If the feed-forward width was a multiple of 8 to 128, it stays one, for the
    packed formats.

    The activations are the dense model's, as in the authors' code.

    share: fraction of the weights of all matrices in the blocks.

    Raises `CompressionError` if the configuration can hold neither fewer heads nor fewer channels, the blocks are
    mixtures, or a statistic is NaN or infinite; nothing was changed.
    """
    model, decoder = subject.model, subject.decoder
    if not 0 < share < 1:
        raise RefusedError(f"{NAME}:{share:g} is not a share of the weights; give a number between 0 and 1")
    fused = [each for block in decoder.modules for each in find_fused_experts(block, where=decoder.name)]
    if any(each.fold is None for each in fused):
        raise RefusedError(
            f"{NAME} can't narrow the experts of {type(model).__name__}; use dropexperts for them"
        )
    if fused:
        raise RefusedError(
            f"{NAME} narrows linear layers, and {fused[0].name} of {type(model).__name__} is a parameter of none"
        )
    try:
        return _narrow(subject, share, walk)
    except _HeadsError as error:
        return _narrow(subject, share, walk, why=f"attention heads stay: {error}")


class _HeadsError(Exception):
    """The configuration allows fewer heads, but the model doesn't compute the same with them."""


def _narrow(subject: Subject, share: float, walk: Walk, *, why: str = "") -> ReshapeReport:
    """Do the work of `narrow`. why: keeps the attention heads, for this reason."""
    model, decoder = subject.model, subject.decoder
    notes = [why] if why else []
    heads, kept_heads, head_axis = ((1, 1), (1, 1), None) if why else find_heads(model, decoder, share, notes)
    inner, kept_channels, channel_axis = find_channels(model, decoder, share, head_axis, notes)
    axes = [axis for axis in (head_axis, channel_axis) if axis is not None]
    if not axes:
        raise rebuild.refusal(
            NAME, model, "; ".join(notes) or f"a share of {share:g} is less than a head or a channel"
        )
    sizes = Units(*heads, inner)
    biases = find_biases(model, head_axis, channel_axis, decoder, notes)
    found = measure_fluctuations(subject, axes, walk)
    kept = []
    for index in range(len(decoder.modules)):
        block = Units(range(sizes.heads), range(sizes.groups), range(inner))
        for axis, statistics in zip(axes, found, strict=True):
            statistic = statistics[index]
            if statistic is None:
                continue
            if axis is head_axis:
                chosen, groups = choose_heads(statistic.score, heads, kept_heads)
                block = block._replace(heads=chosen, groups=groups)
            else:
                block = block._replace(channels=_highest(statistic.score, kept_channels))
        kept.append(block)
    changes = {name: value for axis in axes for name, value in axis.changes.items()} | biases
    try:
        plan, added = _plan(model, decoder, axes, sizes, kept, found, changes)
        fresh = subject.build(plan)
        _check(subject, fresh, axes, sizes, kept, added, walk.windows)
    except CannotExpressError as error:
        if head_axis is not None:
            raise _HeadsError(str(error)) from error
        raise rebuild.refusal(NAME, model, error) from error
    removed = []
    if head_axis is not None:
        lost = heads[1] - kept_heads[1]
        with_them = (
            f", {lost} of {heads[1]} key-value heads with them" if lost and heads[0] > heads[1] else ""
        )
        removed.append(f"{heads[0] - kept_heads[0]} of {heads[0]} attention heads in every block{with_them}")
    if channel_axis is not None:
        removed.append(f"{inner - kept_channels} of {inner} feed-forward channels in every block")
    return rebuild.finish(
        subject,
        fresh,
        NAME,
        changes,
        removed,
        notes=notes,
        details={
            "kept_heads": [list(block.heads) for block in kept],
            "compensated": sorted({name.split(".", decoder.name.count(".") + 2)[-1] for name in added}),
        },
    )


def choose_heads(
    score: torch.Tensor, heads: tuple[int, int], kept: tuple[int, int]
) -> tuple[list[int], list[int]]:
    """Choose the query heads and key-value groups to keep. score: [heads · head size]; heads, kept: (heads, groups)."""
    by_head = score.reshape(heads[0], -1).square().sum(dim=1)  # [heads]
    by_group = by_head.reshape(heads[1], -1)  # [groups, heads per group]
    size = by_group.shape[1]
    if kept[1] < heads[1]:
        groups = _highest(by_group.sum(dim=1), kept[1])
        return [group * size + head for group in groups for head in range(size)], groups
    inside = [_highest(scores, kept[0] // kept[1]) for scores in by_group]
    return [group * size + head for group, chosen in enumerate(inside) for head in chosen], list(
        range(heads[1])
    )


def _highest(scores: torch.Tensor, count: int) -> list[int]:
    """Return the indices of the `count` highest scores in rising order; on ties the higher index stays. scores: [N]."""
    order: list[int] = scores.argsort(stable=True).tolist()
    return sorted(order[len(order) - count :])


def _plan(
    model: nn.Module,
    decoder: DecoderBlocks,
    axes: Sequence[Axis],
    sizes: Units,
    kept: Sequence[Units],
    found: Sequence[Sequence[Fluctuation | None]],
    changes: Mapping[str, Any],
) -> tuple[ReshapePlan, dict[str, torch.Tensor]]:
    """Plan the new model's tensors; also returns, by a consumer's full name, the means that go into its bias.

    The means are [in] float64: the mean of each removed input, 0 for the others.
    """
    config = rebuild.changed_config(model, changes)
    built = rebuild.skeleton(model, config)
    before, shapes = rebuild.shapes(model), rebuild.shapes(built)
    parts = all_taken(model)
    added = {}
    for axis, statistics in zip(axes, found, strict=True):
        for index, (consumer, statistic) in enumerate(zip(axis.consumers, statistics, strict=True)):
            if consumer is None or statistic is None:
                continue
            cut = next(c for c in axis.cuts[index] if c.name == f"{consumer}.weight")
            gone = torch.ones(len(statistic.mean), dtype=torch.bool)
            gone[rows_of_units(cut.kind, len(gone), sizes, kept[index])] = False
            added[f"{decoder.name}.{index}.{consumer}"] = statistic.mean * gone
        for index, cuts in enumerate(axis.cuts):
            for cut in cuts:
                name = f"{decoder.name}.{index}.{cut.name}"
                rows = rows_of_units(cut.kind, before[name][cut.dim], sizes, kept[index])
                parts[name] = rows_of(parts[name], cut.dim, rows)
    dtype = next(model.parameters()).dtype
    for name in shapes.keys() - parts.keys():
        parts[name] = given(torch.zeros(shapes[name], dtype=dtype))
    for name in list(added):
        if f"{name}.bias" in parts:
            turned = isinstance(model.get_submodule(name), Conv1D)
            parts[f"{name}.bias"] = _with_mean(name, parts[f"{name}.bias"], added[name], turned=turned)
        else:
            del added[name]
    rebuild.check_shapes(outline(parts, model), built)
    return ReshapePlan(config, changes, parts), added


def _with_mean(name: str, bias: TensorRecipe, mean: torch.Tensor, *, turned: bool) -> TensorRecipe:
    """Return a consumer's bias [out] plus the mean output of its removed inputs. mean: [in], as in `_plan`."""

    def make(weight: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        old = bias.make(*values).to(weight.device)
        return (old.float() + _given(weight.T if turned else weight, mean)).to(old.dtype)

    return TensorRecipe((f"{name}.weight", *bias.sources), make)


def _given(weight: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return the product of a matrix [out, in] with mean inputs [in]; float32 [out]."""
    return weight.float() @ mean.to(weight.device, torch.float32)


@torch.no_grad()
def _check(
    subject: Subject,
    fresh: Subject,
    axes: Sequence[Axis],
    sizes: Units,
    kept: Sequence[Units],
    added: Mapping[str, torch.Tensor],
    windows: Windows,
) -> None:
    """Compare the built model with the dense one with removed inputs set to zero and the biases added.

    added: the means of the removed inputs by the full name of their consumer, [in] each.
    Raises `CannotExpressError` if the two differ.
    """
    ids = rebuild.check_batch(windows, subject.device)
    with ExitStack() as stack:
        for axis in axes:
            for index, consumer in enumerate(axis.consumers):
                if consumer is None:
                    continue
                module: Any = subject.decoder.modules[index].get_submodule(consumer)
                cut = next(c for c in axis.cuts[index] if c.name == f"{consumer}.weight")
                rows = rows_of_units(cut.kind, matrix_of(module).shape[1], sizes, kept[index])
                mask = torch.zeros(matrix_of(module).shape[1]).index_fill_(0, rows, 1)
                mean = added.get(f"{subject.decoder.name}.{index}.{consumer}")
                for remove in _masking(module, mask, mean):
                    stack.callback(remove)
        expected = subject.last_states(ids)
    rebuild.check_result(fresh, ids, expected, "what is left doesn't compute the same")


def _masking(
    module: nn.Module, mask: torch.Tensor, mean: torch.Tensor | None
) -> Iterator[Callable[[], None]]:
    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * mask.to(args[0].device, args[0].dtype), *args[1:])

    def after(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
        return out if mean is None else out + _given(matrix_of(module), mean).to(out.dtype)

    yield module.register_forward_pre_hook(before).remove
    yield module.register_forward_hook(after).remove


FLAP = Reshaper(NAME, narrow, "matrices' weights", "only whole heads and steps of channels go", by_weights)
