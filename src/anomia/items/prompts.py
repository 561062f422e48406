"""The forms in which a question is put. The open form is the paper's (Appendix B), word for word."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.items.item import Question

ANSWER = "Answer in a few words:"


def open_prompt(context: str, question: str) -> str:
    """No candidates: the model must produce the answer. Without a passage, the question alone.

    >>> open_prompt("Rome was founded in 753 BC.", "When was Rome founded?")
    'Context: Rome was founded in 753 BC.\\n\\nQuestion: When was Rome founded?\\n\\nAnswer in a few words:'
    """
    return _blocks(_context(context), f"Question: {question}", ANSWER)


def cued_prompt(context: str, question: str, candidates: Sequence[str]) -> str:
    """The open prompt with a list of candidates between the question and the request."""
    options = "\n".join(["Options:", *(f"- {candidate}" for candidate in candidates)])
    return _blocks(_context(context), f"Question: {question}", options, ANSWER)


def no_question_prompt(context: str) -> str:
    """The open prompt without its question: what can be chosen from the passage alone."""
    return _blocks(_context(context), ANSWER)


def one_shot_prompt(
    exemplar: Question, context: str, question: str, *, exemplar_characters: int = 300
) -> str:
    """One solved example, then the question in the same form (paper, Appendix C)."""
    return one_shot_prefix(exemplar, exemplar_characters=exemplar_characters) + zero_shot_prompt(
        context, question
    )


def one_shot_prefix(exemplar: Question, *, exemplar_characters: int = 300) -> str:
    """The solved example and the blank line behind it."""
    shown = zero_shot_prompt(exemplar.context[:exemplar_characters], exemplar.question)
    return f"{shown} {exemplar.gold}\n\n"


def zero_shot_prompt(context: str, question: str) -> str:
    """The one-shot form without the example: single newlines between its parts."""
    return "\n".join(part for part in (_context(context), f"Question: {question}", ANSWER) if part)


def _context(context: str) -> str:
    return f"Context: {context}" if context else ""


def _blocks(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
