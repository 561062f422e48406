"""Chat templates as functions of a conversation and a date, and nothing else.

`apply_chat_template` of transformers lets a template read the clock (`strftime_now`), and the clock can't be replaced:
functions among the arguments become placeholders. So templates are rendered here, with the library's own compiled
template and its usual variables, except for the clock.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from transformers.utils.chat_template_utils import _compile_jinja_template

Turns = Sequence[Mapping[str, Any]]
# Both names are in use; a template that knows neither ignores them.
THINKING_OFF: Mapping[str, bool] = {"enable_thinking": False, "thinking": False}

_NOON = datetime.time(12)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_DIRECTIVE = re.compile(r"%(.)", re.DOTALL)


class TemplateText(NamedTuple):
    """Rendered text. dated: the template asked for the date."""

    text: str
    dated: bool


class ChatTemplate(NamedTuple):
    """A template and the special tokens that it may use. tokens: pairs such as `("bos_token", "<s>")`."""

    source: str
    tokens: tuple[tuple[str, str], ...] = ()

    def write(self, turns: Turns, *, today: datetime.date, begin_answer: bool = True) -> TemplateText:
        """Renders a conversation as text, with thinking switched off.

        Args:
            turns: messages with a role and content.
            today: the date given to the template; the time of day is always noon.
            begin_answer: add the start of an answer (`add_generation_prompt`).

        Raises:
            Exception: any error of the template, which is third-party code.
        """
        dated = False

        def strftime_now(form: str) -> str:
            nonlocal dated
            dated = True
            return write_date(today, form)

        text = _compile_jinja_template(self.source).render(
            messages=[dict(turn) for turn in turns],
            tools=None,
            documents=None,
            add_generation_prompt=begin_answer,
            **dict(self.tokens),
            **THINKING_OFF,
            strftime_now=strftime_now,
        )
        return TemplateText(text, dated)

    def token(self, name: str) -> str:
        """A special token by name; "" if the tokenizer has none."""
        return dict(self.tokens).get(name, "")


def write_date(today: datetime.date, form: str) -> str:
    """`strftime` for noon of a day, the same on every machine: English names in any locale, UTC for `%s`.

    >>> write_date(datetime.date(2024, 7, 26), "%A, %d %b %Y %H:%M")
    'Friday, 26 Jul 2024 12:00'
    """
    day, month = _WEEKDAYS[today.weekday()], _MONTHS[today.month - 1]
    moment = datetime.datetime.combine(today, _NOON)
    fixed = {
        "A": day,
        "a": day[:3],
        "B": month,
        "b": month[:3],
        "h": month[:3],
        "p": "PM",
        "P": "pm",
        "c": f"{day[:3]} {month[:3]} {today.day:2} 12:00:00 {today.year}",
        "x": f"{today:%m/%d/%y}",
        "X": "12:00:00",
        "r": "12:00:00 PM",
        "s": str(int(moment.replace(tzinfo=datetime.UTC).timestamp())),
    }
    # The inserted texts contain no percent sign, so they are not read as directives.
    return moment.strftime(_DIRECTIVE.sub(lambda found: fixed.get(found[1], found[0]), form))


@lru_cache(maxsize=64)
def chance_in(source: str) -> str:
    """The part of a template that draws random numbers; "" if there is none.

    Raises:
        jinja2.TemplateSyntaxError: it is not valid Jinja.
    """
    tree = _compile_jinja_template(source).environment.parse(source)
    if any(found.name == "random" for found in tree.find_all(nodes.Filter)):
        return "the filter `random`"
    return "`lipsum`" if any(found.name == "lipsum" for found in tree.find_all(nodes.Name)) else ""


@lru_cache(maxsize=64)
def literals(source: str) -> frozenset[str]:
    """The pieces of text that a template writes or compares, without its code; the source if it isn't valid Jinja."""
    try:
        tree = _compile_jinja_template(source).environment.parse(source)
    except Exception:
        # Compiling can fail in any way, depending on the source.
        return frozenset({source})
    written = {found.data for found in tree.find_all(nodes.TemplateData)}
    return frozenset(
        written | {found.value for found in tree.find_all(nodes.Const) if isinstance(found.value, str)}
    )


def what_failed(error: Exception) -> str:
    """Describes a template's error as the rest of a sentence after "the chat template", in its own words if any."""
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"is not valid Jinja: {words} (line {error.lineno})"
    if isinstance(error, jinja2.UndefinedError):
        token = re.search(r"'(\w+_token)' is undefined", words)
        if token:
            return f"needs {token[1]}, which tokenizer_config.json doesn't define"
        return f"uses what isn't there: {words}"
    if isinstance(error, jinja2.TemplateError):
        return f"refuses: {words}"
    return f"fails: {type(error).__name__}: {words}"
