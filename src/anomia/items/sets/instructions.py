"""Instructions that a program can check, in IFEval's form (`prompt`, `instruction_id_list`, `kwargs`).

The 25 kinds of IFEval (Zhou et al. 2023, arXiv:2311.07911) with the official implementation's semantics, except that
sentences are split, words are cut and languages are recognised by the rules below, where it uses NLTK and langdetect.
The score is the share of the instructions followed; right means all of them. IFEval has no answers, so a row may bring
a `response` that follows all instructions. Otherwise one is composed. Wrong options break one instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from anomia.errors import DataError, nearest
from anomia.grade import Posed, Task, TaskGrade
from anomia.items.data_set import DataSet
from anomia.items.item import Question
from anomia.items.task_rows import SUFFIXES, HubPlace, TaskRow, draw_for, first_wrong, packed, task_reader
from anomia.text_files import as_text, unpacked

Arguments = Mapping[str, Any]

_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_SENTENCE = re.compile(r"[.!?。！？।؟]+[\"'”’)\]]*(?=\s|$)|\n\s*\n")
_ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])\.$")
# Scripts that tell a language, and function words of those in Latin, Cyrillic and Arabic letters.
_SCRIPTS = {
    "ja": "[\u3040-\u30ff]", "ko": "[\uac00-\ud7a3]", "zh": "[\u4e00-\u9fff]", "th": "[\u0e00-\u0e7f]",
    "el": "[\u0370-\u03ff]", "he": "[\u0590-\u05ff]", "bn": "[\u0980-\u09ff]", "ta": "[\u0b80-\u0bff]",
    "te": "[\u0c00-\u0c7f]", "kn": "[\u0c80-\u0cff]", "ml": "[\u0d00-\u0d7f]", "gu": "[\u0a80-\u0aff]",
    "pa": "[\u0a00-\u0a7f]",
}  # fmt: skip
_WORDS = {
    "en": "the and of to in is that it for with as was on are be this have not you they",
    "de": "der die und das ist nicht ein eine mit den von zu auf sich auch dem wir ich für sind",
    "fr": "le la les et des est une dans que pour pas qui sur avec vous nous plus ce ne au",
    "es": "el la los las y de que en es un una por con para no se del más como su",
    "it": "il di che è la per un non una con sono le del della più anche gli nel si ma",
    "pt": "o a os de que e do da em um uma para com não se por mais dos como ao",
    "nl": "de het een en van is dat niet op te zijn voor met die ik aan er ook maar je",
    "sv": "och att det som en på är av för med den till inte har de jag ett om men var",
    "fi": "ja on ei se että hän oli mutta kun niin myös ovat kuin sen tai olla minä joka tämä ole",
    "pl": "i w na się nie z do to że jest jak co o po ale od dla przez są jego",
    "vi": "và của là có không được cho một trong với những các để này người khi đã như ở cũng",
    "tr": "ve bir bu için ile da de çok ne gibi daha olarak o ama kadar sonra değil en var mi",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena ada bisa adalah mereka",
    "sw": "na ya wa kwa ni katika za la kuwa hii si cha au watu kama yake hiyo sana pia wao",
    "ru": "и в не на что с он как это по но из у за то все от так для же",
    "uk": "і в не на що з як це та до за від але його є про у для також по",
    "bg": "и на е да в се не от за с че са по това като ще го до или",
    "ar": "في من على إلى أن هذا التي عن مع كان ما هو لا كل قد هي الذي ذلك بين لم",
    "fa": "و در به از که این را با است برای آن یک خود هم نیز تا می ها بر شد",
    "ur": "کے کی میں ہے اور سے کا کو پر نے یہ کہ نہیں ہیں ایک بھی کر تھا اس وہ",
    "hi": "के की में है और से का को पर ने यह कि नहीं हैं एक भी कर था इस वह",
    "mr": "आणि आहे या हे ते आहेत मध्ये एक तो ती होते नाही का असे च ही होता त्या किंवा साठी",
    "ne": "र को मा छ यो ले लाई पनि छन् भने हो गर्न एक तथा हुन्छ थियो त्यो गरेको का बाट",
}  # fmt: skip


# Letters that only one of the languages with the same function words has.
_LETTERS = {"ru": "ыэё", "uk": "іїєґ", "fa": "پژ", "ur": "ےںٹڈ", "mr": "ळ"}


def language_of(text: str) -> str | None:
    """The language code of a text, from its script and function words; None if too few are known.

    >>> language_of("Das ist nicht der Weg, den wir gehen."), language_of("これは本です"), language_of("xyz")
    ('de', 'ja', None)
    """
    letters = sum(char.isalpha() for char in text)
    for code, script in _SCRIPTS.items():
        # Japanese is mostly kanji in formal texts.
        if letters and len(re.findall(script, text)) >= (0.1 if code == "ja" else 0.4) * letters:
            return code
    words = re.findall(r"[^\W\d_]+(?:[\u0900-\u097f]+[^\W\d_]*)*", text.lower())
    counts = {
        code: sum(word in known for word in words) + sum(map(text.count, _LETTERS.get(code, "")))
        for code, known in _KNOWN.items()
    }
    best = max(counts, key=lambda code: counts[code])
    return best if counts[best] >= max(1, len(words) // 20) else None


_KNOWN = {code: frozenset(words.split()) for code, words in _WORDS.items()}


def _is_language(text: str, code: str) -> bool:
    """As in IFEval, a text whose language isn't recognised counts as following."""
    found = language_of(text)
    return found is None or found == code.partition("-")[0]


