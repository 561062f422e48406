"""What broader decoding finds, and what one example in the prompt gives back."""

from __future__ import annotations

from anomia.measure.between import BASE
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.probes import ORACLES
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

LARGEST_K = 10
WAYS = ("greedy", *ORACLES)
DECODING = Column("decoding", "decoding", "text")
# The open failures covered, for gold and for the control answer (a wrong option in its place). `{}`: the way of decoding.
RECOVERED = (
    Of("recovery/{}/arm", "all", "arm's failures"),
    Of("recovery/{}/failed_before", "base failed\nthem too", "base failed too"),
    Of("recovery/{}/newly_broken", "newly\nbroken"),
    Of("recovery/{}/base", "base's own\nfailures"),
)
CONTROLS = (
    Of("recovery/{}/control", "", "control answer, arm's failures"),
    Of("recovery/{}/control_failed_before", "", "control answer, base failed too"),
    Of("recovery/{}/control_newly_broken", "", "control answer, newly broken"),
)
ONE_SHOT = (
    Of("drop/zero_shot", "drop at 0", "gap, 0 shot", own_name="prune_gap_zero_shot"),
    Of("drop/one_shot", "drop at 1", "gap, 1 shot", own_name="prune_gap_one_shot"),
    Of("contrast/drop_zero_minus_one_shot", "drop at 0 − at 1", "gap at 0 − at 1", own_name="given_back"),
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
        change = subject.change(f"accuracy/oracle_{way}")
        if change and change.before:
            more = None if way == "greedy" else subject.figure(f"contrast/drop_{way}_minus_greedy")
            rows.append([way, *change, subject.figure(f"drop/oracle_{way}"), more])
    columns = (Column("base", "base"), Column("arm", "arm"), Column("drop", "drop"))
    return Table(
        "oracle",
        "Oracle recovery over the items asked with beams and samples (%)",
        (DECODING, *columns, Column("drop_minus_greedy", "drop − greedy drop")),
        rows,
    )


def recovery(subject: ArmResults) -> Table:
    """Open failures that broader decoding recovers, with the placebo."""
    rows: list[list[Cell]] = []
    rules = []
    for way in ORACLES:
        for name, parts in (("gold", RECOVERED), ("control answer", CONTROLS)):
            found = [subject.figure(part.measure.format(way)) for part in parts]
            if any(found):
                rows.append([f"{way}: {name}", *found, *[None] * (len(RECOVERED) - len(found))])
                rules += [len(rows) - 1] if name == "control answer" else []
    return Table(
        "recovery",
        "Open failures in which broader decoding finds gold, or the control answer, a wrong option (%)",
        (DECODING, *(part.column()._replace(name=_part(part)) for part in RECOVERED)),
        rows,
        rules=rules,
    )


def samples(subject: ArmResults) -> Table:
    """Probability that one of k samples is right."""
    changes = [(k, subject.change(f"pass_at/{k}")) for k in range(1, LARGEST_K + 1)]
    return Table(
        "pass_at_k",
        "Chance that one of k samples is right, pass@k (%)",
        (Column("k", "k", "text"), Column("base", "base"), Column("arm", "arm")),
        [(k, *change) for k, change in changes if change],
    )


def one_shot(subject: ArmResults) -> Table:
    """Open generation without and with one example, and what the example gives back."""
    shots = {"zero_shot": "0 shot", "one_shot": "1 shot"}

    def cells(scope: str) -> list[Cell]:
        changes = [subject.change(f"accuracy/{shot}", scope) for shot in shots]
        n = n_of(subject.figure("accuracy/one_shot", scope))
        return [n, *changes, *values(ONE_SHOT, subject.figures, subject.arm, scope)]

    asked = given([Of("accuracy/one_shot", "")], subject.figures, subject.arm, subject.scopes)
    rows, rules = by_scope(subject.scopes if asked else [], cells)
    return Table(
        "one_shot",
        "One example in the prompt: open accuracy, base → arm, and drops (%)",
        (
            LANGUAGE,
            N._replace(place="files"),
            *(Column(name, label) for name, label in shots.items()),
            *(of.column() for of in ONE_SHOT),
        ),
        rows,
        rules=rules,
    )


def oracle_file(results: Results) -> Table:
    """Accuracy with greedy decoding, in any beam and in any sample, and pass@k, by model and language."""
    figures = lookup(results.diagnosis.figures)
    ways = [Of(f"accuracy/oracle_{way}", way) for way in WAYS]
    curve = [Of(f"pass_at/{k}", f"pass@{k}") for k in range(1, LARGEST_K + 1)]
    rows = by_model(ways, figures, (BASE, *results.arms), (*results.languages, POOLED))
    return Table(
        "oracle",
        "What broader decoding finds: oracle recovery (%)",
        (MODEL, LANGUAGE, N, *(of.column() for of in (*ways, *curve))),
        [
            (model, scope, n_of(found[0]), *found, *values(curve, figures, model, scope))
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
    figures, parts = lookup(results.diagnosis.figures), (*RECOVERED, *CONTROLS)
    rows = []
    for arm in results.arms:
        for scope in (*results.languages, POOLED):
            for way in ORACLES:
                found = [figures.get((arm, part.measure.format(way), scope)) for part in parts]
                if any(found):
                    rows.append((arm, scope, way, n_of(found[0]), *found))
    return Table(
        "recovery",
        "Open failures that broader decoding recovers (%)",
        (ARM, LANGUAGE, DECODING, N, *(part.column(full=True)._replace(name=_part(part)) for part in parts)),
        rows,
        ("control answer: how often a wrong option is found in gold's place. n: the arm's open failures.",),
        keys=3,
    )


def _part(of: Of) -> str:
    part = of.measure.rpartition("/")[2]
    return "arm_failures" if part == "arm" else part
