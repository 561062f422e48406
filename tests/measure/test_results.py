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
from anomia.measure.figures import Figure, before, lookup
from anomia.measure.frame import MEAN, POOLED
from anomia.measure.measures import parse
from anomia.measure.rates import Estimate
from anomia.measure.results import read_results, results_json
from anomia.measure.schema import ResultsFile, json_schema
from anomia.measure.verdict import Thresholds, read_thresholds
from anomia.records import write_rows
from tests.command import anomia
from tests.measure.planted import SAMPLES, VOCABULARY, Damage, study_records

DOCS = Path(__file__).resolve().parents[2] / "docs"
ARMS = {"wanda:0.3": Damage(open=0.1, seed=1), "wanda:0.5": Damage(open=0.4, choice=0.05, seed=2)}


def write_run(folder: Path, records: pl.DataFrame) -> Path:
    provenance = {
        "vocabulary": VOCABULARY,
        "excluded": {
            "english": {
                "ungradable": 3,
                "no_hard_options": 1,
                "no_passage_options": 2,
                "overlapping_hard_distractors": 7,
            }
        },
        "size_bytes": 540,
        "fertility": {"english": {"tokens_per_unit": 1.3, "unit": "word"}},
    }
    folder.mkdir(exist_ok=True)
    study = {"base": "x", "arms": list(ARMS), "provenance": provenance}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    write_rows(records.to_dicts(), folder / "records" / "all.parquet")
    (folder / "compression").mkdir()
    for arm in ARMS:
        sparsity = float(arm.partition(":")[2]) + 0.001
        report = {"arm": arm, "size_bytes": 540, "steps": [{"step": arm, "sparsity": sparsity}]}
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
            word = re.sub(r"beams|samples", "ORACLE", part)
            # Every kind of options has every scoring; the page says so once.
            word = re.sub(r"^choice(_hard|_passage)?_(token|byte|char|pmi)$", "RECOGNITION", word)
            names = (part, word, "/K" if part.isdigit() else part)
            assert any(name in text for name in names), measure


def test_all_that_was_promised_is_there(written: dict[str, Any]) -> None:
    measures = {row["measure"] for row in written["figures"] if row["arm"] == "wanda:0.5"}
    for wanted in (
        "accuracy/choice_hard", "accuracy/string_presence", "drop/open_em", "drop/open_f1", "normalized_drop/cued_chance",
        "gap/choice_passage", "dissociation/choice_hard", "contrast/dissociation_hard_minus_standard",
        "contrast/drop_zero_minus_one_shot", "contrast/drop_beams_minus_greedy", "recovery/samples/newly_broken",
        "recovery/beams/control", "recovery_over_base/samples", "recovery_over_control/beams/failed_before",
        "pass_at/1", f"pass_at/{SAMPLES}", "divergence/kl", "divergence/top1_agreement",
    ):  # fmt: skip
        assert wanted in measures
    assert {row["scope"] for row in written["figures"]} == {"english", "swahili", POOLED, MEAN}
    groups = {(row["place"], row["when"], row["group"]) for row in written["ranks"]}
    assert {("gold_distinct", "after", "choice_only"), ("control", "before", "base_fails")} <= groups
    assert {row["group"] for row in written["log_probs"]} >= {"all", "base_fails", FATES[0], FATES[1]}
    assert [(row["arm"], row["other"]) for row in written["between"] if row["scope"] == POOLED] == [
        ("wanda:0.3", "wanda:0.5")
    ] * 4
    assert [(row["arm"], row["sparsity"], row["size_bytes"]) for row in written["frontier"]] == [
        ("base", 0.0, 540), ("wanda:0.3", 0.301, 540), ("wanda:0.5", 0.501, 540),
    ]  # fmt: skip
    assert {row["scope"]: row["agreement"] for row in written["gradings"] if row["arm"] == "wanda:0.5"}[
        POOLED
    ] == "agree"
    english = next(row for row in written["hygiene"] if row["language"] == "english")
    assert (english["ungradable"], english["fertility"], english["choice_ties"]) == (3, 1.3, 0)
    assert english["overlapping_hard_distractors"] == 7
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

    assert value("accuracy/oracle_samples") == pytest.approx(reached["a"][asked].mean())
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
    # The control is never found in planted records.
    assert value("recovery_over_control/samples/newly_broken") == pytest.approx(reached["a"][broken].mean())
    assert value("recovery_over_control/samples/failed_before") == pytest.approx(reached["a"][before].mean())
    assert value("divergence/kl") == pytest.approx(arm["kl_from_base"].mean())