def _compares(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _sentences(text: str) -> int:
    """The number of sentences: ends of sentences that aren't abbreviations, and the unfinished last one."""
    count, start = 0, 0
    for match in _SENTENCE.finditer(text):
        piece = text[start : match.end()].strip()
        if piece and not _ABBREVIATED.search(piece):
            count += any(char.isalnum() for char in piece)
            start = match.end()
    return count + any(char.isalnum() for char in text[start:])


def _paragraphs(text: str, wanted: int) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    empty = [place for place, part in enumerate(parts) if not part.strip()]
    return not set(empty) - {0, len(parts) - 1} and len(parts) - len(empty) == wanted


def _nth_paragraph(text: str, of: Arguments) -> bool:
    parts = text.split("\n\n")
    count, nth = sum(bool(part.strip()) for part in parts), int(of["nth_paragraph"])
    if nth > count or not (piece := parts[nth - 1].strip()):
        return False
    first = re.split(r"[.,?!'\"]", piece.split()[0].lstrip("'").lstrip('"'))[0].lower()
    return count == of["num_paragraphs"] and first == str(of["first_word"]).lower()


def _postscript(text: str, marker: str) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker.strip(), re.escape(marker.strip().lower())), text.lower()))


def _highlights(text: str) -> int:
    single = re.findall(r"\*[^\n*]*\*", text)
    double = re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(each.strip("*").strip()) for each in (*single, *double))


def _is_json(text: str) -> bool:
    inner = re.sub(r"^```(?:json|Json|JSON)?|```$", "", text.strip()).strip()
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    piece = [part.strip() for part in parts if part.strip()]
    return all(part.strip() for part in parts[1:-1]) and len(piece) == 2 and piece[0] != piece[1]


def _found(pattern: Any, text: str, *, whole: bool = False) -> int:
    """How often a word occurs. IFEval reads it as a regular expression; here it is plain text."""
    word = re.escape(str(pattern).strip())
    return len(re.findall(rf"\b{word}\b" if whole else word, text, re.IGNORECASE))


