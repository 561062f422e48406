"""Grade outputs by normalization and matching.

Source: paper, Appendix B (normalized substring containment), with the two changes of `docs/design.md`: punctuation is
Unicode's category, because the usual `[^\\w\\s]` deletes the vowel signs of Bengali, Telugu and Thai; and if candidates
were shown, an output that echoes several of them is not an answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol

from anomia.errors import StudyError, nearest
from anomia.strict import strict
from anomia.text import first_lines, is_unspaced, normalize, words

__all__ = [
    "CONTAINMENT",
    "ENTRY_POINTS",
    "GRADERS",
    "Grade",
    "Grader",
    "Grading",
    "Posed",
    "Stripped",
    "Task",
    "TaskGrade",
    "TaskGrader",
    "best_f1",
    "containment",
    "contains",
    "exact_match",
    "f1",
    "grade",
    "grader_named",
    "is_degenerate",
    "is_unspaced",
    "named_candidates",
    "normalize",
    "strict",
    "strip_thinking",
    "words",
]  # fmt: skip

_THINK = re.compile(r"<think>.*?</think>", re.DOTALL)


# Packages can provide graders as `[project.entry-points."anomia.graders"]`: a name and its function.
ENTRY_POINTS = "anomia.graders"


class Grader(Protocol):
    """Grades an output against the accepted answers, gold first. True, or a grade of at least 0.5, means right."""

    def __call__(self, output: str, answers: Sequence[str]) -> float:
        """The grade, from 0 to 1."""
        ...


class Posed(Hashable, Protocol):
    """A question, as the graders of tasks see it. target: what the grader needs besides the answers, as JSON."""

    @property
    def context(self) -> str:
        """The passage, or another text that the question is about."""
        ...

    @property
    def question(self) -> str:
        """The question as asked."""
        ...

    @property
    def answers(self) -> tuple[str, ...]:
        """The accepted answers, gold first."""
        ...

    @property
    def target(self) -> str:
        """JSON, or empty."""
        ...


class TaskGrade(NamedTuple):
    """The grade of an answer to a task.

    score: from 0 to 1. correct: None if the task has no right and wrong. parts: grades from 0 to 1 in the order of
    `Task.parts`, None where one doesn't apply to the question.
    """

    score: float
    correct: bool | None = None
    parts: tuple[float | None, ...] = ()


class TaskGrader(Protocol):
    """Grades an output against a question."""

    def __call__(self, output: str, question: Posed) -> TaskGrade:
        """The grade; outputs are untrusted text of any length."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """How a task is graded.

    parts: names of the parts of a grade. right_or_wrong: whether answers are right or wrong; otherwise only scores are
    compared. comparable: whether an output can be graded against a wrong option in gold's place.
    """

    grade: TaskGrader
    parts: tuple[str, ...] = ()
    right_or_wrong: bool = True
    comparable: bool = False


class Grading(NamedTuple):
    """How a study's outputs are graded.

    grader: a name for `grader_named`. stop: an answer ends before the first of these strings. task: the data set's own
    grader, which replaces `grader`.
    """

    grader: str = "containment"
    stop: tuple[str, ...] = ()
    task: Task | None = None

    def graded(self, output: str, question: Posed) -> TaskGrade | None:
        """The task's grade of an output; None if the data set is not a task."""
        return None if self.task is None else _graded(self.task, output, question)

    def verdict(self, output: str, question: Posed) -> bool | None:
        """Whether an output is right; None if the task has no right and wrong."""
        found = self.graded(output, question)
        return self.is_right(output, question.answers) if found is None else found.correct

    def gives(self, output: str, question: Posed, option: str) -> bool | None:
        """Whether an output would be right if a wrong option were the answer; None as in `verdict`."""
        if self.task is None:
            return self.is_right(output, [option])
        if not self.task.right_or_wrong:
            return None
        if not self.task.comparable:
            return contains(output, option)
        return _graded(self.task, output, _Instead(option, question)).correct

    def shown(self, output: str, question: Posed, options: Sequence[str]) -> tuple[int, ...]:
        """The indices of the options, among them gold, that an output names, ascending."""
        if self.task is None:
            return self.named(output, options)
        lines = {normalize(line) for line in output.splitlines()}
        echoed = tuple(n for n, option in enumerate(options) if normalize(option) in lines)
        if len(echoed) > 1:  # the list of options again, not an answer
            return echoed
        if not self.task.comparable:
            return named_candidates(output, options)
        return tuple(n for n, option in enumerate(options) if self.gives(output, question, option))

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


@dataclass(frozen=True, slots=True)
class _Instead:
    """A question with a wrong option in gold's place."""

    option: str
    of: Posed

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.option,)

    @property
    def context(self) -> str:
        return self.of.context

    @property
    def question(self) -> str:
        return self.of.question

    @property
    def target(self) -> str:
        return ""


# Several columns of a record need the grade of one output, and some graders take a second.
@lru_cache(maxsize=1 << 10)
def _graded(task: Task, output: str, question: Posed) -> TaskGrade:
    return task.grade(output, question)


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
        normalize(given_line) == normalize(answer) != ""
        for answer in answers
        for given_line in first_lines(output, answer)
    )


def best_f1(output: str, answers: Sequence[str]) -> float:
    """Token F1 of the first non-empty line with the closest answer; 0.5 or more is right. Lines as in `exact_match`."""
    return max(
        (f1(given_line, answer) for answer in answers for given_line in first_lines(output, answer)),
        default=0.0,
    )


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
