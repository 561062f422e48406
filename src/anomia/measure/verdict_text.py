"""The verdict in words for somebody who decides whether to ship a model, with the evidence beside it."""

from __future__ import annotations

from anomia.measure.fates import FEWEST_BOTH_CORRECT, FateCounts
from anomia.measure.power import in_reach, rounded
from anomia.measure.rates import Estimate
from anomia.measure.verdict import Decision, Evidence, Outcome

_HEADLINES: dict[Outcome, str] = {
    "intact": "Open answers and recognition both held.",
    "illusion": "The model recognises answers that it no longer gives: a benchmark of choices won't show it.",
    "demotion": "The knowledge is there, the words are not: right answers were pushed down, not erased.",
    "mixed": "Both fell, and open answers more: some knowledge is gone, and more of it can't be said.",
    "loss": "Knowledge is gone: what the model no longer says it no longer recognises either.",
    "reverse": "Recognition fell more than open answers did.",
    "untestable": "Base itself is too weak here for a comparison.",
    "broken": "The outputs are broken: look at the model before its accuracy.",
    "inconclusive": "These items do not decide what was lost.",
}

_TOO_FEW = "Base answers too few of these questions both ways for a comparison."
_EASY = (
    "The model still picks its answers among unrelated options, but neither says them nor picks them as well "
    "among options of the same passage."
)
SWAPPED = "The compressed model answers more than base does: are they swapped?"


def headline(outcome: Outcome) -> str:
    """One sentence for each outcome."""
    return _HEADLINES[outcome]


def explain(
    evidence: Evidence,
    decision: Decision,
    same_passage: Decision | None = None,
    same_passage_fates: FateCounts | None = None,
) -> str:
    """The verdict in a few sentences.

    same_passage, same_passage_fates: outcome and fates with options taken from the same passage. Where
    these contradict what standard options show, nothing is called recognised.
    """
    easy = same_passage is not None and _rests_on_easy_options(decision, same_passage)
    sentences = [headline(decision.outcome)]
    if easy and decision.outcome in ("illusion", "demotion"):
        sentences = [_EASY]
    elif decision.outcome == "untestable" and evidence.gap is not None:
        sentences = [_TOO_FEW]
    if decision.outcome == "broken":
        sentences.append(_broken(evidence))
    elif evidence.identical:
        sentences.append("Every probability that was recorded equals base's.")
        if decision.outcome == "untestable":
            sentences.append(_untestable(evidence))
    elif decision.outcome == "untestable":
        sentences.append(_untestable(evidence))
    else:
        sentences += [_accuracies(evidence), _fates(evidence, easy), _intervals(evidence)]
    if any(drop is not None and drop.high < 0 for drop in (evidence.open_drop, evidence.choice_drop)):
        sentences.append(SWAPPED)
    if decision.near:
        sentences.append(f"The answers are near, beyond what the foil shows, by {_listed(decision.near)}.")
    if decision.outcome == "inconclusive":
        sentences.append(_undecided(decision, evidence.n))
    # Where nothing can be compared, there is nothing for other options to agree with.
    if same_passage is not None and decision.outcome != "untestable":
        sentences.append(_beside(decision, same_passage, evidence.fates, same_passage_fates))
    if evidence.left_out:
        sentences.append(f"Left out, because base is too weak there: {_listed(evidence.left_out)}.")
    return " ".join(sentences)


def _accuracies(evidence: Evidence) -> str:
    choice = _change(evidence.base_choice, evidence.arm_choice)
    opened = _change(evidence.base_open, evidence.arm_open, other=choice.startswith("kept"))
    return f"Choice {choice} of its accuracy, open answers {opened}."


def _change(base: float, arm: float, *, other: bool = False) -> str:
    """`kept 96 %` or, where little was kept or the other side says kept, `lost 41 %`."""
    if base <= 0:
        return "had none"
    kept = arm / base
    if kept > 1:
        return f"gained {kept - 1:.0%}".replace("%", " %")
    if kept >= 0.5 and not (other and kept < 0.9):
        return f"kept {kept:.0%}".replace("%", " %")
    return f"lost {1 - kept:.0%}".replace("%", " %")


