"""Grade outputs by normalization and matching.

Source: paper, Appendix B (normalized substring containment), with the two changes of `docs/design.md`: punctuation is
Unicode's category, because the usual `[^\\w\\s]` deletes the vowel signs of Bengali, Telugu and Thai; and if candidates
were shown, an output that echoes several of them is not an answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol

from anomia.errors import StudyError, nearest
from anomia.strict import strict
from anomia.text import first_lines, is_unspaced, normalize, words

__all__ = [
    "CONTAINMENT", "ENTRY_POINTS", "GRADERS", "Grade", "Grader", "Grading", "Stripped", "best_f1", "containment", "contains",
    "exact_match", "f1", "grade", "grader_named", "is_degenerate", "is_unspaced", "named_candidates", "normalize",
    "strict", "strip_thinking", "words",
]  # fmt: skip

_THINK = re.compile(r"<think>.*?</think>", re.DOTALL)


# Packages can provide graders as `[project.entry-points."anomia.graders"]`: a name and its function.
ENTRY_POINTS = "anomia.graders"


class Grader(Protocol):
    """Grades an output against the accepted answers, gold first. True, or a grade of at least 0.5, means right."""

    def __call__(self, output: str, answers: Sequence[str]) -> float:
        """The grade, from 0 to 1."""
        ...


class Grading(NamedTuple):
    """How a study's outputs are graded.

    grader: a name for `grader_named`. stop: an answer ends before the first of these strings.
    """

    grader: str = "containment"
    stop: tuple[str, ...] = ()

    def is_right(self, output: str, answers: Sequence[str]) -> bool:
        """Whether an output is right.

        Raises:
            StudyError: the grader fails, or its grade is not from 0 to 1.
        """
        grader = grader_named(self.grader)
        if self.grader in GRADERS:
            return bool(grader(output, answers) >= 0.5)
        try:
            given = grader(output, answers)
        except (Exception, SystemExit) as error:  # a third-party package can raise anything
            raise StudyError(
                f"the grader {self.grader!r} fails on the output {output[:60]!r}: {type(error).__name__}: {error}"
            ) from None
        try:
            mark = math.nan if isinstance(given, str) else float(given)
        except (TypeError, ValueError):
            mark = math.nan
        if not 0 <= mark <= 1:
            raise StudyError(
                f"the grader {self.grader!r} gives {given!r} for the output {output[:60]!r}; it must give True, "
                "False, or a grade from 0 to 1"
            )
        return mark >= 0.5

    def named(self, output: str, candidates: Sequence[str]) -> tuple[int, ...]:
        """The indices of the candidates that an output names, ascending."""
        # Not with `strict`, which finds only the first one in an echo of all candidates.
        if self.grader in ("containment", "strict"):
            return named_candidates(output, candidates)
        return tuple(n for n, candidate in enumerate(candidates) if self.is_right(output, [candidate]))

    def cut(self, text: str) -> str:
        """The text before the first stop string that occurs in it."""
        ends = [end for end in map(text.find, self.stop) if end >= 0]
        return text[: min(ends)] if ends else text


CONTAINMENT = Grading()


class Grade(NamedTuple):
    """The grades of an output, each the best over all gold answers."""

    correct: bool
    exact_match: bool
    f1: float


class Stripped(NamedTuple):
    """An output without its `<think>` spans. unclosed: whether the token limit cut one off."""

    text: str
    unclosed: bool


def contains(output: str, answer: str) -> bool:
    """Whether the normalized output contains the normalized answer."""
    wanted = normalize(answer)
    return bool(wanted) and wanted in normalize(output)


def containment(output: str, answers: Sequence[str]) -> bool:
    """Whether the output contains any answer: the paper's rule, and the default."""
    return any(contains(output, answer) for answer in answers)


def exact_match(output: str, answers: Sequence[str]) -> bool:
    """Whether the first non-empty line of the output equals an answer, once both are normalized.

    An answer of several lines is also compared with the same number of first lines.
    """
    return any(
        normalize(said) == normalize(answer) != ""
        for answer in answers
        for said in first_lines(output, answer)
    )


def best_f1(output: str, answers: Sequence[str]) -> float:
    """Token F1 of the first non-empty line with the closest answer; 0.5 or more is right. Lines as in `exact_match`."""
    return max((f1(said, answer) for answer in answers for said in first_lines(output, answer)), default=0.0)


GRADERS: dict[str, Grader] = {
    "containment": containment,
    "exact_match": exact_match,
    "f1": best_f1,
    "strict": strict,
}


@cache
def grader_named(name: str) -> Grader:
    """A built-in grader, or one that an installed package provides.

    Raises:
        StudyError: the name is unknown, or its package can't be imported.
    """
    if name in GRADERS:
        return GRADERS[name]
    installed = entry_points(group=ENTRY_POINTS)
    if name not in installed.names:
        known = {*GRADERS, *installed.names}
        raise StudyError(f"unknown grader {name!r}; {nearest(name, known)}")
    try:
        found = installed[name].load()
    except Exception as error:  # a third-party package can raise anything
        raise StudyError(f"the grader {name!r} can't be imported: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise StudyError(f"the grader {name!r} is not a function: its package is faulty")
    grader: Grader = found
    return grader


def strip_thinking(text: str) -> Stripped:
    """Remove `<think>…</think>` spans; an unclosed one leaves an empty answer."""
    rest = _THINK.sub("", text)
    if "<think>" in rest:
        return Stripped("", True)
    return Stripped(rest, False)


def is_degenerate(tokens: Sequence[int], text: str) -> bool:
    """Whether an output says nothing: it has no letter or digit, or repeats one or two tokens.

    tokens: token ids. Small intact models do this too, so compare with base's rate.
    """
    if not any(char.isalnum() for char in text):
        return True
    return len(tokens) >= 8 and len(set(tokens)) <= 2


def grade(output: str, answers: Sequence[str]) -> Grade:
    """Grade an open output: containment on all of it, exact match and F1 on its first non-empty line."""
    return Grade(containment(output, answers), exact_match(output, answers), best_f1(output, answers))


def f1(output: str, answer: str) -> float:
    """Token F1 of SQuAD (Rajpurkar et al. 2016); unspaced scripts are split into characters."""
    got, wanted = Counter(words(output)), Counter(words(answer))
    shared = sum((got & wanted).values())
    if not shared:
        return 0.0
    precision, recall = shared / got.total(), shared / wanted.total()
    return 2 * precision * recall / (precision + recall)


def named_candidates(output: str, candidates: Sequence[str]) -> tuple[int, ...]:
    """The indices of the candidates that an output names, ascending.

    Longer candidates are matched first and removed from the output, so that "New York City" doesn't also name "New
    York". Equal candidates are named together.
    """
    rest = normalize(output)
    found: set[int] = set()
    wanted = [normalize(candidate) for candidate in candidates]
    for index in sorted(range(len(wanted)), key=lambda i: -len(wanted[i])):
        text = wanted[index]
        if text and text in rest:
            found.update(i for i, other in enumerate(wanted) if other == text)
            rest = rest.replace(text, "\0")
    return tuple(sorted(found))
