"""Compare perplexity after pruning with the code of the methods' authors, at equal settings.

    python benchmarks/authors.py --wanda FOLDER --ria FOLDER --dsnot FOLDER

Each folder is a checkout: locuslab/wanda (which has SparseGPT, too),
biomedical-cybernetics/Relative-importance-and-activation-pruning, zyxxmu/DSnoT. Left-out ones are skipped. Their code is
run as it is, with three changes from outside: the calibration windows are given, `.cuda()` does nothing, and each block
gets the arguments that today's transformers passes, since the code was written for the LLaMA of 2023.

Both use the same model in bfloat16 and the same windows of equal length; perplexity is on the first tokens of
WikiText-2's test text. Each contestant runs in its own process, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared" / "data" / "calibration"
DSNOT = {
    "initial_method": "wanda", "max_cycle_time": 50, "update_threshold": 0.1, "pow_of_var_regrowing": 1,
    "pow_of_var_pruning": 1, "skip_layer": "no_skip", "skip_sub_layer": "no_skip", "without_same_sign": True,
    "without_DSnoT": False, "get_time_overhead": False,
}  # fmt: skip
RIA = {
    "prune_method": "ria", "calib_dataset": "c4", "a": 0.5, "reconstruction": False, "gptq": False,
    "reallocation": False, "lsa": False, "per_outneuron": False, "semi_sparse_acc": False,
}  # fmt: skip
# Arm: repository, function of its lib.prune, further arguments.
ARMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wanda:0.5": ("wanda", "prune_wanda", {"use_variant": False}),
    "wanda:2:4": ("wanda", "prune_wanda", {"use_variant": False}),
    "sparsegpt:0.5": ("wanda", "prune_sparsegpt", {}),
    "sparsegpt:2:4": ("wanda", "prune_sparsegpt", {}),
    "ria:0.5": ("ria", "prune_ria", RIA),
    "ria:2:4,permute=no": ("ria", "prune_ria", RIA),
    "wanda:0.5+dsnot": ("dsnot", "prune_DSnoT", DSNOT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; the demo's if left out")
    parser.add_argument("--wanda", help="a checkout of locuslab/wanda")
    parser.add_argument("--ria", help="a checkout of RIA's code")
    parser.add_argument("--dsnot", help="a checkout of zyxxmu/DSnoT")
    parser.add_argument("--text", default=str(SHARED / "c4.en.jsonl"), help="JSON lines with a field `text`")
    parser.add_argument("--test", default=str(SHARED / "wikitext2.test.raw"), help="plain text")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--scored", type=int, default=3000)
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("arms", nargs="*", help=f"{len(ARMS)} arms if left out")
    options = parser.parse_args()
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    if options.worker:
        print(json.dumps(measure(options)))
        return
    print(f"{'arm':24} {'anomia':>10} {'authors':>10} {'ours over it':>14}", flush=True)
    for arm in options.arms or ARMS:
        if not getattr(options, ARMS[arm][0]):
            print(f"{arm:24} left out, no --{ARMS[arm][0]}")
            continue
        ours, theirs = (run(arm, worker, options) for worker in ("ours", "theirs"))
        print(f"{arm:24} {ours:10.3f} {theirs:10.3f} {ours / theirs - 1:+14.2%}", flush=True)


def run(arm: str, worker: str, options: Any) -> float:
    """The perplexity that a contestant measures in its own process."""
    given = [f"--{k}={v}" for k, v in vars(options).items() if v is not None and k not in ("arms", "worker")]
    command = [sys.executable, __file__, *given, "--worker", worker, arm]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def measure(options: Any) -> float:
    """Prune with ours or the authors' code; return the perplexity."""
    import torch
    import transformers

    from anomia.compress.perplexity import perplexity
    from prune import equal_windows

    (arm,) = options.arms
    rows = equal_windows(options.model, options.text, options.windows, options.tokens)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    prune = {"ours": prune_ours, "theirs": prune_theirs}[options.worker]
    prune(model, arm, rows, options)
    text = Path(options.test).read_text(encoding="utf-8")
    return perplexity(model, tokenizer, text, max_tokens=options.scored).value


def prune_ours(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
    from anomia.compress.apply import compress
    from anomia.compress.calibration import CalibrationRecord, Windows
    from anomia.compress.spec import parse_arm

    tokens, longest = sum(map(len, rows)), max(map(len, rows))
    record = CalibrationRecord("benchmark", None, len(rows), 0, tokens, longest, longest, None, {}, "", "")
    windows = Windows(tuple(map(tuple, rows)), ("english",) * len(rows), record)
    compress(model, parse_arm(arm).steps[0], windows)


def prune_theirs(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
    """Prune a model in place with the authors' function."""
    import importlib

    import torch

    repository, function, further = ARMS[arm]
    sys.path.insert(0, getattr(options, repository))
    theirs = importlib.import_module("lib.prune")
    theirs.get_loaders = lambda *_, **__: ([(torch.tensor([row]),) for row in rows], None)  # type: ignore[attr-defined]
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    torch.cuda.synchronize = lambda *_: None
    model.seqlen, model.hf_device_map = len(rows[0]), {}
    target = arm.partition("+")[0].partition(",")[0].partition(":")[2]
    pattern = [int(part) for part in target.split(":")] if ":" in target else [0, 0]
    arguments = SimpleNamespace(
        model="llama",
        nsamples=len(rows),
        seed=0,
        seqlen=len(rows[0]),
        sparsity_ratio=0.5 if pattern[1] else float(target),
        **further,
    )
    layers = model.model.layers
    plain = list(layers)
    shims = [shim(layer) for layer in plain]
    handles = [
        layer.register_forward_pre_hook(one.remember, with_kwargs=True)
        for layer, one in zip(plain, shims, strict=True)
    ]
    with torch.no_grad():
        model(torch.tensor([rows[0]]), use_cache=False)
    for handle in handles:
        handle.remove()
    for index, one in enumerate(shims):
        layers[index] = one
    with torch.no_grad():
        getattr(theirs, function)(
            arguments, model, None, torch.device("cpu"), prune_n=pattern[0], prune_m=pattern[1]
        )
    for index, layer in enumerate(plain):
        layers[index] = layer


def shim(layer: Any) -> Any:
    """A module with a block's attention and MLP that calls the block with today's arguments and returns a tuple."""
    from torch import nn

    class Shim(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = layer.self_attn, layer.mlp
            self.given: dict[str, Any] = {}

        def remember(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
            self.given = kwargs

        def forward(self, states: Any, **_: Any) -> tuple[Any]:
            out = layer(states, **self.given)
            return (out if not isinstance(out, tuple) else out[0],)

        def __getattr__(self, name: str) -> Any:
            # The model asks a block for its kind of attention.
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(layer, name)

    return Shim()


if __name__ == "__main__":
    main()
