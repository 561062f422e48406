"""Repair: the kept weights against base's own outputs, recomputed with LAPACK and with plain forward passes."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import anomia
from anomia.cli.app import app
from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.methods.repair import NOT_PAIRED, PairedSums, closest_weights, paired_error
from anomia.compress.methods.sparsegpt import DAMPING
from anomia.compress.methods.taken import check_taken
from anomia.compress.methods.update import masked_least_squares
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.errors import AnomiaError, CompressionError, StudyError
from anomia.measure.repaired import UNSEEN
from anomia.models.examine import examine
from anomia.report.tables.repaired import repaired as repaired_table
from tests.conftest import entry

from .conftest import FAMILIES, MIXTURES, make_test_windows, tiny_model
from .test_folder import StopError, save_model, write_text
from .test_update import correlated_inputs


def repaired(model: Any, windows: Any, arm: str = "wanda:0.5+repair") -> Any:
    (step,) = parse_arm(arm).steps
    return compress(model, step, windows)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000), sparsity=st.sampled_from([0.3, 0.5, 0.75]), noise=st.sampled_from([0.05, 0.5])
)
def test_repaired_rows_are_the_exact_least_squares_over_pairs(
    seed: int, sparsity: float, noise: float
) -> None:
    rows, columns = 6, 20
    generator = torch.Generator().manual_seed(seed)
    base = correlated_inputs(columns, tokens=300, seed=seed)
    mine = base + noise * base.std(dim=0) * torch.randn(base.shape, generator=generator)
    weight = torch.randn(rows, columns, generator=generator)
    mask = torch.rand(rows, columns, generator=generator) < sparsity
    hessian, cross = mine.T @ mine, base.T @ mine
    damping = DAMPING * float(hessian.diagonal().mean())
    target = closest_weights(weight, hessian, cross, damping)
    with patch("anomia.compress.methods.update.TOLERANCE", 1e-6):
        found = masked_least_squares([target], [mask], hessian, iterations=500).weights[0]
    # Row by row on the kept columns, in float64, with the damping as further tokens.
    wide = np.vstack([mine.double().numpy(), np.sqrt(damping) * np.eye(columns)])
    wanted = (
        np.vstack([base.double().numpy(), np.sqrt(damping) * np.eye(columns)]) @ weight.double().numpy().T
    )
    best = np.zeros((rows, columns))
    for row in range(rows):
        kept = ~mask[row].numpy()
        if kept.any():
            best[row, kept] = np.linalg.lstsq(wide[:, kept], wanted[:, row], rcond=None)[0]
    loss = [float(((wide @ each.T - wanted) ** 2).sum()) for each in (best, found.double().numpy())]
    assert loss[1] == pytest.approx(loss[0], rel=1e-3)
    sums = PairedSums(hessian, cross, [float((base @ weight.T).square().sum())])
    expected = float((mine @ found.T - base @ weight.T).square().sum() / (base @ weight.T).square().sum())
    assert paired_error(found, weight, sums, sums.outputs[0]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def inputs_of(model: Any, ids: torch.Tensor, name: str) -> torch.Tensor:
    """What enters a module in a forward pass of the whole model, [T, in]."""
    found = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    return found[0].reshape(-1, found[0].shape[-1])


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_reported_errors_are_those_of_whole_passes(family: str) -> None:
    base = tiny_model(family)
    model = copy.deepcopy(base)
    windows = make_test_windows([24] * 12)
    report = repaired(model, windows)
    ids = torch.tensor(windows.token_ids)
    (last,) = [each for each in report.matrices if each is report.matrices[-1]]
    weight, mine = (each.get_submodule(last.name).weight.detach() for each in (base, model))
    if family == "gpt2":
        weight, mine = weight.T, mine.T
    wanted = inputs_of(base, ids, last.name) @ weight.T
    got = inputs_of(model, ids, last.name) @ mine.T
    assert last.error == pytest.approx(float((got - wanted).square().sum() / wanted.square().sum()), rel=1e-3)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_outputs_are_closer_to_base_than_after_the_update_and_zeros_stay(family: str) -> None:
    base = tiny_model(family)
    windows = make_test_windows([32] * 24)
    ids = torch.tensor(windows.token_ids)
    with torch.no_grad():
        wanted = base(input_ids=ids, output_hidden_states=True).hidden_states[-2]
    errors = {}
    zeros = {}
    for arm in ("wanda:0.5", "wanda:0.5+update", "wanda:0.5+repair"):
        model = copy.deepcopy(base)
        report = repaired(model, windows, arm)
        zeros[arm] = [each.zeros for each in report.matrices]
        with torch.no_grad():
            left = model(input_ids=ids, output_hidden_states=True).hidden_states[-2]
        errors[arm] = float((left - wanted).square().sum() / wanted.square().sum())
    assert errors["wanda:0.5+repair"] < errors["wanda:0.5+update"] < errors["wanda:0.5"]
    assert zeros["wanda:0.5+repair"] == zeros["wanda:0.5"]


def test_a_pattern_is_kept() -> None:
    model = tiny_model("llama")
    repaired(model, make_test_windows([24] * 12), "sparsegpt:2:4+repair")
    for layer in model.model.layers:
        for part in (layer.self_attn.q_proj, layer.mlp.down_proj):
            assert ((part.weight.view(-1, 4) == 0).sum(dim=1) >= 2).all()


@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_experts_are_left_as_pruned_and_said(family: str) -> None:
    model, pruned = tiny_model(family), tiny_model(family)
    windows = make_test_windows([24] * 12)
    report = repaired(model, windows)
    repaired(pruned, windows, "wanda:0.5")
    noted = {each.name for each in report.matrices if each.note == NOT_PAIRED}
    assert noted
    assert all("expert" in name for name in noted)
    assert any(NOT_PAIRED in warning for warning in report.warnings)
    # The first block's experts read states that the repaired attention changed, but their masks and weights are Wanda's.
    attention = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(model.state_dict()[attention], pruned.state_dict()[attention])


def test_a_folder_is_the_model_in_memory_also_when_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm("wanda:0.5+repair").steps
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", steps, options)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    compress(model, steps[0], prepare_windows(steps[0], tokenizer, options.text))
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole[name]), name
    real = InFiles.store

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if index == 2:
            raise StopError
        real(blocks, index, packed)

    monkeypatch.setattr(InFiles, "store", stop)
    with pytest.raises(StopError):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    monkeypatch.setattr(InFiles, "store", real)
    assert compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options).resumed_at == 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_weighted_answers_are_repaired_better() -> None:
    """Positions of answers with a weight end closer to base's outputs than without one."""
    base = tiny_model("llama")
    windows = make_test_windows([32] * 24)
    starts = (24,) * 24
    errors = {}
    for weight in (1.0, 50.0):
        model = copy.deepcopy(base)
        mine = copy.copy(windows)
        object.__setattr__(mine, "answer_starts", starts)
        object.__setattr__(mine, "answer_weight", weight)
        repaired(model, mine, "magnitude:0.5+repair")
        ids = torch.tensor(windows.token_ids)
        with torch.no_grad():
            wanted, left = (
                each(input_ids=ids, output_hidden_states=True).hidden_states[-2][:, 23:]
                for each in (base, model)
            )
        errors[weight] = float((left - wanted).square().sum() / wanted.square().sum())
    assert errors[50.0] < errors[1.0]


