"""What the gate says of studies of known truth: null arms, which it should pass, and losses, which it should not."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from anomia.measure.fates import NO_FATE, fates, met
from anomia.measure.frame import POOLED
from anomia.measure.gate import DEFAULTS, Limits, _checks, _overall, decide_at_most
from anomia.measure.rates import Estimate, rate

from .uniform_studies import LEVEL, Design, Study, Truth, draw_studies, simulate

ARM = "arm"
# What the gate reads, and the name of the simulated figure.
FIGURES = {"net_dissociation/choice": "net", "gap/choice": "gap", "normalized_drop/open": "open"}


class Passed(NamedTuple):
    """Shares of studies that pass each check, by name, and how often each result comes out of all checks together."""

    checks: dict[str, float]
    results: dict[str, float]


def null_arms() -> list[Truth]:
    """Base and arm right by chance with the same probabilities: as many choice answers flip as open ones, or half.

    Where base picks 90 % right, no more than 18 % can flip like that.
    """
    found = []
    for flips in (0.10, 0.15, 0.20, 0.25):
        base = 0.90 if flips <= 0.15 else 0.80
        found += [Truth(0.0, 0.0, flips, flips, base_choice=base), Truth(0.0, 0.0, flips, flips / 2)]
    return found


def gate(truth: Truth, design: Design, studies: int, limits: Limits = DEFAULTS, *, seed: int = 0) -> Passed:
    """Decides on studies with the product's own checks."""
    passing: Counter[str] = Counter()
    results: Counter[str] = Counter()
    for study in simulate(truth, design, studies, leaves=("open", "choice", "net"), seed=seed):
        checks = list(_checks(_RESULTS, _figures(study), ARM, POOLED, limits))
        passing.update(check.name for check in checks if check.result == "pass")
        results[_overall(checks)] += 1
    return Passed(
        {name: count / studies for name, count in passing.items()},
        {name: count / studies for name, count in results.items()},
    )


# All that the checks read of a run besides its figures.
_RESULTS: Any = SimpleNamespace(stopping=None, has_formats=True, scores=())


def _figures(study: Study) -> dict[tuple[str, str, str], Estimate]:
    found = {(ARM, figure, POOLED): study.overall[LEVEL][name] for figure, name in FIGURES.items()}
    return {key: estimate for key, estimate in found.items() if estimate is not None}


def plain_rate_fails(truth: Truth, design: Design, studies: int, limit: float) -> int:
    """How many studies fail if the dissociation rate itself, not the net one, is held against a limit."""
    answers = draw_studies(truth, design, studies, np.random.default_rng(0))
    failed = 0
    for study in range(studies):
        before_open, after_open, before_choice, after_choice = (column[:, study] for column in answers)
        index = fates(before_open, before_choice, after_open, after_choice)
        found = rate(met(index[index != NO_FATE], "choice_only"))
        failed += found is not None and decide_at_most(found, limit) == "fail"
    return failed
