"""Run vLLM on the benchmark's items: greedy, ten samples, five beams, options by `prompt_logprobs`.

`probes.py` calls this with the Python of an environment that has vLLM, and the arguments MODEL DTYPE FOLDER. Prints
the measurements as one line of JSON.

Prompts are token ids, so no tokenizer is needed. If asks.json says `random`, the model folder has only a
configuration, and vLLM makes random weights.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

CACHE_GIGABYTES = 2
"""Size of the KV cache on CPUs, which vLLM allocates up front: three times what all sequences of 16 items need."""


def main() -> None:
    model, dtype, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CACHE_GIGABYTES))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import BeamSearchParams

    given = json.loads((folder / "asks.json").read_text())
    asks = given["tokens"]
    more = {"load_format": "dummy", "skip_tokenizer_init": True} if given.get("random") else {}
    if not given.get("random"):
        # On CPUs, this fraction of main memory must be free, however much is used.
        more["gpu_memory_utilization"] = 0.3
    engine = LLM(model=model, dtype=dtype, max_model_len=1024, max_logprobs=20, seed=42, **more)
    prompts = [{"prompt_token_ids": ask["prompt"]} for ask in asks]
    sequences = [{"prompt_token_ids": sequence} for ask in asks for sequence in ask["options"]]
    engine.generate(prompts[:1], SamplingParams(max_tokens=2, temperature=0), use_tqdm=False)
    engine.reset_prefix_cache()
    begun, busy = time.perf_counter(), processor_seconds()
    greedy = engine.generate(prompts, SamplingParams(max_tokens=32, temperature=0), use_tqdm=False)
    # No seeds per request: the sampler reads the generator's offset, which CPU generators lack.
    sampled = engine.generate(
        prompts, SamplingParams(max_tokens=32, temperature=1, top_p=0.9, n=10), use_tqdm=False
    )
    beams = engine.beam_search(prompts, BeamSearchParams(beam_width=5, max_tokens=32), use_tqdm=False)
    engine.generate(sequences, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0), use_tqdm=False)
    seconds, busy = time.perf_counter() - begun, processor_seconds() - busy
    made = sum(
        len(output.token_ids) for found in (greedy, sampled) for one in found for output in one.outputs
    )
    made += sum(
        len(sequence.tokens) - len(ask["prompt"])
        for ask, found in zip(asks, beams, strict=True)
        for sequence in found.sequences
    )
    figures = {
        "seconds": seconds,
        "processor_seconds": busy,
        "new_tokens": made,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(figures))


def processes() -> list:
    """This process and the ones that vLLM started."""
    import psutil

    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def processor_seconds() -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes()))


def peak_bytes() -> int:
    """The sum of all processes' peak memory; shared memory counts once per process."""
    peaks = [Path(f"/proc/{process.pid}/status").read_text() for process in processes()]
    return 1024 * sum(int(text.partition("VmHWM:")[2].split()[0]) for text in peaks if "VmHWM:" in text)


if __name__ == "__main__":
    main()
