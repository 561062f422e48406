"""From the records of a run to its verdicts: one per arm, in each language and overall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from anomia.measure.contrasts import one_shot_recovery, rank_nearness
from anomia.measure.dissociation import Answers
from anomia.measure.evidence import OVERALL, AnswerSet, Sign, gather
from anomia.measure.fates import FateCounts, dissociated
from anomia.measure.frame import (
    CHECKS,
    RECOGNITION,
    Bools,
    arms_of,
    both,
    known,
    pair,
    pool,
    prepare,
    right,
)
from anomia.measure.oracle import recovery_over_control
from anomia.measure.outcomes import Outcome
from anomia.measure.quantities import Quantity, minus, share
from anomia.measure.ranks import mid_ranks
from anomia.measure.rates import rate
from anomia.measure.recognition import fate_index
from anomia.measure.scope import Scope, Word, has_formats, scope_of
from anomia.measure.scores import ScoreOutcome
from anomia.measure.verdict import FEWEST_SOUND, Decision, Evidence, Nearness, Thresholds, decide, state
from anomia.measure.verdict_text import (
    ByOptions,
    Endings,
    PickCheck,
    Words,
    explain,
    long_only,
    without_choice,
)
from anomia.probes import BY_NAME, CONTINUATION, ONE_SHOT, ORACLES, ZERO_SHOT

SAME_PASSAGE = "choice_passage"


class ScopeVerdict(NamedTuple):
    """What became of one arm in one scope (a language, or `overall`)."""

    arm: str
    scope: str
    evidence: Evidence
    """With the options that decide."""
    decision: Decision
    """With the options that decide."""
    decided_by: str
    """The options that decide the outcome (`anomia.measure.scope`)."""
    word: Word
    """Whether an answer that is picked with these options counts as recognised."""
    why: str
    """Which options decided, and why none before them did."""
    standard: Decision | None
    """With standard options."""
    same_passage: Decision | None
    """With options from the same passage."""
    words: Words
    """All of it in sentences."""
    score: ScoreOutcome | None = None
    """Of a task whose answers have scores alone: what the drop says about the margin; then nothing else is decided."""

    @property
    def outcome(self) -> Outcome:
        """The outcome that was decided."""
        return self.decision.outcome

    @property
    def standard_outcome(self) -> Outcome | None:
        """With standard options."""
        return None if self.standard is None else self.standard.outcome

    @property
    def same_passage_outcome(self) -> Outcome | None:
        """With options from the same passage; null where the run lacks them."""
        return None if self.same_passage is None else self.same_passage.outcome

    @property
    def text(self) -> str:
        """All of it in words."""
        return self.words.text

    @property
    def possible(self) -> tuple[Outcome, ...]:
        """What an inconclusive outcome may still turn out to be."""
        return self.decision.possible

    @property
    def near(self) -> Mapping[str, Nearness]:
        """Signs that lost answers are still near the top, by name."""
        return self.evidence.near

    @property
    def stands(self) -> tuple[str, ...]:
        """Which of open, choice and gap differ from 0 after Holm's correction over languages."""
        return tuple(sorted(self.evidence.stands))

    @property
    def items_needed(self) -> int | None:
        """Items that would decide an inconclusive outcome with 80 % power; null if no number would."""
        return self.decision.items_needed


def judge(
    records: pl.DataFrame, *, base: str = "base", thresholds: Thresholds | None = None
) -> list[ScopeVerdict]:
    """The verdicts of all arms of one data set, in each language and then overall.

    An item with non-finite logits counts as wrong in everything; an item that a server would not answer is excluded.
    """
    records = prepare(records)
    scope = scope_of(records, base=base)
    records = pool(records, scope.languages)
    limits = thresholds or Thresholds()
    verdicts: list[ScopeVerdict] = []
    for arm in arms_of(records, base=base):
        pairs = pair(records, arm, base=base)
        if not has_formats(records):
            verdicts += _long_only(arm, pairs, limits)
        elif _lacks_choice(pairs):
            verdicts += _without_choice(arm, pairs, scope, limits)
        else:
            verdicts += _judged(arm, _answered(pairs), scope, limits)
    return verdicts


