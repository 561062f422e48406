"""Every table of a run, and where it is shown. A new table is a function in this folder and a line here.

A table in `RUNS` can also be in `FILES`, with the same columns and cells after a first column for the run's name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from anomia.measure.results import Results
from anomia.report.tables.arm_results import ArmResults, arm_results
from anomia.report.tables.fallbacks import fallbacks, fallbacks_file
from anomia.report.tables.fates import dissociation, fates, fates_file, transitions, transitions_file
from anomia.report.tables.hygiene import asked, came_back, hygiene_file
from anomia.report.tables.ladder import ladder, ladder_file
from anomia.report.tables.long_answers import DAMAGE_FILE, FREE_FILE, by_position, long_answers
from anomia.report.tables.losses import IN_FILES as LOSSES_FILE
from anomia.report.tables.losses import losses
from anomia.report.tables.noise import loops, noise_file, reference
from anomia.report.tables.oracle import (
    ONE_SHOT_FILE,
    one_shot,
    oracle,
    oracle_file,
    recovery,
    recovery_file,
    samples,
)
from anomia.report.tables.packaging import besides_weights, packaging
from anomia.report.tables.ranks import divergence_file, ranks, ranks_file
from anomia.report.tables.recognition import SCORINGS_FILE, checks, scorings
from anomia.report.tables.repaired import repaired
from anomia.report.tables.runs import (
    between,
    between_file,
    frontier,
    frontier_file,
    runs_file,
)
from anomia.report.tables.scores import IN_FILES as SCORES_FILE
from anomia.report.tables.scores import scores
from anomia.report.tables.table import Filed, Table, in_files
from anomia.report.tables.tests import paired_tests, paired_tests_file
from anomia.report.tables.verdicts import verdicts_file


class OfArm(NamedTuple):
    """A table of one arm. section: of the page. brief: whether it is also shown right after a run."""

    section: str
    make: Callable[[ArmResults], Table]
    brief: bool = False


class OfRun(NamedTuple):
    """A table over all arms of a run. section: of the page."""

    section: str
    make: Callable[[Results], Table]


def every_arm(make: Callable[[ArmResults], Table], filed: Filed) -> Callable[[Results], Table]:
    """The table of each arm as one table for the files."""

    @functools.wraps(make)
    def made(results: Results) -> Table:
        return in_files(filed, [(arm, make(arm_results(results, arm))) for arm in results.arms])

    return made


# In the terminal's order; the page groups them by section.
ARMS = (
    OfArm("ladder", scores, brief=True),
    OfArm("fates", fates, brief=True),
    OfArm("fates", dissociation, brief=True),
    OfArm("noise", reference, brief=True),
    OfArm("ladder", ladder, brief=True),
    OfArm("drops", losses),
    OfArm("checks", checks),
    OfArm("checks", scorings),
    OfArm("fates", transitions),
    OfArm("ranks", ranks),
    OfArm("oracle", oracle),
    OfArm("oracle", recovery),
    OfArm("oracle", samples),
    OfArm("one-shot", one_shot),
    OfArm("long", long_answers, brief=True),
    OfArm("long", by_position),
    OfArm("tests", paired_tests),
)
RUNS = (
    OfRun("arms", between),
    OfRun("size", frontier),
    OfRun("repaired", repaired),
    OfRun("repaired", fallbacks),
    OfRun("differences", packaging),
    OfRun("differences", besides_weights),
    OfRun("hygiene", asked),
    OfRun("hygiene", came_back),
    OfRun("hygiene", loops),
)
FILES: tuple[Callable[[Results], Table], ...] = (
    runs_file, verdicts_file, fates_file, transitions_file, noise_file, ranks_file, ladder_file,
    every_arm(losses, LOSSES_FILE), every_arm(scores, SCORES_FILE),
    every_arm(long_answers, FREE_FILE), every_arm(by_position, DAMAGE_FILE),
    every_arm(scorings, SCORINGS_FILE), every_arm(one_shot, ONE_SHOT_FILE), oracle_file, recovery_file,
    fallbacks_file, paired_tests_file, between_file, divergence_file, frontier_file, hygiene_file,
)  # fmt: skip
