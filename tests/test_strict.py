"""The strict grader: what it folds, where an answer may begin and end, and what a list says first."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from anomia.grade import Grading, containment
from anomia.strict import first_entry, fold, strict

LETTERS = {
    "latin": "abcdeghilmnoprstuäöé",
    "cyrillic": "абвгдежзийклмнопрстуыэюяё",
    "arabic": "ابتجدرسشعفقكلمنهويأإآؤئة",
    "hebrew": "אבגדהוחילמנרשת",
    "bengali": "কখগরলসানিুেো",
    "telugu": "కగచటనరలసాిుెో్",
    "thai": "กขคงนมรลาิีุเแโ่้",
    "hangul": "가나다라한국서울",
}
DIGITS = [
    "٠١٢٣٤٥٦٧٨٩",
    "۰۱۲۳۴۵۶۷۸۹",
    "०१२३४५६७८९",
    "০১২৩৪৫৬৭৮৯",
    "౦౧౨౩౪౫౬౭౮౯",
    "๐๑๒๓๔๕๖๗๘๙",
    "０１２３４５６７８９",
]
INVISIBLE = "\u200b\u200c\u200d\u2060\u00ad\ufeff\u200e\u202c"
# What may follow a letter of a script without making it another.
OPTIONAL = {
    "cyrillic": "\u0301\u0300",
    "arabic": "\u064b\u064e\u064f\u0650\u0651\u0652\u0670\u0640",
    "hebrew": "\u05b8\u05bc\u05b7",
}


def sentences(script: str, *, digits: bool = True) -> st.SearchStrategy[str]:
    word = st.text(LETTERS[script], min_size=1, max_size=7)
    number = st.integers(0, 3000).map(str)
    return st.lists(st.one_of(word, number) if digits else word, min_size=1, max_size=6).map(" ".join)


pairs = st.sampled_from(sorted(LETTERS)).flatmap(
    lambda script: st.tuples(sentences(script), sentences(script))
)


@given(st.text(max_size=60), st.sampled_from(["", " "]))
def test_fold_is_idempotent(text: str, between: str) -> None:
    once = fold(text, between)
    assert fold(once, between) == once
    assert once == " ".join(once.split())


@given(st.text(max_size=40))
def test_an_answer_alone_is_right(answer: str) -> None:
    assume(fold(answer) and "\n" not in answer)
    assert strict(answer, [answer])
    assert strict(answer, ["Quito", answer])


@given(pairs)
def test_a_word_after_an_answer_changes_nothing(pair: tuple[str, str]) -> None:
    answer, more = pair
    assume(not more[0].isdecimal())
    assert strict(f"{answer}. {more}", [answer])


def _sprinkled(text: str, what: str, after: str, seed: int) -> str:
    return "".join(
        char + (what[(seed + n) % len(what)] if char in after and (seed >> n % 13) & 1 else "")
        for n, char in enumerate(text)
    )


@given(pairs, st.integers(0, 1 << 13), st.integers(0, 1 << 13))
def test_invisible_characters_change_no_verdict(pair: tuple[str, str], one: int, other: int) -> None:
    output, answer = pair
    hidden = _sprinkled(output, INVISIBLE, output, one), _sprinkled(answer, INVISIBLE, answer, other)
    assert strict(hidden[0], [hidden[1]]) == strict(output, [answer])


@pytest.mark.parametrize("script", OPTIONAL)
@given(st.data(), st.integers(0, 1 << 13))
def test_points_and_stress_marks_change_no_verdict(script: str, data: st.DataObject, seed: int) -> None:
    answer = data.draw(sentences(script))
    output = data.draw(st.one_of(sentences(script), st.just(f"{answer}, {data.draw(sentences(script))}")))
    vowels = "аеиоуыэюяё" if script == "cyrillic" else LETTERS[script]
    assert strict(_sprinkled(output, OPTIONAL[script], vowels, seed), [answer]) == strict(output, [answer])
    assert strict(output, [_sprinkled(answer, OPTIONAL[script], vowels, seed)]) == strict(output, [answer])


@given(pairs, st.sampled_from(DIGITS))
def test_the_script_of_digits_changes_no_verdict(pair: tuple[str, str], digits: str) -> None:
    output, answer = pair
    other = str.maketrans("0123456789", digits)
    wanted = strict(output, [answer])
    assert strict(output.translate(other), [answer]) == wanted
    assert strict(output, [answer.translate(other)]) == wanted


@pytest.mark.parametrize("script", ["bengali", "telugu", "thai"])
@given(st.data())
def test_vowel_signs_survive(script: str, data: st.DataObject) -> None:
    text = unicodedata.normalize("NFKC", data.draw(sentences(script, digits=False)))
    assert fold(text) == text


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_number_is_only_itself(one: int, other: int) -> None:
    assert strict(f"It was {one}.", [str(other)]) == (one == other)


@given(st.integers(0, 999), st.integers(0, 99), st.integers(0, 99999))
def test_a_decimal_is_only_itself(whole: int, part: int, other: int) -> None:
    for point in ".,":
        assert not strict(f"{whole}{point}{part}", [str(other)])
        assert strict(f"about {whole}{point}{part} km", [f"{whole}.{part}"])


@given(st.integers(1000, 10**9), st.sampled_from([",", " ", "\u00a0", "\u202f", "'", "’", "٬"]))
def test_thousands_may_be_set_apart(number: int, mark: str) -> None:
    grouped = f"{number:,}".replace(",", mark)
    assert strict(f"some {grouped} people", [str(number)])
    assert strict(f"some {number} people", [grouped])
    assert not strict(f"some {grouped} people", [str(number % 1000)])


@pytest.mark.parametrize(
    ("output", "answer", "wanted"),
    [
        ("1.5", "15", False),
        ("in 1955", "195", False),
        ("1.500.000,25", "1500000.25", True),
        ("15,00,000", "1500000", True),
        ("12.05.1945", "1945", True),
        ("1939–1945", "1945", True),
        ("the 1990s", "1990", False),
        ("it was −40", "-40", True),
        ("it was -40", "40", False),
        ("5 °C", "5°C", True),
        ("$5 million", "5 million", True),
        ("25 %", "25", True),
        ("C", "C++", False),
        ("C++", "C", False),
        ("focus", "US", False),
        ("in the U.S.", "US", True),
        ("Czechoslovakia", "Oslo", False),
        ("Oslossa", "Oslo", True),
        ("Jean Paul", "Jean-Paul", True),
        ("JeanPaul", "Jean-Paul", True),
        ("<strong>K</strong>iev", "Kiev", True),
        ("안견은 화가", "안견", True),
        ("황금", "금", False),
        ("금이다", "금", True),
        ("وفاس مدينة", "فاس", True),
        ("نفاس", "فاس", False),
        ("الإمارات السبع", "سبع", True),
        ("将SI单位", "SI", True),
        ("in 533–534", "533", True),
        ("687\n\n365", "365", True),
        ("12/05/1945", "12.05.1945", True),
        ("Толсто́й", "Толстой", True),
        ("Толстои", "Толстой", False),
        ("шелк", "шёлк", True),
        ("الخَرْطُوم", "الخرطوم", True),
        ("القـاهـرة", "القاهرة", True),
        ("שָׁלוֹם", "שלום", True),
        ("টাইটন", "টাইটান", False),
        ("タイ", "タイタン", False),
        ("１９１３年です", "1913年", True),
        ("", "Rome", False),
        ("anything", "?", False),
    ],
)
def test_verdicts(output: str, answer: str, wanted: bool) -> None:
    assert strict(output, [answer]) is wanted


@pytest.mark.parametrize(
    ("output", "entry"),
    [
        ("\n\n1. Rome\n2. Paris", "Rome"),
        ("* Rome\n* Paris", "Rome"),
        ("১. রোম\n২. প্যারিস", "রোম"),
        ("The largest are:\n- Rome\n- Paris", "The largest are:\nRome"),
        ("Rome\n\nParis\n\nOslo", "Rome"),
        ("Answer:\nRome\nParis\nOslo", "Answer:\nRome"),
        ("Rome, Paris, Oslo", "Rome"),
        ("روما، باريس، لندن", "روما"),
        ("東京、大阪、京都", "東京"),
        ("1893, 1913, 1915", "1893"),
        ("1. In the year:\n  * 1920\n2. Later", "In the year:\n1920"),
    ],
)
def test_a_list_counts_by_its_first_entry(output: str, entry: str) -> None:
    assert first_entry(output) == entry


@pytest.mark.parametrize(
    "text",
    [
        "Rome",
        "1. Rome",
        "15. huhtikuuta 1912",
        "J. K. Rowling wrote it.",
        "Monday, July 20, 1969.",
        "The city of Rome, Italy.",
        "It was Rome, which is in Italy, as everybody who has been there knows.",
    ],
)
def test_what_is_no_list(text: str) -> None:
    assert first_entry(text) == text


def test_an_answer_that_is_a_list_may_stand_anywhere() -> None:
    assert strict("red, white, blue", ["red, white, blue"])
    assert strict("They are red, white, blue", ["white, blue"])
    assert not strict("red, white, blue", ["blue"])


def test_the_next_prompt_is_no_answer() -> None:
    assert not strict(" 1764\n\nQuestion: What opened in 1852?", ["1852"])
    assert strict("\n\nQuestion: When?\nAnswer: 1852", ["1852"])


def test_long_answers_may_be_worded_otherwise() -> None:
    answer = "the first man who walked on the Moon"
    assert strict("The man who first walked on the Moon", [answer])
    assert not strict("A dog on the Moon", [answer])
    assert not strict("on 18 August 1945 at nine sharp", ["on 17 August 1945 at nine sharp"])
    assert not strict("walked on the", ["on the Moon"])


def test_an_echo_of_candidates_names_them_all() -> None:
    assert Grading("strict").named("Rome, Paris, Oslo", ["Rome", "Paris", "Bern"]) == (0, 1)
    assert Grading("strict").is_right("Rome, Paris, Oslo", ["Rome"])
    assert not Grading("strict").is_right("Rome, Paris, Oslo", ["Paris"])
    assert containment("Rome, Paris, Oslo", ["Paris"])
