"""Token embeddings and the output head rounded as GGUF files store them, and nothing else of the model.

A GGUF file damages a model in two places: the blocks, and these tables, which people store in more bits. With this
step alone the second part shows by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.methods.ggml import fitting, format_of, packed_bytes, round_trip
from anomia.compress.report import MatrixReport
from anomia.errors import CompressionError, RefusedError

# Of a table that is rounded at a time, so that progress can be told.
_ROWS = 1 << 14


class TokenTable(NamedTuple):
    """A weight with one row for each token. names: of its parameters, several where it is tied. weight: [V, width]."""

    names: tuple[str, ...]
    weight: torch.Tensor


@torch.no_grad()
def quantize_embeddings(
    model: nn.Module, kind: str, *, progress: Callable[[int, int], None] | None = None
) -> list[MatrixReport]:
    """Round every table of tokens in place to what a GGUF file of the format `kind` gives back.

    Those are the token embeddings, the output head, and tables beside them (Gemma 3n's embeddings for each layer).
    A tied weight is rounded once, and both names are reported. A scale that the model applies to embeddings (Gemma's
    √width) is no part of the weight, here as in a GGUF file. Where a k-quant doesn't divide the rows, the format that
    llama.cpp takes instead is used, and the report says so.

    Raises `CompressionError` before anything is changed for an unknown format, for a table that is quantized already,
    and for values that are NaN or infinite.
    """
    format_of(kind)
    tables = find_tables(model)
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
    """Refuses a table with values that are NaN or infinite."""
    if not bool(torch.isfinite(table.weight).all()):
        raise RefusedError(
            f"{table.names[0]} has values that are NaN or infinite, so it can't be rounded; the model is damaged, "
            "or needs a wider type (--dtype bfloat16 or float32)"
        )


@torch.no_grad()
def round_table(table: TokenTable, kind: str, count: Callable[[int], None]) -> None:
    """Round one table in place, some rows at a time; `count` gets the number of rows that were done."""
    stored = fitting(kind, table.weight.shape[1])
    for part in torch.split(table.weight, _ROWS):
        part.copy_(round_trip(part, stored, where=table.names[0]))
        count(len(part))


def report_table(table: TokenTable, kind: str) -> list[MatrixReport]:
    """What there is to say of a rounded table, under each of its names."""
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
    """The weights with one row for each token, shared ones once, in the order embeddings, others, head.

    Raises `CompressionError` where one isn't there as plain floating numbers.
    """
    found: dict[int, TokenTable] = {}
    for name, module in _token_modules(model).items():
        weight = module.weight
        if not weight.is_floating_point() or weight.dim() != 2 or type(weight.data) is not torch.Tensor:
            raise CompressionError(
                f"{name} is stored as {weight.dtype} ({type(weight).__name__}): a quantized table can't be rounded "
                "again; start from the dense checkpoint"
            )
        if weight.is_meta:
            raise CompressionError(f"{name} has no values on this machine; load the model on one device")
        before = found.get(weight.data_ptr())
        names = (*before.names, name) if before else (name,)
        found[weight.data_ptr()] = TokenTable(names, weight.data)
    return list(found.values())


def table_names(model: nn.Module) -> list[str]:
    """The names of the weights with one row for each token, of a model that may be without values: embeddings, others,
    head. One that is tied to another is named too."""
    return list(_token_modules(model))


def _token_modules(model: Any) -> dict[str, Any]:
    """By the name of its weight."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    others = [
        module for name, module in _other_embeddings(model) if _is_of_tokens(name, module, model.config)
    ]
    found = [module for module in (embeddings, *others, head) if module is not None]
    if not found or not all(isinstance(getattr(module, "weight", None), torch.Tensor) for module in found):
        raise CompressionError(f"{type(model).__name__} has no token embeddings that can be rounded")
    return {
        f"{next(name for name, each in model.named_modules() if each is module)}.weight": module
        for module in found
    }


def _other_embeddings(model: Any) -> list[tuple[str, nn.Embedding]]:
    """The embeddings of the text decoder besides the first, with their names."""
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
    """Whether rows are tokens: there are as many as the configuration has tokens, here or for each layer's inputs.

    Where there are as many positions, only the name tells.
    """
    text = config.get_text_config()
    counts = (text.vocab_size, getattr(text, "vocab_size_per_layer_input", None))
    return module.num_embeddings in counts and "pos" not in name and not name.endswith("wpe")


def notes(model: Any, kind: str) -> list[str]:
    """What a reader has to know of this step on this model, before or after it; its weights aren't read."""
    dtypes = [module.weight.dtype for module in _token_modules(model).values()]
    said = []
    if any(dtype != torch.float32 for dtype in dtypes):
        dtype = str(dtypes[0]).removeprefix("torch.")
        said.append(f"the rounded values are rounded once more to {dtype}, the type of this model's weights")
    if model.get_output_embeddings() is None:
        said.append("the model has no output head of its own; only embeddings are rounded")
    left = [
        name for name, module in _other_embeddings(model) if not _is_of_tokens(name, module, model.config)
    ]
    if left:
        said.append(f"not rounded, as in GGUF files: {', '.join(left)} (rows are not tokens)")
    return said


def saved_bytes(model: nn.Module, kind: str) -> int:
    """How many bytes less the tables take in the format `kind` than in the type that they are in now."""
    saved = 0
    for _, weight in find_tables(model):
        rows, columns = weight.shape
        saved += weight.nbytes - packed_bytes(rows, columns, kind)
    return saved
