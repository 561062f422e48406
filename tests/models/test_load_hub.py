"""Repositories of the hub, from its cache: the same rules as for a folder."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import anomia
from anomia.compress.folder import compress_folder
from anomia.compress.spec import parse_arm
from anomia.errors import ModelError
from anomia.models.examine import look_up
from anomia.models.load import load_model, load_tokenizer

from .broken import WEIGHTS, change_tensors, split

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model as `owner/tiny` in a cache of the hub's; its folder there."""
    repository = tmp_path / "cache" / "models--owner--tiny"
    folder = repository / "snapshots" / COMMIT
    shutil.copytree(model_folder, folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on standard input"))
    return folder


@pytest.mark.parametrize("sharded", [False, True])
def test_a_repository_is_read_and_pruned_like_a_folder(cached: Path, tmp_path: Path, sharded: bool) -> None:
    own = load_file(cached / WEIGHTS)
    if sharded:
        split(cached)
    save_file({name: value + 1 for name, value in own.items()}, cached / "consolidated.safetensors")
    loaded = load_model("owner/tiny", device="cpu")
    assert torch.equal(loaded.model.lm_head.weight, own["lm_head.weight"])
    files = look_up("owner/tiny")
    assert {file.parent for file in files.weights} == {cached}
    assert len(files.weights) == (2 if sharded else 1)
    report = compress_folder("owner/tiny", tmp_path / "out", [parse_arm("magnitude:0.5").steps[0]])
    assert report.streamed
    pruned = load_model(str(tmp_path / "out"), device="cpu")
    assert torch.equal(pruned.model.lm_head.weight, own["lm_head.weight"])
    assert pruned.eos_token_ids == loaded.eos_token_ids


def test_a_repository_is_refused_like_a_folder(cached: Path, tmp_path: Path) -> None:
    change_tensors(cached, lambda t: t.update({"model.layers.0.mlp.down_proj.bias": torch.ones(32)}))
    says = r"1 tensor \(model\.layers\.0\.mlp\.down_proj\.bias in model\.safetensors\)"
    with pytest.raises(ModelError, match=says):
        load_model("owner/tiny")
    with pytest.raises(ModelError, match=says):
        compress_folder("owner/tiny", tmp_path / "out", [parse_arm("magnitude:0.5").steps[0]])


def test_a_model_and_an_adapter_in_one_repository_are_refused(cached: Path) -> None:
    (cached / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    with pytest.raises(ModelError, match="a model and an adapter"):
        load_model("owner/tiny")


def test_an_adapter_in_a_repository_is_put_on_its_base(
    cached: Path, model_folder: Path, tmp_path: Path
) -> None:
    for file in cached.iterdir():
        file.unlink()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "owner/base"}
    (cached / "adapter_config.json").write_text(json.dumps(settings))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora"
    factors = {f"{name}_A.weight": torch.ones(2, 32), f"{name}_B.weight": torch.ones(32, 2)}
    save_file(factors, cached / "adapter_model.safetensors")
    loaded = load_model("owner/tiny", base=str(model_folder), device="cpu")
    weight = loaded.model.model.layers[0].self_attn.q_proj.weight
    base = load_model(str(model_folder), device="cpu").model.model.layers[0].self_attn.q_proj.weight
    assert torch.allclose(weight, base + 2)
    assert any("adapter owner/tiny" in note for note in loaded.notes)
    # To compress it, its base is needed; it isn't there.
    with pytest.raises(ModelError, match="'owner/base' can't be loaded"):
        compress_folder("owner/tiny", tmp_path / "out", [parse_arm("magnitude:0.5").steps[0]])


def test_a_repository_that_is_not_there_is_one_message(cached: Path) -> None:
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match="not in the local cache"):
            load("owner/other")


def test_every_call_that_could_run_code_says_whether_it_may() -> None:
    calls = []
    for file in Path(anomia.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in ("from_pretrained", "from_config") and "Auto" in ast.unparse(node.func):
                given = {keyword.arg for keyword in node.keywords}
                calls.append((f"{file.name}:{node.lineno}", bool(given & {"trust_remote_code", None})))
    assert len(calls) >= 5
    assert [place for place, said in calls if not said] == []
