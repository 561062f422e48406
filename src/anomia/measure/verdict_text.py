"""The verdict in words, with its evidence, for somebody who decides whether to ship a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from anomia.measure.fates import FEWEST_BOTH_CORRECT, FateCounts
from anomia.measure.frame import CHECKS
from anomia.measure.outcomes import OUTCOMES, Outcome
from anomia.measure.power import in_reach, rounded
from anomia.measure.rates import Estimate
from anomia.measure.scope import LABELS, Scope, Word
from anomia.measure.verdict import FEWEST_SOUND, Decision, Evidence
from anomia.words import percent

_OPEN_FELL = "Open answers were lost; these items don't settle whether the knowledge is also lost."
_ALIKE = "Both formats lost about the same share of their answers."
_TOO_FEW = "Base gets too few of these questions right in both formats for a comparison."
_OTHER_GRADES = "Nothing that was recorded of the model changed, but its answers were graded differently."
SWAPPED = "The compressed model answers more than base does: are they swapped?"

# A verdict mentions broken outputs above this share; harmless noise makes a few sound ones loop too.
_SOME_BROKEN = 0.10


class PickCheck(NamedTuple):
    """How many choice-only items are also picked under a check, out of those that were asked with it."""

    picked: int
    asked: int


class Endings(NamedTuple):
    """How many long answers there are, how many reach the token limit, and how many of these loop."""

    answers: int
    unended: int
    looped: int


class ByOptions(NamedTuple):
    """The result with one kind of options: its decision, and the fates of base's both-correct items."""

    decision: Decision
    fates: FateCounts


class Words(NamedTuple):
    """A verdict in words. Every field holds whole sentences, or nothing where there is nothing to say.

    headline: the outcome, in one sentence. figures: the evidence. one_format: the result for the one format that can
    be tested, if the other can't. remarks: what is suspicious, near or undecided. reason: which options decided, and
    why; empty if nothing could be compared. others: what other options show. notes: what was excluded, and what
    besides the weights may have cost answers.
    """

    headline: str
    figures: tuple[str, ...] = ()
    one_format: str = ""
    remarks: tuple[str, ...] = ()
    reason: str = ""
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All sentences, in this order."""
        before = (self.headline, *self.figures, self.one_format, *self.remarks)
        return " ".join(_present([*before, self.reason, *self.others, *self.notes]))

    def with_note(self, note: str) -> Words:
        """The same with one more note at the end."""
        return self._replace(notes=(*self.notes, note)) if note else self


_STANDARD = Scope((), (), "choice", "recognised", "")


def headline(outcome: Outcome, word: Word = "recognised") -> str:
    """One sentence per outcome. word: whether picking an answer shows that the model recognises it."""
    meaning = OUTCOMES[outcome]
    return meaning.picked if word == "picked" and meaning.picked else meaning.headline


def explain(
    evidence: Evidence,
    decision: Decision,
    scope: Scope = _STANDARD,
    *,
    readings: Mapping[str, ByOptions] | None = None,
    checks: Mapping[str, PickCheck] | None = None,
    needless: PickCheck | None = None,
) -> Words:
    """The verdict in a few sentences.

    scope: which options decided, whether they show recognition, and why. readings: the result with each kind of
    options, by name. checks: of the choice-only items under standard options, those picked with other options too.
    needless: of the choice-only items under the deciding options, those that the arm also picks without the question.
    """
    found = Words(_headline(evidence, decision, scope), remarks=_present(_remarks(evidence, decision)))
    if decision.outcome == "broken":
        found = found._replace(figures=_present([_broken(evidence)]))
    elif evidence.identical:
        untestable = _untestable(evidence, scope) if decision.outcome == "untestable" else ""
        found = found._replace(figures=_present([_same(evidence), untestable]))
    elif decision.outcome == "untestable":
        found = found._replace(figures=(_untestable(evidence, scope),), one_format=_one_format(evidence))
    else:
        figures = (
            OUTCOMES[decision.outcome].caveat if scope.word == "picked" else "",
            _accuracies(evidence, scope),
            _fates(evidence, scope),
            _needless(needless),
            _intervals(evidence),
            _net(evidence),
            _broken(evidence),
        )
        # If nothing can be compared, other options have nothing to agree with.
        others = [
            _other(name, each, decision)
            for name, each in (readings or {}).items()
            if name != scope.decided_by
        ]
        found = found._replace(
            figures=_present(figures), reason=scope.why, others=_present([_checks(checks or {}), *others])
        )
    if evidence.excluded:
        found = found.with_note(f"Excluded, because base is too weak there: {_listed(evidence.excluded)}.")
    return found


def _remarks(evidence: Evidence, decision: Decision) -> Iterator[str]:
    """What is suspicious, near or undecided."""
    if any(drop is not None and drop.high < 0 for drop in (evidence.open_drop, evidence.choice_drop)):
        yield SWAPPED
    if decision.near:
        yield (
            f"The answers are still near the top by {_listed(decision.near)}: nearer than a wrong option in their "
            "place, and than answers that base never gave."
        )
    yield _too_few_sound(evidence, "questions")
    if decision.outcome == "inconclusive":
        yield _undecided(decision, evidence.n)
        yield _almost(evidence)


def without_choice(evidence: Evidence) -> Words:
    """The words for an arm that was asked no multiple choice."""
    return Words(
        "Multiple choice was not measured for this arm, so what it still recognises is not known.",
        (
            f"Open answers: {percent(evidence.base_open)} right in base, {percent(evidence.arm_open)} in the arm, of "
            f"{evidence.n} items.",
        ),
    )


def long_only(evidence: Evidence, outcome: Outcome, of_base: Endings) -> Words:
    """The words for an arm that was only asked for long answers. of_base: how base's own answers end."""
    remark = (
        f"Of base's own {of_base.answers} answers, {of_base.unended} reach the token limit and {of_base.looped} loop: "
        "a higher --continuation-tokens, or a base that ends its answers (instruction-tuned, with --chat), would "
        "tell more."
        if 2 * of_base.unended > of_base.answers
        else ""
    )
    figures = _present([_broken(evidence)]) if outcome == "broken" else ()
    return Words(headline(outcome), figures, remarks=_present([_too_few_sound(evidence, "prompts"), remark]))


