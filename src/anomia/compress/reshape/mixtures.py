"""The experts of a model, and the field of its configuration that holds their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.rebuild import CannotExpressError

_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_CHOSEN = (
    "num_experts_per_tok",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "num_selected_experts",
    "top_k_experts",
    "num_experts_per_token",
    "top_k",
)


class Mixtures(NamedTuple):
    """The experts of a model.

    field: the configuration field with their number. experts: their number per block. chosen: experts per token.
    groups: groups of the router, 1 if it has none. modules: by block, the path in the block; `None` for a dense block.
    """

    field: str
    experts: int
    chosen: int
    groups: int
    modules: tuple[str | None, ...]


def find_mixtures(model: nn.Module, decoder: DecoderBlocks) -> Mixtures:
    """Find the experts of every block, and the configuration field with their number.

    Raises `CannotExpressError` if there are none, or if blocks differ in their number.
    """
    modules: list[str | None] = []
    counts = set()
    for block in decoder.modules:
        found = [(name, count) for name, module in block.named_modules() if (count := _count(module))]
        if len(found) > 1:
            raise CannotExpressError(f"a block has several mixtures: {', '.join(name for name, _ in found)}")
        modules.append(found[0][0] if found else None)
        counts |= {count for _, count in found}
    if not counts:
        raise CannotExpressError("it has no mixture of experts that transformers declares as one")
    if len(counts) > 1:
        raise CannotExpressError(f"its blocks have different numbers of experts: {sorted(counts)}")
    (count,) = counts
    text = rebuild.text_config(model)
    fields = [
        *_COUNTS,
        *(n for n in text.to_dict() if "expert" in n and not any(c in n for c in ("tok", "top"))),
    ]
    named = [
        n for n in fields if rebuild.field(text, n) == count and _decides(model, decoder, modules, n, count)
    ]
    name = rebuild.field_name(text, named, lambda value: value == count)
    if name is None:
        raise CannotExpressError(f"no field of its configuration decides the number of its {count} experts")
    chosen = [rebuild.field(text, n) for n in _CHOSEN]
    groups = rebuild.field(text, "n_group") or rebuild.field(text, "num_expert_group") or 1
    return Mixtures(
        name, count, next((c for c in chosen if isinstance(c, int)), 1), int(groups), tuple(modules)
    )


def _count(module: nn.Module) -> int:
    """Count the experts that a module holds in three-dimensional parameters, [E, ., .]; 0 for other modules."""
    stacks = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    if not stacks or not isinstance(getattr(module, "is_transposed", None), bool):
        return 0
    return len(stacks[0]) if len({len(p) for p in stacks}) == 1 and len(stacks[0]) > 1 else 0


def _decides(
    model: nn.Module, decoder: DecoderBlocks, modules: Sequence[str | None], name: str, count: int
) -> bool:
    try:
        built = rebuild.skeleton(model, rebuild.changed_config(model, {name: count - 1}))
        return all(
            path is None or _count(built.get_submodule(f"{decoder.name}.{index}.{path}")) in (count - 1, 0)
            for index, path in enumerate(modules)
        ) and rebuild.shapes(built) != rebuild.shapes(model)
    except (CannotExpressError, AttributeError):
        return False


def check_routing(model: nn.Module, mixtures: Mixtures, kept: int) -> None:
    """Refuse fewer experts than the router chooses, and groups of unequal size."""
    if kept < mixtures.chosen:
        raise CannotExpressError(
            f"its router chooses {mixtures.chosen} experts per token, and {kept} would be left"
        )
    if mixtures.groups == 1:
        return
    if kept % mixtures.groups:
        raise CannotExpressError(
            f"its router chooses among {mixtures.groups} groups of equal size, into which {kept} experts "
            "can't be divided"
        )
    each = kept // mixtures.groups
    open_groups = int(rebuild.field(rebuild.text_config(model), "topk_group") or 1)
    if each < 2 or open_groups * each < mixtures.chosen:
        raise CannotExpressError(
            f"its router chooses {mixtures.chosen} experts from {open_groups} of {mixtures.groups} groups, "
            f"and {each} per group would be left"
        )


def find_cuts(model: nn.Module, decoder: DecoderBlocks, mixtures: Mixtures, kept: int) -> dict[str, int]:
    """Return the expert dimension of every tensor that has one, by name, by building the model without weights.

    Raises `CannotExpressError` if a tensor would change in another way.
    """
    built = rebuild.shapes(rebuild.skeleton(model, rebuild.changed_config(model, {mixtures.field: kept})))
    before = rebuild.shapes(model)
    if built.keys() != before.keys():
        raise CannotExpressError("other tensors would be built")
    found = {}
    for name, shape in before.items():
        if built[name] == shape:
            continue
        differ = [
            d for d in range(len(shape)) if len(shape) == len(built[name]) and shape[d] != built[name][d]
        ]
        if len(differ) != 1 or shape[differ[0]] - built[name][differ[0]] != mixtures.experts - kept:
            raise CannotExpressError(f"{name} would change from {shape} to {built[name]}")
        if not name.startswith(f"{decoder.name}."):
            raise CannotExpressError(f"{name} outside of the blocks has an entry per expert")
        found[name] = differ[0]
    for index, path in enumerate(mixtures.modules):
        where = f"{decoder.name}.{index}.{path}."
        if path is not None and not any(name.startswith(where) for name in found):
            raise CannotExpressError(f"{where[:-1]} would keep its {mixtures.experts} experts")
    return found
