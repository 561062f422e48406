"""Translations: rows of WMT and OPUS (`translation: {en, de}`), of FLORES+, or `source` and `reference`.

Graded by chrF++ (Popović 2017) of sacreBLEU against the references; there is no right and wrong. Wrong options are the
reference with one error (a name, a number, a negation, an omission). Human references differ more from a model's style
than from their own edited versions, so a pick says that the error was noticed, not that the model would write the
reference. The options made from base's own output say the latter.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from anomia.errors import DataError, MissingExtraError
from anomia.grade import Posed, Task, TaskGrade
from anomia.items.data_set import DataSet
from anomia.items.edits import edited, shortened, written_in
from anomia.items.item import Question
from anomia.items.languages import language_code, language_name
from anomia.items.sets.belebele import CODES
from anomia.items.task_rows import SUFFIXES, HubPlace, TaskRow, draw_for, first_wrong, task_reader
from anomia.probes import CHOICE_OWN
from anomia.text import main_language, seen_lines

_FLORES_NAMES = {code.lower(): name for name, code in CODES.items()}
_FLORES = re.compile(r"sentence_([a-z]{3}_[a-z]{4})")


def grade(output: str, question: Posed) -> TaskGrade:
    """chrF++ from 0 to 1 of as many first lines as the reference has, and whether they are in its language."""
    translated = _translated(output, question)
    if translated in question.answers:
        return TaskGrade(1.0, parts=(1.0,))
    if not translated.strip():
        return TaskGrade(0.0, parts=(None,))
    score = _chrf().sentence_score(translated, list(question.answers)).score / 100
    return TaskGrade(min(1.0, max(0.0, score)), parts=(_in_language(translated, question.answers[0]),))


def _in_language(translated: str, reference: str) -> float | None:
    """1 if a translation has the reference's language, 0 if another; None where one of the two can't be told.

    Models that can't translate continue in the language of the source, and even that shares letters with a reference.
    """
    one, other = main_language(translated), main_language(reference)
    return None if one is None or other is None else float(one == other)


def _translated(output: str, question: Posed) -> str:
    lines = max(len(seen_lines(answer)) for answer in question.answers)
    return "\n".join(seen_lines(output)[:lines])


@cache
def _chrf() -> Any:
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        raise MissingExtraError("sacrebleu", "tasks") from None
    return CHRF(word_order=2)


TASK = Task(grade=grade, parts=("in the reference's language",), right_or_wrong=False)


def wrong_translations(question: Question) -> tuple[str, ...]:
    """Three versions of the reference with one error each."""
    draw = draw_for(question, "translation")
    versions = edited(question.gold, question.language, draw, source=question.context)
    return first_wrong((*versions, *shortened(question.gold, draw)), question, TASK)


def own_versions(output: str, question: Question, draw: random.Random) -> tuple[str, Iterator[str]]:
    """The translation that an output begins with, and versions of it with one error each."""
    text = _translated(output, question).strip()
    return text, edited(text, written_in(text, question.language), draw, source=question.context)


def _read(row: TaskRow) -> Question:
    source, references, target = _pair(row)
    named = language_name(target) if target else row.own_language
    return Question(
        id=row.id,
        language=named,
        context=source,
        # Codes that have no name stay codes.
        question=f"Translation into {named.capitalize() if language_code(named) else named}",
        answers=references,
        distractors=row.texts("distractors"),
    )


def _pair(row: TaskRow) -> tuple[str, tuple[str, ...], str]:
    """Source, references and the code of the target language, if the row says it."""
    pair = row.fields.get("translation")
    if isinstance(pair, Mapping):
        texts = {code: text.strip() for code, text in pair.items() if isinstance(text, str) and text.strip()}
        if len(texts) != 2:
            raise DataError(
                f"data: {row.place}: 'translation' has {len(texts)} texts; it needs two, by language code"
            )
        (_, source), (target, reference) = texts.items()
        return source, (reference,), target
    flores = {
        found[1]: str(text)
        for name, text in row.fields.items()
        if (found := _FLORES.fullmatch(name)) and text
    }
    if len(flores) == 2:
        (_, source), (target, reference) = flores.items()
        return source, (reference,), _FLORES_NAMES.get(target, target)
    references = row.texts("reference", "references", "target", "tgt")
    if not references:
        row.text("reference", "target")
    return row.text("source", "src"), references, row.optional("target_language", "tgt_lang", "target_lang")


SET = DataSet(
    name="translation",
    title="translations (WMT, FLORES+)",
    # WMT's pair de-en is read as German into English.
    read=task_reader("translation", _read, HubPlace("wmt/wmt14", "de-en", "test")),
    hub_rows=3_003,
    path="optional",
    endings=SUFFIXES,
    holds="texts and their translations",
    task=TASK,
    wrong=wrong_translations,
    own=own_versions,
    settings={
        "prompts": {
            "open": "{context}\n\n{question}:",
            "cued": "{context}\n\nCandidates:\n{options}\n\n{question}:",
            "no_question": "{context}\n\n",
            "zero_shot": "{context}\n{question}:",
        },
        "probes": ["open", "choice", CHOICE_OWN, "choice_no_question"],
        "max_new_tokens": 128,
        "prompt_tokens": 1024,
    },
    options="brought",
    licence="CC0 1.0",
)