def _headline(evidence: Evidence, decision: Decision, scope: Scope) -> str:
    if decision.outcome == "intact" and evidence.identical and graded_otherwise(evidence):
        return _OTHER_GRADES
    if decision.outcome == "loss" and decision.alike:
        return _ALIKE
    if decision.outcome == "untestable" and evidence.gap is not None:
        return _TOO_FEW
    if decision.outcome == "inconclusive" and decision.open == "falls":
        return _OPEN_FELL
    return headline(decision.outcome, scope.word)


def _same(evidence: Evidence) -> str:
    """That nothing recorded differs, and if the grades do, that the model is not the cause."""
    if not graded_otherwise(evidence):
        return "Every recorded probability equals base's."
    open_, choice = (
        f"{percent(base)} in base and {percent(arm)} in the arm"
        for base, arm in (
            (evidence.base_open, evidence.arm_open),
            (evidence.base_choice, evidence.arm_choice),
        )
    )
    return (
        "Every recorded probability and answer equals base's, yet different questions are graded as right "
        f"(open {open_}; choice {choice}): the grading differs, not the model, so look at how each was graded."
    )


def graded_otherwise(evidence: Evidence) -> bool:
    """Whether answers equal to base's were graded differently from base's."""
    shares = (evidence.base_open, evidence.base_choice), (evidence.arm_open, evidence.arm_choice)
    return shares[0] != shares[1] or evidence.fates.kept != evidence.fates.both_correct


