"""Compare pruning time and memory with llm-compressor and with the floor of the machine.

    python benchmarks/prune.py --model FOLDER --text FILE.jsonl --peer-python OTHER/bin/python

Without arguments: the demo's model, the shared C4 sample next to the checkout (or the shipped passages), and no peer,
which the report mentions.

Contestants use the same model, token windows and machine, and take turns in one run. Each has its own process (the
peer also its own environment), loads the model, and times only the pruning. The floor is the least work that any
implementation of these methods needs on this machine: two forward passes of every matrix over the calibration tokens
and their causal attention at the measured bfloat16 rate; for SparseGPT also the float32 Hessians, one factorization
and triangular inverse each, and the column updates at the measured float32 rate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
METHODS = ("wanda", "sparsegpt")
SPARSITY = 0.5
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--text", help="JSON lines with a field `text`")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1, help="the best of this many is reported")
    parser.add_argument("--peer-python", help="the Python of an environment with llm-compressor")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--threads", type=int, help="of each contestant; all cores if left out")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu counts processor time: with --threads 1 it is fair on a machine that others use",
    )
    parser.add_argument("--json", help="write the figures here, too")
    parser.add_argument("--worker", choices=("ours", "peer", "floor"), help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        rows = json.loads(Path(options.text).read_text())
        globals()["clock"] = CLOCKS[options.clock]
        worker = {"ours": run_ours, "peer": run_peer, "floor": measure_floor}[options.worker]
        print(json.dumps(worker(options.model, options.method, rows)))
        return
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    if options.text is None:
        shared = HERE.parent.parent / "shared" / "data" / "calibration" / "c4.en.jsonl"
        options.text = str(shared)
        if not shared.exists():
            options.text = str(HERE.parent / "src/anomia/items/demo/calibration/english.jsonl")
            options.windows, options.tokens = min(options.windows, 8), min(options.tokens, 128)
    with tempfile.TemporaryDirectory() as folder:
        rows = equal_windows(options.model, options.text, options.windows, options.tokens)
        windows = Path(folder) / "windows.json"
        windows.write_text(json.dumps(rows))
        figures = compare(options, str(windows))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


def equal_windows(model: str, text: str, count: int, tokens: int) -> list[list[int]]:
    """The first passages that fill a window. They have equal length, since the peer would count padding."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows: list[list[int]] = []
    for line in Path(text).read_text(encoding="utf-8").splitlines():
        ids = tokenizer(json.loads(line)["text"], truncation=True, max_length=tokens)["input_ids"]
        if len(ids) == tokens:
            rows.append(ids)
        if len(rows) == count:
            return rows
    raise SystemExit(f"{text} has {len(rows)} passages of {tokens} tokens, {count} are needed")


def compare(options: argparse.Namespace, windows: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"clock": options.clock, "threads": options.threads}
    environment = dict(os.environ)
    if options.threads:
        libraries = ("OMP", "MKL", "OPENBLAS")
        environment |= {f"{library}_NUM_THREADS": str(options.threads) for library in libraries}
    print(f"{'method':10} {'contestant':14} {'seconds':>8} {'of floor':>9} {'peak GB':>8}")
    for method in options.methods:

        def run(worker: str, python: str = sys.executable, method: str = method) -> dict[str, float]:
            command = [python, __file__, "--model", options.model, "--text", windows]
            command += ["--worker", worker, "--method", method, "--clock", options.clock]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
            return answer

        seen: dict[str, list[dict[str, float]]] = {"floor": [], "ours": [], "peer": []}
        for _ in range(options.rounds):
            # Measure the floor next to each run, so that a busy machine slows down both.
            seen["floor"].append(run("floor"))
            seen["ours"].append(run("ours"))
            if options.peer_python:
                seen["peer"].append(run("peer", options.peer_python))
        best = {name: min(runs, key=lambda r: r["seconds"]) for name, runs in seen.items() if runs}
        floor = best["floor"]["seconds"]
        print(f"{method:10} {'floor':14} {floor:8.1f} {'100 %':>9}")
        for name, label in (("ours", "anomia"), ("peer", "llm-compressor")):
            if name in best:
                seconds, peak = best[name]["seconds"], best[name]["peak"]
                print(f"{method:10} {label:14} {seconds:8.1f} {floor / seconds:8.0%} {peak / 1e9:9.2f}")
        if "peer" not in best:
            print(f"{method:10} llm-compressor: left out, no --peer-python")
        figures[method] = {"best": best, "all": seen}
    return figures


