"""Measure perplexity, layer error, time and memory of all pruning methods on one model, with equal calibration windows.

    python benchmarks/prune_methods.py --model FOLDER --calibration FILE.jsonl --text FILE

Without arguments: the demo's model and the shared C4 sample next to the checkout (or the shipped passages); perplexity
is measured on the passages of that file after the calibration's. Each arm runs in its own process; seconds are
processor time, so other work on the machine doesn't count. With --layer-errors, the table has the median over matrices
of ‖(Ŵ−W)X‖²/‖WX‖², where X is the input after the earlier blocks were pruned; that costs another pass.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARMS = (
    "base",
    *("magnitude:0.5", "wanda:0.5", "ria:0.5", "wandapp:0.5", "sparsegpt:0.5", "alps:0.5"),
    *("magnitude:0.5+update", "wanda:0.5+update", "wanda:0.5+update,solver=admm", "ria:0.5+update"),
    *("wanda:0.5+dsnot", "wanda:0.5+dsnot+update", "sparsegpt:0.5+update", "wandapp:0.5,rounds=5"),
    *("wanda:0.6", "wanda:0.6+dsnot", "wanda:0.6+update", "sparsegpt:0.6", "alps:0.6"),
    *("wanda:0.7", "wanda:0.7+dsnot", "wanda:0.7+update", "sparsegpt:0.7", "alps:0.7"),
    *("wanda:2:4", "ria:2:4,permute=no", "ria:2:4", "wandapp:2:4", "wanda:2:4+dsnot", "wanda:2:4+update"),
    *("ria:2:4+update", "sparsegpt:2:4", "alps:2:4"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--calibration", help="JSON lines with a field `text`")
    parser.add_argument("--text", help="a text file for perplexity")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="of a window, at most")
    parser.add_argument("--scored", type=int, default=8000, help="tokens that perplexity is measured on")
    parser.add_argument("--layer-errors", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write the figures here, after each arm")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("arms", nargs="*", help=f"arms of one pruning step; {len(ARMS)} of them if left out")
    options = parser.parse_args()
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    if options.calibration is None:
        shared = HERE.parent.parent / "shared/data/calibration/c4.en.jsonl"
        shipped = HERE.parent / "src/anomia/items/demo/calibration/english.jsonl"
        options.calibration = str(shared if shared.exists() else shipped)
    if options.arm:
        print(json.dumps(measure(options)))
        return
    figures = []
    print(f"{'arm':32} {'perplexity':>10} {'layer error':>11} {'seconds':>8} {'MB':>6}", flush=True)
    for arm in options.arms or ARMS:
        excluded = ("arms", "arm", "json", "layer_errors")
        given = [f"--{k}={v}" for k, v in vars(options).items() if v is not None and k not in excluded]
        given += ["--layer-errors"] if options.layer_errors else []
        command = [sys.executable, __file__, *given, f"--arm={arm}"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=_environment(options.threads)
        )
        found = json.loads(done.stdout.splitlines()[-1])
        figures.append(found)
        error = "" if found["layer_error"] is None else f"{found['layer_error']:.5f}"
        line = f"{arm:32} {found['perplexity']:10.2f} {error:>11} {found['seconds']:8.1f} {found['peak_mb']:6.0f}"
        print(line, *found["notes"], sep="\n    ", flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent / "src")}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prune and measure one arm; `layer_error` is the median over matrices."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from anomia.compress.perplexity import perplexity
    from anomia.compress.spec import parse_arm
    from prune import peak_memory

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    lines = Path(options.calibration).read_text().splitlines()
    passages = [json.loads(line)["text"] for line in lines if line.strip()]
    text = Path(options.text).read_text() if options.text else "\n\n".join(passages[options.windows :])
    steps = parse_arm(options.arm).steps
    errors, notes, seconds = [], [], 0.0
    if steps:
        chosen = passages[: options.windows]
        errors, notes, seconds = prune(
            model, tokenizer, steps[0], chosen, options.tokens, options.layer_errors
        )
    score = perplexity(model, tokenizer, text, window=1024, max_tokens=options.scored)
    return {
        "arm": options.arm,
        "perplexity": score.value,
        "layer_error": statistics.median(errors) if errors else None,
        "seconds": seconds,
        "peak_mb": peak_memory() / 2**20,
        "notes": notes,
    }


def prune(
    model: Any, tokenizer: Any, step: Any, passages: list[str], tokens: int, compared: bool
) -> tuple[list[float], list[str], float]:
    """Prune block by block like `anomia.compress.pipeline`; return errors, notes and processor seconds.

    Errors are ‖(Ŵ−W)X‖²/‖WX‖² per matrix, without matrices whose channels were reordered; empty unless `compared`.
    Seconds exclude the comparison.
    """
    import torch

    from anomia.compress.blocks import find_blocks
    from anomia.compress.calibration import CalibrationText, make_windows
    from anomia.compress.methods.base import BlockWork
    from anomia.compress.methods.update import layer_error
    from anomia.compress.pipeline import all_needs, change_block
    from anomia.compress.statistics import StatisticNeeds, observe
    from anomia.compress.visit import AtBlock, BlocksInMemory, visit
    from anomia.compress.walk import calibrating, make_model_batches

    calibration = CalibrationText("file", tuple(passages), ("english",) * len(passages), "")
    windows = make_windows(calibration, tokenizer, tokens=tokens)
    decoder, errors, notes = find_blocks(model), [], {}
    with torch.no_grad(), calibrating(model):
        needs = all_needs(step)
        batches = make_model_batches(decoder, windows, needs or StatisticNeeds())
        spent = 0.0

        def change(at: AtBlock) -> None:
            nonlocal spent
            seen = []
            if compared:
                seen = observe(
                    at.block, batches, at.states.read, at.calls, StatisticNeeds(hessian=True), where=at.where
                )
            dense = {m.name: m.weight.clone() for g in seen for m in g.matrices}
            started = time.process_time()
            groups = observe(
                at.block, batches, at.states.read, at.calls, needs or StatisticNeeds(), where=at.where
            )
            if needs is None:
                groups = [g._replace(statistic=None) for g in groups]
            work = BlockWork(at.block, at.where, groups, step, step.target, batches, at.states.read, at.calls)
            for report in change_block(work):
                if report.note:
                    notes[report.note] = notes.get(report.note, 0) + 1
            for _ in at.passes():
                pass
            spent += time.process_time() - started
            for group in seen:
                for matrix in group.matrices:
                    if not work.reordered and group.statistic is not None:
                        errors.append(layer_error(matrix.weight, dense[matrix.name], group.statistic.hessian))

        for _ in visit(BlocksInMemory(model, decoder), batches, change):
            pass
    return errors, [f"{count} matrices: {note}" for note, count in notes.items()], spent


if __name__ == "__main__":
    main()
