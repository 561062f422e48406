"""Matrices that are stored in three dimensions, two of which are one side (XLNet's heads)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.matrices import all_matrices
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.products import Watched, WeightProducts
from anomia.compress.spec import parse_arm
from anomia.compress.stacks import Fold
from anomia.errors import CompressionError

from .architectures import tiny
from .conftest import make_test_windows
from .test_folder import save_tokenizer, step_of, write_text

# Equations of x with w, [a, b, c], and how many dimensions of w are the first side; it is the inputs, or the outputs.
EQUATIONS = {
    "tx,xnd->tnd": Fold(1, transposed=True),
    "tnd,xnd->tx": Fold(1, transposed=False),
    "tnd,ndx->tx": Fold(2, transposed=True),
    "tx,ndx->tnd": Fold(2, transposed=False),
}


@pytest.mark.parametrize("equation", list(EQUATIONS))
@given(sizes=st.tuples(*[st.integers(2, 5)] * 3), tokens=st.integers(1, 4))
def test_einsum_shows_the_inputs_in_the_order_of_the_parameter(
    equation: str, sizes: tuple[int, int, int], tokens: int
) -> None:
    """`einsum` copies the weight with the summed dimensions in an order of its own."""
    left, right = equation.split("->")[0].split(",")
    size = dict(zip(right, sizes, strict=True)) | {"t": tokens}
    x, w = (torch.randn([size[letter] for letter in letters]) for letters in (left, right))
    fold = EQUATIONS[equation]
    found: list[torch.Tensor] = []
    with WeightProducts([Watched("w", fold.of(w))], lambda name, rows, _: found.append(rows)):
        out = torch.einsum(equation, x, w)
    torch.testing.assert_close(torch.cat(found) @ fold.of(w).T, out.reshape(tokens, -1))


@pytest.mark.parametrize(
    "arm", ["magnitude:0.5", "int8", "wanda:0.5", "gptq:4,group=8", "ria:2:4", "prunerzero:0.5"]
)
def test_every_matrix_of_xlnet_is_changed(arm: str) -> None:
    model = tiny("xlnet")
    dense = copy.deepcopy(model)
    report = compress(model, step_of(arm), make_test_windows((24, 17)))
    names = {matrix.name.split(".", 2)[2] for matrix in report.matrices}
    layers = {"ff.layer_1", "ff.layer_2", *(f"rel_attn.{name}" for name in "qkvor")}
    assert names == {f"{block}.{layer}" for block in "01" for layer in layers}
    before, after = dict(dense.named_parameters()), dict(model.named_parameters())
    for matrix in report.matrices:
        name = matrix.name if matrix.name in after else f"{matrix.name}.weight"
        assert not torch.equal(before[name], after[name])
        assert matrix.zeros == int((after[name] == 0).sum())


def test_heads_of_xlnet_are_the_outputs_of_one_matrix() -> None:
    """Wanda compares within a row, which is one channel of one head: of every row half is gone."""
    model = tiny("xlnet")
    compress(model, step_of("wanda:0.5"), make_test_windows((24, 17)))
    for layer in model.transformer.layer:
        for name in "qkvr":
            assert ((layer.rel_attn.get_parameter(name) == 0).sum(dim=0) == 16).all()
        assert ((layer.rel_attn.o == 0).sum(dim=(1, 2)) == 16).all()


def test_a_folder_of_xlnet_is_the_model_in_memory(tmp_path: Path) -> None:
    model = tiny("xlnet")
    model.save_pretrained(tmp_path / "in")
    save_tokenizer(tmp_path / "in")
    for number, arm in enumerate(("magnitude:0.5", "int8", "wanda:0.5+gptq:4,group=8")):
        out = tmp_path / f"out-{number}"
        options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt")))
        report = compress_folder(str(tmp_path / "in"), out, parse_arm(arm).steps, options)
        assert report.streamed
        found = type(model).from_pretrained(out)
        expected = {matrix.name: matrix.zeros for matrix in report.compression.matrices}
        for index, block in enumerate(find_blocks(found).modules):
            for matrix in all_matrices(block, "b"):
                assert int((matrix.weight == 0).sum()) == expected[f"transformer.layer.{index}.{matrix.name}"]


@pytest.mark.parametrize("save_as", ["compressed-tensors", "gptq"])
def test_only_the_linear_layers_of_xlnet_are_packed(save_as: Any, tmp_path: Path) -> None:
    model = tiny("xlnet")
    model.save_pretrained(tmp_path / "in")
    save_tokenizer(tmp_path / "in")
    out = tmp_path / "out"
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt")), save_as=save_as)
    report = compress_folder(str(tmp_path / "in"), out, parse_arm("gptq:4,group=8").steps, options)
    notes = [note for note in report.compression.warnings if "stored dequantized" in note]
    assert len(notes) == 1
    assert "10 parameters (transformer.layer.0.rel_attn.q, …: it isn't a linear layer)" in notes[0]


def test_width_of_folded_matrices_is_refused_in_words() -> None:
    with pytest.raises(CompressionError, match=r"rel_attn\.q of XLNetLMHeadModel is a parameter of none"):
        compress(tiny("xlnet"), step_of("flap:0.2"), make_test_windows((24, 17)))
