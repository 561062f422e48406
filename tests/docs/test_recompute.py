"""The lines of Polars that the documentation shows give the program's own figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from anomia.files import write_json
from anomia.measure.fates import FATES
from anomia.measure.figures import find
from anomia.measure.frame import POOLED
from anomia.measure.results import read_results, results_json
from anomia.records import read_rows, write_rows
from anomia.report.export import export_run
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

ROOT = Path(__file__).resolve().parents[2]
ARM = "magnitude:0.5"
LANGUAGES = ("english", "swahili")


@pytest.fixture
def run(write_jsonl: Callable[..., Path], model_folder: Path, tmp_path: Path) -> Path:
    """A run of a tiny model, with verdicts drawn so that every fate occurs, and base is too weak in one language."""
    study = Study(
        base=str(model_folder),
        arms=(ARM,),
        data=f"jsonl:{write_jsonl([entry(n, name) for name in LANGUAGES for n in range(90)])}",
        probes=("open", "choice", "choice_no_question"),
        limit=80,
        max_new_tokens=2,
        noise_items=0,
    )
    folder = tmp_path / "RUN"
    run_study(study, folder, progress=PlainProgress(lambda text: None))
    generator = np.random.default_rng(0)
    for file in (folder / "records").glob("*.parquet"):
        rows = read_rows(file)
        strong = (rows["language"] == "english").to_numpy()
        drawn = {
            name: pl.Series(name, generator.random(len(rows)) < np.where(strong, chance, weak))
            for name, chance, weak in (("open_correct", 0.6, 0.05), ("choice_correct", 0.8, 0.8))
        }
        write_rows(rows.with_columns(**drawn).to_dicts(), file)
    write_json(folder / "results.json", results_json(read_results(folder)))
    return folder


def test_fates_net_dissociation_and_pmi_follow_from_exported_rows(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(run, tmp_path / "rows.parquet")
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import json\nimport polars.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"ARM": ARM}
    exec(code, found)  # the documentation's own lines
    results = read_results(run)
    assert results.scope is not None
    assert (results.scope.languages, results.scope.excluded) == (("english",), ("swahili",))
    figures = results.diagnosis.figures

    def value(measure: str) -> float:
        estimate = find(figures, ARM, measure, POOLED)
        assert estimate is not None, measure
        return estimate.value

    (counts,) = (f.counts for f in results.diagnosis.fates if (f.options, f.scope) == ("choice", POOLED))
    by_verdicts = {(opened, chosen): n for opened, chosen, n in found["fates"].iter_rows()}
    verdicts = {
        "kept": (True, True),
        "choice_only": (False, True),
        "open_only": (True, False),
        "lost": (False, False),
    }
    assert {name: by_verdicts.get(verdicts[name], 0) for name in FATES} == counts._asdict()
    assert found["net_dissociation"] == pytest.approx(value("net_dissociation/choice"))
    assert found["net_dissociation"] != pytest.approx(value("dissociation/choice"))
    assert found["pmi_accuracy"] == pytest.approx(value("accuracy/choice_pmi"))
