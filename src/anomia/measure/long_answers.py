"""Figures of long answers: how they end, what the arm says along base's, and the damage by position in the answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from anomia.measure import measures
from anomia.measure.accuracies import rates_of
from anomia.measure.figures import DamageRow, Figure, Lookup
from anomia.measure.frame import POOLED, Floats, both, floats, known, right, scopes
from anomia.measure.measures import Measure
from anomia.measure.paired import paired_difference
from anomia.measure.rates import Estimate, rate, student_mean
from anomia.probes import CONTINUATION
from anomia.words import percent

# Positions at which the stretches of an answer end.
ENDS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
# Tokens with a rank above 1 and up to this one are demoted; those below are lost.
DEMOTED = 10
# An arm is safe up to the position at which clearly fewer than this share more of its answers than of base's derail.
MOST_MORE_DERAILED = 0.10


def long_figures(arm: str, rows: pl.DataFrame) -> Iterator[Figure]:
    """How the free answers of one arm end, and whether they are right."""
    languages = set(rows["language"].unique())

    def of(
        measure: Measure, column: str, value: Callable[[pl.DataFrame], Floats] | None = None
    ) -> Iterator[Figure]:
        part = known(rows, [f"{CONTINUATION}_{column}"])
        if part.is_empty():
            return
        values = floats(part, f"{CONTINUATION}_{column}") if value is None else value(part)
        yield from rates_of(arm, measure, part, values, part["passage"].to_numpy(), languages=languages)

    yield from of(measures.long("unended"), "ended", lambda part: 1 - floats(part, f"{CONTINUATION}_ended"))
    yield from of(measures.long("looped"), "ended", _looped)
    yield from of(measures.long("correct"), "correct")


def long_changes(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """The free answers of an arm next to base's, and what the arm says along base's answers."""
    free = known(pairs, both(f"{CONTINUATION}_ended"))
    passages = free["passage"].to_numpy()
    for scope, mask in scopes(free):
        for name, share in (("unended_more", _unended), ("looped_more", _looped)):
            before, after = (share(free, side)[mask] for side in ("", "_arm"))
            yield Figure(arm, measures.long(name), scope, paired_difference(after, before, passages[mask]))
    for name in ("equal", "same_final", "same_script", "same_language", "same_layout"):
        part = known(pairs, [f"{CONTINUATION}_{name}_arm"])
        ids = part["passage"].to_numpy()
        values = floats(part, f"{CONTINUATION}_{name}_arm")
        for scope, mask in scopes(part):
            yield Figure(arm, measures.long(name), scope, rate(values[mask], ids[mask]))
    yield from _along(arm, pairs)


def _along(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """What the arm says along base's answers; of a served arm only the ranks."""
    looked_at = pairs.with_columns(_before_copies(name) for name in ("ranks", "top1", "kl"))

    def of(column: str, value: Callable[[Floats], float]) -> tuple[pl.DataFrame, Floats]:
        part = known(looked_at, [f"{CONTINUATION}_{column}_arm"])
        part = part.filter(pl.col(f"{CONTINUATION}_{column}_arm").list.len() > 0)
        found = [value(np.asarray(each)) for each in part[f"{CONTINUATION}_{column}_arm"].to_list()]
        return part, np.array(found, dtype=np.float64)

    shares = {name: of("ranks", share) for name, share in _RANKS.items()}
    shares["top1_agreement"] = of("top1", lambda agrees: float(np.mean(agrees)))
    part, chances = of("end_log_probs", lambda logs: min(1.0, math.exp(logs[-1])))
    ended = right(part, f"{CONTINUATION}_ended")
    shares["end"] = part.filter(ended), chances[ended]
    for name, (part, values) in shares.items():
        for scope, mask in scopes(part):
            yield Figure(
                arm, measures.along(name), scope, rate(values[mask], part["passage"].to_numpy()[mask])
            )
    part, kl = of("kl", lambda nats: float(np.mean(nats)))
    for scope, mask in scopes(part):
        yield Figure(
            arm, measures.along("kl"), scope, student_mean(kl[mask], part["passage"].to_numpy()[mask])
        )


def damage_rows(arm: str, pairs: pl.DataFrame) -> Iterator[DamageRow]:
    """The damage in each stretch of the answers, up to the longest answer of either model."""
    part = known(pairs, both(f"{CONTINUATION}_ended"))
    if part.is_empty():
        return
    part = part.with_columns(_before_copies(name) for name in ("ranks", "kl"))
    passages = part["passage"].to_numpy()
    ranks, kl, lengths = (part[f"{CONTINUATION}_{name}"].to_list() for name in ("ranks_arm", "kl_arm", "ids"))
    own = part[f"{CONTINUATION}_ids_arm"].list.len().to_numpy()
    longest = max(int(own.max()), max(map(len, lengths)))
    same = [
        len(ids) if at is None else at
        for ids, at in zip(lengths, part[f"{CONTINUATION}_divergence_arm"], strict=True)
    ]
    equal = (
        part[f"{CONTINUATION}_equal_arm"].to_numpy().astype(bool)
        if part[f"{CONTINUATION}_equal_arm"].is_not_null().all()
        else None
    )
    derails = _loop_starts(part, ""), _derails(part)
    for scope, mask in scopes(part):
        here = np.flatnonzero(mask)
        for first, last in itertools.pairwise((0, *ENDS)):
            if first >= longest:
                break
            reached = [n for n in here if ranks[n] is not None and len(ranks[n]) > first]
            pieces = [np.asarray(ranks[n][first:last]) for n in reached]
            ids = passages[reached]
            told = all(kl[n] is not None for n in reached)
            before, after = ((starts[here] < last).astype(np.float64) for starts in derails)
            followed = None
            if equal is not None:
                followed = rate([bool(equal[n]) or same[n] >= last for n in here], passages[here])
            top, demoted, lost = (rate([share(each) for each in pieces], ids) for share in _RANKS.values())
            yield DamageRow(
                arm,
                scope,
                first,
                last,
                top=top,
                demoted=demoted,
                lost=lost,
                kl=student_mean([float(np.mean(kl[n][first:last])) for n in reached], ids) if told else None,
                followed=followed,
                derailed=rate(after, passages[here]),
                derailed_more=paired_difference(after, before, passages[here]),
            )


