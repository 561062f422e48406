"""Settings and tensors of a GGUF file, from its header alone: skips vocabularies and never reads weights."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gguf import GGMLQuantizationType
from transformers import modeling_gguf_pytorch_utils as gguf_utils

from anomia.errors import ModelError

# Sizes in bytes of the format's value types, by number; 8 is a string and 9 an array.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_FORMS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 20
_SHORT = 256


def read_gguf_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape (slowest dimension first) and type (`F32`, `Q4_K`, …) of every tensor, by name.

    Raises:
        ModelError: the file is damaged, or of a version before 2.
    """
    return _read(path)[1]


def read_gguf_settings(path: Path) -> dict[str, Any]:
    """Numbers and short strings by key, without the architecture prefix (`attention.scale`); arrays are left out.

    Raises:
        ModelError: the file is damaged, or of a version before 2.
    """
    settings, _ = _read(path)
    architecture = f"{settings.get('general.architecture', '')}."
    return {key.removeprefix(architecture): value for key, value in settings.items()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], str]]]:
    try:
        with path.open("rb") as file:
            magic, version, tensors, values = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or not 2 <= version <= 3 or max(tensors, values) > _MOST:
                raise ValueError(f"version {version}, {tensors} tensors")
            settings = {}
            for _ in range(values):
                key = file.read(_length(file)).decode("utf-8", "replace")
                settings[key] = _value(file, _number(file, "<I"))
            known = {key: value for key, value in settings.items() if value is not None}
            return known, dict(_tensor(file) for _ in range(tensors))
    except (OSError, ValueError, struct.error, KeyError) as error:
        raise ModelError(
            f"model: the head of the GGUF file {path} can't be read ({error}); download it again"
        ) from None


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """Inside the block, makes transformers read the settings of a GGUF file only once, not for every object.

    Each read takes ten seconds or more if the vocabulary is large.
    """
    read, found = gguf_utils.load_gguf_checkpoint, {}

    def remembered(path: str, return_tensors: bool = False, **options: Any) -> Any:
        if return_tensors:
            return read(path, return_tensors=True, **options)
        if path not in found:
            found[path] = read(path, **options)
        return copy.deepcopy(found[path])

    gguf_utils.load_gguf_checkpoint = remembered
    try:
        yield
    finally:
        gguf_utils.load_gguf_checkpoint = read


def _tensor(file: BinaryIO) -> tuple[str, tuple[tuple[int, ...], str]]:
    name = file.read(_number(file, "<Q")).decode("utf-8")
    count = _number(file, "<I")
    if count > 8:
        raise ValueError(f"{name!r} has {count} dimensions")
    shape = struct.unpack(f"<{count}Q", file.read(8 * count))
    kind = GGMLQuantizationType(_number(file, "<I")).name
    _skip(file, 8)
    return name, (tuple(reversed(shape)), kind)


def _value(file: BinaryIO, kind: int) -> Any:
    """Reads a number or a string; None for an array or a long string."""
    if kind in _FORMS:
        return struct.unpack(_FORMS[kind], file.read(_SIZES[kind]))[0]
    if kind != _STRING:
        _skip_value(file, kind)
        return None
    length = _length(file)
    if length > _SHORT:
        _skip(file, length)
        return None
    return file.read(length).decode("utf-8", "replace")


def _length(file: BinaryIO) -> int:
    length = _number(file, "<Q")
    if length > _MOST * 64:
        raise ValueError("a length is out of range")
    return length


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _skip(file, _number(file, "<Q"))
    elif kind == _ARRAY:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if inner in _SIZES:
            _skip(file, _SIZES[inner] * count)
        else:
            for _ in range(count):
                _skip_value(file, inner)
    else:
        _skip(file, _SIZES[kind])


def _skip(file: BinaryIO, count: int) -> None:
    if count > 1 << 40:
        raise ValueError("a length is out of range")
    file.seek(count, 1)


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])
