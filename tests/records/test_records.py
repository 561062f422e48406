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
from anomia.grade import Grading
from anomia.items import Item, ItemSet, Question
from anomia.probe.ask import Distribution, Placement, Reply
from anomia.probe.decode import decode_reply
from anomia.probe.encode import EncodedItem, PromptEncoding, encode_item
from anomia.probes import STUDY_PROBES
from anomia.records import (
    ITEM_SCHEMA,
    SCHEMA,
    is_sound,
    item_rows,
    record,
    upgrade,
    write_rows,
)
from anomia.records.replied import kl_divergence, string_presence
from anomia.records.store import checked
from anomia.run_folder import RunFolder

OPTIONS = ("Oslo", "Rome", "Bern", "Bonn")
QUESTION = Question(
    "q1", "english", "Ann lives in Rome, not in Oslo.", "Where does Ann live?", ("Rome", "Roma")
)
ITEM = Item(
    QUESTION, {"standard": OPTIONS, "hard": OPTIONS, "passage": OPTIONS}, ("a", "b", "c", "d"), "Oslo"
)


@pytest.fixture
def encoded(tokenizer: Any) -> EncodedItem:
    return encode_item(ITEM, tokenizer, PromptEncoding(), STUDY_PROBES, exemplar=QUESTION, oracle=True)


def row(encoded: EncodedItem, tokenizer: Any, **reply: Any) -> Mapping[str, Any]:
    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    if "greedy" in reply:
        reply["greedy"] = {name: tokens(text) for name, text in reply["greedy"].items()}
    if "samples" in reply:
        drawn = {seed: tuple(map(tokens, texts)) for seed, texts in reply["samples"].items()}
        reply["samples"] = {"samples": drawn}
    answer = Reply("q1", **reply)
    said = decode_reply(encoded, answer, tokenizer)
    return record(encoded, answer, said, tokenizer, arm="a", dataset="d", index=3)


def test_open_is_right_with_any_answer(encoded: EncodedItem, tokenizer: Any) -> None:
    found = row(encoded, tokenizer, greedy={"open": " In Roma."})
    assert (found["open_text"], found["open_correct"], found["open_em"]) == (" In Roma.", True, False)
    assert found["arm"] == "a"
    assert found["index"] == 3


def test_the_strict_grade_stands_next_to_containment(encoded: EncodedItem, tokenizer: Any) -> None:
    found = row(encoded, tokenizer, greedy={"open": "\n1. Oslo\n2. Rome"})
    assert (found["open_correct"], found["open_strict"]) == (True, False)
    found = row(encoded, tokenizer, greedy={"open": " Rome\n\nQuestion: Who?"})
    assert (found["open_correct"], found["open_strict"]) == (True, True)


def _looped(encoded: EncodedItem, tokenizer: Any, tokens: tuple[int, ...]) -> bool:
    reply = Reply("q1", greedy={"open": tokens})
    loops: bool = record(
        encoded, reply, decode_reply(encoded, reply, tokenizer), tokenizer, arm="a", dataset="d", index=3
    )["open_loop"]
    return loops


def test_loops_are_found_in_tokens_and_the_end_token_neither_makes_nor_hides_one(
    encoded: EncodedItem, tokenizer: Any
) -> None:
    words = tuple(
        tokenizer("one two three four five six seven eight nine", add_special_tokens=False).input_ids
    )
    assert len(words) >= 9
    ends = (tokenizer.eos_token_id,) * 20
    assert not _looped(encoded, tokenizer, words)
    assert not _looped(encoded, tokenizer, words + ends)
    assert _looped(encoded, tokenizer, words[:5] * 4)
    assert _looped(encoded, tokenizer, words[:5] * 4 + ends[:1])
    assert _looped(encoded, tokenizer, words[:7] + words[:7] + words[:3])


def test_only_what_stands_before_a_stop_string_can_loop(tokenizer: Any) -> None:
    form = PromptEncoding(grading=Grading(stop=("\n",)))
    stopped = encode_item(ITEM, tokenizer, form, STUDY_PROBES, exemplar=QUESTION, oracle=True)
    assert not row(stopped, tokenizer, greedy={"open": "Rome" + "\nRome" * 9})["open_loop"]
    assert row(stopped, tokenizer, greedy={"open": "Rome " * 9})["open_loop"]


