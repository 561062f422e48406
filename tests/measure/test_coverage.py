"""Do the intervals cover the truth as often as they say? `docs/statistics.md` has the whole grid."""

import numpy as np
import pytest

from anomia.measure.bootstrap import resample
from anomia.measure.contrasts import Answers
from anomia.measure.quantities import everywhere_all, gap_quantity, normalized
from anomia.measure.rates import rate

from .coverage_table import SIZES, measure, measured, promised
from .simulation import (
    SIMULATION_DRAWS,
    Cell,
    clusters,
    draw_pairs,
    gap_side,
    grid,
    paired_coverage,
    rate_coverage,
)

QUICK = [
    Cell(50, 1, 0.0, 0.5, 0.3, 0.7),
    Cell(50, 5, 0.2, 0.3, 0.3, 0.7),
    Cell(50, 5, 0.2, 0.9, 0.3, 1.0),
    Cell(200, 1, 0.0, 0.3, 0.05, 1.0),
    Cell(200, 1, 0.0, 0.9, 0.1, 0.7),
    Cell(200, 5, 0.2, 0.7, 0.05, 0.7),
    Cell(200, 5, 0.2, 0.5, 0.1, 0.7),
    Cell(200, 5, 0.0, 0.98, 0.1, 1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("cell", QUICK, ids=str)
def test_intervals_cover_at_least_93_percent(cell):
    for name, found in measure(cell).found.items():
        assert found.given >= 0.9
        assert found.covered >= 0.93, (name, found)


@pytest.mark.parametrize("correlation", [0.0, 0.2])
@pytest.mark.parametrize("base", [0.1, 0.5, 0.9])
def test_rates_cover_at_least_93_percent(base, correlation):
    assert rate_coverage(Cell(200, 5, correlation, base, 0.0, 0.0), 4_000).covered >= 0.93


def test_without_the_design_effect_shared_passages_would_break_the_promise():
    """The simulation can tell: taking clustered items for independent ones covers too little."""
    cell = Cell(200, 5, 0.2, 0.5, 0.3, 0.5)
    base, _ = draw_pairs(cell, 1_000, np.random.default_rng(0))
    naive = np.mean(
        [estimate.low <= 0.5 <= estimate.high for estimate in (rate(column) for column in base.T) if estimate]
    )
    assert naive < 0.92
    assert paired_coverage(cell, 1_000).covered >= 0.93


def test_the_simulated_studies_are_what_they_claim_to_be():
    cell = Cell(200, 5, 0.2, 0.7, 0.1, 0.7)
    base, arm = draw_pairs(cell, 2_000, np.random.default_rng(0))
    assert base.mean() == pytest.approx(0.7, abs=0.005)
    assert (base - arm).mean() == pytest.approx(cell.drop, abs=0.002)
    assert (base != arm).mean() == pytest.approx(0.1, abs=0.003)
    passages = base.reshape(40, 5, -1) - base.mean()
    between = (passages.sum(axis=1) ** 2).mean() - (passages**2).sum(axis=1).mean()
    assert between / 20 / base.var() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("cell", [Cell(60, 5, 0.2, 0.5, 0.3, 0.7), Cell(60, 1, 0.0, 0.5, 0.3, 1.0), Cell(60, 1, 0.0, 0.5, 0.1, 0.7)], ids=str)  # fmt: skip
def test_what_is_simulated_is_what_studies_get(cell):
    generator = np.random.default_rng(0)
    choice = cell._replace(base=0.9, discordance=0.1)
    pairs = draw_pairs(cell, 5, generator), draw_pairs(choice, 5, generator)
    sides = gap_side(*pairs, cell, 0.25)
    passages = clusters(cell).index
    resampling = resample(["language"] * cell.n, passages, draws=SIMULATION_DRAWS)
    for number in range(5):
        answers = Answers(*(column[:, number] for pair in pairs for column in pair))
        quantities = {
            "open": normalized(*answers[:2], passages, floor=0.0),
            "choice": normalized(*answers[2:], passages, floor=0.25),
            "gap": gap_quantity(*answers, passages, floor=0.25),
        }
        for side, found in zip(sides, everywhere_all(quantities, resampling).values(), strict=True):
            simulated = side.value[number], side.low[number], side.high[number]
            assert found.pooled[:3] == pytest.approx(simulated, abs=1e-6)


@pytest.mark.longest
@pytest.mark.timeout(3600)
def test_the_whole_grid():
    cells = [cell for cell in grid(SIZES) if cell.promised]
    assert len(cells) > 100
    below = []
    for cell, found in measured(cells):
        for name, coverage in found.items():
            if promised(cell, coverage) and coverage.covered < 0.93:
                below.append((name, coverage, cell))
    assert below == []
