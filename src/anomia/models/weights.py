"""What a model's weight files hold and what of it the model takes, from the heads of the files alone."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import modeling_gguf_pytorch_utils as gguf_utils
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from anomia.errors import ModelError
from anomia.models.files import ModelFiles
from anomia.models.gguf_header import read_gguf_header
from anomia.models.headers import read_headers

Stored = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights as they are stored.

    tensors: shape and type by the model's own names, where it has a place for them, else as stored.
    dtypes: values by type. homeless: stored, and the model has no place for them. lacking: the model's, and not stored.
    misshapen: stored in another shape than the model's. identity: the same for the same bytes, where it is the same.
    bytes: of all files. unused: weight files next to them. hashed: whether `identity` is of the values themselves.
    """

    tensors: Mapping[str, Stored]
    dtypes: Mapping[str, int]
    homeless: tuple[str, ...]
    lacking: tuple[str, ...]
    misshapen: tuple[str, ...]
    identity: tuple[str, ...]
    bytes: int
    unused: tuple[str, ...] = ()
    hashed: bool = False


def describe_weights(files: ModelFiles, model: Any, *, hashed: bool = False) -> Weights | None:
    """The weights of a model as stored; None where its files are not on this machine.

    Args:
        files: where they are.
        model: without values, as `skeleton` makes it.
        hashed: also hash the files, which reads them whole.
    """
    if files.gguf:
        path = Path(files.source) / files.gguf
        stored, paths = read_gguf_header(path), [path]
        names = _gguf_names(model)
    elif not files.weights:
        return None
    else:
        stored = {name: (info.shape, info.dtype) for name, info in read_headers(files.weights).items()}
        paths = list(files.weights)
        names = _names(model, stored)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    placed = {name: names[name] for name in stored if names.get(name) in wanted}
    ignored = _ignored(model)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    filled = set(placed.values())
    # Of tensors that are merged into one while loading, no stored shape is the model's.
    single = {name for name, target in placed.items() if list(placed.values()).count(target) == 1}
    return Weights(
        tensors={placed.get(name, name) if name in single else name: info for name, info in stored.items()},
        dtypes=_amounts(stored),
        homeless=tuple(sorted(n for n in stored if n not in placed and not _matches(ignored, n))),
        lacking=tuple(sorted(set(wanted) - filled - tied)),
        misshapen=tuple(
            sorted(n for n in single if not files.gguf and n == placed[n] and stored[n][0] != wanted[n])
        ),
        identity=tuple(_sha256(path) if hashed else _place(path) for path in paths),
        bytes=sum(path.stat().st_size for path in paths),
        unused=files.unused,
        hashed=hashed,
    )


def describe_held(model: Any, name: str) -> Weights:
    """The weights of a model that this process holds. name: what it is held under, which ends in their fingerprint."""
    stored = {
        key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in model.state_dict().items()
    }
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    return Weights(stored, _amounts(stored), (), (), (), (name,), size)


def skeleton(name: str, config: Any, *, trust_remote_code: bool = False) -> Any:
    """The model of a configuration without values.

    Raises:
        ModelError: there is no such causal language model, or it can't be built of these settings.
    """
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    # Whatever the settings of a folder lead to: sizes that don't divide, unknown activations, missing values.
    except Exception as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"model: {name!r} can't be built from its config.json: {cause[0]}; compare it with the one that the model "
            "came with"
        ) from None


def _names(model: Any, stored: Mapping[str, Stored]) -> dict[str, str]:
    """The model's name of every stored tensor, by the rules that loading follows."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    wanted, prefix = model.state_dict(), model.base_model_prefix
    found = {}
    for name in stored:
        target, _ = rename_source_key(name, renamings, converters, prefix, wanted)
        if target not in wanted and name in wanted:
            target = name
        found[name] = target
    return found


def _gguf_names(model: Any) -> dict[str, str]:
    text = model.config.get_text_config()
    kind = {"gemma3_text": "gemma3", "gemma4_text": "gemma4"}.get(text.model_type, text.model_type)
    processor = gguf_utils.TENSOR_PROCESSORS.get(kind, gguf_utils.TensorProcessor)(config=text.to_dict())
    try:
        names: dict[str, str] = gguf_utils.get_gguf_hf_weights_map(model, processor)
    except NotImplementedError:
        return {}
    return names


def _ignored(model: Any) -> list[str]:
    """Patterns of stored tensors that are left out on purpose, as loading does."""
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        patterns.append(r"rotary_emb\.inv_freq")
    if any(name.endswith("position_ids") for name in buffers):
        patterns.append(r"(^|\.)position_ids$")
    return patterns


def _matches(patterns: list[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _amounts(stored: Mapping[str, Stored]) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for shape, kind in stored.values():
        amounts[kind] = amounts.get(kind, 0) + math.prod(shape)
    return dict(sorted(amounts.items(), key=lambda entry: -entry[1]))


def _place(path: Path) -> str:
    """The file itself: the same through links, another for a copy."""
    there = path.resolve().stat()
    return f"{there.st_dev}:{there.st_ino}:{there.st_size}:{there.st_mtime_ns}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
