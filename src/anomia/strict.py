"""The strict grader, which corrects errors of containment that rules can catch.

It is reported next to containment, which stays the default and is the paper's rule. `docs/grading.md` shows how often
each agrees with a careful reader.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from itertools import takewhile

from anomia.text import first_lines, is_unspaced, visible, words

LONG_ANSWER_WORDS = 5
LONG_ANSWER_F1 = 0.7
SHORT_ANSWER_LETTERS = 3
LIST_ENTRIES = 3
_ENTRY_WORDS = 3
_LINE_WORDS = 5
# Average length of a word in a script without spaces.
_CHARACTERS_PER_WORD = 4

_TAG = re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>", re.IGNORECASE)
# Vowel points and reading signs of Arabic and Hebrew, which most texts omit; tatweel; variation selectors.
# Hamza and madda (U+0653 to U+0655) are part of a letter and are kept.
_POINTS = re.compile(
    "[\u0610-\u061a\u0640\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u08d3-\u08ff"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u034f\ufe00-\ufe0f]"
)
_STRESS = re.compile("(?<=[\u0400-\u052f])[\u0300\u0301]+")
_CYRILLIC = str.maketrans("ёѐѝ", "ееи")
_NUMBER_SIGNS = str.maketrans({"\u066b": ".", "\u066c": ",", "\u060c": ",", "\u2019": "'", "\u2212": "-"})
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,'])[1-9]\d{0,2}(?: \d{3})+(?!\d)")
# A number with its sign, or the suffix that distinguishes C++, C# and A+ from C and A.
_KEPT = re.compile(r"(?P<number>(?:(?<![^\s\0(\[])-)?\d+(?:[.,']\d+)*)|(?<=[a-z])(?:\+{1,2}|#)(?![^\W_])")
# Separates two numbers that must not merge: 1939/1945.
_APART = "/"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

_BULLET = re.compile(r"\s*(?:[-*•–—·▪◦‣⁃●○■](?:\s+|$)|\(?(?P<number>\d{1,2})[.)](?:\s+|$))")
_NEXT_PROMPT = re.compile(r"\n\s*(?:Question|Context)\b[^\n:]{0,20}:", re.IGNORECASE)
_COMMA = re.compile(r"\s*(?:,(?!\d)|[،、;；，؛])\s*")
_SENTENCE_END = re.compile(r"[.!?。！？।۔؟](?=\s|$)|\n")
# Prefixes written together with the next word: and, in, to, as, the, …
_CLITICS = {"ARABIC": "[وف]?[بلك]?(?:ال|ل)?", "HEBREW": "[ושכ]?[בלמ]?ה?"}


def strict(output: str, answers: Sequence[str]) -> bool:
    """Whether an output gives one of the answers, by stricter rules than containment.

    - Case, width, the script of digits, invisible characters, Arabic and Hebrew vowel points, tatweel, Russian stress
      marks and the dots of ё are ignored. Vowel signs of Indic scripts and of Thai are not.
    - Numbers match as a whole: 15 is not in 1.5, nor 195 in 1955; 1,500 and 1 500 equal 1500.
    - In Latin, Greek and Cyrillic, an answer must start a word. An answer of up to three letters must be a whole word.
    - Only the first entry of a list counts, unless the answer is a list itself.
    - Text from another "Question:" or "Context:" on is ignored: the model went on with a new prompt.
    - For an answer of five or more words, a first line with all its numbers and an F1 of at least 0.7 is enough.
    """
    answer_text = before_next_prompt(visible(output))
    entry = first_entry(answer_text)
    return any(_gives(answer_text if _is_list(answer) else entry, answer) for answer in answers)


def first_entry(output: str) -> str:
    """The first entry of an output that is a list; any other output unchanged.

    A list is two or more bulleted or numbered lines, three or more short lines, or three or more short entries
    separated by commas. An entry that ends in a colon is joined with the next one.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    marks = [_BULLET.match(line) for line in lines]
    # A line above the list, such as "The largest ones:", is kept with its first entry.
    kept = next((place for place, mark in enumerate(marks[:2], start=1) if mark and _starts_a_list(mark)), 0)
    if kept and sum(map(bool, marks)) > 1:
        lines = [
            _BULLET.sub("", line, count=1) if mark else line for line, mark in zip(lines, marks, strict=True)
        ]
    elif len(lines) >= LIST_ENTRIES and all(_is_short(line, _LINE_WORDS) for line in lines[:LIST_ENTRIES]):
        kept = 1
    else:
        return _before_comma(output)
    ends = [line.rstrip().endswith(":") for line in lines]
    if ends[kept - 1] and not all(ends[kept : kept + 1]):
        kept += 1
    return _before_comma("\n".join(lines[:kept]))


