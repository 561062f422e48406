"""Picking the answer: with every kind of options and scoring, and how often it needs no knowledge of the answer."""

from __future__ import annotations

from anomia.measure.figures import before, lookup
from anomia.measure.frame import POOLED, RECOGNITION
from anomia.measure.results import Results
from anomia.probes import OPTION_KINDS, SCORINGS
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import ARM, LANGUAGE, Cell, Column, N, Of, Table, n_of, values

KIND_WORDS = {kind.probe: kind.short for kind in OPTION_KINDS}
SCORING_WORDS = {scoring.name: scoring.label for scoring in SCORINGS}
# `{}`: a kind of options and a scoring.
SCORED = (
    Of("drop/{}", "drop"),
    Of("normalized_drop/{}", "share lost"),
    Of("gap/{}", "gap ΔPR", "gap (ΔPR)"),
    Of("raw_gap/{}", "gap in\nraw points", "raw gap"),
    Of("dissociation/{}", "dissociation"),
    Of("net_dissociation/{}", "net"),
    Of("expected_dissociation/{}", "expected from the drops"),
)
READ = tuple(of for of in SCORED if of.brief not in ("share lost", "expected from the drops"))
# Labels as the row of a table about these items, and as a column among others.
CONTROLS = (
    Of("control/no_question", "picked without the question, too", "choice only: picked without the question"),
    Of("control/string", "picked by always taking the option that appears in the passage", "choice only: string found"),
    Of("control/passage", "picked among options from the same passage, too", "choice only: picked in same passage"),
    Of("control/pmi", "picked by PMI, too", "choice only: picked by PMI"),
)  # fmt: skip


def controls(subject: ArmResults) -> Table:
    """How many of the choice-only items would be picked without knowing the answer."""
    rates = [(control.brief, subject.figure(control.measure)) for control in CONTROLS]
    return Table(
        "controls",
        "Checks of the items that are picked but no longer answered (%)",
        (Column("control", "of these items", "text"), Column("share", "share"), Column("items", "items", "count")),
        [(label, rate, rate.n) for label, rate in rates if rate is not None],
        (
            "where the first two are near 100, picking the answer doesn't need the question; where the "
            "last two are high, it does",
        ),
    )  # fmt: skip


def scorings(subject: ArmResults) -> Table:
    """Drop, gap and dissociation under every way to score the options; no rows if there is only one way."""
    rows: list[list[Cell]] = []
    rules: list[int] = []
    several = False
    for kind in KIND_WORDS:
        for way in RECOGNITION.values():
            found = [subject.figure(measure.measure.format(way.name)) for measure in READ]
            accuracy = subject.change(f"accuracy/{way.name}")
            if way.kind == kind and (any(found) or (accuracy and accuracy.after)):
                rows.append([f"{KIND_WORDS[kind]}: {SCORING_WORDS[way.scoring]}", accuracy, *found])
                several |= way.scoring != "sum"
        if rows and rules[-1:] != [len(rows) - 1]:
            rules.append(len(rows) - 1)
    return Table(
        "scorings",
        "Other ways to score the options (%)",
        (
            Column("options", "options, scored by", "text"),
            Column("accuracy", "accuracy,\nbase → arm"),
            *(of.column()._replace(name=_stem(of)) for of in READ),
        ),
        rows if several else [],
        (
            "sum: log-probability of the whole option, which favours short ones; per character: as acc_norm of "
            "lm-evaluation-harness; PMI: how much the question raises the option",
        ),
        rules=rules,
    )


def scorings_file(results: Results) -> Table:
    """Recognition with every kind of options and every way to score them, by arm and language."""
    figures = lookup(results.diagnosis.figures)
    rows = []
    for arm in results.arms:
        for scope in (*results.languages, POOLED):
            for way in RECOGNITION.values():
                measures = [of._replace(measure=of.measure.format(way.name)) for of in SCORED]
                after, found = (
                    figures.get((arm, f"accuracy/{way.name}", scope)),
                    values(measures, figures, arm, scope),
                )
                if after or any(found):
                    was = before(figures, arm, f"accuracy/{way.name}", scope)
                    kind = way.kind.removeprefix("choice").removeprefix("_") or "standard"
                    rows.append((arm, scope, kind, way.scoring, n_of(after), was, after, *found))
    return Table(
        "scorings",
        "Picking the answer, by options and scoring (%)",
        (
            ARM, LANGUAGE, Column("options", "options", "text"), Column("scoring", "scored by", "text"), N,
            Column("accuracy_base", "base"), Column("accuracy_arm", "arm"),
            *(of.column(full=True)._replace(name=_stem(of)) for of in SCORED),
        ),
        rows,
        (
            "sum: log-probability of the option; token, byte, char: divided by its length; pmi: minus the same without "
            "the question. Net: choice only − the reverse flow.",
        ),
        keys=4,
    )  # fmt: skip


def _stem(of: Of) -> str:
    return of.measure.partition("/")[0]
