"""ShortGPT: whole decoder blocks go, those that change the hidden states least (Men et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks, record_calls, run_block
from anomia.compress.calibration import Windows
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.rebuild import CannotExpressError, Plan
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.walk import BATCH_TOKENS, MemoryStates, enter

NAME = "shortgpt"
_LAYER_COUNTS = ("decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Numbers that count layers from the first on, and from the last on.
_FIRST = ("first_k_dense_replace", "num_dense_layers", "max_window_layers", "moe_layer_start_index")
_LAST = ("num_kv_shared_layers",)
_NOT_PER_LAYER = ("token", "section", "architectures", "rope_scaling", "id2label", "limit")
_INDEX = ("layer_idx", "layer_id", "layer_number", "layer_index")


def shortgpt(
    model: nn.Module,
    decoder: DecoderBlocks,
    share: float,
    windows: Windows | None,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ReshapeReport:
    """Remove the blocks with the lowest Block Influence in place, all at once (Men et al. 2024, Section 3).

    Args:
        share: of the blocks, rounded down; a whole number removes that many.
        windows: calibration tokens. The influence is taken on the dense model; padding never counts.

    Raises:
        CompressionError: no block or every block would go, the states are NaN or infinite, or the configuration
            can't describe the remaining blocks; nothing was changed.
    """
    windows = rebuild.check_request(model, decoder, windows, NAME)
    total = len(decoder.modules)
    count = rebuild.count_of(share, total, NAME, "blocks")
    influence = block_influence(model, decoder, windows, progress=progress, batch_tokens=batch_tokens)
    rebuild.finite(influence, NAME, "Block Influence")
    gone = sorted(influence.argsort(stable=True)[:count].tolist())
    return keep_blocks(
        model,
        decoder,
        [index for index in range(total) if index not in gone],
        windows,
        scores=[influence.tolist()],
    )


def keep_blocks(
    model: nn.Module,
    decoder: DecoderBlocks,
    kept: Sequence[int],
    windows: Windows,
    *,
    scores: Sequence[Sequence[float]] = (),
) -> ReshapeReport:
    """Keep only these blocks, in place, and compare the result with them run one after the other.

    Raises `CompressionError` where the configuration can't describe them; nothing was changed.
    """
    total = len(decoder.modules)
    gone = [index for index in range(total) if index not in kept]
    try:
        plan = depth_plan(model, decoder, kept)
        fresh = rebuild.build(model, plan)
        _check(model, decoder, fresh, kept, windows)
    except CannotExpressError as error:
        raise rebuild.refusal(NAME, model, f"without the blocks {_list(gone)}, {error}") from error
    return rebuild.finish(
        model,
        fresh,
        NAME,
        plan.changes,
        [f"{len(gone)} of {total} blocks: {_list(gone)}"],
        scores=scores,
        details={"removed_blocks": gone, "kept_blocks": list(kept)},
    )


@torch.no_grad()
def block_influence(
    model: nn.Module,
    decoder: DecoderBlocks,
    windows: Windows,
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> torch.Tensor:
    """1 − the mean cosine between what enters and what leaves each block, over all real tokens; [blocks] float64.

    Source: Men et al. (2024), Equation 1. A token whose state is zero counts as one that a block changes wholly.
    """
    found = []
    with rebuild.observing(model, decoder, windows, batch_tokens) as batches:
        states = MemoryStates()
        calls = enter(model, decoder, batches, states.keep)
        for index, block in enumerate(decoder.modules):
            total = torch.zeros((), dtype=torch.float64)
            tokens = 0
            for number, batch in enumerate(batches):
                before = states.read(number)
                after = run_block(block, before, calls[index][number])
                entered, left = rebuild.real_rows(before, batch), rebuild.real_rows(after, batch)
                cosine = nn.functional.cosine_similarity(entered.double(), left.double(), dim=-1)
                total += cosine.sum().cpu()
                tokens += len(cosine)
                states.write(number, after)
            calls[index] = []
            found.append(1 - total / tokens)
            if progress is not None:
                progress(index + 1, len(decoder.modules))
    return torch.stack(found)


def depth_plan(model: nn.Module, decoder: DecoderBlocks, kept: Sequence[int]) -> Plan:
    """The configuration and the tensors (references, no copies) of a model with these blocks only.

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
    state = _state(model, decoder, kept, rebuild.shapes(built))
    rebuild.check_shapes(state, built)
    return Plan(config, changes, state)


def _changes(model: nn.Module, decoder: DecoderBlocks, kept: Sequence[int]) -> dict[str, Any]:
    """Every field of the text configuration that depends on which blocks there are."""
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
        # A period can't describe what is left of it; the list of the others can.
        dense = [
            i
            for i in range(total)
            if (i + 1) % fields["decoder_sparse_step"] or i in fields["mlp_only_layers"]
        ]
        changes |= {"decoder_sparse_step": 1, "mlp_only_layers": [place[i] for i in dense if i in place]}
    return {field: value for field, value in changes.items() if fields.get(field) != value or field == name}


def _is_index_list(field: str, value: Sequence[Any], total: int) -> bool:
    """Whether a list names blocks by number (`mlp_only_layers`), and isn't a value for each (`no_rope_layers`)."""
    numbers = all(type(index) is int and 0 <= index < total for index in value)
    rising = numbers and list(value) == sorted(set(value))
    names = any(part in field for part in ("layers", "indices", "idx", "indexes"))
    return names and rising and (len(value) != total or list(value) == list(range(total)))


def _state(
    model: nn.Module, decoder: DecoderBlocks, kept: Sequence[int], wanted: dict[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    place = {str(old): str(new) for new, old in enumerate(kept)}
    prefix = f"{decoder.name}."
    state = {}
    for name, value in model.state_dict().items():
        if not name.startswith(prefix):
            state[name] = _cut(value, wanted.get(name), len(decoder.modules), kept)
            continue
        number, _, rest = name[len(prefix) :].partition(".")
        if number in place:
            state[f"{prefix}{place[number]}.{rest}"] = value
    return state


def _cut(
    value: torch.Tensor, wanted: tuple[int, ...] | None, total: int, kept: Sequence[int]
) -> torch.Tensor:
    """A tensor beside the blocks that holds a part for each of them (Gemma 3n's embeddings), without the others."""
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


def _check(
    model: nn.Module, decoder: DecoderBlocks, fresh: nn.Module, kept: Sequence[int], windows: Windows
) -> None:
    """Compare the built model with the kept blocks of the dense one, run one after the other."""
    ids = rebuild.check_batch(windows, model)
    with rebuild.evaluating(model), torch.no_grad():
        hidden, calls = record_calls(model, decoder, ids)
        for index in kept:
            hidden = run_block(decoder.modules[index], hidden, calls[index])
    rebuild.check_result(
        fresh, decoder.name, ids, hidden.float(), "the remaining blocks don't compute the same"
    )


def _list(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))
