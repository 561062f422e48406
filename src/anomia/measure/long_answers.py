"""Figures of long answers: how they end, what the arm says along base's, and the damage by position in the answer.

Whether an answer ends in the end, and what it says on the whole, isn't known if it was stopped at a loop. Such figures
are computed from the part that there is, with no end, and their intervals contain whatever the rest would have made of
them. Loops, and what the arm says along base's answer up to where base repeats itself, are the same as without
stopping.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomia.measure import measures
from anomia.measure.accuracies import rates_of
from anomia.measure.figures import DamageRow, Figure, Lookup
from anomia.measure.frame import POOLED, Bools, Floats, floats, known, right, scopes
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

    def of(name: str, part: pl.DataFrame, values: Floats, cut: Bools) -> Iterator[Figure]:
        if part.is_empty():
            return
        passages = part["passage"].to_numpy()
        found = (
            rates_of(arm, measures.long(name), part, case, passages, languages=languages)
            for case in _cases(values, cut)
        )
        for figures in zip(*found, strict=True):
            yield figures[0]._replace(estimate=_spanning([figure.estimate for figure in figures]))

    free = _answered(rows, [""])
    yield from of("unended", free, _unended(free), _cut(free))
    yield from of("looped", free, _looped(free), np.zeros(len(free), dtype=np.bool_))
    graded = known(rows, [f"{CONTINUATION}_correct"])
    yield from of("correct", graded, floats(graded, f"{CONTINUATION}_correct"), _cut(graded))


def long_changes(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """The free answers of an arm next to base's, and what the arm says along base's answers."""
    free = _answered(pairs, ["", "_arm"])
    passages = free["passage"].to_numpy()
    cuts = [_cut(free, side) for side in ("", "_arm")]
    ends, loops = ([of(free, side) for side in ("", "_arm")] for of in (_unended, _looped))
    for scope, mask in scopes(free):
        ids = passages[mask]
        more = _difference(ends[1][mask], cuts[1][mask], ends[0][mask], cuts[0][mask], ids)
        yield Figure(arm, measures.long("unended_more"), scope, more)
        more = paired_difference(loops[1][mask], loops[0][mask], ids)
        yield Figure(arm, measures.long("looped_more"), scope, more)
    for name in ("equal", "same_final", "same_script", "same_language", "same_layout"):
        column = f"{CONTINUATION}_{name}_arm"
        # Two answers of which one was stopped before they differ are equal as far as they go.
        part = (
            pairs.filter(pl.col(column).is_not_null() | _same_so_far(pairs))
            if name == "equal"
            else known(pairs, [column])
        )
        values = part[column].fill_null(True).cast(pl.Float64).to_numpy()
        cut = part[column].is_null().to_numpy() if name == "equal" else _cut(part) | _cut(part, "_arm")
        ids = part["passage"].to_numpy()
        for scope, mask in scopes(part):
            yield Figure(arm, measures.long(name), scope, _share(values[mask], cut[mask], ids[mask]))
    yield from _along(arm, pairs)


def _along(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """What the arm says along base's answers; of a served arm only the ranks."""
    looked_at = pairs.with_columns(before_copies(name) for name in ("ranks", "top1", "kl"))

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
            arm,
            measures.along("kl"),
            scope,
            student_mean(kl[mask], part["passage"].to_numpy()[mask], least=0.0),
        )


