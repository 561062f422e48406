"""Figures of one run or of several: those of the paper, and three of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from anomia.errors import RunError, nearest
from anomia.report.figures.cases import Case, Drawn, Run, cases
from anomia.report.figures.drops import draw_drops
from anomia.report.figures.fate_bars import draw_dissociation, draw_fates
from anomia.report.figures.flow import draw_flow
from anomia.report.figures.frontier import draw_frontier
from anomia.report.figures.ladder import draw_ladder
from anomia.report.figures.ranks import draw_ranks
from anomia.report.figures.reach import draw_reach
from anomia.report.figures.settings import draw_calibrations, draw_settings
from anomia.report.figures.shots import draw_shots
from anomia.report.figures.sizes import draw_sizes
from anomia.report.figures.style import COLORS, theme
from anomia.report.figures.write import FORMATS, standalone, write_figures

__all__ = [
    "COLORS", "FIGURES", "FORMATS", "Drawn", "Run", "draw", "draw_all", "standalone", "theme", "write_figures",
]  # fmt: skip

# In reading order. None where the runs lack what the figure shows.
FIGURES: Mapping[str, Callable[[Sequence[Case]], Drawn | None]] = {
    "fates_flow": draw_flow,
    "figure1": draw_dissociation,
    "figure8": draw_fates,
    "ladder": draw_ladder,
    "figure2": draw_drops,
    "figure3": draw_ranks,
    "figure4": draw_reach,
    "table1": draw_shots,
    "frontier": draw_frontier,
    "figure5": draw_settings,
    "figure6": draw_sizes,
    "figure7": draw_calibrations,
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
