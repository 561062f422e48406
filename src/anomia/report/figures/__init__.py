"""Figures of one run or of several: those of the paper, and three of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from anomia.errors import RunError, nearest
from anomia.report.figures.cases import Case, Drawn, Run, cases
from anomia.report.figures.fate_bars import draw_dissociation
from anomia.report.figures.ladder import draw_ladder
from anomia.report.figures.style import COLORS, theme
from anomia.report.figures.write import FORMATS, standalone, write_figures

__all__ = [
    "COLORS", "FIGURES", "FORMATS", "Drawn", "Run", "draw", "draw_all", "standalone", "theme", "write_figures",
]  # fmt: skip

# In reading order. None where the runs lack what the figure shows.
FIGURES: Mapping[str, Callable[[Sequence[Case]], Drawn | None]] = {
    "figure1": draw_dissociation,
    "ladder": draw_ladder,
}


def draw_all(runs: Sequence[Run]) -> list[Drawn]:
    """Every figure that these runs can fill, in reading order."""
    found = cases(runs)
    drawn = (make(found) for make in FIGURES.values())
    return [figure for figure in drawn if figure is not None]


def draw(name: str, runs: Sequence[Run]) -> Drawn:
    """One figure.

    Raises:
        RunError: there is no such figure, or the runs lack what it shows.
    """
    if name not in FIGURES:
        raise RunError(f"figures: there is no figure {name!r}; {nearest(name, FIGURES)}")
    drawn = FIGURES[name](cases(runs))
    if drawn is None:
        raise RunError(f"figures: {name} can't be drawn: the runs lack what it shows")
    return drawn