def test_activations_that_are_not_finite_are_refused() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e30)
        model.model.layers[1].mlp.gate_proj.weight.mul_(1e30)
    with pytest.raises(CompressionError, match=r"infinite|inputs"):
        repaired(model, make_test_windows([16] * 8), "magnitude:0.5+repair")


def pruned_folder(tmp_path: Path, arm: str = "wanda:0.5") -> FolderOptions:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    compress_folder(str(tmp_path / "in"), tmp_path / "pruned", parse_arm(arm).steps, options)
    return options


def test_a_pruned_folder_is_repaired_as_the_chain_would_be(tmp_path: Path) -> None:
    options = pruned_folder(tmp_path)
    compress_folder(str(tmp_path / "in"), tmp_path / "chain", parse_arm("wanda:0.5+repair").steps, options)
    call = ["repair", str(tmp_path / "in"), str(tmp_path / "pruned"), str(tmp_path / "out")]
    text = ["--calibration", options.text.source, "--calibration-samples", "12"]
    done = CliRunner().invoke(app, [*call, *text])
    assert done.exit_code == 0, done.output
    chain, found, pruned = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("chain", "out", "pruned")
    )
    # Wanda's masks of later blocks were made on unrepaired states, so only the first block's are the chain's.
    assert all(torch.equal(found[name] == 0, pruned[name] == 0) for name in found)
    first = [name for name in found if "layers.0." in name]
    assert all(torch.equal(found[name], chain[name]) for name in first)
    assert any(not torch.equal(found[name], pruned[name]) for name in found)


