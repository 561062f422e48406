"""Differences in how text becomes tokens, and in where answers end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from anomia.models.describe import Description
from anomia.models.difference import Difference, listed, shown
from anomia.models.reading import Template
from anomia.models.tokenization import PROBE_TEXTS, Tokenization
from anomia.words import counted

Ids = Mapping[str, tuple[int, ...] | None]
# Parts of a tokenizer; a difference in one may or may not show in the ids of the probe texts.
_BUILT = (
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "backend",
    "merges",
    "added tokens",
    "settings",
    "class",
)


def token_differences(base: Description, other: Description, chat: bool | None) -> Iterator[Difference]:
    """Differences in vocabulary, token ids, start and end tokens.

    chat: whether all prompts use a chat template, which adds its own start tokens; None if unknown.
    """
    mine, theirs = base.tokenizer, other.tokenizer
    around = (mine.start, mine.end) != (theirs.start, theirs.end)
    yield from _vocabulary(base, other)
    if mine.random or theirs.random:
        yield Difference(
            "randomness", "confounding", _random(mine), _random(theirs),
            "one text gets different token ids each time, so no two models are asked the same",
        )  # fmt: skip
    if around:
        yield Difference(
            "tokens put around a text", "noted" if chat else "confounding", _around(base), _around(other),
            "prompts of this study go through a chat template, and these are excluded" if chat else
            "a missing or doubled start token alone can cost most answers",
        )  # fmt: skip
    bare = _differing(mine.bare, theirs.bare)
    whole = [name for name in _differing(mine.ids, theirs.ids) if name not in bare]
    if chat or (around and None not in (mine.start, theirs.start)):
        # A template leaves out start and end tokens; otherwise they are reported above as the only difference.
        whole = []
    for names, left, right, what in (
        (bare, mine.bare, theirs.bare, "token ids"),
        (whole, mine.ids, theirs.ids, "token ids with start and end tokens"),
    ):
        if names:
            yield Difference(
                what, "confounding", _example(mine, left, names[0]), _example(theirs, right, names[0]),
                f"the same text becomes different tokens, in {len(names)} of {len(PROBE_TEXTS)} probe texts: "
                f"{listed(names, 6)}",
            )  # fmt: skip
    asked = (
        _differing(mine.bare_prompts, theirs.bare_prompts)
        if chat
        else _differing(mine.prompts, theirs.prompts)
    )
    if asked:
        yield Difference(
            "token ids of the study's prompts", "confounding", f"{len(mine.prompts):,} prompts",
            f"{len(asked):,} become different tokens",
            f"the two models would be asked different things: {listed(asked)}",
        )  # fmt: skip
    read = [name for name in _differing(mine.texts, theirs.texts) if name not in bare]
    if read:
        yield Difference(
            "text of the same tokens", "confounding", shown(mine.texts[read[0]]), shown(theirs.texts[read[0]]),
            f"the same answer is decoded to a different text, in {len(read)} probe texts: {listed(read)}",
        )  # fmt: skip
    yield from _built(mine, theirs, seen=bool(bare or whole or read or around))
    yield from _end_tokens(base, other)


def template_differences(base: Description, other: Description, chat: bool | None) -> Iterator[Difference]:
    """Differences in the chat templates. chat: whether prompts use them; None if unknown."""
    mine, theirs = base.template, other.template
    if mine == theirs:
        return
    if chat is False:
        yield _template(base, other, "noted", "prompts of this study go through no chat template")
    elif mine is None or theirs is None:
        lacks = base if mine is None else other
        kind = "confounding" if chat else "noted"
        yield _template(base, other, kind, f"{lacks.name} can't be asked through a chat template")
    elif mine.fault or theirs.fault:
        # A template that is random or refuses prompts can't be compared; a run refuses it.
        fault = mine.fault or theirs.fault
        if mine.fault != theirs.fault or mine.text != theirs.text:
            yield _template(
                base, other, "confounding" if chat or mine.fault != theirs.fault else "noted", fault
            )
    elif mine.rendered != theirs.rendered or mine.ids != theirs.ids:
        probe = next(
            name for name in mine.rendered
            if mine.rendered[name] != theirs.rendered[name] or mine.ids[name] != theirs.ids[name]
        )  # fmt: skip
        left, right = _around_difference(mine.rendered[probe], theirs.rendered[probe])
        what = "rendered chat prompt" if left != right else "token ids of the rendered chat prompt"
        if left == right:
            left, right = str(mine.ids[probe]), str(theirs.ids[probe])
        yield Difference(
            what, "confounding", shown(left), shown(right),
            "with --chat the two models would be asked different things",
        )  # fmt: skip
    else:
        yield _template(
            base, other, "noted", "one user's turn is rendered the same; other conversations may not be"
        )


def _vocabulary(base: Description, other: Description) -> Iterator[Difference]:
    mine, theirs = base.tokenizer, other.tokenizer
    if mine.vocabulary != theirs.vocabulary:
        moved = sorted(
            (number, token)
            for token, number in mine.vocabulary.items()
            if theirs.vocabulary.get(token) != number
        )
        added = [token for token in theirs.vocabulary if token not in mine.vocabulary]
        if moved:
            yield Difference(
                "vocabulary", "confounding", f"{mine.size:,} tokens", f"{theirs.size:,} tokens",
                f"{len(moved):,} of base's tokens have another id or none ({listed([repr(t) for _, t in moved])}), so "
                "token ids can't be compared",
            )  # fmt: skip
        else:
            yield Difference(
                "added tokens", "noted", "–", listed([repr(token) for token in added]),
                "base's tokens keep their ids, and these are new",
            )  # fmt: skip
    sizes = base.settings.get("vocab_size"), other.settings.get("vocab_size")
    for description, size in ((base, sizes[0]), (other, sizes[1])):
        highest = max(description.tokenizer.vocabulary.values(), default=-1)
        if (
            isinstance(size, int)
            and highest >= size
            and (sizes[0] != sizes[1] or mine.vocabulary != theirs.vocabulary)
        ):
            yield Difference(
                "tokens without an embedding", "confounding", f"{sizes[0]:,}", f"{sizes[1]:,}",
                f"the tokenizer of {description.name} gives ids up to {highest:,}, which its model has no row for",
            )  # fmt: skip
    if sizes[0] != sizes[1]:
        yield Difference(
            "rows of the embeddings", "noted", f"{sizes[0]:,}", f"{sizes[1]:,}",
            "ids that only one has can be generated there, and count in ranks; all others mean the same",
        )  # fmt: skip


def _built(mine: Tokenization, theirs: Tokenization, *, seen: bool) -> Iterator[Difference]:
    """Differences in parts of the tokenizers. seen: whether differing ids or texts have been reported."""
    unlike = [name for name in _BUILT if mine.parts.get(name) != theirs.parts.get(name)]
    why = "the cause of the differences in ids or texts" if seen else (
        f"the ids of all {len(PROBE_TEXTS)} probe texts are the same, but those of other texts may differ"
    )  # fmt: skip
    # The backend contains the other parts; it is reported only if none of them explains the difference.
    if (
        len(unlike) > 1
        and "backend" in unlike
        and {"normalizer", "pre_tokenizer", "post_processor", "decoder", "added tokens"} & set(unlike)
    ):
        unlike.remove("backend")
    for name in unlike:
        left, right = _sides(name, mine.parts.get(name, "none"), theirs.parts.get(name, "none"))
        label = "rest of the backend (merges, scores, options)" if name == "backend" else name
        yield Difference(f"tokenizer: {label}", "noted", shown(left), shown(right), why)
    if mine.special != theirs.special:
        roles = sorted(
            role
            for role in {*mine.special, *theirs.special}
            if mine.special.get(role) != theirs.special.get(role)
        )
        yield Difference(
            "special tokens", "noted", ", ".join(shown(mine.special.get(role)) for role in roles),
            ", ".join(shown(theirs.special.get(role)) for role in roles),
            f"{listed(roles)} differ; the effects on ids, ends and templates are listed separately",
        )  # fmt: skip


def _sides(name: str, mine: str, theirs: str) -> tuple[str, str]:
    """A part of two tokenizers, from shortly before the first difference; of settings, only the differing ones."""
    if name != "settings" or "none" in (mine, theirs):
        return _around_difference(mine, theirs)
    one, other = json.loads(mine), json.loads(theirs)
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    left, right = (", ".join(f"{key}={shown(each.get(key))}" for key in keys) for each in (one, other))
    return left, right


def _end_tokens(base: Description, other: Description) -> Iterator[Difference]:
    if set(base.end_tokens) != set(other.end_tokens):
        yield Difference(
            "end tokens", "confounding", _tokens(base, base.end_tokens), _tokens(other, other.end_tokens),
            "answers end at other tokens, and so get longer or shorter, or never end",
        )  # fmt: skip


def _template(base: Description, other: Description, kind: str, why: str) -> Difference:
    assert kind in ("noted", "confounding")
    texts = [_text(description.template) for description in (base, other)]
    left, right = ("none", "none") if None in texts else _around_difference(str(texts[0]), str(texts[1]))
    left, right = (
        shown(part) if text is not None else "none" for part, text in zip((left, right), texts, strict=True)
    )
    if None in texts:
        left, right = (shown(text) if text else "none" for text in texts)
    return Difference("chat template", "noted" if kind == "noted" else "confounding", left, right, why)


def _text(template: Template | None) -> str | None:
    return None if template is None else template.text


def _differing(mine: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    return [name for name in mine if mine[name] != theirs.get(name)]


def _around_difference(mine: str, theirs: str) -> tuple[str, str]:
    """Two texts from shortly before their first difference."""
    first = next(
        (n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
    )
    start = max(0, first - 15)
    lead = "…" if start else ""
    return lead + mine[start:], lead + theirs[start:]


def _example(tokenization: Tokenization, ids: Ids, name: str) -> str:
    found = ids[name]
    if found is None:
        return f"{name}: can't be encoded"
    return f"{name}: {counted(len(found), 'token')}, {shown(list(found[:8]), 45)}"


def _around(description: Description) -> str:
    start, end = description.tokenizer.start, description.tokenizer.end
    if start is None or end is None:
        return "not the same for all texts"
    parts = [
        f"{_tokens(description, ids)} {place}" for ids, place in ((start, "before"), (end, "after")) if ids
    ]
    return ", ".join(parts) or "none"


def _tokens(description: Description, ids: Sequence[int]) -> str:
    """Ids with their tokens."""
    names = {number: token for token, number in description.tokenizer.vocabulary.items()}
    return ", ".join(f"{number} {shown(names.get(number, '?'))}" for number in ids) or "none"


def _random(tokenization: Tokenization) -> str:
    return "different ids each time" if tokenization.random else "the same ids each time"
