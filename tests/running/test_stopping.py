"""Optional stopping: rounds over all languages, the same decision after an interruption, and it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from anomia.items.item import Item, ItemSet, Question
from anomia.measure.confidence_sequence import confidence_sequence
from anomia.measure.results import read_results, results_json
from anomia.records import write_rows
from anomia.run_folder import RunFolder
from anomia.running import model
from anomia.running.execute import run_study
from anomia.running.folder import OpenedRun, shards_of
from anomia.running.progress import PlainProgress
from anomia.running.stopping import interleaved, stopped
from anomia.study import Study
from tests.conftest import entry
from tests.measure.planted import Damage, study_records

ITEMS = 96


@pytest.fixture
def folder(tmp_path: Path) -> OpenedRun:
    study = Study(base="x", arms=("wanda:0.5",))
    return OpenedRun(RunFolder(tmp_path), study, {})


def group(languages: tuple[str, ...]) -> list[ItemSet]:
    def item(language: str, n: int) -> Item:
        return Item(Question(f"{language}-{n}", language, f"passage {n}", "?", ("gold",)))

    return [
        ItemSet("planted", name, tuple(item(name, n) for n in range(ITEMS)), None, {}) for name in languages
    ]


def finish(folder: OpenedRun, records: pl.DataFrame, sets: list[ItemSet], rounds: int) -> None:
    for items in sets:
        for arm in ("base", "wanda:0.5"):
            mine = records.filter((pl.col("arm") == arm) & (pl.col("language") == items.language))
            for shard in shards_of(arm, items, oracle_limit=100)[: rounds if arm != "base" else None]:
                write_rows(mine[shard.first : shard.last].to_dicts(), folder.record_file(shard))


def test_rounds_go_over_all_languages() -> None:
    sets = group(("english", "swahili"))
    shards = [shard for items in sets for shard in shards_of("a", items, oracle_limit=100)]
    assert [(shard.language, shard.first) for shard in interleaved(shards)][:4] == [
        ("english", 0), ("swahili", 0), ("english", 32), ("swahili", 32),
    ]  # fmt: skip


def test_an_arm_stops_at_the_first_round_that_is_narrow_enough(folder: OpenedRun) -> None:
    records = study_records(
        {"wanda:0.5": Damage(open=0.3)}, languages=("english", "swahili"), items=ITEMS, open_accuracy=0.9
    )
    sets = group(("english", "swahili"))
    finish(folder, records, sets, rounds=3)
    widths = []
    for rounds in (1, 2, 3):
        part = records.filter(pl.col("index") < 32 * rounds)
        base, arm = (part.filter(pl.col("arm") == name) for name in ("base", "wanda:0.5"))
        both = (base["open_correct"] & base["choice_correct"]).to_numpy()
        unsaid = (~arm["open_correct"] & arm["choice_correct"]).to_numpy()
        found = confidence_sequence(unsaid[both])
        assert found is not None
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] > widths[2]
    look = stopped(folder, "wanda:0.5", sets, width=(widths[0] + widths[1]) / 2, oracle_limit=100)
    assert look is not None
    assert (look.items, look.available) == (128, 192)
    estimate = look.stop.estimate
    assert estimate is not None
    assert estimate.high - estimate.low == pytest.approx(widths[1], abs=1e-6)
    assert 0.15 < estimate.value < 0.45
    last = stopped(folder, "wanda:0.5", sets, width=0.01, oracle_limit=100)
    assert last is not None
    assert last.items == 192
    assert "used up" in last.stop.reason


def test_a_round_that_is_not_finished_decides_nothing(folder: OpenedRun) -> None:
    records = study_records({"wanda:0.5": Damage(open=0.3)}, languages=("english", "swahili"), items=ITEMS)
    sets = group(("english", "swahili"))
    finish(folder, records, sets[:1], rounds=3)
    assert stopped(folder, "wanda:0.5", sets, width=0.9, oracle_limit=100) is None


def test_of_each_passage_one_item_counts(folder: OpenedRun) -> None:
    records = study_records({"wanda:0.5": Damage(open=0.3)}, items=ITEMS, passage_items=4, open_accuracy=1.0,
                            choice_accuracy=1.0)  # fmt: skip
    finish(folder, records, group(("english",)), rounds=3)
    look = stopped(folder, "wanda:0.5", group(("english",)), width=0.01, oracle_limit=100)
    assert look is not None
    assert look.stop.estimate is not None
    assert look.stop.estimate.n == ITEMS // 4


def test_a_run_stops_goes_on_and_says_so(
    write_jsonl: Callable[..., Path], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("anomia.running.folder.SHARD_ITEMS", 3)
    # A tiny random model is never right, so the width is never reached unless a look is made to say so.
    looks: list[int] = []

    def until(values: Any, **more: Any) -> Any:
        looks.append(more["items_left"])
        from anomia.measure.confidence_sequence import Stop

        return Stop(more["items_left"] <= 6, "planted", confidence_sequence(np.array([True, False])))

    monkeypatch.setattr("anomia.running.stopping.until_width", until)
    entries = [entry(n, language) for language in ("english", "swahili") for n in range(10)]
    study = Study(
        base=str(model_folder), arms=("magnitude:0.5",), data=f"jsonl:{write_jsonl(entries)}", limit=9,
        probes=("open", "choice"), max_new_tokens=2, noise_items=0, until_width=0.2,
    )  # fmt: skip
    out, silent = tmp_path / "run", PlainProgress(lambda text: None)
    run_study(study, out, progress=silent)
    results = read_results(out)
    counts = results.records.group_by("arm", "language").len().sort("arm", "language")["len"].to_list()
    assert counts == [9, 9, 6, 6]
    assert json.loads((out / "stopping.json").read_text())["arms"]["magnitude:0.5"][0]["items"] == 12
    written = results_json(results)
    assert written["stopping"]["arms"]["magnitude:0.5"][0]["reason"] == "planted"

    # The same command again: nothing is loaded, nothing changes.
    monkeypatch.setattr(model, "load_model", lambda *a, **k: pytest.fail("loaded a model for nothing"))
    run_study(study, out, progress=silent)
    assert read_results(out).records.equals(results.records)
    # An interrupted round is finished, and the decision is the same.
    monkeypatch.undo()
    monkeypatch.setattr("anomia.running.folder.SHARD_ITEMS", 3)
    monkeypatch.setattr("anomia.running.stopping.until_width", until)
    next((out / "records").glob("magnitude*swahili*000003.parquet")).unlink()
    run_study(study, out, progress=silent)
    assert read_results(out).records.equals(results.records)
