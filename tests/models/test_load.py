"""Loading: what is refused, and what a model's fingerprint sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from anomia.errors import ModelError
from anomia.models.fingerprint import (
    fingerprint_tokenizer,
    fingerprint_weights,
    fingerprint_weights_1,
    is_same_weights,
)
from anomia.models.load import load_model


def test_a_folder_loads_ready_to_be_asked(model_folder: Path) -> None:
    loaded = load_model(str(model_folder), dtype="bfloat16", device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.eos_token_ids == (1,)
    assert load_model(str(model_folder)).model.dtype == torch.float32


def test_code_in_a_repository_does_not_run_unless_asked(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own-code"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = (folder / "config.json").read_text()
    own = '"auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}, "model_type": "mine_own",'
    (folder / "config.json").write_text(config.replace('"model_type": "llama",', own))
    (folder / "mine.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass C: pass\nclass M: pass\n"
    )
    with pytest.raises(ModelError, match="trust-remote-code"):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_truncated_weight_file_is_one_message(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in model_folder.iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(
            content[: len(content) // 2] if file.suffix == ".safetensors" else content
        )
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "missing.gguf", "~/nowhere"])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(ModelError, match=r"no folder|does not exist"):
        load_model(name)


def test_a_device_that_is_not_there(model_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device whose absence is tested")
    with pytest.raises(ModelError, match="not available"):
        load_model(str(model_folder), device="cuda")


def test_a_fingerprint_sees_weights_and_survives_a_reload(
    model_folder: Path, tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    first = fingerprint_weights(load_model(str(model_folder)).model)
    assert first == fingerprint_weights(load_model(str(model_folder)).model)
    assert first != fingerprint_weights(make_model(seed=1))
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert first != fingerprint_weights(load_model(str(folder)).model)


@given(seed=st.integers(0, 2**31), where=st.data())
def test_a_fingerprint_sees_every_value(seed: int, where: st.DataObject) -> None:
    """Wide matrices too, whose evenly spaced values would all lie in the same columns."""
    model = torch.nn.Linear(1024, 513, bias=False)
    torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(seed))
    first, older = fingerprint_weights(model), fingerprint_weights_1(model)
    row, column = where.draw(st.integers(0, 512)), where.draw(st.integers(0, 1023))
    with torch.no_grad():
        model.weight[row, column] += 1
    now = fingerprint_weights(model)
    assert now != first
    assert not is_same_weights(first, now, model)
    assert is_same_weights(now, now, model)
    # A run of an earlier version is compared as it was then, which tells less.
    assert is_same_weights(fingerprint_weights_1(model), now, model)
    assert is_same_weights(older, now, model) == ((row * 1024 + column) % 8 != 0)


def test_a_fingerprint_of_a_tokenizer_sees_its_template(tokenizer: Any) -> None:
    first = fingerprint_tokenizer(tokenizer)
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = "other"
        assert fingerprint_tokenizer(tokenizer) != first
    finally:
        tokenizer.chat_template = template
    assert fingerprint_tokenizer(tokenizer) == first
