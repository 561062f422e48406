"""Matrices that stay dense on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.kept import read_kept
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.errors import AnomiaError, CompressionError, StudyError
from anomia.models.load import load_model
from anomia.study import read_study
from tests.compress.test_folder import save_model, weights, write_text

KEPT = ("model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj")


@pytest.mark.parametrize(
    ("family", "arm", "save_as"),
    [
        ("llama", "wanda:0.5", "dense"),
        ("llama", "magnitude:0.5", "dense"),
        ("gemma3", "sparsegpt:2:4", "dense"),
        ("llama", "wanda:0.5+update+int8", "dense"),
        ("llama", "prunerzero:0.5", "dense"),
        ("gemma3", "awq:4,group=8", "dense"),
        ("llama", "gptq:8,group=8", "compressed-tensors"),
        ("llama", "wandapp:2:4,rounds=1", "dense"),
    ],
)
def test_they_keep_every_bit_and_the_others_do_not(
    family: str, arm: str, save_as: Any, tmp_path: Path
) -> None:
    save_model(family, tmp_path / "in")
    options = FolderOptions(
        text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12), dense=KEPT, save_as=save_as
    )
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(arm).steps, options)
    before, after = weights(tmp_path / "in"), weights(tmp_path / "out")
    for name in KEPT:
        assert torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
        assert report.compression.dense_why is not None
        assert f"{name}.weight" in report.compression.dense_why["kept dense on request"]
    changed = {matrix.name for matrix in report.compression.matrices}
    assert not changed & set(KEPT)
    assert len(changed) == 3 * 7 - 2
    kept = sum(before[f"{name}.weight"].numel() for name in KEPT)
    assert report.compression.kept_weights == kept
    if arm in ("wanda:0.5", "magnitude:0.5"):
        every = kept + sum(m.shape[0] * m.shape[1] for m in report.compression.matrices)
        zeros = sum(m.zeros for m in report.compression.matrices)
        assert report.compression.sparsity == zeros / every < 0.5
    other = "model.layers.0.mlp.down_proj.weight"
    assert other not in after or not torch.equal(before[other], after[other])
    assert json.loads((tmp_path / "out" / "anomia.json").read_text())["settings"]["dense"] == list(KEPT)
    loaded = load_model(str(tmp_path / "out"))
    logits = loaded.model(input_ids=torch.arange(3, 20)[None]).logits
    assert torch.isfinite(logits).all()


def test_a_folder_has_the_values_of_the_loaded_model(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=12)
    [step] = parse_arm("wanda:0.5").steps
    compress_folder(str(tmp_path / "in"), tmp_path / "out", [step], FolderOptions(text=text, dense=KEPT))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    compress(model, step, prepare_windows(step, tokenizer, text), dense=KEPT)
    found = weights(tmp_path / "out")
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    # A second step on the same model keeps nothing that isn't named again.
    report = compress(model, parse_arm("int8").steps[0])
    assert {matrix.name for matrix in report.matrices} >= set(KEPT)


def test_a_stack_of_experts_stays_dense_as_a_whole(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in").eval()
    name = "model.layers.1.mlp.experts.down_proj"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    compress(model, parse_arm("magnitude:0.5").steps[0], dense=[name])
    assert torch.equal(model.state_dict()[name], before[name])
    other = "model.layers.0.mlp.experts.down_proj"
    assert not torch.equal(model.state_dict()[other], before[other])


@pytest.mark.parametrize(
    ("names", "arm", "message"),
    [
        (["model.layers.1.mlp.dwn_proj"], "wanda:0.5", "no matrix 'model.layers.1.mlp.dwn_proj'; did you mean"),
        (["model.layers.1.mlp"], "wanda:0.5", "holds several matrices; name each, such as model.layers.1.mlp.gate_proj"),
        (["model.layers.1.input_layernom"], "int8", "no matrix"),
        (list(KEPT), "shortgpt:0.34", "drops parts of matrices and renames them"),
        (["lm_head"], "embeddings:q8_0", "embeddings:q8_0 rounds lm_head"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_before_any_work(
    names: list[str], arm: str, message: str, tmp_path: Path
) -> None:
    save_model("llama", tmp_path / "in")
    with pytest.raises(AnomiaError, match=message):
        compress_folder(
            str(tmp_path / "in"), tmp_path / "out", parse_arm(arm).steps, FolderOptions(dense=names)
        )
    assert not (tmp_path / "out").exists()


def test_an_unfinished_folder_is_not_continued_with_another_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomia.compress.in_files import InFiles

    save_model("llama", tmp_path / "in")
    steps, real = parse_arm("magnitude:0.5").steps, InFiles.store

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if index == 2:
            raise KeyboardInterrupt
        real(blocks, index, packed)

    with monkeypatch.context() as patch:
        patch.setattr(InFiles, "store", stop)
        with pytest.raises(KeyboardInterrupt):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, FolderOptions(dense=KEPT))
    with pytest.raises(CompressionError, match="dense"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, FolderOptions(dense=KEPT[:1]))
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, FolderOptions(dense=KEPT))
    assert report.resumed_at == 2


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"dense": list(KEPT), "why": "because", "torchao": {}}),
        json.dumps(list(KEPT)),
        "\n".join(KEPT) + "\n",
    ],
)
def test_files_of_names(text: str, tmp_path: Path) -> None:
    file = tmp_path / "dense.json"
    file.write_text(text)
    assert read_kept(file) == KEPT
    study = read_study(None, {"base": "base", "arms": ["wanda:0.5"], "dense": str(file)})
    assert study.dense == KEPT
    assert read_kept(",".join(KEPT)) == KEPT


def test_a_list_may_be_longer_than_the_name_of_a_file() -> None:
    names = [f"model.layers.{layer}.mlp.down_proj" for layer in range(300)]
    assert read_kept(",".join(names)) == tuple(names)


def test_a_missing_file_is_not_taken_for_a_name(tmp_path: Path) -> None:
    for name in ("dense.json", "folder/dense"):
        with pytest.raises(AnomiaError, match="matrices to keep dense"):
            read_kept(name)


def test_a_run_refuses_unknown_names_before_base_is_measured(model_folder: Path, tmp_path: Path) -> None:
    from anomia.running.execute import run_study
    from anomia.running.progress import PlainProgress

    settings = {
        "base": str(model_folder),
        "arms": ["int8"],
        "data": "demo",
        "dense": ["model.layers.9.mlp.down_proj"],
    }
    with pytest.raises(StudyError, match=r"no matrix .model\.layers\.9\.mlp\.down_proj"):
        run_study(read_study(None, settings), tmp_path / "run", progress=PlainProgress(lambda _: None))


def test_a_list_of_nothing_is_said_as_such(tmp_path: Path) -> None:
    """As `anomia locate --keep` writes one where it found norms or biases alone."""
    (tmp_path / "keep.json").write_text('{"dense": [], "notes": ["model.norm: in no list"]}')
    with pytest.raises(StudyError, match="lists no matrices, so there is nothing to keep dense"):
        read_kept(tmp_path / "keep.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '{"dense": {}}', "{"])
def test_files_without_names_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "dense.json").write_text(text)
    with pytest.raises(StudyError, match="dense"):
        read_kept(tmp_path / "dense.json")


def test_a_run_keeps_them_in_its_arms(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomia.run_folder import RunFolder
    from anomia.running.execute import run_study
    from anomia.running.progress import PlainProgress

    name = "model.layers.0.mlp.down_proj"
    (tmp_path / "dense.txt").write_text(name)
    study = read_study(
        None,
        {
            "base": str(model_folder), "arms": ["magnitude:0.5"], "dense": str(tmp_path / "dense.txt"), "data": "demo",
            "languages": ["english"], "limit": 2, "probes": ["open", "choice"], "max_new_tokens": 2,
        },
    )  # fmt: skip
    (tmp_path / "dense.txt").unlink()
    assert not [
        outcome
        for outcome in run_study(study, tmp_path / "run", progress=PlainProgress(lambda _: None))
        if outcome.failed
    ]
    [report] = RunFolder(tmp_path / "run").compression.all()
    assert report["steps"][0]["dense_why"]["kept dense on request"] == [f"{name}.weight"]
    assert name not in {matrix["name"] for matrix in report["steps"][0]["matrices"]}


UP = "model.layers.0.mlp.up_proj"
V = "model.layers.1.self_attn.v_proj"


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("arm", ["ria:2:4", "awq:4,group=8", "awq:8,group=8"])
def test_steps_that_move_or_scale_channels_leave_them_alone(family: str, arm: str, tmp_path: Path) -> None:
    """RIA reorders the channels between up and down, and AWQ scales them; both did it to matrices kept dense."""
    save_model(family, tmp_path / "in")
    names = (UP, V, "model.layers.1.input_layernorm")
    options = FolderOptions(
        text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12), dense=names
    )
    compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(arm).steps, options)
    before, after = weights(tmp_path / "in"), weights(tmp_path / "out")
    for name in names:
        assert torch.equal(before[f"{name}.weight"], after[f"{name}.weight"]), name


def test_gptq_checkpoints_cannot_say_that_single_matrices_are_dense(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    with pytest.raises(StudyError, match="use --save-as compressed-tensors"):
        compress_folder(
            str(tmp_path / "in"),
            tmp_path / "out",
            parse_arm("gptq:8,group=8").steps,
            FolderOptions(dense=KEPT, save_as="gptq"),
        )


def test_a_matrix_that_shares_its_weights_with_another_is_not_kept_alone(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in").eval()
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(StudyError, match=r"layers\.1\.mlp\.up_proj shares its weights"):
        compress(model, parse_arm("magnitude:0.5").steps[0], dense=["model.layers.1.mlp.up_proj"])
