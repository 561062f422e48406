"""The decision of a gate: a Markdown summary for people, JUnit XML for continuous integration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from anomia.errors import RunError
from anomia.measure import measures
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.gate import Check, Gate, GateResult
from anomia.measure.power import in_reach, rounded
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.report.naming import exclusions

_HEADLINES: dict[GateResult, str] = {
    "pass": "passes",
    "fail": "does not pass",
    "inconclusive": "is not decided",
    "untestable": "can't be tested",
}
_MARKS: dict[GateResult, str] = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "❔ inconclusive",
    "untestable": "– untestable",
}
GAP = "gap"
OUT_OF_REACH = "out of reach: the figure is too close to its limit"
_EXPLAINED = (
    "Each figure is decided by its 95 % interval: it passes if the worse end is within the limit, fails if the "
    "better end is beyond it, and is inconclusive otherwise; the last column says how many questions like these "
    "would give 80 % power to settle it. Net dissociation: of the answers that base gets right in both formats, the "
    "share that is now only picked, minus the items that went the other way. Gap: share lost of what base had, open "
    "− choice; in raw points, which decide nothing: points lost, open − choice. Open loss, if shown: a loss of open "
    "answers whose interval excludes 0."
)


class Basis(NamedTuple):
    """Context of a run's checks that the checks themselves don't contain.

    raw_gaps: the gap in raw points, by arm and scope. exclusions: in words, what was excluded on request. excluded: the
    number of items of each kind excluded, None if unknown.
    """

    raw_gaps: Mapping[tuple[str, str], Estimate] = {}
    exclusions: str = ""
    excluded: Mapping[str, int | None] = {}


NO_BASIS = Basis()


def basis(results: Results) -> Basis:
    """The context of a run's checks."""
    figures = lookup(results.diagnosis.figures)
    gaps = {
        (arm, scope): found
        for (arm, measure, scope), found in figures.items()
        if measure == measures.raw_gap("choice") and found is not None
    }
    return Basis(gaps, exclusions(results), {kind: results.excluded.get(kind) for kind in results.exclude})


def markdown(gate: Gate, *, name: str, basis: Basis = NO_BASIS) -> str:
    """The summary, for a pull request or a job. name: of the run."""
    lines = [f"## Anomia: {_escaped(name)} {_HEADLINES[gate.result]}", ""]
    lines += [
        "| arm | over | figure | value [95 %] | limit | result | questions needed |",
        "|---|---|---|---|---|---|---|",
    ]
    for check in gate.checks:
        named = (_escaped(check.arm), _escaped(_scope(check)), check.name)
        rest = (_value(check, basis), _limit(check), _MARKS[check.result], settled_by(check))
        lines.append(f"| {' | '.join((*named, *rest))} |")
    if gate.reference:
        lines += ["", "For reference, base again under harmless noise; this decides nothing:", ""]
        lines += ["| null arm | figure | value [95 %] | limit |", "|---|---|---|---|"]
        lines += [
            f"| {_escaped(check.arm)} | {check.name} | {_value(check, basis)} | {_limit(check)} |"
            for check in gate.reference
        ]
    notes = [f"- ⚠️ {_escaped(caution.arm)}: {caution.text}" for caution in gate.cautions]
    notes += [f"- {_about(check, basis, quote=_escaped)}" for check in gate.checks if check.note]
    if basis.exclusions:
        notes.append(f"- excluded on request: {basis.exclusions}")
    if notes:
        lines += ["", *notes]
    return "\n".join([*lines, "", _EXPLAINED, ""])


