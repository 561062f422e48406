"""A verdict's parts in words: what decided it, and the outcomes with the other options."""

from __future__ import annotations

from anomia.measure.judge import ScopeVerdict
from anomia.measure.scope import LABELS
from anomia.measure.verdict import Decision, Evidence


def outcome(decision: Decision | None, evidence: Evidence | None = None) -> str:
    """The outcome, with what is open or missing if nothing is decided."""
    if decision is None:
        return "–"
    # If every outcome is still possible, listing them adds nothing.
    if decision.outcome == "inconclusive" and 0 < len(decision.possible) < 4:
        *some, last = decision.possible
        return f"inconclusive: {', '.join(some)}{' or ' if some else ''}{last}"
    if decision.outcome == "untestable" and evidence is not None:
        return f"untestable: base gets {evidence.fates.both_correct} right in both formats"
    return decision.outcome


def decided(verdict: ScopeVerdict, *, brief: bool = False) -> str:
    """The outcome that was decided, or where answers have scores alone, what their drop says about the margin.

    brief: without what is open or missing if nothing is decided.
    """
    if verdict.score is not None:
        return f"score {verdict.score}"
    return verdict.outcome if brief else outcome(verdict.decision, verdict.evidence)


def outcomes_of(verdict: ScopeVerdict) -> tuple[str, str, str]:
    """The outcome that was decided, and those with standard and with same-passage options."""
    if verdict.score is not None:
        # Without right answers, no options can decide.
        return decided(verdict), outcome(None), outcome(None)
    return (
        decided(verdict),
        outcome(verdict.standard),
        outcome(verdict.same_passage),
    )


def decided_with(verdict: ScopeVerdict) -> str:
    """The options that decided, in words; empty if choice was not asked."""
    return LABELS.get(verdict.decided_by, verdict.decided_by)
