from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomia.compress.calibration import CalibrationText, make_batches, make_windows, read_calibration
from anomia.compress.options import TextOptions
from anomia.compress.overlap import build_sieve
from anomia.errors import DataError, StudyError

from .conftest import make_test_windows

WORDS = [f"word{i}" for i in range(400)]


def word_tokenizer(text: str, *, truncation: bool, max_length: int) -> dict[str, list[int]]:
    ids = [1, *(hash(word) % 90 + 2 for word in text.split())]
    return {"input_ids": ids[:max_length]}


def write_lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return f"file:{path}"


def passage(start: int, length: int = 30) -> str:
    return " ".join(WORDS[start : start + length])


def test_one_passage_is_one_window_cut_at_the_limit(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [passage(0, 5), passage(10, 50), passage(70, 3)])
    text = read_calibration(TextOptions(source=source, samples=3))
    windows = make_windows(text, word_tokenizer, tokens=20)
    assert [len(ids) for ids in windows.token_ids] == [6, 20, 4]
    assert (windows.record.passages, windows.record.tokens, windows.record.longest_window) == (3, 30, 20)
    assert windows.record.warnings == ()


def test_fewer_passages_than_asked_is_a_warning_and_a_record(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [passage(0), passage(40)])
    text = read_calibration(TextOptions(source=source, samples=5))
    assert text.asked == 5
    assert "2 passages of the 5 asked for" in text.warnings[0]
    assert make_windows(text, word_tokenizer).record.warnings == text.warnings


def test_overlapping_passages_are_removed_counted_and_replaced(tmp_path: Path) -> None:
    texts = [passage(0), passage(40), passage(80), passage(120)]
    source = write_lines(tmp_path / "a.jsonl", texts)
    evaluated = "Something else first. " + passage(45, 13).upper() + "!"
    text = read_calibration(TextOptions(source=source, samples=3, evaluation_passages=[evaluated]))
    assert text.texts == (texts[0], texts[2], texts[3])
    assert text.removed == 1
    assert any("excluded 1 passage that shares text" in warning for warning in text.warnings)
    with pytest.raises(DataError, match="shares no text"):
        read_calibration(
            TextOptions(source=write_lines(tmp_path / "b.jsonl", [texts[1]]), evaluation_passages=[evaluated])
        )


@pytest.mark.parametrize(
    ("evaluated", "calibration", "caught"),
    [
        (passage(0, 13), "x " + passage(0, 13) + " y", True),
        (passage(0, 30), passage(18, 30), False),
        (passage(0, 30), passage(17, 30), True),
        (passage(0, 7), "x " + passage(0, 7) + " y", True),
        (passage(0, 4), passage(0, 4), False),
        ("ก" * 20 + "ขคง" * 10, "ท" + "ขคง" * 10, True),
        ("東京都" * 9, "大阪 " + "東京都" * 8, False),
        ("東京都" * 11, "大阪 " + "東京都" * 10, True),
        ("The CAT, sat: on a mat by the door of the old house.",
         "the cat sat on a mat by the door of the old house", True),
    ],
)  # fmt: skip
def test_what_counts_as_overlap(evaluated: str, calibration: str, caught: bool) -> None:
    assert build_sieve([evaluated]).catches(calibration) is caught


def test_languages_take_turns_and_a_budget_keeps_them_in_balance(tmp_path: Path) -> None:
    (tmp_path / "wikipedia").mkdir()
    for number, language in enumerate(("english", "finnish")):
        texts = [passage(100 * number + 20 * i, 10) for i in range(6 if language == "english" else 2)]
        write_lines(tmp_path / "wikipedia" / f"{language}.jsonl", texts)
    text = read_calibration(
        TextOptions(source="balanced", samples=4, languages=("english", "fi"), data_dir=tmp_path)
    )
    assert text.languages == ("english", "finnish", "english", "finnish", "english", "english")
    assert "6 passages of the 8 asked for (english 4, finnish 2)" in text.warnings[0]
    windows = make_windows(text, word_tokenizer, budget=40)
    assert windows.record.tokens == 40
    assert windows.record.tokens_by_language == {"english": 22, "finnish": 18}
    own = read_calibration(TextOptions(source="own", samples=2, language="finnish", data_dir=tmp_path))
    assert (own.source, set(own.languages)) == ("own:finnish", {"finnish"})


def test_the_demo_ships_with_the_package() -> None:
    text = read_calibration(TextOptions(source="demo"))
    assert set(text.languages) == {"english"}
    assert len(text.texts) >= 10
    both = read_calibration(TextOptions(source="demo", languages=("english", "indonesian")))
    assert set(both.languages) == {"english", "indonesian"}


def test_hashes_follow_the_text(tmp_path: Path) -> None:
    first = read_calibration(
        TextOptions(source=write_lines(tmp_path / "a.jsonl", ["a b c", "d e f"]), samples=2)
    )
    second = read_calibration(
        TextOptions(source=write_lines(tmp_path / "b.jsonl", ["a b", "c d e f"]), samples=2)
    )
    assert first.text_hash != second.text_hash
    assert (
        first.text_hash
        == read_calibration(TextOptions(source=f"file:{tmp_path / 'a.jsonl'}", samples=2)).text_hash
    )


