"""Checks of a model before its weights are read, shared by everything that loads models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import transformers

from anomia.errors import AnomiaError, ModelError
from anomia.models.after import unquantized_note
from anomia.models.explain import TOKENIZER_FILES, explain
from anomia.models.files import ModelFiles, find_files
from anomia.models.headers import StoredTensor, read_headers
from anomia.models.refuse import refuse
from anomia.models.tensors import Account, account, ignored_notes, skeleton
from anomia.models.tokenization import tells_nothing


class Examined(NamedTuple):
    """A model before its weights are read.

    stored: headers of its safetensors tensors, by name. skeleton, account: the model without values, and how the
    tensors correspond to it; None if only loading can tell (GGUF, quantized weights, custom code). notes: notes for
    the reader.
    """

    files: ModelFiles
    config: Any
    stored: Mapping[str, StoredTensor]
    skeleton: Any | None
    account: Account | None
    notes: tuple[str, ...]


def examine(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Examined:
    """Examines a model's files, configuration and tensors, and refuses models that would be loaded wrongly.

    Args:
        name: a hub id, a folder or a GGUF file.
        revision: the revision of a hub repository.
        trust_remote_code: whether code from the repository may run.

    Raises:
        ModelError: it is missing, damaged, or doesn't match its configuration.
    """
    files = look_up(name, revision=revision)
    config = read_config(name, files, revision=revision, trust_remote_code=trust_remote_code)
    notes: tuple[str, ...] = ()
    if files.unused:
        notes = (f"weight files in the folder that are not loaded: {', '.join(files.unused)}",)
    stored = read_headers(files.weights)
    notes += unquantized_note(config, stored)
    if (
        not stored
        or getattr(config, "quantization_config", None) is not None
        or own_code(config, trust_remote_code)
    ):
        return Examined(files, config, stored, None, None, notes)
    try:
        model = skeleton(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(explain(name, error, part="config.json", folder=files.folder)) from None
    found = account(model, stored)
    refuse(name, model, found, stored)
    return Examined(files, config, stored, model, found, notes + ignored_notes(found.ignored))


def look_up(name: str, *, revision: str | None = None, weights: bool = True) -> ModelFiles:
    """Finds the files of a model, with errors of the hub's client turned into one message.

    Args:
        name: a hub id, a folder or a GGUF file.
        revision: the revision of a hub repository.
        weights: whether weights on the hub are needed.

    Raises:
        ModelError: there is no such model.
    """
    try:
        return find_files(name, revision=revision, weights=weights)
    except AnomiaError:
        raise
    except Exception as error:
        raise ModelError(explain(name, error)) from None


def read_config(
    name: str, files: ModelFiles, *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """Reads a model's configuration, without prompting whether its code may run.

    Raises:
        ModelError: it can't be read, or needs code that may not run.
    """
    options = options_of(files, revision=revision, trust_remote_code=trust_remote_code)
    try:
        return transformers.AutoConfig.from_pretrained(files.source, **options)
    except Exception as error:
        raise ModelError(explain(name, error, part="config.json", folder=files.folder)) from None


def read_tokenizer(
    name: str,
    files: ModelFiles,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    config: Any = None,
) -> Any:
    """Reads a model's tokenizer. config: the model's configuration if it isn't in the same folder.

    Raises:
        ModelError: it can't be read, or has no vocabulary.
    """
    options = options_of(files, revision=revision, trust_remote_code=trust_remote_code)
    if config is not None:
        options["config"] = config
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(files.source, **options)
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        empty = not (tokenizer.get_vocab().keys() - special)
        few = empty or tells_nothing(tokenizer)
    except Exception as error:
        raise ModelError(explain(name, error, part="tokenizer", folder=files.folder)) from None
    # Without files, some classes create a tokenizer that has only special tokens.
    if empty:
        raise ModelError(
            f"model: {name!r} can't be loaded: it has no tokenizer files with a vocabulary ({TOKENIZER_FILES[0]},"
            f" {TOKENIZER_FILES[1]}, …); copy base's tokenizer files into its folder"
        )
    if few:
        raise ModelError(
            f"model: {name!r} can't be used: its tokenizer gives {few} for every text, so texts can't be told apart; "
            "copy the tokenizer files that the model was trained with into its folder"
        )
    return tokenizer


def options_of(files: ModelFiles, *, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """The options for every `from_pretrained`. Without `trust_remote_code` it may prompt on standard input."""
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": bool(trust_remote_code)}
    if files.gguf:
        options["gguf_file"] = files.gguf
    return options


def own_code(config: Any, trusted: bool) -> bool:
    """Whether the model class, and so its tensor names, come from the repository's own code."""
    return trusted and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
