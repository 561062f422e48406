"""FLAP: remove the attention heads and feed-forward channels whose activations fluctuate least (An et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.blocks import DecoderBlocks, all_matrices, find_fused_experts
from anomia.compress.calibration import Batch, Windows
from anomia.compress.options import BATCH_TOKENS
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.base import Reshaper
from anomia.compress.reshape.parts import Part, ReshapePlan, all_taken, given, outline, rows_of
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Loaded, Subject
from anomia.compress.visit import Pass
from anomia.errors import CompressionError, RefusedError

NAME = "flap"
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_GROUPS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_INNER = (
    "decoder_ffn_dim",
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "inner_dim",
    "d_ff",
)
_ATTENTION_BIAS = ("attention_bias", "attention_out_bias", "use_bias", "use_qkv_bias", "qkv_bias", "bias")
_FEED_FORWARD_BIAS = ("mlp_bias", "feed_forward_bias", "use_mlp_bias", "use_bias", "bias")
# Fused projections that hold all queries, then all keys, then all values; other projections interleave them by head.
_CONCATENATED = ("qkv_proj", "Wqkv", "c_attn", "qkv", "att_proj")


class Units(NamedTuple):
    """The prunable units of a block by kind: either their counts, or the indices of those that are kept."""

    heads: Any
    groups: Any
    channels: Any


class Cut(NamedTuple):
    """A tensor dimension of a block that gets shorter. kind: how the dimension is laid out in units, see `_rows`."""

    name: str
    dim: int
    kind: str


class Axis(NamedTuple):
    """The effects of removing heads or channels.

    changes: new values of configuration fields. cuts: by block, the dimensions that get shorter; empty for blocks
    without such units. consumers: by block, the layer that takes the units as inputs; `None` if the block has none.
    """

    changes: Mapping[str, Any]
    cuts: tuple[tuple[Cut, ...], ...]
    consumers: tuple[str | None, ...]


class Fluctuation(NamedTuple):
    """Statistics of a consumer's inputs over the real tokens, [in] float64. score: input variance · ‖W[:, in]‖²."""

    mean: torch.Tensor
    score: torch.Tensor


