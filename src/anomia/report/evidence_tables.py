"""Tables of what a verdict rests on: net dissociation beside noise, transitions, scorings, controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from anomia.measure.figures import Diagnosis, Lookup
from anomia.measure.frame import POOLED
from anomia.measure.hygiene import noise_floors
from anomia.report.reference import nulls
from anomia.report.sheet import MISSING, add_column, add_row, given, interval, new_table, sheet

KINDS = {"choice": "standard", "choice_hard": "hard", "choice_passage": "same passage"}
SCORINGS = {
    "": "sum",
    "_token": "per token",
    "_byte": "per byte",
    "_char": "per character",
    "_pmi": "PMI (minus the score without the question)",
}
SCORED = (
    ("accuracy/{}", "accuracy,\nbase → arm"),
    ("drop/{}", "drop"),
    ("gap/{}", "gap ΔPR"),
    ("raw_gap/{}", "gap in\nraw points"),
    ("dissociation/{}", "dissociation"),
    ("net_dissociation/{}", "net"),
)
STATES = {"both": "both", "choice_only": "choice only", "open_only": "open only", "neither": "neither"}
CONTROLS = {
    "no_question": "picked without the question, too",
    "string": "picked by whoever takes the option that stands in the passage",
    "passage": "picked among options from the same passage, too",
    "pmi": "picked by PMI, too",
}
HOW_TO_ADD = "no null arm in this run; one shows how much is noise: --arm null:float32"


def dissociation_table(
    diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str]
) -> RenderableType:
    """Dissociation, its reverse subtracted, and what the two drops alone would give, by language."""
    columns = [
        (measure, label)
        for measure, label in (
            ("dissociation/choice", "dissociation"),
            ("net_dissociation/choice", "net\n(− reverse)"),
            ("expected_dissociation/choice", "expected from\nthe drops alone"),
            ("dissociation/choice_hard", "hard\noptions"),
            ("net_dissociation/choice_hard", "hard,\nnet"),
            ("dissociation/choice_passage", "same\npassage"),
            ("net_dissociation/choice_passage", "same passage,\nnet"),
        )
        if given(figures, arm, measure, scopes)
    ]
    table = new_table("Dissociation: of the items that base answers both ways, picked and no longer said (%)")
    add_column(table, "language")
    for _, label in columns:
        add_column(table, label)
    known = {row.scope for row in diagnosis.fates if (row.arm, row.options) == (arm, "choice")}
    few = False
    for scope in scopes:
        if scope in known and columns:
            found = [figures.get((arm, measure, scope)) for measure, _ in columns]
            few |= None in found
            add_row(table, scope, scopes, [interval(rate) if rate else "too few" for rate in found])
    notes = []
    if any(measure.startswith("net_") for measure, _ in columns):
        notes.append(
            "net: less the items that went the other way, from only picked in base to picked and said in the arm; "
            "noise moves as many each way and leaves it at 0"
        )
    for name, label in (("hard", "hard"), ("passage", "same-passage")):
        contrast = figures.get((arm, f"contrast/dissociation_{name}_minus_standard", POOLED))
        if contrast:
            notes.append(f"dissociation, {label} − standard options: {interval(contrast)} points")
    if few:
        notes.append("too few: fewer than 10 items that base answers both ways")
    return sheet(table, *notes) if table.row_count else Group()


def transitions_table(diagnosis: Diagnosis, arm: str) -> RenderableType:
    """Every item by what base did with it and what the arm does: 4 × 4 counts."""
    rows = {
        row.before: row
        for row in diagnosis.transitions
        if (row.arm, row.options, row.scope) == (arm, "choice", POOLED)
    }
    if not rows:
        return Group()
    table = new_table(
        "From base to arm: items by what base answers (rows) and what the arm answers (columns)"
    )
    for column in ("base", *STATES.values(), "all"):
        add_column(table, column)
    for before, label in STATES.items():
        if before in rows:
            counts = [getattr(rows[before], after) for after in STATES]
            table.add_row(label, *map(str, counts), str(sum(counts)), end_section=before == "neither")
    totals = [sum(getattr(row, after) for row in rows.values()) for after in STATES]
    table.add_row("all", *map(str, totals), str(sum(totals)))
    return sheet(table, "counts of items, languages pooled; standard options")


def reference_table(
    figures: Lookup, arm: str, arms: Sequence[str], noise: Mapping[str, Any] | None
) -> RenderableType:
    """Net dissociation and flips of an arm, beside those of base under harmless noise."""
    table = new_table("Next to noise: base again under harmless changes (%)")
    for column in ("arm", "net\ndissociation", "same passage,\nnet", "open verdicts\nthat differ", "choice verdicts\nthat differ"):  # fmt: skip
        add_column(table, column)
    reference = [name for name in nulls(arms) if name != arm]
    measures = ("net_dissociation/choice", "net_dissociation/choice_passage", "flips/open", "flips/choice")
    for name in (arm, *reference):
        found = [figures.get((name, measure, POOLED)) for measure in measures]
        if any(found):
            table.add_row(escape(name), *map(interval, found), end_section=name == arm)
    if not table.row_count:
        return Group()
    for floor in noise_floors(noise):
        told = [interval(share) for share in (floor.open, floor.choice)]
        table.add_row(f"base, {floor.change}", MISSING, MISSING, *told)
    return sheet(table, "" if nulls(arms) else HOW_TO_ADD)


def scorings_table(figures: Lookup, arm: str) -> RenderableType:
    """Drop, gap and dissociation under every way to score the options and every kind of options."""
    table = new_table("Other ways to score the options (%)", names=1)
    add_column(table, "options, scored by")
    for _, label in SCORED:
        add_column(table, label)
    several = False
    for kind, of in KINDS.items():
        mine = []
        for ending, by in SCORINGS.items():
            options = f"{kind}{ending}"
            found = [figures.get((arm, measure.format(options), POOLED)) for measure, _ in SCORED]
            if any(found):
                before_ = figures.get((arm, f"before/accuracy/{options}", POOLED)) or figures.get(
                    ("base", f"accuracy/{options}", POOLED)
                )
                cells = [f"{interval(before_)} → {interval(found[0])}", *map(interval, found[1:])]
                mine.append((f"{of}: {by}", cells))
                several |= bool(ending)
        for label, cells in mine:
            table.add_row(label, *cells, end_section=label == mine[-1][0])
    if not several:
        return Group()
    return sheet(
        table,
        "sum: log-probability of the whole option, which favours short ones; per character: as acc_norm of "
        "lm-evaluation-harness; PMI: how much the question raises the option",
    )


def controls_table(figures: Lookup, arm: str) -> RenderableType:
    """How many of the choice-only items would be picked without knowing the answer."""
    rates = {name: figures.get((arm, f"control/{name}", POOLED)) for name in CONTROLS}
    if not any(rates.values()):
        return Group()
    table = new_table("Controls of the items that are picked and no longer said (%)")
    for column in ("of these items", "share", "items"):
        add_column(table, column)
    for name, label in CONTROLS.items():
        rate = rates[name]
        if rate is not None:
            table.add_row(label, interval(rate), str(rate.n))
    return sheet(
        table,
        "where the first two are near 100, picking the answer needs no question; where the last two are high, the "
        "question is what the pick rests on",
    )
