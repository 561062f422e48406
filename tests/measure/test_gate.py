"""The gate decides by bounds: exit codes, scopes, what is missing, and nothing that can flip."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anomia.cli import main
from anomia.errors import RunError, StudyError
from anomia.measure.frame import POOLED
from anomia.measure.gate import (
    DEFAULTS,
    LOSS,
    NET,
    SHOWN,
    Check,
    Gate,
    Limits,
    check_run,
    decide_at_least,
    decide_at_most,
    read_limits,
)
from anomia.measure.power import items_needed
from anomia.measure.rates import Estimate
from anomia.measure.results import read_results
from anomia.records import write_rows
from anomia.report.gate_report import junit, markdown
from tests.command import anomia
from tests.measure.planted import Damage, study_records

SAME, WORSE = "int8", "wanda:0.5"


def write_run(folder: Path, records: pl.DataFrame, arms: list[str]) -> Path:
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"base": "x", "arms": arms, "provenance": {}}))
    write_rows(records.to_dicts(), folder / "records" / "all.parquet")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = {SAME: Damage(open=0.01, seed=1), WORSE: Damage(open=0.5, seed=2)}
    strong = study_records(arms, languages=("english", "thai"), items=300)
    weak = study_records(arms, languages=("swahili",), items=100, open_accuracy=0.03, seed=9)
    return write_run(tmp_path_factory.mktemp("gate") / "r", pl.concat([strong, weak]), [WORSE, SAME])


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_bound_decides_and_the_point_never(value: float, low: float, high: float, limit: float) -> None:
    low, value, high = sorted((low, value, high))
    estimate = Estimate(value, low, high, 50, 50)
    at_most = decide_at_most(estimate, limit)
    assert (at_most == "pass") == (high <= limit)
    assert (at_most == "fail") == (low > limit)
    mirrored = Estimate(1 - value, 1 - high, 1 - low, 50, 50)
    assert (
        decide_at_least(mirrored, 1 - limit) == at_most or abs(high - limit) < 1e-9 or abs(low - limit) < 1e-9
    )


def test_the_exit_code_is_the_decision(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def code(*flags: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(["gate", str(run), *flags])
        return int(stopped.value.code or 0)

    assert code("--arm", SAME) == 0
    assert "passes" in capsys.readouterr().out
    assert code("--arm", WORSE) == 1
    assert code() == 1
    # A limit in the middle of the interval, and what would decide it.
    found = check_run(read_results(run), DEFAULTS, arms=[WORSE])
    middle = next(check.estimate.value for check in found.checks if check.name == NET and check.estimate)
    capsys.readouterr()
    assert code("--arm", WORSE, "--max-dissociation", f"{middle - 0.01:.3f}") == 3
    assert "inconclusive" in capsys.readouterr().out
    assert code("--arm", "wanda:0.6") == 2
    assert "did you mean 'wanda:0.5'" in capsys.readouterr().err
    assert code("--max-gap", "5") == 2
    assert code("--arm", SAME, "--junit", str(run / "no" / "such" / "file.xml")) == 2


def test_the_same_run_gives_the_same_decision(run: Path) -> None:
    once, again = (check_run(read_results(run), DEFAULTS, by_language=True) for _ in range(2))
    assert once == again


def test_languages_are_checked_and_weak_ones_are_said(run: Path) -> None:
    found = check_run(read_results(run), DEFAULTS, by_language=True, arms=[WORSE])
    by_scope = {(check.scope, check.name): check for check in found.checks}
    assert {scope for scope, _ in by_scope} == {POOLED, "english", "thai", "swahili"}
    weak = by_scope["swahili", NET]
    assert (weak.result, weak.estimate) == ("untestable", None)
    assert "fewer than 10" in weak.note
    text = markdown(found, name="r")
    assert "swahili: net dissociation: base answers fewer than 10" in text
    assert "| untestable" not in text
    # What can't be tested in one language stops nobody.
    mild = check_run(read_results(run), Limits(max_dissociation=0.99), by_language=True, arms=[SAME])
    assert mild.result == "pass"


def test_a_study_in_which_nothing_can_be_tested_does_not_pass(tmp_path: Path) -> None:
    records = study_records({"int8": Damage(seed=1)}, items=40, open_accuracy=0.02)
    found = check_run(read_results(write_run(tmp_path / "r", records, ["int8"])), DEFAULTS)
    assert found.result == "untestable"


def test_open_questions_come_with_the_number_that_would_settle_them(tmp_path: Path) -> None:
    arms = {"int8": Damage(open=0.1, seed=1)}
    limits = Limits(max_dissociation=0.2)
    small = study_records(arms, items=100)
    check = check_run(read_results(write_run(tmp_path / "small", small, ["int8"])), limits).checks[0]
    assert check.result == "inconclusive"
    assert check.items_needed is not None
    assert 100 < check.items_needed < 3000
    # All questions must be asked, not only those that base gets right both ways.
    assert check.estimate is not None
    assert check.estimate.n < 100
    followed = items_needed(check.estimate, 0.2)
    assert check.items_needed == pytest.approx(followed * 100 / check.estimate.n, abs=1)
    large = study_records(arms, items=2 * check.items_needed)
    assert check_run(read_results(write_run(tmp_path / "large", large, ["int8"])), limits).result == "pass"


def test_base_under_another_name_passes_however_few_its_questions(tmp_path: Path) -> None:
    base = study_records({}, items=12).with_columns(choice_scores=pl.lit([-1.0, -2.0, -3.0, -4.0]))
    both = pl.concat([base, base.with_columns(arm=pl.lit("same"))])
    found = check_run(read_results(write_run(tmp_path / "r", both, ["same"])), DEFAULTS)
    assert found.result == "pass"
    text = markdown(found, name="r")
    assert "every recorded probability is base's" in text
    assert "lies inside" not in text
    assert "no number" not in text
    other = both.with_columns(
        open_text=pl.when((pl.col("arm") == "same") & (pl.col("index") == 3)).then(pl.lit("x"))
    )
    assert check_run(read_results(write_run(tmp_path / "o", other, ["same"])), DEFAULTS).result != "pass"


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    records = study_records({"a": Damage(seed=1), "b": Damage(seed=2)}, items=60)
    half = records.filter((pl.col("arm") != "b") | (pl.col("index") < 20))
    results = read_results(write_run(tmp_path / "half", half, ["a", "b"]))
    with pytest.raises(RunError, match="b has answered 20 of 60 items"):
        check_run(results, DEFAULTS)
    assert check_run(results, DEFAULTS, arms=["a"]).result in ("pass", "inconclusive")
    none = read_results(write_run(tmp_path / "none", records.filter(pl.col("arm") != "b"), ["a", "b"]))
    with pytest.raises(RunError, match="b has answered 0 of 60"):
        check_run(none, DEFAULTS)


def test_an_arm_that_could_not_be_made_fails(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", study_records({"a": Damage(seed=1)}, items=60), ["a", "b"])
    (run / "arms.json").write_text(json.dumps({"b": {"failed": "no <room> left", "stopped": None}}))
    found = check_run(read_results(run), DEFAULTS)
    assert found.result == "fail"
    assert r"no \<room\> left" in markdown(found, name="r")


def test_a_stopped_run_is_decided_by_its_confidence_sequence(tmp_path: Path) -> None:
    records = study_records({"a": Damage(open=0.05, seed=1)}, items=120)
    part = records.filter((pl.col("arm") != "a") | (pl.col("index") < 90))
    run = write_run(tmp_path / "r", part, ["a"])
    wide = Estimate(0.05, 0.01, 0.3, 50, 50, "confidence sequence")
    look = {
        "languages": ["english"],
        "items": 90,
        "available": 120,
        "reason": "",
        "dissociation": wide._asdict(),
    }
    (run / "stopping.json").write_text(json.dumps({"width": 0.3, "arms": {"a": [look]}}))
    check = check_run(read_results(run), Limits(max_dissociation=0.2)).checks[0]
    # The net rate is never above the rate whose interval allows for looking.
    assert check.estimate is not None
    assert (check.estimate.high, check.result) == (0.3, "inconclusive")
    assert check.estimate.value <= wide.value + 0.2


def test_no_limit_means_all_and_one_means_one() -> None:
    assert read_limits() == DEFAULTS
    assert read_limits(max_gap=0.1) == Limits(max_gap=0.1)
    with pytest.raises(StudyError, match="--max-dissociation is a share"):
        read_limits(15)


@given(st.text(max_size=40), st.text(max_size=40))
def test_junit_is_xml_whatever_the_names(arm: str, note: str) -> None:
    checks = (
        Check(arm, POOLED, "dissociation", 0.1, "at most", Estimate(0.2, 0.15, 0.3, 50, 50), "fail"),
        Check(arm, "thai", "gap", 0.1, "at most", None, "untestable", note=note),
        Check(arm, "thai", "gap", 0.1, "at most", Estimate(0.1, 0.0, 0.3, 50, 50), "inconclusive", 400),
    )
    root = ElementTree.fromstring(junit([("r", Gate("fail", checks))]))
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == (
        "3",
        "1",
        "1",
        "1",
    )
    assert len(root.findall(".//testcase")) == 3
    assert "\n| " in markdown(Gate("fail", checks), name=arm)


def test_markdown_keeps_names_from_breaking_out() -> None:
    check = Check("a|b\n# `<b>`", POOLED, "can be made", None, "at least", None, "fail", note="x")
    row = markdown(Gate("fail", (check,)), name="r").splitlines()[4]
    assert row.startswith(r"| a\|b # \`\<b\>\` | all items |")


def test_junit_tells_what_decides_from_what_does_not() -> None:
    estimate = Estimate(0.1, 0.0, 0.3, 50, 50)
    checks = (
        Check("a", POOLED, "gap", 0.05, "at most", None, "untestable", note="base is too weak here"),
        Check("a", "thai", "gap", 0.05, "at most", None, "untestable", note="base is too weak here"),
        Check("a", POOLED, "dissociation", 0.05, "at most", estimate, "inconclusive", 400),
        Check("a", POOLED, "open retained", 0.9, "at least", estimate, "fail"),
        Check("a", "thai", "open retained", 0.05, "at least", estimate, "pass"),
    )
    root = ElementTree.fromstring(junit([("r", Gate("fail", checks))]))
    told = [[(part.tag, part.get("type")) for part in case] for case in root.iter("testcase")]
    assert told == [
        [("error", "untestable")], [("skipped", "untestable")], [("error", "inconclusive")], [("failure", "fail")], [],
    ]  # fmt: skip
    for counted in (root, root[0]):
        assert [counted.get(name) for name in ("tests", "failures", "errors", "skipped")] == [
            "5",
            "1",
            "2",
            "1",
        ]
    names = [case.get("name") for case in root.iter("testcase")]
    assert names[0] == "gap (all items) ≤ 5 %"
    assert "| a | all items | gap |" in markdown(Gate("fail", checks), name="r")


def test_swapped_models_are_asked_about(tmp_path: Path) -> None:
    records = study_records({"a": Damage(open=0.6, seed=1)}, items=120)
    names = pl.when(arm="a").then(pl.lit("base")).otherwise(pl.lit("a"))
    swapped = records.with_columns(arm=names).sort("arm", "index")
    found = check_run(read_results(write_run(tmp_path / "r", swapped, ["a"])), DEFAULTS)
    assert [caution.arm for caution in found.cautions] == ["a"]
    assert "are they swapped?" in markdown(found, name="r")
    assert "are they swapped?" in ElementTree.fromstring(junit([("r", found)])).findtext(".//system-out", "")
    usual = check_run(read_results(write_run(tmp_path / "u", records, ["a"])), DEFAULTS)
    assert usual.cautions == ()
    assert "swapped" not in markdown(usual, name="u")


def test_numbers_of_questions_are_rounded_or_out_of_reach() -> None:
    estimate = Estimate(0.1, 0.0, 0.3, 32, 32)
    check = Check("a", POOLED, "gap", 0.05, "at most", estimate, "inconclusive", 1_345, asked=32)
    far = check._replace(items_needed=718_461)
    assert "| 1,400 |" in markdown(Gate("inconclusive", (check,)), name="r")
    assert "about 1,400 questions like these" in junit([("r", Gate("inconclusive", (check,)))])
    for text in (
        markdown(Gate("inconclusive", (far,)), name="r"),
        junit([("r", Gate("inconclusive", (far,)))]),
    ):
        assert "out of reach: the figure is too close to its limit" in text
        assert "718" not in text


def test_several_runs_are_decided_in_one_call(run: Path, tmp_path: Path) -> None:
    records = study_records({SAME: Damage(open=0.01, seed=1)}, items=300)
    other = write_run(tmp_path / "r", records, [SAME])
    done = anomia("gate", other, run, "--json", "--summary", tmp_path / "s.md")
    found = json.loads(done.stdout)
    assert (done.returncode, found["result"], found["exit_code"]) == (1, "fail", 1)
    assert [(each["run"], each["result"]) for each in found["runs"]] == [
        (str(other), "pass"),
        (str(run), "fail"),
    ]
    check = found["runs"][1]["checks"][0]
    assert (check["arm"], check["name"], check["limit"], check["result"]) == (
        WORSE,
        NET,
        0.15,
        "fail",
    )
    assert check["estimate"]["low"] > 0.15
    assert (tmp_path / "s.md").read_text().count("## Anomia:") == 2
    assert anomia("gate", other, other).returncode == 0


def test_the_workflow_is_yaml_and_calls_the_gate() -> None:
    file = Path(__file__).resolve().parents[2] / "docs" / "workflows" / "anomia-gate.yml"
    steps = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]["gate"]["steps"]
    assert any("anomia gate" in step.get("run", "") for step in steps)


def test_a_null_arm_is_the_reference_and_decides_nothing(tmp_path: Path) -> None:
    arms = {"null:float32": Damage(open=0.3, seed=1), "int8": Damage(open=0.01, seed=2)}
    run = write_run(tmp_path / "r", study_records(arms, items=300), list(arms))
    found = check_run(read_results(run), DEFAULTS)
    assert {check.arm for check in found.checks} == {"int8"}
    assert {check.arm for check in found.reference} == {"null:float32"}
    assert found.result == "pass"
    assert any(caution.arm == "null:float32" for caution in found.cautions)
    text = markdown(found, name="r")
    assert "base again under harmless noise" in text
    assert check_run(read_results(run), DEFAULTS, arms=["null:float32"]).result == "fail"


def test_a_loss_that_is_shown_must_be_small(tmp_path: Path) -> None:
    records = study_records({"a": Damage(open=0.12, seed=1)}, items=800)
    results = read_results(write_run(tmp_path / "r", records, ["a"]))
    lenient = Limits(max_shown_loss=0.05, max_dissociation=1.0)
    (_, check) = check_run(results, lenient).checks
    assert check.estimate is not None
    assert check.name == SHOWN
    assert check.estimate.low > 0
    assert check.result == ("fail" if check.estimate.low > 0.05 else "inconclusive")
    assert check_run(results, Limits(max_shown_loss=0.5)).result == "pass"
    few = read_results(write_run(tmp_path / "f", records.filter(pl.col("index") < 40), ["a"]))
    (_, check) = check_run(few, lenient).checks
    assert check.estimate is not None
    assert check.result == ("pass" if check.estimate.low <= 0 else "inconclusive")
    # Alone it waves no small study through.
    alone = check_run(few, Limits(max_shown_loss=0.05))
    assert ([check.name for check in alone.checks], alone.result) == ([LOSS], "inconclusive")


def test_a_language_that_is_excluded_is_named_and_can_fail(tmp_path: Path) -> None:
    """In one language base picks no better than by guessing; there all open answers are lost."""
    kept = study_records({"a": Damage(open=0.0, choice=0.0, seed=1)}, languages=("english",), items=400)
    weak = study_records(
        {"a": Damage(open=1.0, choice=0.0, seed=2)},
        languages=("swahili",),
        items=100,
        choice_accuracy=0.25,
        seed=3,
    )
    results = read_results(write_run(tmp_path / "r", pl.concat([kept, weak]), ["a"]))
    assert results.excluded_languages == ("swahili",)
    found = check_run(results, DEFAULTS)
    (check,) = [check for check in found.checks if check.scope == "swahili"]
    assert (check.name, check.result, found.result) == (SHOWN, "fail", "fail")
    assert any("decided without swahili" in caution.text for caution in found.cautions)
    assert "| a | all but swahili | gap |" in markdown(found, name="r")
    assert all(
        "decided without" not in c.text for c in check_run(results, DEFAULTS, by_language=True).cautions
    )


def test_a_null_arm_fails_a_check_only_if_it_is_decided(tmp_path: Path) -> None:
    arms = {"null:float32": Damage(open=0.3, seed=1), "int8": Damage(open=0.01, seed=2)}
    results = read_results(
        write_run(tmp_path / "r", study_records(arms, items=200), ["int8", "null:float32"])
    )
    lost = next(check.estimate for check in check_run(results, DEFAULTS).reference if check.name == SHOWN)
    assert lost is not None

    def said(limit: float) -> str:
        found = check_run(results, Limits(max_shown_loss=limit))
        return " ".join(caution.text for caution in found.cautions if caution.arm == "null:float32")

    assert f"fails this check itself ({LOSS}): noise alone" in said(lost.low / 2)
    assert f"doesn't pass this check itself ({LOSS}: inconclusive): with so few" in said(lost.value)
    assert "fails" not in said(lost.value)
    assert said(lost.high + 0.01) == ""


def test_a_run_of_null_arms_alone_has_nothing_to_decide_on(tmp_path: Path) -> None:
    records = study_records({"null:float32": Damage(seed=1)}, items=40)
    with pytest.raises(RunError, match="every arm of the run is base itself under harmless noise"):
        check_run(read_results(write_run(tmp_path / "r", records, ["null:float32"])), DEFAULTS)


def scored_records(drops: dict[str, float], items: int = 150) -> pl.DataFrame:
    """A task whose answers have scores alone: base has 0.6 ± 0.1 and the arm less, by language."""
    records = study_records({WORSE: Damage()}, languages=tuple(drops), items=items)
    noise = pl.int_range(pl.len()).mod(7).sub(3) / 60
    before = 0.6 + (pl.col("index") % 5 - 2) / 20
    drop = pl.col("language").replace_strict(drops, return_dtype=pl.Float64)
    score = pl.when(pl.col("arm") == "base").then(before).otherwise(before - drop + noise)
    return records.with_columns(open_score=score, open_correct=pl.lit(None, dtype=pl.Boolean))


def test_the_drop_of_a_score_is_limited(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", scored_records({"english": 0.02, "thai": 0.12}), [WORSE])
    results = read_results(folder)

    def decided(limit: float, *, by_language: bool = False) -> dict[str, str]:
        checks = check_run(results, read_limits(max_score_drop=limit), by_language=by_language).checks
        assert {check.name for check in checks} == {"drop of the task's score"}
        return {check.scope: check.result for check in checks}

    pooled = next(row.drop for row in results.scores if row.scope == POOLED)
    assert pooled is not None
    assert pooled.value == pytest.approx(0.07, abs=0.003)
    assert decided(0.09) == {POOLED: "pass"}
    assert decided(0.05) == {POOLED: "fail"}
    assert decided(pooled.value) == {POOLED: "inconclusive"}
    assert decided(0.09, by_language=True) == {POOLED: "pass", "english": "pass", "thai": "fail"}
    for limit, code in ((0.09, 0), (0.05, 1), (pooled.value, 3)):
        with pytest.raises(SystemExit) as stopped:
            main(["gate", str(folder), "--max-score-drop", str(limit)])
        assert int(stopped.value.code or 0) == code


def test_a_score_that_is_not_there_is_untestable(run: Path, tmp_path: Path) -> None:
    (check, *_) = check_run(read_results(run), read_limits(max_score_drop=0.05), arms=[SAME]).checks
    assert (check.result, check.note) == (
        "untestable",
        "answers have no scores, or none in both; only some tasks have them",
    )
    # And a task that has scores alone says so where right answers are limited.
    folder = write_run(tmp_path / "r", scored_records({"english": 0.02}), [WORSE])
    checks = check_run(read_results(folder), read_limits()).checks
    assert len(checks) == 4
    assert {check.result for check in checks} == {"untestable"}
    assert all("--max-score-drop" in check.note for check in checks)