def damage_rows(arm: str, pairs: pl.DataFrame) -> Iterator[DamageRow]:
    """The damage in each stretch of the answers, up to the longest answer of either model."""
    part = _answered(pairs, ["", "_arm"])
    if part.is_empty():
        return
    part = part.with_columns(before_copies(name) for name in ("ranks", "kl"))
    passages = part["passage"].to_numpy()
    ranks, kl, lengths = (part[f"{CONTINUATION}_{name}"].to_list() for name in ("ranks_arm", "kl_arm", "ids"))
    own = part[f"{CONTINUATION}_ids_arm"].list.len().to_numpy()
    longest = max(int(own.max()), max(map(len, lengths)), _longest_cut(part, ""), _longest_cut(part, "_arm"))
    same = [
        len(ids) if at is None else at
        for ids, at in zip(lengths, part[f"{CONTINUATION}_divergence_arm"], strict=True)
    ]
    # Null as well where one was stopped before they differ.
    alike = part[f"{CONTINUATION}_equal_arm"]
    unknown = part.select(_same_so_far(part)).to_series().to_numpy()
    equal = alike.fill_null(True).to_numpy() if (alike.is_not_null().to_numpy() | unknown).all() else None
    loops = _loop_starts(part, "")
    derails = _derails(part), _derails(part, arm=True), _derails(part, base=True)
    for scope, mask in scopes(part):
        here = np.flatnonzero(mask)
        for first, last in itertools.pairwise((0, *ENDS)):
            if first >= longest:
                break
            reached = [n for n in here if ranks[n] is not None and len(ranks[n]) > first]
            pieces = [np.asarray(ranks[n][first:last]) for n in reached]
            ids = passages[reached]
            compared = all(kl[n] is not None for n in reached)
            before = (loops[here] < last).astype(np.float64)
            after = [(starts[here] < last).astype(np.float64) for starts in derails]
            followed = None
            if equal is not None:
                told = np.array([same[n] >= last for n in here])
                followed = _share(
                    (told | equal[here]).astype(np.float64), unknown[here] & ~told, passages[here]
                )
            top, demoted, lost = (rate([share(each) for each in pieces], ids) for share in _RANKS.values())
            yield DamageRow(
                arm,
                scope,
                first,
                last,
                top=top,
                demoted=demoted,
                lost=lost,
                kl=student_mean([float(np.mean(kl[n][first:last])) for n in reached], ids, least=0.0)
                if compared
                else None,
                followed=followed,
                derailed=_spanning([rate(case, passages[here]) for case in after]),
                derailed_more=_spanning([paired_difference(case, before, passages[here]) for case in after]),
            )


def safe_tokens(rows: Sequence[DamageRow], scope: str = POOLED) -> int | None:
    """The length up to which an arm's answers clearly derail hardly more often than base's; None if at no length.

    "Hardly" means that the interval of the difference stays within `MOST_MORE_DERAILED`. Where most of base's own
    answers have derailed, no length is safe, however little the arm adds.
    """
    safe = None
    for row in rows:
        if row.scope != scope:
            continue
        if row.derailed_more is None or row.derailed_more.high > MOST_MORE_DERAILED or base_derails(row):
            break
        safe = row.last
    return safe


def base_derails(row: DamageRow) -> bool:
    """Whether more than half of base's own answers have derailed by the end of a stretch."""
    return (
        row.derailed is not None
        and row.derailed_more is not None
        and row.derailed.value - row.derailed_more.value > 0.5
    )


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
    remarks = []
    if not finding:
        remarks.append(
            f"Of its long answers {_range(unended)} don't end and {_range(looped)} loop, not clearly more than base's."
        )
    top, demoted, lost = (figures.get((arm, measures.along(name), scope)) for name in _RANKS)
    if top and demoted and lost:
        remarks.append(
            f"Along base's long answers it ranks {percent(top.value)} of the tokens first, {percent(demoted.value)} "
            f"second to tenth, and {percent(lost.value)} lower."
        )
    mine = [row for row in rows if row.arm == arm and row.scope == scope]
    safe = safe_tokens(mine, scope)
    whole = mine and safe is not None and safe >= mine[-1].last
    if mine and not whole:
        most = percent(MOST_MORE_DERAILED)
        if safe:
            remarks.append(
                f"They are safe up to {safe} tokens: at most {most} more of them than of base's loop or run on."
            )
        elif base_derails(mine[0]):
            remarks.append("No length is safe, because most of base's own answers loop.")
        else:
            remarks.append(
                f"No length is shown to be safe, with at most {most} more answers than base's that loop or run on."
            )
    return finding, " ".join(remarks)


_RANKS: dict[str, Callable[[Floats], float]] = {
    "top": lambda ranks: float(np.mean(ranks == 1)),
    "demoted": lambda ranks: float(np.mean((ranks > 1) & (ranks <= DEMOTED))),
    "lost": lambda ranks: float(np.mean(ranks > DEMOTED)),
}


def before_copies(name: str) -> pl.Expr:
    """A list along base's answers without the positions at which base repeats itself.

    There it copies what stands before, which any model can, so that a damaged one would seem sound.
    """
    column = f"{CONTINUATION}_{name}_arm"
    first_round = pl.col(f"{CONTINUATION}_loop_start") + pl.col(f"{CONTINUATION}_loop_period")
    return (
        pl.when(first_round.is_null())
        .then(pl.col(column))
        .otherwise(pl.col(column).list.head(first_round))
        .alias(column)
    )