def junit(gates: Sequence[tuple[str, Gate]], bases: Mapping[str, Basis] = {}) -> str:
    """The checks of runs, by name, as JUnit XML: one suite per arm, one case per check; open checks are errors."""
    everything = [check for _, gate in gates for check in gate.checks]
    root = ElementTree.Element("testsuites", {"name": "anomia gate", **_counts(everything)})
    arms = [(name, gate, arm) for name, gate in gates for arm in dict.fromkeys(c.arm for c in gate.checks)]
    for name, gate, arm in arms:
        basis = bases.get(name, NO_BASIS)
        mine = [check for check in gate.checks if check.arm == arm]
        title = arm if len(gates) == 1 else f"{name}: {arm}"
        suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(title), **_counts(mine)})
        for check in mine:
            title = f"{check.name} ({_scope(check)})" + (
                f" {_limit(check)}" if check.limit is not None else ""
            )
            case = ElementTree.SubElement(
                suite, "testcase", classname=_clean(arm), name=_clean(title), time="0"
            )
            kind = _kind(check)
            if kind:
                about = _about(check, basis, quote=_clean)
                ElementTree.SubElement(case, kind, type=check.result, message=about)
        cautions_text = [caution.text for caution in gate.cautions if caution.arm == arm]
        if basis.exclusions:
            cautions_text.append(f"excluded on request: {basis.exclusions}")
        if cautions_text:
            ElementTree.SubElement(suite, "system-out").text = "\n".join(cautions_text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def decision_json(
    gates: Sequence[tuple[str, Gate]], result: GateResult, exit_code: int, bases: Mapping[str, Basis] = {}
) -> dict[str, Any]:
    """The whole decision as plain values: over all runs, then by run and check; shares as fractions, not per cent."""
    return {
        "result": result,
        "exit_code": exit_code,
        "runs": [
            {
                "run": name,
                "result": gate.result,
                "excluded": dict(basis.excluded),
                "checks": [
                    _plain(check, basis) | {"questions_to_settle_it": settled_by(check) or None}
                    for check in gate.checks
                ],
                "reference": [_plain(check, basis) for check in gate.reference],
                "cautions": [caution._asdict() for caution in gate.cautions],
            }
            for name, gate in gates
            for basis in [bases.get(name, NO_BASIS)]
        ],
    }


def _plain(check: Check, basis: Basis) -> dict[str, Any]:
    """A check with its estimate as plain values and, for a gap, its value in raw points."""
    raw = _raw_gap(check, basis)
    estimates = {"estimate": check.estimate, "raw_points": raw}
    return check._asdict() | {name: found and found._asdict() for name, found in estimates.items()}


def settled_by(check: Check) -> str:
    """The number of questions that would settle an open check, as a cell's text; empty if it is not open."""
    if check.result != "inconclusive":
        return ""
    if check.items_needed is None:
        return "no number"
    if not in_reach(check.items_needed, check.asked):
        return OUT_OF_REACH
    return f"{rounded(check.items_needed):,}"


def _counts(checks: Sequence[Check]) -> dict[str, str]:
    kinds = [_kind(check) for check in checks]
    return {
        "tests": str(len(checks)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
    }


def _kind(check: Check) -> str | None:
    """JUnit's term for a check that did not pass; an untestable check only counts over all items."""
    if check.result == "untestable":
        return "error" if check.scope == POOLED else "skipped"
    return {"fail": "failure", "inconclusive": "error"}.get(check.result)


def _scope(check: Check) -> str:
    if check.scope != POOLED:
        return check.scope
    return f"all but {', '.join(check.excluded)}" if check.excluded else "all items"


def write_report(path: Path, text: str, *, append: bool = False) -> None:
    """Write a requested file.

    Raises:
        RunError: it can't be written.
    """
    try:
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"gate: {path} can't be written: {error.strerror or error}") from None


def _about(check: Check, basis: Basis, *, quote: Callable[[str], str]) -> str:
    """One check in words, if it did not pass or has a note. quote: escapes names and messages."""
    head = f"{quote(check.arm)}, {quote(_scope(check))}: {check.name}"
    if check.estimate is None:
        return f"{head}: {quote(check.note)}"
    text = f"{head} {_value(check, basis)}, limit {_limit(check)}"
    if check.note:
        return f"{text}: {quote(check.note)}"
    if check.result == "fail":
        return f"{text}: the whole interval is beyond it"
    needed = settled_by(check)
    if check.items_needed is None:
        needed = "no number of questions would settle it at this value"
    elif in_reach(check.items_needed, check.asked):
        needed = f"about {needed} questions like these would give 80 % power to settle it"
    return f"{text}: the limit lies inside the interval; {needed}"


def _value(check: Check, basis: Basis) -> str:
    if check.estimate is None:
        return "–"
    text = f"{_interval(check.estimate)} % (n = {check.estimate.n})"
    raw = _raw_gap(check, basis)
    return text if raw is None else f"{text}; in raw points {_interval(raw)}"


def _raw_gap(check: Check, basis: Basis) -> Estimate | None:
    """The gap in raw points for a check of the gap, which itself compares shares."""
    return basis.raw_gaps.get((check.arm, check.scope)) if check.name == GAP else None


def _interval(estimate: Estimate) -> str:
    value, low, high = (_percent(number) for number in estimate[:3])
    return f"{value} [{low}, {high}]"


def _percent(share: float) -> str:
    """A percentage with enough decimals that a bound doesn't look equal to the limit next to it."""
    return f"{100 * share:.1f}".replace("-", "−")


def _limit(check: Check) -> str:
    sign = "≤" if check.limit_is == "at most" else "≥"
    return "–" if check.limit is None else f"{sign} {100 * check.limit:g} %"


def _escaped(text: str) -> str:
    """Text on one line without Markdown markup, because names and messages come from files."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(_clean(text).split()))


def _clean(text: str) -> str:
    """The text without characters that XML doesn't allow, such as control characters."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)
