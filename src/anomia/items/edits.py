"""Versions of a text with one error: another name, another number, a negation, an omission.

They serve as wrong translations and unfaithful summaries. An edit may read badly, and is not sure to change the
meaning; that it lowers the score is checked by whoever uses it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from anomia.text import is_unspaced

# Within a sentence, or of several words. In German this finds nouns, which serve as well.
NAMES = re.compile(r"(?<=[\w,;:’'\"»«)] )[A-ZÀ-ÞА-ЯΑ-Ω][\w’'-]+(?: [A-ZÀ-ÞА-ЯΑ-Ω][\w’'-]+)*")
NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*")
_OTHER_NAMES = (
    "Lisbon",
    "Marta Silva",
    "Toronto",
    "Ivan Petrov",
    "Kenya",
    "Anna Berg",
    "Osaka",
    "David Moss",
)
_OTHER_NAMES_CYRILLIC = ("Лиссабон", "Марта Силва", "Торонто", "Иван Петров", "Кения", "Анна Берг")
# After which word a negation goes, which one, and whether it comes before the word.
_NEGATIONS = {
    "english": (r"is|are|was|were|has|have|had|will|can|could|would|should|must|may|might", "not", False),
    "german": (r"ist|war|sind|waren|hat|haben|hatte|wird|werden|wurde|wurden|kann|können", "nicht", False),
    "dutch": (r"is|was|zijn|waren|heeft|hebben|had|wordt|worden|werd|kan|kunnen", "niet", False),
    "swedish": (r"är|var|har|hade|kan|ska|blir|blev", "inte", False),
    "spanish": (r"es|está|fue|era|son|están|fueron|ha|han|había|puede|pueden|tiene|tienen", "no", True),
    "portuguese": (r"é|está|foi|era|são|estão|foram|tem|têm|pode|podem", "não", True),
    "italian": (r"è|era|sono|fu|ha|hanno|aveva|può|possono", "non", True),
    "polish": (r"jest|są|był|była|było|były|ma|mają|może|mogą", "nie", True),
    "russian": (r"был|была|было|были|может|могут|будет|будут|имеет|стал|стала|стали", "не", True),
    "finnish": (),
}
_NEGATED = {
    "english": r" not\b|n['’]t\b|(?<= )never ", "german": r" nicht\b|(?<=\b)k(?=ein)", "french": r" pas\b|\bne |\bn['’]",
    "dutch": r" niet\b", "swedish": r" inte\b", "spanish": r"\bno ", "portuguese": r"\bnão ", "italian": r"\bnon ",
    "polish": r"\bnie ", "russian": r"\bне ",
}  # fmt: skip


def edited(text: str, language: str, draw: random.Random, *, names: Sequence[str] = ()) -> Iterator[str]:
    """Versions of a text with one error each, the kinds in a drawn order, then more of the same kinds.

    language: its name. draw: decides everything. names: other names to use, such as those of an article.
    """
    kinds = [
        list(_other_names(text, language, draw, names)),
        list(_other_numbers(text, draw)),
        list(_negated(text, language)),
        list(_shortened(text, draw)),
    ]
    draw.shuffle(kinds)
    for turn in range(max(map(len, kinds))):
        for kind in kinds:
            if turn < len(kind) and kind[turn].strip() and kind[turn] != text:
                yield kind[turn]


def _other_names(text: str, language: str, draw: random.Random, names: Sequence[str]) -> Iterator[str]:
    found = list(NAMES.finditer(text))
    draw.shuffle(found)
    usual = _OTHER_NAMES_CYRILLIC if re.search("[А-я]", text) else _OTHER_NAMES
    given = [name for name in dict.fromkeys(names) if name not in text]
    for match in found[:2]:
        pool = given or list(usual)
        yield _instead(
            text, match, draw.choice([name for name in pool if name != match.group()] or list(usual))
        )


def _other_numbers(text: str, draw: random.Random) -> Iterator[str]:
    found = list(NUMBERS.finditer(text))
    draw.shuffle(found)
    for match in found[:2]:
        old = match.group()
        # The last digit but one of a long number: it stays as plausible as it was.
        place = max(0, len(old) - 2) if old[max(0, len(old) - 2)].isdecimal() else len(old) - 1
        digit = (int(old[place]) + draw.choice([1, 2, 3])) % 10 or 1
        yield _instead(
            text, match, f"{old[:place]}{digit if str(digit) != old[place] else 4}{old[place + 1 :]}"
        )


def _negated(text: str, language: str) -> Iterator[str]:
    negated = _NEGATED.get(language)
    if negated and (match := re.search(negated, text)):
        yield " ".join(re.sub(negated, "", text).split())
        return
    rule = _NEGATIONS.get(language)
    if rule and (match := re.search(rf"\b(?:{rule[0]})\b", text)):
        word = f"{rule[1]} {match.group()}" if rule[2] else f"{match.group()} {rule[1]}"
        yield _instead(text, match, word)
    elif language == "french" and (
        match := re.search(r"\b(est|sont|était|étaient|a|ont|peut|peuvent)\b", text)
    ):
        verb = match.group()
        yield _instead(text, match, f"n'{verb} pas" if verb[0] in "aeéo" else f"ne {verb} pas")


def _shortened(text: str, draw: random.Random) -> Iterator[str]:
    if is_unspaced(text):
        size = max(1, len(text) // 5)
        for start in draw.sample(range(max(1, len(text) - size)), min(4, max(1, len(text) - size))):
            yield text[:start] + text[start + size :]
        return
    words = text.split()
    for size in (3, 2, 1, 1):
        if len(words) > size + 2:
            start = draw.randrange(1, len(words) - size)
            yield " ".join(words[:start] + words[start + size :])


def _instead(text: str, match: re.Match[str], new: str) -> str:
    return text[: match.start()] + new + text[match.end() :]
