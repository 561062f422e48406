"""Compress an adapter: merge it into its base model first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anomia.errors import ModelError
from anomia.models.adapters import WEIGHTS, Adapter
from anomia.models.examine import Examined
from anomia.models.files import ADAPTER, ModelFiles

# Files other than weights that affect a model's output.
_SETTINGS = ("config.json", "tokenizer.json")


def examine_merged(adapter: Adapter, examine: Callable[[str], Examined]) -> Examined:
    """Examine an adapter's model without reading weights: it has the configuration and tensors of its base.

    Its files are those of both. They don't store the merged tensors, so no folder is given; the whole model is loaded.

    Args:
        adapter: one that can be merged; others were refused when it was found.
        examine: examines the base, which may be an adapter too.

    Raises:
        ModelError: the adapter names no base.
    """
    found = examine(base_of(adapter))
    files = [*files_of(found.files), adapter.folder / ADAPTER, adapter.folder / WEIGHTS]
    return found._replace(files=ModelFiles(str(adapter.folder), weights=tuple(files)), account=None)


def files_of(files: ModelFiles) -> list[Path]:
    """Return the files of a model: its weights, and the settings that affect its output."""
    if files.gguf:
        return [Path(files.source) / files.gguf]
    settings = [] if files.folder is None else [files.folder / name for name in _SETTINGS]
    return [*files.weights, *(file for file in settings if file.is_file())]


def base_of(adapter: Adapter) -> str:
    """Return the base model of an adapter.

    Raises:
        ModelError: the adapter names none.
    """
    if adapter.base:
        return adapter.base
    raise ModelError(
        f"model: {adapter.name!r} holds an adapter that names no base model, so it can't be merged; write "
        f"the base into base_model_name_or_path of {adapter.folder / ADAPTER}"
    )
