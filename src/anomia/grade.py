"""Is an output right? Normalization and matching.

Source: paper, Appendix B (normalized substring containment), with the two changes of
`docs/design.md`: punctuation is what Unicode calls punctuation, because the usual `[^\\w\\s]`
deletes the vowel signs of Bengali, Telugu and Thai; and a candidate-shown output that echoes
several candidates is not an answer.
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


# A package offers graders as `[project.entry-points."anomia.graders"]`: a name, and the function it stands for.
ENTRY_POINTS = "anomia.graders"


class Grader(Protocol):
    """Says how right an output is: True, or at least 0.5, is right. It gets the accepted answers, gold first."""

    def __call__(self, output: str, answers: Sequence[str]) -> float:
        """The grade of an output."""
        ...


class Grading(NamedTuple):
    """How the outputs of a study are graded.

    grader: a name that `grader_named` knows. stop: what stands behind the first of these strings is not part
    of an answer.
    """

    grader: str = "containment"
    stop: tuple[str, ...] = ()

    def is_right(self, output: str, answers: Sequence[str]) -> bool:
        """Whether an output is right.

        Raises:
            StudyError: the grader fails, or gives no grade from 0 to 1.
        """
        grader = grader_named(self.grader)
        if self.grader in GRADERS:
            return bool(grader(output, answers) >= 0.5)
        try:
            given = grader(output, answers)
        except (Exception, SystemExit) as error:  # a package of somebody else: whatever it raises
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
        """Which candidates an output names, as indices in rising order."""
        # Not by `strict`, for which an echo of all candidates names its first one only.
        if self.grader in ("containment", "strict"):
            return named_candidates(output, candidates)
        return tuple(n for n, candidate in enumerate(candidates) if self.is_right(output, [candidate]))

    def cut(self, text: str) -> str:
        """The text before the first stop string that occurs in it."""
        ends = [end for end in map(text.find, self.stop) if end >= 0]
        return text[: min(ends)] if ends else text


CONTAINMENT = Grading()


class Grade(NamedTuple):
    """How an output compares with the gold answers: the best over all of them."""

    correct: bool
    exact_match: bool
    f1: float


class Stripped(NamedTuple):
    """An output without its `<think>` spans; `unclosed` if one was cut off by the token limit."""

    text: str
    unclosed: bool


def contains(output: str, answer: str) -> bool:
    """Whether the normalized answer stands in the normalized output."""
    wanted = normalize(answer)
    return bool(wanted) and wanted in normalize(output)


def containment(output: str, answers: Sequence[str]) -> bool:
    """Whether any answer stands in the output: the paper's rule, and the default."""
    return any(contains(output, answer) for answer in answers)


def exact_match(output: str, answers: Sequence[str]) -> bool:
    """Whether the first non-empty line of the output is an answer, once both are normalized.

    An answer of several lines may be the first line, or as many of the first lines.
    """
    return any(
        normalize(said) == normalize(answer) != ""
        for answer in answers
        for said in first_lines(output, answer)
    )


def best_f1(output: str, answers: Sequence[str]) -> float:
    """Token F1 of the first non-empty line against the nearest answer; right from 0.5 on. Lines as in `exact_match`."""
    return max((f1(said, answer) for answer in answers for said in first_lines(output, answer)), default=0.0)


GRADERS: dict[str, Grader] = {
    "containment": containment,
    "exact_match": exact_match,
    "f1": best_f1,
    "strict": strict,
}


@cache
def grader_named(name: str) -> Grader:
    """A built-in grader, or one that an installed package offers under this name.

    Raises:
        StudyError: nothing has this name, or its package can't be imported.
    """
    if name in GRADERS:
        return GRADERS[name]
    installed = entry_points(group=ENTRY_POINTS)
    if name not in installed.names:
        known = {*GRADERS, *installed.names}
        raise StudyError(f"unknown grader {name!r}; {nearest(name, known)}")
    try:
        found = installed[name].load()
    except Exception as error:  # a package of somebody else: whatever it raises
        raise StudyError(f"the grader {name!r} can't be imported: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise StudyError(f"the grader {name!r} is not a function: its package is faulty")
    grader: Grader = found
    return grader


def strip_thinking(text: str) -> Stripped:
    """Removes `<think>…</think>` spans; an unclosed one leaves an empty answer."""
    rest = _THINK.sub("", text)
    if "<think>" in rest:
        return Stripped("", True)
    return Stripped(rest, False)


def is_degenerate(tokens: Sequence[int], text: str) -> bool:
    """Whether an output says nothing: no letter or digit, or one or two tokens over and over.

    Small models loop, too: compare with base's rate.
    """
    if not any(char.isalnum() for char in text):
        return True
    return len(tokens) >= 8 and len(set(tokens)) <= 2


def grade(output: str, answers: Sequence[str]) -> Grade:
    """Grades an open output: containment over all of it, exact match and F1 on its first non-empty line."""
    return Grade(containment(output, answers), exact_match(output, answers), best_f1(output, answers))


def f1(output: str, answer: str) -> float:
    """Token F1 of SQuAD (Rajpurkar et al. 2016), with unspaced scripts split by character."""
    got, wanted = Counter(words(output)), Counter(words(answer))
    shared = sum((got & wanted).values())
    if not shared:
        return 0.0
    precision, recall = shared / got.total(), shared / wanted.total()
    return 2 * precision * recall / (precision + recall)


def named_candidates(output: str, candidates: Sequence[str]) -> tuple[int, ...]:
    """Which candidates an output names, as indices in rising order.

    Longer candidates are looked for first and what they cover is used up, so that "New York City"
    doesn't also name "New York"; equal ones are named together.
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