def run_ours(model: str, method: str, rows: list[list[int]]) -> dict[str, float]:
    import torch
    import transformers

    from anomia.compress.apply import compress
    from anomia.compress.calibration import CalibrationRecord, Windows
    from anomia.compress.steps import Prune

    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    tokens = sum(map(len, rows))
    record = CalibrationRecord(
        "benchmark", None, len(rows), 0, tokens, len(rows[0]), len(rows[0]), None, {}, "", ""
    )
    windows = Windows(tuple(map(tuple, rows)), ("english",) * len(rows), record)
    started = clock()
    report = compress(loaded, Prune(method, SPARSITY), windows)
    return {"seconds": clock() - started, "peak": peak_memory(), "sparsity": report.sparsity}


def run_peer(model: str, method: str, rows: list[list[int]]) -> dict[str, float]:
    import datasets
    import torch
    import transformers
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    kind = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
    recipe = kind(sparsity=SPARSITY, mask_structure="0:0", ignore=["re:.*lm_head"])
    data = datasets.Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    started = clock()
    oneshot(
        model=loaded,
        tokenizer=tokenizer,
        dataset=data,
        recipe=recipe,
        max_seq_length=len(rows[0]),
        num_calibration_samples=len(rows),
    )
    seconds = clock() - started
    zeros = weights = 0
    for name, parameter in loaded.named_parameters():
        if name.endswith("proj.weight"):
            zeros += int((parameter == 0).sum())
            weights += parameter.numel()
    return {"seconds": seconds, "peak": peak_memory(), "sparsity": zeros / max(weights, 1)}


def measure_floor(model: str, method: str, rows: list[list[int]]) -> dict[str, float]:
    """Seconds of the least work that the method needs; each part is timed separately, best of several runs."""
    import numpy as np
    import torch
    import transformers
    from scipy.linalg import blas

    from anomia.compress.blocks import find_blocks
    from anomia.compress.matrices import find_matrices

    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    tokens = sum(map(len, rows))
    chunk = 1024
    shapes: dict[tuple[int, int], int] = {}
    blocks = find_blocks(loaded).modules
    for block in blocks:
        for matrix in find_matrices(block, where=""):
            shape = tuple(matrix.weight.shape)
            shapes[shape] = shapes.get(shape, 0) + 1
    passes = 0.0
    for (out, columns), count in shapes.items():
        inputs, weight = (torch.randn(n, columns, dtype=torch.bfloat16) for n in (chunk, out))
        passes += 2 * count * tokens / chunk * best_time(lambda x=inputs, w=weight: x @ w.T)
    config = loaded.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rate = square_rate(torch.bfloat16)
    # Operations of two products per head; causal attention needs only half of the S² scores.
    attention = sum(2 * len(row) ** 2 * width * config.num_attention_heads for row in rows)
    passes += 2 * len(blocks) * attention / rate
    parts = {"passes": passes}
    if method == "sparsegpt":
        # q/k/v and gate/up share their input and thus their Hessian.
        gram = factor = 0.0
        for _, columns in input_groups(blocks[0]):
            values = np.random.default_rng(0).standard_normal((chunk, columns), dtype=np.float32)
            tensor = torch.from_numpy(values)
            total = np.zeros((columns, columns), np.float32, order="F")
            product = best_time(
                lambda v=values, c=total: blas.ssyrk(1.0, v.T, 1.0, c, lower=1, overwrite_c=1)
            )
            gram += len(blocks) * tokens / chunk * product
            hessian = tensor.T @ tensor / chunk + torch.eye(columns)
            lower = torch.linalg.cholesky(hessian)
            eye = torch.eye(columns)
            factor += len(blocks) * best_time(lambda h=hessian: torch.linalg.cholesky(h))
            factor += len(blocks) * best_time(
                lambda low=lower, one=eye: torch.linalg.solve_triangular(low, one, upper=False)
            )
        updates = sum(count * out * columns**2 for (out, columns), count in shapes.items())
        parts |= {"hessians": gram, "factors": factor, "updates": updates / square_rate(torch.float32)}
    return {"seconds": sum(parts.values()), **parts}


def input_groups(block: Any) -> list[tuple[str, int]]:
    """The distinct matrix inputs of a block, as (source, width)."""
    from anomia.compress.matrices import find_matrices

    groups: dict[tuple[str, int], None] = {}
    for matrix in find_matrices(block, where=""):
        stem = matrix.name.rsplit(".", 1)[-1]
        kind = "attention" if stem[0] in "qkv" else "mlp" if stem in ("gate_proj", "up_proj") else stem
        groups[kind, matrix.weight.shape[1]] = None
    return list(groups)


def square_rate(dtype: Any, size: int = 1024) -> float:
    """Operations per second of a large square product."""
    import torch

    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    return float(2 * size**3 / best_time(lambda: left @ right))


def best_time(work: Callable[[], Any], *, repeats: int = 7) -> float:
    work()
    times = []
    for _ in range(repeats):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def peak_memory() -> float:
    """Peak memory of this process in bytes; `ru_maxrss` would include the parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
