"""vLLM on the benchmark's items: greedy, ten samples, five beams, options by `prompt_logprobs`.

Called by `probes.py` with the interpreter of an environment that has vLLM:
MODEL DTYPE FOLDER. Prints its figures as one line of JSON.

Prompts are given as token ids, so no tokenizer is needed; where the folder says `random`, the model is a
configuration alone and its weights are random ones.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

CACHE_GIGABYTES = 2
"""Of the KV cache on CPUs, where it is taken at once: thrice what all sequences of 16 items need at a time."""


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
        # On CPUs this is the part of main memory that has to be free, whatever is then used of it.
        more["gpu_memory_utilization"] = 0.3
    engine = LLM(model=model, dtype=dtype, max_model_len=1024, max_logprobs=20, seed=42, **more)
    prompts = [{"prompt_token_ids": ask["prompt"]} for ask in asks]
    sequences = [{"prompt_token_ids": sequence} for ask in asks for sequence in ask["options"]]
    engine.generate(prompts[:1], SamplingParams(max_tokens=2, temperature=0), use_tqdm=False)
    engine.reset_prefix_cache()
    begun, busy = time.perf_counter(), processor_seconds()
    greedy = engine.generate(prompts, SamplingParams(max_tokens=32, temperature=0), use_tqdm=False)
    # No seed a request: where the sampler looks at its generator's offset, those of CPUs have none.
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
    """This process and those that vLLM started."""
    import psutil

    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def processor_seconds() -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes()))


def peak_bytes() -> int:
    """The sum of the peaks of all processes, each with what it shares with the others."""
    peaks = [Path(f"/proc/{process.pid}/status").read_text() for process in processes()]
    return 1024 * sum(int(text.partition("VmHWM:")[2].split()[0]) for text in peaks if "VmHWM:" in text)


if __name__ == "__main__":
    main()
