"""Study files with lists: several bases, data sets and seeds, and entries that expand to several arms.

    base: [Qwen/Qwen3-4B, {mistralai/Mistral-7B-Instruct-v0.3: {chat: true}}]
    arms:
      - magnitude:0.5
      - wanda: {sparsity: [0.3, 0.5], calibration: [c4, balanced]}
    data: [tydiqa, xquad]
    languages: {tydiqa: [english, swahili], xquad: [english, thai]}
    seed: [42, 43]

Every combination of base, data set and seed is a cell: an ordinary study with all the arms.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from anomia import renamed
from anomia.compress.spec import as_packaged
from anomia.errors import RunError, StudyError, nearest
from anomia.faults import faults_of, in_one_message
from anomia.files import read_yaml, write_text
from anomia.study import WRITTEN, Study, read_settings

OF_A_BASE = ("chat", "revision", "dtype", "batch_size", "trust_remote_code", "engine")
"""Settings that can differ between bases."""
_AMOUNTS = ("sparsity", "pattern", "bits", "share", "type")
_ESCAPES = str.maketrans({"%": "%25", "+": "%2B", ",": "%2C"})


class StudyCell(NamedTuple):
    """One study of a matrix. name: of its folder."""

    name: str
    study: Study


class Matrix(NamedTuple):
    """The studies of a file. single: whether it has one base, data set and seed, without lists."""

    cells: tuple[StudyCell, ...]
    single: bool

    @property
    def studies(self) -> list[Study]:
        """The studies of the cells."""
        return [cell.study for cell in self.cells]


def read_matrix(path: Path | None, overrides: Mapping[str, Any]) -> Matrix:
    """Read the studies of a file, of flags, or of both (flags win).

    Raises:
        StudyError: the file can't be read, or values are wrong; the message lists all faults.
    """
    place, settings = read_settings(path)
    values = {key: value for key, value in settings.items() if key not in WRITTEN} | renamed.settings(
        overrides, with_notes=True
    )
    faults: list[str] = []
    if isinstance(values.get("arms"), list | tuple):
        values["arms"] = _all(expand_arm, values["arms"], faults)
    axes = [_listed(values, key) for key in ("base", "data", "seed")]
    cells: list[StudyCell] = []
    for base, data, seed in itertools.product(*axes):
        try:
            own = dict(values)
            for key, value in (("data", data), ("seed", seed)):
                if key in values:
                    own[key] = value
            if "base" in values:
                own |= _base(base)
            if isinstance(languages := values.get("languages"), Mapping):
                own["languages"] = _languages_of(data, languages, axes[1])
            study = Study.model_validate(own)
            cells.append(StudyCell(cell_name(study), study))
        except StudyError as error:
            faults.append(str(error))
        except ValidationError as error:
            faults += faults_of(error, Study.model_fields)
    if not faults:
        faults += _repeated([cell.name for cell in cells])
    if faults:
        raise StudyError(in_one_message(faults, place))
    single = len(cells) == 1 and not any(
        isinstance(values.get(key), list) for key in ("base", "data", "seed")
    )
    return Matrix(tuple(cells), single)


def with_packaged(matrix: Matrix) -> Matrix:
    """The same studies, with every checkpoint also measured as packaged in its folder."""
    cells = [
        cell._replace(study=cell.study.model_copy(update={"arms": tuple(as_packaged(cell.study.arms))}))
        for cell in matrix.cells
    ]
    return matrix._replace(cells=tuple(cells))


def write_matrix(matrix: Matrix, path: Path) -> None:
    """Write the matrix file of a folder of cells, which is itself a valid study file.

    Raises:
        RunError: a file of the user has its name.
    """
    text = yaml.safe_dump(describe(matrix), sort_keys=False, allow_unicode=True)
    if path.is_file() and "cells" not in read_yaml(path):
        raise RunError(f"run: {path} exists and was not written by a run; give another --out")
    write_text(path, text)


def describe(matrix: Matrix) -> dict[str, Any]:
    """The settings that produce a matrix: shared ones, differing ones, and the cells' names."""
    dumps = [study.model_dump(mode="json") for study in matrix.studies]
    bases = {}
    for dump in dumps:
        bases[dump["base"]] = {key: dump[key] for key in OF_A_BASE}
    own = [key for key in OF_A_BASE if len({str(settings[key]) for settings in bases.values()}) > 1]
    # Keys that differ otherwise have the defaults of their data sets, which each cell gets again.
    settings = {
        key: value
        for key, value in dumps[0].items()
        if key not in own and all(dump[key] == value for dump in dumps)
    }
    settings["base"] = [
        {name: {key: found[key] for key in own}} if own else name for name, found in bases.items()
    ]
    for key in ("data", "seed"):
        settings[key] = list(dict.fromkeys(dump[key] for dump in dumps))
    if len({str(dump["languages"]) for dump in dumps}) > 1:
        settings["languages"] = {dump["data"]: dump["languages"] for dump in dumps}
    return {**settings, "cells": [cell.name for cell in matrix.cells]}


