"""Compare vLLM with transformers on folders that `anomia compress --save-as` wrote.

    python benchmarks/packed_vllm.py --vllm-python PYTHON FOLDER ...

Both continue the same beginnings of passages greedily. Reported per folder: passages with equal answers; tokens
before the first difference, as a share of all; and by how much the log-probabilities of the passages' tokens differ
on average and at most; or vLLM's reason for not loading the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "calibration"
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
}


def main() -> None:
    if sys.argv[1] == "--worker":
        work(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm-python", required=True, help="the interpreter of an environment with vLLM")
    parser.add_argument("--text", default=str(SHARED / "c4.en.jsonl"), help="JSON lines with a field `text`")
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of each passage")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from prune import equal_windows

    prompts = equal_windows(options.folders[0], options.text, options.passages, options.tokens)
    found = ask_vllm(options.vllm_python, options.dtype, options.new_tokens, prompts, options.folders)
    print("folder | equal answers | tokens before the first difference | log-probability off: mean, most")
    for folder in options.folders:
        name = Path(folder).name
        if isinstance(found[folder], str):
            print(f"{name} | refused: {' '.join(found[folder].split())[:300]}")
            continue
        print(f"{name} | {compare(folder, prompts, found[folder], options)}", flush=True)


def ask_vllm(
    python: str, dtype: str, new: int, prompts: list[list[int]], folders: list[str]
) -> dict[str, Any]:
    """By folder, for each prompt its answer's `tokens` and its own tokens' `log_probs`, or why vLLM doesn't load it."""
    command = [python, __file__, "--worker", dtype, str(new), json.dumps(prompts), *folders]
    done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"folder"')]
    return {line["folder"]: line["found"] for line in lines}


def compare(folder: str, prompts: list[list[int]], found: list[dict[str, Any]], options: Any) -> str:
    import torch

    from anomia.models.load import load_model

    model = load_model(folder, dtype=options.dtype, device="cpu").model
    equal = before = 0
    distances = []
    for prompt, theirs in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=options.new_tokens, do_sample=False
        )
        own = made[0, len(prompt) :].tolist()
        equal += own == theirs["tokens"]
        pairs = list(zip(own, theirs["tokens"], strict=False))
        before += next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))
        distances.append((log_probs(model, prompt) - torch.tensor(theirs["log_probs"])).abs())
    off = torch.cat(distances)
    share = before / (options.new_tokens * len(prompts))
    return f"{equal} of {len(prompts)} | {share:.0%} | {float(off.mean()):.4f}, {float(off.max()):.3f}"


def log_probs(model: Any, prompt: list[int]) -> Any:
    """The log-probability of each token after the first, [S − 1]."""
    import torch

    with torch.no_grad():
        scores = model(input_ids=torch.tensor([prompt])).logits[0].float().log_softmax(dim=-1)
    return scores[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]


def work(dtype: str, new: int, prompts: list[list[int]], folders: list[str]) -> None:
    """Run in vLLM's environment: print a line of JSON per folder."""
    for folder in folders:
        found: Any
        try:
            found = answers(folder, dtype, new, prompts)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps({"folder": folder, "found": found}), flush=True)


def answers(folder: str, dtype: str, new: int, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """One engine's answers. It is gone afterwards: what it leaves behind would be taken away from the next one."""
    from vllm import LLM, SamplingParams

    longest = max(map(len, prompts)) + new
    engine = LLM(folder, dtype=dtype, max_model_len=longest, gpu_memory_utilization=0.2, enforce_eager=True)
    settings = SamplingParams(max_tokens=new, temperature=0, prompt_logprobs=0)
    given: Any = [{"prompt_token_ids": ids} for ids in prompts]
    found = []
    for out in engine.generate(given, settings, use_tqdm=False):
        pairs = zip(out.prompt_logprobs[1:], out.prompt_token_ids[1:], strict=True)
        own = [scores[token].logprob for scores, token in pairs]
        found.append({"tokens": list(out.outputs[0].token_ids), "log_probs": own})
    return found


if __name__ == "__main__":
    main()
