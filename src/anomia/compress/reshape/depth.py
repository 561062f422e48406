"""ShortGPT: remove the decoder blocks that change the hidden states least (Men et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Windows
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.base import Reshaper, Walk, by_blocks
from anomia.compress.reshape.parts import ReshapePlan, TensorRecipe, outline, taken
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Subject
from anomia.compress.visit import AtBlock

NAME = "shortgpt"
_LAYER_COUNTS = ("decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Fields that count layers from the first, and from the last.
_FIRST = ("first_k_dense_replace", "num_dense_layers", "max_window_layers", "moe_layer_start_index")
_LAST = ("num_kv_shared_layers",)
_NOT_PER_LAYER = ("token", "section", "architectures", "rope_scaling", "id2label", "limit")
_INDEX = ("layer_idx", "layer_id", "layer_number", "layer_index")


def remove_blocks(subject: Subject, share: float, walk: Walk) -> ReshapeReport:
    """Remove the blocks with the lowest Block Influence, all at once (Men et al. 2024, Section 3).

    share: fraction of the blocks, rounded down; a whole number removes that many.

    Raises `CompressionError` if no block or every block would be removed, the states are NaN or infinite, or the
    configuration can't describe the remaining blocks; nothing was changed.
    """
    total = len(subject.decoder.modules)
    count = rebuild.count_of(share, total, NAME, "blocks")
    influence = block_influence(subject, walk)
    rebuild.finite(influence, NAME, "Block Influence")
    gone = sorted(influence.argsort(stable=True)[:count].tolist())
    kept = [index for index in range(total) if index not in gone]
    return keep_blocks(subject, kept, walk.windows, scores=[influence.tolist()])


def keep_blocks(
    subject: Subject, kept: Sequence[int], windows: Windows, *, scores: Sequence[Sequence[float]] = ()
) -> ReshapeReport:
    """Keep only these blocks of a model, in place; compares the result with a run of these blocks in order.

    Raises `CompressionError` if the configuration can't describe them; nothing was changed then.
    """
    total = len(subject.decoder.modules)
    gone = [index for index in range(total) if index not in kept]
    try:
        plan = depth_plan(subject.model, subject.decoder, kept)
        fresh = subject.build(plan)
        _check(subject, fresh, kept, windows)
    except CannotExpressError as error:
        raise rebuild.refusal(NAME, subject.model, f"without the blocks {_list(gone)}, {error}") from error
    return rebuild.finish(
        subject,
        fresh,
        NAME,
        plan.changes,
        [f"{len(gone)} of {total} blocks: {_list(gone)}"],
        scores=scores,
        details={"removed_blocks": gone, "kept_blocks": list(kept)},
    )


def block_influence(subject: Subject, walk: Walk) -> torch.Tensor:
    """Return 1 − the mean cosine between the input and output of each block over all real tokens; [blocks] float64.

    Source: Men et al. (2024), Equation 1. A token with a zero state has the cosine 0.
    """

    def look(at: AtBlock) -> dict[str, torch.Tensor]:
        total = torch.zeros((), dtype=torch.float64)
        tokens = 0
        for one in at.passes():
            entered, left = (rebuild.real_rows(states, one.batch) for states in (one.entered, one.run()))
            cosine = nn.functional.cosine_similarity(entered.double(), left.double(), dim=-1)
            total += cosine.sum().cpu()
            tokens += len(cosine)
        return {"influence": 1 - total / tokens}

    found = subject.measure(walk, look, about="Block Influence")
    return torch.stack([one["influence"] for one in found])


def depth_plan(model: nn.Module, decoder: DecoderBlocks, kept: Sequence[int]) -> ReshapePlan:
    """Plan a model with only these blocks: its configuration, and its tensors from the old model.

    Raises `CannotExpressError`.
    """
    changes = _changes(model, decoder, kept)
    config = rebuild.changed_config(model, changes)
    built = rebuild.skeleton(model, config)
    new = rebuild.blocks_of(built, decoder.name)
    if len(new) != len(kept):
        raise CannotExpressError(f"{len(new)} blocks {decoder.name} would be built")
    for index, old in enumerate(kept):
        where = f"{decoder.name}.{old}"
        rebuild.check_same_modules(decoder.modules[old], new[index], where, lambda name: name in _INDEX)
    parts = _parts(model, decoder, kept, rebuild.shapes(built))
    rebuild.check_shapes(outline(parts, model), built)
    return ReshapePlan(config, changes, parts)


def _changes(model: nn.Module, decoder: DecoderBlocks, kept: Sequence[int]) -> dict[str, Any]:
    """Return the new values of all text configuration fields that depend on the blocks."""
    text = rebuild.text_config(model)
    total = len(decoder.modules)
    fields = text.to_dict()
    name = rebuild.field_name(text, _LAYER_COUNTS, lambda value: value == total)
    if name is None:
        raise CannotExpressError(f"no field of its configuration holds the number of its {total} blocks")
    changes: dict[str, Any] = {name: len(kept)}
    place = {old: new for new, old in enumerate(kept)}
    for field, value in fields.items():
        if isinstance(value, list | tuple) and not any(part in field for part in _NOT_PER_LAYER):
            if _is_index_list(field, value, total):
                changes[field] = [place[index] for index in value if index in place]
            elif len(value) == total:
                changes[field] = [value[index] for index in kept]
        elif (
            isinstance(value, dict)
            and value
            and all(str(key).isdigit() for key in value)
            and "layer" in field
        ):
            changes[field] = {place[int(key)]: each for key, each in value.items() if int(key) in place}
        elif field in _FIRST and isinstance(value, int) and value < total:
            changes[field] = sum(index < value for index in kept)
        elif field in _LAST and isinstance(value, int) and value:
            changes[field] = sum(index >= total - value for index in kept)
    if fields.get("decoder_sparse_step", 1) != 1 and isinstance(fields.get("mlp_only_layers"), list):
        # The remaining blocks are no longer periodic; list the dense ones instead.
        dense = [
            i
            for i in range(total)
            if (i + 1) % fields["decoder_sparse_step"] or i in fields["mlp_only_layers"]
        ]
        changes |= {"decoder_sparse_step": 1, "mlp_only_layers": [place[i] for i in dense if i in place]}
    return {field: value for field, value in changes.items() if fields.get(field) != value or field == name}


def _is_index_list(field: str, value: Sequence[Any], total: int) -> bool:
    """Whether a list has block numbers (`mlp_only_layers`), not one value per block (`no_rope_layers`)."""
    numbers = all(type(index) is int and 0 <= index < total for index in value)
    rising = numbers and list(value) == sorted(set(value))
    names = any(part in field for part in ("layers", "indices", "idx", "indexes"))
    return names and rising and (len(value) != total or list(value) == list(range(total)))


def _parts(
    model: nn.Module, decoder: DecoderBlocks, kept: Sequence[int], wanted: dict[str, tuple[int, ...]]
) -> dict[str, TensorRecipe]:
    place = {str(old): str(new) for new, old in enumerate(kept)}
    prefix = f"{decoder.name}."
    parts = {}
    for name in model.state_dict():
        if not name.startswith(prefix):
            cut = partial(_cut, wanted=wanted.get(name), total=len(decoder.modules), kept=kept)
            parts[name] = taken(name).then(cut)
            continue
        number, _, rest = name[len(prefix) :].partition(".")
        if number in place:
            parts[f"{prefix}{place[number]}.{rest}"] = taken(name)
    return parts


def _cut(
    value: torch.Tensor, wanted: tuple[int, ...] | None, total: int, kept: Sequence[int]
) -> torch.Tensor:
    """Cut a tensor outside of the blocks that has a slice per block (Gemma 3n's embeddings) to the kept blocks.

    value: [..., total · width, ...]. wanted: its new shape, [..., kept · width, ...], where one dimension differs.
    """
    if wanted is None or tuple(value.shape) == wanted or value.dim() != len(wanted):
        return value
    differ = [d for d in range(value.dim()) if value.shape[d] != wanted[d]]
    if len(differ) != 1 or value.shape[differ[0]] % total:
        return value
    dim = differ[0]
    width = value.shape[dim] // total
    if width * len(kept) != wanted[dim]:
        return value
    rows = torch.cat([torch.arange(index * width, (index + 1) * width) for index in kept])
    return value.index_select(dim, rows.to(value.device))


def _check(subject: Subject, fresh: Subject, kept: Sequence[int], windows: Windows) -> None:
    """Compare the built model with the kept blocks of the dense model, run one after the other."""
    ids = rebuild.check_batch(windows, subject.device)
    expected = subject.last_states(ids, kept)
    rebuild.check_result(fresh, ids, expected, "the remaining blocks don't compute the same")


def _list(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))


SHORTGPT = Reshaper(NAME, remove_blocks, "blocks", "only whole blocks go", by_blocks)
