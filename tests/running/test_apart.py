"""Questions apart from what was measured or calibrated on before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomia.compress.overlap import build_sieve
from anomia.errors import AnomiaError, DataError
from anomia.run_folder import RunFolder
from anomia.running.apart import passages_of, texts_in
from anomia.running.cells import read_items
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study

QUIET = PlainProgress(lambda text: None)


@pytest.fixture
def tuned(study: Study, tmp_path: Path) -> Path:
    """A finished run whose arm was calibrated on base's answers to other questions."""
    arms, settings = ("magnitude:0.5", "wanda:0.5"), {"calibration": "answers", "calibration_samples": 2}
    run_study(study.model_copy(update={"arms": arms, **settings}), tmp_path / "tuned", progress=QUIET)
    return tmp_path / "tuned"


def test_a_run_after_another_asks_nothing_that_either_has_seen(
    study: Study, tuned: Path, tmp_path: Path
) -> None:
    (answers,) = RunFolder(tuned).answers_files()
    rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    assert len(rows) == 4
    sieve = build_sieve([*passages_of(tuned), *(row["text"] for row in rows)])
    again = study.model_copy(update={"not_in": (str(tuned),)})
    for items in read_items(again):
        assert not any(sieve.catches(item.question.context or "") for item in items.items)
        assert items.excluded["known"] >= 2 + len(RunFolder(tuned).items()) // 2
    said: list[str] = []
    run_study(again, tmp_path / "confirm", progress=PlainProgress(said.append))
    assert any("share text with what not_in names" in line for line in said)
    assert not set(RunFolder(tmp_path / "confirm").items()["context"]) & set(
        RunFolder(tuned).items()["context"]
    )


def test_a_file_of_calibration_text_counts_too(study: Study, tmp_path: Path) -> None:
    first = read_items(study)[0].items[0].question
    file = tmp_path / "text.txt"
    file.write_text(f"Something else.\n\n{first.context}\n")
    assert texts_in([str(file)]) == ["Something else.", first.context]
    others = read_items(study.model_copy(update={"not_in": (str(file),)}))[0]
    assert first.id not in [item.question.id for item in others.items]


def test_a_language_with_nothing_left_is_named(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    everything = read_items(study.model_copy(update={"limit": None}))
    contexts = [item.question.context for items in everything for item in items.items]
    extra = [items.exemplar.context for items in everything if items.exemplar]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*contexts, *extra]))
    with pytest.raises(DataError, match=r"english: all \d+ questions share text"):
        read_items(study.model_copy(update={"not_in": (str(file),)}))


@pytest.mark.parametrize("name", ["nowhere", "an-empty-folder"])
def test_what_is_no_run_is_refused(name: str, study: Study, tmp_path: Path) -> None:
    (tmp_path / "an-empty-folder").mkdir()
    with pytest.raises(AnomiaError, match=name):
        read_items(study.model_copy(update={"not_in": (str(tmp_path / name),)}))
