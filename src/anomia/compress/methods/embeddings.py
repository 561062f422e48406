"""Round only the token embeddings and the output head, as GGUF files store them.

A GGUF file damages a model in two places: the blocks, and these tables, which are usually stored in more bits. This
step measures the second part separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.computed import check_own
from anomia.compress.methods.ggml import fitting, format_of, packed_bytes, round_trip
from anomia.compress.report import MatrixReport
from anomia.compress.shards import check_weights
from anomia.compress.shared import key_of, overlapping, places_of
from anomia.errors import RefusedError
from anomia.models.sizes import number

# Rows of a table rounded at a time, so that progress can be reported.
_ROWS = 1 << 14


class TokenTable(NamedTuple):
    """A weight with one row per token. names: of its parameters, several if it is tied. weight: [V, width]."""

    names: tuple[str, ...]
    weight: torch.Tensor


@torch.no_grad()
def quantize_embeddings(
    model: nn.Module, kind: str, *, progress: Callable[[int, int], None] | None = None
) -> list[MatrixReport]:
    """Round every token table in place to the values that a GGUF file of the format `kind` stores.

    These are the token embeddings, the output head, and other token tables (Gemma 3n's per-layer embeddings). A tied
    weight is rounded once, and both names are reported. A factor that the model applies to embeddings (Gemma's √width)
    isn't part of the weight, as in a GGUF file. If the blocks of a k-quant don't divide the rows, llama.cpp's
    replacement format is used and reported.

    Raises `CompressionError`, before anything is changed, for an unknown format, a quantized table, NaN or infinite
    values, and a table that something else in the model uses, too.
    """
    format_of(kind)
    tables = find_tables(model)
    _check_alone(model, tables)
    for table in tables:
        check_table(table)
    whole, done = sum(len(table.weight) for table in tables), 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, whole)

    reports = []
    for table in tables:
        round_table(table, kind, count)
        reports += report_table(table, kind)
    return reports


def check_table(table: TokenTable) -> None:
    """Refuse a table with NaN or infinite values."""
    check_weights({table.names[0]: table.weight})


def _check_alone(model: nn.Module, tables: Sequence[TokenTable]) -> None:
    """Refuse tables, [V, width] each, that share memory with other tensors of the model: those would be rounded too.

    Tensors that the architecture ties are other names of the table.
    """
    places = places_of(model)
    partly = overlapping(places)
    tied = getattr(model, "all_tied_weights_keys", {})
    names = {*(name for table in tables for name in table.names), *tied, *tied.values()}
    for table in tables:
        key = key_of(table.weight)
        same = (place.path for place in places if key_of(place.tensor) == key)
        for other in (*same, *partly.get(key, ())):
            if other not in names:
                raise RefusedError(
                    f"{table.names[0]} and {other} are the same weights in memory, so both would be "
                    "rounded; give one of them a copy of its own"
                )


@torch.no_grad()
def round_table(table: TokenTable, kind: str, count: Callable[[int], None]) -> None:
    """Round one table in place, some rows at a time; `count` is called with the number of rows done."""
    stored = fitting(kind, table.weight.shape[1])
    for part in torch.split(table.weight, _ROWS):
        part.copy_(round_trip(part, stored, where=table.names[0]))
        count(len(part))


def report_table(table: TokenTable, kind: str) -> list[MatrixReport]:
    """Return one report for each name of a rounded table."""
    rows, width = (int(size) for size in table.weight.shape)
    stored = fitting(kind, width)
    zeros = sum(int((part == 0).sum()) for part in torch.split(table.weight, _ROWS))
    reports = []
    for name in table.names:
        note = ""
        if name != table.names[0]:
            note = f"the same weight as {table.names[0]}, rounded once"
        elif stored != kind:
            note = f"stored as {stored}, as llama.cpp does where {kind} can't divide a row of {width}"
        reports.append(MatrixReport(name, (rows, width), zeros, note=note))
    return reports


def find_tables(model: nn.Module) -> list[TokenTable]:
    """Return the weights with one row per token, [V, width], in the order embeddings, others, head; shared ones once.

    Raises `CompressionError` if one isn't loaded, or isn't a plain floating-point tensor.
    """
    found: dict[int, TokenTable] = {}
    for name, module in _token_modules(model).items():
        check_own(module, "weight", where=name.removesuffix(".weight"))
        weight = module.weight
        if not weight.is_floating_point() or weight.dim() != 2 or type(weight.data) is not torch.Tensor:
            raise RefusedError(
                f"{name} is stored as {weight.dtype} ({type(weight).__name__}): a quantized table can't be rounded "
                "again; start from the dense checkpoint"
            )
        if weight.is_meta:
            raise RefusedError(f"{name} has no values on this machine; load the model on one device")
        before = found.get(weight.data_ptr())
        names = (*before.names, name) if before else (name,)
        found[weight.data_ptr()] = TokenTable(names, weight.data)
    return list(found.values())


def table_names(model: nn.Module) -> list[str]:
    """Return the names of the weights with one row per token, in the order embeddings, others, head.

    Tied weights are listed under both names. The model may be without values.
    """
    return list(_token_modules(model))


def _token_modules(model: Any) -> dict[str, Any]:
    """Return the modules with one row per token, by the name of their weight."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    others = [
        module for name, module in _other_embeddings(model) if _is_of_tokens(name, module, model.config)
    ]
    found = [module for module in (embeddings, *others, head) if module is not None]
    if not found or not all(isinstance(getattr(module, "weight", None), torch.Tensor) for module in found):
        raise RefusedError(f"{type(model).__name__} has no token embeddings that can be rounded")
    return {
        f"{next(name for name, each in model.named_modules() if each is module)}.weight": module
        for module in found
    }


def _other_embeddings(model: Any) -> list[tuple[str, nn.Embedding]]:
    """Return the text decoder's embeddings other than input embeddings and head, with their names."""
    decoder = model.get_decoder() if callable(getattr(model, "get_decoder", None)) else None
    root = decoder if isinstance(decoder, nn.Module) else model
    inside = {id(module) for module in root.modules()}
    used = (model.get_input_embeddings(), model.get_output_embeddings())
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and id(module) in inside and module not in used
    ]


