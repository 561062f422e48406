"""The memory formula against what a process really took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from anomia.probe import memory
from anomia.probe.ask import Ask, Decoding

from .conftest import random_asks

PROGRAM = textwrap.dedent(
    """
    import json, re, torch, transformers
    from anomia.probe import memory, tree
    from anomia.probe.ask import Ask, Decoding, OptionSet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=30000, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=2048,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.DTYPE).eval()

    def ask(number, size):
        generator = torch.Generator().manual_seed(number)
        prompt = tuple(torch.randint(5, 30000, (size,), generator=generator).tolist())
        options = OptionSet(size, tuple(prompt + (k, k + 1, k + 2) for k in range(4)))
        return Ask(str(number), greedy={"open": prompt}, options={"choice": options}, beams={"beams": prompt}, samples={"samples": prompt})

    # What getrusage counts is inherited from the process that started this one.
    peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    list(tree.answer(model, [ask(99, 20)], Decoding((), max_new_tokens=2), batch_size=1))
    before = peak()
    decoding = Decoding((), max_new_tokens=16)
    asks = [ask(number, 200) for number in range(BATCH)]
    need = memory.estimate(model, asks, decoding)
    list(tree.answer(model, asks, decoding, batch_size=BATCH))
    print(json.dumps([peak() - before, need.total(BATCH) - need.weights]))
    """
)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak memory is counted in bytes on Linux only"
)
@pytest.mark.parametrize(("dtype", "batch"), [("float32", 24), ("bfloat16", 32)])
def test_the_formula_is_within_15_percent_of_what_is_taken(dtype, batch):
    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("without instructions for bfloat16, torch multiplies copies in float32")
    program = PROGRAM.replace("DTYPE", dtype).replace("BATCH", str(batch))
    # Freed memory goes back at once, so that the peak is that of what is held and not of what is kept for later.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "500000", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    taken, predicted = json.loads(finished.stdout)
    assert predicted == pytest.approx(taken, rel=0.15)


def test_what_fits_follows_from_free_memory(models, decoding, monkeypatch):
    model, asks = models("llama"), random_asks(20)
    need = memory.estimate(model, asks, decoding)
    for free, expected in ((0, 1), (5.5, 5), (1000, memory.LARGEST_ON_CPU)):
        monkeypatch.setattr(
            memory, "free_bytes", lambda _, free=free: (need.fixed + free * need.item) / memory.SPARE
        )
        assert memory.fitting_batch_size(model, memory.estimate(model, asks, decoding)) == expected


def test_bytes_of_a_slot(models):
    # 4 layers, 2 key-value heads of 8 numbers, keys and values, float32
    assert memory.slot_bytes(models("llama")) == 2 * 4 * 2 * 8 * 4
    # 3 layers, 4 heads of 8 numbers
    assert memory.slot_bytes(models("gpt2")) == 2 * 3 * 4 * 8 * 4


def test_asks_without_generation_need_no_rows(models):
    need = memory.estimate(models("llama"), [Ask("a")], Decoding(()))
    assert need.item == 0
    assert need.weights == sum(p.numel() for p in models("llama").parameters()) * torch.float32.itemsize