def test_a_model_that_is_not_base_pruned_is_refused(tmp_path: Path) -> None:
    options = pruned_folder(tmp_path)
    save_model("llama", tmp_path / "wider", intermediate_size=32)
    for base, says in (("wider", "other tensors than base"), ("moved", "outside its blocks")):
        if base == "moved":
            model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
            with torch.no_grad():
                model.model.norm.weight.mul_(2)
            model.save_pretrained(tmp_path / "moved")
            transformers.AutoTokenizer.from_pretrained(tmp_path / "in").save_pretrained(tmp_path / "moved")
        steps = parse_arm(f"taken:{tmp_path / 'pruned'}+repair").steps
        with pytest.raises(CompressionError, match=says):
            compress_folder(str(tmp_path / base), tmp_path / "out", steps, options)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("int4:group=32", "lie on a grid, as quantization leaves them"),
        ("gptq:4,group=32", "as in gptq:4,targets=base"),
        ("wanda:0.5+int4:group=32", "lie on a grid"),
        ("tuned", "has no more zeros than base, so nothing was pruned"),
    ],
)
def test_what_is_not_pruned_or_would_leave_its_grid_is_refused(arm: str, says: str, tmp_path: Path) -> None:
    """Its repair would be an ordinary model of full size, named as a repair at equal size."""
    save_model("llama", tmp_path / "in", hidden_size=64, intermediate_size=64)
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    if arm == "tuned":
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(1.01)
        model.save_pretrained(tmp_path / "made")
        transformers.AutoTokenizer.from_pretrained(tmp_path / "in").save_pretrained(tmp_path / "made")
    else:
        compress_folder(str(tmp_path / "in"), tmp_path / "made", parse_arm(arm).steps, options)
    steps = parse_arm(f"taken:{tmp_path / 'made'}+repair").steps
    with pytest.raises(CompressionError, match=says):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(entry(n)) + "\n" for n in range(6)))
    with pytest.raises(AnomiaError, match=says):
        anomia.run(
            base=tmp_path / "in", arms=[str(steps[0])], data=f"jsonl:{data}", probes=["open", "choice"],
            calibration=options.text.source, out=tmp_path / "run", progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "wanda:2:4", "magnitude:0.1"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_pruned_weights_are_not_taken_for_rounded_ones(arm: str, dtype: str, tmp_path: Path) -> None:
    """Also where base is in float32 and the pruned model in bfloat16, which has few values of its own."""
    save_model("llama", tmp_path / "in", hidden_size=256, intermediate_size=64)
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    compress_folder(str(tmp_path / "in"), tmp_path / "made", parse_arm(arm).steps, options)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=dtype)
    model.save_pretrained(tmp_path / "made2")
    check_taken(examine(str(tmp_path / "in")), str(tmp_path / "made2"))


