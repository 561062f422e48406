from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from anomia.compress import in_files
from anomia.compress.apply import compress, prepare_windows
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.methods.grid import Grid, round_to_nearest
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.packed import add_settings, check_save_as, read_tensors, tensors_of
from anomia.compress.spec import parse_arm
from anomia.errors import CompressionError, StudyError
from anomia.models.load import load_model
from anomia.models.words import pack, unpack

from .conftest import make_test_windows, tiny_model
from .test_folder import save_model, weights, write_text
from .test_gptq import random_weight

BITS = (2, 3, 4, 8)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def step_of(text: str) -> Any:
    return parse_arm(text).steps[0]


def settings_of(text: str, model: Any, folder: Path) -> Any:
    """The quantization settings that are written into config.json."""
    (folder / "config.json").write_text("{}")
    add_settings(folder, step_of(text), "compressed-tensors", model, find_blocks(model))
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def scheme_of(text: str, model: Any, folder: Path) -> Any:
    """compressed-tensors' own reading of the configuration that is written."""
    quantization = pytest.importorskip("compressed_tensors.quantization")
    config = settings_of(text, model, folder)
    config.pop("quantization_status")
    return quantization.QuantizationConfig.model_validate(config).config_groups["group_0"]


@given(
    bits=st.sampled_from(BITS),
    rows=st.integers(1, 5),
    columns=st.integers(1, 80),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_packing_is_compressed_tensors(bits: int, rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)
    words = pack(codes, bits)
    assert torch.equal(unpack(words, bits, columns), codes)
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    signed = (codes.int() - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(words, helpers.pack_to_int32(signed, bits))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", ["yes", "no"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_stored_stands_for_the_values_in_memory(
    bits: int, symmetric: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    grid = Grid(bits, 16, symmetric == "yes", dtype)
    quantized = round_to_nearest(random_weight(12, 64) + 0.3, grid)
    tensors = tensors_of(quantized, "compressed-tensors")
    assert tensors is not None
    text = f"gptq:{bits},group=16,symmetric={symmetric}"
    again = read_tensors(tensors, step_of(text), "compressed-tensors")
    assert torch.equal(again.values(), quantized.values())
    assert again.values().dtype is dtype
    compressors = pytest.importorskip("compressed_tensors.compressors")
    scheme = scheme_of(text, tiny_model("llama"), tmp_path)
    theirs = compressors.BaseCompressor.get_value_from_registry("pack-quantized").decompress(tensors, scheme)
    assert torch.equal(theirs["weight"], quantized.values())


def test_linear_layers_that_stay_dense_are_named(tmp_path: Path) -> None:
    for family, dense in (("llama", ["lm_head"]), ("gpt2", ["lm_head"])):
        config = settings_of("awq:4", tiny_model(family), tmp_path)
        assert config["ignore"] == dense
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 128, False)


def test_only_codes_can_be_packed() -> None:
    check_save_as("compressed-tensors", [step_of("gptq:4")])
    check_save_as("dense", [step_of("wanda:0.5")])
    with pytest.raises(StudyError, match=r"wanda:0\.5 has none"):
        check_save_as("compressed-tensors", [step_of("wanda:0.5")])
    with pytest.raises(StudyError, match="unknown --save-as 'gguf'"):
        check_save_as("gguf", [step_of("gptq:4")])  # type: ignore[arg-type]


def test_a_folder_that_unpacks_on_its_first_call_can_be_asked_in_parts(tmp_path: Path) -> None:
    """As other programs write them, without the word that transformers should unpack while it loads."""
    pytest.importorskip("compressed_tensors")
    save_model("llama", tmp_path / "in")
    steps = parse_arm("gptq:4,group=8,calibration=demo,samples=2,tokens=16").steps
    compress_folder(
        str(tmp_path / "in"), tmp_path / "out", steps, FolderOptions(save_as="compressed-tensors")
    )
    ids = torch.arange(8)[None]
    expected = load_model(str(tmp_path / "out"), device="cpu").model(input_ids=ids).logits
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"].pop("dequantize")
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    model = load_model(str(tmp_path / "out"), device="cpu").model
    hidden = model.base_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(model.lm_head(hidden), expected)


@pytest.mark.parametrize(
    ("family", "step"),
    [
        ("llama", "gptq:4,group=8"),
        ("llama_biases_tied", "gptq:3,group=8,symmetric=no,order=plain"),
        ("gemma3", "awq:4,group=8"),
        ("gemma3", "awq:2,group=8,symmetric=yes"),
        ("phi3", "gptq:8,group=8"),
        # transformers merges its experts while it loads them.
        ("mixtral", "gptq:4,group=8"),
        ("mixtral", "awq:3,group=8,symmetric=yes"),
    ],
)
def test_a_packed_folder_loads_as_what_was_in_memory(family: str, step: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    changes = {"torch_dtype": "bfloat16"} if family == "gemma3" else {}
    save_model(family, tmp_path / "in", **changes)
    dtype = "bfloat16" if family == "gemma3" else "float32"
    source = write_text(tmp_path / "text.txt")
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step_of(step)],
        FolderOptions(text=TextOptions(source=source, samples=12), dtype=dtype, save_as="compressed-tensors"),
    )
    assert report.streamed == (family != "mixtral")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["format"] == "pack-quantized"
    assert not any("stand for" in warning for warning in report.compression.warnings)
    kind = getattr(torch, dtype)
    dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    windows = prepare_windows(step_of(step), tokenizer, TextOptions(source=source, samples=12))
    in_place = compress(dense, step_of(step), windows)
    assert [m[1:] for m in in_place.matrices] == [m[1:] for m in report.compression.matrices]
    ids = torch.arange(1, 25)[None]
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert packed.dtype is kind
    ours = load_model(str(tmp_path / "out"), device="cpu").model
    with torch.no_grad():
        expected = dense(input_ids=ids).logits
        # The decoder alone first: what is unpacked on the first call of the whole model isn't there for it.
        inner = packed.base_model(input_ids=ids).last_hidden_state
        assert torch.equal(inner, dense.base_model(input_ids=ids).last_hidden_state)
        assert torch.equal(packed(input_ids=ids).logits, expected)
        assert torch.equal(ours(input_ids=ids).logits, expected)
    kept = {n: v for n, v in weights(tmp_path / "out").items() if "embed" in n}
    before = weights(tmp_path / "in")
    assert all(torch.equal(value, before[name].to(kind)) for name, value in kept.items())