def _judged(arm: str, pairs: pl.DataFrame, scope: Scope, limits: Thresholds) -> Iterator[ScopeVerdict]:
    ways = dict.fromkeys((scope.decided_by, "choice", SAME_PASSAGE))
    found = {
        way: gather(_case(part, way, scope), near=limits.near)
        for way in ways
        for part in (known(pairs, [RECOGNITION[way].column]),)
        if not part.is_empty()
    }
    if scope.decided_by not in found:
        yield from _without_choice(arm, pairs, scope, limits)
        return
    for name, evidence in found[scope.decided_by].items():
        language = name if name in set(pairs["language"]) else None
        needless = _needless(pairs, scope.decided_by, language)
        if needless is not None and 2 * needless.picked > needless.asked:
            # Base needs the question to pick among these options, but this arm doesn't for most of what it only picks.
            evidence = replace(evidence, recognised=False)
        decisions = {way: decide(where[name], limits) for way, where in found.items() if name in where}
        decision = decisions[scope.decided_by] = decide(evidence, limits)
        others = {way: ByOptions(decisions[way], found[way][name].fates) for way in decisions}
        word: Word = "recognised" if evidence.recognised else "picked"
        yield ScopeVerdict(
            arm,
            name,
            evidence,
            decision,
            scope.decided_by,
            word,
            scope.why,
            decisions.get("choice"),
            decisions.get(SAME_PASSAGE),
            explain(
                evidence,
                decision,
                scope._replace(word=word),
                readings=others,
                checks=_checks(pairs, language),
                needless=needless,
            ),
        )


def _needless(pairs: pl.DataFrame, way: str, language: str | None) -> PickCheck | None:
    """Of the choice-only items under the deciding options, how many the arm also picks without the question.

    None if that wasn't asked, and under PMI scoring, which already subtracts it.
    """
    column = f"{RECOGNITION[way].kind}_no_question_correct_arm"
    if RECOGNITION[way].scoring == "pmi":
        return None
    here = pairs["pooled"] if language is None else pairs["language"] == language
    unsaid = pairs.filter(here & pl.Series(dissociated(fate_index(pairs, way))))
    asked = unsaid[column].drop_nulls()
    return PickCheck(int(asked.sum()), len(asked)) if len(asked) else None


def _checks(pairs: pl.DataFrame, language: str | None) -> dict[str, PickCheck]:
    """Of the choice-only items under standard options, how many are also picked under each check."""
    here = pairs["pooled"] if language is None else pairs["language"] == language
    unsaid = pairs.filter(here & pl.Series(dissociated(fate_index(pairs))))
    found = {}
    for name, check in CHECKS.items():
        asked = unsaid[f"{check.column}_arm"].drop_nulls().cast(pl.Float64)
        if len(asked):
            found[name] = PickCheck(int((asked == 1).sum()), len(asked))
    return found


