"""Compress blocks of a large model's shape on a GPU: seconds per block and peak memory, against the hardware floor.

    python benchmarks/compress_gpu.py --blocks 3

Makes a folder of random weights with Qwen3-8B's shape and a few blocks, and compresses it on CUDA with each method,
using 128 windows of 2,048 tokens. Seconds per block are the median time between finished blocks, without the first
block, which also reads the embeddings, and the last, which writes no states. The floor is two forward passes of the block's matrices over the calibration
tokens at the measured bfloat16 rate, plus, for methods that need second moments, those products at the measured
float32 rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ARMS = ("wanda:0.5", "sparsegpt:0.5", "gptq:4", "awq:4")
SECOND_MOMENTS = ("sparsegpt", "gptq")
SHAPE = {
    "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": True,
}  # fmt: skip
# The widths of a block's distinct matrix inputs, and the number of weights in all its matrices.
INPUTS = (4096, 4096, 4096, 12288)
WEIGHTS = 4096 * (4096 + 2 * 1024 + 4096) + 3 * 4096 * 12288


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--json", type=Path, help="also write the figures there, after each arm")
    parser.add_argument("arms", nargs="*", default=ARMS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        return print("no GPU here: nothing measured")
    rates = {dtype: matmul_rate(dtype) for dtype in (torch.bfloat16, torch.float32)}
    print(
        f"{torch.cuda.get_device_name()}: "
        + ", ".join(f"{dtype} {rate / 1e12:.0f}e12 a second" for dtype, rate in rates.items())
    )
    print("| arm | seconds a block | floor | of floor | peak GPU memory, GB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        make_model(work / "model", options.blocks)
        make_text(work / "text.jsonl", options)
        found = {}
        for arm in options.arms:
            seconds, peak = compressed(arm, work, options)
            floor = floor_of(arm, options.windows * options.tokens, rates)
            found[arm] = {"seconds": seconds, "peak": peak, "floor": floor}
            print(
                f"| `{arm}` | {seconds:.1f} | {floor:.1f} | {floor / seconds:.2f} | {peak / 1e9:.1f} |",
                flush=True,
            )
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    return None


def make_model(out: Path, blocks: int) -> None:
    """Save a bfloat16 model of random weights with Qwen3-8B's shape, and a word-level tokenizer."""
    import tokenizers
    import transformers

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.Qwen3Config(num_hidden_layers=blocks, **SHAPE)
        )
    torch.set_default_dtype(torch.float32)
    model.cpu().save_pretrained(out)
    words = {f"w{number}": number for number in range(SHAPE["vocab_size"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="w0").save_pretrained(out)


def make_text(file: Path, options: Any) -> None:
    """Write passages of random words, each as long as a window."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, SHAPE["vocab_size"], (options.windows, options.tokens), generator=generator)
    file.write_text(
        "".join(json.dumps({"text": " ".join(f"w{i}" for i in row)}) + "\n" for row in ids.tolist())
    )


def compressed(arm: str, work: Path, options: Any) -> tuple[float, int]:
    """Compress the model; return seconds per block (median of the middle ones), and peak GPU memory in bytes."""
    from anomia.compress.folder import compress_folder
    from anomia.compress.options import FolderOptions, TextOptions
    from anomia.compress.spec import parse_arm

    times = [time.perf_counter()]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    text = TextOptions(source=f"file:{work / 'text.jsonl'}", samples=options.windows, tokens=options.tokens)
    out = work / arm.replace(":", "-")
    compress_folder(
        str(work / "model"), out, parse_arm(arm).steps, FolderOptions(text=text, device="cuda"),
        progress=lambda done, _: times.append(time.perf_counter()),
    )  # fmt: skip
    spans = [after - before for before, after in itertools.pairwise(times)]
    print(f"{arm}: spans {[round(span, 1) for span in spans]}", flush=True)
    middle = spans[1:-1] or spans
    return statistics.median(middle), torch.cuda.max_memory_allocated()


def floor_of(arm: str, tokens: int, rates: dict[torch.dtype, float]) -> float:
    """Seconds per block for the matrix products that the method needs at least."""
    passes = 2 * 2 * tokens * WEIGHTS / rates[torch.bfloat16]
    if arm.partition(":")[0] not in SECOND_MOMENTS:
        return passes
    return passes + sum(2 * tokens * width * width for width in INPUTS) / rates[torch.float32]


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations per second of a square product, best of eight runs."""
    left, right = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        best = max(best, 2 * 8192**3 / (time.perf_counter() - begun))
    return best


if __name__ == "__main__":
    main()
