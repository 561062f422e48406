"""Figures as files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vl_convert

from anomia.errors import RunError, nearest
from anomia.report.figures.cases import Drawn
from anomia.report.figures.style import DARK, LIGHT, theme

FORMATS = ("svg", "png", "pdf")
PIXELS = 2.0
CAPTION_COLUMNS = 100
MARGIN = 14


def write_figures(
    drawn: Sequence[Drawn], folder: Path, formats: Sequence[str] = FORMATS, *, dark: bool = False
) -> list[Path]:
    """Write each figure with its title and caption as `NAME.svg`, `.png` (2 pixels per point) and `.pdf`.

    Raises:
        RunError: a format is unknown, or a file can't be written.
    """
    for kind in formats:
        if kind not in FORMATS:
            raise RunError(f"figures: unknown format {kind!r}; {nearest(kind, FORMATS)}")
    written = []
    for figure in drawn:
        spec = standalone(figure, dark=dark)
        for kind in formats:
            path = folder / f"{figure.name}.{kind}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_render(spec, kind))
            except OSError as error:
                raise RunError(f"figures: {path} can't be written: {error.strerror or error}") from None
            written.append(path)
    return written


def standalone(figure: Drawn, *, dark: bool = False) -> dict[str, Any]:
    """The specification of a standalone figure, with its title, its caption and a background."""
    spec: dict[str, Any] = figure.chart.to_dict()
    spec["config"] = {**theme(dark), "background": (DARK if dark else LIGHT)["ground"]}
    spec["padding"] = MARGIN
    spec["title"] = {
        "text": figure.title,
        "subtitle": textwrap.wrap(figure.caption, CAPTION_COLUMNS),
        "anchor": "start",
        "fontSize": 16,
        "offset": 14,
    }
    return spec


def _render(spec: dict[str, Any], kind: str) -> bytes:
    if kind == "svg":
        return vl_convert.vegalite_to_svg(spec).encode()
    if kind == "png":
        return vl_convert.vegalite_to_png(spec, scale=PIXELS)
    return vl_convert.vegalite_to_pdf(spec)
