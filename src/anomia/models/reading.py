"""Describes a model's tokenizer and chat template by their output for fixed texts and prompts."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

from anomia.errors import ModelError
from anomia.models.chat import render
from anomia.models.fingerprint import fingerprint_of
from anomia.models.tokenization import PROBE_TEXTS, Tokenization, attempt, describe_tokenizer

# A fixed date for templates, so that descriptions of the same folder are equal on any day.
_DAY = datetime.date(2024, 2, 29)
_CHAT_PROBES = ("prompt", "composed", "<|im_end|>", "newlines", "trailing space")


class Template(NamedTuple):
    """A chat template.

    rendered: some prompts as users' turns, by name. ids: their token ids. fault: why it can't be used, "" if it can.
    """

    text: str
    rendered: Mapping[str, str]
    ids: Mapping[str, tuple[int, ...] | None]
    fault: str


class Reading(NamedTuple):
    """A description of a tokenizer. fingerprint: as stored in runs. eos: the id of its end token."""

    tokenizer: Tokenization
    template: Template | None
    fingerprint: str
    eos: int | None


def read(tokenizer: Any, prompts: Mapping[str, str] | None = None) -> Reading:
    """Describes a tokenizer. prompts: additional texts, by name."""
    described = describe_tokenizer(tokenizer, prompts)
    return Reading(
        described, describe_template(tokenizer), fingerprint_of(described, tokenizer), tokenizer.eos_token_id
    )


def describe_template(tokenizer: Any) -> Template | None:
    """Describes the chat template and its output; None if there is none."""
    text = getattr(tokenizer, "chat_template", None)
    if not text:
        return None
    rendered: dict[str, str] = {}
    try:
        for probe in _CHAT_PROBES:
            rendered[probe] = render(tokenizer, PROBE_TEXTS[probe], today=_DAY)
        ids = {probe: attempt(tokenizer, whole, special=False) for probe, whole in rendered.items()}
    except ModelError as error:
        return Template(str(text), {}, {}, str(error))
    return Template(str(text), rendered, ids, "")
