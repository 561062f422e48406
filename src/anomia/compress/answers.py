"""Answers of a model as calibration text: token ids of prompts and answers, in JSON lines.

`anomia answers` writes them. Token ids are kept because a text that is encoded again may get other ones: at the seam
of prompt and answer, or where a chat template wrote special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from anomia.errors import DataError

ANSWERS = "answers"
"""The calibration source of a model's own answers."""
CONTROL_ANSWERS = "control-answers"
"""The same prompts, each followed by the answer to another one: the placebo."""


class AnswerTokens(NamedTuple):
    """A prompt and its answer. ids: token ids of both, [S]. start: where the answer starts in them, 1 to S − 1.

    tokenizer: what their ids mean, see `fingerprint_token_ids`. answer_of: for a control answer, the id of the other
    prompt that it answers; None for the prompt's own answer.
    """

    ids: tuple[int, ...]
    start: int
    tokenizer: str
    answer_of: str | None = None


def is_of_answers(source: str) -> bool:
    """Whether a calibration source is made of what base answers to other questions.

    >>> is_of_answers("answers"), is_of_answers("control-answers:demo"), is_of_answers("c4")
    (True, True, False)
    """
    return source.partition(":")[0] in (ANSWERS, CONTROL_ANSWERS)


def is_control(source: str) -> bool:
    """Whether a calibration source is made of answers to other prompts than those before them."""
    return source.partition(":")[0] == CONTROL_ANSWERS


def is_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row of JSON lines is a prompt with its answer."""
    return "answer_start" in row and "token_ids" in row


def read_answer(row: Mapping[str, Any], place: str) -> AnswerTokens:
    """Return the tokens of a row. place: file and line, for messages.

    Raises `DataError` for a row that `anomia answers` can't have written.
    """
    ids, start, tokenizer = row["token_ids"], row["answer_start"], row.get("tokenizer")
    if not isinstance(ids, list) or not all(type(each) is int and each >= 0 for each in ids):
        raise DataError(f'calibration text: {place}: "token_ids" is not a list of token ids')
    if type(start) is not int or not 0 < start < len(ids):
        raise DataError(
            f'calibration text: {place}: "answer_start" is not a place in its {len(ids)} tokens after a prompt'
        )
    if not isinstance(tokenizer, str):
        raise DataError(
            f'calibration text: {place}: "tokenizer" does not say which tokenizer made its token ids; make the file '
            "with anomia answers"
        )
    answer_of = row.get("answer_of")
    if not isinstance(answer_of, str | None):
        raise DataError(f'calibration text: {place}: "answer_of" is not the id of a prompt')
    return AnswerTokens(tuple(ids), start, tokenizer, answer_of)


def answer_row(
    name: str, language: str, text: str, answer: str, tokens: AnswerTokens, **more: Any
) -> dict[str, Any]:
    """Return the row of a prompt with its answer. text: of both, which other programs can calibrate with, too.

    That of a control answer has `answer_of`.
    """
    return {
        "id": name,
        "language": language,
        "text": text,
        "answer": answer,
        "answer_start": tokens.start,
        "token_ids": list(tokens.ids),
        "tokenizer": tokens.tokenizer,
        **({} if tokens.answer_of is None else {"answer_of": tokens.answer_of}),
        **more,
    }
