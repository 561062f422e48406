"""What a program shows of invented probes and an invented kind of options, as JSON; `test_additions` adds both.

Run as `python -m tests.additions MODEL FOLDER`, with a copy of the program that has them. Their columns in the records
are copies: the probe's of `cued`, the options' of those from the same passage, the search's and the samples' of
`beams` and `samples`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from anomia.matrix import read_matrix
from anomia.measure.results import read_results
from anomia.plan.cost import forecast
from anomia.records import ITEM_SCHEMA, SCHEMA, write_rows
from anomia.report.export import FIRST_COLUMNS, export_run
from anomia.report.figures import NamedRun, draw_all
from anomia.report.page.build import PARTS, explorer_values, page_values
from anomia.report.page.explorer import index, item_whole
from anomia.report.render.csv import csv_text
from anomia.report.tables.arm_results import arm_results
from anomia.report.tables.registry import ARMS, FILES, RUNS
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.measure.planted import Damage, study_records

# New name, and the one whose columns it copies.
COPIED = {
    "whispered": "cued", "choice_backwards": "choice_passage", "options_backwards": "options_passage",
    "hunts": "beams", "hunt": "beam", "draws": "samples", "draw": "sample",
}  # fmt: skip


def planted_run(folder: Path) -> NamedRun:
    """A run with two languages in which every probe was asked."""
    records = study_records(
        {"wanda:0.5": Damage(open=0.4, choice=0.1), "null:float32": Damage(open=0.02)},
        languages=("english", "thai"),
        items=40,
    )
    records = records.with_columns(_copies(records.schema, SCHEMA))
    folder.mkdir(parents=True)
    study = {"base": "some/model", "data": "demo", "arms": ["wanda:0.5", "null:float32"], "provenance": {}}
    (folder / "study.yaml").write_text(json.dumps(study), encoding="utf-8")
    write_rows(records.to_dicts(), folder / "records" / "all.parquet")
    options = ["gold", "a", "b", "c"]
    items = records.filter(pl.col("arm") == "base").select(
        *(name for name in ITEM_SCHEMA if name in records.columns),
        context=pl.lit("A passage."),
        answers=pl.lit(["gold"]),
        unrelated=pl.lit(options),
        **{name: pl.lit(options) for name in ITEM_SCHEMA if name.startswith("options_")},
    )
    write_rows(items.to_dicts(), folder / "items.parquet", ITEM_SCHEMA)
    return NamedRun("planted", read_results(folder))


def _copies(columns: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[pl.Expr]:
    for new, old in COPIED.items():
        for name in schema:
            source = f"{old}{name.removeprefix(new)}"
            if name.startswith(f"{new}_") and source in columns:
                yield pl.col(source).alias(name)


def shown(run: NamedRun, folder: Path) -> dict[str, Any]:
    """Texts by what shows them: tables, figures, exported columns, the page."""
    results, file = run.results, folder.with_suffix(".jsonl")
    first = arm_results(results, results.arms[0])
    tables = {f"arm {table.make.__name__}": table.make(first) for table in ARMS}
    tables |= {f"run {table.make.__name__}": table.make(results) for table in RUNS}
    tables |= {f"file {make.__name__}": make(results) for make in FILES}
    drawn = draw_all([run])
    export_run(folder, file)
    opened = RunFolder(folder)
    items = opened.items()
    records = opened.records()
    mine = [row for row in records.iter_rows(named=True) if row["item_id"] == items["item_id"][0]]
    return {
        **{f"table {name}": csv_text(table) for name, table in tables.items()},
        **{f"figure {each.name}": each.table.write_csv() for each in drawn},
        "exported": file.read_text(encoding="utf-8").partition("\n")[0],
        "first columns": " ".join(FIRST_COLUMNS),
        "page": json.dumps(page_values([folder], [run], drawn), default=str),
        "page, probes": json.dumps(explorer_values([run], omitted=PARTS)),
        "page, index": json.dumps(index([(records, items)])[0]),
        "page, item": json.dumps(item_whole(items.row(0, named=True), mine)),
        "tests": json.dumps([row.measure for row in results.diagnosis.tests]),
        "figures": json.dumps([str(figure.measure) for figure in results.diagnosis.figures]),
        "schema": " ".join((*SCHEMA, *ITEM_SCHEMA)),
    }


def asked(model: str, folder: Path) -> dict[str, Any]:
    """How many items of a small study have an answer or scores, by record column, and the tokens that a plan counts."""
    settings: dict[str, Any] = {"base": model, "data": "demo", "languages": ["english"], "limit": 3}
    study = Study(
        **settings,
        arms=("magnitude:0.5",),
        max_new_tokens=3,
        oracle_limit=2,
        num_beams=2,
        num_samples=2,
        noise_items=0,
        dtype="float32",
    )
    run_study(study, folder, progress=PlainProgress(lambda text: None))
    records = RunFolder(folder).records()
    fewer = [name for name in study.probes if name not in COPIED]
    plans = [
        forecast(read_matrix(None, {**settings, "arms": ["magnitude:0.5"], "probes": probes}))[0].total.tokens
        for probes in (list(study.probes), fewer)
    ]
    return {
        "asked": {name: len(records) - records[name].null_count() for name in records.columns},
        "planned": plans,
        "of": len(records),
    }


if __name__ == "__main__":
    model, out = sys.argv[1], Path(sys.argv[2])
    run = planted_run(out / "planted")
    print(json.dumps({"shown": shown(run, out / "planted"), **asked(model, out / "run")}))