def _accuracies(evidence: Evidence, scope: Scope) -> str:
    choice = _change(evidence.base_choice, evidence.arm_choice)
    opened = _change(evidence.base_open, evidence.arm_open, other=choice.startswith("kept"))
    tested = "Multiple choice" if scope.decided_by == "choice" else f"Choice among {LABELS[scope.decided_by]}"
    return f"{tested} {choice} of its accuracy, open answers {opened}."


def _change(base: float, arm: float, *, other: bool = False) -> str:
    """`kept 96 %`, or `lost 41 %` if little was kept or the other side already says kept. other: whether it does."""
    if base <= 0:
        return "had none"
    kept = arm / base
    if kept > 1:
        return f"gained {percent(kept - 1)}"
    if kept >= 0.5 and not (other and kept < 0.9):
        return f"kept {percent(kept)}"
    return f"lost {percent(1 - kept)}"


def _fates(evidence: Evidence, scope: Scope) -> str:
    counts = evidence.fates
    kept = counts.kept + counts.open_only
    return (
        f"Of {_questions(counts.both_correct)} that base got right in both formats, "
        f"{counts.choice_only} {_are(counts.choice_only)} still {scope.word} but no longer answered, "
        f"{counts.lost} {_are(counts.lost)} lost in both, and {kept} {_are(kept)} still answered."
    )


def _needless(check: PickCheck | None) -> str:
    """Whether the picks that the verdict rests on needed the question."""
    if check is None:
        return ""
    most = ", so most of these picks don't need the question" if 2 * check.picked > check.asked else ""
    return (
        f"Of the answers that are only picked, {check.picked} of {check.asked} are picked without the question, too"
        f"{most}."
    )


def _intervals(evidence: Evidence) -> str:
    """The drops and their difference, as shares and in points; these can disagree if base's accuracies differ."""
    text = (
        f"Lost, as a share of base's accuracy above guessing: open {_range(evidence.open_drop)}, "
        f"choice {_range(evidence.choice_drop)}; difference {_range(evidence.gap)}"
    )
    raw = evidence.raw_gap
    if raw is None:
        return f"{text}."
    text += f", in raw points {_points(raw)}"
    gap = evidence.gap
    if gap is not None and gap.low > 0 and raw.low <= 0:
        text += ": open lost a larger share, but not clearly more questions"
    return f"{text}."


def _net(evidence: Evidence) -> str:
    """Net dissociation, without which a rate can't be told from noise."""
    if evidence.net is None:
        return ""
    clear = "" if evidence.net.low > 0 else ", which is not clearly above 0"
    return f"Net of items that went the other way, {_range(evidence.net)} moved from answered to only picked{clear}."


def _checks(checks: Mapping[str, PickCheck]) -> str:
    """How many choice-only items are also picked under each check."""
    phrases = [
        f"{checks[name].picked} of {checks[name].asked} {check.words}"
        for name, check in CHECKS.items()
        # A search of the passage picks whatever the model knows.
        if name in checks and name != "string"
    ]
    if not phrases:
        return ""
    return f"Of the items that are only picked among standard options, the model also picks {_listed(tuple(phrases))}."


def _undecided(decision: Decision, asked: int) -> str:
    known = {
        "falls": "fell",
        "holds": "held",
        "undecided": "may have held or fallen",
    }
    sides = f"Open {known[decision.open]} and choice {known[decision.choice]}"
    if decision.open == decision.choice:
        both = {"falls": "both fell", "holds": "both held", "undecided": "may each have held or fallen"}
        sides = f"Open and choice {both[decision.open]}"
    left = _listed(decision.possible, "or")
    text = f"{sides}, so the outcome may be {left}."
    if decision.items_needed is None:
        return text + " At these figures, more items would not decide it."
    if not in_reach(decision.items_needed, asked):
        return text + " Deciding it is out of reach: a figure is too close to its margin."
    return text + f" About {rounded(decision.items_needed):,} items like these would give 80 % power."


