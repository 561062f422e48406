"""Long answers: how they end, what an arm says along base's, and the damage by position in the answer."""

from __future__ import annotations

from anomia.measure.frame import POOLED
from anomia.measure.long_answers import MOST_MORE_DERAILED, safe_tokens
from anomia.measure.measures import along, long
from anomia.probes import ALONG_TOKENS
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import (
    LANGUAGE,
    Cell,
    Column,
    Filed,
    N,
    Note,
    Table,
    by_scope,
    given,
    n_of,
    named,
    values,
)

CHANGED = {"unended": "never end", "looped": "end in\na loop", "correct": "right"}
FREE = tuple(
    named(long(name), header)
    for name, header in {
        "unended_more": "never end,\nmore",
        "looped_more": "loop,\nmore",
        "equal": "same\ntokens",
        "same_final": "same final\nanswer",
        "same_script": "same\nscript",
        "same_language": "same\nlanguage",
        "same_layout": "same\nformat",
    }.items()
)
ALONG = (
    *(
        named(along(name), header)
        for name, header in {
            "top": "rank 1",
            "demoted": "rank\n2 to 10",
            "lost": "rank\nover 10",
            "top1_agreement": "top-1\nagreement",
            "end": "ends where\nbase ends",
        }.items()
    ),
    named(along("kl"), "KL\n(nats)")._replace(kind="number"),
)
# Merging tokens can only lower a divergence.
_KL = f"KL(base ‖ arm), a lower bound: over base's {ALONG_TOKENS} likeliest tokens, and all others as one"
FREE_FILE = Filed(
    "long_answers",
    "Long answers (%)",
    "Free answers: greedy, from the prompt alone. Never end: they reach the limit of tokens. Along base's answer: "
    f"the arm is given base's tokens, and ranks each next one. {_KL}, in nats.",
    keys=2,
)
DAMAGE_FILE = Filed(
    "long_answers_by_position",
    "Long answers by position (%)",
    "Tokens of the answer are counted from 0. Rank: of base's tokens, given base's tokens before them. Followed: free "
    f"answers that equal base's up to the end of the stretch. {_KL}, in nats.",
    keys=3,
)


_STOPPED = (
    "answers were stopped at loops and count as not ending; intervals contain that they might have ended, and what "
    "their whole text might have been"
)


def long_answers(subject: ArmResults) -> Table:
    """How the free answers end, how far they are base's, and the ranks along base's answers."""
    shown = given((*FREE, *ALONG), subject.figures, subject.arm, subject.scopes)
    changes = [name for name in CHANGED if subject.figure(long(name)) is not None]

    def cells(scope: str) -> list[Cell]:
        found = [subject.change(long(name), scope) for name in changes]
        n = n_of(subject.figure(long("unended"), scope))
        return [n, *found, *values(shown, subject.figures, subject.arm, scope)]

    rows, rules = by_scope(subject.scopes if shown else [], cells)
    stopped = subject.results.study.get("stop_at_loops")
    return Table(
        "long_answers",
        "Long answers: free ones (base → arm), and along base's (%)",
        (
            LANGUAGE,
            N._replace(place="files"),
            *(Column(f"long_{name}", CHANGED[name]) for name in changes),
            *(of.column() for of in shown),
        ),
        rows,
        (
            "never end: they reach the limit of tokens; more: points above base's; rank and KL: of each token of "
            "base's answer, given the tokens before it",
            _KL,
            *([_STOPPED] if stopped else []),
        )
        if rows
        else (),
        rules=rules,
    )


def by_position(subject: ArmResults) -> Table:
    """The damage in each stretch of the answers, and up to which length they are safe."""
    mine = [row for row in subject.results.diagnosis.damage if row.arm == subject.arm]
    rows: list[list[Cell]] = [
        [
            row.scope,
            f"{row.first}–{row.last - 1}",
            n_of(row.top),
            row.top,
            row.demoted,
            row.lost,
            row.kl,
            row.followed,
            row.derailed,
            row.derailed_more,
        ]
        for row in mine
    ]
    pooled = [place for place, row in enumerate(mine) if row.scope == POOLED]
    return Table(
        "long_answers_by_position",
        "Long answers by position in the answer, in tokens (%)",
        (
            LANGUAGE._replace(place="files"),
            Column("tokens", "tokens", "text"),
            Column("n", "answers of base\nthat long", "count"),
            Column("rank_1", "rank 1"),
            Column("rank_2_to_10", "rank\n2 to 10"),
            Column("rank_over_10", "rank\nover 10"),
            Column("kl", "KL\n(nats)", "number"),
            Column("followed", "free answer\nstill base's"),
            Column("derailed", "derailed"),
            Column("derailed_more", "derailed,\nmore than base"),
        ),
        rows,
        _notes(subject) if rows else (),
        keys=2,
        on_screen=pooled,
    )


def _notes(subject: ArmResults) -> list[Note]:
    mine = [row for row in subject.results.diagnosis.damage if row.arm == subject.arm]
    safe, most = safe_tokens(mine), f"{100 * MOST_MORE_DERAILED:.0f} %"
    explained = "derailed: it loops, or runs on without an end where base has ended"
    return [
        f"safe up to {safe} tokens: the interval of what derails beyond base's stays within {most}"
        if safe
        else f"no safe length: up to one, at most {most} more answers derail than in base, and at most half of base's "
        "own",
        explained,
        _KL,
    ]
