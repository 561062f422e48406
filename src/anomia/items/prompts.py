"""The prompt forms. The open form is the paper's (Appendix B), word for word.

A study may bring its own templates: texts with named fields, filled in by plain replacement. Nothing in them or in
the data is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from anomia.errors import StudyError, nearest
from anomia.items.item import Question

ANSWER = "Answer in a few words:"

# `{{name}}` is the literal text `{name}`; other braces have no meaning.
_FIELD = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")


class PromptForm(NamedTuple):
    """One form of the prompt. A new one is an entry in `FORMS`.

    fields: that a template may use. needed: those that it must use. write: the default wording, from the fields'
    values.
    """

    fields: tuple[str, ...]
    needed: tuple[str, ...]
    write: Callable[[Mapping[str, str]], str]


FORMS: Mapping[str, PromptForm] = {
    # Without a passage, it is the question alone.
    "open": PromptForm(
        ("context", "question"),
        ("question",),
        lambda of: _blocks(_context(of), _question(of), ANSWER),
    ),
    # The open prompt with a list of candidates between the question and the instruction.
    "cued": PromptForm(
        ("context", "question", "options"),
        ("question", "options"),
        lambda of: _blocks(_context(of), _question(of), f"Options:\n{of['options']}", ANSWER),
    ),
    # The open prompt without its question, to measure what can be chosen from the passage alone.
    "no_question": PromptForm(("context",), ("context",), lambda of: _blocks(_context(of), ANSWER)),
    # One-shot prompts use it twice, once solved and once to be answered.
    "zero_shot": PromptForm(
        ("context", "question"),
        ("question",),
        lambda of: "\n".join(part for part in (_context(of), _question(of), ANSWER) if part),
    ),
}
# The form of `zero_shot` after a solved example, written by `one_shot_prompt`.
SOLVED = "one_shot"
# The forms without an exemplar, with the passage of the open prompt.
PROMPTS = tuple(name for name in FORMS if name != "zero_shot")
# A study's templates by form; the others have their default wording.
Templates = dict[str, str]
PLAIN = Templates()


def read_templates(templates: Mapping[str, str]) -> Templates:
    """Check a study's templates, keyed by form.

    Raises:
        StudyError: a form or a field is unknown, or a required field is missing.
    """
    for name, text in templates.items():
        if name not in FORMS:
            raise StudyError(f"unknown prompt {name!r}; {nearest(name, FORMS)}")
        fields = {match.group(2) for match in _FIELD.finditer(text)} - {None}
        for field in sorted(fields):
            if field not in FORMS[name].fields:
                known = ", ".join(f"{{{known}}}" for known in FORMS[name].fields)
                raise StudyError(f"the prompt {name!r} has no field {{{field}}}; known: {known}")
        for field in FORMS[name].needed:
            if field not in fields:
                raise StudyError(f"the prompt {name!r} lacks {{{field}}}, without which it asks nothing")
    return dict(templates)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace fields by their values in a single pass: a field inside a value is not filled in.

    >>> fill("Q: {question} ({{question}})", {"question": "Who is {question}?"})
    'Q: Who is {question}? ({question})'
    """
    return _FIELD.sub(lambda match: f"{{{match[1]}}}" if match[1] else values[match[2]], template)


def write_prompt(
    name: str,
    context: str,
    question: str = "",
    candidates: Sequence[str] = (),
    *,
    templates: Templates = PLAIN,
) -> str:
    """Write a prompt, by its name in `FORMS`.

    >>> write_prompt("open", "Rome was founded in 753 BC.", "When was Rome founded?")
    'Context: Rome was founded in 753 BC.\\n\\nQuestion: When was Rome founded?\\n\\nAnswer in a few words:'
    """
    values = {"context": context, "question": question, "options": option_list(candidates)}
    return fill(templates[name], values) if name in templates else FORMS[name].write(values)


def option_list(candidates: Sequence[str]) -> str:
    """Candidates as prompts list them, the value of `{options}`.

    >>> option_list(["Rome", "Troy"])
    '- Rome\\n- Troy'
    """
    return "\n".join(f"- {candidate}" for candidate in candidates)


def one_shot_prompt(
    exemplar: Question,
    context: str,
    question: str,
    *,
    exemplar_characters: int = 300,
    templates: Templates = PLAIN,
) -> str:
    """One solved example, then the question in the same form (paper, Appendix C)."""
    solved = one_shot_prefix(exemplar, exemplar_characters=exemplar_characters, templates=templates)
    return solved + write_prompt("zero_shot", context, question, templates=templates)


def one_shot_prefix(
    exemplar: Question, *, exemplar_characters: int = 300, templates: Templates = PLAIN
) -> str:
    """The solved example and the blank line after it."""
    context = exemplar.context[:exemplar_characters]
    shown = write_prompt("zero_shot", context, exemplar.question, templates=templates)
    return f"{shown} {exemplar.gold}\n\n"


def _context(of: Mapping[str, str]) -> str:
    return f"Context: {of['context']}" if of["context"] else ""


def _question(of: Mapping[str, str]) -> str:
    return f"Question: {of['question']}"


def _blocks(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
