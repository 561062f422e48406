"""Whether a compressed model may pass: a run's figures against limits, decided by the bounds of their intervals.

A figure *passes* if the worse end of its 95 % interval respects the limit, *fails* if even the better end breaks it,
and is *inconclusive* otherwise. So a small study can neither pass nor stop a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from anomia.arms import find_arm
from anomia.compress.spec import is_null
from anomia.errors import RunError, StudyError
from anomia.measure.between import BASE
from anomia.measure.fates import FEWEST_BOTH_CORRECT
from anomia.measure.figures import Lookup, lookup
from anomia.measure.frame import POOLED
from anomia.measure.long_answers import long_words
from anomia.measure.measures import Measure, accuracy, drop, gap, long, net_dissociation, normalized_drop
from anomia.measure.power import items_needed
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.measure.scores import SCORE
from anomia.measure.verdict_text import SWAPPED, graded_otherwise
from anomia.probes import FORMATS

_ONLY_LONG = (
    "only long answers were asked; give limits on them: "
    "--max-more-unended, --max-more-loops, --min-same-format, --min-same-language"
)
_SCORES_ALONE = (
    "answers to this task have scores and are not right or wrong; limit them with --max-score-drop"
)
_NO_SCORE = "answers have no scores, or none in both; only some tasks have them"
_NO_LONG = "there are no long answers to compare; ask the probe continuation"
NET, SHOWN, LOSS = "net dissociation", "open loss, if shown", "open loss"
SCORE_DROP = "drop of the task's score"
GateResult = Literal["pass", "fail", "inconclusive", "untestable"]
# Exit codes of `anomia gate`; 2 means unusable input.
EXIT_CODES: dict[GateResult, int] = {"pass": 0, "fail": 1, "inconclusive": 3, "untestable": 3}


@dataclass(frozen=True, slots=True)
class Limits:
    """What an arm must keep; limits that are None are not checked.

    max_dissociation: the net dissociation rate: of the answers that base gets right in both formats, the share that is
    now only picked, minus the items that moved the other way. Harmless noise raises the plain rate, not the net one.
    max_gap: normalized drop of open − that of choice. min_open_retained: open accuracy over base's.
    max_shown_loss: the largest normalized drop of open where one is shown, that is, where its interval is above 0. The
    interval of a significant loss must stay below this limit, also in languages that pooled figures exclude. Given
    alone, it is a limit on the drop itself.
    max_more_unended, max_more_loops: of long answers, the share that reaches the token limit or loops, minus base's.
    min_same_format, min_same_language: the share of long answers in base's format and language.
    max_score_drop: base's mean score of a task − the arm's, paired by item; scores go from 0 to 1.
    """

    max_dissociation: float | None = None
    max_gap: float | None = None
    min_open_retained: float | None = None
    max_shown_loss: float | None = None
    max_more_unended: float | None = None
    max_more_loops: float | None = None
    min_same_format: float | None = None
    min_same_language: float | None = None
    max_score_drop: float | None = None


# The limits on long answers: the figure's measure, its name, and on which side of the limit it must stay.
LONG: Mapping[str, tuple[Measure, str, Literal["at most", "at least"]]] = {
    "max_more_unended": (long("unended_more"), "long answers that never end, more than base's", "at most"),
    "max_more_loops": (long("looped_more"), "long answers that loop, more than base's", "at most"),
    "min_same_format": (long("same_layout"), "long answers in base's format", "at least"),
    "min_same_language": (long("same_language"), "long answers in base's language", "at least"),
}
# What a null arm that doesn't pass a check says about the limit.
NOT_PASSED: dict[GateResult, str] = {
    "fail": "fails this check itself ({check}): noise alone is beyond the limit",
    "inconclusive": "doesn't pass this check itself ({check}: inconclusive): with so few questions the limit can't be "
    "told from noise",
}
# The tightest round limits that base under harmless noise meets in 95 % of studies of 4 × 200 questions, with up to a
# quarter of its answers flipping (`docs/statistics.md`). These limits alone would pass a true loss of a tenth; the
# limit on a shown loss stops it.
DEFAULTS = Limits(max_dissociation=0.15, max_gap=0.20, min_open_retained=0.85, max_shown_loss=0.05)


def read_limits(
    max_dissociation: float | None = None,
    max_gap: float | None = None,
    min_open_retained: float | None = None,
    max_shown_loss: float | None = None,
    **others: float | None,
) -> Limits:
    """The given limits, or all defaults if none is given. others: limits on long answers and scores, without defaults.

    Raises:
        StudyError: a limit is not a share.
    """
    given = Limits(max_dissociation, max_gap, min_open_retained, max_shown_loss, **others)
    shares = (
        ("--max-dissociation", max_dissociation, 0.0),
        ("--max-gap", max_gap, -1.0),
        ("--min-open-retained", min_open_retained, 0.0),
        ("--max-shown-loss", max_shown_loss, 0.0),
        *(
            (f"--{name.replace('_', '-')}", limit, -1.0 if name.startswith("max") else 0.0)
            for name, limit in others.items()
        ),
    )
    for name, value, least in shares:
        if value is not None and not least <= value <= 1:
            raise StudyError(f"gate: {name} is a share from {least:g} to 1, as in 0.15; got {value:g}")
    return DEFAULTS if given == Limits() else given


class Check(NamedTuple):
    """One figure of one arm in one scope against its limit.

    limit: None if the check has no figure. limit_is: whether the figure must stay below (`at most`) or above
    (`at least`) the limit. items_needed: questions in this scope that would decide a figure like this with 80 % power;
    None if no number would, or if the check is decided. note: why there is no figure, or what else to know. asked:
    questions in this scope. excluded: the languages that pooled figures exclude.
    """

    arm: str
    scope: str
    name: str
    limit: float | None
    limit_is: Literal["at most", "at least"]
    estimate: Estimate | None
    result: GateResult
    items_needed: int | None = None
    note: str = ""
    asked: int = 0
    excluded: tuple[str, ...] = ()


class Caution(NamedTuple):
    """A remark about one arm that decides nothing but should be looked at."""

    arm: str
    text: str


class Gate(NamedTuple):
    """All checks and their combined result: `fail` if one fails, `inconclusive` if one is open, else `pass`.

    reference: the same checks for the run's null arms, which decide nothing: the effect of harmless noise alone.
    """

    result: GateResult
    checks: tuple[Check, ...]
    cautions: tuple[Caution, ...] = ()
    reference: tuple[Check, ...] = ()


def check_run(
    results: Results, limits: Limits, *, by_language: bool = False, arms: Sequence[str] | None = None
) -> Gate:
    """Check the arms of a finished run, pooled over its languages and, if asked, in each of them.

    A language in which a figure can't be given is listed but not counted. Arms that could not be made or whose
    outputs are broken fail. Null arms are the reference; they are decided on only if named.

    Raises:
        RunError: an arm is unknown, or has not answered all items yet.
    """
    known = list(dict.fromkeys([*results.named, *results.arms, *results.failed]))
    asked = [find_arm(arm, known, where="gate: the run") for arm in arms or ()]
    chosen = [arm for arm in known if (arm in asked if asked else not is_null(arm))]
    if not chosen and known:
        raise RunError(
            "gate: every arm of the run is base itself under harmless noise, the reference for others; name one with "
            "--arm, or run the study with a compressed model"
        )
    if not chosen:
        raise RunError("gate: the run has no arm to decide on; repeat the `anomia run` command")
    _check_finished(results, chosen)
    figures = lookup(results.diagnosis.figures)
    checks: list[Check] = []
    for arm in chosen:
        if arm in results.failed:
            checks.append(
                Check(arm, POOLED, "can be made", None, "at least", None, "fail", note=results.failed[arm])
            )
            continue
        broken = _broken(results, arm)
        if broken:
            checks.append(broken)
        scopes = [POOLED, *results.languages] if by_language else [POOLED]
        mine = [check for scope in scopes for check in _checks(results, figures, arm, scope, limits)]
        if not by_language:
            mine += _excluded(results, figures, arm, limits)
        if _identical(results, arm):
            # Nothing was lost, but no interval can show that.
            mine = [
                check._replace(result="pass", items_needed=None, note="every recorded probability is base's")
                for check in mine
            ]
        checks += mine
    cautions = [Caution(arm, SWAPPED) for arm in chosen if _above_base(figures, arm)]
    for arm in chosen:
        finding, _ = long_words(arm, figures, results.diagnosis.damage)
        limited = any(getattr(limits, name) is not None for name in ("max_more_unended", "max_more_loops"))
        if finding and not limited:
            cautions.append(
                Caution(arm, f"{finding} No limit was given on that (--max-more-unended, --max-more-loops).")
            )
    cautions += [Caution(arm, results.besides[arm]) for arm in chosen if arm in results.besides]
    if results.excluded_languages and not by_language:
        names = ", ".join(results.excluded_languages)
        text = f"decided without {names}, where base is too weak for a comparison; --by-language checks each language"
        cautions += [Caution(arm, text) for arm in chosen if arm not in results.failed]
    nulls = [arm for arm in results.arms if is_null(arm) and arm not in chosen]
    reference = [check for arm in nulls for check in _checks(results, figures, arm, POOLED, limits)]
    cautions += [
        Caution(check.arm, f"base under harmless noise {NOT_PASSED[check.result].format(check=check.name)}")
        for check in reference
        if check.result in NOT_PASSED
    ]
    named = [_with_excluded(part, results.excluded_languages) for part in (checks, reference)]
    return Gate(_overall(checks), named[0], tuple(cautions), named[1])


def _with_excluded(checks: Sequence[Check], excluded: tuple[str, ...]) -> tuple[Check, ...]:
    return tuple(check._replace(excluded=excluded) if check.scope == POOLED else check for check in checks)


def decide_at_most(estimate: Estimate, limit: float) -> GateResult:
    """The result of an interval against an upper limit."""
    if estimate.high <= limit:
        return "pass"
    return "fail" if estimate.low > limit else "inconclusive"


def decide_at_least(estimate: Estimate, limit: float) -> GateResult:
    """The result of an interval against a lower limit."""
    if estimate.low >= limit:
        return "pass"
    return "fail" if estimate.high < limit else "inconclusive"


def overall(results: Sequence[GateResult]) -> GateResult:
    """The combined result of several runs: the worst of their results."""
    order: tuple[GateResult, ...] = ("fail", "inconclusive", "untestable")
    return next((result for result in order if result in results), "pass")


def _overall(checks: Sequence[Check]) -> GateResult:
    if any(check.result == "fail" for check in checks):
        return "fail"
    # An untestable language decides nothing; a study in which nothing can be tested does not pass.
    if any(check.result == "inconclusive" for check in checks):
        return "inconclusive"
    if any(check.result == "untestable" and check.scope == POOLED for check in checks):
        return "untestable"
    return "pass"


def _checks(results: Results, figures: Lookup, arm: str, scope: str, limits: Limits) -> Iterator[Check]:
    asked = figures.get((arm, accuracy("open"), scope))
    items = asked.n if asked else 0
    if not results.has_formats:
        of_formats = [each.name for each in fields(Limits) if each.name not in LONG]
        if any(getattr(limits, name) is not None for name in of_formats):
            yield Check(arm, scope, "limits", None, "at most", None, "untestable", note=_ONLY_LONG)
        limits = replace(limits, **dict.fromkeys(of_formats))
    scored = next(
        (row for row in results.scores if (row.arm, row.part, row.scope) == (arm, SCORE, scope)), None
    )
    lacking = _SCORES_ALONE if scored is not None and not asked else ""
    if limits.max_dissociation is not None:
        found = _net_dissociation(results, figures, arm, scope)
        yield _check(arm, scope, NET, found, limits.max_dissociation, "at most", items, lacking=lacking)
    if limits.max_gap is not None:
        found = figures.get((arm, gap("choice"), scope))
        yield _check(arm, scope, "gap", found, limits.max_gap, "at most", items, lacking=lacking)
    if limits.min_open_retained is not None:
        drop = figures.get((arm, normalized_drop("open"), scope))
        kept = drop and drop._replace(value=1 - drop.value, low=1 - drop.high, high=1 - drop.low)
        yield _check(
            arm, scope, "open retained", kept, limits.min_open_retained, "at least", items, lacking=lacking
        )
    if limits.max_shown_loss is not None:
        found = figures.get((arm, normalized_drop("open"), scope))
        # Given alone, it is a limit like any other: in a small study, showing no loss proves nothing.
        alone = limits == Limits(max_shown_loss=limits.max_shown_loss)
        name = LOSS if alone else SHOWN
        yield _check(arm, scope, name, found, limits.max_shown_loss, "at most", items, lacking=lacking)
    if limits.max_score_drop is not None:
        fell, count = (None, items) if scored is None else (scored.drop, scored.n)
        yield _check(arm, scope, SCORE_DROP, fell, limits.max_score_drop, "at most", count, lacking=_NO_SCORE)
    for field, (measure, name, limit_is) in LONG.items():
        limit = getattr(limits, field)
        if limit is not None:
            found = figures.get((arm, measure, scope))
            yield _check(arm, scope, name, found, limit, limit_is, items, lacking=_NO_LONG)


def _excluded(results: Results, figures: Lookup, arm: str, limits: Limits) -> Iterator[Check]:
    """A loss of open answers that is shown in a language that the pooled figures exclude."""
    if limits.max_shown_loss is None:
        return
    for language in results.excluded_languages:
        found = figures.get((arm, normalized_drop("open"), language))
        if found is not None and found.low > 0:
            yield _check(arm, language, SHOWN, found, limits.max_shown_loss, "at most", found.n)


def _check(
    arm: str,
    scope: str,
    name: str,
    estimate: Estimate | None,
    limit: float,
    limit_is: Literal["at most", "at least"],
    items: int,
    *,
    lacking: str = "",
) -> Check:
    if estimate is None:
        why = lacking or (
            f"base answers fewer than {FEWEST_BOTH_CORRECT} questions in both formats"
            if name == NET
            else "base is too weak here"
        )
        return Check(arm, scope, name, limit, limit_is, None, "untestable", note=why, asked=items)
    decide = decide_at_most if limit_is == "at most" else decide_at_least
    result = decide(estimate, limit)
    if name == SHOWN and estimate.low <= 0:
        return Check(
            arm, scope, name, limit, limit_is, estimate, "pass", note="no loss is shown", asked=items
        )
    needed = None
    if result == "inconclusive":
        needed = items_needed(estimate, limit)
        if needed is not None and estimate.n:
            # A dissociation rate uses only some of the questions, but all of them must be asked.
            needed = round(needed * max(items, estimate.n) / estimate.n)
    return Check(arm, scope, name, limit, limit_is, estimate, result, needed, asked=max(items, estimate.n))


def _net_dissociation(results: Results, figures: Lookup, arm: str, scope: str) -> Estimate | None:
    """The net dissociation rate.

    If an arm was stopped by looking at its dissociation rate, the upper bound is at least that of the rate's own
    interval, which allows for repeated looks: the net rate is never larger than the rate.
    """
    found = figures.get((arm, net_dissociation("choice"), scope))
    looks: Sequence[dict[str, Any]] = (results.stopping or {}).get("arms", {}).get(arm, ())
    for look in looks:
        whole = scope == POOLED and len(looks) == 1
        if found and (whole or look.get("languages") == [scope]) and look.get("dissociation"):
            return found._replace(high=max(found.high, Estimate(**look["dissociation"]).high))
    return found


def _broken(results: Results, arm: str) -> Check | None:
    """A failed check where the verdict calls an arm's outputs broken."""
    verdict = results.overall(arm)
    if verdict.outcome != "broken":
        return None
    return Check(arm, POOLED, "sound outputs", None, "at least", None, "fail", note=verdict.words.text)


def _above_base(figures: Lookup, arm: str) -> bool:
    """Whether the arm significantly gained in open or in choice: the whole interval of a drop is below 0."""
    drops = (
        figures.get((arm, family(probe), POOLED)) for probe in FORMATS for family in (normalized_drop, drop)
    )
    return any(drop is not None and drop.high < 0 for drop in drops)


def _identical(results: Results, arm: str) -> bool:
    """Whether every recorded probability and open answer of an arm equals base's, with the same grades."""
    evidence = results.overall(arm).evidence
    return evidence.identical and not graded_otherwise(evidence)


def _check_finished(results: Results, arms: Sequence[str]) -> None:
    """Refuse a run that may still change.

    Raises:
        RunError: an arm has answered fewer items than base, though it was not allowed to stop.
    """
    answered = dict(results.records.group_by("arm").len().iter_rows())
    stopped = (results.stopping or {}).get("arms", {})
    for arm in arms:
        if arm in results.failed or arm in stopped:
            continue
        if answered.get(arm, 0) < answered.get(BASE, 0):
            raise RunError(
                f"gate: {arm} has answered {answered.get(arm, 0)} of {answered[BASE]} items; repeat "
                "the `anomia run` command until it is done, so that the decision can't change"
            )
