"""Data sets by name, read from folders that are laid out as their repositories on the hub are.

Layouts and columns are those of the data set cards; what can't be tested offline is that they still hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

from anomia.errors import DataError
from anomia.items.readers import read_questions

SQUAD_SCHEMA = {
    "id": pl.String,
    "title": pl.String,
    "context": pl.String,
    "question": pl.String,
    "answers": pl.Struct({"text": pl.List(pl.String), "answer_start": pl.List(pl.Int32)}),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub: OWNER/NAME, or OWNER/NAME@REVISION."""
    real = datasets.load_dataset

    def load(repository: str, config: str | None = None, *, revision: str | None = None, **more: Any) -> Any:
        folder = tmp_path / (f"{repository}@{revision.replace('/', '-')}" if revision else repository)
        if not folder.is_dir():
            raise FileNotFoundError(f"no repository {repository}")
        return real(str(folder), config, cache_dir=str(tmp_path / "cache"), **more)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return tmp_path


def squad_rows(prefix: str = "") -> list[dict[str, Any]]:
    answers = {"text": ["Ann", "Ann Lee"], "answer_start": [0, 0]}
    return [
        {
            "id": f"{prefix}{n}",
            "title": "T",
            "context": f"Ann Lee won {n}.",
            "question": "Who?",
            "answers": answers,
        }
        for n in range(3)
    ]


def put(file: Path, rows: list[dict[str, Any]], schema: dict[str, Any] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=schema).write_parquet(file)


def configs(folder: Path, *entries: tuple[str, str, str]) -> None:
    """The part of a data set card that says which files make a configuration."""
    lines = [
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {path}"
        for name, split, path in entries
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n")


def test_squad(hub: Path) -> None:
    folder = hub / "rajpurkar" / "squad"
    put(folder / "plain_text" / "validation-00000-of-00001.parquet", squad_rows(), SQUAD_SCHEMA)
    configs(folder, ("plain_text", "validation", "plain_text/validation-*"))
    found = read_questions("squad")
    assert list(found) == ["english"]
    assert found["english"][1].answers == ("Ann", "Ann Lee")
    assert found["english"][1].context == "Ann Lee won 1."
    with pytest.raises(DataError, match="no language 'german'"):
        read_questions("squad", ["de"])


def test_mlqa_comes_from_the_parquet_branch(hub: Path) -> None:
    folder = hub / "facebook" / "mlqa@refs-convert-parquet"
    schema = {key: kind for key, kind in SQUAD_SCHEMA.items() if key != "title"}
    rows = [{key: row[key] for key in schema} for row in squad_rows()]
    for code in ("de", "en"):
        for split in ("test", "validation"):
            put(folder / f"mlqa.{code}.{code}" / split / "0000.parquet", rows, schema)
    found = read_questions("mlqa", ["de", "english"])
    assert {language: len(questions) for language, questions in found.items()} == {"german": 3, "english": 3}
    # Ids of a parallel data set are shared, which is how translations of a passage are found.
    assert [q.id for q in found["german"]] == [q.id for q in found["english"]]


def test_belebele_brings_its_options(hub: Path) -> None:
    folder = hub / "facebook" / "belebele"
    rows = [
        {
            "link": "https://en.wikibooks.org/wiki/X",
            "question_number": n,
            "flores_passage": "The bridge was closed in May.",
            "question": "When was it closed?",
            **{f"mc_answer{k}": text for k, text in enumerate(("April", "May", "June", "July"), 1)},
            "correct_answer_num": "2",
            "dialect": "swh_Latn",
            "ds": "2023-05-03",
        }
        for n in (1, 2)
    ]
    for code in ("swh_Latn", "ceb_Latn"):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_ndjson(folder / "data" / f"{code}.jsonl")
    configs(folder, *((code, "test", f"data/{code}.jsonl") for code in ("swh_Latn", "ceb_Latn")))
    found = read_questions("belebele", ["sw", "ceb_Latn"])
    assert set(found) == {"swahili", "ceb_latn"}
    question = found["swahili"][0]
    assert (question.gold, question.distractors) == ("May", ("April", "June", "July"))
    assert question.context == "The bridge was closed in May."
    assert len({q.id for q in found["swahili"]}) == 2
    with pytest.raises(DataError, match="did you mean 'swahili'"):
        read_questions("belebele", ["swahilli"])


def test_xquad_and_tydiqa(hub: Path) -> None:
    xquad = hub / "google" / "xquad"
    put(xquad / "xquad.de" / "validation-00000-of-00001.parquet", squad_rows(), SQUAD_SCHEMA)
    configs(xquad, ("xquad.de", "validation", "xquad.de/validation-*"))
    assert len(read_questions("xquad", ["german"])["german"]) == 3
    tydiqa = hub / "google-research-datasets" / "tydiqa"
    put(
        tydiqa / "secondary_task" / "validation-00000-of-00001.parquet",
        squad_rows("swahili-1-") + squad_rows("korean-1-"),
        SQUAD_SCHEMA,
    )
    configs(tydiqa, ("secondary_task", "validation", "secondary_task/validation-*"))
    assert {name: len(found) for name, found in read_questions("tydiqa").items()} == {
        "swahili": 3,
        "korean": 3,
    }


def test_a_hub_that_cannot_be_reached_is_one_message(hub: Path) -> None:
    for data in ("squad", "mlqa", "belebele"):
        with pytest.raises(DataError, match=r"can't be loaded from the Hugging Face hub.*mc:FILE") as caught:
            read_questions(data, ["english"])
        assert "\n" not in str(caught.value)
