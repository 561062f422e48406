"""Compare a server's token counts with base's, since counts are all that most servers report about their tokenizer.

A server tokenizes prompts itself. If it adds no start token or has another tokenizer, its model gets different prompts
from base, and the resulting losses look like damage from compression.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from anomia.endpoint.abilities import Abilities, speak
from anomia.endpoint.ask import ServedModel, as_sent, without_second_start
from anomia.endpoint.client import RequestRefusedError, client_from_environment
from anomia.errors import ModelError
from anomia.models.chat import render
from anomia.models.difference import Difference
from anomia.models.tokenization import PROBE_TEXTS
from anomia.probe.encode import PromptEncoding, encoder

# Each text combines many things in which tokenizers differ, to save requests.
_SCRIPTS = ("english", "finnish", "cyrillic", "arabic", "devanagari", "chinese", "korean")
_MARKS = ("decomposed", "digits", "punctuation", "code", "double spaces", "newlines", "tabs")
TEXTS: Mapping[str, str] = {
    "seven languages": " ".join(PROBE_TEXTS[name] for name in _SCRIPTS),
    "digits, marks and spaces": " ".join(PROBE_TEXTS[name] for name in _MARKS),
}


class Counted(NamedTuple):
    """Token counts of one text. served: None if the server doesn't report it."""

    base: int
    served: int | None


def count_tokens(
    served: ServedModel,
    prompts: Mapping[str, str],
    tokenizer: Any,
    *,
    chat: bool,
    today: datetime.date | None = None,
) -> dict[str, Counted]:
    """Count the tokens of `TEXTS` and some prompts, each as it is sent, by name. Takes one request each, plus one.

    Args:
        served: the model.
        prompts: some of the study's prompts, by name, before any chat template.
        tokenizer: base's.
        chat: whether prompts go through base's chat template.
        today: the date that the template sees.

    Raises:
        ModelError: the server can't be reached, or can't be asked in the way of `answer_items`.
    """
    written = {name: text for name, text in {**TEXTS, **prompts}.items() if not chat}
    if chat:
        for name, text in {**TEXTS, **prompts}.items():
            # A template that fails on one of our texts may still work for all of the study's.
            with suppress(ModelError):
                written[name] = render(tokenizer, text, today=today)
        served = without_second_start(served, tokenizer, list(written.values()))
    ids = encoder(tokenizer, PromptEncoding())
    found, last = {}, ""
    for name, text in written.items():
        mine = len(tokenizer(text, add_special_tokens=False).input_ids if chat else ids(text))
        found[name] = Counted(mine, _count(served, as_sent(tokenizer, text, chat=chat)))
        last = name
    if last and found[last].served != _count(served, as_sent(tokenizer, written[last], chat=chat)):
        # Some servers count only the tokens that were not in their cache.
        return {name: counted._replace(served=None) for name, counted in found.items()}
    return found


def count_early(
    url: str, model: str, prompts: Mapping[str, str], tokenizer: Any, *, chat: bool
) -> dict[str, Counted]:
    """Count tokens like `count_tokens`, before other tests of the server and without waiting for it to start.

    Raises:
        ModelError: the server doesn't answer now.
        MissingExtraError: the `endpoint` extra is not installed.
    """
    with client_from_environment(url, model) as client:
        speak(client, attempts=1)
        return count_tokens(
            ServedModel(client, Abilities({}, echo=False, ranks=False)), prompts, tokenizer, chat=chat
        )


def served_differences(counted: Mapping[str, Counted]) -> tuple[Difference, ...]:
    """The differences that a server's token counts show, and the ones that it can't report."""
    return (*_of_tokens(counted), _ENDS)


def offsets(counted: Mapping[str, Counted]) -> dict[str, int | None]:
    """By text, the server's token count minus base's, as stored in a run; None if unknown."""
    return {name: None if each.served is None else each.served - each.base for name, each in counted.items()}


_ENDS = Difference(
    "end tokens", "noted", "its own", "not reported by the server",
    "a server ends answers by itself and doesn't say where; other end tokens make answers longer or shorter",
)  # fmt: skip


def _of_tokens(counted: Mapping[str, Counted]) -> tuple[Difference, ...]:
    known = {name: more for name, more in offsets(counted).items() if more is not None}
    if not known:
        return (
            Difference(
                "number of tokens", "noted", "counted", "not reported by the server",
                "it gives no usage.prompt_tokens that can be relied on, so a missing start token or another tokenizer "
                "would not be noticed",
            ),
        )  # fmt: skip
    other = [name for name, more in known.items() if more]
    if not other:
        return ()
    name = other[-1]
    base, served, more = counted[name].base, counted[name].served, known[name]
    if len(set(known.values())) == 1:
        what = f"{abs(more)} {'more' if more > 0 else 'fewer'}"
        return (
            Difference(
                "tokens put around a text", "confounding", f"{base:,} tokens of {name!r}",
                f"{served:,}, and {what} in every text",
                f"the server puts {what} around what it is sent than base's tokenizer does: a missing or doubled start "
                "token alone can cost most answers",
            ),
        )  # fmt: skip
    return (
        Difference(
            "token ids", "confounding", f"{base:,} tokens of {name!r}", f"{served:,}",
            f"the same text becomes a different number of tokens, in {len(other)} of {len(known)} texts "
            f"({', '.join(f'{one} {known[one]:+,}' for one in other)}): the server has a different tokenizer from "
            "base's",
        ),
    )  # fmt: skip


def _count(served: ServedModel, text: str) -> int | None:
    """The server's token count of a text; None if it reports no plausible number."""
    try:
        usage = served.client.complete(
            text, max_tokens=1, temperature=0.0, unclear_attempts=2, **served.abilities.plain
        )["usage"]
    except RequestRefusedError:
        return None
    count = usage.get("prompt_tokens")
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None