def test_an_answer_in_the_question_and_one_too_long_to_be_said(tokenizer: Any) -> None:
    def flags(question: str, answers: tuple[str, ...], limit: int) -> tuple[bool, bool]:
        item = Item(
            Question("q1", "english", "x", question, answers),
            {"standard": (answers[0], "Oslo", "Bern", "Bonn")},
            (),
            "Oslo",
        )
        form = PromptEncoding(max_new_tokens=limit)
        encoded = encode_item(item, tokenizer, form, ("open", "choice"), exemplar=None, oracle=False)
        # Of the item, so it is known even where the arm's logits are not finite.
        found = row(encoded, tokenizer, finite=False)
        return found["gold_in_question"], found["gold_over_limit"]

    long = "the seven hills beside the old river and the sea"
    assert flags("Is it Rome or Oslo?", ("Rome",), 32) == (True, False)
    assert flags("Where?", (long,), 32) == (False, False)
    assert flags("Where?", (long,), 4) == (False, True)
    assert flags("Is it Rome?", (long, "Rome"), 32) == (True, False)


def test_old_records_are_filled_from_their_texts(
    encoded: EncodedItem, tokenizer: Any, tmp_path: Path
) -> None:
    texts = ["\n1. Oslo\n2. Rome", " Rome", "Rome " * 9]
    rows = [
        {**row(encoded, tokenizer, greedy={"open": text}), "arm": f"a{n}"} for n, text in enumerate(texts)
    ]
    new = ("open_strict", "open_loop", "gold_in_question")
    write_rows(rows, tmp_path / "records" / "new.parquet")
    known = RunFolder(tmp_path).records()
    old = known.with_columns(pl.lit(None, pl.Boolean).alias(name) for name in new)
    items = pl.DataFrame(item_rows(ItemSet("d", "english", (ITEM,))), schema=ITEM_SCHEMA)
    filled = upgrade(old, items)
    assert filled.select(new).rows() == [(False, False, False), (True, False, False), (True, True, False)]
    assert upgrade(known, items).equals(known)
    assert filled.schema == old.schema
    unknown = upgrade(old, items.clear())
    assert unknown["open_strict"].is_null().all()
    assert unknown["open_loop"].to_list() == [False, False, True]


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


def test_reach_counts_gold_and_the_control(encoded: EncodedItem, tokenizer: Any) -> None:
    found = row(encoded, tokenizer, samples={42: (" Rome", " Oslo", " Bern"), 43: (" x", " Roma", " y")})
    assert found["samples_correct"] == [True, False, False, False, True, False]
    assert found["samples_control"] == [False, True, False, False, False, False]
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
    frame = RunFolder(tmp_path).records()
    assert frame.schema == pl.Schema(SCHEMA)
    assert frame.row(0, named=True) == found
    names = sorted(file.name for file in (tmp_path / "records").iterdir())
    assert names == ["x.parquet", "x.parquet.sha256"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match="can't be read"):
        RunFolder(tmp_path).records()


def test_a_long_answer_without_its_tokens_is_refused(
    encoded: EncodedItem, tokenizer: Any, tmp_path: Path
) -> None:
    found = row(encoded, tokenizer, greedy={"open": "Rome"})
    frame = pl.DataFrame([found], schema=dict(SCHEMA), orient="row")
    assert checked(frame, tmp_path / "x.parquet").equals(frame)
    spoiled = frame.with_columns(continuation_text=pl.lit("gone"))
    for bad, named in (
        (spoiled, "continuation_ids"),
        (spoiled.with_columns(continuation_ids=pl.lit([1], dtype=pl.List(pl.Int32))), "continuation_pieces"),
        (spoiled.drop("continuation_ids"), "continuation_ids"),
    ):
        with pytest.raises(RunError, match=named):
            checked(bad, tmp_path / "x.parquet")


def test_a_full_disk_is_said_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        RunError, match=r"the disk is full \(.* MB free at .*Everything measured so far is kept"
    ):
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
        RunFolder(tmp_path).records()
