"""Ranks of the answer's token and of the control answer's, log-probabilities, and shifts of the next-token
distributions.
"""

from __future__ import annotations

from collections.abc import Mapping

from anomia.measure import measures
from anomia.measure.fates import FATES
from anomia.measure.figures import RankRow, lookup
from anomia.measure.frame import POOLED
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import ARM, LANGUAGE, Cell, Change, Column, N, Note, NoteValue, Table

GROUPS = {"all": "all", "base_fails": "base fails"} | {name: name.replace("_", " ") for name in FATES}
TOKENS = {"gold": ("control", "first"), "gold_distinct": ("control_distinct", "first of its own")}
# Keys: place, when, group, scope.
Ranks = Mapping[tuple[str, str, str, str], RankRow]


def ranks(subject: ArmResults) -> Table:
    """Median ranks of gold and of the control answer before → after: by fate, then by language."""
    found = _of_arm(subject.results, subject.arm)
    changes = {
        (row.group, row.scope): row.change
        for row in subject.results.diagnosis.log_probs
        if row.arm == subject.arm
    }
    places = [(group, label, POOLED) for group, label in GROUPS.items()]
    places += [("all", f"all, {scope}", scope) for scope in subject.scopes if scope != POOLED]
    rows: list[list[Cell]] = []
    rules = []
    for group, label, scope in places:
        after = found.get(("gold_distinct", "after", group, scope))
        if after is None:
            continue
        medians = [
            _change(found, place, group, scope) for place in ("gold", "gold_distinct", "control_distinct")
        ]
        margin = after.margin_interval or after.median_margin
        rows.append([label, after.n, *medians, _within_10(after), margin, changes.get((group, scope))])
        rules += [len(rows) - 1] if group == FATES[-1] else []
    return Table(
        "ranks",
        "Median rank of the answer's token, base → arm (1: the likeliest token)",
        (
            Column("items", "items", "text"), N,
            Column("gold", "gold", "rank"), Column("gold_distinct", "gold, distinct", "rank"),
            Column("control_distinct", "control answer,\ndistinct", "rank"),
            Column("within_10_arm", "within 10\nin arm (%)"),
            Column("margin_arm", "logits below\nthe likeliest", "number", 1),
            Column("log_prob_change", "log-prob,\nchange", "number", 1),
        ),
        rows,
        _notes(subject, found),
        rules=rules,
    )  # fmt: skip


def ranks_file(results: Results) -> Table:
    """Ranks of gold's token and of the control answer's, before and after, by arm, language and group of items."""
    probs = {(row.arm, row.group, row.scope): row for row in results.diagnosis.log_probs}
    rows: list[tuple[Cell, ...]] = []
    for arm in dict.fromkeys(row.arm for row in results.diagnosis.ranks):
        known = _of_arm(results, arm)
        for (place, when, group, scope), after in known.items():
            if place not in TOKENS or when != "after":
                continue
            control, words = TOKENS[place]
            at_base = known.get((place, "before", group, scope))
            controls = [known.get((control, at, group, scope)) for at in ("before", "after")]
            prob = probs.get((arm, group, scope))
            rows.append(
                (
                    arm, scope, words, GROUPS[group], after.n, _median(at_base), _median(after), after.lower_quartile,
                    after.upper_quartile, _within_10(after), *map(_median, controls),
                    prob.before if prob else None, prob.after if prob else None,
                )
            )  # fmt: skip
    return Table(
        "ranks",
        "Median ranks of the answer's token after the open prompt",
        (
            ARM, LANGUAGE, Column("token", "token", "text"), Column("items", "items", "text"), N,
            Column("rank_base", "rank, base", "rank"), Column("rank_arm", "rank, arm", "rank"),
            Column("lower_quartile_arm", "lower quartile, arm", "number"),
            Column("upper_quartile_arm", "upper quartile, arm", "number"),
            Column("within_10_arm", "within 10, arm"),
            Column("control_rank_base", "control answer, base", "rank"),
            Column("control_rank_arm", "control answer, arm", "rank"),
            Column("log_prob_base", "log-prob, base", "number"), Column("log_prob_arm", "log-prob, arm", "number"),
        ),
        rows,
        (
            "Rank: 1 + tokens with a larger logit; 1 is the likeliest token. control answer: a wrong option in "
            "gold's place. log-prob: median of the whole answer's, in nats.",
        ),
        keys=4,
    )  # fmt: skip


def divergence_file(results: Results) -> Table:
    """How far the next-token distributions moved, by arm and language."""
    figures = lookup(results.diagnosis.figures)
    rows = [
        (
            row.arm,
            row.scope,
            row.n,
            figures.get((row.arm, measures.divergence("kl"), row.scope)),
            row.median_interval or row.median,
            row.upper_decile_interval or row.upper_decile,
            figures.get((row.arm, measures.divergence("top1_agreement"), row.scope)),
        )
        for row in results.diagnosis.divergence
    ]
    return Table(
        "divergence",
        "Divergence of the next-token distributions",
        (
            ARM, LANGUAGE, N, Column("kl_mean", "KL, mean", "number"), Column("kl_median", "KL, median", "number"),
            Column("kl_upper_decile", "KL, 90 % quantile", "number"),
            Column("top1_agreement", "top-1 agreement (%)"),
        ),
        rows,
        ("KL(base ‖ arm) of the next token after the open prompt, in nats: a lower bound.",),
        keys=2,
    )  # fmt: skip


def _notes(subject: ArmResults, found: Ranks) -> list[Note]:
    notes: list[Note] = [
        "distinct: the first token that no other option shares; logits below: median, in the arm; log-prob: of "
        "the whole answer, mean of arm − base, in nats"
    ]
    if any(row.median_interval is None for row in found.values()):
        notes.append("a median without an interval has too few items for one")
    unsaid = found.get(("gold_distinct", "after", "choice_only", POOLED))
    if unsaid is not None and unsaid.vocabulary_share is not None:
        tokens = round(unsaid.median / unsaid.vocabulary_share)
        median = NoteValue(_median(unsaid), "rank")
        notes.append(("picked but no longer answered: median rank ", median, f" of {tokens:,} tokens"))
    kl, same = (
        subject.figure(measures.divergence("kl")),
        subject.figure(measures.divergence("top1_agreement")),
    )
    if kl and same:
        shown = NoteValue(kl, "number"), " nats; top-1 agreement ", NoteValue(same)
        notes.append(("KL(base ‖ arm) ", *shown, " %"))
    return notes


def _of_arm(results: Results, arm: str) -> Ranks:
    rows = results.diagnosis.ranks
    return {(row.place, row.when, row.group, row.scope): row for row in rows if row.arm == arm}


def _change(found: Ranks, place: str, group: str, scope: str) -> Change | None:
    was, after = (_median(found.get((place, when, group, scope))) for when in ("before", "after"))
    return None if was is None or after is None else Change(was, after)


def _median(row: RankRow | None) -> Estimate | float | None:
    return None if row is None else row.median_interval or row.median


def _within_10(row: RankRow) -> Estimate | float:
    return row.within_10_interval or row.within_10
