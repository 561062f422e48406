"""From the records of a run to its verdicts: one for each arm, in each language and overall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from anomia.measure.contrasts import Answers, one_shot_recovery, rank_nearness
from anomia.measure.evidence import Case, gather
from anomia.measure.fates import FATES, fates
from anomia.measure.frame import arms_of, both, known, pair, prepare, right
from anomia.measure.quantities import Quantity
from anomia.measure.ranks import mid_ranks
from anomia.measure.reach import recovery_over_foil
from anomia.measure.verdict import Decision, Evidence, Thresholds, decide, state
from anomia.measure.verdict_text import explain


class Verdict(NamedTuple):
    """What became of one arm in one scope (a language, or `overall`).

    decision: with standard options. same_passage: with options from the same passage, None where the
    run lacks them. text: both in words.
    """

    arm: str
    scope: str
    evidence: Evidence
    decision: Decision
    same_passage: Decision | None
    text: str


def judge(
    records: pl.DataFrame, *, base: str = "base", thresholds: Thresholds | None = None
) -> list[Verdict]:
    """The verdicts of all arms of one data set, in each language and then overall.

    An item whose logits were not finite counts as wrong in everything; one that a server would not answer counts
    as nothing.
    """
    records = prepare(records)
    verdicts = []
    for arm in arms_of(records, base=base):
        pairs = pair(records, arm, base=base)
        if _lacks_choice(pairs):
            verdicts += list(_without_choice(arm, pairs, thresholds or Thresholds()))
            continue
        pairs = _answered(pairs)
        standard = gather(_case(pairs, "choice"))
        shared: Mapping[str, Evidence] = {}
        usable = known(pairs, ["choice_passage_correct"])
        if not usable.is_empty():
            shared = gather(_case(usable, "choice_passage"))
        for scope, evidence in standard.items():
            decision = decide(evidence, thresholds)
            beside = decide(shared[scope], thresholds) if scope in shared else None
            shared_fates = shared[scope].fates if scope in shared else None
            text = explain(evidence, decision, beside, shared_fates)
            verdicts.append(Verdict(arm, scope, evidence, decision, beside, text))
    return verdicts


def _answered(pairs: pl.DataFrame) -> pl.DataFrame:
    """Without the items of which an arm, though sound, told neither right nor wrong; all, where it told none."""
    told = pl.all_horizontal(pl.col("open_correct_arm", "choice_correct_arm").is_not_null())
    if pairs.filter(told).is_empty():
        return pairs
    return pairs.filter(told | ~pl.col("finite_arm"))


def _lacks_choice(pairs: pl.DataFrame) -> bool:
    """Whether an arm was asked no choice at all, as behind a server that tells no probabilities."""
    answered = pairs.filter(pl.col("finite_arm"))
    return not answered.is_empty() and answered["choice_correct_arm"].null_count() == len(answered)


def _without_choice(arm: str, pairs: pl.DataFrame, thresholds: Thresholds) -> Iterator[Verdict]:
    """Untestable everywhere, with what open answers show."""
    for scope, evidence in gather(_case(pairs, "choice")).items():
        known_part = replace(evidence, arm_choice=0.0, choice_drop=None, gap=None, lost=None)
        decision = Decision("untestable", state(evidence.open_drop, thresholds.hold), "undecided")
        text = (
            "Choice was not measured for this arm, so what it still recognises is not known. Open answers: "
            f"{evidence.base_open:.0%} right in base, {evidence.arm_open:.0%} in the arm, of {evidence.n} items."
        )
        yield Verdict(arm, scope, known_part, decision, None, text.replace("%", " %"))


def _case(pairs: pl.DataFrame, options: str) -> Case:
    answers = Answers(
        base_open=right(pairs, "open_correct"),
        arm_open=right(pairs, "open_correct_arm"),
        base_choice=right(pairs, f"{options}_correct"),
        arm_choice=right(pairs, f"{options}_correct_arm"),
    )
    return Case(
        answers=answers,
        languages=pairs["language"].to_list(),
        passages=pairs["passage"].to_numpy(),
        floor=pairs[f"{options}_floor"].to_numpy(),
        near=_near(pairs, answers),
        base_broken=right(pairs, "open_degenerate") | ~right(pairs, "finite"),
        arm_broken=right(pairs, "open_degenerate_arm") | ~right(pairs, "finite_arm"),
        identical=_identical(pairs),
    )


def _near(pairs: pl.DataFrame, answers: Answers) -> dict[str, Quantity]:
    """What may show a lost answer near: ranks and reach against the foil's, one-shot against zero-shot."""
    passages = pairs["passage"].to_numpy()
    index = fates(answers.base_open, answers.base_choice, answers.arm_open, answers.arm_choice)
    unsaid = index == FATES.index("choice_only")
    near: dict[str, Quantity] = {}
    distinct = [f"{name}_distinct_rank{part}_arm" for name in ("gold", "foil") for part in ("", "_ties")]
    ranked = pairs.select(pl.all_horizontal(pl.col(distinct).is_not_null())).to_series().to_numpy()
    if ranked.any():
        gold, foil = (
            mid_ranks(pairs[rank].fill_null(1).to_numpy(), pairs[ties].fill_null(0).to_numpy())
            for rank, ties in (distinct[:2], distinct[2:])
        )
        near["rank"] = rank_nearness(gold, foil, unsaid & ranked, passages)
    for name, measure in (("beams", "beam search"), ("samples", "samples")):
        asked = ~pairs[f"reach_{name}_arm"].is_null().to_numpy()
        if asked.any():
            gold, foil = (pairs[f"{of}_{name}_arm"].fill_null(0.0).to_numpy() for of in ("reach", "foil"))
            near[measure] = recovery_over_foil(answers.arm_open, gold, foil, passages, among=unsaid & asked)
    shots = both("zero_shot_correct", "one_shot_correct")
    if len(known(pairs, shots)) == len(pairs):
        base_zero, arm_zero, base_one, arm_one = (right(pairs, column) for column in shots)
        near["one example"] = one_shot_recovery(base_zero, arm_zero, base_one, arm_one, passages)
    return near


def _identical(pairs: pl.DataFrame) -> bool:
    """Whether every recorded probability of the arm is base's own, and there are some."""
    columns = ("choice_scores", "gold_log_prob", "top_log_probs")
    recorded = [name for name in columns if pairs[name].null_count() < len(pairs)]
    # Where choice alone was scored, only the texts can tell about open.
    return bool(recorded) and all(
        pairs[name].equals(pairs[f"{name}_arm"], null_equal=True) for name in (*recorded, "open_text")
    )
