"""Rows of records: what a reply becomes, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from anomia.errors import RunError
from anomia.items import Item, Question
from anomia.probe.ask import Distribution, Placement, Reply
from anomia.probe.encode import PROBES, EncodedItem, Form, encode_item
from anomia.records import SCHEMA, is_sound, kl_divergence, read_records, record, string_presence, write_rows

OPTIONS = ("Oslo", "Rome", "Bern", "Bonn")
QUESTION = Question(
    "q1", "english", "Ann lives in Rome, not in Oslo.", "Where does Ann live?", ("Rome", "Roma")
)
ITEM = Item(
    QUESTION, {"standard": OPTIONS, "hard": OPTIONS, "passage": OPTIONS}, ("a", "b", "c", "d"), "Oslo"
)


@pytest.fixture
def encoded(tokenizer: Any) -> EncodedItem:
    return encode_item(ITEM, tokenizer, Form(), PROBES, exemplar=QUESTION, reach=True)


def row(encoded: EncodedItem, tokenizer: Any, **reply: Any) -> Mapping[str, Any]:
    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    if "greedy" in reply:
        reply["greedy"] = {name: tokens(text) for name, text in reply["greedy"].items()}
    if "samples" in reply:
        reply["samples"] = {seed: tuple(map(tokens, texts)) for seed, texts in reply["samples"].items()}
    return record(encoded, Reply("q1", **reply), tokenizer, arm="a", dataset="d", index=3)


def test_open_is_right_with_any_answer(encoded: EncodedItem, tokenizer: Any) -> None:
    found = row(encoded, tokenizer, greedy={"open": " In Roma."})
    assert (found["open_text"], found["open_correct"], found["open_em"]) == (" In Roma.", True, False)
    assert found["arm"] == "a"
    assert found["index"] == 3


@pytest.mark.parametrize(
    ("text", "correct", "contains"),
    [
        (" Rome", True, True),
        (" - Oslo\n- Rome\n- Bern\n- Bonn", False, True),
        (" Roma", True, True),
        (" Roma or Oslo", False, True),
        (" Oslo", False, False),
        (" nowhere", False, False),
    ],
)
def test_cued_counts_only_if_gold_is_the_one_candidate(
    encoded: EncodedItem, tokenizer: Any, text: str, correct: bool, contains: bool
) -> None:
    found = row(encoded, tokenizer, greedy={"cued": text})
    assert (found["cued_correct"], found["cued_contains"]) == (correct, contains)


def test_choice_by_sum_by_token_and_by_byte(encoded: EncodedItem, tokenizer: Any) -> None:
    scores = ((-1.0, -1.5), (-3.0,), (-2.0, -0.1, -0.5), (-9.0,))
    found = row(encoded, tokenizer, option_log_probs={"choice": scores, "answers": ((-3.0,), (-0.5,))})
    assert found["choice_scores"] == pytest.approx([-2.5, -3.0, -2.6, -9.0])
    assert found["choice_pick"] == "Oslo"
    assert not found["choice_correct"]
    assert found["choice_scores_per_token"] == pytest.approx([-1.25, -3.0, -2.6 / 3, -9.0])
    assert not found["choice_correct_per_token"]
    assert found["choice_correct_any"]
    assert found["gold_log_prob"] == -3.0
    assert found["gold_log_prob_best"] == -0.5


def test_ranks_and_distribution(encoded: EncodedItem, tokenizer: Any) -> None:
    top = Distribution((5, 6, 7), (math.log(0.5), math.log(0.3), math.log(0.1)), 0.1)
    found = row(
        encoded,
        tokenizer,
        placements={"gold": Placement(4, 1, -2.0, 1.5), "answer_1": Placement(2, 0, -1.0, 0.5)},
        distribution=top,
    )
    assert (found["gold_rank"], found["gold_rank_ties"], found["gold_rank_best"]) == (4, 1, 2)
    assert found["top_tokens"] == [tokenizer.decode([t]) for t in (5, 6, 7)]
    assert found["distribution_tokens"] == [5, 6, 7]


def test_reach_counts_gold_and_the_foil(encoded: EncodedItem, tokenizer: Any) -> None:
    found = row(encoded, tokenizer, samples={42: (" Rome", " Oslo", " Bern"), 43: (" x", " Roma", " y")})
    assert found["samples_correct"] == [True, False, False, False, True, False]
    assert found["samples_foil"] == [False, True, False, False, False, False]
    assert found["sample_seeds"] == [42, 42, 42, 43, 43, 43]


def test_a_reply_that_is_not_finite_has_no_verdicts(encoded: EncodedItem, tokenizer: Any) -> None:
    found = row(encoded, tokenizer, greedy={"open": " Rome"}, finite=False)
    assert found["finite"] is False
    assert found["open_correct"] is None


def test_string_presence_is_the_chance_of_a_reader_who_only_searches() -> None:
    assert string_presence(OPTIONS, "Rome", "Ann lives in Rome.") == 1
    assert string_presence(OPTIONS, "Rome", "Ann lives in Rome, not in Oslo.") == 0.5
    assert string_presence(OPTIONS, "Rome", "Ann lives in Oslo.") == 0
    assert string_presence(OPTIONS, "Rome", "Ann lives abroad.") == 0.25


@given(
    st.lists(st.floats(0.01, 1), min_size=6, max_size=6), st.lists(st.floats(0.01, 1), min_size=6, max_size=6)
)
def test_kl_is_scipys_on_the_merged_outcomes(base: list[float], arm: list[float]) -> None:
    p, q = np.array(base) / sum(base), np.array(arm) / sum(arm)
    top = Distribution((0, 1, 2), tuple(np.log(p[:3])), float(p[3:].sum()))
    merged = rel_entr([*p[:3], p[3:].sum()], [*q[:3], q[3:].sum()]).sum()
    found = kl_divergence(top, tuple(np.log(q[:3])))
    assert found == pytest.approx(merged, abs=1e-9)
    assert found <= rel_entr(p, q).sum() + 1e-9


def test_rows_survive_the_file(encoded: EncodedItem, tokenizer: Any, tmp_path: Path) -> None:
    found = row(encoded, tokenizer, greedy={"open": " Rome \u202e\x00"}, samples={1: (" a", " b")})
    write_rows([found], tmp_path / "records" / "x.parquet")
    frame = read_records(tmp_path)
    assert frame.schema == pl.Schema(SCHEMA)
    assert frame.row(0, named=True) == found
    names = sorted(file.name for file in (tmp_path / "records").iterdir())
    assert names == ["x.parquet", "x.parquet.sha256"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match="can't be read"):
        read_records(tmp_path)


def test_a_full_disk_is_said_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"the disk is full \(.* MB free at .*was measured before is kept"):
        write_rows([], tmp_path / "records" / "x.parquet")
    assert list((tmp_path / "records").iterdir()) == []


def test_one_flipped_bit_is_found(encoded: EncodedItem, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "records" / "x.parquet"
    write_rows([row(encoded, tokenizer, greedy={"open": " Rome"})], path)
    assert is_sound(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert not is_sound(path)
    with pytest.raises(RunError, match=r"x.parquet is damaged"):
        read_records(tmp_path)
