"""`results.json`: what stands in it, what it promises, and that it is fast enough to be computed each time."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from anomia.errors import StudyError
from anomia.measure.between import frontier_rows
from anomia.measure.diagnosis import diagnose
from anomia.measure.fates import FATES
from anomia.measure.figures import Figure, lookup
from anomia.measure.frame import MEAN, POOLED
from anomia.measure.rates import Estimate
from anomia.measure.results import read_results, results_json
from anomia.measure.schema import ResultsFile, json_schema
from anomia.measure.verdict import Thresholds, read_thresholds
from anomia.records import write_rows
from tests.measure.planted import SAMPLES, VOCABULARY, Damage, study_records

DOCS = Path(__file__).resolve().parents[2] / "docs"
ARMS = {"wanda:0.3": Damage(open=0.1, seed=1), "wanda:0.5": Damage(open=0.4, choice=0.05, seed=2)}


def write_run(folder: Path, records: pl.DataFrame) -> Path:
    provenance = {
        "vocabulary": VOCABULARY,
        "excluded": {"english": {"ungradable": 3, "no_hard_options": 1, "no_passage_options": 2}},
        "fertility": {"english": {"tokens_per_unit": 1.3, "unit": "word"}},
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"base": "x", "provenance": provenance}))
    write_rows(records.to_dicts(), folder / "records" / "all.parquet")
    (folder / "compression").mkdir()
    for arm in ARMS:
        sparsity = float(arm.partition(":")[2]) + 0.001
        report = {"arm": arm, "steps": [{"step": arm, "sparsity": sparsity}]}
        (folder / "compression" / f"{arm.replace(':', '-')}.json").write_text(json.dumps(report))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    records = study_records(ARMS, languages=("english", "swahili"), items=120)
    run = write_run(tmp_path_factory.mktemp("run") / "r", records)
    return results_json(read_results(run))


def test_results_follow_their_own_schema_and_have_no_nan(written: dict[str, Any]) -> None:
    again = json.loads(json.dumps(written, allow_nan=False))
    assert ResultsFile.model_validate(again).model_dump(mode="json") == written
    assert set(json_schema()["required"]) == set(written)


def test_the_documented_schema_is_current() -> None:
    found = json.loads((DOCS / "results.schema.json").read_text(encoding="utf-8"))
    assert found == json_schema(), "write it anew: python -m anomia.measure.schema > docs/results.schema.json"


def test_every_measure_is_documented(written: dict[str, Any]) -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    for key in written:
        assert f"`{key}`" in text, key
    for measure in {row["measure"] for row in written["figures"]}:
        head, *rest = measure.split("/")
        head_known = re.search(rf"`{head}/", text)
        assert head_known, measure
        for part in rest:
            word = re.sub(r"beams|samples", "REACH", part)
            names = (part, word, part.removeprefix("choice_correct"), "/K" if part.isdigit() else part)
            assert any(name in text for name in names), measure


def test_all_that_was_promised_is_there(written: dict[str, Any]) -> None:
    measures = {row["measure"] for row in written["figures"] if row["arm"] == "wanda:0.5"}
    for wanted in (
        "accuracy/choice_hard", "accuracy/string_presence", "drop/open_em", "drop/open_f1", "normalized_drop/cued_chance",
        "gap/choice_passage", "dissociation/choice_hard", "contrast/dissociation_hard_minus_standard",
        "contrast/drop_zero_minus_one_shot", "contrast/drop_beams_minus_greedy", "recovery/samples/newly_broken",
        "recovery/beams/foil", "recovery_over_base/samples", "recovery_over_foil/beams/failed_before",
        "pass_at/1", f"pass_at/{SAMPLES}", "divergence/kl", "divergence/same_top",
    ):  # fmt: skip
        assert wanted in measures
    assert {row["scope"] for row in written["figures"]} == {"english", "swahili", POOLED, MEAN}
    groups = {(row["place"], row["when"], row["group"]) for row in written["ranks"]}
    assert {("gold_distinct", "after", "choice_only"), ("foil", "before", "base_fails")} <= groups
    assert {row["group"] for row in written["log_probs"]} >= {"all", "base_fails", FATES[0], FATES[1]}
    assert [(row["arm"], row["other"]) for row in written["between"] if row["scope"] == POOLED] == [
        ("wanda:0.3", "wanda:0.5")
    ] * 2
    assert [(row["arm"], row["sparsity"]) for row in written["frontier"]] == [
        ("base", 0.0), ("wanda:0.3", 0.301), ("wanda:0.5", 0.501),
    ]  # fmt: skip
    assert {row["scope"]: row["agreement"] for row in written["gradings"] if row["arm"] == "wanda:0.5"}[
        POOLED
    ] == "agree"
    english = next(row for row in written["hygiene"] if row["language"] == "english")
    assert (english["ungradable"], english["fertility"], english["choice_ties"]) == (3, 1.3, 0)
    assert english["fertility_unit"] == "word"


def test_holm_is_within_the_languages_of_one_arm_and_measure(written: dict[str, Any]) -> None:
    rows = [r for r in written["tests"] if (r["arm"], r["measure"]) == ("wanda:0.5", "open changed")]
    raw = {row["scope"]: row["p_value"] for row in rows}
    adjusted = {row["scope"]: row["adjusted"] for row in rows}
    assert adjusted[POOLED] is None
    smaller, larger = sorted(("english", "swahili"), key=raw.__getitem__)
    assert adjusted[smaller] == pytest.approx(min(1, 2 * raw[smaller]))
    assert adjusted[larger] == pytest.approx(max(adjusted[smaller], raw[larger]))
    assert {row["family"] for row in rows} == {"languages of wanda:0.5, open changed"}


def test_figures_of_arms_are_what_the_columns_say() -> None:
    records = study_records(ARMS, items=150, seed=3)
    figures = lookup(diagnose(records, vocabulary=VOCABULARY).figures)
    base, arm = (records.filter(pl.col("arm") == name) for name in ("base", "wanda:0.5"))
    asked = arm["samples_correct"].is_not_null().to_numpy()
    reached = {
        name: frame["samples_correct"].list.any().fill_null(False).to_numpy()
        for name, frame in (("b", base), ("a", arm))
    }
    opened = {name: frame["open_correct"].to_numpy() for name, frame in (("b", base), ("a", arm))}
    failed = asked & ~opened["a"]
    broken = failed & opened["b"]

    def value(measure: str) -> float:
        found = figures["wanda:0.5", measure, "english"]
        assert found is not None
        return found.value

    assert value("accuracy/reach_samples") == pytest.approx(reached["a"][asked].mean())
    assert value("recovery/samples/arm") == pytest.approx(reached["a"][failed].mean())
    assert value("recovery/samples/newly_broken") == pytest.approx(reached["a"][broken].mean())
    own = asked & ~opened["b"]
    assert value("recovery_over_base/samples") == pytest.approx(
        reached["a"][failed].mean() - reached["b"][own].mean()
    )
    drops = {name: (opened["b"] * 1.0 - opened["a"])[asked].mean() for name in ("greedy",)}
    reach = (reached["b"] * 1.0 - reached["a"])[asked].mean()
    assert abs(reach - drops["greedy"]) > 0.01
    assert value("contrast/drop_samples_minus_greedy") == pytest.approx(reach - drops["greedy"])
    before = failed & ~opened["b"]
    assert abs(reached["a"][before].mean() - reached["a"][broken].mean()) > 0.01
    # The foil is never found in planted records.
    assert value("recovery_over_foil/samples/newly_broken") == pytest.approx(reached["a"][broken].mean())
    assert value("recovery_over_foil/samples/failed_before") == pytest.approx(reached["a"][before].mean())
    assert value("divergence/kl") == pytest.approx(arm["kl_from_base"].mean())


def test_several_seeds_count_as_shares() -> None:
    records = study_records({"a": Damage(open=0.3)}, items=20, sample_seeds=(1, 2))
    # Planted hits stand in the first sample, which the first seed drew.
    found = lookup(diagnose(records).figures)
    one, two, both = (
        found["a", f"accuracy/reach_samples{suffix}", POOLED].value for suffix in ("_seed_1", "_seed_2", "")
    )
    assert one > 0
    assert two == 0
    assert both == pytest.approx(one / 2)


def test_ranks_are_told_by_fate() -> None:
    records = study_records({"a": Damage(open=0.5, rank=7)}, items=200)
    ranks = {(r.place, r.when, r.group, r.scope): r for r in diagnose(records, vocabulary=VOCABULARY).ranks}
    unsaid = ranks["gold_distinct", "after", "choice_only", POOLED]
    assert (unsaid.median, unsaid.vocabulary_share) == (7, 7 / VOCABULARY)
    assert unsaid.median_margin == pytest.approx(np.log(7))
    assert ranks["gold_distinct", "before", "choice_only", POOLED].median == 1
    assert ranks["foil_distinct", "after", "choice_only", POOLED].median == 47


def test_arms_are_compared_on_the_items_that_both_answered() -> None:
    records = study_records({"a": Damage(0.2, seed=1), "b": Damage(0.5, seed=2)}, items=100)
    short = records.filter((pl.col("arm") != "b") | (pl.col("index") < 60))
    rows = {(r.measure, r.scope): r.estimate for r in diagnose(short).between}
    part = records.filter(pl.col("index") < 60)
    alone = lookup(diagnose(part).figures)
    gap = rows["gap/choice", POOLED]
    assert gap is not None
    assert gap.n == 60
    wanted = alone["a", "gap/choice", POOLED].value - alone["b", "gap/choice", POOLED].value
    assert gap.value == pytest.approx(wanted)


def test_the_frontier_leaves_out_what_is_sparser_and_as_good() -> None:
    def figure(arm: str, measure: str, value: float) -> Figure:
        return Figure(arm, f"accuracy/{measure}", POOLED, Estimate(value, value, value, 50, 50))

    worth = {"base": (0.5, 0.9), "a": (0.3, 0.9), "b": (0.4, 0.8), "never measured": None}
    figures = [
        figure(arm, measure, value)
        for arm, values in worth.items()
        if values
        for measure, value in zip(("open", "choice"), values, strict=True)
    ]
    rows = {row.arm: row for row in frontier_rows(figures, {"a": 0.3, "b": 0.5, "never measured": 0.9})}
    assert list(rows) == ["base", "a", "b"]
    assert {arm for arm, row in rows.items() if row.open_frontier} == {"base", "b"}
    assert {arm for arm, row in rows.items() if row.choice_frontier} == {"a", "b"}
    assert frontier_rows(figures, {"a": 0.3}) == []


def test_thresholds_are_options_that_a_run_remembers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", study_records(ARMS, items=60))
    strict = read_results(run, thresholds=read_thresholds(["hold=0.001", "fewest_both_correct=5"]))
    assert asdict(strict.thresholds)["hold"] == 0.001
    (run / "results.json").write_text(json.dumps(results_json(strict)))
    assert read_results(run).thresholds == Thresholds(hold=0.001, fewest_both_correct=5)
    for wrong, says in (("hodl=1", "did you mean 'hold'"), ("hold=x", "needs a number"), ("hold=nan", "number")):  # fmt: skip
        with pytest.raises(StudyError, match=says):
            read_thresholds([wrong])