def _fates(evidence: Evidence, easy: bool) -> str:
    counts = evidence.fates
    seen = "picked among unrelated options" if easy else "recognised"
    said = counts.kept + counts.open_only
    return (
        f"Of {_questions(counts.both_correct)} that base answered both ways, "
        f"{counts.choice_only} {_are(counts.choice_only)} {seen} but no longer said, "
        f"{counts.lost} {_are(counts.lost)} lost to both, and {said} {_are(said)} still said."
    )


def _intervals(evidence: Evidence) -> str:
    return (
        f"Share lost of what base had above guessing: open {_range(evidence.open_drop)}, "
        f"choice {_range(evidence.choice_drop)}; open − choice {_range(evidence.gap)}."
    )


def _undecided(decision: Decision, asked: int) -> str:
    known = {
        "falls": "fell",
        "holds": "held",
        "undecided": "may have held or fallen",
    }
    left = _listed(decision.possible, "or")
    text = f"Open {known[decision.open]} and choice {known[decision.choice]}: {left}."
    if decision.items_needed is None:
        return text + " No number of items would decide it while the figures stay what they are."
    if not in_reach(decision.items_needed, asked):
        return text + " More items are out of reach of deciding it: a figure stands at its margin."
    return (
        text
        + f" About {rounded(decision.items_needed):,} items like these would decide it four times in five."
    )


def _rests_on_easy_options(decision: Decision, same_passage: Decision) -> bool:
    return decision.choice == "holds" and same_passage.choice == "falls"


def _beside(decision: Decision, same_passage: Decision, fates: FateCounts, beside: FateCounts | None) -> str:
    """What options from the same passage say; fates, beside: with standard options and with those."""
    text = f"With options taken from the same passage the outcome is {same_passage.outcome}"
    same = same_passage.outcome == decision.outcome
    if same:
        text = "Options taken from the same passage give the same outcome"
    if same and decision.outcome == "inconclusive":
        text = "Options taken from the same passage don't decide it either"
    if beside is not None and beside.both_correct:
        text += f" ({_unsaid(beside)} picked but no longer said"
        text += f"; {_unsaid(fates)} with standard options)" if fates.both_correct else ")"
    if _rests_on_easy_options(decision, same_passage):
        return f"{text}: recognition rested on easy options."
    if same_passage.outcome in ("untestable", "inconclusive") and not same:
        return f"{text}: whether recognition rested on easy options stays open."
    return f"{text}."


def _unsaid(fates: FateCounts) -> str:
    """`12 of 13 questions, 92 %,`, without a rate where a report gives none."""
    text = f"{fates.choice_only} of {_questions(fates.both_correct)}"
    if fates.both_correct < FEWEST_BOTH_CORRECT:
        return text
    return f"{text}, {fates.choice_only / fates.both_correct:.0%},".replace("%", " %")


def _broken(evidence: Evidence) -> str:
    more = evidence.broken
    share = "" if more is None else f"{more.value:.0%} more of its outputs than of base's ".replace("%", " %")
    return f"{share}are not a number, empty or the same token over and over." if share else ""


def _untestable(evidence: Evidence) -> str:
    accuracies = f"Base answers {evidence.base_open:.0%} in open and {evidence.base_choice:.0%} in choice"
    both = f"{_questions(evidence.fates.both_correct)} both ways, of {evidence.n}"
    return f"{accuracies}, {both}.".replace("%", " %")


def _range(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not given"
    text = f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})".replace("%", " %")
    return text.replace("-", "−")


def _questions(count: int) -> str:
    return f"{count} question" + ("" if count == 1 else "s")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(names: tuple[str, ...], joint: str = "and") -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {joint} {names[-1]}"
