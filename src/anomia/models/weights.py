"""Describes a model's weight files, and which of their tensors the model uses, from the file headers alone."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from anomia.errors import ModelError
from anomia.models.after import is_unpacked_on_loading, rotary_note, with_gguf
from anomia.models.files import ModelFiles
from anomia.models.gguf_header import read_gguf_header
from anomia.models.gguf_rules import gguf_places, refuse_settings, unread_settings, written
from anomia.models.headers import StoredTensor, read_headers
from anomia.models.refuse import refuse
from anomia.models.tensors import NOTHING, SCALE, Account, account, skeleton
from anomia.words import innermost

Stored = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a model as stored.

    tensors: shape and dtype, by model name if the model has a place for the tensor, else by stored name.
    dtypes: number of values by dtype. homeless: stored tensors without a place in the model. lacking: tensors of the
    model that are not stored. misshapen: stored in another shape than the model's. identity: hashes or locations of
    the files; equal only for the same bytes. bytes: size of all files. unused: weight files that are not read.
    own_head: whether an output head is stored. refused: why loading refuses the weights. hashed: `identity` has hashes
    of the files. settings: settings of a GGUF file that the reader ignores and other programs use. ignored: stored
    tensors left out by a known rule. rotary: a note if stored rotary frequencies differ from the configuration's.
    """

    tensors: Mapping[str, Stored]
    dtypes: Mapping[str, int]
    homeless: tuple[str, ...]
    lacking: tuple[str, ...]
    misshapen: tuple[str, ...]
    identity: tuple[str, ...]
    bytes: int
    unused: tuple[str, ...] = ()
    own_head: bool = True
    refused: str = ""
    hashed: bool = False
    settings: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    rotary: str = ""


def describe_weights(
    name: str, files: ModelFiles, model: Any, *, own_code: bool = False, hashed: bool = False
) -> Weights | None:
    """Describes the stored weights of a model; None if its files are not on this machine.

    Args:
        name: the model's name as given by the user.
        files: its files.
        model: the model without values, from `build`.
        own_code: whether the model's code comes from its repository.
        hashed: also hash the files, which reads them completely.
    """
    if files.gguf:
        path = Path(files.source) / files.gguf
        return _of_gguf(path, model, hashed=hashed)
    if not files.weights:
        return None
    headers = read_headers(files.weights)
    found = account(model, headers)
    stored = {key: (info.shape, info.dtype) for key, info in headers.items()}
    named = {place: key for key, place in found.places.items()}
    # Quantized models get their places only while loading, and custom code has its own rules.
    known = not is_unpacked_on_loading(model.config) and not own_code
    return Weights(
        tensors={named.get(key, key): value for key, value in stored.items()},
        dtypes=_amounts(stored),
        homeless=tuple(sorted(found.surplus)) if known else (),
        lacking=found.missing if known else (),
        ignored=tuple(sorted(found.ignored)) if known else (),
        rotary=" ".join(rotary_note(model, headers)),
        misshapen=tuple(key for key, *_ in found.mismatched) if known else (),
        identity=_identity(files.weights, hashed=hashed),
        bytes=sum(path.stat().st_size for path in files.weights),
        unused=files.unused,
        own_head=_head(model) in found.places,
        refused=""
        if own_code
        else _refused(name, model, found if known else _unscaled(found, headers), headers),
        hashed=hashed,
    )


def _refused(name: str, model: Any, found: Account, headers: Mapping[str, StoredTensor]) -> str:
    """Why loading refuses a model's tensors; "" if it doesn't."""
    try:
        refuse(name, model, found, headers)
    except ModelError as error:
        return str(error)
    return ""


