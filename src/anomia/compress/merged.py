"""An adapter as the model that is compressed: the base that it names, with it merged in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anomia.errors import ModelError
from anomia.models.adapters import WEIGHTS, Adapter
from anomia.models.examine import Examined
from anomia.models.files import ADAPTER, ModelFiles

# What a model computes with besides its weights.
_SETTINGS = ("config.json", "tokenizer.json")


def examine_merged(adapter: Adapter, examine: Callable[[str], Examined]) -> Examined:
    """What is known of an adapter's model before its weights are read: the configuration and tensors of its base.

    Its files are those of both. None holds a tensor as the model has it, so no folder is given: the whole model is loaded.

    Args:
        adapter: kinds that can't be merged were refused when it was found.
        examine: looks at the base, which may be an adapter too.

    Raises:
        ModelError: it names no base.
    """
    found = examine(base_of(adapter))
    files = [*files_of(found.files), adapter.folder / ADAPTER, adapter.folder / WEIGHTS]
    return found._replace(files=ModelFiles(str(adapter.folder), weights=tuple(files)), account=None)


def files_of(files: ModelFiles) -> list[Path]:
    """What a model is read from: its weights, and the settings that it computes with."""
    if files.gguf:
        return [Path(files.source) / files.gguf]
    settings = [] if files.folder is None else [files.folder / name for name in _SETTINGS]
    return [*files.weights, *(file for file in settings if file.is_file())]


def base_of(adapter: Adapter) -> str:
    """The base that an adapter names.

    Raises:
        ModelError: it names none.
    """
    if adapter.base:
        return adapter.base
    raise ModelError(
        f"model: {adapter.name!r} holds an adapter that names no base model, so it can't be merged; write the base into "
        f"base_model_name_or_path of {adapter.folder / ADAPTER}"
    )