def expand_arm(entry: Any) -> list[str]:
    """Expand an entry of a study file into arms.

    >>> expand_arm({"wanda": {"sparsity": [0.3, 0.4], "calibration": "balanced"}})
    ['wanda:0.3,calibration=balanced', 'wanda:0.4,calibration=balanced']

    Raises:
        StudyError: the entry is neither a text nor one method with its options.
    """
    if isinstance(entry, str):
        return [entry]
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise StudyError(
            f"arms: {entry!r} is not an arm; write wanda:0.5, or wanda: {{sparsity: [0.3, 0.5]}}"
        )
    ((method, options),) = entry.items()
    if not isinstance(options, Mapping):
        return [f"{method}:{value}" for value in _list(options)]
    amounts = [key for key in _AMOUNTS if key in options]
    if len(amounts) > 1:
        raise StudyError(f"arms: {method} has a {amounts[0]} and a {amounts[1]}; write an entry for each")
    heads = [f"{method}:{value}" for value in _list(options[amounts[0]])] if amounts else [str(method)]
    rest = [
        [f"{key}={_written(value).translate(_ESCAPES)}" for value in _list(values)]
        for key, values in options.items()
        if key not in _AMOUNTS
    ]
    return [",".join(parts) for parts in itertools.product(heads, *rest)]


def _written(value: Any) -> str:
    # YAML reads yes and no as booleans.
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def cell_name(study: Study) -> str:
    """A folder name with base, data and seed."""
    parts = (study.base, study.data, str(study.seed))
    shown = (_last(study.base), _last(study.data), f"seed{study.seed}")
    # A digest separates different paths that end in the same name.
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:6]
    plain = (study.base.count("/") <= 1 and not study.base.startswith(("/", "."))) and ":" not in study.data
    return ".".join([*(_slug(part) for part in shown), *([] if plain else [digest])])


def _base(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        return {"base": entry}
    if len(entry) != 1:
        raise StudyError(f"base: {entry!r} is not a model; write its name, or NAME: {{chat: true}}")
    ((name, settings),) = entry.items()
    if not isinstance(settings or {}, Mapping):
        raise StudyError(f"base: {name}: {settings!r} is not a setting; write NAME: {{chat: true}}")
    for key in settings or {}:
        if key not in OF_A_BASE:
            raise StudyError(f"base: {name}: unknown key {key!r}; {nearest(key, OF_A_BASE)}")
    return {"base": name, **(settings or {})}


def _languages_of(data: str, languages: Mapping[str, Any], known: Sequence[Any]) -> Any:
    for name in languages:
        if name not in known:
            raise StudyError(f"languages: {name!r} is not a data set of this study; {nearest(name, known)}")
    return languages.get(data) if isinstance(data, str) else None


def _all(expand: Any, entries: Sequence[Any], faults: list[str]) -> list[str]:
    found: list[str] = []
    for entry in entries:
        try:
            found += expand(entry)
        except StudyError as error:
            faults.append(str(error))
    return found


def _listed(values: Mapping[str, Any], key: str) -> list[Any]:
    found = _list(values.get(key))
    if not found:
        raise StudyError(f"study: {key} is an empty list")
    return found


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _repeated(names: Sequence[str]) -> list[str]:
    return [f"{name} is asked for twice" for name in dict.fromkeys(names) if names.count(name) > 1]


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:48] or "x"
