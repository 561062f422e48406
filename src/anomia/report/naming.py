"""Names of models, data sets and exclusions, as reports show them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath
from typing import Any

from anomia.measure.results import Results
from anomia.words import counted


def model_name(name: Any) -> str:
    """A model's name without the path to its folder; a hub id stays whole."""
    text = str(name)
    local = text.startswith(("/", ".", "~")) or text.count("/") > 1 or "\\" in text
    if not local:
        return text
    name = PurePath(text.replace("\\", "/")).name or text
    # The demo's folder name ends in its checksum.
    return re.sub(r"^(gemma-3-270m)-[0-9a-f]{12}$", r"\1", name)


def data_name(name: Any) -> str:
    """A data set's name without the path to its files."""
    kind, colon, path = str(name).partition(":")
    return f"{kind}: {'/'.join(PurePath(path).parts[-2:])}" if colon else kind


def exclusions(results: Results) -> str:
    """What was excluded on request, and how many items each kind took."""
    return ", ".join(
        f"{kind.replace('_', ' ')}: {_items(results.excluded.get(kind))}" for kind in results.exclude
    )


def shortened(text: str, longest: int) -> str:
    """The text, cut if it is longer than `longest`."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def _items(count: int | None) -> str:
    return "not known" if count is None else counted(count, "item")


def printable(text: str) -> str:
    """Text with spaces for control and direction characters: a null byte would abort the process in vl-convert."""
    return "".join(" " if unicodedata.category(char).startswith("C") else char for char in text)