def before_next_prompt(text: str) -> str:
    """The text up to where the model goes on with another prompt, "Question:" or "Context:"."""
    start = next((place for place, char in enumerate(text) if not char.isspace()), 0)
    found = _NEXT_PROMPT.search(text, start)
    return text[: found.start()] if found else text


@lru_cache(maxsize=1 << 15)
def fold(text: str, between: str = " ") -> str:
    """A text without the distinctions that `strict` ignores. Idempotent.

    between: replaces punctuation, symbols and HTML tags. A space makes "Jean-Paul" two words, "" makes it one.
        Between two numbers, they become a slash.
    """
    while (folded := _fold(text, between)) != text:
        text = folded
    return text


def _fold(text: str, between: str) -> str:
    text = _TAG.sub("\0", " \0 ".join(visible(text).translate(_NUMBER_SIGNS).splitlines()))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _POINTS.sub("", unicodedata.normalize("NFD", text))
    text = _STRESS.sub("", unicodedata.normalize("NFC", text)).translate(_CYRILLIC)
    text = " ".join("".join(str(unicodedata.digit(c)) if c.isdecimal() else c for c in text).split())
    text = _SPACED_THOUSANDS.sub(lambda match: match.group().replace(" ", ""), text)
    kept, end = [], 0
    for match in _KEPT.finditer(text):
        kept += [_blank(text[end : match.start()]), _number(match.group())]
        end = match.end()
    joined = "".join([*kept, _blank(text[end:])])
    joined = re.sub(r"(?<=\d)[\s\0]*\0[\s\0]*(?=\d)", _APART, joined).replace("\0", between)
    return " ".join(unicodedata.normalize("NFKC", joined).split())


def _blank(text: str) -> str:
    return "".join("\0" if unicodedata.category(char)[0] in "PS" else char for char in text)


def _number(text: str) -> str:
    """A number in a standard form, 1500 or 1.5; or several, if the separators fit no number, as in 12.05.1945."""
    groups, marks = re.split("[.,']", text), re.findall("[.,']", text)
    if not marks:
        return text
    if _are_thousands(groups, marks):
        return "".join(groups)
    if marks[-1] != "'" and (len(groups) == 2 or _are_thousands(groups[:-1], marks[:-1])):
        return f"{''.join(groups[:-1])}.{groups[-1]}"
    return _APART.join(groups)


def _are_thousands(groups: Sequence[str], marks: Sequence[str]) -> bool:
    """Whether digits are grouped in thousands, or in the Indian way: 15,00,000."""
    first, *middle, last = (group.removeprefix("-") for group in groups)
    if len(set(marks)) != 1 or first.startswith("0") or len(last) != 3:
        return False
    return (len(first) <= 3 and all(len(group) == 3 for group in middle)) or (
        len(first) <= 2 and marks[0] == "," and all(len(group) == 2 for group in middle)
    )


def _gives(answer_text: str, answer: str) -> bool:
    if any(_stands_in(_folded(answer, between), _folded(answer_text, between)) for between in (" ", "")):
        return True
    return any(_is_long_and_near(line, answer) for line in first_lines(answer_text, answer))