def _almost(evidence: Evidence) -> str:
    """Figures shown as nonzero but not claimed; without this remark they would seem to contradict the outcome."""
    figures = {
        "open": ("the drop of open", evidence.open_drop),
        "choice": ("the drop of choice", evidence.choice_drop),
        "gap": ("their difference", evidence.gap),
    }
    names = tuple(
        name
        for claim, (name, estimate) in figures.items()
        if claim not in evidence.stands and estimate is not None and not estimate.low <= 0 <= estimate.high
    )
    if not names:
        return ""
    text = f"{_listed(names)} {'are' if len(names) > 1 else 'is'} nonzero at 95 %, but not at the higher level that a "
    return text[0].upper() + text[1:] + "verdict requires."


def _other(name: str, reading: ByOptions, decision: Decision) -> str:
    """The outcome with options that did not decide."""
    fates, outcome = reading.fates, reading.decision.outcome
    text = f"With {LABELS[name]} the outcome is {'also ' if outcome == decision.outcome else ''}{outcome}"
    if fates.both_correct:
        text += f" ({fates.choice_only} of {_questions(fates.both_correct)} picked but no longer answered"
        if fates.both_correct >= FEWEST_BOTH_CORRECT and fates.dissociation is not None:
            text += f", {percent(fates.dissociation)}"
        text += ")"
    return f"{text}."


def _broken(evidence: Evidence) -> str:
    """How many outputs compression broke, if it clearly broke some."""
    share = evidence.broken
    if share is None or share.low <= _SOME_BROKEN:
        return ""
    return (
        f"Of the outputs that are sound in base, {_range(share)} are empty, loop, or have logits that are "
        "NaN or infinite in the arm."
    )


def _too_few_sound(evidence: Evidence, asked: str) -> str:
    """How many outputs compression seems to have broken, where too few are sound in base to judge by them."""
    seen = evidence.broken_seen
    if evidence.broken is not None or seen is None or seen.low <= _SOME_BROKEN:
        return ""
    are, these = ("output is", "it") if evidence.sound == 1 else ("outputs are", "these")
    return (
        f"Whether the arm is broken is not judged: {evidence.sound} {are} sound in base, and at least {FEWEST_SOUND} "
        f"are needed, so ask more {asked}. Of {these}, {_range(seen)} are empty, loop, or "
        "have logits that are NaN or infinite in the arm."
    )


def _untestable(evidence: Evidence, scope: Scope) -> str:
    tested = "choice" if scope.decided_by == "choice" else f"choice among {LABELS[scope.decided_by]}"
    return (
        f"Base gets {percent(evidence.base_open)} right in open and {percent(evidence.base_choice)} in {tested}; of "
        f"{_questions(evidence.n)}, it gets {evidence.fates.both_correct} right in both formats."
    )


def _one_format(evidence: Evidence) -> str:
    """A statement about one format if the other can't be tested."""
    sides = (
        ("multiple choice", evidence.choice_drop, evidence.open_drop),
        ("open", evidence.open_drop, evidence.choice_drop),
    )
    for name, drop, other in sides:
        if drop is not None and other is None:
            gained = drop.value < 0
            change = f"gained {_range(_negated(drop))}" if gained else f"lost {_range(drop)}"
            clear = "" if drop.low > 0 or drop.high < 0 else " This is not a clear change."
            return f"Only {name} could be tested: it {change} of base's accuracy above guessing.{clear}"
    return ""


def _negated(estimate: Estimate) -> Estimate:
    """A loss as a gain."""
    return estimate._replace(value=0.0 - estimate.value, low=0.0 - estimate.high, high=0.0 - estimate.low)


def _range(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not given"
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def _points(estimate: Estimate) -> str:
    text = f"{100 * estimate.value:.0f} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"
    return text.replace("-0 ", "0 ").replace("-", "−")


def _questions(count: int) -> str:
    return f"{count} question" + ("" if count == 1 else "s")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _present(sentences: Iterable[str]) -> tuple[str, ...]:
    return tuple(sentence for sentence in sentences if sentence)


def _listed(names: tuple[str, ...], joint: str = "and") -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {joint} {names[-1]}"