def test_a_packed_file_that_is_damaged_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model("llama", tmp_path / "in")
    source = write_text(tmp_path / "text.txt")

    def damaged(quantized: Any, save_as: Any) -> dict[str, torch.Tensor]:
        tensors = tensors_of(quantized, save_as)
        assert tensors is not None
        return tensors | {"weight_packed": tensors["weight_packed"] ^ 0x11111111}

    monkeypatch.setattr(in_files, "tensors_of", damaged)
    with pytest.raises(CompressionError, match="zeros in its file, not"):
        compress_folder(
            str(tmp_path / "in"),
            tmp_path / "out",
            [step_of("gptq:4,group=8")],
            FolderOptions(text=TextOptions(source=source, samples=12), save_as="compressed-tensors"),
        )


def test_a_pruned_model_keeps_its_pattern_when_it_is_quantized(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    source = write_text(tmp_path / "text.txt")
    for step in ("gptq:4,group=8,symmetric=no", "gptq:3,group=8,order=plain", "awq:4,group=8"):
        out = tmp_path / step.replace(":", "-")
        report = compress_folder(
            str(tmp_path / "in"),
            out,
            parse_arm(f"wanda:2:4+{step}").steps,
            FolderOptions(text=TextOptions(source=source, samples=12), save_as="compressed-tensors"),
        )
        assert report.compression.sparsity >= 0.5
        assert all(
            matrix.zeros >= matrix.shape[0] * matrix.shape[1] // 2 for matrix in report.compression.matrices
        )


def test_a_group_that_does_not_divide_is_refused_with_one_that_does(tmp_path: Path) -> None:
    with pytest.raises(
        CompressionError, match=r"groups of 128 can't divide; awq:4,group=8 fits every matrix"
    ):
        compress(tiny_model("llama"), step_of("awq:4"), make_test_windows([20]))


@pytest.mark.parametrize("save_as", ["compressed-tensors", "gptq"])
@pytest.mark.parametrize("how", ["file", "packing", "norm"])
def test_other_values_with_the_same_zeros_are_noticed(
    save_as: Any, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales twice as large leave every zero a zero."""
    save_model(
        "llama", tmp_path / "in", hidden_size=64, intermediate_size=64, num_key_value_heads=4, head_dim=16
    )
    scale = "scales" if save_as == "gptq" else "weight_scale"
    says = r"layers\.1\.mlp\.up_proj decodes to other values than were stored"
    if how == "packing":
        pack_them = in_files.tensors_of

        def wrongly(*args: Any) -> Any:
            parts = pack_them(*args)
            assert parts is not None
            return parts | {scale: 2 * parts[scale]}

        monkeypatch.setattr(in_files, "tensors_of", wrongly)
        says = "decodes to other values than were stored"
    else:
        name = (
            "model.layers.1.input_layernorm.weight"
            if how == "norm"
            else f"model.layers.1.mlp.up_proj.{scale}"
        )
        says = rf"the tensor {name} is not what was written" if how == "norm" else says
        rest = in_files.InFiles.write_rest

        def damage(blocks: Any, step: Any) -> None:
            rest(blocks, step)
            file = blocks._out / "model-00002.safetensors"
            stored = load_file(file)
            stored[name] = 2 * stored[name]
            save_file(stored, file, {"format": "pt"})

        monkeypatch.setattr(in_files.InFiles, "write_rest", damage)
    steps = parse_arm("gptq:4,group=32,calibration=demo,samples=2,tokens=16").steps
    with pytest.raises(CompressionError, match=says):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, FolderOptions(save_as=save_as))