def _is_long_and_near(line: str, answer: str) -> bool:
    wanted, got = words(fold(answer)), words(fold(line))
    if _length(wanted) < LONG_ANSWER_WORDS or _numbers(answer) - _numbers(line):
        return False
    shared = (Counter(wanted) & Counter(got)).total()
    return 2 * shared >= LONG_ANSWER_F1 * (len(wanted) + len(got))


def _folded(text: str, between: str) -> str:
    return fold(text, between).replace(_APART, " ")


def _stands_in(answer: str, text: str) -> bool:
    """Whether a folded text contains a folded answer at valid boundaries."""
    place = text.find(answer) if answer else -1
    while place >= 0:
        end = place + len(answer)
        if _may_begin(answer, text[:place]) and _may_end(answer, text[end:]):
            return True
        place = text.find(answer, place + 1)
    return False


def _may_begin(answer: str, before: str) -> bool:
    first = answer[0]
    if first.isdecimal() or first == "-":
        return not before.endswith(("-", ".", *"0123456789"))
    if not (_is_cased(first) or _is_short_word(answer)):
        return True
    prefix = before[len(before) - sum(1 for _ in takewhile(partial(_same_script, first), reversed(before))) :]
    return prefix == "" or bool(re.fullmatch(_CLITICS.get(_script(first), ""), prefix))


def _may_end(answer: str, after: str) -> bool:
    last = answer[-1]
    if last.isdecimal():
        # 1990s is not a year.
        return not re.match(r"\.?\d| ?s\b", after)
    # Other scripts attach endings to so many words that requiring a boundary would miss answers.
    bounded = (_is_cased(last) or _script(last) in _CLITICS) and _is_short_word(answer)
    return not (bounded and after and (_same_script(last, after[0]) or after[0] in "+#"))


def _is_short_word(answer: str) -> bool:
    """Whether an answer has so few letters that many words contain it by chance; a Hangul syllable counts 2 or 3."""
    if is_unspaced(answer):
        return False
    return sum(map(_is_letter, unicodedata.normalize("NFD", answer))) <= SHORT_ANSWER_LETTERS


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM"


def _is_cased(char: str) -> bool:
    return char.lower() != char.upper()


def _same_script(letter: str, other: str) -> bool:
    return _is_letter(other) and _script(other) in (_script(letter), "COMBINING")


@cache
def _script(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0]


def _numbers(text: str) -> Counter[str]:
    return Counter(_NUMBER.findall(fold(text)))


def _length(found: Sequence[str]) -> float:
    """The length in words of a list from `words`, where characters of unspaced scripts count as a fraction."""
    return sum(1 / _CHARACTERS_PER_WORD if is_unspaced(word) else 1 for word in found)


def _is_short(text: str, limit: int) -> bool:
    return 0 < _length(words(text)) <= limit


def _is_list(answer: str) -> bool:
    return len(answer.strip().splitlines()) > 1 or sum(map(bool, _COMMA.split(visible(answer)))) > 1


def _starts_a_list(mark: re.Match[str]) -> bool:
    """Whether a mark is a bullet or the number 1: "15. huhtikuuta" is a date."""
    return mark["number"] is None or int(mark["number"]) == 1


def _before_comma(text: str) -> str:
    """The first of three or more short entries separated by commas, or the text unchanged.

    The last of more than three entries may have any length, since it may run on. Numbers mixed with words are not a
    list: "Monday, July 20, 1969".
    """
    text = text.strip()
    end = _SENTENCE_END.search(text)
    entries = _COMMA.split(text[: end.start()] if end else text)
    with_digits = {any(map(str.isdigit, entry)) for entry in entries[:LIST_ENTRIES]}
    long = [
        entry
        for entry in entries[: max(LIST_ENTRIES, len(entries) - 1)]
        if not _is_short(entry, _ENTRY_WORDS)
    ]
    return text if len(entries) < LIST_ENTRIES or len(with_digits) > 1 or long else entries[0]
