"""Compare Anomia's long answers with plain transformers and with the floor of the machine.

    python benchmarks/long_answers.py --model FOLDER --prompts 8 --tokens 256

Each contender runs in its own process, in turn, on the same prompts: a free greedy answer of `--tokens` tokens to each in
one batch (no end token, so that all are of that length), and a pass along an answer of that length, read at every
position: rank, log probability, and 32 tokens of base's distribution.

- tree: Anomia's token tree.
- transformers: `generate` with left padding, and one forward pass per answer.

The floor of a decode step is the larger of its operations over the matrix multiplication rate and the bytes of all weights
over the bandwidth; of the forced pass, its operations over the rate, with the head's product at the rate of float32. The
rate is given twice: of a large product, and of products with as many rows as the part has (a product of few rows is slower
per operation, whoever asks for it). Rates and bandwidth are measured in the same run, next to each contender. With
`--processor`, times are processor seconds instead of wall time: use it with OMP_NUM_THREADS=1 where other programs run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

REFERENCES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", help="a model folder; the demo's model if none is given")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--processor", action="store_true", help="processor seconds instead of wall time")
    parser.add_argument("--only", choices=("tree", "transformers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    if options.only:
        print(json.dumps(contend(options)))
        return
    print(
        f"{options.prompts} prompts of {options.prompt_tokens} tokens, answers of {options.tokens}, {options.dtype}\n"
    )
    print(
        "| contender | free: seconds | of floor | at its rows | along: seconds | of floor | at its rows | peak GB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name in ("tree", "transformers"):
        given = [
            f"--{key.replace('_', '-')}" if value is True else f"--{key.replace('_', '-')}={value}"
            for key, value in vars(options).items()
            if key != "only" and value is not False
        ]
        done = subprocess.run(
            [sys.executable, __file__, *given, "--only", name], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        free, along = (
            f"{found[part]:.1f} | {found[f'{part}_floor'] / found[part]:.2f} | "
            f"{found[f'{part}_floor_at_rows'] / found[part]:.2f}"
            for part in ("free", "along")
        )
        print(f"| {name} | {free} | {along} | {found['peak'] / 1e9:.1f} |", flush=True)


def contend(options: argparse.Namespace) -> dict[str, float]:
    import transformers

    global clock
    if options.processor:
        clock = time.process_time
    dtype = getattr(torch, options.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    size = model.get_input_embeddings().weight.shape[0]
    prompts, answers = (
        torch.randint(1000, size - 1000, (options.prompts, length), generator=generator)
        for length in (options.prompt_tokens, options.tokens)
    )
    references = torch.randint(1000, size - 1000, (options.tokens + 1, REFERENCES), generator=generator)
    run = {"tree": by_tree, "transformers": by_transformers}[options.only]
    run(model, prompts[:1], answers[:1, :4], references[:5], 4)  # warm up
    free, along = run(model, prompts, answers, references, options.tokens)
    return {
        "free": free,
        "along": along,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        **floors(model, options),
    }


def by_tree(
    model: Any, prompts: torch.Tensor, answers: torch.Tensor, references: torch.Tensor, tokens: int
) -> tuple[float, float]:
    from anomia.probe import tree
    from anomia.probe.ask import Ask, Decoding, ForcedAnswer

    decoding = Decoding(eos_token_ids=(), max_new_tokens=tokens, sample_seeds=())
    asked = tuple(map(tuple, references.tolist()))
    free = [Ask(str(n), greedy={"": tuple(row)}) for n, row in enumerate(prompts.tolist())]
    forced = [
        Ask(str(n), forced=ForcedAnswer(tuple(row), tuple(answer), asked))
        for n, (row, answer) in enumerate(zip(prompts.tolist(), answers.tolist(), strict=True))
    ]
    return timed(lambda: list(tree.answer(model, free, decoding, batch_size=len(free)))), timed(
        lambda: list(tree.answer(model, forced, decoding, batch_size=len(free)))
    )


@torch.inference_mode()
def by_transformers(
    model: Any, prompts: torch.Tensor, answers: torch.Tensor, references: torch.Tensor, tokens: int
) -> tuple[float, float]:
    model.generation_config.eos_token_id = None

    def free() -> None:
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )

    def along() -> None:
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = (
                model(torch.cat([prompt, answer])[None], logits_to_keep=len(answer) + 1).logits[0].float()
            )
            log_probs = logits.log_softmax(-1)
            own = log_probs[:-1].gather(1, answer[:, None])
            (log_probs[:-1] > own).sum(-1).tolist()
            log_probs.gather(1, references).tolist()

    return timed(free), timed(along)


def floors(model: Any, options: argparse.Namespace) -> dict[str, float]:
    """The least seconds for both parts, at the rate of a large product and at that of as many rows."""
    dtype = getattr(torch, options.dtype)
    head = model.get_output_embeddings().weight
    inside = sum(p.numel() for p in model.parameters()) - head.numel()
    read = (inside + head.numel()) * dtype.itemsize / bandwidth()
    length = options.prompt_tokens + options.tokens

    def least(decode: float, prefill: float, exact: float) -> tuple[float, float]:
        """Seconds of the free answers and along base's. Rates of decode steps, of long passes, of float32 heads."""
        step = max(read, 2 * options.prompts * (inside + head.numel()) / decode)
        free = 2 * options.prompts * options.prompt_tokens * inside / prefill + (options.tokens - 1) * step
        heads = 2 * (options.tokens + 1) * head.numel() / exact
        return free, options.prompts * (2 * length * inside / prefill + heads)

    large, exact = matmul_rate(dtype, 512), matmul_rate(torch.float32, 512)
    free, along = least(large, large, exact)
    free_at_rows, along_at_rows = least(
        matmul_rate(dtype, options.prompts), large, matmul_rate(torch.float32, min(64, options.tokens + 1))
    )
    return {
        "free_floor": free,
        "along_floor": along,
        "free_floor_at_rows": free_at_rows,
        "along_floor_at_rows": along_at_rows,
    }


def matmul_rate(dtype: torch.dtype, rows: int) -> float:
    """Operations per second of [rows, 2048] × [2048, 2048]; the best of several runs."""
    left, right = torch.randn(rows, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    repeats = max(1, 512 // rows)

    def run() -> None:
        for _ in range(repeats):
            torch.nn.functional.linear(left, right)

    return max(2 * rows * 2048 * 2048 * repeats / timed(run) for _ in range(24))


def bandwidth() -> float:
    """Bytes per second of reading more than a processor's cache."""
    values = torch.ones(2**27, dtype=torch.int8)
    return max(values.numel() / timed(lambda: values.view(torch.int64).sum()) for _ in range(12))


clock = time.perf_counter


def timed(run: Any) -> float:
    begun = clock()
    run()
    return clock() - begun


if __name__ == "__main__":
    main()
