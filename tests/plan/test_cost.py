"""Plans: counted as the run counts, from a configuration alone, and right about a run that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from typer.testing import CliRunner

from anomia.cli import app
from anomia.errors import AnomiaError, StudyError
from anomia.matrix import Matrix, read_matrix
from anomia.models.load import load_model
from anomia.plan import cost as cost_module
from anomia.plan.cost import forecast, on_machine
from anomia.plan.machines import MACHINES, read_machine

STUDIES = Path(__file__).resolve().parents[2] / "studies"
MODELS = {"main": 1, "families": 3, "scale": 5, "calibration": 1, "methods": 1, "small": 1}
CELLS = {"main": 1, "families": 6, "scale": 5, "calibration": 1, "methods": 1, "small": 2}
ARMS = {"main": 1, "families": 1, "scale": 1, "calibration": 6, "methods": 8, "small": 6}
GEMMA = {
    "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_names_from_before() -> None:
    cost_module._skeleton.cache_clear()


@pytest.fixture
def config_folder(tmp_path: Path) -> Path:
    """A configuration and nothing else."""
    folder = tmp_path / "model"
    transformers.Gemma3TextConfig(**GEMMA).save_pretrained(folder)
    return folder


def matrix_of(folder: Path, **settings: Any) -> Matrix:
    return read_matrix(None, {"base": str(folder), "arms": ["wanda:0.5"], "data": "demo", **settings})


@pytest.mark.parametrize("name", sorted(MODELS))
def test_shipped_studies_expand_and_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def config(study: Any, base: str) -> Any:
        asked.add(base)
        return transformers.LlamaConfig(
            vocab_size=1000, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
        )

    for module in ("cost", "stand_ins"):
        monkeypatch.setattr(f"anomia.plan.{module}.config_of", config)
    matrix = read_matrix(STUDIES / f"{name}.yaml", {})
    assert len(matrix.cells) == CELLS[name]
    assert {len(study.arms) for study in matrix.studies} == {ARMS[name]}
    cells = forecast(matrix)
    assert len(asked) == MODELS[name]
    for cell in cells:
        stay = on_machine(cell, MACHINES["cpu"])
        assert stay.seconds is not None
        assert stay.seconds > 0


def test_weights_are_those_of_the_loaded_model(model_folder: Path) -> None:
    (cell,) = forecast(matrix_of(model_folder, languages=["english"], limit=4))
    model = load_model(str(model_folder)).model
    assert cell.size.parameters == sum(p.numel() for p in model.parameters())
    assert cell.size.weight_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    assert cell.size.head == model.lm_head.weight.numel()
    assert cell.exact


def test_the_demo_takes_about_as_long_as_it_was_measured_to_take(config_folder: Path) -> None:
    """Measured: 4 min 16 s on two quiet cores (docs/benchmarks.md)."""
    languages = ["english", "russian", "swahili", "indonesian"]
    (cell,) = forecast(matrix_of(config_folder, languages=languages, limit=24, calibration="demo"))
    assert not cell.exact
    seconds = on_machine(cell, MACHINES["cpu"]).seconds
    assert seconds == pytest.approx(256, rel=0.3)


def test_what_is_made_once_is_counted_once(config_folder: Path) -> None:
    settings = {"languages": ["english"], "limit": 8}
    alone = forecast(matrix_of(config_folder, **settings))
    twice = forecast(matrix_of(config_folder, seed=[1, 2], **settings))
    assert alone[0].total.loads == 2
    assert [cell.total.loads for cell in twice] == [2, 0]
    assert [cell.total.calibration > 0 for cell in twice] == [True, False]


def test_more_items_longer_answers_and_own_masks_cost_more(config_folder: Path) -> None:
    def seconds(**settings: Any) -> float:
        (cell,) = forecast(
            matrix_of(config_folder, **{"limit": 8, "languages": ["english", "sw"], **settings})
        )
        found = on_machine(cell, MACHINES["cpu"]).seconds
        assert found is not None
        return found

    plain = seconds()
    assert seconds(limit=16) > plain
    assert seconds(max_new_tokens=64) > plain
    assert seconds(probes=["open", "choice"]) < plain
    assert seconds(calibration="own") != plain
    assert seconds(arms=["sparsegpt:0.5"]) > plain
    assert seconds(arms=["magnitude:0.5"]) < plain


def test_long_answers_add_their_tokens_and_memory(config_folder: Path) -> None:
    asked = {"languages": ["english"], "limit": 8, "noise_items": 0}
    short, long = (
        forecast(matrix_of(config_folder, **asked, probes=probes, continuation_tokens=400))[0]
        for probes in (["open", "choice"], ["open", "choice", "continuation"])
    )
    # Per item: the answer, base's answer along which the arm is taken, and the prompt once more.
    more = (long.work["wanda:0.5"].tokens - short.work["wanda:0.5"].tokens) / long.items
    assert 2 * 400 < more < 2 * 400 + 600
    assert long.work["wanda:0.5"].steps - short.work["wanda:0.5"].steps == 400 * long.items
    assert long.size.need.item > max(short.size.need.item, 2 * 399 * slot_bytes_of(GEMMA))


def test_batch_size_sensitivity_repeats_no_long_answers(config_folder: Path) -> None:
    asked = {"languages": ["english"], "limit": 8, "continuation_tokens": 400, "noise_items": 8}
    short, long = (
        forecast(matrix_of(config_folder, **asked, probes=probes))[0].work
        for probes in (["open", "choice"], ["open", "choice", "continuation"])
    )
    # Base and the arm are asked the same; base is asked again for the noise, and each is loaded and tried.
    noise = [work["base"].steps - work["wanda:0.5"].steps for work in (short, long)]
    assert noise[0] > 0
    assert noise[1] == pytest.approx(noise[0])


def test_a_task_is_counted_as_its_data_set_is(config_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def items(data: str, limit: int | None = None) -> tuple[int, bool]:
        (cell,) = forecast(matrix_of(config_folder, data=data, limit=limit))
        return cell.items, cell.work["base"].tokens > 0

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("a plan downloads no data")

    monkeypatch.setattr("datasets.load_dataset", no_network)
    # Of the shipped 18 one is the example of one-shot prompts.
    assert items("math") == (17, True)
    assert items("math:hub") == (1319, True)
    assert items("math:hub", limit=200) == (200, True)
    assert items("translation:hub:fr-en", limit=50) == (50, True)


def test_options_of_base_s_output_cost_a_pass_without_generating(config_folder: Path) -> None:
    probes = ["open", "choice", "choice_no_question"]
    without, whole = (
        forecast(matrix_of(config_folder, data="translation", probes=asked, noise_items=0))[0]
        for asked in (probes, [*probes, "choice_own"])
    )
    more = (whole.work["wanda:0.5"].tokens - without.work["wanda:0.5"].tokens) / whole.items
    assert 40 < more < without.work["wanda:0.5"].tokens / whole.items
    assert whole.work["wanda:0.5"].steps - without.work["wanda:0.5"].steps == whole.items


def test_memory_on_a_cpu_is_that_of_float32_where_a_run_chooses_it(config_folder: Path) -> None:
    """Measured on two cores: 3.2 GB, of which 0.9 GB before any model is loaded; another study of 64 tokens 3.6 GB."""
    asked = {"languages": ["english"], "limit": 4, "data": "prompts", "continuation_tokens": 32}
    (auto,) = forecast(matrix_of(config_folder, **asked))
    (exact,) = forecast(matrix_of(config_folder, **asked, dtype="float32"))
    (half,) = forecast(matrix_of(config_folder, **asked, dtype="bfloat16"))
    cpu, card = MACHINES["cpu"], MACHINES["A6000"]
    planned, whole, least = (on_machine(cell, cpu).need_bytes for cell in (auto, exact, half))
    assert 3.6e9 < planned < 4.3e9
    assert planned >= whole > least + 2 * auto.size.parameters
    # On a GPU, and where float32 would take too large a share of the memory, the stored type stays.
    assert on_machine(auto, card).need_bytes == on_machine(half, card).need_bytes
    small = read_machine("cpu:memory=2.6e9")
    assert on_machine(auto, small).need_bytes == on_machine(half, small).need_bytes


def test_options_of_base_s_output_are_part_of_the_memory(config_folder: Path) -> None:
    """They are as long as base's answers, unlike the standard ones, but nothing is generated after them."""

    def needed(probes: list[str], tokens: int) -> int:
        asked = {"data": "translation", "limit": 1, "probes": probes, "max_new_tokens": tokens}
        return forecast(matrix_of(config_folder, **asked))[0].size.need.total(1)

    standard = ["open", "choice", "choice_no_question"]
    assert needed([*standard, "choice_own"], 4) == needed(standard, 4)
    assert needed([*standard, "choice_own"], 256) > needed(standard, 256)
    # They are asked by default.
    assert "choice_own" in matrix_of(config_folder, data="translation").studies[0].probes
    assert "choice_own" in matrix_of(config_folder, data="summaries").studies[0].probes


