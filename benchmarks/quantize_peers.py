"""Compare perplexity and time of GPTQ and AWQ with llm-compressor at equal settings.

    python benchmarks/quantize_peers.py --model FOLDER --text FILE.jsonl --test FILE --peer-python OTHER/bin/python

Without arguments: the demo's model, the shared C4 sample and WikiText-2's test text next to the checkout, and no peer,
which the report mentions. The peer's environment: `pip install torch==2.13.0` (a CPU build), then
`pip install llmcompressor`.

Contestants use the same model, token windows and machine, and take turns in one run, each in its own process. The peer
saves a packed folder, which is loaded here with transformers and compressed-tensors; our model is measured in memory.
Perplexity is on the first `--test-tokens` tokens of the test text, in windows of 2,048. The block error is
‖h' − h‖ / ‖h‖ of a block's output for a token, where h is the dense model's, averaged over all blocks and the first 512
tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STEPS = (
    "int4",
    "gptq:4",
    "gptq:4,order=plain",
    "gptq:4,symmetric=no",
    "gptq:3",
    "gptq:2",
    "gptq:8",
    "awq:4",
    "awq:3",
    "awq:2",
    "awq:8",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--text", help="calibration: JSON lines with a field `text`")
    parser.add_argument("--test", help="plain text for perplexity")
    parser.add_argument("--test-tokens", type=int, default=16_000)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--skip", type=int, default=0, help="windows left out at the start of the text")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--device", default="cpu", help="of both, and of what is measured: cpu or cuda")
    parser.add_argument("--steps", nargs="+", default=STEPS)
    parser.add_argument("--peer-python", help="the Python of an environment with llm-compressor")
    parser.add_argument("--json", help="write the figures here, too")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--states", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shared = HERE.parent.parent / "shared" / "data" / "calibration"
    options.text = options.text or str(shared / "c4.en.jsonl")
    options.test = options.test or str(shared / "wikitext2.test.raw")
    if options.worker:
        worker = {"ours": run_ours, "peer": run_peer}[options.worker]
        print(json.dumps(worker(options)))
        return
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    from prune import equal_windows

    rows = equal_windows(options.model, options.text, options.skip + options.windows, options.tokens)[
        options.skip :
    ]
    with tempfile.TemporaryDirectory() as folder:
        windows = Path(folder) / "windows.json"
        windows.write_text(json.dumps(rows))
        figures = compare(options, Path(folder), windows)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


def compare(options: argparse.Namespace, folder: Path, windows: Path) -> dict[str, Any]:
    options.states = str(folder / "states.pt")
    figures: dict[str, Any] = {"dense": perplexity_of(options.model, options)}
    print(f"dense perplexity {figures['dense']['perplexity']:.3f}", flush=True)
    print(
        f"{'step':24} {'contestant':16} {'perplexity':>10} {'block error':>11} {'seconds':>8} {'ours over it':>14}",
        flush=True,
    )
    for step in options.steps:
        arguments = ["--model", options.model, "--text", str(windows), "--step", step, "--test", options.test]
        arguments += ["--test-tokens", str(options.test_tokens), "--out", str(folder / "packed")]
        arguments += ["--states", options.states, "--device", options.device]

        def run(worker: str, python: str, arguments: list[str] = arguments) -> dict[str, Any]:
            command = [python, __file__, "--worker", worker, *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return answer

        found = {"ours": run("ours", sys.executable)}
        show(step, "anomia", found["ours"])
        if options.peer_python and not step.startswith("int"):
            found["peer"] = run("peer", options.peer_python)
            found["peer"] |= perplexity_of(str(folder / "packed"), options)
            over = found["ours"]["perplexity"] / found["peer"]["perplexity"] - 1
            show(step, "llm-compressor", found["peer"], f"{over:+.2%}")
        figures[step] = found
    if not options.peer_python:
        print("llm-compressor: left out, no --peer-python")
    return figures


def show(step: str, label: str, found: dict[str, Any], over: str = "") -> None:
    value, error, seconds = (found[key] for key in ("perplexity", "error", "seconds"))
    print(f"{step:24} {label:16} {value:10.3f} {error:11.4f} {seconds:8.1f} {over:>14}", flush=True)


def perplexity_of(model: str, options: argparse.Namespace) -> dict[str, float]:
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    return measured(loaded.eval().to(options.device), tokenizer, options)


def measured(model: Any, tokenizer: Any, options: argparse.Namespace) -> dict[str, float]:
    import torch

    from anomia.compress.perplexity import perplexity

    text = Path(options.test).read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(text[:20_000])["input_ids"][:512]], device=options.device)
    with torch.no_grad():
        states = model.base_model(ids, output_hidden_states=True, use_cache=False).hidden_states[1:]
    states = torch.stack([state[0].float().cpu() for state in states])  # [blocks, tokens, hidden]
    if not Path(options.states).exists():
        torch.save(states, options.states)
    dense = torch.load(options.states)
    error = ((states - dense).norm(dim=2) / dense.norm(dim=2)).mean()
    found = perplexity(model, tokenizer, text, max_tokens=options.test_tokens)
    return {"perplexity": found.value, "error": float(error)}


def run_ours(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    import transformers

    from anomia.compress.apply import compress
    from anomia.compress.calibration import CalibrationRecord, Windows
    from anomia.compress.spec import parse_arm

    rows = json.loads(Path(options.text).read_text())
    loaded = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).to(
        options.device
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    tokens, longest = sum(map(len, rows)), max(map(len, rows))
    record = CalibrationRecord("benchmark", None, len(rows), 0, tokens, longest, longest, None, {}, "", "")
    windows = Windows(tuple(map(tuple, rows)), ("english",) * len(rows), record)
    started = time.perf_counter()
    report = compress(loaded, parse_arm(options.step).steps[0], windows)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        **measured(loaded, tokenizer, options),
        "warnings": list(report.warnings),
    }


def run_peer(options: argparse.Namespace) -> dict[str, Any]:
    import datasets
    import torch
    import transformers
    from llmcompressor import oneshot

    rows = json.loads(Path(options.text).read_text())
    loaded = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    if not torch.accelerator.is_available():
        # Its AWQ pins memory for an accelerator, which fails without one.
        torch.Tensor.pin_memory = lambda tensor, *_, **__: tensor
    data = datasets.Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    started = time.perf_counter()
    oneshot(
        model=loaded,
        tokenizer=tokenizer,
        dataset=data,
        recipe=recipe_of(options.step),
        max_seq_length=max(map(len, rows)),
        num_calibration_samples=len(rows),
    )
    seconds = time.perf_counter() - started
    loaded.save_pretrained(options.out, save_compressed=True)
    # Otherwise transformers unpacks on the first call of the whole model, or with zero points not at all.
    path = Path(options.out) / "config.json"
    config = json.loads(path.read_text())
    if "quantization_config" in config:
        config["quantization_config"]["dequantize"] = True
    path.write_text(json.dumps(config))
    return {"seconds": seconds}


def recipe_of(arm: str) -> list[Any]:
    """llm-compressor's recipe for an arm of one step: gptq, awq, int8 to int2, sparsegpt or wanda."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    head, *pieces = arm.split(",")
    method, _, amount = head.partition(":")
    given = dict(piece.split("=") for piece in pieces)
    if method in ("wanda", "sparsegpt"):
        kind = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
        sparsity, pattern = (0.5, amount) if ":" in amount else (float(amount), "0:0")
        return [kind(sparsity=sparsity, mask_structure=pattern, ignore=["re:.*lm_head"])]
    rounded = method.startswith("int")
    bits = int(method.removeprefix("int") if rounded else amount)
    by_row = rounded and bits == 8
    weights = {
        "num_bits": bits,
        "type": "int",
        "strategy": "channel" if by_row else "group",
        "group_size": None if by_row else int(given.get("group", 128)),
        "symmetric": given.get("symmetric", "no" if method == "awq" else "yes") == "yes",
        "dynamic": False,
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    if method == "gptq":
        order = "static" if given.get("order", "act") == "act" else None
        return [GPTQModifier(config_groups=groups, ignore=["lm_head"], actorder=order)]
    round_all = QuantizationModifier(config_groups=groups, ignore=["lm_head"])
    return [round_all] if rounded else [AWQModifier(), round_all]


if __name__ == "__main__":
    main()
