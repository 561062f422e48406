"""Compressing on CUDA gives what compressing on the CPU gives, method by method, apart from ties that round the other way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm

from .test_folder import save_model, weights, write_text

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

ARMS = (
    *("magnitude:0.5", "wanda:0.5", "wanda:0.5,allocation=owl", "mwanda:0.5", "ria:2:4", "ria:2:4,permute=yes"),
    *("sparsegpt:0.5", "sparsegpt:2:4", "alps:0.5", "prunerzero:0.5", "wandapp:0.5", "wanda:0.5+update", "wanda:0.5+dsnot"),
    *("int8", "int4,group=8", "gptq:4,group=8", "gptq:3,group=8,order=act", "awq:4,group=8", "wanda:0.5+gptq:4,group=8"),
    *("embeddings:q8_0", "shortgpt:0.34", "flap:0.3", "slicegpt:0.25"),
)  # fmt: skip
MIXTURE_ARMS = ("wanda:0.5", "sparsegpt:2:4", "gptq:4,group=4", "dropexperts:0.25", "mergeexperts:0.25")


def folder_on(
    device: str, family: str, arm: str, place: Path, *, save_as: str = "dense"
) -> dict[str, torch.Tensor]:
    """The weights of an arm of a tiny model that is compressed on a device."""
    source = place / family
    if not source.exists():
        save_model(family, source, hidden_size=32, intermediate_size=48)
    text = TextOptions(source=write_text(place / "text.txt", documents=64), samples=64)
    out = place / f"{device}-{save_as}"
    compress_folder(
        str(source),
        out,
        parse_arm(arm).steps,
        FolderOptions(text=text, device=device, save_as=save_as),  # type: ignore[arg-type]
    )
    return weights(out)


def assert_alike(
    on_gpu: dict[str, torch.Tensor], on_cpu: dict[str, torch.Tensor], source: dict[str, torch.Tensor]
) -> None:
    """Equal but for rounding and for what a tie decides: a code is one step off, and later codes of its row follow.

    Codes of later blocks see what the earlier ones became, so there more may differ. The weights are as far from the
    source's as the CPU's are: what differs is no worse.
    """
    assert on_gpu.keys() == on_cpu.keys()
    for name, expected in on_cpu.items():
        found = on_gpu[name]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape, name
        assert found.isfinite().all()
        if name.endswith("weight_packed"):
            found, expected = (
                torch.stack([words >> shift & 15 for shift in range(0, 32, 4)]) for words in (found, expected)
            )
        close = torch.isclose(
            found.float(), expected.float(), rtol=1e-3, atol=1e-4 * float(expected.float().std())
        )
        least = 0.9 if ".layers.0." in name else 0.7
        assert close.float().mean() >= least, (name, float(close.float().mean()))
        if name in source and source[name].shape == found.shape and not torch.equal(source[name], expected):
            far = [float((values.float() - source[name].float()).norm()) for values in (found, expected)]
            assert far[0] == pytest.approx(far[1], rel=0.03), name


def compare(family: str, arm: str, place: Path, *, save_as: str = "dense") -> dict[str, torch.Tensor]:
    """Compresses on both devices and compares the folders; the weights of the one made on CUDA."""
    made = [folder_on(device, family, arm, place, save_as=save_as) for device in ("cuda", "cpu")]
    assert_alike(*made, weights(place / family))
    return made[0]


@pytest.mark.parametrize("arm", ARMS)
def test_a_folder_compressed_on_cuda_is_the_one_compressed_on_the_cpu(arm: str, tmp_path: Path) -> None:
    compare("llama", arm, tmp_path)


@pytest.mark.parametrize("arm", MIXTURE_ARMS)
def test_experts_too(arm: str, tmp_path: Path) -> None:
    compare("qwen3_moe", arm, tmp_path)


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "gpt_neox", "phi3"])
def test_other_families_too(family: str, tmp_path: Path) -> None:
    for arm in ("wanda:0.5", "sparsegpt:0.5"):
        place = tmp_path / arm.partition(":")[0]
        place.mkdir()
        compare(family, arm, place)


def test_codes_are_packed_alike(tmp_path: Path) -> None:
    packed = compare("llama", "gptq:4,group=8", tmp_path, save_as="compressed-tensors")
    assert any(name.endswith("weight_packed") for name in packed)


def test_one_block_is_on_the_gpu_at_a_time(tmp_path: Path) -> None:
    """Peak memory of pruning by the files doesn't grow with the number of blocks."""
    peaks = []
    for blocks in (2, 8):
        source = tmp_path / str(blocks)
        save_model("llama", source, hidden_size=256, intermediate_size=1024, num_hidden_layers=blocks)
        text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=8)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        compress_folder(
            str(source),
            tmp_path / f"out{blocks}",
            parse_arm("wanda:0.5").steps,
            FolderOptions(text=text, device="cuda"),
        )
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 1.25 * peaks[0]
