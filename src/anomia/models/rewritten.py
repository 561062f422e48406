"""Reads in `anomia.json` how `anomia compress` made a model: from what, and in another order or scale of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomia.errors import AnomiaError
from anomia.files import read_json
from anomia.words import counted

_REPORT = "anomia.json"
REORDERED = "channels reordered for the pattern, here and in the layers before: the model computes the same"
"""The note on a matrix whose input channels were reordered."""


def rewritten(folder: Path | None) -> str:
    """Describes weights in a model's folder that are reordered or rescaled although the model computes the same.

    Returns "" if there are none. An adapter that was trained on base doesn't fit such weights.
    """
    plain = _report(folder)
    steps = [
        step for step in (*_list(plain.get("before")), plain.get("compression")) if isinstance(step, Mapping)
    ]
    notes = []
    reordered = sum(REORDERED in str(matrix.get("note")) for step in steps for matrix in _matrices(step))
    if reordered:
        count = counted(reordered, "matrix", "matrices")
        notes.append(f"input channels of {count} are in another order (ria)")
    if any(str(step.get("step")).startswith("awq:") for step in steps):
        notes.append("inputs of matrices are scaled (awq)")
    return "; ".join(notes)


def made_from(folder: Path | None) -> dict[str, Any] | None:
    """Returns what a folder was made from as `base`, by which steps as `arm`, and calibrated on which `languages`.

    None if Anomia didn't make it.
    """
    report = _report(folder)
    settings, made = report.get("settings"), report.get("compression")
    if not isinstance(settings, Mapping):
        return None
    base, arm = settings.get("model"), settings.get("step")
    if not isinstance(base, str) or not isinstance(arm, str):
        return None
    text = made.get("calibration") if isinstance(made, Mapping) else None
    languages = text.get("tokens_by_language") if isinstance(text, Mapping) else None
    return {
        "base": base,
        "arm": arm,
        "languages": sorted(languages) if isinstance(languages, Mapping) else [],
    }


def _report(folder: Path | None) -> Mapping[str, Any]:
    if folder is None or not (folder / _REPORT).is_file():
        return {}
    try:
        return read_json(folder / _REPORT) or {}
    except AnomiaError:
        return {}


def _matrices(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [matrix for matrix in _list(step.get("matrices")) if isinstance(matrix, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
