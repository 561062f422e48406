"""Prompts as a user's turn, or conversations, in a chat template.

A template is code that comes with the model, or with the study. It is tried once, before any measurement; a template
that drops, changes or repeats the prompt is refused. Its output depends only on the prompt and a date, so that base and
a compressed model are asked the same on different days and machines.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from anomia.errors import ModelError
from anomia.models.chat_template import THINKING_OFF, ChatTemplate, TemplateText, Turns, literals, what_failed
from anomia.models.chat_trial import DAY, PROMPT, Trial, content_of, try_template, try_writer

_NO_CHAT = "or leave out --chat"


def render(
    tokenizer: Any,
    prompt: str | Sequence[tuple[str, str]],
    *,
    today: datetime.date | None = None,
    system: str = "",
) -> str:
    """Renders a prompt in the tokenizer's chat template, thinking off, up to the answer's start.

    Args:
        tokenizer: the model's tokenizer.
        prompt: the user's text, or a conversation as pairs of role and text; nothing in it is evaluated.
        today: the date that the template sees; None for the current date. The same date gives the same text.
        system: the system message of a conversation that has none; empty for none.

    Raises:
        ModelError: the template can't be used, or fails on this prompt or changes it.
    """
    turns_given = [("user", prompt)] if isinstance(prompt, str) else list(prompt)
    if system and turns_given[0][0] != "system":
        turns_given.insert(0, ("system", system))
    if _writes_itself(tokenizer):
        return _checked(tokenizer, turns_given, lambda: _own(tokenizer)(_turns(turns_given), today=DAY).text)
    template = _template_of(_name(tokenizer), tokenizer)
    trial = _usable(_name(tokenizer), try_template(template))
    turns = _turns(turns_given, parts=trial.parts)
    return _checked(
        tokenizer, turns_given, lambda: template.write(turns, today=today or datetime.date.today()).text
    )


def with_template(tokenizer: Any, template: str | None) -> Any:
    """A tokenizer with a study's own chat template; the tokenizer itself if the study has none.

    Raises:
        ModelError: the tokenizer writes conversations with its own code.
    """
    if template is None:
        return tokenizer
    if _writes_itself(tokenizer):
        raise ModelError(
            f"model: the tokenizer of {_name(tokenizer)!r} writes chats with its own code, so it takes no other "
            "template; leave out --chat-template"
        )
    # A tokenizer in memory belongs to the caller.
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


def check_chat(name: str, tokenizer: Any) -> None:
    """Checks that a tokenizer has a usable chat template.

    Args:
        name: the model's name as given by the user.
        tokenizer: its tokenizer.

    Raises:
        ModelError: there is no template, several without a default, or one that can't be used.
    """
    _usable(name, _trial(name, tokenizer))
    if _writes_itself(tokenizer) and not _reads_back(tokenizer):
        raise ModelError(
            f"model: the tokenizer of {name!r} makes different tokens of a chat than of the chat's text, so no answer "
            f"can be appended to a prompt; use the model's other tokenizer files (tokenizer.json), {_NO_CHAT}"
        )


def varies_with_date(tokenizer: Any) -> bool:
    """Whether the template asks for the date, so that rendered prompts depend on it.

    Raises:
        ModelError: there is no template.
    """
    if _writes_itself(tokenizer):
        # How the tokenizer's own code uses the template is unknown.
        return "strftime_now" in str(getattr(tokenizer, "chat_template", ""))
    return _trial(_name(tokenizer), tokenizer).dated


def answer_gap(tokenizer: Any) -> str:
    """The text between a rendered prompt and an answer: " " if the template writes one there, else "".

    Vicuna's `ASSISTANT:` is followed by a space that belongs to the answer's first token; a header that ends in a line
    break is followed by the answer directly.
    """
    return _trial(_name(tokenizer), tokenizer).gap


def chat_notes(tokenizer: Any) -> tuple[str, ...]:
    """Notes for the reader on prompts in this template, one sentence each.

    Raises:
        ModelError: the template can't be used.
    """
    trial = _usable(_name(tokenizer), _trial(_name(tokenizer), tokenizer))
    text = render(tokenizer, PROMPT, today=DAY)
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)[:2]
    start = getattr(tokenizer, "bos_token_id", None)
    notes = {
        "the chat template takes messages as lists of parts": trial.parts,
        "the chat template writes the date into every prompt": varies_with_date(tokenizer),
        "prompts in the chat template begin with two start tokens": start is not None
        and ids == [start, start],
        "the chat template leaves a <think> span open even with thinking switched off: answers are thoughts first, and "
        "options are scored as if they were": trial.thinking,
    }
    return tuple(note for note, holds in notes.items() if holds)


def leaves_thinking_open(tokenizer: Any) -> bool:
    """Whether prompts end inside a `<think>` span that the template opens although thinking is switched off."""
    return _trial(_name(tokenizer), tokenizer).thinking


def holds_special(tokenizer: Any, text: str) -> tuple[str, ...]:
    """The special tokens that occur literally in a text and that the tokenizer encodes as the tokens themselves.

    A passage that quotes `<end_of_turn>` would end the user's turn. Added tokens that the chat template writes, such as
    `<think>`, count too; added tokens of white space or markup are ordinary text. Sorted by id.
    """
    folded = text.casefold()
    added = _added_tokens(tokenizer, len(tokenizer))
    found = sorted(added.keys() & set(tokenizer(text, add_special_tokens=False).input_ids))
    # An unknown character gives <unk>, which is not in the text.
    named = [added[index] for index in found if added[index].content.casefold() in folded]
    return tuple(token.content for token in named if token.special or _is_mark(tokenizer, token.content))


@lru_cache(maxsize=2)
def _added_tokens(tokenizer: Any, size: int) -> Mapping[int, Any]:
    """Added tokens by id, cached: some tokenizers have thousands and rebuild them on each access.

    size: the size of the vocabulary, as part of the cache key.
    """
    del size
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    return added


def _is_mark(tokenizer: Any, token: str) -> bool:
    """Whether the chat template writes a token."""
    templates = getattr(tokenizer, "chat_template", None)
    sources = templates.values() if isinstance(templates, Mapping) else [templates]
    return not token.isspace() and any(
        token in text for source in sources if isinstance(source, str) for text in literals(source)
    )


def _turns(turns_given: Sequence[tuple[str, str]], *, parts: bool = False) -> Turns:
    # A plain string, because a template could call methods of a subclass.
    return [
        {"role": role, "content": content_of(str.__str__(text), parts=parts)} for role, text in turns_given
    ]


def _checked(tokenizer: Any, turns_given: Sequence[tuple[str, str]], write: Any) -> str:
    """The rendered text, checked to contain all that the user and the system say, except for white space.

    Some templates tidy white space, and some leave the thoughts out of a model's earlier answers.
    """
    roles = dict(turns_given)
    try:
        text: str = write()
    except Exception as error:
        # A template is third-party code and can fail on one prompt out of many.
        fault = f"{what_failed(error)}, asked {_begin('user', roles.get('user', turns_given[-1][1]))}"
        if "system" in roles:
            raise ModelError(
                f"model: the chat template of {_name(tokenizer)!r} {fault}; it may take no system message: leave that "
                f"out, {_NO_CHAT}"
            ) from None
        raise ModelError(_message(_name(tokenizer), fault)) from None
    squeezed = "".join(text.split())
    for role, content in turns_given:
        if role != "assistant" and content.strip() not in text and "".join(content.split()) not in squeezed:
            leave = "it" if role == "system" else "that item"
            raise ModelError(
                f"model: the chat template of {_name(tokenizer)!r} changes or leaves out {_begin(role, content)}; "
                f"leave out {leave}, {_NO_CHAT}"
            )
    return text


def _begin(role: str, text: str) -> str:
    what = "system message" if role == "system" else "prompt"
    return f"the {what} that begins with {' '.join(text.split())[:60]!r}"


def _trial(name: str, tokenizer: Any) -> Trial:
    if _writes_itself(tokenizer):
        return try_writer(_own(tokenizer))
    return try_template(_template_of(name, tokenizer))


def _usable(name: str, trial: Trial) -> Trial:
    if trial.fault:
        raise ModelError(_message(name, trial.fault))
    return trial


def _message(name: str, fault: str) -> str:
    return (
        f"model: the chat template of {name!r} {fault}; give its folder a chat_template.jinja that writes the user's "
        f"text once and as it is, {_NO_CHAT}"
    )


def _template_of(name: str, tokenizer: Any) -> ChatTemplate:
    """The default template, used for plain conversations.

    Raises:
        ModelError: there is none.
    """
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping) and found:
        if "default" not in found:
            raise ModelError(
                f"model: {name!r} has the chat templates {', '.join(sorted(found))} and no default; save the "
                f"text of the one to use as chat_template.jinja in its folder, {_NO_CHAT}"
            )
        found = found["default"]
    if found is None or isinstance(found, Mapping):
        raise ModelError(f"model: the tokenizer of {name!r} has no chat template; {_elsewhere(name)}")
    if not isinstance(found, str):
        raise ModelError(
            f"model: the chat template of {name!r} is not text but {type(found).__name__}; fix chat_template in its "
            f"tokenizer_config.json, {_NO_CHAT}"
        )
    return ChatTemplate(found, tuple(sorted(tokenizer.special_tokens_map.items())))


def _elsewhere(name: str) -> str:
    """The remedy for a missing template; processors keep theirs in another file."""
    if (Path(name).expanduser() / "chat_template.json").is_file():
        return (
            "there is one in chat_template.json, which only processors of images read: save its text as "
            f"chat_template.jinja, {_NO_CHAT}"
        )
    return "leave out --chat"


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)


def _writes_itself(tokenizer: Any) -> bool:
    """Whether a tokenizer writes chats with its own code instead of a Jinja template."""
    return getattr(type(tokenizer), "apply_chat_template", None) is not (
        PreTrainedTokenizerBase.apply_chat_template
    )


def _reads_back(tokenizer: Any) -> bool:
    """Whether a tokenizer's own code gives the same tokens for a conversation as for its text."""
    turns = _turns([("user", PROMPT)])
    text = _own(tokenizer)(turns, today=DAY).text
    how: dict[str, Any] = {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
    try:
        ids = tokenizer.apply_chat_template(list(turns), **how, **THINKING_OFF)
    except (TypeError, ValueError):
        ids = tokenizer.apply_chat_template(list(turns), **how)
    return list(ids) == list(tokenizer(text, add_special_tokens=False).input_ids)


def _own(tokenizer: Any) -> Any:
    """A writer that uses the tokenizer's own code, which may read the real clock."""

    def write(turns: Turns, *, today: datetime.date, begin_answer: bool = True) -> TemplateText:
        how = {"tokenize": False, "add_generation_prompt": begin_answer}
        try:
            text = tokenizer.apply_chat_template(list(turns), **how, **THINKING_OFF)
        except (TypeError, ValueError):
            # The code doesn't know these options, or it refuses these turns, in which case the second call raises.
            text = tokenizer.apply_chat_template(list(turns), **how)
        return TemplateText(text, False)

    return write