def flap(
    model: nn.Module,
    decoder: DecoderBlocks,
    share: float,
    windows: Windows | None,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ReshapeReport:
    """Remove heads and channels of a loaded model in place; see `narrow`."""
    return narrow(Loaded(model, decoder), share, windows, progress=progress, batch_tokens=batch_tokens)


def narrow(
    subject: Subject,
    share: float,
    windows: Windows | None,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ReshapeReport:
    """Remove the same number of heads and channels from every block, and add their mean outputs to a bias.

    This is the authors' structure UL-MM, in which all blocks keep the same width: it removes as many heads as the share
    covers, then channels for the rest. A channel's score is the variance of its input times the squared norm of its
    weights (WIFV, An et al. 2024, Section 3.2); a head's is the sum of its channels' squared scores, as in the authors'
    code. With grouped queries, either whole groups are removed or the same number of query heads from each group,
    whichever comes closer to the share. If the feed-forward width was a multiple of 8 to 128, it stays one, for the
    packed formats.

    Args:
        share: fraction of the weights of all matrices in the blocks.
        windows: calibration tokens; padding is ignored. The activations are the dense model's, as in the authors' code.

    Raises:
        CompressionError: the configuration can hold neither fewer heads nor fewer channels, the blocks are mixtures,
            or a statistic is NaN or infinite; nothing was changed.
    """
    windows = rebuild.check_request(subject, windows, NAME)
    model, decoder = subject.model, subject.decoder
    if not 0 < share < 1:
        raise CompressionError(
            f"{NAME}:{share:g} is not a share of the weights; give a number between 0 and 1"
        )
    if any(find_fused_experts(block, where=decoder.name) for block in decoder.modules):
        raise CompressionError(
            f"{NAME} can't narrow the experts of {type(model).__name__}; use dropexperts for them"
        )
    try:
        return _narrow(subject, share, windows, with_heads=True, progress=progress, batch_tokens=batch_tokens)
    except _HeadsError as error:
        why = f"attention heads stay: {error}"
        return _narrow(
            subject,
            share,
            windows,
            with_heads=False,
            why=why,
            progress=progress,
            batch_tokens=batch_tokens,
        )


class _HeadsError(Exception):
    """The configuration allows fewer heads, but the model doesn't compute the same with them."""


def _narrow(
    subject: Subject,
    share: float,
    windows: Windows,
    *,
    with_heads: bool,
    why: str = "",
    progress: Callable[[int, int], None] | None,
    batch_tokens: int,
) -> ReshapeReport:
    model, decoder = subject.model, subject.decoder
    notes = [why] if why else []
    heads, kept_heads, head_axis = (
        _find_heads(model, decoder, share, notes) if with_heads else ((1, 1), (1, 1), None)
    )
    inner, kept_channels, channel_axis = _find_channels(model, decoder, share, head_axis, notes)
    axes = [axis for axis in (head_axis, channel_axis) if axis is not None]
    if not axes:
        raise rebuild.refusal(
            NAME, model, "; ".join(notes) or f"a share of {share:g} is less than a head or a channel"
        )
    sizes = Units(*heads, inner)
    biases = _find_biases(model, head_axis, channel_axis, decoder, notes)
    found = _fluctuations(subject, axes, windows, progress=progress, batch_tokens=batch_tokens)
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
        _check(subject, fresh, axes, sizes, kept, added, windows)
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


# Find what the configuration allows, before any calibration.


def _find_heads(
    model: nn.Module, decoder: DecoderBlocks, share: float, notes: list[str]
) -> tuple[tuple[int, int], tuple[int, int], Axis | None]:
    """Choose how many heads and groups to keep: remove as many as the share covers.

    Returns (heads, groups) before and after, and the axis; None if all stay. Appends the reason to `notes`.
    """
    text = rebuild.text_config(model)
    name = rebuild.field_name(text, _HEADS, lambda value: isinstance(value, int))
    if name is None:
        notes.append("attention heads stay: the configuration has no number of them")
        return (1, 1), (1, 1), None
    heads = rebuild.field(text, name)
    group_name = rebuild.field_name(text, _GROUPS, lambda value: isinstance(value, int))
    groups = rebuild.field(text, group_name) if group_name else heads
    if groups < 1 or heads % groups:
        notes.append(f"attention heads stay: {heads} heads can't be divided into {groups} groups")
        return (heads, heads), (heads, heads), None
    each = heads // groups
    options = [((groups - r) * each, groups - r) for r in range(1, groups) if r <= groups * share + 1e-9]
    options += [(groups * (each - r), groups) for r in range(1, each) if r <= each * share + 1e-9]
    why = ""
    for option in sorted(options, key=lambda pair: (pair[0], pair[1])):
        changes: dict[str, Any] = {name: option[0]}
        if group_name:
            changes[group_name] = option[1]
        explicit = rebuild.field(text, "head_dim") or text.hidden_size // heads
        for extra in ({}, {"head_dim": explicit}):
            try:
                return (
                    (heads, groups),
                    option,
                    _axis(model, decoder, changes | extra, Units(heads, groups, 0), Units(*option, 0)),
                )
            except CannotExpressError as error:
                why = str(error)
    if options:
        notes.append(f"attention heads stay, the configuration can't hold fewer of the same size: {why}")
    else:
        notes.append(
            f"attention heads stay: a share of {share:g} covers none of {heads} heads in {groups} groups"
        )
    return (heads, groups), (heads, groups), None


def _find_channels(
    model: nn.Module, decoder: DecoderBlocks, share: float, head_axis: Axis | None, notes: list[str]
) -> tuple[int, int, Axis | None]:
    """Choose how many feed-forward channels to keep: remove the part of the share that the heads leave.

    Returns the number before and after, and the axis; None if all stay. Appends the reason to `notes`.
    """
    text = rebuild.text_config(model)
    why = "the configuration has no feed-forward width"
    stored = text.to_dict()
    for name in sorted(_INNER, key=lambda name: name not in stored):
        if name not in stored and rebuild.field(text, name) is None:
            continue
        inner = rebuild.field(text, name)
        blocks = len(inner) if isinstance(inner, list) and len(set(inner)) == 1 else 0
        inner = inner[0] if isinstance(inner, list) and blocks else inner
        inner = _width(decoder) if inner is None else inner
        if not isinstance(inner, int) or inner < 2:
            continue
        try:
            less = [inner - 1] * blocks or inner - 1
            axis = _axis(model, decoder, {name: less}, Units(0, 0, inner), Units(0, 0, inner - 1))
        except CannotExpressError as error:
            why = str(error)
            continue
        total = sum(
            m.weight.numel()
            for i, b in enumerate(decoder.modules)
            for m in all_matrices(b, f"{decoder.name}.{i}")
        )
        gone = share * total - (0 if head_axis is None else _lost(model, decoder, head_axis))
        channel = (
            sum(_numel(model, decoder, i, cut) for i, cuts in enumerate(axis.cuts) for cut in cuts) / inner
        )
        kept = inner - max(0, int(gone / channel + 1e-9))
        step = rebuild.granularity(inner)
        kept = -(-kept // step) * step if kept > 0 else kept
        if kept <= 0:
            raise CompressionError(
                f"{NAME}:{share:g} would leave no feed-forward channel of {type(model).__name__}; choose a smaller share"
            )
        if kept == inner:
            notes.append(f"feed-forward channels stay: the rest of the share is less than {step} of {inner}")
            return inner, inner, None
        return inner, kept, axis._replace(changes={name: [kept] * blocks or kept})
    notes.append(f"feed-forward channels stay: {why}")
    return 1, 1, None


def _width(decoder: DecoderBlocks) -> int | None:
    """Return the feed-forward width if the configuration leaves it open: the widest input of a block's matrices."""
    return max(matrix.weight.shape[1] for matrix in all_matrices(decoder.modules[0], decoder.name))


def _numel(model: nn.Module, decoder: DecoderBlocks, index: int, cut: Cut) -> int:
    value = decoder.modules[index].get_parameter(cut.name)
    return value.numel() if value.dim() == 2 else 0


def _lost(model: nn.Module, decoder: DecoderBlocks, axis: Axis) -> float:
    """Count the weights that are removed with the heads."""
    built = rebuild.skeleton(model, rebuild.changed_config(model, axis.changes))
    new = rebuild.shapes(built)
    old = rebuild.shapes(model)
    lost = 0
    for index, cuts in enumerate(axis.cuts):
        for cut in cuts:
            name = f"{decoder.name}.{index}.{cut.name}"
            if len(old[name]) == 2:
                lost += old[name][0] * old[name][1] - new[name][0] * new[name][1]
    return lost


def _axis(
    model: nn.Module, decoder: DecoderBlocks, changes: Mapping[str, Any], old: Units, new: Units
) -> Axis:
    """Find the dimensions that get shorter with these changes, by building the model without weights.

    Raises `CannotExpressError` if a tensor changes in a way that doesn't match the units, or if no block has the units.
    """
    built = rebuild.shapes(rebuild.skeleton(model, rebuild.changed_config(model, changes)))
    before = rebuild.shapes(model)
    if built.keys() != before.keys():
        raise CannotExpressError("other tensors would be built")
    cuts: list[list[Cut]] = [[] for _ in decoder.modules]
    for name, shape in before.items():
        if built[name] == shape:
            continue
        number, _, rest = name.removeprefix(f"{decoder.name}.").partition(".")
        if not name.startswith(f"{decoder.name}.") or not number.isdigit():
            raise CannotExpressError(
                f"{name} outside of the blocks would change from {shape} to {built[name]}"
            )
        cuts[int(number)].append(_cut(decoder.modules[int(number)], rest, shape, built[name], old, new))
    consumers: list[str | None] = []
    for index, mine in enumerate(cuts):
        found = [cut.name.rpartition(".")[0] for cut in mine if _is_input(decoder.modules[index], cut)]
        if len(found) != (1 if mine else 0):
            raise CannotExpressError(
                f"{decoder.name}.{index} has {len(found)} matrices that read what goes, not one"
            )
        consumers.append(found[0] if found else None)
    if not any(consumers):
        raise CannotExpressError(f"{', '.join(changes)} wouldn't change what the blocks hold")
    return Axis(dict(changes), tuple(map(tuple, cuts)), tuple(consumers))


def _cut(
    block: nn.Module, name: str, shape: tuple[int, ...], wanted: tuple[int, ...], old: Units, new: Units
) -> Cut:
    differ = [d for d in range(len(shape)) if len(wanted) == len(shape) and shape[d] != wanted[d]]
    if len(differ) != 1:
        raise CannotExpressError(f"{name} would change from {shape} to {wanted}")
    dim = differ[0]
    size, left = shape[dim], wanted[dim]
    owner = name.split(".")[-2] if "." in name else ""
    if "norm" in type(block.get_submodule(name.rpartition(".")[0])).__name__.lower() and len(shape) == 1:
        raise CannotExpressError(f"{name} normalizes over all of them")
    if old.channels:
        for kind, chunks in (("channels", 1), ("pairs of channels", 2)):
            if size == chunks * old.channels and left == chunks * new.channels:
                return Cut(name, dim, kind)
    else:
        parts, parts_left = old.heads + 2 * old.groups, new.heads + 2 * new.groups
        if owner in _CONCATENATED and size % parts == 0 and size * parts_left == left * parts:
            return Cut(name, dim, "queries, keys, values")
        for kind, units, units_left in (("heads", old.heads, new.heads), ("groups", old.groups, new.groups)):
            if size % units == 0 and size * units_left == left * units:
                return Cut(name, dim, kind)
        if size % parts == 0 and size * parts_left == left * parts:
            return Cut(name, dim, "queries, keys, values")
    raise CannotExpressError(
        f"{name} would change from {shape} to {wanted}, which is not a whole number of units"
    )


def _is_input(block: nn.Module, cut: Cut) -> bool:
    module = block.get_submodule(cut.name.rpartition(".")[0])
    if not cut.name.endswith("weight") or not isinstance(module, nn.Linear | Conv1D):
        return False
    return cut.dim == (0 if isinstance(module, Conv1D) else 1)


def _rows(kind: str, size: int, all_units: Units, kept: Units) -> torch.Tensor:
    """Return the indices to keep in a dimension of this size, [kept] int64. kind: as in `Cut`."""
    if kind == "queries, keys, values":
        width = size // (all_units.heads + 2 * all_units.groups)
        shift = all_units.heads
        units = [
            *kept.heads,
            *(shift + g for g in kept.groups),
            *(shift + all_units.groups + g for g in kept.groups),
        ]
    elif kind in ("heads", "groups"):
        width = size // getattr(all_units, kind)
        units = list(getattr(kept, kind))
    else:
        width = 1
        units = list(kept.channels)
        if kind == "pairs of channels":
            units += [all_units.channels + channel for channel in kept.channels]
    firsts = torch.tensor(units, dtype=torch.long) * width
    rows: torch.Tensor = (firsts[:, None] + torch.arange(width, dtype=torch.long)).flatten()
    return rows


def _find_biases(
    model: nn.Module, heads: Axis | None, channels: Axis | None, decoder: DecoderBlocks, notes: list[str]
) -> dict[str, Any]:
    """Return the configuration fields that give the consumers a bias, if the architecture has such fields."""
    text = rebuild.text_config(model)
    changes: dict[str, Any] = {}
    for axis, flags, what in (
        (heads, _ATTENTION_BIAS, "attention"),
        (channels, _FEED_FORWARD_BIAS, "feed-forward"),
    ):
        if axis is None:
            continue
        wanted = {f"{decoder.name}.{i}.{name}.bias" for i, name in enumerate(axis.consumers) if name}
        before = rebuild.shapes(model)
        if wanted <= before.keys():
            continue
        for flag in flags:
            if getattr(text, flag, None) is not False:
                continue
            try:
                built = rebuild.shapes(
                    rebuild.skeleton(model, rebuild.changed_config(model, changes | {flag: True}))
                )
            except CannotExpressError:
                continue
            new = built.keys() - before.keys()
            if (
                wanted <= built.keys()
                and before.keys() <= built.keys()
                and all(n.endswith("bias") for n in new)
            ):
                changes[flag] = True
                break
        else:
            notes.append(f"no bias compensation for {what}: {type(model).__name__} has no bias there")
    return changes


# Measure the fluctuations and build the smaller model.


def fluctuations(
    model: nn.Module,
    decoder: DecoderBlocks,
    axes: Sequence[Axis],
    windows: Windows,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[Fluctuation | None]]:
    """Compute the statistics of every consumer, by axis and block, in one walk over the dense model.

    Raises `CompressionError` if a statistic is NaN or infinite, or if there are fewer than two tokens.
    """
    return _fluctuations(Loaded(model, decoder), axes, windows, progress=progress, batch_tokens=batch_tokens)


def _fluctuations(
    subject: Subject,
    axes: Sequence[Axis],
    windows: Windows,
    *,
    progress: Callable[[int, int], None] | None,
    batch_tokens: int,
) -> list[list[Fluctuation | None]]:
    def look(index: int, block: nn.Module, passes: Iterator[Pass]) -> dict[str, torch.Tensor]:
        where = subject.decoder.path(index)
        moments = {name: _Moments() for axis in axes if (name := axis.consumers[index])}
        with _Reading(block, moments) as current:
            for one in passes:
                current.append(one.batch)
                rows = rebuild.real_rows(one.run(), one.batch)
                # A norm squares the states in float32: if that overflows, later states no longer describe this model.
                rebuild.finite(
                    torch.linalg.vecdot(rows, rows), NAME, f"squares of the states that leave {where}"
                )
        found = {n: m.finish(block.get_submodule(n), f"{where}.{n}") for n, m in moments.items()}
        return {f"{field} {n}": value for n, f in found.items() for field, value in f._asdict().items()}

    about = " ".join(sorted({name for axis in axes for name in axis.consumers if name}))
    measured = subject.measure(windows, look, about=about, batch_tokens=batch_tokens, progress=progress)
    return [
        [
            None if name is None else Fluctuation(one[f"mean {name}"], one[f"score {name}"])
            for name, one in zip(axis.consumers, measured, strict=True)
        ]
        for axis in axes
    ]


class _Moments:
    """Sums of a layer's inputs and of their squares over tokens, [in] float64. `add` takes [tokens, in]."""

    def __init__(self) -> None:
        self.tokens = 0
        self.sum = self.squares = torch.zeros(())

    def add(self, rows: torch.Tensor) -> None:
        values = rows.double()
        self.sum = self.sum + values.sum(dim=0).cpu()
        self.squares = self.squares + values.square().sum(dim=0).cpu()
        self.tokens += len(values)

    def finish(self, module: Any, where: str) -> Fluctuation:
        if self.tokens < 2:
            raise RefusedError(f"{NAME}: {where} saw {self.tokens} calibration tokens; give longer text")
        mean = self.sum / self.tokens
        variance = ((self.squares - self.tokens * mean.square()) / (self.tokens - 1)).clamp(min=0)
        weight = _matrix(module).double().cpu()
        score = variance * weight.square().sum(dim=0)
        rebuild.finite(self.squares.float(), NAME, where)
        return Fluctuation(mean, rebuild.finite(score, NAME, where))


def _matrix(module: Any) -> torch.Tensor:
    """Return a layer's weight as [out, in]."""
    weight: torch.Tensor = module.weight.data
    turned: torch.Tensor = weight.T
    return turned if isinstance(module, Conv1D) else weight


class _Reading(ExitStack):
    """Adds the inputs of some layers to their moments; yields a list to which the caller appends the current batch."""

    def __init__(self, block: nn.Module, moments: Mapping[str, _Moments]) -> None:
        super().__init__()
        self._batches: list[Batch] = []
        for name, mine in moments.items():

            def read(_: nn.Module, args: tuple[Any, ...], mine: _Moments = mine) -> None:
                mine.add(rebuild.real_rows(args[0], self._batches[-1]))

            self.callback(block.get_submodule(name).register_forward_pre_hook(read).remove)

    def __enter__(self) -> list[Batch]:  # type: ignore[override]
        return self._batches


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
            gone[_rows(cut.kind, len(gone), sizes, kept[index])] = False
            added[f"{decoder.name}.{index}.{consumer}"] = statistic.mean * gone
        for index, cuts in enumerate(axis.cuts):
            for cut in cuts:
                name = f"{decoder.name}.{index}.{cut.name}"
                rows = _rows(cut.kind, before[name][cut.dim], sizes, kept[index])
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


def _with_mean(name: str, bias: Part, mean: torch.Tensor, *, turned: bool) -> Part:
    """Return a consumer's bias [out] plus the mean output of its removed inputs. mean: [in], as in `_plan`."""

    def make(weight: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        old = bias.make(*values).to(weight.device)
        return (old.float() + _given(weight.T if turned else weight, mean)).to(old.dtype)

    return Part((f"{name}.weight", *bias.sources), make)


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
                rows = _rows(cut.kind, _matrix(module).shape[1], sizes, kept[index])
                mask = torch.zeros(_matrix(module).shape[1]).index_fill_(0, rows, 1)
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
        return out if mean is None else out + _given(_matrix(module), mean).to(out.dtype)

    yield module.register_forward_pre_hook(before).remove
    yield module.register_forward_hook(after).remove


FLAP = Reshaper(flap, narrow)
