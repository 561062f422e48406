"""The Python API: its surface, its cost to import, and runs of models in memory."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import anomia
from anomia.errors import AnomiaError, ModelError, RunError
from anomia.measure.measures import MEASURES
from tests.conftest import entry

DOCS = Path(__file__).resolve().parents[1] / "docs"
QUICK = {"num_beams": 2, "num_samples": 2, "max_new_tokens": 4, "noise_items": 0, "progress": False}


def test_help_and_signature_are_those_of_the_function() -> None:
    import anomia.running.execute

    parameters = inspect.signature(anomia.run).parameters
    assert list(parameters)[:4] == ["base", "arms", "data", "languages"]
    assert "Measures base and every arm" in str(anomia.run.__doc__)


def test_arguments_that_are_almost_right() -> None:
    with pytest.raises(anomia.AnomiaError, match=r"languages is a list, as in languages=\['swahili'\]"):
        anomia.run(base="m", arms=["wanda:0.5"], languages="swahili")
    with pytest.raises(anomia.AnomiaError, match="'mine' is an arm already: tiny"):
        anomia.run(base="m", arms={"mine": "tiny"})  # type: ignore[dict-item]


def test_the_surface() -> None:
    assert sorted(anomia.__all__) == dir(anomia) == [
        "AnomiaError", "InMemory", "Run", "Verdict", "__version__", "build_items", "open_run", "read_questions", "run",
    ]  # fmt: skip
    public = {name for name, _ in inspect.getmembers(anomia.Run) if not name.startswith("_")}
    assert public == {
        "arms", "chart", "estimate", "estimates", "failed", "fates", "figure", "figures", "items", "languages", "locate", "notes", "records", "report",
        "results", "verdict", "verdicts",
    }  # fmt: skip
    from anomia.api import run

    assert list(inspect.signature(run).parameters) == [
        "base", "arms", "data", "languages", "limit", "out", "progress", "settings",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        anomia.rum  # noqa: B018


@pytest.mark.parametrize("first", ["", "import anomia.running.execute"])
def test_run_can_be_called_whatever_was_imported_before(first: str) -> None:
    code = f"{first}\nimport anomia\nassert callable(anomia.run)\ntry:\n    anomia.run(base='/nowhere', arms='x')\nexcept anomia.AnomiaError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "arms is a list" in done.stdout


def test_importing_costs_nothing() -> None:
    heavy = ("torch", "transformers", "polars", "numpy", "pydantic", "datasets", "rich")
    code = (
        "import sys, time; t = time.process_time(); import anomia; t = time.process_time() - t\n"
        f"print(t, [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, _, loaded = done.stdout.strip().partition(" ")
    assert loaded == "[]"
    assert float(seconds) < 0.2


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import json

    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    path.write_text("".join(json.dumps(entry(n)) + "\n" for n in range(10)))
    return path


@pytest.fixture(scope="module")
def run(
    make_model: Callable[..., Any], tokenizer: Any, questions: Path, tmp_path_factory: pytest.TempPathFactory
) -> anomia.Run:
    return anomia.run(
        base=(make_model(), tokenizer),
        arms=[anomia.InMemory(make_model(1), tokenizer, "<b>other</b>"), "magnitude:0.5"],
        data=f"jsonl:{questions}",
        limit=6,
        out=tmp_path_factory.mktemp("runs") / "run",
        **QUICK,
    )


def test_models_in_memory_are_measured_and_left_alone(
    make_model: Callable[..., Any], tokenizer: Any, questions: Path, tmp_path: Path
) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    found = anomia.run(
        base=(model, tokenizer), arms=["magnitude:0.5"], data=f"jsonl:{questions}", limit=4, out=tmp_path / "r", **QUICK
    )  # fmt: skip
    assert found.arms == ["magnitude:0.5"]
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    base, arm = (
        found.records.filter(arm=name)["choice_scores"].to_list() for name in ("base", found.arms[0])
    )
    assert base != arm
    # Another model under the same name is another base: the run is not gone on with.
    with pytest.raises(RunError, match="a different study"):
        anomia.run(
            base=(make_model(5), tokenizer), arms=["magnitude:0.5"], data=f"jsonl:{questions}", limit=4,
            out=tmp_path / "r", **QUICK,
        )  # fmt: skip


def test_an_arm_is_found_by_the_name_that_it_was_given(run: anomia.Run) -> None:
    (full,) = [arm for arm in run.arms if "b-other-b" in arm]
    assert run.verdicts["b-other-b"] == run.verdicts[full]
    assert run.items(arm="b-other-b").equals(run.items(arm=full))
    with pytest.raises(RunError, match="has no arm 'other'"):
        run.verdicts["other"]


def test_a_script_without_a_terminal_sees_lines(
    questions: Path, model_folder: Path, tmp_path: Path, capfd: Any
) -> None:
    anomia.run(
        base=model_folder, arms=["magnitude:0.5"], data=f"jsonl:{questions}", limit=4, out=tmp_path / "lines",
        probes=["open", "choice"], **{**QUICK, "progress": True},
    )  # fmt: skip
    said = capfd.readouterr().err.splitlines()
    assert any("magnitude:0.5" in line for line in said), said


def test_a_model_that_is_no_longer_held_is_one_message(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="process that has ended"):
        anomia.run(
            base="memory:base-00",
            arms=["magnitude:0.5"],
            data=f"jsonl:{questions}",
            out=tmp_path / "r",
            **QUICK,
        )


def test_frames(run: anomia.Run) -> None:
    other, pruned = run.arms
    assert other.startswith("checkpoint:memory:b-other-b")
    assert pruned == "magnitude:0.5"
    assert run.languages == ["english"]
    assert run.records.height == 18
    assert "fate" in run.records.columns
    fates = run.fates()
    counts = fates.filter(arm=pruned, options="choice", scope="pooled").row(0, named=True)
    assert counts["both_correct"] == sum(counts[f] for f in ("kept", "choice_only", "open_only", "lost"))
    figures = run.estimates()
    assert set(figures["arm"]) == {"base", other, pruned}
    assert figures.filter(arm=pruned, measure="accuracy/choice", scope="pooled")["n"].item() == 6
    found = run.estimate("accuracy/choice", pruned)
    assert found is not None
    assert found.n == 6
    unasked = sorted(set(MEASURES) - set(figures["measure"]))
    assert unasked
    assert run.estimate(unasked[0], pruned) is None
    with pytest.deprecated_call(match="estimates"):
        assert run.figures().equals(figures)
    items = run.items(arm=pruned, language="en")
    assert items.height == 6
    assert items.filter(pl.col("base_answer").is_null()).is_empty()
    assert run.items(fate="kept").height <= 12


def test_faults_name_the_remedy(run: anomia.Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="2 arms"):
        _ = run.verdict
    with pytest.raises(RunError, match="did you mean 'choice_only'"):
        run.items(fate="choice_onli")
    with pytest.raises(RunError, match="no arm 'wanda'"):
        run.items(arm="wanda")
    with pytest.raises(RunError, match="no language"):
        run.items(language="sw")
    with pytest.raises(RunError, match="did you mean 'gap/choice'"):
        run.estimate("gap/choise", "magnitude:0.5")
    with pytest.raises(RunError, match=r"did you mean 'magnitude:0\.5'"):
        run.estimate("gap/choice", "magnitude:0.4")
    with pytest.raises(RunError, match="did you mean 'english'"):
        run.estimate("gap/choice", "base", "englisch")
    with pytest.raises(RunError, match="no figure 'lader'"), pytest.deprecated_call(match="chart"):
        run.figure("lader")
    with pytest.raises(RunError, match="no figure 'lader'"):
        run.chart("lader")
    with pytest.raises(RunError, match="is not an Anomia run"):
        anomia.open_run(tmp_path)
    with pytest.raises(AnomiaError, match="is not a model"):
        anomia.run(base=3, arms=["wanda:0.5"], **QUICK)  # type: ignore[arg-type]


def test_display_is_escaped(run: anomia.Run) -> None:
    again = anomia.open_run(run.path)
    found = again.results.overall("magnitude:0.5")
    words = found.words._replace(headline="<i>text</i>")
    verdict = anomia.Verdict(
        found._replace(arm="<script>a</script>", words=words), (found._replace(scope="<b>"),)
    )
    assert "<script>" not in verdict._repr_html_()
    assert "&lt;i&gt;" in verdict._repr_html_()
    assert "<td>&lt;b&gt;</td>" in verdict._repr_html_()
    assert repr(verdict).startswith(f"<script>a</script>: {found.outcome}. ")
    html = again._repr_html_()
    assert "magnitude:0.5" in html
    assert all(repr(v) in repr(again) for v in again.verdicts.values())


def test_a_report_and_a_chart(run: anomia.Run, tmp_path: Path) -> None:
    assert run.chart("ladder").to_dict()["$schema"].startswith("https://vega.github.io/schema/vega-lite")
    page = run.report(tmp_path / "report")
    assert page.is_file()
    assert page.stat().st_size > 10_000


def test_every_example_of_the_documentation_runs(
    make_model: Callable[..., Any], tokenizer: Any, questions: Path, tmp_path: Path
) -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    # What needs the hub stands as ```py.
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 7
    given = {
        "model": make_model(),
        "other_model": make_model(1),
        "tokenizer": tokenizer,
        "questions": questions,
        "folder": tmp_path / "run",
    }
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), dict(given))
