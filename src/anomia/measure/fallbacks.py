"""What decoding otherwise gives back, with the weights as they are: one example, or a vote of beams or samples.

Unlike oracle recovery, each way gives one answer that is picked without knowing gold and graded like the free-form
answer, so its share of right answers is an accuracy. It costs tokens, which are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import polars as pl

from anomia.measure.frame import arms_of, both, floats, known, pair, pool, prepare, scopes
from anomia.measure.paired import paired_difference
from anomia.measure.rates import Estimate
from anomia.measure.repaired import share_repaired
from anomia.measure.scope import scope_of
from anomia.measure.vote import short_answer, vote, whole_answer
from anomia.probes import BY_NAME, ONE_SHOT, ORACLES, SAMPLED

_OPEN = BY_NAME["open"]
# Votes on answers to the open prompt, which differ from the free-form answer in nothing but the decoding.
VOTES: tuple[str, ...] = tuple(name for name in ORACLES if BY_NAME[name].prompt == _OPEN.prompt)
WAYS: tuple[str, ...] = (ONE_SHOT, *VOTES)


class FallbackRow(NamedTuple):
    """One way of decoding in an arm and in base, on the items that both answered greedily and that way."""

    arm: str
    way: str
    """`one_shot`, or a vote: `beams`, `samples`."""
    scope: str
    n: int
    base: float
    """Right greedy answers of base, as a share."""
    base_fallback: float
    """Right answers of base decoded this way; with several seeds the mean of their votes."""
    open: float
    """Right greedy answers of the arm."""
    fallback: float
    base_change: Estimate | None
    """base_fallback − base, paired."""
    change: Estimate | None
    """fallback − open, paired."""
    agreed: float | None
    """The share of the arm's votes in which two or more texts give the answer; other votes are one text of many."""
    read: float | None
    """Prompt tokens per answer of the arm, over those of the greedy answer; null where a prompt's weren't recorded."""
    written: float | None
    """Generated tokens per answer of the arm, over those of the greedy answer."""
    estimated: bool
    """Whether generated tokens weren't recorded, so that each text is taken to be as long as the greedy answer."""
    estimate: Estimate | None
    """(fallback − open) / (base − open); null where compression took nothing for certain."""


def fallbacks(records: pl.DataFrame) -> list[FallbackRow]:
    """Rows for every arm and every way of decoding that it and base were asked, by language and pooled."""
    if not any(_asked(records, way) for way in WAYS):
        return []
    records = prepare(_with_costs(_with_votes(records)))
    records = pool(records, scope_of(records).languages)
    return [
        row
        for arm in arms_of(records)
        for paired in (pair(records, arm),)
        for way in WAYS
        for row in _rows(arm, way, paired)
    ]


def _asked(records: pl.DataFrame, way: str) -> bool:
    column = BY_NAME[way].column
    return column in records.columns and records[column].null_count() < len(records)


def _rows(arm: str, way: str, paired: pl.DataFrame) -> Iterator[FallbackRow]:
    part = known(paired, both(_OPEN.column, f"{way}_fallback"))
    if part.is_empty():
        return
    base, mine = (floats(part, f"{_OPEN.column}{side}") for side in ("", "_arm"))
    base_fallback, fallback = (floats(part, f"{way}_fallback{side}") for side in ("", "_arm"))
    passages = part["passage"].to_numpy()
    for scope, mask in scopes(part):
        shown = part.filter(pl.Series(mask))
        yield FallbackRow(
            arm,
            way,
            scope,
            n=int(mask.sum()),
            base=float(base[mask].mean()),
            base_fallback=float(base_fallback[mask].mean()),
            open=float(mine[mask].mean()),
            fallback=float(fallback[mask].mean()),
            base_change=paired_difference(base_fallback[mask], base[mask], passages[mask]),
            change=paired_difference(fallback[mask], mine[mask], passages[mask]),
            agreed=float(floats(shown, f"{way}_agreed_arm").mean()) if way in VOTES else None,
            read=_ratio(shown, f"{way}_read_arm", "prompt_tokens_arm"),
            written=_ratio(shown, f"{way}_written_arm", "open_tokens_arm"),
            estimated=bool(shown[f"{way}_estimated_arm"].any()),
            estimate=share_repaired(base[mask], mine[mask], fallback[mask], passages[mask]),
        )


def _ratio(frame: pl.DataFrame, over: str, under: str) -> float | None:
    """The sum of one column over that of another; None if any value is missing."""
    if frame.select(pl.any_horizontal(pl.col(over, under).is_null()).any()).item():
        return None
    above, below = (float(floats(frame, column).sum()) for column in (over, under))
    return above / below if below else None


