"""Verdicts: the outcome of each arm in each language and overall."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.measure.evidence import OVERALL
from anomia.measure.judge import ScopeVerdict
from anomia.measure.results import Results
from anomia.measure.scope import LABELS
from anomia.measure.verdict import Decision, Evidence
from anomia.report.tables.table import Column, Filed, Marked, Table, in_files

OUTCOME = Column("outcome", "outcome", "text")
SAME_PASSAGE = Column(
    "same_passage_outcome",
    "with same-passage\noptions",
    "text",
    place="files",
    full="with same-passage options",
)
IN_FILES = Filed("verdicts", "Verdicts", "overall: all languages.", keys=2)


def outcomes(verdicts: Sequence[ScopeVerdict]) -> Table:
    """The outcome of one arm in each language and overall, and with other options.

    On screen an inconclusive outcome says what is possible; the files have each verdict in words.
    """
    rows = [
        (
            verdict.scope, _decided(verdict),
            LABELS.get(verdict.decided_by, verdict.decided_by), verdict.word,
            *(_with_options(verdict, each) for each in (verdict.standard, verdict.same_passage)), verdict.text,
        )
        for verdict in verdicts
    ]  # fmt: skip
    return Table(
        "outcomes",
        "",
        (
            Column("scope", "language", "text", full="scope"), OUTCOME,
            Column("decided_by", "decided with", "text", place="files"),
            Column("word", "word", "text", place="files"),
            Column("standard_outcome", "with standard\noptions", "text", full="with standard options"),
            SAME_PASSAGE._replace(place="both"),
            Column("text", "in words", "words", place="files"),
        ),
        rows,
        # Even if a language can't be judged, the one format that can be tested may show a loss.
        [f"{v.scope}: {v.words.one_format}" for v in verdicts if v.scope != OVERALL and v.words.one_format],
    )  # fmt: skip


def decided(verdict: ScopeVerdict) -> str:
    """The outcome that was decided, or where answers have scores alone, what their drop says about the margin."""
    return verdict.outcome if verdict.score is None else f"score {verdict.score}"


def with_options(verdict: ScopeVerdict, decision: Decision | None) -> str:
    """The outcome with some options, with what is possible if nothing is decided."""
    marked = _with_options(verdict, decision)
    return "–" if marked is None else f"{marked.value}{marked.mark}"


def _decided(verdict: ScopeVerdict) -> Marked | None:
    if verdict.score is not None:
        return Marked(decided(verdict), "")
    return _marked(verdict.decision, verdict.evidence)


def _with_options(verdict: ScopeVerdict, decision: Decision | None) -> Marked | None:
    """Where answers have scores alone, no options can decide."""
    return None if verdict.score is not None else _marked(decision)


def _marked(decision: Decision | None, evidence: Evidence | None = None) -> Marked | None:
    """The outcome, marked with what is possible or missing if nothing is decided."""
    if decision is None:
        return None
    mark = ""
    # If every outcome is still possible, listing them adds nothing.
    if decision.outcome == "inconclusive" and 0 < len(decision.possible) < 4:
        *some, last = decision.possible
        mark = f": {', '.join(some)}{' or ' if some else ''}{last}"
    elif decision.outcome == "untestable" and evidence is not None:
        mark = f": {evidence.fates.both_correct} both correct"
    return Marked(decision.outcome, mark)


def verdicts_file(results: Results) -> Table:
    """The outcomes of all arms."""
    return in_files(IN_FILES, [(arm, outcomes(results.verdicts_of(arm))) for arm in results.arms])
