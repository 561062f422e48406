"""Folders that contain an adapter (LoRA or another kind of peft) without the model that it changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomia.errors import ModelError
from anomia.models.files import ADAPTER, holds_adapter, read_settings
from anomia.models.headers import FLOATS, POINTER, StoredTensor, first_bytes, read_headers
from anomia.models.memory import given_name
from anomia.models.rewritten import rewritten

WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
LORA, TOKENS = "LORA", "TRAINABLE_TOKENS"
_INTEGERS = {"I64", "I32", "I16", "U8", "U16", "U32", "U64"}
# These put learned values before the prompt or between layers, or depend on the input: no weights are equivalent.
_UNMERGEABLE: Mapping[str, str] = {
    "PROMPT_TUNING": "prompt tuning learns tokens that are put before every prompt",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning learns tokens that are put before every prompt",
    "P_TUNING": "p-tuning learns tokens that are put before every prompt",
    "PREFIX_TUNING": "prefix tuning learns keys and values that are put before every prompt",
    "CPT": "context-aware prompt tuning learns tokens that are put before every prompt",
    "CARTRIDGE": "a cartridge is a cache of keys and values that is put before every prompt",
    "ADAPTION_PROMPT": "adaption prompts are attended to in every layer",
    "XLORA": "X-LoRA mixes adapters anew for every token",
    "POLY": "Poly chooses among adapters by the task",
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as stored.

    name: as given by the user. base: the model that its settings name as base, "" if none. kind: peft's name of the
    method, in capitals. settings: the content of `adapter_config.json`. identity: a hash of its tensors and settings.
    """

    name: str
    folder: Path
    base: str
    kind: str
    settings: Mapping[str, Any] = field(repr=False)
    stored: Mapping[str, StoredTensor] = field(repr=False)
    identity: str

    @property
    def label(self) -> str:
        """A short name for reports: the name of the folder, or the hub id."""
        return self.folder.resolve().name if Path(self.name).expanduser().is_dir() else self.name


