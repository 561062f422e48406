"""What an arm lost of what base had, and the gaps between the shares."""

from __future__ import annotations

from anomia.measure.figures import lookup
from anomia.measure.frame import MEAN, POOLED
from anomia.measure.results import Results
from anomia.report.tables.subject import Subject
from anomia.report.tables.table import ARM, LANGUAGE, N, Note, Of, Table, by_scope, given, n_of, values

DROPS = (
    Of("drop/open", "drop, open"),
    Of("drop/open_strict", "drop, open strict"),
    Of("drop/cued", "drop, cued"),
    Of("drop/choice", "drop, choice"),
)
LOSSES = (
    Of("normalized_drop/open", "open", "share lost, open"),
    Of("normalized_drop/open_strict", "open,\nstrict", "share lost, open strict"),
    Of("normalized_drop/choice", "choice", "share lost, choice"),
    Of("gap/choice", "gap to\nchoice"),
    Of("raw_gap/choice", "in raw\npoints", "raw gap to choice"),
    Of("gap/choice_hard", "gap to\nhard choice"),
    Of("raw_gap/choice_hard", "in raw\npoints", "raw gap to hard choice"),
    Of("gap/choice_passage", "gap to\nsame passage", "gap to same-passage choice"),
    Of("raw_gap/choice_passage", "in raw\npoints", "raw gap to same-passage choice"),
    Of("gap_strict/choice", "strict gap\nto choice"),
    Of("raw_gap_strict/choice", "in raw\npoints", "raw strict gap to choice"),
    Of("gap_strict/choice_passage", "strict gap to\nsame passage", "strict gap to same-passage choice"),
    Of("raw_gap_strict/choice_passage", "in raw\npoints", "raw strict gap to same-passage choice"),
)
CUED = Of("normalized_drop/cued", "cued", "share lost, cued")
ALL = (*DROPS, *LOSSES[:2], CUED, *LOSSES[2:])


def losses(subject: Subject) -> Table:
    """Normalized drops, the gaps between them, and each gap in raw points."""
    shown = given(LOSSES, subject.figures, subject.arm, subject.scopes)
    rows, rules = by_scope(
        subject.scopes, lambda scope: values(shown, subject.figures, subject.arm, scope), means=[MEAN]
    )
    return Table(
        "losses",
        "Share lost of what base had (normalized drop), and gap between the shares (%)",
        (LANGUAGE, *(loss.column() for loss in shown)),
        rows,
        _notes(subject, shown),
        rules=rules,
    )


def losses_file(results: Results) -> Table:
    """Drops, normalized drops and the gaps between them, by arm and language."""
    figures = lookup(results.diagnosis.figures)
    rows = []
    for arm in results.arms:
        for scope in (*results.languages, POOLED, MEAN):
            found = values(ALL, figures, arm, scope)
            if any(found):
                rows.append((arm, scope, n_of(next(filter(None, found))), *found))
    return Table(
        "drops",
        "Drops of accuracy and gaps (points)",
        (ARM, LANGUAGE, N, *(loss.column(full=True) for loss in ALL)),
        rows,
        (
            "Drop: accuracy of base − of the arm. Share lost: the drop over what base had above the floor. Gap: share "
            "lost in open − share lost in choice (ΔPR); raw gap: the same in points lost. mean: over languages.",
        ),
        keys=2,
    )


def _notes(subject: Subject, shown: list[Of]) -> list[Note]:
    """What raw points are, and the languages in which base is too weak for a mean, by measure."""
    weak = {
        str(figure.measure): ", ".join(figure.left_out)
        for figure in subject.results.diagnosis.figures
        if figure.arm == subject.arm and figure.scope == MEAN and figure.left_out
    }
    by_languages: dict[str, list[str]] = {}
    for loss in shown:
        if loss.measure in weak and not loss.measure.startswith("raw_gap"):
            by_languages.setdefault(weak[loss.measure], []).append(loss.brief.replace("\n", " "))
    notes: list[Note] = []
    if any(loss.measure.startswith("raw_gap") for loss in shown):
        notes.append("in raw points: points that open lost − points that choice lost")
    notes += [
        f"mean of {', '.join(labels)}: without {names} (base less than 10 points above guessing)"
        for names, labels in by_languages.items()
    ]
    return notes