def test_several_seeds_count_as_shares() -> None:
    records = study_records({"a": Damage(open=0.3)}, items=20, sample_seeds=(1, 2))
    # Planted hits stand in the first sample, which the first seed drew.
    found = lookup(diagnose(records).figures)
    one, two, both = (
        found["a", f"accuracy/oracle_samples{suffix}", POOLED].value for suffix in ("_seed_1", "_seed_2", "")
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
    assert ranks["control_distinct", "after", "choice_only", POOLED].median == 47


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
    arms = ["b", "a", "never measured"]
    rows = {row.arm: row for row in frontier_rows(figures, arms, {"a": 0.3, "b": 0.5, "never measured": 0.9})}
    assert list(rows) == ["base", "b", "a"]
    assert {arm for arm, row in rows.items() if row.open_frontier} == {"base", "b"}
    assert {arm for arm, row in rows.items() if row.choice_frontier} == {"a", "b"}
    assert {row.open_size_frontier for row in rows.values()} == {None}
    assert frontier_rows(figures, arms, {"a": 0.3}) == []


def test_the_frontier_of_size_takes_in_arms_that_were_not_pruned() -> None:
    worth = {"base": (0.5, 0.9), "int8": (0.5, 0.88), "int4": (0.4, 0.9), "wanda:0.5": (0.3, 0.8)}
    figures = [
        Figure(arm, f"accuracy/{measure}", POOLED, Estimate(value, value, value, 50, 50))
        for arm, values in worth.items()
        for measure, value in zip(("open", "choice"), values, strict=True)
    ]
    sizes = {"base": 1000, "int8": 500, "int4": 300, "wanda:0.5": 1000}
    rows = {row.arm: row for row in frontier_rows(figures, list(worth)[1:], {"wanda:0.5": 0.5}, sizes)}
    assert list(rows) == list(worth)
    assert {arm for arm, row in rows.items() if row.open_size_frontier} == {"int8", "int4"}
    assert {arm for arm, row in rows.items() if row.choice_size_frontier} == {"int4"}
    assert (rows["int8"].sparsity, rows["int8"].open_frontier, rows["int8"].size_bytes) == (None, None, 500)
    assert rows["wanda:0.5"].open_frontier
    fewer = [
        figure._replace(estimate=figure.estimate._replace(n=20)) if figure.arm == "int4" else figure
        for figure in figures
        if figure.estimate
    ]
    assert "int4" not in {row.arm for row in frontier_rows(fewer, list(worth)[1:], {"wanda:0.5": 0.5}, sizes)}


def test_arms_stand_in_the_order_of_the_study(tmp_path: Path) -> None:
    arms = {name: Damage(open=0.1, seed=n) for n, name in enumerate(("wanda:0.5", "magnitude:0.5", "int8"))}
    run = write_run(tmp_path / "r", study_records(arms, items=40))
    study = {"base": "x", "arms": list(arms), "provenance": {}}
    (run / "study.yaml").write_text(yaml.safe_dump(study))
    found = read_results(run)
    assert found.arms == list(arms)
    plain = results_json(found)
    for key in ("figures", "fates", "verdicts", "tests", "hygiene"):
        order = dict.fromkeys(row["arm"] for row in plain[key] if row["arm"] != "base")
        assert list(order) == list(arms), key
    between = [(row["arm"], row["other"]) for row in plain["between"] if row["scope"] == POOLED]
    assert list(dict.fromkeys(between)) == [
        ("wanda:0.5", "magnitude:0.5"), ("wanda:0.5", "int8"), ("magnitude:0.5", "int8"),
    ]  # fmt: skip


def test_means_name_the_languages_that_they_leave_out() -> None:
    weak = study_records(ARMS, languages=("swahili",), items=60, open_accuracy=0.02, seed=5)
    strong = study_records(ARMS, languages=("english", "thai"), items=60)
    found = {
        (f.measure, f.scope): f for f in diagnose(pl.concat([strong, weak])).figures if f.arm == "wanda:0.5"
    }
    for measure in ("normalized_drop/open", "gap/choice", "dissociation/choice"):
        mean = found[measure, MEAN]
        assert mean.excluded == ("swahili",), measure
        assert mean.estimate is not None
        parts = [found[measure, language].estimate.value for language in ("english", "thai")]
        assert mean.estimate.value == pytest.approx(np.mean(parts))
    # What is pooled or averaged has one scope, whatever the figure needs.
    accuracy = found["accuracy/open", MEAN]
    assert accuracy.excluded == ("swahili",)
    assert found["accuracy/open", POOLED].estimate.n == 120
    assert found["drop/open", POOLED].estimate.n == 120
    languages = ("english", "thai")
    parts = [found["accuracy/open", language].estimate.value for language in languages]
    assert accuracy.estimate.value == pytest.approx(np.mean(parts))
    assert accuracy.estimate.low < accuracy.estimate.value < accuracy.estimate.high


def test_base_stands_beside_an_arm_on_the_items_of_the_arm() -> None:
    records = study_records(ARMS, languages=("english", "thai"), items=60)
    part = records.filter((pl.col("arm") != "wanda:0.5") | (pl.col("index") < 20))
    figures = lookup(diagnose(part).figures)
    base = records.filter((pl.col("arm") == "base") & (pl.col("index") < 20))
    beside = before(figures, "wanda:0.5", parse("accuracy/open"), POOLED)
    assert (beside.n, beside.value) == (40, pytest.approx(base["open_correct"].mean()))
    assert before(figures, "wanda:0.3", parse("accuracy/open"), POOLED).n == 120


def test_thresholds_are_options_that_a_run_remembers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", study_records(ARMS, items=60))
    strict = read_results(run, thresholds=read_thresholds(["hold=0.001", "fewest_both_correct=5"]))
    assert asdict(strict.thresholds)["hold"] == 0.001
    (run / "results.json").write_text(json.dumps(results_json(strict)))
    assert read_results(run).thresholds == Thresholds(hold=0.001, fewest_both_correct=5)
    for wrong, says in (("hodl=1", "did you mean 'hold'"), ("hold=x", "needs a number"), ("hold=nan", "number")):  # fmt: skip
        with pytest.raises(StudyError, match=says):
            read_thresholds([wrong])


def test_a_run_whose_arm_has_a_larger_vocabulary_is_read(tmp_path: Path) -> None:
    records = study_records(ARMS, items=40).with_columns(
        gold_rank=pl.when(arm="wanda:0.5").then(VOCABULARY + 40).otherwise("gold_rank")
    )
    run = write_run(tmp_path / "r", records)

    def share() -> float | None:
        rows = read_results(run).diagnosis.ranks
        place = ("wanda:0.5", "after", "gold", "all", POOLED)
        return next(r.vocabulary_share for r in rows if (r.arm, r.when, r.place, r.group, r.scope) == place)

    assert share() is None
    (run / "compression").mkdir(exist_ok=True)
    report = {"arm": "wanda:0.5", "steps": [], "vocabulary": VOCABULARY + 1_000}
    (run / "compression" / "own.json").write_text(json.dumps(report))
    assert share() == pytest.approx((VOCABULARY + 40) / (VOCABULARY + 1_000))
    for command in ("show", "gate"):
        done = anomia(command, run)
        assert done.returncode in (0, 1, 3), done.stderr


def test_what_lies_in_a_run_is_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", study_records(ARMS, items=20))
    for inside in (run / "study.yaml", run / "records", run / "records" / "all.parquet"):
        for command in ("show", "gate", "items"):
            assert f"{inside} is not a run; did you mean {run}?" in " ".join(
                anomia(command, inside).stderr.split()
            )
    # A study's file beside the runs makes no run of the folder.
    (tmp_path / "study.yaml").write_text("base: x")
    assert "it has no study.yaml" in anomia("show", tmp_path / "nowhere").stderr
