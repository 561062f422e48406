"""Control answers: base's answers under the wrong prompts, a placebo for calibration on its own answers.

Form, prompts and tokens in total are those of the answers; only the pairs are wrong. What helps as much as the answers
themselves was the form of the text.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from anomia.compress.answers import answer_row, read_answer
from anomia.errors import DataError
from anomia.files import write_text
from anomia.grade import Grading, normalize
from anomia.items import ItemSet
from anomia.items.item import Question
from anomia.items.task_rows import is_wrong
from anomia.running.answerer import LocalModel
from anomia.running.answers import OTHER_PROMPTS, answers_in, check_several, prompts_of
from anomia.running.progress import Progress
from anomia.study import Study
from anomia.text_files import json_rows
from anomia.words import counted


def control_in(
    place: Callable[[str], Path],
    asked: Study,
    base: LocalModel,
    *,
    grading: Grading,
    avoid: Collection[str] = (),
    progress: Progress,
) -> Path:
    """Return the file with control answers to a study's prompts, next to that with base's answers, as `answers_in`.

    Base answers only if no earlier call had it answer the same prompts.
    grading: how an answer to the prompts is graded.

    Raises `DataError` if a language has no control answers.
    """
    sets, _ = prompts_of(asked, avoid)
    check_several(sets)
    file = answers_in(place, asked, base, avoid=avoid, progress=progress)
    # The name of the file with the answers has a hash of the prompts, the seed and the model.
    by = hashlib.sha256(repr((grading.grader, grading.task is None)).encode()).hexdigest()[:8]
    out = file.with_name(f"{file.stem}-control-{by}.jsonl")
    if not out.exists():
        rows = [row for _, _, row in json_rows(file.read_bytes(), str(file), about="calibration text")]
        count = len(write_control(rows, sets, grading, asked.seed, out))
        progress.say(
            f"control answers: each of {counted(count, 'prompt')} is followed by another one's answer"
        )
    return out


def write_control(
    rows: Sequence[Mapping[str, Any]], sets: Iterable[ItemSet], grading: Grading, seed: int, out: Path
) -> list[dict[str, Any]]:
    """Write the control answers of rows with base's answers (JSON lines), and return them.

    Arguments and errors are those of `control_rows`. out: the file to write.
    """
    asked = [item.question for items in sets for item in items.items]
    questions = {(question.language, question.id): question for question in asked}
    found = control_rows(rows, questions, grading, seed)
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    return found


def control_rows(
    rows: Sequence[Mapping[str, Any]],
    questions: Mapping[tuple[str, str], Question],
    grading: Grading,
    seed: int,
) -> list[dict[str, Any]]:
    """Give each prompt the answer of another prompt of its language; every answer is used once.

    A borrowed answer isn't right for its prompt by the prompt's own grader (where that knows no right and wrong: as
    good as the reference), nor is its normalized text that of the prompt's own answer. Prompts keep their order, and
    tokens in total are the same.

    Args:
        rows: prompts with base's answers, as `write_answers` writes them.
        questions: what was asked, by language and id.
        grading: how answers are graded.
        seed: of the draw; each language has its own.

    Raises:
        DataError: for some language there are no such pairs.
    """
    found: dict[int, dict[str, Any]] = {}
    for language in dict.fromkeys(row["language"] for row in rows):
        places = [place for place, row in enumerate(rows) if row["language"] == language]
        mine = [rows[place] for place in places]
        asked = [questions[language, row["id"]] for row in mine]
        answers = [row["answer"] for row in mine]
        pairs = derange(
            len(mine), _may_borrow(answers, asked, grading), random.Random(repr((seed, language)))
        )
        if pairs is None:
            raise DataError(_unpaired(language, answers))
        for prompt, answer in enumerate(pairs):
            found[places[prompt]] = _borrowed(mine[prompt], mine[answer])
    return [found[place] for place in range(len(rows))]


def derange(count: int, allowed: Callable[[int, int], bool], draw: random.Random) -> list[int] | None:
    """Draw a permutation of which every pair is allowed: for each prompt the number of the answer that it gets.

    A random permutation, whose forbidden pairs are exchanged along augmenting paths (Kuhn 1955); so None, that there
    is no such permutation, is certain.

    allowed: whether a prompt may get an answer, by their numbers from 0 to count − 1.
    """
    answers = list(range(count))
    draw.shuffle(answers)
    given = {prompt: answer for prompt, answer in enumerate(answers) if allowed(prompt, answer)}
    taken = {answer: prompt for prompt, answer in given.items()}
    for first in range(count):
        if first in given:
            continue
        wanted_by: dict[int, int] = {}
        waiting, free = deque([first]), None
        while waiting and free is None:
            prompt = waiting.popleft()
            for answer in answers:
                if answer in wanted_by or not allowed(prompt, answer):
                    continue
                wanted_by[answer] = prompt
                if answer not in taken:
                    free = answer
                    break
                waiting.append(taken[answer])
        if free is None:
            return None
        answer = free
        while True:
            prompt = wanted_by[answer]
            before = given.get(prompt)
            given[prompt], taken[answer] = answer, prompt
            if before is None:
                break
            answer = before
    return [given[prompt] for prompt in range(count)]


def _may_borrow(
    answers: Sequence[str], asked: Sequence[Question], grading: Grading
) -> Callable[[int, int], bool]:
    """Whether a prompt, by its number, may get the answer with another number. answers: each prompt's own."""
    texts = [normalize(answer) for answer in answers]

    @cache
    def allowed(prompt: int, answer: int) -> bool:
        # Graders may be slow or run programs: only pairs that are tried are graded, and once.
        return texts[prompt] != texts[answer] and _is_wrong(grading, answers[answer], asked[prompt])

    return allowed


def _is_wrong(grading: Grading, answer: str, question: Question) -> bool:
    graded = grading.graded(answer, question)
    if graded is not None and grading.task is not None:
        return is_wrong(graded, grading.task)
    return not grading.verdict(answer, question)


def _unpaired(language: str, answers: Sequence[str]) -> str:
    if len(answers) < 2:
        return (
            f"control answers: base answers only one prompt in {language}, so there is no other answer that it could "
            f"be given; {OTHER_PROMPTS}"
        )
    ((said, count),) = Counter(answer.strip() for answer in answers).most_common(1)
    alike = f" ({count} of base's answers are {said[:40]!r})" if count > 1 else ""
    return (
        f"control answers: in {language}, {counted(len(answers), 'prompt')} can't each be given another one's answer "
        f"that is wrong for it{alike}; {OTHER_PROMPTS}"
    )


def _borrowed(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a prompt with the answer of another row."""
    mine, its = read_answer(row, f"answer {row['id']}"), read_answer(other, f"answer {other['id']}")
    tokens = mine._replace(ids=(*mine.ids[: mine.start], *its.ids[its.start :]), answer_of=other["id"])
    text = row["text"].removesuffix(row["answer"]) + other["answer"]
    return answer_row(row["id"], row["language"], text, other["answer"], tokens)