def _with_votes(records: pl.DataFrame) -> pl.DataFrame:
    """The records with `…_fallback` for every way, right or wrong, and with `…_agreed`, whether two texts agree.

    With several seeds both are shares of the seeds.
    """
    found = {f"{ONE_SHOT}_fallback": records[BY_NAME[ONE_SHOT].column].cast(pl.Float64)}
    for name in VOTES:
        outcomes = [_by_seed(ballots) for ballots in _ballots(records, name)]
        for place, column in enumerate(("fallback", "agreed")):
            found[f"{name}_{column}"] = pl.Series([each[place] for each in outcomes], dtype=pl.Float64)
    return records.with_columns(**found)


class _Ballots(NamedTuple):
    """The texts of one item that vote together. hits: which are right. log_probs: None for samples."""

    texts: list[str]
    hits: list[bool]
    log_probs: list[float | None] | None
    answer: Callable[[str], str]


def _by_seed(ballots: Sequence[_Ballots]) -> tuple[float | None, float | None]:
    """The shares of seeds whose vote is right, and of those in which two texts agree; None without a vote."""
    found = [_outcome(mine) for mine in ballots]
    given = [outcome for outcome in found if outcome is not None]
    if not given:
        return None, None
    return fmean(right for right, _ in given), fmean(agreed for _, agreed in given)


def _outcome(ballots: _Ballots) -> tuple[bool, bool] | None:
    found = vote(ballots.texts, ballots.log_probs, answer=ballots.answer)
    if found is None:
        return None
    return ballots.hits[ballots.texts.index(found.text)], found.agreeing > 1


def _ballots(records: pl.DataFrame, name: str) -> Iterator[list[_Ballots]]:
    """For each row, its beams, or its samples by seed; none if it wasn't asked or has no right and wrong."""
    probe = BY_NAME[name]
    beside = [probe.each("seeds")] if name in SAMPLED else [probe.each("scores"), probe.each("tokens")]
    columns = ("open_score", "open_tokens", probe.text_column, probe.column, *beside)
    for score, greedy, texts, hits, values, *lengths in records.select(columns).iter_rows():
        answer = short_answer if score is None else whole_answer
        if not texts or any(each is None or len(each) != len(texts) for each in (hits, values)):
            yield []
        elif name in SAMPLED:
            yield [
                _Ballots(*_with_seed(seed, texts, hits, values), None, answer)
                for seed in dict.fromkeys(values)
            ]
        else:
            yield [_Ballots(texts, hits, _log_probs(values, lengths[0], greedy), answer)]


def _with_seed(
    seed: int, texts: Sequence[str], hits: Sequence[bool], seeds: Sequence[int]
) -> tuple[list[str], list[bool]]:
    mine = [place for place, drawn_with in enumerate(seeds) if drawn_with == seed]
    return [texts[place] for place in mine], [hits[place] for place in mine]


def _log_probs(
    scores: Sequence[float | None], tokens: Sequence[int] | None, greedy: int | None
) -> list[float | None]:
    """The log-probabilities of beams, whose scores are per token, the end token included: [beams].

    tokens: of each beam, without the end token; earlier versions didn't record them, and then all beams are taken to
    be as long as the greedy answer.
    """
    if tokens is None or len(tokens) != len(scores):
        tokens = [greedy or 0] * len(scores)
    return [
        None if score is None else score * (length + 1) for score, length in zip(scores, tokens, strict=True)
    ]


def _with_costs(records: pl.DataFrame) -> pl.DataFrame:
    """The records with the tokens of each way: `…_read`, `…_written`, and whether those written are `…_estimated`.

    A prompt counts once however many answers it has. Each step of a search extends all beams, so beams count as their
    number times the longest one, which leaves out what a search drops. With several seeds samples count for one.
    Earlier versions, and servers, give texts alone: each text is taken to be as long as the greedy answer.
    """
    found: dict[str, pl.Expr] = {}
    for way in WAYS:
        counted, answers = _written(way)
        found[f"{way}_read"] = pl.col("prompt_tokens" if way in VOTES else f"{way}_prompt_tokens")
        found[f"{way}_written"] = pl.coalesce(counted, pl.col("open_tokens") * answers)
        found[f"{way}_estimated"] = counted.is_null()
    return records.with_columns(**found)


def _written(way: str) -> tuple[pl.Expr, pl.Expr]:
    """The tokens of all answers, as they were recorded, and how many answers there are."""
    probe = BY_NAME[way]
    if way not in VOTES:
        return pl.col(f"{way}_answer_tokens"), pl.lit(1)
    answers, tokens = pl.col(probe.text_column).list.len(), pl.col(probe.each("tokens"))
    if way in SAMPLED:
        seeds = pl.col(probe.each("seeds")).list.n_unique()
        return tokens.list.sum() / seeds, answers / seeds
    return tokens.list.max() * answers, answers
