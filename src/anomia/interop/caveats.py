"""What may mislead about an imported run's figures: how the two formats were asked and graded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anomia.interop.arms import BASE
from anomia.interop.grading import Graded
from anomia.interop.join import Joined
from anomia.interop.pairs import TaskPair
from anomia.interop.samples import options_shown
from anomia.interop.sides import between_formats, without_settings

_SIMILAR = ("rouge1_acc", "bleu_acc")


def notes_of(tool: str, asked: Sequence[tuple[TaskPair, Joined, Graded]]) -> list[str]:
    """One sentence for each thing that may mislead, alike for all models.

    asked: each pair with its questions and grades.
    """
    return [*_pooled(asked), *_shown(asked), *_sampled(asked), *_similar(asked), *_formats(tool, asked)]


def _pooled(asked: Sequence[tuple[TaskPair, Joined, Graded]]) -> Iterator[str]:
    names = dict.fromkeys(pair.family.name if pair.family else "other tasks" for pair, _, _ in asked)
    if len(names) > 1:
        yield (
            f"The figures pool questions of different tasks ({', '.join(names)}); --task PATTERN imports those of one "
            "alone"
        )


def _shown(asked: Sequence[tuple[TaskPair, Joined, Graded]]) -> Iterator[str]:
    pairs = [pair for each in asked for pair in each[1].answers[BASE]]
    shown = sum(options_shown(*pair) is not None for pair in pairs)
    if shown:
        yield (
            f"The prompt of the generation lists the options in {shown} of {len(pairs)} questions: the model names "
            "one of them rather than recalls the answer, and guessing scores 1 over their number in both formats"
        )


def _sampled(asked: Sequence[tuple[TaskPair, Joined, Graded]]) -> Iterator[str]:
    pairs = [pair for each in asked for pair in each[1].answers[BASE]]
    drawn = sum(opened.sampled for opened, _ in pairs)
    if drawn:
        yield (
            f"The answers to {drawn} of {len(pairs)} questions were sampled at random, so some change without any "
            "compression: for greedy answers run the harness with --gen_kwargs do_sample=False,temperature=0"
        )


def _similar(asked: Sequence[tuple[TaskPair, Joined, Graded]]) -> Iterator[str]:
    used = dict.fromkeys(
        name for _, _, graded in asked for name in graded.by["open"].split(", ") if name in _SIMILAR
    )
    if used:
        yield (
            f"{' and '.join(used)} {'count' if len(used) > 1 else 'counts'} an answer as right if its words are "
            "closer to a true reference than to a false one: a similarity, which no one has checked against the facts"
        )


def _formats(tool: str, asked: Sequence[tuple[TaskPair, Joined, Graded]]) -> Iterator[str]:
    files = [pair.files[BASE] for pair, _, _ in asked]
    unknown = without_settings(tool, files)
    if unknown:
        yield (
            f"No results file is next to the logs of {unknown} of {len(files)} pairs of tasks, so whether the formats "
            "were asked with the same examples, chat template and model is unknown"
        )
    for (what, _, chosen, opened, why, *_), count in between_formats(tool, files):
        of = f" in {count} of {len(asked)} pairs of tasks" if len(asked) > 1 else ""
        yield (
            f"The formats were asked with different {what}{of}: {chosen} in multiple choice, {opened} in generation "
            f"({why}), so the gap may come from it"
        )
