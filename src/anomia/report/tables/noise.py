"""An arm next to base under harmless noise, and outputs that loop."""

from __future__ import annotations

from anomia.measure import measures
from anomia.measure.between import BASE
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.hygiene import sensitivities
from anomia.measure.results import Results
from anomia.probes import FORMATS
from anomia.report.reference import nulls
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.fates import OTHERS
from anomia.report.tables.recognition import CHECKS
from anomia.report.tables.table import ARM, LANGUAGE, Cell, Of, Table, by_model, named, values

REFERENCE = (
    Of(measures.net_dissociation("choice"), "net\ndissociation"),
    *(
        Of(measures.net_dissociation(kind.probe), f"{kind.short},\nnet", f"net, {kind.short}")
        for kind in OTHERS
        if kind.decides
    ),
    *(named(measures.flips(name), f"flips,\n{name}") for name in FORMATS),
)
LOOPS = (
    Of(measures.outputs("loop"), "loops", "outputs that loop"),
    Of(measures.outputs("loop_more"), "more than base\n(points)", "more than base's (points)"),
    Of(measures.outputs("degenerate"), "empty or one\ntoken repeated", "empty or one token"),
)
FLIPS = "flips: items that changed between right and wrong, in either direction"
HOW_TO_ADD = "no null arm in this run; to see how much is noise, add --arm null:float32"


def reference(subject: ArmResults) -> Table:
    """Net dissociation and flips of an arm, next to those of base under harmless noise."""
    known = nulls(subject.results.arms)
    rows: list[list[Cell]] = []
    for name in (subject.arm, *(name for name in known if name != subject.arm)):
        found = values(REFERENCE, subject.figures, name, POOLED)
        if any(found):
            rows.append([name, *found])
    rules = [0] if rows and rows[0][0] == subject.arm else []
    if rows:
        rows += [
            [f"base, {change.change}", *[None] * (len(REFERENCE) - 2), change.open, change.choice]
            for change in sensitivities(subject.results.noise)
        ]
    return Table(
        "noise",
        "Next to noise: base again under harmless changes (%)",
        (ARM, *(of.column() for of in REFERENCE)),
        rows,
        (FLIPS, *(() if known else (HOW_TO_ADD,))),
        rules=rules,
    )


def loops(results: Results) -> Table:
    """Open outputs that loop, by arm and language, and how many more than base's."""
    figures = lookup(results.diagnosis.figures)
    rows, rules = [], []
    for arm in dict.fromkeys(row.arm for row in results.hygiene):
        languages = list(dict.fromkeys(row.language for row in results.hygiene if row.arm == arm))
        for scope in [*languages, POOLED] if len(languages) > 1 else [POOLED]:
            found = values(LOOPS, figures, arm, scope)
            if found[0]:
                rows.append((arm, scope, *found))
                rules += [len(rows) - 1] if scope == POOLED else []
    return Table(
        "loops",
        "Open outputs that loop (%)",
        (ARM, LANGUAGE, *(of.column() for of in LOOPS)),
        rows,
        ("loops: a piece of at most 16 tokens that is repeated fills at least half of the output",),
        keys=2,
        rules=rules,
    )


def noise_file(results: Results) -> Table:
    """What differs between base and each arm, null arms included, and how choice-only items do under the controls."""
    figures, shown = lookup(results.diagnosis.figures), (*REFERENCE, *LOOPS, *CHECKS)
    rows = by_model(shown, figures, (BASE, *results.arms), (*results.languages, POOLED))
    return Table(
        "noise_and_checks",
        "Noise, loops and checks of multiple choice (%)",
        (ARM, LANGUAGE, *(of.column(full=True) for of in shown)),
        [(arm, scope, *found) for arm, scope, found in rows],
        (
            "null: base again under harmless noise, the reference. Flips: items that changed between right and "
            "wrong, in either direction. Choice only: items that the arm picks but no longer answers.",
        ),
        keys=2,
    )