CHECKS: Mapping[str, Callable[[str, Arguments], bool]] = {
    "keywords:existence": lambda text, of: all(_found(word, text) for word in of["keywords"]),
    "keywords:frequency": lambda text, of: _compares(_found(of["keyword"], text), of["relation"], of["frequency"]),
    "keywords:forbidden_words": lambda text, of: not any(
        _found(word, text, whole=True) for word in of["forbidden_words"]
    ),
    "keywords:letter_frequency": lambda text, of: _compares(
        text.lower().count(str(of["letter"]).lower()), of["let_relation"], of["let_frequency"]
    ),
    "language:response_language": lambda text, of: _is_language(text, of["language"]),
    "length_constraints:number_sentences": lambda text, of: _compares(
        _sentences(text), of["relation"], of["num_sentences"]
    ),
    "length_constraints:number_paragraphs": lambda text, of: _paragraphs(text, of["num_paragraphs"]),
    "length_constraints:number_words": lambda text, of: _compares(
        len(re.findall(r"\w+", text)), of["relation"], of["num_words"]
    ),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda text, of: (
        len(re.findall(r"\[.*?\]", text)) >= of["num_placeholders"]
    ),
    "detectable_content:postscript": lambda text, of: _postscript(text, of["postscript_marker"]),
    "detectable_format:number_bullet_lists": lambda text, of: (
        len(re.findall(r"^\s*\*[^*].*$|^\s*-.*$", text, re.MULTILINE)) == of["num_bullets"]
    ),
    "detectable_format:constrained_response": lambda text, of: any(each in text for each in _CONSTRAINED),
    "detectable_format:number_highlighted_sections": lambda text, of: _highlights(text) >= of["num_highlights"],
    "detectable_format:multiple_sections": lambda text, of: (
        len(re.findall(re.escape(str(of["section_spliter"]).strip()) + r"\s?\d+", text)) >= of["num_sections"]
    ),
    "detectable_format:json_format": lambda text, of: _is_json(text),
    "detectable_format:title": lambda text, of: any(
        each.strip("<>").strip() for each in re.findall(r"<<[^\n]+>>", text)
    ),
    "combination:two_responses": lambda text, of: _two_responses(text),
    "combination:repeat_prompt": lambda text, of: (
        text.strip().lower().startswith(of["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda text, of: text.strip().strip('"').lower().endswith(of["end_phrase"].strip().lower()),
    "startend:quotation": lambda text, of: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda text, of: _compares(
        sum(word.isupper() for word in re.findall(r"\w+(?:[-'’]\w+)*", text)),
        of["capital_relation"], of["capital_frequency"],
    ),
    "change_case:english_capital": lambda text, of: text.isupper() and _is_language(text, "en"),
    "change_case:english_lowercase": lambda text, of: text.islower() and _is_language(text, "en"),
    "punctuation:no_comma": lambda text, of: "," not in text,
}  # fmt: skip
_NEEDED = {
    "keywords:existence": ("keywords",), "keywords:frequency": ("keyword", "relation", "frequency"),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:letter_frequency": ("letter", "let_relation", "let_frequency"),
    "language:response_language": ("language",), "length_constraints:number_sentences": ("relation", "num_sentences"),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_words": ("relation", "num_words"),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs", "nth_paragraph", "first_word"),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "combination:repeat_prompt": ("prompt_to_repeat",), "startend:end_checker": ("end_phrase",),
    "change_case:capital_word_frequency": ("capital_relation", "capital_frequency"),
}  # fmt: skip


def follows(text: str, kind: str, arguments: Arguments) -> bool:
    """Whether a response follows one instruction; an empty one never does."""
    return bool(text.strip()) and bool(CHECKS[kind](text, arguments))


def follows_loosely(text: str, kind: str, arguments: Arguments) -> bool:
    """IFEval's loose check: also without the first line, the last line, both, or any `*`."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(follows(each, kind, arguments) for whole in cut for each in (whole, whole.replace("*", "")))


def grade(output: str, question: Posed) -> TaskGrade:
    """The share of the instructions followed, strictly; right if all are. Parts: loose share, all strictly, all
    loosely.
    """
    asked = json.loads(question.target)
    strict = [follows(output, kind, arguments) for kind, arguments in asked]
    loose = [follows_loosely(output, kind, arguments) for kind, arguments in asked]
    share = sum(strict) / len(strict)
    return TaskGrade(share, all(strict), (float(all(strict)), sum(loose) / len(loose), float(all(loose))))


TASK = Task(grade=grade, parts=("all followed", "followed, loosely", "all followed, loosely"))


def wrong_responses(question: Question) -> tuple[str, ...]:
    """Three responses like the right one that break an instruction."""
    if not question.gold:
        return ()
    return first_wrong(_broken(question), question, TASK)


def _broken(question: Question) -> Iterator[str]:
    draw = draw_for(question, "instructions")
    asked = json.loads(question.target)
    draw.shuffle(asked)
    gold = question.gold
    made = [list(_breaks(gold, kind, of)) for kind, of in asked]
    # One way to break each instruction before a second way to break the first.
    for turn in range(max(map(len, made), default=0)):
        for ways in made:
            if turn < len(ways):
                yield ways[turn]
    # Cuts come last: the score of an option is a sum over its tokens, which favours short ones.
    half = len(gold) // 2
    yield from (
        gold.upper(),
        gold.lower(),
        f"Sure, here it is:\n{gold}",
        gold[:half].rstrip(),
        gold[half:].lstrip(),
    )


def _breaks(text: str, kind: str, of: Arguments) -> Iterator[str]:
    """Edits of a text that may break an instruction; whether they do is checked."""
    name = kind.partition(":")[2]
    words = [str(word) for word in of.get("keywords", [of.get("keyword", of.get("first_word", ""))]) if word]
    if name in ("existence", "frequency", "nth_paragraph_first_word") and words:
        yield re.sub(re.escape(words[0]), "thing", text, flags=re.IGNORECASE)
        yield " ".join([text, *[words[0]] * 4])
    elif name == "forbidden_words":
        for word in of["forbidden_words"]:
            yield (
                re.sub(r"\bthe\b", str(word), text, count=1)
                if re.search(r"\bthe\b", text)
                else f"{text} {word}"
            )
    elif name == "letter_frequency":
        yield re.sub(re.escape(str(of["letter"])), "", text, flags=re.IGNORECASE)
        yield f"{text} {str(of['letter']) * 20}"
    elif name in ("number_sentences", "number_words"):
        yield re.split(r"(?<=[.!?]) ", text)[0]
        yield " ".join([text] * 3)
        yield " ".join(text.split()[: max(1, len(text.split()) // 2)])
    elif name == "number_paragraphs":
        yield text.replace("***", "", 1)
        yield f"{text}\n***\nOne more."
    elif name in ("number_placeholders", "title", "json_format"):
        yield re.sub(r"[\[\]<>{}]", "", text)
    elif name == "postscript":
        yield re.sub(r"(?i)p\.\s?(p\.\s?)?s\.?", "Note:", text)
    elif name == "number_bullet_lists":
        yield re.sub(r"(?m)^\s*[*-]\s*", "", text, count=1)
        yield f"{text}\n* And one more"
    elif name == "constrained_response":
        yield re.sub(r"My answer is (\w+)\.", r"I would say \1.", text)
        yield re.sub(r"My answer is (\w+)\.", r"\1", text)
    elif name == "number_highlighted_sections":
        yield text.replace("*", "")
    elif name == "multiple_sections":
        yield re.sub(rf"{re.escape(str(of['section_spliter']))}\s?\d+", "", text, count=1)
    elif name == "two_responses":
        yield text.replace("******", "\n")
        yield text.partition("******")[0].strip()
    elif name == "repeat_prompt":
        yield text.strip()[len(of["prompt_to_repeat"].strip()) :].strip()
    elif name == "end_checker":
        yield f"{text} I hope that helps!"
        yield text.strip()[: -len(of["end_phrase"].strip())].strip()
    elif name == "quotation":
        yield text.strip().strip('"')
        yield text.strip()[:-1]
    elif name == "capital_word_frequency":
        yield text.lower()
        yield text.upper()
    elif name == "english_capital":
        yield text.capitalize()
        yield text.lower()
    elif name == "english_lowercase":
        yield ". ".join(part.capitalize() for part in text.split(". "))
        yield text.upper()
    elif name == "no_comma":
        yield re.sub(r" (and|but|or|while|when|with) ", r", \1 ", text, count=1)
        yield re.sub(r"\. (\w)", lambda found: f", {found[1].lower()}", text, count=1)
        yield text.replace(" ", ", ", 1)
    elif name == "response_language":
        yield from _OTHER_LANGUAGES


def _read(row: TaskRow) -> Question | None:
    kinds = unpacked(row.fields.get("instruction_id_list"), f"{row.place}: 'instruction_id_list'")
    given = unpacked(row.fields.get("kwargs"), f"{row.place}: 'kwargs'")
    if not isinstance(kinds, list) or not kinds or not isinstance(given, list) or len(given) != len(kinds):
        raise DataError(f"data: {row.place}: 'instruction_id_list' and 'kwargs' are lists of the same length")
    asked = [_instruction(kind, of, row.place) for kind, of in zip(kinds, given, strict=True)]
    responses = row.texts("response", "responses", "answers")
    target = packed(asked)
    for text in responses:
        failed = [kind for kind, of in asked if not follows(text, kind, of)]
        if failed:
            raise DataError(f"data: {row.place}: its response does not follow {failed[0]}")
    composed = responses or _composed(row.text("prompt", "question"), asked)
    if not composed:
        return None
    return Question(
        id=row.id,
        language=row.own_language,
        context="",
        question=row.text("prompt", "question"),
        answers=tuple(composed),
        target=target,
    )


def _instruction(kind: Any, of: Any, place: str) -> tuple[str, dict[str, Any]]:
    if kind not in CHECKS:
        raise DataError(f"data: {place}: unknown instruction {kind!r}; {nearest(str(kind), CHECKS)}")
    arguments = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in (of or {}).items()
        if value is not None
    }
    for key in _NEEDED.get(kind, ()):
        value = arguments.get(key)
        texts = isinstance(value, list) and all(as_text(each) for each in value) and bool(value)
        number = key.startswith("num_") or key in (
            "frequency",
            "let_frequency",
            "capital_frequency",
            "nth_paragraph",
        )
        if not (
            isinstance(value, int)
            if number
            else texts
            if key in ("keywords", "forbidden_words")
            else as_text(value)
        ):
            raise DataError(f"data: {place}: {kind} needs {key!r} in 'kwargs'; got {value!r}")
    return kind, arguments


_OTHER_LANGUAGES = (
    "I am sorry, but I would like to answer this in the language that I know best, and that is not this one.",
    "Je suis désolé, mais je ne sais pas répondre dans cette langue, et je vous écris dans la langue que je connais.",
    "Lo siento, pero no puedo contestar en esta lengua, y por eso escribo en la que conozco mejor.",
    "Es tut mir leid, aber ich kann das nicht in der Sprache sagen, die Sie sich wünschen.",
)
_FILLER = (
    "This is a short reply to what you asked for.",
    "It keeps to the form that was requested and stays with the topic.",
    "Every part of it can be read on its own.",
    "Nothing else needs to be said about it here.",
)


def _composed(prompt: str, asked: Sequence[tuple[str, Arguments]]) -> tuple[str, ...]:
    """A plain response that follows all instructions; empty if none is found that does.

    It says little, so that a choice between it and a broken one is about the instructions alone.
    """
    kinds = dict(asked)
    for length in (4, 2, 1, 8, 16, 32, 64):
        text = _decorated(kinds, [_FILLER[n % len(_FILLER)] for n in range(length)])
        if all(follows(text, kind, of) for kind, of in asked):
            return (text,)
    return ()


def _decorated(kinds: Mapping[str, Arguments], sentences: list[str]) -> str:
    get = {kind.partition(":")[2]: of for kind, of in kinds.items()}
    if "json_format" in get:
        return json.dumps({"reply": " ".join([*sentences, *_keywords(get)])})
    lines = [" ".join([*sentences, *_keywords(get)])]
    if "number_bullet_lists" in get:
        lines += [f"* Point {n + 1}" for n in range(get["number_bullet_lists"]["num_bullets"])]
    if "number_placeholders" in get:
        lines.append(
            " ".join(f"[name {n + 1}]" for n in range(get["number_placeholders"]["num_placeholders"]))
        )
    if "number_highlighted_sections" in get:
        lines.append(
            " ".join(f"*part {n + 1}*" for n in range(get["number_highlighted_sections"]["num_highlights"]))
        )
    if "multiple_sections" in get:
        of = get["multiple_sections"]
        lines = [
            f"{of['section_spliter']} {n + 1}\n{' '.join(lines) if n == 0 else sentences[0]}"
            for n in range(of["num_sections"])
        ]
    if "constrained_response" in get:
        lines = [_CONSTRAINED[0]]
    if "title" in get:
        lines.insert(0, "<<a reply>>")
    text = "\n".join(lines)
    if "number_paragraphs" in get:
        text = "\n***\n".join([text, *[sentences[0]] * (get["number_paragraphs"]["num_paragraphs"] - 1)])
    if "nth_paragraph_first_word" in get:
        of = get["nth_paragraph_first_word"]
        parts = [text.replace("\n\n", "\n"), *[sentences[0]] * (of["num_paragraphs"] - 1)]
        nth = of["nth_paragraph"] - 1
        if 0 <= nth < len(parts):
            parts[nth] = f"{of['first_word']} {parts[nth]}"
        text = "\n\n".join(parts)
    if "two_responses" in get:
        text = f"{text}\n******\n{text} Or so."
    if "capital_word_frequency" in get and get["capital_word_frequency"]["capital_relation"] == "at least":
        text += " " + " ".join(["YES"] * get["capital_word_frequency"]["capital_frequency"])
    if "postscript" in get:
        text += f"\n{get['postscript']['postscript_marker']} That is all."
    if "repeat_prompt" in get:
        text = f"{get['repeat_prompt']['prompt_to_repeat']}\n{text}"
    if "english_capital" in get:
        text = text.upper()
    if "english_lowercase" in get:
        text = text.lower()
    if "end_checker" in get:
        text += f"\n{get['end_checker']['end_phrase']}"
    return f'"{text}"' if "quotation" in get else text


def _keywords(get: Mapping[str, Arguments]) -> list[str]:
    words = [str(word) for word in get.get("existence", {}).get("keywords", [])]
    if (of := get.get("frequency")) and of["relation"] == "at least":
        words += [str(of["keyword"])] * of["frequency"]
    if (of := get.get("letter_frequency")) and of["let_relation"] == "at least":
        words += [str(of["letter"])] * of["let_frequency"]
    return words


SET = DataSet(
    name="instructions",
    title="verifiable instructions (IFEval)",
    read=task_reader("instructions", _read, HubPlace("google/IFEval", None, "train")),
    hub_rows=541,
    path="optional",
    endings=SUFFIXES,
    holds="instructions that a program can check",
    task=TASK,
    wrong=wrong_responses,
    settings={
        "prompts": {
            "open": "{question}\n\nResponse:",
            "cued": "{question}\n\nCandidates:\n{options}\n\nResponse:",
            "no_question": "{context}Response:",
            "zero_shot": "{question}\nResponse:",
        },
        "probes": ["open", "choice", "choice_no_question"],
        "max_new_tokens": 256,
    },
    options="brought",
    licence="CC0 1.0",
)
