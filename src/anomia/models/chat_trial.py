"""Tries a chat template on one question and reports how it changed the question."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import markupsafe

from anomia.models.chat_template import ChatTemplate, TemplateText, Turns, chance_in, what_failed

DAY = datetime.date(2024, 7, 26)
ANSWER = "Zanzibar, 1964"
SYSTEM = "You are a helpful assistant."
# Text with features that templates are known to damage: case, tags, quotes, non-ASCII letters, template syntax, double
# spaces, line ends, length.
PIECES: Mapping[str, str] = {
    "passage": (
        "\"Fish & Chips\" cost <nearly> £4 in {{ 7 * 7 }} towns; it's  Zürich's 50 % rule.\n  {% Second line %}\\n "
        + " ".join(f"Sentence {number} of a long passage." for number in range(400))
        + " Here the passage ends."
    ),
    "question": 'What DID <nearly> & "exactly" 49 towns\' fish cost?',
    "request": "Answer in a few words:",
}
PROMPT = f"Context: {PIECES['passage']}\n\nQuestion: {PIECES['question']}\n\n{PIECES['request']}"

_ADDRESS = re.compile(r"\w+ at 0x[0-9a-fA-F]{6,}")
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
_CHANGES: Mapping[str, Callable[[str], str]] = {
    "lower-cases": str.lower,
    "upper-cases": str.upper,
    "capitalizes": str.capitalize,
    "escapes": lambda text: str(markupsafe.escape(text)),
    "percent-encodes": quote,
    "writes as JSON": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "writes as escaped JSON": lambda text: json.dumps(text)[1:-1],
    "writes as Python code": lambda text: repr(text)[1:-1],
    "removes the tags from": lambda text: re.sub(r"<[^<>]*>", "", text),
}


class Writer(Protocol):
    """A function that renders a conversation, such as `ChatTemplate.write`."""

    def __call__(self, turns: Turns, *, today: datetime.date, begin_answer: bool = True) -> TemplateText:
        """Renders the conversation as text."""
        ...


class Trial(NamedTuple):
    """The result of trying a template.

    parts: content must be a list of parts, because the template doesn't accept plain text. gap: the text between
    prompt and answer, " " or "". thinking: prompts end inside a `<think>` span. dated: the template asks for the date.
    fault: why it can't be used, as the rest of a sentence after "the chat template"; "" if it can.
    """

    parts: bool = False
    gap: str = ""
    thinking: bool = False
    dated: bool = False
    fault: str = ""


class _FaultError(Exception):
    """A template can't be used. how: how far the try got, so that the better of several tries is reported."""

    def __init__(self, how: int, what: str) -> None:
        super().__init__(what)
        self.how = how
        self.what = what


@lru_cache(maxsize=64)
def try_template(template: ChatTemplate) -> Trial:
    """Tries a template with plain content, then with a list of parts. Depends on the template alone."""
    try:
        chance = chance_in(template.source)
    except Exception as error:
        # Compiling can fail in any way, depending on the source.
        return Trial(fault=what_failed(error))
    if chance:
        return Trial(fault=f"draws random numbers ({chance}), so that no two prompts would be asked alike")
    return try_writer(template.write, end=template.token("eos_token"), forms=(False, True))


def try_writer(write: Writer, *, end: str = "", forms: tuple[bool, ...] = (False,)) -> Trial:
    """Tries a writer of conversations.

    Args:
        write: the writer.
        end: the end token.
        forms: the forms of content to try in turn; True is a list of parts.
    """
    best = _FaultError(-1, "")
    for parts in forms:
        try:
            return _try(write, parts=parts, end=end, system=False)
        except _FaultError as fault:
            best = max(best, fault, key=lambda tried: tried.how)
    for parts in forms:
        try:
            _try(write, parts=parts, end=end, system=True)
        except _FaultError:
            continue
        return Trial(fault=f"needs a system turn; without one it {best.what}")
    return Trial(fault=best.what)


def content_of(text: str, *, parts: bool) -> Any:
    """A text as the content of a turn."""
    return [{"type": "text", "text": text}] if parts else text