def _answered(rows: pl.DataFrame, sides: Sequence[str]) -> pl.DataFrame:
    """The rows with a free answer of which it is known how it ends, or which was stopped at a loop."""
    return rows.filter(
        pl.all_horizontal(
            pl.col(f"{CONTINUATION}_ended{side}").is_not_null() | pl.col(_stopped(side)).is_not_null()
            for side in sides
        )
    )


def _stopped(side: str) -> str:
    return f"{CONTINUATION}_stopped{side}"


def _cut(part: pl.DataFrame, side: str = "") -> Bools:
    """Free answers that were stopped at a loop: [items]."""
    return part[_stopped(side)].is_not_null().to_numpy()


def _same_so_far(pairs: pl.DataFrame) -> pl.Expr:
    """Whether the answers of base and arm are equal up to where one of them was stopped: [items]."""
    stopped = pl.col(_stopped("")).is_not_null() | pl.col(_stopped("_arm")).is_not_null()
    compared = pl.col(f"{CONTINUATION}_same_final_arm").is_not_null()
    return stopped & compared & pl.col(f"{CONTINUATION}_equal_arm").is_null()


def _longest_cut(part: pl.DataFrame, side: str) -> int:
    """The length in tokens that the longest stopped answer might have reached; 0 if there is none.

    An answer is stopped when its loop spans half of the tokens that it might have had.
    """
    spans = part[_stopped(side)] - part[f"{CONTINUATION}_loop_start{side}"]
    longest = spans.max()
    return 0 if longest is None else 2 * int(str(longest))


def _cases(values: Floats, cut: Bools) -> list[Floats]:
    """Values as far as answers go, then the lowest and highest that the rest of cut answers allows: [items] each."""
    if not cut.any():
        return [values]
    return [values, np.where(cut, 0.0, values), np.where(cut, 1.0, values)]


def _spanning(cases: Sequence[Estimate | None]) -> Estimate | None:
    """The first estimate, with an interval that contains those of all others."""
    found = [case for case in cases if case is not None]
    if len(found) < 2:
        return found[0] if found else None
    low, high = min(case.low for case in found), max(case.high for case in found)
    return found[0]._replace(low=low, high=high)


def _share(values: Floats, cut: Bools, passages: NDArray[np.intp]) -> Estimate | None:
    """The mean of values from 0 to 1, of which those of cut answers aren't known."""
    return _spanning([rate(case, passages) for case in _cases(values, cut)])


def _difference(
    after: Floats, cut_after: Bools, before: Floats, cut_before: Bools, passages: NDArray[np.intp]
) -> Estimate | None:
    """The paired difference after − before, of which values of cut answers aren't known."""
    cases = [(after, before)]
    if cut_after.any() or cut_before.any():
        for most in (0.0, 1.0):
            cases.append((np.where(cut_after, most, after), np.where(cut_before, 1 - most, before)))
    return _spanning([paired_difference(one, other, passages) for one, other in cases])


def _unended(part: pl.DataFrame, side: str = "") -> Floats:
    """Free answers that don't end; those that were stopped hadn't by then: [items]."""
    return 1 - part[f"{CONTINUATION}_ended{side}"].fill_null(False).cast(pl.Float64).to_numpy()


def _looped(part: pl.DataFrame, side: str = "") -> Floats:
    return part[f"{CONTINUATION}_loop_start{side}"].is_not_null().to_numpy().astype(np.float64)


def _derails(part: pl.DataFrame, *, arm: bool = False, base: bool = False) -> Floats:
    """Where each free answer of the arm derails, [items]: it starts to loop, or base has ended and it never does.

    arm, base: whether answers of theirs that were stopped at a loop would have ended; for base's, right there.
    """
    loops = _loop_starts(part, "_arm")
    base_ended, arm_ended = right(part, f"{CONTINUATION}_ended"), right(part, f"{CONTINUATION}_ended_arm")
    if base:
        base_ended = base_ended | _cut(part)
    if arm:
        arm_ended = arm_ended | _cut(part, "_arm")
    ends = part[f"{CONTINUATION}_ids"].list.len().cast(pl.Float64).to_numpy()
    return np.minimum(loops, np.where(base_ended & ~arm_ended, ends, math.inf))


def _loop_starts(part: pl.DataFrame, side: str) -> Floats:
    """Where each free answer starts to loop, [items]; infinite where it doesn't."""
    return part[f"{CONTINUATION}_loop_start{side}"].cast(pl.Float64).fill_null(math.inf).to_numpy()


def _range(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} points ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"