def test_another_pruned_model_at_the_same_path_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = pruned_folder(tmp_path)
    steps = parse_arm(f"taken:{tmp_path / 'pruned'}+repair").steps
    real = InFiles.store

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if index == 1:
            raise StopError
        real(blocks, index, packed)

    monkeypatch.setattr(InFiles, "store", stop)
    with pytest.raises(StopError):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    monkeypatch.setattr(InFiles, "store", real)
    shutil.rmtree(tmp_path / "pruned")
    compress_folder(str(tmp_path / "in"), tmp_path / "pruned", parse_arm("magnitude:0.5").steps, options)
    with pytest.raises(CompressionError, match="another compressed model"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("taken:pruned", "add what is done with it"),
        ("taken+repair", "taken:MODEL"),
        ("int8+repair", "right before it"),
        ("taken:pruned,allocation=owl+repair", "allocation"),
    ],
)
def test_arms_that_make_no_sense_say_what_does(arm: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        parse_arm(arm)


def test_the_name_of_an_arm_is_read_back() -> None:
    text = "taken:a%2Cb,samples=3+repair"
    assert str(parse_arm(text)) == text
    assert parse_arm(text).steps[0].model == "a,b"  # type: ignore[union-attr]


@pytest.mark.parametrize("arm", ["gptq:4,group=8", "sparsegpt:0.5", "alps:0.5"])
def test_methods_can_aim_at_the_outputs_of_base(arm: str) -> None:
    base = tiny_model("llama")
    windows = make_test_windows([32] * 24)
    ids = torch.tensor(windows.token_ids)
    with torch.no_grad():
        wanted = base(input_ids=ids, output_hidden_states=True).hidden_states[-2]
    errors = {}
    for options in ("", ",targets=base"):
        model = copy.deepcopy(base)
        report = repaired(model, windows, arm + options)
        with torch.no_grad():
            left = model(input_ids=ids, output_hidden_states=True).hidden_states[-2]
        errors[options] = float((left - wanted).square().sum() / wanted.square().sum())
    assert errors[",targets=base"] < errors[""]
    assert report.step == f"{arm},targets=base"


def test_the_first_groups_inputs_are_bases_own_so_aiming_changes_nothing_there() -> None:
    """In the first block's first group both models have the same inputs, so W* is W and the masks are the same."""
    base = tiny_model("llama")
    windows = make_test_windows([32] * 24)
    models = {}
    for options in ("", ",targets=base"):
        models[options] = copy.deepcopy(base)
        repaired(models[options], windows, f"sparsegpt:0.5{options}")
    one, other = (model.model.layers[0].self_attn.q_proj.weight for model in models.values())
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_run_knows_a_repaired_folder_as_the_repair_of_the_pruned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `anomia repair` wrote it, whose report names the pruned folder; only folders made from this base count."""
    options = pruned_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    steps = parse_arm("taken:pruned+repair").steps
    compress_folder("in", Path("repaired"), steps, options)
    shutil.copytree("in", "other")
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(entry(n)) + "\n" for n in range(6)))
    arms = [f"checkpoint:{tmp_path / 'pruned'}", "checkpoint:repaired"]
    for base, expected in (("in", {(arms[1], arms[0])}), ("other", set())):
        made = anomia.run(
            base=base,
            arms=arms,
            data=f"jsonl:{data}",
            probes=["open", "choice"],
            out=f"run-{base}",
            progress=False,
        )
        assert {(row.arm, row.compressed_arm) for row in made.results.repaired} == expected
        assert not any(row.scope.startswith(UNSEEN) for row in made.results.repaired)


def test_languages_without_calibration_text_have_a_row_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an arm of the run and of a folder; not where the text doesn't say its language, or covers all of them."""
    monkeypatch.chdir(tmp_path)
    save_model("llama", tmp_path / "in")
    (tmp_path / "texts" / "wikipedia").mkdir(parents=True)
    rows = [{"text": f"Person{n} founded Place{n} by the river. " * 8} for n in range(8)]
    for file in ("texts/wikipedia/swahili.jsonl", "none.jsonl"):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = TextOptions(source="wikipedia:swahili", samples=8, data_dir=tmp_path / "texts")
    compress_folder("in", Path("folder"), parse_arm("magnitude:0.5+repair").steps, FolderOptions(text=text))
    data = tmp_path / "questions.jsonl"
    data.write_text(
        "".join(
            json.dumps(entry(n, language)) + "\n"
            for language in ("english", "finnish", "swahili")
            for n in range(6)
        )
    )
    made = anomia.run(
        base="in", arms=["magnitude:0.5", "checkpoint:folder"], data=f"jsonl:{data}", probes=["open", "choice"],
        out="run", progress=False,
    )  # fmt: skip
    scopes = [row.scope for row in made.results.repaired if row.probe == "open"]
    assert scopes == ["english", "finnish", "swahili", "pooled", "unseen: english, finnish"]
    assert any(
        "in languages that it wasn't calibrated on (english, finnish): " in note
        for note in repaired_table(made.results).notes
    )
    for number, (source, unseen) in enumerate(
        (("wikipedia:swahili", ["unseen: english, finnish"]), ("file:none.jsonl", []))
    ):
        found = anomia.run(
            base="in", arms=["magnitude:0.5", "magnitude:0.5+repair"], data=f"jsonl:{data}",
            probes=["open", "choice"], calibration=source, calibration_samples=8, calibration_folder="texts",
            out=f"run-{number}", progress=False,
        )  # fmt: skip
        assert [
            row.scope
            for row in found.results.repaired
            if row.scope.startswith(UNSEEN) and row.probe == "open"
        ] == unseen
    only = anomia.run(
        base="in", arms=["magnitude:0.5", "checkpoint:folder"], data=f"jsonl:{data}", probes=["open", "choice"],
        languages=["swahili"], out="run-only", progress=False,
    )  # fmt: skip
    assert not any(row.scope.startswith(UNSEEN) for row in only.results.repaired)
