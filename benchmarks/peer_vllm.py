"""vLLM on the benchmark's items: greedy, ten samples, five beams, options by `prompt_logprobs`.

Called by `probes.py` with the interpreter of an environment that has vLLM:
MODEL DTYPE FOLDER. Prints its figures as one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    model, dtype, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import BeamSearchParams

    asks = json.loads((folder / "asks.json").read_text())["tokens"]
    engine = LLM(model=model, dtype=dtype, max_model_len=1024, max_logprobs=20)
    prompts = [{"prompt_token_ids": ask["prompt"]} for ask in asks]
    sequences = [{"prompt_token_ids": sequence} for ask in asks for sequence in ask["options"]]
    engine.generate(prompts[:1], SamplingParams(max_tokens=2, temperature=0), use_tqdm=False)
    begun = time.perf_counter()
    greedy = engine.generate(prompts, SamplingParams(max_tokens=32, temperature=0), use_tqdm=False)
    sampled = engine.generate(
        prompts, SamplingParams(max_tokens=32, temperature=1, top_p=0.9, n=10, seed=42), use_tqdm=False
    )
    beams = engine.beam_search(prompts, BeamSearchParams(beam_width=5, max_tokens=32))
    engine.generate(sequences, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0), use_tqdm=False)
    seconds = time.perf_counter() - begun
    made = sum(
        len(output.token_ids) for found in (greedy, sampled) for one in found for output in one.outputs
    )
    made += sum(
        len(sequence.tokens) - len(ask["prompt"])
        for ask, found in zip(asks, beams, strict=True)
        for sequence in found.sequences
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "new_tokens": made, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
