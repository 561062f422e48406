"""Turn questions into items: draw the fixed subset, and the options of each item."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from anomia.errors import DataError
from anomia.grade import normalize
from anomia.items.data_set import DataSet
from anomia.items.distractors import DRAW, Sources, count_overlapping, unrelated_candidates
from anomia.items.item import Item, ItemSet, Question
from anomia.items.sets import set_of
from anomia.items.task_rows import is_wrong
from anomia.probes import OPTION_KINDS, STANDARD, OptionKind

_DRAWN = tuple(kind for kind in OPTION_KINDS if not kind.of_base)


def build_items(
    questions: Mapping[str, Sequence[Question]], *, dataset: str, limit: int | None, seed: int
) -> dict[str, ItemSet]:
    """Draw the subset of each language and the options of each item.

    The subset is the first `limit` questions of a `random.Random(seed)` shuffle, drawn per language (paper,
    Appendix B). The one-shot exemplar is the first question in file order outside the subset. If the subset would
    take every question, the last one of the shuffle is held out as the exemplar.

    Prompts that are sent as they are have no options and no exemplar.

    Raises:
        DataError: a language has fewer than two questions, or fewer than four distinct answers while some of its
            questions bring no options.
    """
    as_is = {language: found for language, found in questions.items() if any(q.as_is for q in found)}
    if as_is:
        return {
            language: _prompts(found, dataset, language, limit, seed) for language, found in as_is.items()
        }
    source = set_of(dataset)
    by_task = source is not None and source.task is not None
    gradable = {language: [_gradable(q) for q in found] for language, found in questions.items()}
    pools = {language: _pool(q for q in found if q) for language, found in gradable.items()}
    sets = {}
    for language, candidates in gradable.items():
        usable = [question for question in candidates if question]
        excluded = Counter({"ungradable": len(candidates) - len(usable)})
        # A task's own grader tells options apart that are equal once normalized, such as -1 and 1.
        distinct = [question for question in usable if by_task or not _ambiguous(question)]
        excluded["ambiguous_options"] = len(usable) - len(distinct)
        usable = distinct
        excluded["repeated"] = len(usable) - len({replace(question, id="") for question in usable})
        if len(usable) < 2:
            raise DataError(
                f"data: {dataset}, {language}: {len(usable)} of {len(candidates)} questions can be asked; two are "
                "needed, one of them as the example"
            )
        own_options = by_task or all(question.distractors for question in usable)
        if len(pools[language]) < 4 and not own_options:
            raise DataError(
                f"data: {dataset}, {language}: {len(pools[language])} distinct answers in {len(usable)} "
                "questions; multiple choice needs at least four"
            )
        subset, exemplar = _subset(usable, limit, seed)
        # In a parallel data set, translations of a question share its id (filtered out below).
        foreign = [
            (other.id, other.gold)
            for name, others in gradable.items()
            if name != language
            for other in others
            if other
        ]
        by_passage = _answers_by_passage(usable)
        items = []
        for drawn in subset:
            question = drawn if source is None else _with_options(drawn, source)
            unrelated = [text for other, text in foreign if other != question.id]
            sources = Sources(pools[language], by_passage[question.passage_id], seed)
            item = _item(question, sources, unrelated, kinds=() if by_task else _DRAWN)
            if STANDARD not in item.options:
                excluded["no_standard_options"] += 1
                continue
            items.append(item)
        for kind in _DRAWN:
            if kind.name != STANDARD:
                excluded[f"no_{kind.name}_options"] = sum(kind.name not in item.options for item in items)
        excluded["overlapping_hard_distractors"] = sum(
            count_overlapping(item.question, pools[language]) for item in items
        )
        sets[language] = ItemSet(dataset, language, tuple(items), exemplar, dict(excluded))
    return sets


def _prompts(
    prompts: Sequence[Question], dataset: str, language: str, limit: int | None, seed: int
) -> ItemSet:
    shuffled = list(prompts)
    random.Random(seed).shuffle(shuffled)
    repeated = len(prompts) - len({replace(prompt, id="") for prompt in prompts})
    return ItemSet(
        dataset, language, tuple(Item(prompt) for prompt in shuffled[:limit]), excluded={"repeated": repeated}
    )


def _gradable(question: Question) -> Question | None:
    """The question without the answers that normalize to an empty text; None if no answer is left."""
    answers = tuple(answer for answer in question.answers if normalize(answer))
    if not answers:
        return None
    return replace(question, answers=answers)


def _ambiguous(question: Question) -> bool:
    """Whether a wrong option equals an answer once both are normalized, such as -1 and 1."""
    right = {normalize(answer) for answer in question.answers}
    return any(normalize(text) in right for text in question.distractors)


def _pool(questions: Iterable[Question]) -> list[str]:
    """The distinct gold answers of a language, one text per normalized form."""
    return list({normalize(question.gold): question.gold for question in questions}.values())


def _subset(
    questions: Sequence[Question], limit: int | None, seed: int
) -> tuple[list[Question], Question | None]:
    shuffled = list(questions)
    random.Random(seed).shuffle(shuffled)
    if limit is None or limit >= len(shuffled):
        return shuffled[:-1], shuffled[-1]
    subset = shuffled[:limit]
    taken = {question.id for question in subset}
    return subset, next(question for question in questions if question.id not in taken)


def _answers_by_passage(questions: Iterable[Question]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for question in questions:
        found.setdefault(question.passage_id, []).append(question.gold)
    return found


def _with_options(question: Question, source: DataSet) -> Question:
    """The question with the wrong options that a task makes for it; they are wrong by the task's own grader."""
    if source.task is None:
        return question
    for text in question.distractors:
        if not is_wrong(source.task.grade(text, question), source.task):
            raise DataError(
                f"data: {source.name}, question {question.id!r}: its grader marks the wrong option {text[:60]!r} as "
                "right; remove it"
            )
    if question.distractors or source.wrong is None:
        return question
    return replace(question, distractors=source.wrong(question))


def _item(
    question: Question, sources: Sources, foreign: Sequence[str], *, kinds: Sequence[OptionKind]
) -> Item:
    """kinds: the options to draw; those of tasks are made, since other questions' answers may be right, too."""
    pool, seed = sources.pool, sources.seed
    wrong = {
        kind.name: DRAW[kind.name](question, sources)
        for kind in kinds
        if kind.needs != "passage" or question.context
    }
    if question.distractors:
        wrong[STANDARD] = question.distractors
    # A question may bring any number of wrong options; drawn ones are three or none.
    whole = {
        kind: texts
        for kind, texts in wrong.items()
        if len(texts) == 3 or (kind == STANDARD and question.distractors)
    }
    options = {kind: ordered(question, texts, kind, seed) for kind, texts in whole.items()}
    control = next((whole[kind][0] for kind in ("passage", STANDARD) if kind in whole), "")
    return Item(question, options, unrelated_candidates(question, foreign, pool, seed=seed), control)


def ordered(question: Question, wrong: Sequence[str], kind: str, seed: int) -> tuple[str, ...]:
    """Gold and the wrong options, in a random order seeded per item."""
    options = [question.gold, *wrong]
    random.Random(f"order:{kind}:{seed}:{question.id}").shuffle(options)
    return tuple(options)