def safe_tokens(rows: Sequence[DamageRow], scope: str = POOLED) -> int | None:
    """The length up to which an arm's answers clearly derail hardly more often than base's; None if at no length.

    "Hardly" means that the interval of the difference stays within `MOST_MORE_DERAILED`.
    """
    safe = None
    for row in rows:
        if row.scope != scope:
            continue
        if row.derailed_more is None or row.derailed_more.high > MOST_MORE_DERAILED:
            break
        safe = row.last
    return safe


def long_words(arm: str, figures: Lookup, rows: Sequence[DamageRow], scope: str = POOLED) -> tuple[str, str]:
    """What the long answers show, in sentences: the finding if there is one, and the figures; empty if not asked."""
    unended, more = (figures.get((arm, measures.long(name), scope)) for name in ("unended", "unended_more"))
    looped, loops_more = (
        figures.get((arm, measures.long(name), scope)) for name in ("looped", "looped_more")
    )
    if unended is None or more is None or looped is None or loops_more is None:
        return "", ""
    finding = ""
    if more.low > 0:
        finding = f"Of its long answers {_range(unended)} never end, {_points(more)} more than base's"
        finding += f"; {_range(looped)} loop." if loops_more.low > 0 else "."
    elif loops_more.low > 0:
        finding = (
            f"Of its long answers {_range(looped)} end in a loop, {_points(loops_more)} more than base's."
        )
    told = []
    if not finding:
        told.append(
            f"Of its long answers {_range(unended)} don't end and {_range(looped)} loop, not clearly more than base's."
        )
    top, demoted, lost = (figures.get((arm, measures.along(name), scope)) for name in _RANKS)
    if top and demoted and lost:
        told.append(
            f"Along base's long answers it ranks {percent(top.value)} of the tokens first, {percent(demoted.value)} second "
            f"to tenth, and {percent(lost.value)} lower."
        )
    mine = [row for row in rows if row.arm == arm and row.scope == scope]
    safe = safe_tokens(mine, scope)
    whole = mine and safe is not None and safe >= mine[-1].last
    if mine and not whole:
        most = percent(MOST_MORE_DERAILED)
        told.append(
            f"They are safe up to {safe} tokens: at most {most} more of them than of base's loop or run on."
            if safe
            else f"No length is shown to be safe, with at most {most} more answers than base's that loop or run on."
        )
    return finding, " ".join(told)


_RANKS: dict[str, Callable[[Floats], float]] = {
    "top": lambda ranks: float(np.mean(ranks == 1)),
    "demoted": lambda ranks: float(np.mean((ranks > 1) & (ranks <= DEMOTED))),
    "lost": lambda ranks: float(np.mean(ranks > DEMOTED)),
}


def _before_copies(name: str) -> pl.Expr:
    """A list along base's answers without the positions at which base repeats itself.

    There it copies what stands before, which any model can, so that a damaged one would seem sound.
    """
    column = f"{CONTINUATION}_{name}_arm"
    told = pl.col(f"{CONTINUATION}_loop_start") + pl.col(f"{CONTINUATION}_loop_period")
    return (
        pl.when(told.is_null()).then(pl.col(column)).otherwise(pl.col(column).list.head(told)).alias(column)
    )


def _unended(part: pl.DataFrame, side: str = "") -> Floats:
    return 1 - floats(part, f"{CONTINUATION}_ended{side}")


def _looped(part: pl.DataFrame, side: str = "") -> Floats:
    return part[f"{CONTINUATION}_loop_start{side}"].is_not_null().to_numpy().astype(np.float64)


def _derails(part: pl.DataFrame) -> Floats:
    """Where each free answer of the arm derails, [items]: it starts to loop, or base has ended and it never does."""
    loops = _loop_starts(part, "_arm")
    runs_on = part[f"{CONTINUATION}_ended"].to_numpy() & ~part[f"{CONTINUATION}_ended_arm"].to_numpy()
    ends = part[f"{CONTINUATION}_ids"].list.len().cast(pl.Float64).to_numpy()
    return np.minimum(loops, np.where(runs_on, ends, math.inf))


def _loop_starts(part: pl.DataFrame, side: str) -> Floats:
    """Where each free answer starts to loop, [items]; infinite where it doesn't."""
    return part[f"{CONTINUATION}_loop_start{side}"].cast(pl.Float64).fill_null(math.inf).to_numpy()


def _range(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} points ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"
