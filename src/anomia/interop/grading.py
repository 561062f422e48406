"""Grade the answers: every model by the metric that grades base's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from anomia.errors import DataError
from anomia.interop.arms import BASE
from anomia.interop.samples import METRICS, Sample, has_letters, right
from anomia.probes import FORMATS, AnswerFormat

Pair = tuple[Sample, Sample]
Marks = tuple[bool | None, bool | None]


class Graded(NamedTuple):
    """The grades of all answers.

    right: by model, for each question, whether its open and its choice answer are right; None if undecidable.
    by: how each form was graded.
    """

    right: Mapping[str, Sequence[Marks]]
    by: Mapping[str, str]


def grade(answers: Mapping[str, Sequence[Pair]], *, metrics: Sequence[str] = (), task: str = "") -> Graded:
    """Grade all models' answers to the same questions; base comes first.

    Questions are grouped by the metrics in base's log. In each group, the first metric that is 0 or 1 for all models
    and questions decides, or else the gold answers.

    metrics: those that can grade the generated answers, without gold answers in their place; none for `METRICS`.
    task: the generation's name, for messages.

    Raises:
        DataError: a model lacks base's metric, or a form has neither a metric of 0 or 1 nor gold answers.
    """
    columns: dict[str, list[list[bool | None]]] = {model: [] for model in answers}
    named: dict[str, str] = {}
    for number, form in enumerate(FORMATS):
        samples = {model: [pair[number] for pair in pairs] for model, pairs in answers.items()}
        mine = metrics if form == "open" else ()
        ways = _ways(samples, form, mine)
        if mine and "" in ways:
            raise DataError(_ungraded(samples[BASE], form, task, mine))
        used: Counter[str] = Counter()
        for model, its in samples.items():
            marks = [right(sample, way) for sample, way in zip(its, ways, strict=True)]
            columns[model].append([mark for mark, _ in marks])
            used.update(by or "nothing" for _, by in marks)
        if used["nothing"] == used.total():
            raise DataError(_ungraded(samples[BASE], form, task, ()))
        named[form] = ", ".join(sorted(used))
    marked = {model: list(zip(*forms, strict=True)) for model, forms in columns.items()}
    return Graded(marked, named)


def _ungraded(samples: Sequence[Sample], form: AnswerFormat, task: str, metrics: Sequence[str]) -> str:
    """The message for answers that nothing grades. metrics: those that may grade them; none for `METRICS`."""
    found = sorted({name for sample in samples for name in sample.metrics})
    why = ""
    if not metrics:
        letters = any(map(has_letters, samples))
        why = ", and gold answers that are only the letters of options" if letters else ", and no gold answer"
    return (
        f"import: nothing says which {form} answers{f' of {task}' if task else ''} are right: no metric of 0 or 1 "
        f"named {' or '.join(metrics or METRICS[form])}{why}; the log has {', '.join(found) or 'no metric'}. Log the "
        "task with such a metric"
        + (", or name one that the log has and that is 0 or 1: --metric NAME" if form == "open" else "")
    )


def _ways(samples: Mapping[str, Sequence[Sample]], form: AnswerFormat, metrics: Sequence[str]) -> list[str]:
    """The metric that grades each question; "" if the gold answers decide."""
    base = samples[BASE]
    groups: dict[frozenset[str], list[int]] = {}
    for number, sample in enumerate(base):
        groups.setdefault(frozenset(sample.metrics), []).append(number)
    ways = [""] * len(base)
    for names, numbers in groups.items():
        way = _way(samples, form, names, numbers, metrics or METRICS[form])
        for number in numbers:
            ways[number] = way
    return ways


def _way(
    samples: Mapping[str, Sequence[Sample]],
    form: str,
    names: frozenset[str],
    numbers: Sequence[int],
    metrics: Sequence[str],
) -> str:
    for name in metrics:
        if name not in names:
            continue
        values = {
            model: [mine[number].metrics[name] for number in numbers if name in mine[number].metrics]
            for model, mine in samples.items()
        }
        if not all(value in (0.0, 1.0) for each in values.values() for value in each):
            continue
        for model, each in values.items():
            if not each:
                theirs = sorted({metric for number in numbers for metric in samples[model][number].metrics})
                raise DataError(
                    f"import: base's {form} answers are graded by {name}, and {model}'s log has no {name} (it has "
                    f"{', '.join(theirs) or 'no metric'}), so its losses may come from the metric; log both models "
                    "with the same task and metrics"
                )
        return name
    return ""
