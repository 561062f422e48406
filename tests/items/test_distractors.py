"""Distractors: never a gold answer, functions of the seed and the item alone, of gold's kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anomia.grade import normalize
from anomia.items.distractors import (
    answer_shape,
    hard_distractors,
    passage_distractors,
    standard_distractors,
    unrelated_candidates,
)
from anomia.items.item import Question

ANSWERS = st.text(alphabet="abcdeé 12.", min_size=1, max_size=6).filter(lambda text: normalize(text) != "")


def question(gold: str = "1902", context: str = "", **changes: tuple[str, ...]) -> Question:
    return Question("q", "english", context, "When?", changes.pop("answers", (gold,)), **changes)


def distinct(texts: list[str]) -> list[str]:
    return list({normalize(text): text for text in texts}.values())


@given(
    st.lists(ANSWERS, min_size=1, max_size=30), st.lists(ANSWERS, min_size=1, max_size=3), st.integers(0, 99)
)
def test_standard_ones_are_distinct_never_gold_and_repeatable(
    pool: list[str], own: list[str], seed: int
) -> None:
    asked = question(answers=tuple(own))
    found = standard_distractors(asked, distinct(pool), seed=seed)
    assert found == standard_distractors(asked, distinct(pool), seed=seed)
    assert len({normalize(text) for text in found}) == len(found)
    assert not {normalize(text) for text in found} & {normalize(text) for text in own}
    assert len(found) == min(3, len({normalize(t) for t in pool} - {normalize(t) for t in own}))


def test_standard_ones_depend_on_the_seed_and_the_item() -> None:
    pool = [str(year) for year in range(1800, 1900)]
    drawn = {standard_distractors(question(), pool, seed=seed) for seed in range(10)}
    assert len(drawn) > 5


def test_hard_ones_are_the_most_similar_and_none_overlaps_gold() -> None:
    pool = [
        "30 July 1858",
        "31 July 1858",
        "30 June 1858",
        "30 July 1859",
        "July",
        "Paris",
        "on 30 July 1858",
    ]
    found = hard_distractors(question("30 July 1858"), pool)
    # 30 July 1859 shares all but its last trigram; the two that contain gold or stand in it are out.
    assert found[0] == "30 July 1859"
    assert set(found) == {"30 July 1859", "31 July 1858", "30 June 1858"}


def test_hard_ones_break_ties_by_text() -> None:
    assert hard_distractors(question("aaaa"), ["zz", "yy", "xx", "ww"]) == ("ww", "xx", "yy")


@given(st.lists(ANSWERS, min_size=1, max_size=20), ANSWERS)
def test_hard_ones_neither_contain_gold_nor_stand_in_it(pool: list[str], gold: str) -> None:
    for text in hard_distractors(question(gold), distinct(pool)):
        assert normalize(gold) not in normalize(text)
        assert normalize(text) not in normalize(gold)


def test_same_passage_ones_are_of_golds_kind() -> None:
    passage = "Built in 1902 by Ann Lee, it burned in 1910, was rebuilt in 1911 and sold in 1954 to Bo Ek."
    assert set(passage_distractors(question("1902", passage), [], seed=1)) == {"1910", "1911", "1954"}
    assert "Bo Ek" in passage_distractors(question("Ann Lee", passage), [], seed=1)


def test_same_passage_ones_prefer_what_the_data_set_brings_then_other_answers_of_the_kind() -> None:
    passage = "Ann Lee met Bo Ek and Cy Dow and Di Fox in 1902 in Rome."
    asked = question("Ann Lee", passage, passage_distractors=("Di Fox",))
    found = passage_distractors(asked, ["1902", "Cy Dow", "Ann Lee"], seed=1)
    assert found[:2] == ("Di Fox", "Cy Dow")
    assert "1902" not in found


@given(st.text(alphabet="ab cd12.,", max_size=80), st.integers(0, 9))
def test_same_passage_ones_stand_in_the_passage_and_never_overlap_gold(passage: str, seed: int) -> None:
    asked = question("ab 12", passage + " ab 12")
    found = passage_distractors(asked, [], seed=seed)
    for text in found:
        assert normalize(text) in normalize(asked.context)
        assert normalize(text) not in normalize(asked.gold)
        assert normalize(asked.gold) not in normalize(text)
    assert len({normalize(text) for text in found}) == len(found)


def test_spans_of_scripts_without_spaces_start_and_end_at_characters() -> None:
    passage = "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยและมีประชากรมากที่สุด"
    for text in passage_distractors(question("ประเทศไทย", passage), [], seed=3):
        assert text in passage
        assert text[0] not in "ะัาิีึืุูเแโใไ็่้๊๋์ำ"[:9] + "็่้๊๋์"


def test_unrelated_ones_come_from_other_languages_else_from_other_kinds_else_from_the_list() -> None:
    foreign = ["Каспий", "서울", "Nairobi", "1999", "Helsinki"]
    assert set(unrelated_candidates(question(), foreign, [], seed=1)) <= set(foreign)
    same = ["1910", "1911", "Rome", "Oslo", "Bonn", "Bern"]
    assert set(unrelated_candidates(question(), [], same, seed=1)) == {"Rome", "Oslo", "Bonn", "Bern"}
    assert len(set(unrelated_candidates(question(), [], ["1910"], seed=1))) == 4


def test_shapes() -> None:
    shapes = {"30 July 1858": "date", "1902": "date", "22": "number", "5 km": "number", "Ann Lee": "name",
              "a horse": "words", "১৯৭৫ সালে": "date", "서울": "words"}  # fmt: skip
    assert {text: answer_shape(text) for text in shapes} == shapes
