from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.reshape.base import Walk
from anomia.compress.reshape.depth import SHORTGPT, block_influence, keep_blocks
from anomia.compress.reshape.subject import Loaded
from anomia.compress.spec import parse_arm
from anomia.compress.unfinished import UNFINISHED
from anomia.models.load import load_model
from tests.compress.architectures import kinds, tiny
from tests.compress.conftest import FAMILIES, MIXTURES, make_test_windows, tiny_model
from tests.compress.reshaped import (
    IDS,
    every_architecture,
    generates_alike,
    in_memory,
    loads_back,
    logits,
    refused,
    with_noise,
)
from tests.compress.test_folder import save_model, write_text

WINDOWS = make_test_windows([24, 17, 9])
shortgpt, keep = in_memory(SHORTGPT.apply), in_memory(keep_blocks)


def deep(family: str, blocks: int = 6, **changes: Any) -> Any:
    layers = {"n_layer": blocks} if family == "gpt2" else {}
    return with_noise(tiny_model(family, num_hidden_layers=blocks, **layers, **changes))


def influence_by_hidden_states(model: Any, windows: Any) -> np.ndarray:
    """1 − mean cosine between the hidden states that `transformers` returns, one window at a time."""
    last: list[torch.Tensor] = []
    blocks = find_blocks(model).modules
    handle = blocks[-1].register_forward_hook(
        lambda _, __, out: last.append(out if torch.is_tensor(out) else out[0])
    )
    cosines: list[list[float]] = [[] for _ in blocks]
    for ids in windows.token_ids:
        with torch.no_grad():
            states = list(model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states)
        # The last entry is behind the final norm.
        states = [*states[: len(blocks)], last[-1]]
        for index, (before, after) in enumerate(itertools.pairwise(states)):
            for a, b in zip(before[0].double().numpy(), after[0].double().numpy(), strict=True):
                cosines[index].append(float(a @ b / np.sqrt((a @ a) * (b @ b))))
    handle.remove()
    return 1 - np.array([np.mean(each) for each in cosines])


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "mixtral"])
def test_influence_equals_one_from_the_models_own_hidden_states(family: str) -> None:
    """Windows of unequal lengths: padding must not count."""
    model = deep(family)
    found = block_influence(Loaded(model, find_blocks(model)), Walk(WINDOWS))
    np.testing.assert_allclose(
        found.numpy(), influence_by_hidden_states(model, WINDOWS), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_the_lowest_blocks_go_and_the_rest_loads(family: str, tmp_path: Path) -> None:
    model = deep(family)
    order = influence_by_hidden_states(model, WINDOWS).argsort()
    report = shortgpt(model, find_blocks(model), 0.34, WINDOWS)
    assert report.details["removed_blocks"] == sorted(order[:2].tolist())
    assert len(find_blocks(model).modules) == 4
    assert report.parameters_after < report.parameters_before
    assert report.bytes_after == sum(p.numel() * 4 for p in model.parameters())
    generates_alike(loads_back(model, tmp_path))


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
def test_a_block_that_does_nothing_goes_without_a_trace(family: str) -> None:
    model = deep(family)
    block = find_blocks(model).modules[2]
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
    expected = logits(model)
    report = shortgpt(model, find_blocks(model), 1, WINDOWS)
    assert report.details["removed_blocks"] == [2]
    assert report.scores[0][2] == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(logits(model), expected)


def test_interleaved_windows_stay_with_their_blocks(tmp_path: Path) -> None:
    """Local and global attention alternate; whichever blocks go, each of the others keeps its own kind."""
    types = [*["sliding_attention"] * 5, "full_attention"] * 2
    model = with_noise(tiny_model("gemma3", num_hidden_layers=12, layer_types=types))
    long = torch.randint(0, 96, (1, 60), generator=torch.Generator().manual_seed(1))
    kept = [0, 2, 5, 7, 10, 11]
    removed = [index for index in range(12) if index not in kept]
    blocks = find_blocks(model).modules
    handles = [blocks[i].register_forward_hook(lambda _, args, __: args[0]) for i in removed]
    expected = logits(model, long)
    for handle in handles:
        handle.remove()
    keep(model, find_blocks(model), kept, WINDOWS)
    assert model.config.layer_types == [types[index] for index in kept]
    torch.testing.assert_close(logits(model, long), expected)
    loaded = loads_back(model, tmp_path)
    torch.testing.assert_close(logits(loaded, long), expected)
    generates_alike(loaded)


def test_dense_blocks_among_mixtures_keep_their_kind(tmp_path: Path) -> None:
    model = deep("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[5])
    kinds_before = [type(block.mlp).__name__ for block in model.model.layers]
    assert len(set(kinds_before)) == 2
    keep(model, find_blocks(model), [0, 1, 3, 5], WINDOWS)
    assert [type(b.mlp).__name__ for b in model.model.layers] == [kinds_before[i] for i in (0, 1, 3, 5)]
    loads_back(model, tmp_path)


@pytest.mark.parametrize("kind", ["gemma3n_text", "gemma4_text", "smollm3", "llama4_text", "deepseek_v2"])
def test_parts_beside_the_blocks_are_cut_too(kind: str, tmp_path: Path) -> None:
    """Embeddings of each layer, lists of windows, counts of dense layers."""
    model = with_noise(tiny(kind))
    blocks = find_blocks(model).modules
    kept = list(range(1, len(blocks), 2))
    keep(model, find_blocks(model), kept, make_test_windows([24] * 2))
    assert len(find_blocks(model).modules) == len(kept)
    loads_back(model, tmp_path)


def test_what_the_configuration_cannot_say_is_refused_and_changes_nothing() -> None:
    windows = make_test_windows([24] * 2)
    # Jamba's mixtures come in a period; MiniMax decays by a block's share of the depth.
    refused(with_noise(tiny("jamba")), keep, [1], windows, match="can't be written as an ordinary Jamba")
    refused(with_noise(tiny("minimax")), keep, [1, 3], windows, match="num_hidden_layers would change")
    scaled = deep("gpt2", scale_attn_by_inverse_layer_idx=True)
    refused(scaled, keep, [0, 2, 3], windows, match="attn.scaling would change")


def test_bad_requests_are_refused() -> None:
    model = deep("llama", 4)
    refused(model, shortgpt, 0.25, None, match="needs calibration text")
    refused(model, shortgpt, 0.2, WINDOWS, match="would remove 0 of 4 blocks")
    refused(model, shortgpt, 4, WINDOWS, match="would remove 4 of 4 blocks")
    # A token that the first look at the model doesn't see.
    windows = make_test_windows([60])
    late = next(token for token in windows.token_ids[0][48:] if token not in windows.token_ids[0][:48])
    with torch.no_grad():
        model.model.embed_tokens.weight[late] = torch.nan
    refused(model, shortgpt, 0.25, windows, match="NaN or infinite")


def test_as_a_step_of_an_arm() -> None:
    model = deep("llama").to(torch.bfloat16)
    (step,) = parse_arm("shortgpt:0.5").steps
    report = compress(model, step, WINDOWS)
    assert report.reshaped is not None
    assert report.reshaped["removed"][0].startswith("3 of 6 blocks: ")
    assert report.size_bytes == report.reshaped["bytes_after"] == sum(p.nbytes for p in model.parameters())
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "sdpa"
    assert isinstance(model, transformers.LlamaForCausalLM)
    generates_alike(model)
    # Another step finds the new blocks.
    (prune,) = parse_arm("wanda:0.5").steps
    assert len(compress(model, prune, WINDOWS).matrices) == 3 * 7


@pytest.mark.parametrize(
    ("family", "chain"),
    [
        ("llama", "shortgpt:0.34+wanda:0.5+int8"),
        ("gemma3", "shortgpt:0.34"),
        ("llama", "flap:0.5+magnitude:0.3"),
        ("qwen3", "slicegpt:0.25+wanda:0.5"),
        ("mixtral", "dropexperts:0.25+wanda:0.5"),
        ("qwen3_moe", "mergeexperts:0.25"),
    ],
)
def test_folders_of_chains_load_and_equal_the_chain_in_memory(
    family: str, chain: str, tmp_path: Path
) -> None:
    """`anomia compress` and `anomia run` apply the same function; what is written is what was in memory."""
    save_model(family, tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm(chain).steps
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in").eval()
    for step in steps:
        compress(model, step, prepare_windows(step, tokenizer, options.text))
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert found.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(logits(found, IDS % 30), logits(model, IDS % 30))
    assert report.steps[0].reshaped is not None
    assert not (tmp_path / "out" / UNFINISHED).exists()
    loaded = load_model(str(tmp_path / "out"))
    assert sum(p.numel() for p in loaded.model.parameters()) == report.steps[0].reshaped["parameters_after"]


@pytest.mark.slow
# RWKV divides by the number of its blocks less one, and a tiny one has two.
@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind != "rwkv"])
def test_every_architecture_loads_back_or_says_why_not(kind: str, tmp_path: Path) -> None:
    every_architecture(kind, shortgpt, 1, folder=tmp_path)
