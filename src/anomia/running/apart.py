"""Questions apart from others: none that shares text with what was measured or calibrated on before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anomia.compress.overlap import build_sieve
from anomia.compress.sources import read_passages
from anomia.errors import DataError
from anomia.files import place
from anomia.items.item import Question
from anomia.run_folder import RunFolder, runs_of


def passages_of(run: Path) -> list[str]:
    """What the questions of a run are about: their passages, or their texts where there is none.

    Raises:
        RunError: there is no run.
    """
    found = []
    for folder in runs_of(run):
        rows = RunFolder(folder).items().select("context", "question").iter_rows()
        found += [context or question for context, question in rows]
    return found


def texts_in(places: Iterable[str]) -> list[str]:
    """The texts of runs and files: what runs measured, base's answers that they calibrated on, and files of passages.

    places: folders of runs, and files of calibration text.

    Raises:
        AnomiaError: one of them can't be read.
    """
    found: list[str] = []
    for name in places:
        path = place(name)
        if path.is_file():
            found += [passage.text for passage in read_passages(path)]
            continue
        found += passages_of(path)
        for folder in runs_of(path):
            for file in RunFolder(folder).answers_files():
                found += [passage.text for passage in read_passages(file)]
    return found


def without_known(
    questions: Mapping[str, Sequence[Question]], texts: Sequence[str], *, data: str
) -> tuple[dict[str, list[Question]], dict[str, int]]:
    """The questions that share no text with any of these, and how many were left out, by language.

    The rule is that of `overlap`.

    Raises:
        DataError: none is left in a language.
    """
    sieve = build_sieve(texts)
    kept = {
        language: [each for each in found if not sieve.catches(each.context or each.question)]
        for language, found in questions.items()
    }
    for language, found in kept.items():
        if not found:
            raise DataError(
                f"data: {data}, {language}: all {len(questions[language])} questions share text with what --not-in "
                "names; give other data, or leave this language out"
            )
    return kept, {language: len(questions[language]) - len(found) for language, found in kept.items()}
