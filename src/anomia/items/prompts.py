"""The prompt forms. The open form is the paper's (Appendix B), word for word.

A study may bring its own templates: texts with named fields, filled in by plain replacement. Nothing in them or in
the data is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anomia.errors import StudyError, nearest
from anomia.items.item import Question

ANSWER = "Answer in a few words:"

# The fields that each template may use. `_NEEDED` has the ones it must use.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "open": ("context", "question"),
    "cued": ("context", "question", "options"),
    "no_question": ("context",),
    "zero_shot": ("context", "question"),
}
_NEEDED = {
    "open": ("question",),
    "cued": ("question", "options"),
    "no_question": ("context",),
    "zero_shot": ("question",),
}
# `{{name}}` is the literal text `{name}`; other braces have no meaning.
_FIELD = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Templates:
    """A study's templates by form; None uses the form's default wording.

    zero_shot: one question; one-shot prompts use it twice, once solved and once to be answered.
    """

    open: str | None = None
    cued: str | None = None
    no_question: str | None = None
    zero_shot: str | None = None


PLAIN = Templates()


def read_templates(templates: Mapping[str, str]) -> Templates:
    """Check a study's templates, keyed by form.

    Raises:
        StudyError: a form or a field is unknown, or a required field is missing.
    """
    for name, text in templates.items():
        if name not in FIELDS:
            raise StudyError(f"unknown prompt {name!r}; {nearest(name, FIELDS)}")
        fields = {match.group(2) for match in _FIELD.finditer(text)} - {None}
        for field in sorted(fields):
            if field not in FIELDS[name]:
                known = ", ".join(f"{{{known}}}" for known in FIELDS[name])
                raise StudyError(f"the prompt {name!r} has no field {{{field}}}; known: {known}")
        for field in _NEEDED[name]:
            if field not in fields:
                raise StudyError(f"the prompt {name!r} lacks {{{field}}}, without which it asks nothing")
    return Templates(**templates)


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
    """Write a prompt, by its name in `PROMPTS`."""
    return PROMPTS[name](context, question, candidates, templates)


def open_prompt(context: str, question: str, *, templates: Templates = PLAIN) -> str:
    """The prompt without candidates: the model must produce the answer. Without a passage, it is the question alone.

    >>> open_prompt("Rome was founded in 753 BC.", "When was Rome founded?")
    'Context: Rome was founded in 753 BC.\\n\\nQuestion: When was Rome founded?\\n\\nAnswer in a few words:'
    """
    if templates.open is not None:
        return fill(templates.open, {"context": context, "question": question})
    return _blocks(_context(context), f"Question: {question}", ANSWER)


def cued_prompt(
    context: str, question: str, candidates: Sequence[str], *, templates: Templates = PLAIN
) -> str:
    """The open prompt with a list of candidates between the question and the instruction."""
    options = option_list(candidates)
    if templates.cued is not None:
        return fill(templates.cued, {"context": context, "question": question, "options": options})
    return _blocks(_context(context), f"Question: {question}", f"Options:\n{options}", ANSWER)


def option_list(candidates: Sequence[str]) -> str:
    """Candidates as prompts list them, the value of `{options}`.

    >>> option_list(["Rome", "Troy"])
    '- Rome\\n- Troy'
    """
    return "\n".join(f"- {candidate}" for candidate in candidates)


def no_question_prompt(context: str, *, templates: Templates = PLAIN) -> str:
    """The open prompt without its question, to measure what can be chosen from the passage alone."""
    if templates.no_question is not None:
        return fill(templates.no_question, {"context": context})
    return _blocks(_context(context), ANSWER)


# The prompt forms without an exemplar.
PROMPTS: Mapping[str, Callable[[str, str, Sequence[str], Templates], str]] = {
    "open": lambda context, question, _, templates: open_prompt(context, question, templates=templates),
    "cued": lambda context, question, candidates, templates: cued_prompt(
        context, question, candidates, templates=templates
    ),
    "no_question": lambda context, _, __, templates: no_question_prompt(context, templates=templates),
}


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
    return solved + zero_shot_prompt(context, question, templates=templates)


def one_shot_prefix(
    exemplar: Question, *, exemplar_characters: int = 300, templates: Templates = PLAIN
) -> str:
    """The solved example and the blank line after it."""
    shown = zero_shot_prompt(exemplar.context[:exemplar_characters], exemplar.question, templates=templates)
    return f"{shown} {exemplar.gold}\n\n"


def zero_shot_prompt(context: str, question: str, *, templates: Templates = PLAIN) -> str:
    """The one-shot form without the example; its parts are separated by single newlines."""
    if templates.zero_shot is not None:
        return fill(templates.zero_shot, {"context": context, "question": question})
    return "\n".join(part for part in (_context(context), f"Question: {question}", ANSWER) if part)


def _context(context: str) -> str:
    return f"Context: {context}" if context else ""


def _blocks(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