def _is_of_tokens(name: str, module: nn.Embedding, config: Any) -> bool:
    """Whether rows are tokens: their number is the vocabulary size of the model or of its per-layer inputs.

    Position embeddings of the same size are excluded by name.
    """
    counts = (number(config, "vocab_size"), number(config, "vocab_size_per_layer_input"))
    return module.num_embeddings in counts and "pos" not in name and not name.endswith("wpe")


def notes(model: Any, kind: str) -> list[str]:
    """Return notes for the report about this step on this model; the weights aren't read."""
    dtypes = [module.weight.dtype for module in _token_modules(model).values()]
    remarks = []
    if any(dtype != torch.float32 for dtype in dtypes):
        dtype = str(dtypes[0]).removeprefix("torch.")
        remarks.append(
            f"the rounded values are rounded once more to {dtype}, the type of this model's weights"
        )
    if model.get_output_embeddings() is None:
        remarks.append("the model has no output head of its own; only embeddings are rounded")
    left = [
        name for name, module in _other_embeddings(model) if not _is_of_tokens(name, module, model.config)
    ]
    if left:
        remarks.append(f"not rounded, as in GGUF files: {', '.join(left)} (rows are not tokens)")
    return remarks


def saved_bytes(model: nn.Module, kind: str) -> int:
    """Return how many bytes the tables save in the format `kind`, compared with their current type."""
    saved = 0
    for _, weight in find_tables(model):
        rows, columns = weight.shape
        saved += weight.nbytes - packed_bytes(rows, columns, kind)
    return saved