def _try(write: Writer, *, parts: bool, end: str, system: bool) -> Trial:
    def turn(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": content_of(text, parts=parts)}

    asked = [*([turn("system", SYSTEM)] if system else []), turn("user", PROMPT)]
    answered = [*asked, turn("assistant", ANSWER)]
    try:
        written = write(asked, today=DAY)
    except Exception as error:
        # A template is third-party code and can fail in any way.
        raise _FaultError(0, what_failed(error)) from None
    _check_pieces(written.text)
    whole, unopened = _text(write, answered), _text(write, asked)
    gap = _check_end(written.text, whole, unopened, end=end)
    after = written.text.rpartition(PIECES["request"])[2]
    thinking = after.rfind("<think>") > after.rfind("</think>")
    return Trial(parts=parts, gap=gap, thinking=thinking, dated=written.dated)


def _text(write: Writer, turns: Turns) -> str:
    """Renders a conversation without starting an answer; "" if the template refuses that."""
    try:
        return write(turns, today=DAY, begin_answer=False).text
    except Exception:
        # Some templates accept no answers, or only end where one begins; then nothing can be compared.
        return ""


def _check_pieces(text: str) -> None:
    """Checks that passage, question and request each occur once in a rendered prompt, unchanged and in order."""
    if not text.strip():
        raise _FaultError(1, "renders nothing")
    for name, piece in PIECES.items():
        count = text.count(piece)
        if not count:
            raise _lost(name, piece, text)
        if count > 1:
            raise _FaultError(4, f"writes the {name} {count} times")
    places = [text.index(piece) for piece in PIECES.values()]
    if places != sorted(places):
        raise _FaultError(4, "changes the order of passage, question and request")
    address = _ADDRESS.search(text)
    if address:
        raise _FaultError(4, f"writes an address in memory ({address[0]}), which is different in every run")


def _lost(name: str, piece: str, text: str) -> _FaultError:
    """Describes what happened to a piece that is not in the text unchanged."""
    for did, change in _CHANGES.items():
        if change(piece) in text:
            return _FaultError(3, f"{did} the user's text")
    if "".join(piece.split()) in "".join(text.split()):
        return _FaultError(3, f"changes the white space inside the {name}")
    if piece.casefold() in text.casefold():
        return _FaultError(3, f"changes capital letters in the {name}")
    kept, ends = _longest_beginning(piece, text), piece[-15:] in text
    if not ends and kept >= min(20, len(piece) // 2):
        return _FaultError(3, f"cuts the {name} off after {kept} of {len(piece)} characters")
    quarter = len(piece) // 4
    if not ends and not any(
        piece[at : at + quarter] in text for at in range(0, len(piece) - quarter, quarter)
    ):
        return _FaultError(2, f"leaves out the {name}")
    return _FaultError(3, f"changes the {name} from {piece[kept : kept + 20]!r} on")


def _longest_beginning(piece: str, text: str) -> int:
    """The length in characters of the longest prefix of a piece that occurs in a text."""
    low, high = 0, len(piece)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if piece[:middle] in text else (low, middle - 1)
    return low


def _check_end(text: str, whole: str, unopened: str, *, end: str) -> str:
    """Checks that an answer begins where the prompt ends, and returns the gap between them.

    Args:
        text: the rendered prompt.
        whole: the same conversation with its answer.
        unopened: the prompt without `add_generation_prompt`.
        end: the end token.
    """
    before = whole.rpartition(ANSWER)[0]
    mine, its, closed = (_EMPTY_THOUGHT.sub("", part).rstrip() for part in (text, before, unopened))
    # Some templates only end a conversation if no answer is to follow; leaving that end out doesn't begin an answer.
    opens = mine != (closed.removesuffix(end).rstrip() if end else closed)
    if its.startswith(mine) and its != mine and not opens:
        raise _FaultError(
            5,
            "doesn't begin an answer: add_generation_prompt adds nothing, and an answer would come after "
            f"{its[len(mine) :].strip()[:60]!r}",
        )
    # Some templates put the end token after every turn, including the user's.
    if end and mine.endswith(end) and not its.endswith(end):
        raise _FaultError(5, f"ends the prompt with the end token {end!r} instead of beginning an answer")
    return " " if before == f"{text} " or text.endswith(PIECES["request"]) else ""
