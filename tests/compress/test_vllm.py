"""vLLM's CPU build loads packed folders and computes with them what transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.packed_vllm import ask_vllm, log_probs

from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.models.load import load_model
from tests.peers import peer

from .test_folder import save_model, write_text
from .test_packed import step_of

SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
PROMPTS = [[5, 17, 33, 2, 80, 61, 7, 9], [1, 90, 44, 44, 12, 3, 67, 23, 51, 8], [70, 71, 72, 73]]
LOADED = [
    ("gptq:4", "compressed-tensors"),
    ("gptq:4", "gptq"),
    ("gptq:4,symmetric=no", "compressed-tensors"),
    ("awq:4", "compressed-tensors"),
    ("awq:4,symmetric=yes", "gptq"),
]
REFUSED = {
    ("gptq:3", "compressed-tensors"): "uint3b4",
    ("gptq:8", "compressed-tensors"): "uint8b128",
    ("gptq:8", "gptq"): "uint8b128",
    ("gptq:4,symmetric=no", "gptq"): "sym=False",
}
# In bfloat16 two engines' log-probabilities differ by this much on average, also those of the dense folder; with zero
# points that are off by one they differ by several units.
NEAR = 0.25


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_packed_folders_give_the_log_probs_of_transformers(tmp_path: Path) -> None:
    python = peer("vllm")
    save_model("llama", tmp_path / "dense", **SIZES)
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=12)
    folders = {}
    for index, (step, layout) in enumerate([*LOADED, *REFUSED]):
        folders[step, layout] = tmp_path / str(index)
        compress_folder(
            str(tmp_path / "dense"), tmp_path / str(index), [step_of(step)],
            FolderOptions(text=text, dtype="bfloat16", save_as=layout),  # type: ignore[arg-type]
        )  # fmt: skip
    every = [tmp_path / "dense", *folders.values()]
    by_name = ask_vllm(str(python), "bfloat16", 8, PROMPTS, list(map(str, every)))
    assert mean_distance(tmp_path / "dense", by_name[str(tmp_path / "dense")]) < NEAR
    found = {key: by_name[str(folder)] for key, folder in folders.items()}
    for key in LOADED:
        assert not isinstance(found[key], str), (key, found[key])
        assert mean_distance(folders[key], found[key]) < NEAR, key
    # The same codes in two layouts.
    assert found[LOADED[0]] == found[LOADED[1]]
    for key, reason in REFUSED.items():
        assert isinstance(found[key], str), f"vLLM loads {key} now: docs/methods/quantization.md"
        assert reason in found[key]


@torch.no_grad()
def mean_distance(folder: Path, found: list[dict[str, list[float]]]) -> float:
    """The mean difference to the log-probabilities of transformers on the same folder."""
    model = load_model(str(folder), dtype="bfloat16", device="cpu").model
    pairs = zip(PROMPTS, found, strict=True)
    distances = [(log_probs(model, ids) - torch.tensor(theirs["log_probs"])).abs() for ids, theirs in pairs]
    return float(torch.cat(distances).mean())