def _unscaled(found: Account, headers: Mapping[str, StoredTensor]) -> Account:
    """An account of only the tensors that no quantization method can use: 8-bit floats without a scale next to them.

    headers: by stored name.
    """
    order = sorted(headers)

    def scaled(name: str) -> bool:
        stem = name.removesuffix(".weight")
        near = (order[place] for place in range(bisect_left(order, stem), len(order)))
        return any(
            each != name and SCALE.search(each)
            for each in takewhile(lambda each: each.startswith(stem), near)
        )

    return NOTHING._replace(
        packed=tuple(
            name
            for name in found.packed
            if headers[name].dtype.startswith("F8") and name not in found.converted and not scaled(name)
        )
    )


def _of_gguf(path: Path, model: Any, *, hashed: bool) -> Weights:
    stored, names, wanted = read_gguf_header(path), gguf_places(model) or {}, set(model.state_dict())
    placed = {key: names[key] for key in stored if names.get(key) in wanted}
    return Weights(
        tensors={placed.get(key, key): value for key, value in stored.items()},
        dtypes=_amounts(stored),
        homeless=tuple(sorted(stored.keys() - placed.keys())),
        lacking=tuple(sorted(wanted - {*placed.values()} - {*getattr(model, "all_tied_weights_keys", {})})),
        misshapen=(),
        own_head=_head(model) in placed.values(),
        identity=_identity([path], hashed=hashed),
        bytes=path.stat().st_size,
        refused=_gguf_refused(path, model),
        hashed=hashed,
        settings=tuple(
            written(key, value) for key, value in sorted(unread_settings(path, model.config).others.items())
        ),
    )


def _gguf_refused(path: Path, model: Any) -> str:
    """Why loading refuses a GGUF file; "" if it doesn't."""
    try:
        refuse_settings(path.name, path, model.config)
        refuse(path.name, model, with_gguf(NOTHING, model, path), {})
    except ModelError as error:
        return str(error)
    return ""


def describe_held(model: Any, name: str) -> Weights:
    """Describes the weights of a model held in memory. name: its name, which ends in their fingerprint."""
    stored = {
        key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in model.state_dict().items()
    }
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    return Weights(stored, _amounts(stored), (), (), (), (name,), size)


def with_rows(weights: Weights, changed: Collection[str], before: int, rows: int) -> Weights:
    """The weights with another vocabulary size. changed: modules with the new rows. before: the old number of rows."""
    if rows == before:
        return weights
    tensors = {
        name: (
            (rows, *shape[1:]) if name.rpartition(".")[0] in changed and shape[0] == before else shape,
            kind,
        )
        for name, (shape, kind) in weights.tensors.items()
    }
    return replace(weights, tensors=tensors)


def build(name: str, config: Any, *, trust_remote_code: bool = False) -> Any:
    """Builds the model of a configuration without values.

    Raises:
        ModelError: it is not a causal language model, or can't be built from these settings.
    """
    try:
        return skeleton(config, trust_remote_code=trust_remote_code)
    # Settings can cause any error: sizes that don't divide, unknown activations, missing values.
    except Exception as error:
        first = innermost(error)
        cause = str(first).strip().splitlines() or [type(first).__name__]
        raise ModelError(
            f"model: {name!r} can't be built from its config.json: {cause[0]}; compare it with the one that the model "
            "came with"
        ) from None


def _head(model: Any) -> str | None:
    """The name of the output head's weight."""
    head = model.get_output_embeddings()
    names = (
        f"{name}.weight" for name, module in model.named_modules() if head is not None and module is head
    )
    return next(names, None)


def _amounts(stored: Mapping[str, Stored]) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for shape, kind in stored.values():
        amounts[kind] = amounts.get(kind, 0) + math.prod(shape)
    return dict(sorted(amounts.items(), key=lambda entry: -entry[1]))


def _identity(paths: Sequence[Path], *, hashed: bool) -> tuple[str, ...]:
    return tuple(_sha256(path) if hashed else _place(path) for path in paths)


def _place(path: Path) -> str:
    """Identifies the file itself: the same through links, different for a copy."""
    there = path.resolve().stat()
    return f"{there.st_dev}:{there.st_ino}:{there.st_size}:{there.st_mtime_ns}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
