"""Accuracies for every form of the question."""

from __future__ import annotations

from anomia.measure import measures
from anomia.measure.between import BASE
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.probes import GRADINGS, LADDER, short
from anomia.report.tables.arm_results import ArmResults, grader_of
from anomia.report.tables.table import (
    LANGUAGE,
    MODEL,
    Cell,
    N,
    Note,
    NoteValue,
    Table,
    by_model,
    by_scope,
    given,
    n_of,
    named,
    values,
)

# Needs no model; base's rows contain it.
PRESENCE = named(measures.accuracy("string_presence"))
FORMS = tuple(of for name in LADDER if (of := named(measures.accuracy(name))) != PRESENCE)
GRADED = tuple(named(measures.accuracy(name)) for name in GRADINGS)
_AGREEMENT = {
    "agree": "all three changed in the same direction",
    "differ": "they changed in different directions",
    "undecided": "not all three changed beyond chance, and none contradicts another",
}


def ladder(subject: ArmResults) -> Table:
    """Accuracy of base → arm for every form of the question, and whether three gradings of open agree."""
    forms = given(FORMS, subject.figures, subject.arm, subject.scopes)
    presence = given([PRESENCE], subject.figures, BASE, subject.scopes)

    def cells(scope: str) -> list[Cell]:
        changes = [subject.change(form.measure, scope) for form in forms]
        return [*changes, *values(presence, subject.figures, BASE, scope)]

    rows, rules = by_scope(subject.scopes if forms else [], cells)
    return Table(
        "ladder",
        "Accuracy, base → arm (%)",
        (LANGUAGE, *(form.column() for form in (*forms, *presence))),
        rows,
        _gradings(subject),
        rules=rules,
    )


def ladder_file(results: Results) -> Table:
    """Accuracy of every model for every form of the question, by language."""
    forms = (*FORMS, PRESENCE, *GRADED)
    figures = lookup(
        [
            figure
            for figure in results.diagnosis.figures
            if figure.arm == BASE or figure.measure != PRESENCE.measure
        ]
    )
    rows = by_model(forms, figures, (BASE, *results.arms), (*results.languages, POOLED))
    return Table(
        "accuracy",
        "Accuracy in every form of the question (%)",
        (MODEL, LANGUAGE, N, *(form.column(full=True) for form in forms)),
        [(model, scope, n_of(found[0]), *found) for model, scope, found in rows],
        ("Share of right answers with 95 % intervals; pooled: all languages as one.",),
        keys=2,
    )


def _gradings(subject: ArmResults) -> list[Note]:
    rows = subject.results.diagnosis.gradings
    agreement = next((row.agreement for row in rows if (row.arm, row.scope) == (subject.arm, POOLED)), None)
    if not agreement:
        return []
    parts: list[str | NoteValue] = []
    for name in ("open", *GRADINGS):
        label = short(name).removeprefix("open, ") if parts else grader_of(subject.results)
        parts += [
            ", " if parts else "free-form answers under three grades: ",
            f"{label} ",
            NoteValue(subject.change(measures.accuracy(name))),
        ]
    return [(*parts, f": {_AGREEMENT[agreement]}")]
