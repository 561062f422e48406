"""What broader decoding finds, and what one example in the prompt gives back."""

from __future__ import annotations

from anomia.measure import measures
from anomia.measure.between import BASE
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.probes import ONE_SHOT, ORACLES, ZERO_SHOT, short
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import (
    ARM,
    LANGUAGE,
    MODEL,
    Cell,
    Column,
    Filed,
    N,
    Of,
    Table,
    by_model,
    by_scope,
    given,
    n_of,
    values,
)

WAYS = ("greedy", *ORACLES)
DECODING = Column("decoding", "decoding", "text")
# The open failures covered, for gold and for the control answer (a wrong option in its place), by part of `recovery`.
RECOVERED = {
    "arm": Column("arm_failures", "all", full="arm's failures"),
    "failed_before": Column("failed_before", "base failed\nthem too", full="base failed too"),
    "newly_broken": Column("newly_broken", "newly\nbroken"),
    "base": Column("base", "base's own\nfailures"),
}
CONTROLS = {
    "control": Column("control", "", full="control answer, arm's failures"),
    "control_failed_before": Column("control_failed_before", "", full="control answer, base failed too"),
    "control_newly_broken": Column("control_newly_broken", "", full="control answer, newly broken"),
}
CURVE = tuple(Of(of, of.label) for of in measures.pass_at)
ONE_EXAMPLE = (
    Of(measures.drop(ZERO_SHOT), "drop at 0", "gap, 0 shot", own_name="prune_gap_zero_shot"),
    Of(measures.drop(ONE_SHOT), "drop at 1", "gap, 1 shot", own_name="prune_gap_one_shot"),
    Of(
        measures.contrast("drop_zero_minus_one_shot"),
        "drop at 0 − at 1",
        "gap at 0 − at 1",
        own_name="given_back",
    ),
)
# The paper's Table 1.
ONE_SHOT_FILE = Filed(
    "one_shot",
    "Open accuracy at 0 shot and at 1 shot (%), and prune gaps (points)",
    "Prune gap: accuracy of base − of the arm. The 0-shot columns have the prompt form of the 1-shot ones.",
    keys=2,
)


def oracle(subject: ArmResults) -> Table:
    """Accuracies with greedy decoding, in any beam and in any sample, over the items decoded that way."""
    rows: list[list[Cell]] = []
    for way in WAYS:
        change = subject.change(measures.accuracy(f"oracle_{way}"))
        if change and change.before:
            more = None if way == "greedy" else subject.figure(measures.contrast(f"drop_{way}_minus_greedy"))
            rows.append([way, *change, subject.figure(measures.drop(f"oracle_{way}")), more])
    columns = (Column("base", "base"), Column("arm", "arm"), Column("drop", "drop"))
    return Table(
        "oracle",
        f"Oracle recovery over the items asked with {' and '.join(map(short, ORACLES))} (%)",
        (DECODING, *columns, Column("drop_minus_greedy", "drop − greedy drop")),
        rows,
    )


def recovery(subject: ArmResults) -> Table:
    """Open failures that broader decoding recovers, with the placebo."""
    rows: list[list[Cell]] = []
    rules = []
    for way in ORACLES:
        for name, parts in (("gold", RECOVERED), ("control answer", CONTROLS)):
            found = [subject.figure(measures.recovery(way, part)) for part in parts]
            if any(found):
                rows.append([f"{way}: {name}", *found, *[None] * (len(RECOVERED) - len(found))])
                rules += [len(rows) - 1] if name == "control answer" else []
    return Table(
        "recovery",
        "Open failures in which broader decoding finds gold, or the control answer, a wrong option (%)",
        (DECODING, *RECOVERED.values()),
        rows,
        rules=rules,
    )


def samples(subject: ArmResults) -> Table:
    """Probability that one of k samples is right."""
    changes = [(of.brief, subject.change(of.measure)) for of in CURVE]
    return Table(
        "pass_at_k",
        "Chance that one of k samples is right, pass@k (%)",
        (Column("k", "k", "text"), Column("base", "base"), Column("arm", "arm")),
        [(k.removeprefix("pass@"), *change) for k, change in changes if change],
    )


def one_shot(subject: ArmResults) -> Table:
    """Open generation without and with one example, and what the example gives back."""
    shots = {name: short(name) for name in (ZERO_SHOT, ONE_SHOT)}

    def cells(scope: str) -> list[Cell]:
        changes = [subject.change(measures.accuracy(shot), scope) for shot in shots]
        n = n_of(subject.figure(measures.accuracy(ONE_SHOT), scope))
        return [n, *changes, *values(ONE_EXAMPLE, subject.figures, subject.arm, scope)]

    asked = given([Of(measures.accuracy(ONE_SHOT), "")], subject.figures, subject.arm, subject.scopes)
    rows, rules = by_scope(subject.scopes if asked else [], cells)
    return Table(
        "one_shot",
        "One example in the prompt: open accuracy, base → arm, and drops (%)",
        (
            LANGUAGE,
            N._replace(place="files"),
            *(Column(name, label) for name, label in shots.items()),
            *(of.column() for of in ONE_EXAMPLE),
        ),
        rows,
        rules=rules,
    )


def oracle_file(results: Results) -> Table:
    """Accuracy with greedy decoding, in any beam and in any sample, and pass@k, by model and language."""
    figures = lookup(results.diagnosis.figures)
    ways = [Of(measures.accuracy(f"oracle_{way}"), way) for way in WAYS]
    rows = by_model(ways, figures, (BASE, *results.arms), (*results.languages, POOLED))
    return Table(
        "oracle",
        "What broader decoding finds: oracle recovery (%)",
        (MODEL, LANGUAGE, N, *(of.column() for of in (*ways, *CURVE))),
        [
            (model, scope, n_of(found[0]), *found, *values(CURVE, figures, model, scope))
            for model, scope, found in rows
        ],
        (
            "Share of items with a right answer in greedy decoding, in any beam, in any sample; an upper bound. "
            "pass@k: the chance that one of k samples is right.",
        ),
        keys=2,
    )


def recovery_file(results: Results) -> Table:
    """Open failures that broader decoding recovers, with the placebo, by arm, language and way of decoding."""
    figures, parts = lookup(results.diagnosis.figures), RECOVERED | CONTROLS
    rows = []
    for arm in results.arms:
        for scope in (*results.languages, POOLED):
            for way in ORACLES:
                found = [figures.get((arm, measures.recovery(way, part), scope)) for part in parts]
                if any(found):
                    rows.append((arm, scope, way, n_of(found[0]), *found))
    return Table(
        "recovery",
        "Open failures that broader decoding recovers (%)",
        (
            ARM,
            LANGUAGE,
            DECODING,
            N,
            *(part._replace(header=part.full or part.header) for part in parts.values()),
        ),
        rows,
        ("control answer: how often a wrong option is found in gold's place. n: the arm's open failures.",),
        keys=3,
    )
