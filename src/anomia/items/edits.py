"""Versions of a text with one error: another name, another number, a negation, an omission.

They serve as wrong translations and unfaithful summaries. An edit may read badly, and is not sure to change the
meaning; that it lowers the score is checked by whoever uses it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from anomia.items.languages import language_name
from anomia.text import is_unspaced, main_language

# Within a sentence, or of several words. In German this finds nouns, which serve as well.
NAMES = re.compile(r"(?<=[\w,;:’'\"»«)] )[A-ZÀ-ÞА-ЯΑ-Ω][\w’'-]+(?: [A-ZÀ-ÞА-ЯΑ-Ω][\w’'-]+)*")
NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*")
_PLACES = ("Lisbon", "Toronto", "Kenya", "Osaka")
_PEOPLE = ("Marta", "Ivan", "Anna", "David", "Marta Silva", "Ivan Petrov", "Anna Berg", "David Moss")
_PLACES_CYRILLIC = ("Лиссабон", "Торонто", "Кения", "Осака")
_PEOPLE_CYRILLIC = ("Марта", "Иван", "Анна", "Марта Силва", "Иван Петров", "Анна Берг")
# English writes these with a capital, and no name can stand in their place.
_NO_NAMES = (
    "January February March April May June July August September October November December Monday Tuesday Wednesday "
    "Thursday Friday Saturday Sunday"
)
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
    "english": r" not\b|n['’]t\b|(?<= )never ", "german": r" nicht\b|(?<=\b)k(?=ein)",
    "french": r" pas\b|\bne |\bn['’]",
    "dutch": r" niet\b", "swedish": r" inte\b", "spanish": r"\bno ", "portuguese": r"\bnão ", "italian": r"\bnon ",
    "polish": r"\bnie ", "russian": r"\bне ",
}  # fmt: skip
# Words that begin a phrase which a sentence can do without, and words that a phrase ends before.
_PREPOSITIONS = {
    "english": "of in on at to for from with by after before during near since until under over between without about",
    "german": "in im am an auf für mit von vom zu zum zur nach vor bei seit aus über unter durch während wegen ohne "
    "gegen",
    "dutch": "van in op aan met voor naar bij uit over onder door na tot sinds zonder tegen",
    "swedish": "av i på till för med från under efter före över vid mot utan sedan om",
    "french": "de du des à au aux en dans sur pour par avec après avant depuis sans sous vers entre pendant",
    "spanish": "de del en a al para por con desde hasta sin sobre entre tras durante",
    "portuguese": "de do da dos das em no na nos nas para por pelo pela com desde até sem sobre entre após durante",
    "italian": "di del della dei delle in nel nella nei a al alla da dal dalla per con su sul sulla tra fra senza dopo",
    "polish": "w we z ze na do od dla po przez przy nad pod za o u bez",
    "russian": "в во на с со из от до для по при через над под за о об у без к",
}  # fmt: skip
_CONJUNCTIONS = (
    "and but or that which who und aber oder dass die der das en maar of dat och men att som et mais ou que qui y e "
    "pero mas o ma che i a ale że który и но а что который"
)
_AND = "and or und oder och eller et ou y e ed o i oraz lub и или"
# Prepositions that come before people as well as places.
_OF_PEOPLE = "by with for von mit für par avec pour por con com per da door met av med przez z с для"
# Prepositions that belong to the word before them: a phrase goes on over them.
_GENITIVE = "of de du des del della dei delle do da dos das di van von av"
_PHRASE_WORDS = 5
_ENDS = re.compile(r"[.,;:!?…]+$")


def edited(
    text: str, language: str, draw: random.Random, *, names: Sequence[str] = (), source: str = ""
) -> Iterator[str]:
    """Versions of a text with one error each, the kinds in a drawn order, then more of the same kinds.

    language: its name. draw: decides everything. names: other names to use, such as those of an article. source: what
    the text translates, which has its names; nouns of a German text are then not taken for names.
    """
    kinds = [
        list(_other_names(text, language, draw, names, source)),
        list(_other_numbers(text, draw)),
        list(_negated(text, language)),
        list(_without_phrase(text, language, draw)),
    ]
    draw.shuffle(kinds)
    for turn in range(max(map(len, kinds))):
        for kind in kinds:
            if turn < len(kind) and kind[turn].strip() and kind[turn] != text:
                yield kind[turn]


def _other_names(
    text: str, language: str, draw: random.Random, names: Sequence[str], source: str
) -> Iterator[str]:
    found = [
        match
        for match in NAMES.finditer(text)
        if match.group() not in _NO_NAMES.split()
        and not (language == "german" and source and match.group() not in source)
    ]
    draw.shuffle(found)
    given = [name for name in dict.fromkeys(names) if name not in text and name not in _NO_NAMES.split()]
    before = frozenset(_PREPOSITIONS.get(language, "").split()) - frozenset(_OF_PEOPLE.split())
    for match in found[:2]:
        words = text[: match.start()].split()
        place = bool(words) and words[-1].lower() in before
        places, people = (
            (_PLACES_CYRILLIC, _PEOPLE_CYRILLIC) if re.search("[А-я]", text) else (_PLACES, _PEOPLE)
        )
        usual: Sequence[str] = places if place else people
        old = match.group()
        pool = [name for name in given if not _may_be_same(name, old)]
        pool = pool or [name for name in usual if not _may_be_same(name, old)]
        # A name of as many words is more likely to be of the same kind.
        alike = [name for name in pool if (" " in name) == (" " in old)]
        if pool:
            yield _instead(text, match, draw.choice(alike or pool))


def _may_be_same(one: str, other: str) -> bool:
    """Whether two names may be the same in fuller, shorter or inflected form, so that an exchange need not be an error.

    >>> _may_be_same("Ana Rosa Lopez", "Ana Lopez"), _may_be_same("Марты", "Марта Силва"), _may_be_same("Peru", "Lima")
    (True, True, False)
    """
    first, second = (re.split(r"[ -]", re.sub("['’]s?$", "", name.lower())) for name in (one, other))
    return any(_alike(part, whole) for part in first for whole in second)


def _alike(one: str, other: str) -> bool:
    """Whether two words are equal but for their endings: in words of five or more letters, the last two may differ."""
    shorter, longer = sorted((one, other), key=len)
    stem = shorter if len(shorter) < 5 else shorter[: max(4, len(shorter) - 2)]
    return bool(shorter) and (longer.startswith(stem) if len(shorter) > 2 else one == other)


def written_in(text: str, expected: str) -> str:
    """The name of the language of a text, such as an output that was not translated; the expected one if it can't be
    told.
    """
    code = main_language(text)
    return expected if code is None else language_name(code)


def _other_numbers(text: str, draw: random.Random) -> Iterator[str]:
    found = list(NUMBERS.finditer(text))
    draw.shuffle(found)
    for match in found[:2]:
        old = match.group()
        # The last digit but one of a long number: it stays as plausible as it was.
        place = max(0, len(old) - 2)
        if not old[place].isdecimal() or ":" in old:  # 18:45 must not become 18:75
            place = len(old) - 1
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


def _without_phrase(text: str, language: str, draw: random.Random) -> Iterator[str]:
    """The text without a phrase that begins with a preposition and ends before the next phrase, verb or mark."""
    starts = frozenset(_PREPOSITIONS.get(language, "").split())
    rule = _NEGATIONS.get(language)
    ends = starts | frozenset(_CONJUNCTIONS.split()) | frozenset(str(rule[0]).split("|") if rule else ())
    stops = ends - frozenset(_GENITIVE.split())
    tokens = text.split(" ")
    bare = [_ENDS.sub("", token).lower() for token in tokens]
    found = []
    for first in range(2, len(tokens) - 1):
        # After a verb, a preposition or a mark, the phrase is a part of the sentence that it needs.
        if bare[first] not in starts or bare[first - 1] in ends or _ENDS.search(tokens[first - 1]):
            continue
        last = first + 1
        while last + 1 < len(tokens) and not _ENDS.search(tokens[last]) and bare[last + 1] not in stops:
            # After a name without an article, a word in lower case is probably the verb.
            if last == first + 1 and tokens[last][:1].isupper() and tokens[last + 1][:1].islower():
                break
            last += 1
        joined_on = last + 1 < len(tokens) and bare[last + 1] in _AND.split()
        # A German clause may end with its verb, which a noun is told from by its capital.
        verb = language == "german" and tokens[last][:1].islower()
        if (
            last - first < _PHRASE_WORDS
            and not joined_on
            and not verb
            and "\n" not in "".join(tokens[first : last + 1])
        ):
            found.append((first, last))
    draw.shuffle(found)
    for first, last in found:
        mark = _ENDS.search(tokens[last])
        kept = [*tokens[: first - 1], tokens[first - 1] + (mark.group() if mark else ""), *tokens[last + 1 :]]
        if len(kept) > 2:
            yield " ".join(kept)


def shortened(text: str, draw: random.Random) -> Iterator[str]:
    """Versions of a text without some words in its middle (characters, in scripts without spaces). May read badly."""
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
