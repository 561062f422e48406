"""Matrices that stay dense on request, such as those in which `anomia locate` found the damage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomia.errors import StudyError, nearest
from anomia.flags import names
from anomia.text_files import read_text

if TYPE_CHECKING:
    from torch import nn

# Attribute of a model and of its blocks: names of the matrices that stay dense.
_KEPT = "_anomia_kept"


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:
        # A long list of names is too long for the name of a file.
        return False


def read_kept(given: Path | str) -> tuple[str, ...]:
    """Read names of matrices: comma-separated, or from a file.

    The file has a JSON list, an object with a list `dense` (`anomia locate --keep`), or one name per line.

    Raises:
        DataError: the file can't be read.
        StudyError: there are no names in it.
    """
    file = Path(given)
    if not _is_file(file) and "/" not in str(given) and file.suffix not in (".json", ".txt"):
        return tuple(dict.fromkeys(names(str(given))))
    text = read_text(file, about="the matrices to keep dense")
    found: Any = text.split()
    if text.lstrip()[:1] in ("{", "["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise StudyError(f"dense: {file} is not valid JSON: {error}") from None
        found = found.get("dense") if isinstance(found, dict) else found
    if found == []:
        raise StudyError(
            f"dense: {file} lists no matrices, so there is nothing to keep dense (what `anomia locate` found may be "
            "norms or biases, which stay anyway); leave out --dense"
        )
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise StudyError(
            f"dense: {file} names no matrices; give a JSON list, the file of `anomia locate --keep`, or one "
            "name per line, such as model.layers.3.mlp.down_proj"
        )
    return tuple(dict.fromkeys(found))


def keep_dense(model: nn.Module, kept: Sequence[str]) -> None:
    """Note which matrices of a model stay dense, for `find_blocks`. kept: names of modules or stacked parameters."""
    model.__dict__[_KEPT] = frozenset(name.removesuffix(".weight") for name in kept)


def is_kept(model: nn.Module) -> bool:
    """Whether matrices of a model stay dense on request."""
    return bool(model.__dict__.get(_KEPT))


def mark_kept(model: nn.Module, path: str, block: nn.Module) -> None:
    """Note in a block which of its matrices stay dense. path: of the block in the model."""
    kept = model.__dict__.get(_KEPT, frozenset())
    block.__dict__[_KEPT] = {name.removeprefix(f"{path}.") for name in kept if name.startswith(f"{path}.")}


def kept_names(block: nn.Module) -> set[str]:
    """Return the names of a block's matrices that stay dense on request."""
    kept: set[str] = block.__dict__.get(_KEPT, set())
    return kept


def kept_storages(block: nn.Module) -> set[int]:
    """Return the addresses of the storages of a block's parameters that stay dense on request."""
    return {
        parameter.untyped_storage().data_ptr()
        for name, parameter in block.named_parameters(remove_duplicate=False)
        if name.removesuffix(".weight") in kept_names(block)
    }


def check_kept(model: nn.Module, matrices: Sequence[str]) -> list[str]:
    """Refuse names that match no matrix of the model.

    Returns the names outside the blocks, which steps on blocks don't touch.
    matrices: of the blocks, by name in the model, with those kept.
    """
    modules = dict(model.named_modules())
    outside = []
    for name in sorted(model.__dict__.get(_KEPT, ())):
        if name in matrices:
            continue
        inside = next((each for each in matrices if each.startswith(f"{name}.")), None)
        if inside is not None:
            raise StudyError(f"dense: {name} holds several matrices; name each, such as {inside}")
        if getattr(modules.get(name), "weight", None) is None:
            raise StudyError(f"dense: the model has no matrix {name!r}; {nearest(name, matrices)}")
        outside.append(name)
    return outside