def find_adapter(name: str, *, revision: str | None = None) -> Adapter | None:
    """Finds the adapter in a folder or a hub repository; None if it contains something else.

    A folder with `adapter_config.json` and without model weights is an adapter, whatever other files it has. A folder
    with both is left to loading, which refuses it.

    Raises:
        ModelError: the adapter can't be used: pickled, damaged, quantized, or of a kind that can't be merged.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        there = None if name.endswith(".gguf") else _on_the_hub(name, revision)
        if there is None:
            return None
        folder = there
    elif not holds_adapter(folder):
        return None
    settings = read_settings(folder / ADAPTER)
    kind = str(settings.get("peft_type") or "").upper()
    if not kind:
        raise ModelError(
            f"model: {folder / ADAPTER} has no peft_type, so the kind of adapter is unknown; save it again with "
            "peft's save_pretrained"
        )
    if kind in _UNMERGEABLE:
        raise ModelError(
            f"model: {name!r} is an adapter that can't be merged into weights: {_UNMERGEABLE[kind]}. Serve it and "
            "measure it as an endpoint: arm"
        )
    if settings.get("alora_invocation_tokens") is not None:
        raise ModelError(
            f"model: {name!r} is an adapter that can't be merged into weights: an activated LoRA "
            "(alora_invocation_tokens) changes only what follows its invocation tokens. Serve it and measure it as "
            "an endpoint: arm"
        )
    file = _weights(name, folder)
    stored = read_headers([file])
    if not stored:
        raise ModelError(f"model: {file} holds no tensors; save the adapter again")
    _check_types(name, kind, stored)
    base = str(settings.get("base_model_name_or_path") or "")
    return Adapter(name, folder, base, kind, settings, stored, _identity(file, settings))


def check_base(adapter: Adapter, given: str, config: Any) -> str:
    """A note if an adapter is put on a base other than the one it names; "" if the names match.

    A base whose weights were rewritten in another order or scale is always noted.

    Args:
        adapter: the adapter, which names its base.
        given: the base that it is put on.
        config: the configuration of that base, which may record where it came from.
    """
    moved = "" if _is_itself(adapter.base, given) else rewritten(Path(given).expanduser())
    if moved:
        return (
            f"the adapter was made for {adapter.base or 'a base that it does not name'}, and in {given} {moved}: its "
            "factors change other weights there than those that it was trained on, so what is measured is not the "
            "adapter; merge it into its own base and compress that"
        )
    if not adapter.base:
        return f"the adapter doesn't say which model it was made for; it is put on {given}"
    names = {given, given_name(given) or given, str(getattr(config, "_name_or_path", "") or given)}
    if any(_same(adapter.base, name) for name in names):
        return ""
    return (
        f"the adapter was made for {adapter.base} and is put on {given}; unless they are the same model, its losses "
        "are not due to the adapter alone"
    )


def _is_itself(base: str, given: str) -> bool:
    """Whether an adapter names the very folder that it is put on."""
    paths = [Path(name).expanduser() for name in (base, given)]
    return bool(base) and all(path.exists() for path in paths) and paths[0].resolve() == paths[1].resolve()


def own_base(adapter: Adapter) -> str:
    """The base that an adapter names, for an adapter that is given without one.

    Raises:
        ModelError: it names none.
    """
    if adapter.base:
        return adapter.base
    raise ModelError(
        f"model: {adapter.name!r} holds an adapter that names no base model (base_model_name_or_path in {ADAPTER} is "
        f"empty); give the base too: anomia run --base BASE --arm checkpoint:{adapter.name}"
    )


def _same(one: str, other: str) -> bool:
    """Whether two names mean the same model: the same path, or the same last part, as a hub id and its local copy."""
    if one == other:
        return True
    paths = [Path(name).expanduser() for name in (one, other)]
    if all(path.exists() for path in paths):
        return paths[0].resolve() == paths[1].resolve()
    last = [path.name.removesuffix(".gguf").lower() for path in paths]
    return last[0] == last[1] and bool(last[0])


def _weights(name: str, folder: Path) -> Path:
    file = folder / WEIGHTS
    if file.is_file():
        if first_bytes(file).startswith(POINTER):
            raise ModelError(
                f"model: {file} is a Git LFS pointer, not the file itself; run `git lfs pull` in {folder}"
            )
        return file
    if (folder / _PICKLE).is_file():
        raise ModelError(
            f"model: {name!r} holds an adapter as pickle only ({_PICKLE}), which can run code when loaded. Where you "
            "trust it, save it again with peft's save_pretrained(..., safe_serialization=True)"
        )
    raise ModelError(f"model: {name!r} has {ADAPTER} but no {WEIGHTS}; copy the adapter's weights too")


def _check_types(name: str, kind: str, stored: Mapping[str, StoredTensor]) -> None:
    """Refuses factors stored as integers or 8-bit floats, because adapters have no place for their scales."""
    for key, tensor in stored.items():
        # Other kinds may also store the indices of the matrix entries that they change.
        index = kind not in (LORA, TOKENS) and tensor.dtype in _INTEGERS and "indices" in key
        if tensor.dtype not in FLOATS and not index:
            raise ModelError(
                f"model: {name!r} is an adapter with {key} stored as {tensor.dtype}; taken as it is, it would be "
                "wrong by large factors. Save the adapter as bfloat16, float16 or float32, with its scales "
                "multiplied in if it was quantized"
            )


def _identity(file: Path, settings: Mapping[str, Any]) -> str:
    """A hash of tensors and settings that doesn't depend on their location."""
    digest = hashlib.sha256()
    # The name of the base doesn't affect what the adapter computes.
    kept = {
        key: value for key, value in settings.items() if key not in ("base_model_name_or_path", "revision")
    }
    digest.update(json.dumps(kept, sort_keys=True).encode())
    with file.open("rb") as content:
        digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _on_the_hub(name: str, revision: str | None) -> Path | None:
    """The cached folder of a hub repository that contains an adapter and no model configuration, else None."""
    from transformers.utils.hub import cached_file

    def get(file: str) -> str | None:
        try:
            found: str | None = cached_file(
                name, file, revision=revision, _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False,
            )  # fmt: skip
        # Loading reports why a name can't be looked up.
        except Exception:
            return None
        return found

    if get("config.json") is not None:
        return None
    settings = get(ADAPTER)
    if settings is None:
        return None
    get(WEIGHTS)
    return Path(settings).parent
