"""The heads and feed-forward channels of a model whose number its configuration can reduce, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.matrices import all_matrices, block_weights
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.errors import RefusedError
from anomia.models.sizes import number

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
    """A tensor dimension of a block that gets shorter. kind: how it is laid out in units, see `rows_of_units`."""

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


def find_heads(
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
        explicit = number(text, "head_dim") or rebuild.width_of(model) // heads
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


def find_channels(
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
        gone = share * block_weights(decoder) - (0 if head_axis is None else _lost(model, decoder, head_axis))
        channel = (
            sum(_numel(model, decoder, i, cut) for i, cuts in enumerate(axis.cuts) for cut in cuts) / inner
        )
        kept = inner - max(0, int(gone / channel + 1e-9))
        step = rebuild.granularity(inner)
        kept = -(-kept // step) * step if kept > 0 else kept
        if kept <= 0:
            raise RefusedError(
                f"{NAME}:{share:g} would leave no feed-forward channel of {type(model).__name__}; choose a "
                "smaller share"
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


def rows_of_units(kind: str, size: int, all_units: Units, kept: Units) -> torch.Tensor:
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


def find_biases(
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