def _answered(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs without the items with finite logits that lack a grade in open or choice; all pairs if no item has both."""
    graded = pl.all_horizontal(pl.col("open_correct_arm", "choice_correct_arm").is_not_null())
    if pairs.filter(graded).is_empty():
        return pairs
    return pairs.filter(graded | ~pl.col("finite_arm"))


def _lacks_choice(pairs: pl.DataFrame) -> bool:
    """Whether an arm was asked no choice at all, as with a server that returns no probabilities."""
    answered = pairs.filter(pl.col("finite_arm"))
    return not answered.is_empty() and answered["choice_correct_arm"].null_count() == len(answered)


def _without_choice(
    arm: str, pairs: pl.DataFrame, scope: Scope, limits: Thresholds
) -> Iterator[ScopeVerdict]:
    """Untestable in every scope, with what open answers show."""
    for name, evidence in gather(_case(pairs, "choice", scope)).items():
        known_part = replace(
            evidence, arm_choice=0.0, choice_drop=None, gap=None, raw_gap=None, net=None, lost=None
        )
        decision = Decision("untestable", state(evidence.open_drop, limits.hold), "undecided")
        yield ScopeVerdict(
            arm, name, known_part, decision, "choice", "picked", "", None, None, without_choice(known_part)
        )


def _long_only(arm: str, pairs: pl.DataFrame, limits: Thresholds) -> Iterator[ScopeVerdict]:
    """Unjudged in every scope, unless most of the long answers are broken that are sound in base."""
    passages = pairs["passage"].to_numpy()
    before, after = (_broken_at_length(pairs, side) for side in ("", "_arm"))
    languages = pairs["language"].to_numpy()
    masks = {name: languages == name for name in sorted(set(languages.tolist()))}
    for name, mask in {**masks, OVERALL: np.ones(len(pairs), dtype=bool)}.items():
        sound = mask & ~before
        seen = rate(after[sound], passages[sound])
        broken = seen if sound.sum() >= FEWEST_SOUND else None
        evidence = Evidence(
            n=int(mask.sum()), base_open=0.0, arm_open=0.0, base_choice=0.0, arm_choice=0.0, open_drop=None,
            choice_drop=None, gap=None, fates=FateCounts(0, 0, 0, 0), lost=None, broken=broken, sound=int(sound.sum()),
            broken_seen=seen, stands=frozenset(),
        )  # fmt: skip
        outcome: Outcome = "broken" if broken is not None and broken.low > limits.broken else "unjudged"
        decision = Decision(outcome, "undecided", "undecided")
        words = long_only(evidence, outcome, _own_endings(pairs.filter(mask)))
        yield ScopeVerdict(arm, name, evidence, decision, "", "picked", "", None, None, words)


def _own_endings(pairs: pl.DataFrame) -> Endings:
    """How base's own long answers end. Those that were stopped at a loop neither ended nor reached the limit."""
    ended = pairs[f"{CONTINUATION}_ended"].drop_nulls()
    stopped = int(pairs[f"{CONTINUATION}_stopped"].is_not_null().sum())
    looped = int(pairs[f"{CONTINUATION}_loop_start"].is_not_null().sum())
    return Endings(len(ended) + stopped, int((~ended).sum()), looped)


def _broken_at_length(pairs: pl.DataFrame, side: str) -> Bools:
    """Long answers that are not a number, are empty, or end in a loop: [items]. side: `_arm`, or empty for base."""
    looped = pairs[f"{CONTINUATION}_loop_start{side}"].is_not_null().to_numpy()
    empty = pairs[f"{CONTINUATION}_ids{side}"].list.len().fill_null(0).to_numpy() == 0
    broken: Bools = looped | empty | ~right(pairs, f"finite{side}")
    return broken


def _case(pairs: pl.DataFrame, way: str, scope: Scope) -> AnswerSet:
    tested = RECOGNITION[way]
    answers = Answers(
        base_open=right(pairs, "open_correct"),
        arm_open=right(pairs, "open_correct_arm"),
        base_choice=right(pairs, tested.column),
        arm_choice=right(pairs, f"{tested.column}_arm"),
    )
    return AnswerSet(
        answers=answers,
        languages=pairs["language"].to_list(),
        passages=pairs["passage"].to_numpy(),
        floor=pairs[tested.floor].to_numpy(),
        open_floor=pairs["open_floor"].to_numpy(),
        near=_near(pairs, answers, way),
        base_broken=_broken(pairs, ""),
        arm_broken=_broken(pairs, "_arm"),
        identical=_identical(pairs),
        pooled=scope.languages,
        recognised=scope.word == "recognised" and way == scope.decided_by,
    )


def _broken(pairs: pl.DataFrame, side: str) -> Bools:
    """Outputs that are not a number, are empty or degenerate, or loop: [items]. side: `_arm`, or empty for base."""
    return (
        right(pairs, f"open_degenerate{side}")
        | right(pairs, f"open_loop{side}")
        | ~right(pairs, f"finite{side}")
    )


def _near(pairs: pl.DataFrame, answers: Answers, way: str) -> dict[str, Sign]:
    """Signs that a choice-only answer is near: ranks and oracle recovery, against a control answer, base's failures."""
    passages = pairs["passage"].to_numpy()
    unsaid = dissociated(fate_index(pairs, way))
    failed = ~right(pairs, "open_correct")
    near: dict[str, Sign] = {}
    distinct = [f"{name}_distinct_rank{part}_arm" for name in ("gold", "control") for part in ("", "_ties")]
    ranked = pairs.select(pl.all_horizontal(pl.col(distinct).is_not_null())).to_series().to_numpy()
    if ranked.any():
        gold, control = (
            mid_ranks(pairs[rank].fill_null(1).to_numpy(), pairs[ties].fill_null(0).to_numpy())
            for rank, ties in (distinct[:2], distinct[2:])
        )
        near["rank"] = Sign(
            rank_nearness(gold, control, unsaid & ranked, passages),
            _against_failures(gold <= 10, unsaid & ranked, failed & ranked, passages),
        )
    for name in ORACLES:
        asked = ~pairs[f"oracle_{name}_arm"].is_null().to_numpy()
        if asked.any():
            gold, control = (
                pairs[f"{of}_{name}_arm"].fill_null(0.0).to_numpy() for of in ("oracle", "control")
            )
            near[BY_NAME[name].found_by] = Sign(
                recovery_over_control(answers.arm_open, gold, control, passages, among=unsaid & asked),
                _against_failures(gold, unsaid & asked, failed & asked, passages),
            )
    shots = both(BY_NAME[ZERO_SHOT].column, BY_NAME[ONE_SHOT].column)
    if len(known(pairs, shots)) == len(pairs):
        base_zero, arm_zero, base_one, arm_one = (right(pairs, column) for column in shots)
        near["one example"] = Sign(one_shot_recovery(base_zero, arm_zero, base_one, arm_one, passages))
    return near


def _against_failures(hits: ArrayLike, unsaid: Bools, failed: Bools, passages: ArrayLike) -> Quantity:
    """Share of hits among choice-only items − among items that base failed (paper, section 3.3): [items] each."""
    return minus(share(hits, unsaid, passages), share(hits, failed, passages))


def _identical(pairs: pl.DataFrame) -> bool:
    """Whether any probabilities were recorded and all of the arm's equal base's."""
    columns = ("choice_scores", "gold_log_prob", "top_log_probs")
    recorded = [name for name in columns if pairs[name].null_count() < len(pairs)]
    # If only choice was scored, the texts alone can tell about open.
    return bool(recorded) and all(
        pairs[name].equals(pairs[f"{name}_arm"], null_equal=True) for name in (*recorded, "open_text")
    )
