"""Texts with one error: what is exchanged and left out."""

from __future__ import annotations

import random

import pytest

from anomia.items.edits import edited


def versions(text: str, language: str = "english", source: str = "") -> set[str]:
    """All versions that some draw gives."""
    return {each for seed in range(60) for each in edited(text, language, random.Random(seed), source=source)}


def test_phrases_are_left_out_whole() -> None:
    found = versions("The ferry to Helsinki leaves at 18:45 and can carry 900 passengers.")
    assert "The ferry leaves at 18:45 and can carry 900 passengers." in found
    assert "The ferry to Helsinki leaves and can carry 900 passengers." not in found  # a phrase before `and`
    assert "The ferry at 18:45 and can carry 900 passengers." not in found
    found = versions("It was used in the hospital of Kisumu, by doctors.")
    assert not any(text.startswith("It was used of") for text in found)
    found = versions("Clara ist krank, deshalb wird das Konzert am Freitag ohne sie stattfinden.", "german")
    assert "Clara ist krank, deshalb wird das Konzert ohne sie stattfinden." in found
    assert "Clara ist krank, deshalb wird das Konzert am Freitag." not in found


def test_places_are_exchanged_for_places_and_people_for_people() -> None:
    text = "He left on Friday for the town of Montreval, said Anna Keller."
    named = {each for each in versions(text) if "Anna Keller" not in each}
    assert named == {
        text.replace("Anna Keller", name) for name in ("Marta Silva", "Ivan Petrov", "David Moss")
    }
    placed = {each for each in versions(text) if "Montreval" not in each and "of" in each.split()}
    assert placed == {text.replace("Montreval", name) for name in ("Lisbon", "Toronto", "Kenya", "Osaka")}
    assert not any(
        "on Friday" not in each and "Friday" not in each and " on " in each for each in versions(text)
    )


@pytest.mark.parametrize(
    ("name", "others"),
    [
        (
            "Ana Lopez",
            ["Ana Rosa Lopez", "Rosa Lopez", "Ana", "Lopez", "Ana Perez", "Lopez-Garcia", "Lopez’s"],
        ),
        ("Berlin", ["Berlin Wall", "West Berlin", "Berliner"]),
        ("Van Dyke", ["Anthony Van Dyke", "Van Gogh"]),
        ("Марта Силва", ["Марты Силвы", "Силву"]),
    ],
)
def test_a_name_is_never_exchanged_for_one_that_may_be_the_same(name: str, others: list[str]) -> None:
    text = f"The prize of the year was won by {name} after a long race."
    every = [
        set(edited(text, "english", random.Random(seed), names=names))
        for seed in range(60)
        for names in (others, [*others, "Peter Ilves"])
    ]
    exchanged = {
        each for found in every for each in found if f"by {name}" not in each and "by" in each.split()
    }
    assert {each.split("won by ")[-1].split(" after")[0] for each in exchanged} & set(others) == set()
    assert any("Peter Ilves" in each for found in every for each in found)


def test_people_share_no_part_with_those_that_usually_replace_them() -> None:
    for name in ("Marta", "Anna Berg", "David", "Ivan Petrov"):
        for each in versions(f"The race was won by {name} in a new time."):
            if f"by {name}" not in each and "won by" in each:
                told = each.split("won by ")[1].split(" in a")[0]
                assert not set(told.split()) & set(name.split()), each


@pytest.mark.parametrize(
    ("source", "taken"), [("Keller has mended the roof.", {"Keller"}), ("It is wet.", set())]
)
def test_nouns_of_a_german_translation_are_not_taken_for_names(source: str, taken: set[str]) -> None:
    text = "Herr Keller hat das Dach repariert."
    gone = {
        name for name in ("Keller", "Dach") for each in versions(text, "german", source) if name not in each
    }
    assert gone == taken


def test_a_time_stays_a_time() -> None:
    minutes = {each.split("at ")[1] for each in versions("We left at 18:45.") if "18:" in each} - {"18:45."}
    assert minutes == {"18:46.", "18:47.", "18:48."}
