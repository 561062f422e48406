"""Votes of a run with a tiny model: in its records, results, tables and page; also without the newest columns."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from anomia.measure.fallbacks import WAYS
from anomia.measure.frame import POOLED
from anomia.measure.results import Results, read_results, results_json
from anomia.measure.vote import vote
from anomia.records import read_rows, write_rows
from anomia.report.page.document import NamedRun, document
from anomia.report.render.files import write_tables
from anomia.report.tables.fallbacks import fallbacks
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study

TOKENS = ("beam_tokens", "sample_tokens", "one_shot_prompt_tokens", "one_shot_answer_tokens")


@pytest.fixture
def run(study: Study, tmp_path: Path) -> Path:
    settings = {"arms": ("magnitude:0.5",), "noise_items": 0, "sample_seeds": 2, "num_samples": 3}
    probes = ("open", "choice", "beams", "samples", "one_shot")
    study = Study.model_validate(study.model_dump() | settings | {"probes": probes})
    run_study(study, tmp_path / "run", progress=PlainProgress(lambda text: None))
    return tmp_path / "run"


def rows_of(results: Results) -> dict[tuple[str, str], tuple[float, float, int]]:
    return {(row.way, row.scope): (row.base_fallback, row.fallback, row.n) for row in results.fallbacks}


def test_a_run_measures_what_other_decoding_gives_back(run: Path, tmp_path: Path) -> None:
    records = RunFolder(run).records()
    asked = records.filter(pl.col("beam_texts").is_not_null())
    for row in asked.iter_rows(named=True):
        assert len(row["beam_tokens"]) == len(row["beam_texts"]) == 5
        assert len(row["sample_tokens"]) == len(row["sample_seeds"]) == 2 * 3
        assert max(row["beam_tokens"]) <= 4
        assert row["one_shot_prompt_tokens"] > 0
        assert 0 <= row["one_shot_answer_tokens"] <= 4
    results = read_results(run)
    found = {(row.way, row.scope): row for row in results.fallbacks}
    assert {way for way, _ in found} == set(WAYS)
    # Four of the six items of each language have beams and samples.
    assert (found["one_shot", POOLED].n, found["beams", POOLED].n, found["samples", "swahili"].n) == (
        12,
        8,
        4,
    )
    beams = found["beams", POOLED]
    right = []
    for row in asked.filter(arm="magnitude:0.5").iter_rows(named=True):
        log_probs = [score * (tokens + 1) for score, tokens in zip(row["beam_scores"], row["beam_tokens"], strict=True)]  # fmt: skip
        picked = vote(row["beam_texts"], log_probs)
        assert picked is not None
        right.append(row["beams_correct"][row["beam_texts"].index(picked.text)])
    assert beams.fallback == sum(right) / 8
    assert beams.written is not None
    assert 1 <= beams.written <= 20
    assert not any(row.estimated for row in results.fallbacks)
    stored = results_json(results)["fallbacks"]
    assert [(row["arm"], row["way"], row["n"]) for row in stored] == [(row.arm, row.way, row.n) for row in results.fallbacks]  # fmt: skip
    (shown,) = document([NamedRun("run", results)], [{}])["runs"]
    assert [table["title"] for table in shown["tables"]["repaired"] if table["rows"]] == [
        fallbacks(results).title
    ]
    assert tmp_path / "fallbacks.csv" in write_tables([NamedRun("run", results)], tmp_path)


def test_a_run_of_an_earlier_version_has_the_same_votes_of_samples(run: Path) -> None:
    before = read_results(run)
    for file in RunFolder(run).record_files():
        rows = read_rows(file)
        kept = {name: kind for name, kind in rows.schema.items() if name not in TOKENS}
        write_rows(rows.select(*kept).to_dicts(), file, kept)
    after = read_results(run)
    assert [(row.way, row.scope) for row in after.fallbacks] == [
        (row.way, row.scope) for row in before.fallbacks
    ]
    for key, found in rows_of(after).items():
        assert key[0] == "beams" or found == rows_of(before)[key]
    assert all(row.estimated and row.written for row in after.fallbacks)
    assert {row.way for row in after.fallbacks if row.read is None} == {"one_shot"}