def test_plain_text_is_split_at_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n  \nthree\n", encoding="utf-8")
    assert read_calibration(TextOptions(source=f"file:{tmp_path / 'a.txt'}", samples=2)).texts == (
        "one\ntwo",
        "three",
    )


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("c5", StudyError, "did you mean 'c4'"),
        ("balanced", StudyError, "needs the study's languages"),
        ("own", StudyError, "name the language"),
        ("file:nowhere.jsonl", DataError, "doesn't exist"),
    ],
)
def test_faults_name_the_remedy(source: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        read_calibration(TextOptions(source=source))


def test_broken_files_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"txt": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: no field"):
        read_calibration(TextOptions(source=f"file:{path}"))
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="has no passage"):
        read_calibration(TextOptions(source=f"file:{path}"))


def test_rows_without_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n{"text": "one two"}\n{"text": "  "}\n', encoding="utf-8")
    read = read_calibration(TextOptions(source=f"file:{path}", samples=1))
    assert read.texts == ("one two",)
    assert read.warnings == (f"calibration=file:{path}: excluded 1 row that has no text",)
    path.write_text('{"text": null}\n{"text": " "}\n', encoding="utf-8")
    with pytest.raises(DataError, match="has no passage with text in its 2 rows; give another source"):
        read_calibration(TextOptions(source=f"file:{path}"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "has no passage"),
        ("a.txt", b" \n\n \t\n", "has no passage"),
        ("a.txt", bytes(range(256)), "is not UTF-8 text"),
        ("a.jsonl", bytes(range(256)), "line 1 is not JSON"),
        ("a.txt", "one".encode("utf-16"), "it is UTF-16 text"),
    ],
)
def test_files_without_usable_text_are_one_message(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_calibration(TextOptions(source=f"file:{tmp_path / name}"))
    assert "\n" not in str(caught.value)


def test_the_shared_data_is_found_before_the_hub(data_dir: Path) -> None:
    text = read_calibration(TextOptions(source="c4", data_dir=data_dir / "calibration"))
    assert len(text.texts) == 128
    finnish = read_calibration(TextOptions(source="own", language="fi", data_dir=data_dir / "calibration"))
    assert "56 passages of the 64 asked for (finnish 56)" in finnish.warnings[0]


@given(
    st.lists(st.integers(2, 60), min_size=1, max_size=20),
    st.integers(1, 150),
    st.booleans(),
)
def test_batches_hold_every_window_once_and_mark_all_padding(
    lengths: list[int], batch_tokens: int, padded: bool
) -> None:
    windows = make_test_windows(lengths)
    batches = make_batches(windows, batch_tokens=batch_tokens, padded=padded)
    rows: list[Any] = []
    for batch in batches:
        count, width = batch.input_ids.shape
        real = torch.ones(count * width, dtype=torch.bool) if batch.real is None else batch.real
        assert padded or batch.real is None
        assert count == 1 or count * width <= batch_tokens
        for ids, kept in zip(batch.input_ids, real.reshape(count, width), strict=True):
            rows.append(tuple(ids[kept].tolist()))
            assert not kept[int(kept.sum()) :].any()
    assert sorted(rows) == sorted(windows.token_ids)


@pytest.mark.parametrize(("count", "said"), [(1, "1 passage was cut"), (2, "2 passages were cut")])
def test_passages_are_cut_to_the_models_positions(count: int, said: str, tmp_path: Path) -> None:
    """One that just fills them is not cut."""
    passages = [passage(60 * number, 50) for number in range(count)]
    source = write_lines(tmp_path / "a.jsonl", [*passages, passage(200, 15), passage(240, 3)])
    text = read_calibration(TextOptions(source=source, samples=count + 2))
    windows = make_windows(text, word_tokenizer, tokens=40, positions=16)
    assert [len(ids) for ids in windows.token_ids] == [*[16] * (count + 1), 4]
    assert windows.record.token_limit == 16
    assert windows.record.warnings == (
        f"calibration={source}: {said} to 16 tokens, the model's positions; 40 were asked for",
    )
    assert make_windows(text, word_tokenizer, tokens=10, positions=16).record.warnings == ()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([0] * 3 + [5, 6, 7, 8], "43% of its tokens are the tokenizer's unknown token"),
        ([5] * 6 + [6, 7], "75% of its tokens are the same one"),
        ([5, 6, 7, 8] * 2, ""),
    ],
)
def test_a_text_that_the_tokenizer_does_not_know_is_told(ids: list[int], said: str) -> None:
    """Everything would be measured on one embedding, and the result look like any other."""

    class Words:
        unk_token_id = 0

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [int(word) for word in text.split()]}

    text = CalibrationText("file:x", (" ".join(map(str, ids)),), ("",), "")
    warnings = make_windows(text, Words()).record.warnings
    assert len(warnings) == bool(said)
    assert said in " ".join(warnings)
