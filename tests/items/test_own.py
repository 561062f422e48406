"""Options made from base's own output: what they are, and what they depend on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.items.item import Question
from anomia.items.own import own_item, own_options
from anomia.items.sets import SETS
from anomia.probes import CHOICE_OWN, DEFAULT_PROBES, STANDARD
from anomia.text import normalize

WITH_OWN = [name for name, each in SETS.items() if each.own is not None]
REFERENCE = (
    "In 1889 the tower was built by Gustave Eiffel, and it is still the tallest building in Paris today."
)
OUTPUT = "In 1889 the tower was built by Gustave Eiffel and it is the tallest building in Paris."
QUESTION = Question(
    id="q1",
    language="english",
    context="La tour a été construite en 1889 par Gustave Eiffel à Paris.",
    question="Translation into English",
    answers=(REFERENCE,),
)
WORDS = st.sampled_from(
    [*f"{REFERENCE} {OUTPUT} 12 Lyon was not a ".split(), "été", "\n", "«", "½", "İ", "ﬁn"]
)


def test_the_tasks_whose_answers_are_texts_have_them_and_ask_them() -> None:
    assert WITH_OWN == ["summaries", "translation"]
    assert all(CHOICE_OWN in SETS[name].settings["probes"] for name in WITH_OWN)
    assert CHOICE_OWN not in DEFAULT_PROBES


@pytest.mark.parametrize("name", WITH_OWN)
@given(words=st.lists(WORDS, max_size=40), seed=st.integers(0, 2**31), item=st.text(max_size=5))
def test_they_follow_from_seed_item_and_base_s_text(
    name: str, words: list[str], seed: int, item: str
) -> None:
    source = SETS[name]
    assert source.task is not None
    question, output = replace(QUESTION, id=item), " ".join(words)
    found = own_options(question, output, source, seed=seed)
    assert found == own_options(question, output, source, seed=seed)
    if not found.texts:
        return
    assert 3 <= len(found.texts) <= 4
    assert found.texts.count(found.gold) == 1
    # As the grader reads base's answer, nothing of it is lost.
    assert source.task.grade(found.gold, question) == source.task.grade(output, question)
    assert len({normalize(text) for text in found.texts}) == len(found.texts)
    score = source.task.grade(found.gold, question).score
    wrong = [text for text in found.texts if text != found.gold]
    assert all(source.task.grade(text, question).score < score for text in wrong)
    # Text beyond the graded part changes nothing.
    assert own_options(question, f"{found.gold}\n\nAnd so on.", source, seed=seed) == found


def test_edits_and_gold_s_place_vary_with_seed_and_item() -> None:
    made = [own_options(QUESTION, OUTPUT, SETS["translation"], seed=seed) for seed in range(40)]
    assert {each.texts.index(OUTPUT) for each in made} == {0, 1, 2, 3}
    assert len({frozenset(each.texts) for each in made}) > 5
    of_items = [
        own_options(replace(QUESTION, id=str(n)), OUTPUT, SETS["translation"], seed=1) for n in range(40)
    ]
    assert len({each.texts for each in of_items}) > 10


@pytest.mark.parametrize(
    "output",
    ["", " \n", "Yes.", "so it is so it is " * 30, "la tour " * 40],
    ids=["empty", "blank", "short", "loop", "another loop"],
)
@pytest.mark.parametrize("name", WITH_OWN)
def test_there_are_none_where_no_edit_is_possible(name: str, output: str) -> None:
    assert own_options(QUESTION, output, SETS[name], seed=1).texts == ()


def test_other_data_sets_have_none() -> None:
    assert own_options(QUESTION, OUTPUT, SETS["math"], seed=1).texts == ()
    assert own_options(QUESTION, OUTPUT, None, seed=1).texts == ()


def test_an_item_is_asked_them_as_its_standard_options() -> None:
    from anomia.items.item import Item

    options = own_options(QUESTION, OUTPUT, SETS["translation"], seed=1)
    item = own_item(Item(QUESTION, {STANDARD: ("a", "b")}), options)
    assert item.question.gold == OUTPUT
    assert item.options == {STANDARD: options.texts}
    assert (item.question.id, item.question.context) == (QUESTION.id, QUESTION.context)


def test_they_are_the_same_in_another_process() -> None:
    program = (
        "import json\n"
        "from tests.items.test_own import OUTPUT, QUESTION, SETS, WITH_OWN, own_options\n"
        "print(json.dumps([own_options(QUESTION, OUTPUT, SETS[name], seed=5).texts for name in WITH_OWN]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [list(own_options(QUESTION, OUTPUT, SETS[name], seed=5).texts) for name in WITH_OWN]
    assert json.loads(done.stdout) == here
    assert all(here)
