"""What an arm lost of what base had, and the gaps between these shares."""

from __future__ import annotations

from anomia.measure import measures
from anomia.measure.frame import MEAN
from anomia.probes import CHOICES, DECIDING, FORMATS, LADDER, SAID, short
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import (
    LANGUAGE,
    Cell,
    Filed,
    N,
    Note,
    Of,
    Table,
    broken,
    by_scope,
    given,
    n_of,
    named,
    values,
)

DROPS = tuple(
    named(measures.drop(name))._replace(place="files")
    for name in LADDER
    if name in ("open_strict", *SAID, *FORMATS)
)
LOSSES = (
    named(measures.normalized_drop("open"), "open"),
    named(measures.normalized_drop("open_strict"), broken("open, strict")),
    named(measures.normalized_drop("choice"), "choice"),
    *(
        named(family(options), header)
        for gap, raw, every in (
            (measures.gap, measures.raw_gap, CHOICES),
            (measures.gap_strict, measures.raw_gap_strict, DECIDING),
        )
        for options in every
        for family, header in ((gap, ""), (raw, "in raw\npoints"))
    ),
)
OTHERS = tuple(
    named(measures.normalized_drop(name), short(name))._replace(place="files")
    for name in SAID
    if name not in FORMATS
)
RAW = (measures.raw_gap.name, measures.raw_gap_strict.name)
ALL = (*DROPS, *LOSSES[:2], *OTHERS, *LOSSES[2:])


IN_FILES = Filed(
    "drops",
    "Drops of accuracy and gaps (points)",
    "Drop: accuracy of base − of the arm. Share lost: the drop over what base had above the floor. Gap: share "
    "lost in open − share lost in choice (ΔPR); raw gap: the same in points lost. mean: over languages.",
    keys=2,
)


def losses(subject: ArmResults) -> Table:
    """Drops, normalized drops, the gaps between them, and each gap in raw points."""
    shown = given(ALL, subject.figures, subject.arm, subject.scopes)

    def cells(scope: str) -> list[Cell]:
        found = values(shown, subject.figures, subject.arm, scope)
        return [n_of(next(filter(None, found), None)), *found]

    rows, rules = by_scope(subject.scopes, cells, means=[MEAN]) if shown else ([], [])
    return Table(
        "losses",
        "Share of base's accuracy above guessing that was lost (normalized drop), and gap between the shares (%)",
        (LANGUAGE, N._replace(place="files"), *(loss.column() for loss in shown)),
        rows,
        _notes(subject, [loss for loss in shown if loss.place != "files"]),
        rules=rules,
    )


def _notes(subject: ArmResults, shown: list[Of]) -> list[Note]:
    """Notes on raw points, and on the languages in which base is too weak for a mean, by measure."""
    weak = {
        str(figure.measure): ", ".join(figure.excluded)
        for figure in subject.results.diagnosis.figures
        if figure.arm == subject.arm and figure.scope == MEAN and figure.excluded
    }
    by_languages: dict[str, list[str]] = {}
    for loss in shown:
        if loss.measure in weak and loss.measure.family not in RAW:
            by_languages.setdefault(weak[loss.measure], []).append(loss.brief.replace("\n", " "))
    notes: list[Note] = []
    if any(loss.measure.family in RAW for loss in shown):
        notes.append("in raw points: points that open lost − points that choice lost")
    notes += [
        f"mean of {', '.join(labels)}: without {names} (base less than 10 points above guessing)"
        for names, labels in by_languages.items()
    ]
    return notes
