"""What no repetition can do leaves nothing behind, so that the command that the message advises works at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import nn

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.left_dense import EMBEDDING, NORM, why_dense
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.unfinished import step_folder
from anomia.errors import CompressionError, RefusedError

from .conftest import make_test_windows, tiny_model
from .test_folder import save_model, step_of, write_text

LAST = "model.layers.2.mlp.down_proj.weight"


def save_changed(folder: Path, name: str, value: float) -> None:
    save_model("llama", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def compressed(tmp_path: Path, arm: str, dtype: str = "auto") -> Any:
    source = write_text(tmp_path / "text.txt")
    options = FolderOptions(text=TextOptions(source=source), dtype=dtype)
    return compress_folder(str(tmp_path / "in"), tmp_path / "new" / "out", parse_arm(arm).steps, options)


@pytest.mark.parametrize("arm", ["wanda:0.5", "magnitude:0.5", "magnitude:0.3+wanda:0.5", "shortgpt:0.5"])
def test_a_refusal_in_a_late_block_leaves_nothing(arm: str, tmp_path: Path) -> None:
    save_changed(tmp_path / "in", LAST, float("nan"))
    with pytest.raises(RefusedError, match="NaN or infinite"):
        compressed(tmp_path, arm)
    assert not (tmp_path / "new").exists()


def test_the_advised_type_works_after_the_refusal(tmp_path: Path) -> None:
    """In float16 the last block's weight is infinite."""
    save_changed(tmp_path / "in", LAST, 1e5)
    with pytest.raises(RefusedError, match="--dtype bfloat16"):
        compressed(tmp_path, "wanda:0.5", "float16")
    assert compressed(tmp_path, "wanda:0.5", "bfloat16").resumed_at == 0


def test_an_unfinished_folder_is_cleared_by_a_refusal_and_kept_by_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    store, out = InFiles.store, tmp_path / "new" / "out"
    end: BaseException = KeyboardInterrupt()

    def ending(self: InFiles, index: int, packed: Any) -> None:
        if index == 2:
            raise end
        store(self, index, packed)

    monkeypatch.setattr(InFiles, "store", ending)
    for end in (KeyboardInterrupt(), CompressionError("no room")):
        with pytest.raises(type(end)):
            compressed(tmp_path, "wanda:0.5")
        assert (step_folder(out, 1) / "model-00002.safetensors").is_file()
    end = RefusedError("no number")
    with pytest.raises(RefusedError):
        compressed(tmp_path, "wanda:0.5")
    assert not list(out.iterdir())


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("arm", ["wanda:0.5", "magnitude:0.5", "shortgpt:0.5"])
def test_what_lies_outside_the_blocks_is_looked_at_first(
    arm: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_changed(tmp_path / "in", name, float("inf"))
    monkeypatch.setattr(InFiles, "block", None)
    with pytest.raises(RefusedError, match=rf"{name} has 1 of"):
        compressed(tmp_path, arm)


@pytest.mark.parametrize("arm", ["slicegpt:0.25", "shortgpt:0.5", "flap:0.3"])
@pytest.mark.parametrize("name", ["model.norm", "model.layers.1.input_layernorm"])
def test_a_norm_that_is_no_number_is_named_before_a_model_is_reshaped(arm: str, name: str) -> None:
    model = tiny_model("llama")
    model.get_submodule(name).weight.data[0] = float("nan")
    with pytest.raises(RefusedError, match=rf"{name}.weight has 1 of .* NaN or infinite"):
        compress(model, step_of(arm), make_test_windows([24] * 4))


def test_flap_refuses_activations_whose_squares_overflow() -> None:
    """Attention heads stay at this share, so that nothing else looks at what attention gives."""
    model = tiny_model("llama")
    model.model.layers[1].self_attn.v_proj.weight.data.mul_(1e21)
    with pytest.raises(RefusedError, match=r"squares of the states that leave model\.layers\.1"):
        compress(model, step_of("flap:0.2"), make_test_windows([24] * 4))


def test_an_embedding_that_norms_its_rows_is_an_embedding() -> None:
    class NormedEmbedding(nn.Embedding):
        pass

    model = tiny_model("llama")
    model.model.embed_tokens = NormedEmbedding(*model.model.embed_tokens.weight.shape)
    why = why_dense(model, find_blocks(model))
    assert why["model.embed_tokens.weight"] == EMBEDDING
    assert NORM not in why.values()
