"""Figures of one or more runs: those of the paper, and three more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from anomia.errors import RunError, nearest
from anomia.measure.fates import FEWEST_BOTH_CORRECT
from anomia.report.figures.cases import Case, Drawn, NamedRun, cases
from anomia.report.figures.drops import draw_drops
from anomia.report.figures.fate_bars import draw_dissociation, draw_fates
from anomia.report.figures.flow import draw_flow
from anomia.report.figures.frontier import draw_frontier
from anomia.report.figures.ladder import draw_ladder
from anomia.report.figures.located import draw_located
from anomia.report.figures.oracle import draw_oracle
from anomia.report.figures.ranks import draw_ranks
from anomia.report.figures.settings import draw_calibrations, draw_settings
from anomia.report.figures.shots import draw_shots
from anomia.report.figures.sizes import draw_sizes
from anomia.report.figures.style import COLORS, theme
from anomia.report.figures.write import FORMATS, standalone, write_figures

__all__ = [
    "COLORS", "FIGURES", "FORMATS", "Drawn", "NamedRun", "draw", "draw_all", "section_of", "standalone", "theme",
    "write_figures",
]  # fmt: skip


# The section of figures that `anomia locate` draws.
LOCATED = "located"


class FigureKind(NamedTuple):
    """How a figure is drawn (None if the cases lack its data).

    needs: what it needs, in words. section: of the page; `more` comes after all others.
    """

    make: Callable[[Sequence[Case]], Drawn | None]
    needs: str
    section: str = "more"


# In reading order.
FIGURES: Mapping[str, FigureKind] = {
    "fates_flow": FigureKind(draw_flow, "open and choice of base and of an arm on the same items", "fates"),
    "figure1": FigureKind(
        draw_dissociation, f"{FEWEST_BOTH_CORRECT} items that base gets right in open and in choice", "fates"
    ),
    "figure8": FigureKind(
        draw_fates, f"{FEWEST_BOTH_CORRECT} items that base gets right in open and in choice", "fates"
    ),
    "ladder": FigureKind(draw_ladder, "open or choice of base and of an arm", "ladder"),
    "figure2": FigureKind(draw_drops, "open or choice of base and of an arm", "drops"),
    "figure3": FigureKind(draw_ranks, "the probe rank", "ranks"),
    "figure4": FigureKind(draw_oracle, "the probe beams or samples", "oracle"),
    "table1": FigureKind(draw_shots, "the probe one_shot", "one-shot"),
    "frontier": FigureKind(draw_frontier, "two arms of other sparsity or size on disk than base", "arms"),
    "figure5": FigureKind(draw_settings, "a dissociation rate or a gap in any run", "arms"),
    "figure6": FigureKind(
        draw_sizes, "the same arm of two sizes of one model, such as Qwen3-0.6B and Qwen3-8B", "arms"
    ),
    "figure7": FigureKind(
        draw_calibrations, "two arms that differ in calibration= alone, in one run or in several", "arms"
    ),
}


def draw_all(runs: Sequence[NamedRun]) -> list[Drawn]:
    """Every figure that these runs can fill, in reading order."""
    found = cases(runs)
    drawn = [kind.make(found) for kind in FIGURES.values()]
    located = [each for run in runs for each in run.located]
    for number, each in enumerate(located):
        ending = f"_{number + 1}" if number else ""
        drawn += [figure._replace(name=f"{figure.name}{ending}") for figure in draw_located(each)]
    return [figure for figure in drawn if figure is not None]


def section_of(name: str) -> str:
    """The section of the page that shows a figure."""
    return FIGURES[name].section if name in FIGURES else LOCATED


def draw(name: str, runs: Sequence[NamedRun]) -> Drawn:
    """One figure.

    Raises:
        RunError: there is no such figure, or the runs lack its data.
    """
    if name not in FIGURES:
        raise RunError(f"figures: there is no figure {name!r}; {nearest(name, FIGURES)}")
    drawn = FIGURES[name].make(cases(runs))
    if drawn is None:
        raise RunError(f"figures: {name} can't be drawn: it needs {FIGURES[name].needs}")
    return drawn
