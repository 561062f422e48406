"""Small files of a run, written so that each is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from anomia.errors import RunError


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON aside and renames it."""
    write_text(path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text aside and renames it.

    Raises:
        RunError: the place can't be written.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise RunError(f"run: {path} can't be written: {error.strerror or error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        RunError: the file is damaged or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"run: {path} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RunError(f"run: {path} holds no settings; it is damaged")
    return values


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; None where there is no file.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"run: {path} can't be read: {error}; remove it and run again") from None
    return values
