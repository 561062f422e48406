"""A stand-in for the Hugging Face hub: tiny models and data sets in the cache layouts of its client, offline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets

from tests.conftest import entry

COMMIT = "0" * 40
MODELS = ("google/gemma-3-270m", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-4B")
TYDIQA = ("arabic", "bengali", "english", "finnish", "indonesian", "korean", "russian", "swahili", "telugu")
XQUAD = ("ar", "zh", "en", "de", "el", "hi", "ro", "ru", "es", "th", "tr", "vi")


def make_hub(home: Path, model_folder: Path) -> dict[str, str]:
    """Fills `home` and returns the environment in which the hub's client finds nothing else."""
    for name in MODELS:
        _model(home / "hub", name, model_folder)
    cache = home / "datasets"
    rows = [_squad(f"{language}-{n}", n, language) for language in TYDIQA for n in range(8)]
    _data_set(cache, "google-research-datasets/tydiqa", "secondary_task", "validation", rows)
    for code in XQUAD:
        rows = [_squad(f"x{n}", n, code) for n in range(6)]
        _data_set(cache, "google/xquad", f"xquad.{code}", "validation", rows)
    return {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_DATASETS_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        # `anomia cache --clear` must find nothing of ours.
        "ANOMIA_CACHE": str(home / "converted"),
    }


def make_calibration(folder: Path) -> Path:
    """Local copies of C4 and Wikipedia, as `--calibration-folder` takes them: the hub streams these two."""
    text = "".join(
        json.dumps({"text": f"Passage {n} is about the river of town {n}. " * 6}) + "\n" for n in range(8)
    )
    (folder / "wikipedia").mkdir(parents=True)
    (folder / "c4.en.jsonl").write_text(text)
    for language in TYDIQA:
        (folder / "wikipedia" / f"{language}.jsonl").write_text(text)
    return folder


def _model(hub: Path, name: str, folder: Path) -> None:
    place = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)


def _squad(item_id: str, number: int, language: str) -> dict[str, Any]:
    line = entry(number, language)
    answers = {"text": line["answers"], "answer_start": [0]}
    return {"id": item_id, "context": line["context"], "question": line["question"], "answers": answers}


def _data_set(cache: Path, repository: str, config: str, split: str, rows: list[dict[str, Any]]) -> None:
    name = repository.partition("/")[2]
    folder = cache / repository.replace("/", "___") / config / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    made = datasets.Dataset.from_list(rows)
    with datasets.arrow_writer.ArrowWriter(
        path=str(folder / f"{name}-{split}.arrow"), features=made.features
    ) as writer:
        writer.write_table(made.data.table)
        writer.finalize()
    info = datasets.DatasetInfo(
        features=made.features,
        builder_name="parquet",
        dataset_name=name,
        config_name=config,
        version="0.0.0",
        splits=[{"name": split, "num_bytes": 0, "num_examples": len(rows), "dataset_name": name}],
    )
    info.write_to_directory(str(folder))