@pytest.mark.parametrize(
    ("arm", "numbers", "bases"),
    [
        ("wanda:0.5+repair", 0, 0),
        ("wanda:0.5+repair,guided", 0, 1),
        ("wanda:0.5+distill", 4, 1),
        ("wanda:0.5+regrow+distill", 4, 1),
        ("fisher:0.5", 2, 0),
    ],
)
def test_what_loads_the_model_whole_counts_in_memory(
    config_folder: Path, arm: str, numbers: int, bases: int
) -> None:
    (cell,) = forecast(matrix_of(config_folder, limit=2, languages=["english"], arms=[arm], batch_size=1))
    size, card = cell.size, MACHINES["A6000"]
    needed = size.need.weights + size.blocks * (4 * numbers + 2 * bases) if numbers + bases else 0
    assert on_machine(cell, card).need_bytes == max(size.need.total(1), needed)


def slot_bytes_of(config: dict[str, Any]) -> int:
    return int(2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2)


def test_a_model_that_does_not_fit_is_said(config_folder: Path) -> None:
    (cell,) = forecast(matrix_of(config_folder, limit=4, languages=["english"]))
    stay = on_machine(cell, read_machine("cpu:memory=6e8"))
    assert stay.seconds is None
    assert "does not fit" in stay.why
    tight = on_machine(cell, read_machine("cpu:memory=2.6e9"))
    assert 1 <= tight.batch < 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("H10", "did you mean 'H100'"),
        ("H100:price=3", "unknown column 'price'"),
        ("H100:dollars=-3", "above 0"),
        ("H100:memory=lots", "above 0"),
        ("H100:memory=0", "above 0"),
    ],
)
def test_machines_that_are_none(text: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        read_machine(text)


def test_a_machine_with_changes() -> None:
    machine = read_machine("A6000:dollars=0,memory=96e9,flops=1e12")
    assert (machine.dollars, machine.memory, machine.rate("bfloat16")) == (0, 96e9, 0.35e12)


def test_the_command_prints_it(config_folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "base: x/y\narms: [wanda: {sparsity: [0.3, 0.5]}]\ndata: demo\nlanguages: [en]\nlimit: 4\n"
    )
    done = CliRunner().invoke(app, ["plan", str(study), "--base", str(config_folder), "--machine", "A6000"])
    assert done.exit_code == 0, done.output
    assert "0.27 B" in done.output
    assert "A6000" in done.output
    assert "H100" not in done.output


def test_what_cannot_be_planned_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(AnomiaError, match=r"plan: the configuration of '.*nothing' can't be read"):
        forecast(matrix_of(tmp_path / "nothing"))
    with pytest.raises(AnomiaError, match="GGUF"):
        forecast(matrix_of(tmp_path / "x.gguf"))
