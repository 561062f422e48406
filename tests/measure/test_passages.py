"""Translations of a passage are one unit; unrelated passages whose questions happen to share ids are not."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anomia.items import build_items, read_questions
from anomia.measure.passages import passage_numbers
from anomia.records import item_rows

XQUAD = Path(__file__).resolve().parents[3] / "shared" / "data" / "xquad"


def questions(
    language: str, ids: list[str], passages: list[str], *, texts: list[str] | None = None
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "language": [language] * len(ids),
            "item_id": ids,
            "passage_id": passages,
            "question": texts or [None] * len(ids),
        },
        schema_overrides={"question": pl.String},
    )


def count(*parts: pl.DataFrame) -> int:
    return len(np.unique(passage_numbers(pl.concat(parts))))


def texts(seed: int, number: int = 40) -> list[str]:
    draw = random.Random(seed)
    return ["word " * draw.randint(3, 20) for _ in range(number)]


HASHES = [hashlib.md5(str(n).encode()).hexdigest() for n in range(40)]
COUNTED = [str(n) for n in range(40)]


def grouped(language: str, size: int, *, last: int = 40) -> list[str]:
    return [f"{language} {n // size}" for n in range(last)]


def test_translations_share_ids_and_groups() -> None:
    one = questions("english", HASHES, grouped("english", 4))
    two = questions("thai", HASHES[::-1], grouped("thai", 4)[::-1])
    assert count(one, two) == 10
    alone = questions("german", HASHES, grouped("german", 1))
    assert count(questions("english", HASHES, grouped("english", 1)), alone) == 40
    # The same rows again, as another arm has them, change nothing.
    assert count(one, two, one) == 10


def test_languages_that_share_no_ids_stay_apart() -> None:
    other = questions("thai", [f"thai-{name}" for name in HASHES], grouped("thai", 4))
    assert count(questions("english", HASHES, grouped("english", 4)), other) == 20


def test_counters_of_unrelated_passages_are_no_translations() -> None:
    one = questions("english", COUNTED, grouped("english", 4))
    assert count(one, questions("thai", COUNTED, grouped("thai", 5))) == 18
    alone = questions("english", COUNTED, grouped("english", 1), texts=texts(1))
    unrelated = questions("thai", COUNTED, grouped("thai", 1), texts=texts(2))
    assert count(alone, unrelated) == 80


def test_counters_of_translations_are_told_by_the_lengths_of_the_questions() -> None:
    english = texts(1)
    thai = [text * 2 + "x" * (n % 3) for n, text in enumerate(english)]
    one = questions("english", COUNTED, grouped("english", 1), texts=english)
    assert count(one, questions("thai", COUNTED, grouped("thai", 1), texts=thai)) == 40


def test_few_shared_ids_prove_nothing() -> None:
    few = HASHES[:10] + [f"other-{n}" for n in range(30)]
    assert count(
        questions("english", HASHES, grouped("english", 1)), questions("thai", few, grouped("thai", 1))
    ) == (80)


def test_questions_without_a_passage_stand_alone_unless_they_are_translations() -> None:
    passages = [hashlib.sha256(name.encode()).hexdigest()[:16] for name in COUNTED]
    english = questions("english", COUNTED, passages, texts=texts(1))
    assert count(english, questions("thai", COUNTED, passages, texts=texts(2))) == 80
    assert count(english, questions("thai", COUNTED, passages, texts=texts(1))) == 40


def test_one_text_in_two_languages_is_one_passage() -> None:
    english = questions("english", HASHES, grouped("shared", 4))
    assert count(english, questions("thai", [f"thai-{name}" for name in HASHES], grouped("shared", 4))) == 10


@pytest.mark.skipif(not XQUAD.is_dir(), reason="needs XQuAD in ../shared/data/xquad")
def test_xquad_is_parallel() -> None:
    asked = read_questions(f"squad:{XQUAD}", ("english", "thai", "greek"))
    sets = build_items(asked, dataset="xquad", limit=60, seed=42)
    rows = pl.DataFrame([row for each in sets.values() for row in item_rows(each)])
    numbers = passage_numbers(rows)
    english = len(np.unique(numbers[(rows["language"] == "english").to_numpy()]))
    assert len(np.unique(numbers)) == english < 60
