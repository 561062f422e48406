"""Results that are written down, not computed, so that what is made of them can be compared to the letter."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import yaml

from anomia.measure.fates import FATES, FateCounts
from anomia.measure.figures import (
    BetweenRow,
    Diagnosis,
    DivergenceRow,
    Fates,
    Figure,
    FrontierRow,
    LogProbRow,
    PairedTestRow,
    RankRow,
    TransitionRow,
)
from anomia.measure.frame import MEAN, POOLED
from anomia.measure.hygiene import hygiene
from anomia.measure.judge import ScopeVerdict
from anomia.measure.outcomes import Outcome
from anomia.measure.rates import Estimate
from anomia.measure.results import Results, read_results
from anomia.measure.significance import PairedTest
from anomia.measure.verdict import Decision
from anomia.measure.verdict_text import Words
from anomia.records import write_rows
from anomia.report.figures import NamedRun
from anomia.report.tables import ladder, losses, oracle
from anomia.report.tables.table import Of
from tests.measure.planted import Damage, study_records

# Names that mean something to a spreadsheet, to Markdown, to HTML and to LaTeX.
ARMS = ("wanda:0.5", "=sparsegpt:0.5,calibration=file:a_b|c&d%25")
OUTCOMES: tuple[Outcome, ...] = ("illusion", "inconclusive")
LANGUAGES = ("english", "<b>swahili</b>")
SCOPES = (*LANGUAGES, POOLED)


def fixed_run(folder: Path) -> NamedRun:
    """Two arms and two languages whose every figure follows from its place in the list."""
    results = _results(folder)
    first = results.verdicts[0]
    verdicts = [
        ScopeVerdict(
            arm,
            "overall",
            first.evidence,
            Decision(outcome, "fell", "held"),
            "choice_passage",
            "recognised",
            "Options from the same passage decided.",
            Decision("mixed", "fell", "fell"),
            None,
            Words(f"Open fell by 10 % in {arm}."),
        )
        for arm, outcome in zip(ARMS, OUTCOMES, strict=True)
    ]
    return NamedRun(
        "run_1", results._replace(diagnosis=_diagnosis(), frontier=_frontier(), verdicts=verdicts)
    )


def _results(folder: Path) -> Results:
    records = study_records({arm: Damage(open=0.4) for arm in ARMS}, languages=LANGUAGES, items=12)
    folder.mkdir(parents=True)
    study = {
        "base": "makers/model_1",
        "data": "squad:data/a_b/dev",
        "arms": list(ARMS),
        "provenance": {"excluded": {}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    write_rows(records.to_dicts(), folder / "records" / "all.parquet")
    results = read_results(folder)
    return results._replace(hygiene=hygiene(results.records.filter(pl.col("language") == "english"), {}))


def _estimate(number: int, *, signed: bool = False) -> Estimate | None:
    if number % 11 == 10:
        return None
    value = (number * 37 % 80 + 10) / 100 - (0.5 if signed else 0)
    return Estimate(value, value - 0.0625, value + 0.0725, 40 + number % 7, 30, "wilson", number % 5 != 0)


def _diagnosis() -> Diagnosis:
    measures = [form.measure for form in (*ladder.FORMS, ladder.PRESENCE, *ladder.GRADED)]
    measures += ["accuracy/zero_shot", "accuracy/one_shot"]
    measures += [f"accuracy/oracle_{way}" for way in ("greedy", "beams", "samples")]
    measures += ["accuracy/choice_minus_open", *(f"pass_at/{k}" for k in range(1, 11))]
    compared = [
        *(loss.measure for loss in sorted(losses.ALL, key=_strict_last)),
        "drop/choice_pmi",
        "gap/choice_pmi",
        "raw_gap/choice_pmi",
        "outputs/loop_more",
        "drop/zero_shot",
        "drop/one_shot",
        "contrast/drop_zero_minus_one_shot",
    ]
    rates = [f"net_dissociation/{options}" for options in ("choice", "choice_passage")]
    rates += [f"share/choice/{fate}" for fate in FATES if fate != "choice_only"]
    rates += [
        "expected_dissociation/choice",
        "flips/open",
        "flips/choice",
        "outputs/loop",
        "also_picked/no_question",
    ]
    rates += [f"dissociation/{options}" for options in ("choice", "choice_hard", "choice_passage")]
    rates += [
        f"recovery/{way}/{part}"
        for way in ("beams", "samples")
        for part in (*oracle.RECOVERED, *oracle.CONTROLS)
    ]
    rates += ["divergence/kl", "divergence/top1_agreement"]
    keys = [(arm, measure, scope) for arm in ("base", *ARMS) for measure in measures for scope in SCOPES]
    keys += [(arm, measure, scope) for arm in ARMS for measure in rates for scope in SCOPES]
    figures = [Figure(*key, _estimate(number)) for number, key in enumerate(keys)]
    keys = [(arm, measure, scope) for arm in ARMS for measure in compared for scope in (*SCOPES, MEAN)]
    figures += [Figure(*key, _estimate(number, signed=True)) for number, key in enumerate(keys)]
    groups = ("all", "base_fails", *FATES)
    return Diagnosis(
        figures=tuple(figures),
        fates=tuple(
            Fates(arm, "choice", scope, FateCounts(4 + n, 3 + n, 0, n % 2))
            for n, (arm, scope) in enumerate((arm, scope) for arm in ARMS for scope in SCOPES)
        ),
        ranks=tuple(
            RankRow(
                arm, place, when, group, POOLED, n + 3, n + 1.5, n + 1.0, 40.0 * n + 2, 0.01, 0.5, 0.9, 1.0, 0
            )
            for arm in ARMS
            for place in ("gold", "gold_distinct", "control", "control_distinct")
            for n, (when, group) in enumerate(
                (when, group) for when in ("before", "after") for group in groups
            )
        ),
        log_probs=tuple(
            LogProbRow(arm, group, POOLED, n + 3, -1.5 - n, -2.25 - n, None)
            for arm in ARMS
            for n, group in enumerate(groups)
        ),
        tests=tuple(
            PairedTestRow(
                arm, "open changed", scope, PairedTest(p, 7, 40, "exact McNemar"), adjusted, "languages"
            )
            for arm in ARMS
            for scope, p, adjusted in (("english", 0.0321, 0.0642), (POOLED, 0.00001, None))
        ),
        divergence=tuple(DivergenceRow(arm, POOLED, 24, 0.125, 1.5, 0.01) for arm in ARMS),
        transitions=tuple(
            TransitionRow(ARMS[0], "choice", POOLED, before, 4 - n, n, 0, n % 2)
            for n, before in enumerate(("both", "choice_only", "open_only", "neither"))
        ),
        between=tuple(
            BetweenRow(*ARMS, measure, POOLED, _estimate(3, signed=True)) for measure in ("gap/choice",)
        ),
    )


def _strict_last(loss: Of) -> bool:
    return "strict" in loss.measure


def _frontier() -> list[FrontierRow]:
    opened, chosen = Estimate(0.5, 0.4, 0.6, 24, 24), Estimate(0.9, 0.8, 0.95, 24, 24)
    worse = Estimate(0.3, 0.2, 0.4, 24, 24)
    return [
        FrontierRow("base", 0.0, 536_000_000, opened, chosen, True, True, True, True),
        FrontierRow(ARMS[0], 0.5, 536_000_000, worse, chosen, True, True, False, False),
        FrontierRow(ARMS[1], 0.5, None, worse, chosen, False, True, None, None),
    ]
