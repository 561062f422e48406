"""Compare a whole model after GPTQ with llm-compressor's, on several calibration texts, and block by block.

    python benchmarks/quantize_pipelines.py --peer-python OTHER/bin/python [--step gptq:3] [--texts 8] [--lockstep 1]

For each text, both programs quantize the same model on the same windows. For the paired differences of the mean
log-loss, of the KL divergence from the dense model and of the relative squared error of the last states, on test tokens
that differ from text to text, the report has the mean and its standard error. At 3 bits both depend on how sums round. So for the first texts (`--lockstep`),
llm-compressor also runs with its result for each matrix replaced by ours once it is measured: it meets every matrix in
the state in which we met it, and the two can be compared without the noise that grows from block to block. For these
the report has, by block, the share of equal values and ours over theirs of tr(ΔW·H·ΔWᵀ), with its Hessian.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; the demo's if left out")
    parser.add_argument("--text", help="calibration: JSON lines with a field `text`")
    parser.add_argument("--test", help="plain text for perplexity")
    parser.add_argument("--step", default="gptq:3")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="texts left out at the start")
    parser.add_argument(
        "--lockstep", type=int, default=1, help="texts on which llm-compressor follows ours, too"
    )
    parser.add_argument("--windows", type=int, default=8, help="a text")
    parser.add_argument("--tokens", type=int, default=512, help="a window")
    parser.add_argument("--scored", type=int, default=2048, help="test tokens a text")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--blocks", type=int, help="only the model's first blocks: then only states tell something"
    )
    parser.add_argument(
        "--peer-python", required=True, help="the Python of an environment with llm-compressor"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options)))
        return
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    shared = HERE.parent.parent / "shared" / "data" / "calibration"
    options.text = options.text or str(shared / "c4.en.jsonl")
    options.test = options.test or str(shared / "wikitext2.test.raw")
    figures = compare(options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    import transformers

    from prune import equal_windows

    last = options.first + options.texts
    windows = equal_windows(options.model, options.text, last * options.windows, options.tokens)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    ids = tokenizer(Path(options.test).read_text(encoding="utf-8")[: 8 * last * options.scored])["input_ids"]
    pieces = options.scored // options.tokens
    parts = []
    for text in range(options.first, last):
        mine = windows[text * options.windows : (text + 1) * options.windows]
        starts = [text * options.scored + piece * options.tokens for piece in range(pieces)]
        test = [[ids[0], *ids[start + 1 : start + options.tokens]] for start in starts]
        parts.append({"windows": mine, "test": test, "lockstep": text - options.first < options.lockstep})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ids.json").write_text(json.dumps(parts))
        ours, peer = (run(worker, folder, options) for worker in ("ours", "peer"))
    figures = [{"ours": mine, "peer": theirs} for mine, theirs in zip(ours, peer, strict=True)]
    for text, found in enumerate(figures, start=options.first):
        show(found, text)
    for kind in ("loss", "divergence", "states"):
        both = [(one["ours"][kind], one["peer"][kind]) for one in figures]
        differences = [ours - theirs for ours, theirs in both]
        error = statistics.stdev(differences) / math.sqrt(len(both)) if len(both) > 1 else math.nan
        means = [statistics.fmean(values) for values in zip(*both, strict=True)]
        print(
            f"{kind}: ours {means[0]:.4f}, llm-compressor {means[1]:.4f}, difference "
            f"{statistics.fmean(differences):+.5f}, standard error {error:.5f}"
        )
    return figures


def run(worker: str, folder: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of all texts, from one process."""
    python = sys.executable if worker == "ours" else options.peer_python
    command = [python, __file__, "--worker", worker, "--folder", folder, "--model", options.model]
    command += ["--peer-python", "", "--step", options.step, "--dtype", options.dtype]
    command += ["--blocks", str(options.blocks)] if options.blocks else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return list(json.loads(done.stdout.strip().splitlines()[-1]))


def show(found: dict[str, Any], text: int) -> None:
    ours, peer = found["ours"], found["peer"]
    print(
        f"text {text}: dense loss {ours['dense']:.4f}; loss {ours['loss']:.4f}, llm-compressor {peer['loss']:.4f}; "
        f"divergence {ours['divergence']:.4f}, {peer['divergence']:.4f}; states {ours['states']:.5f}, "
        f"{peer['states']:.5f}; processor seconds "
        f"{ours['seconds']:.0f}, {peer['seconds']:.0f}",
        flush=True,
    )
    rows = peer.get("matrices", [])
    blocks: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        blocks.setdefault(next(int(part) for part in row["name"].split(".") if part.isdigit()), []).append(
            row
        )
    for block, mine in [*blocks.items(), *([("all", rows)] if rows else [])]:
        whole = sum(row["ours"] for row in mine) / sum(row["peer"] for row in mine)
        ratios = [row["ours"] / row["peer"] for row in mine]
        equal = [row["equal"] for row in mine]
        print(
            f"  block {block}: ours over it {whole - 1:+.3%} [{min(ratios) - 1:+.2%}, {max(ratios) - 1:+.2%}], "
            f"equal values {statistics.fmean(equal):.2%} [{min(equal):.2%}]",
            flush=True,
        )


def work(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Quantize and measure on each text in this process."""
    import torch
    import transformers

    dtype = getattr(torch, options.dtype)
    first = {"num_hidden_layers": options.blocks} if options.blocks else {}
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, **first).eval()
    parts = json.loads((options.folder / "ids.json").read_text())
    files = [options.folder / f"{text}.pt" for text in range(len(parts))]
    found = []
    for text, part in enumerate(parts):
        model, dense = copy.deepcopy(plain), states_of(plain, part["test"])
        started = time.process_time()
        if options.worker == "ours":
            quantize_ours(model, part["windows"], options)
        else:
            quantize_peer(model, part["windows"], options, None)
        one: dict[str, Any] = {"seconds": time.process_time() - started}
        one |= compared(model, dense, states_of(model, part["test"]), part["test"])
        if part["lockstep"] and options.worker == "ours":
            torch.save(dict(model.base_model.state_dict()), files[text])
        found.append(one)
        print(f"{options.worker}, text {text}: {one}", file=sys.stderr, flush=True)
    for text, part in enumerate(parts):
        if part["lockstep"] and options.worker == "peer":
            model = copy.deepcopy(plain)
            found[text]["matrices"] = quantize_peer(model, part["windows"], options, files[text])
    return found


def states_of(model: Any, rows: list[list[int]]) -> list[Any]:
    """The states that enter the head, [S, H] for each row."""
    import torch

    with torch.no_grad():
        return [
            model.base_model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
            for row in rows
        ]


def compared(model: Any, dense: list[Any], states: list[Any], rows: list[list[int]]) -> dict[str, float]:
    """Mean log-loss of the tokens after the first, of both models, and mean KL divergence from the dense one.

    states: Σ‖h' − h‖²/Σ‖h‖² of the states that enter the head, without the first token.
    """
    import torch

    head, sums, count = model.get_output_embeddings(), [0.0, 0.0, 0.0], 0
    with torch.no_grad():
        for before, after, row in zip(dense, states, rows, strict=True):
            target = torch.tensor(row[1:])[:, None]
            for part in torch.arange(len(row) - 1).split(128):
                was, now = (torch.log_softmax(head(one[part]).float(), dim=-1) for one in (before, after))
                for place, logs in enumerate((was, now)):
                    sums[place] -= float(logs.gather(1, target[part]).sum())
                sums[2] += float((was.exp() * (was - now)).sum())
            count += len(row) - 1
    lost, size = (
        sum(float(one.double().square().sum()) for one in many)
        for many in (
            [after[1:] - before[1:] for before, after in zip(dense, states, strict=True)],
            [one[1:] for one in dense],
        )
    )
    found = dict(zip(("dense", "loss", "divergence"), (one / count for one in sums), strict=True))
    return {**found, "states": lost / size}


def quantize_ours(model: Any, rows: list[list[int]], options: argparse.Namespace) -> None:
    from anomia.compress.apply import compress
    from anomia.compress.calibration import CalibrationRecord, Windows
    from anomia.compress.spec import parse_arm

    tokens, longest = sum(map(len, rows)), max(map(len, rows))
    record = CalibrationRecord("benchmark", None, len(rows), 0, tokens, longest, longest, None, {}, "", "")
    windows = Windows(tuple(map(tuple, rows)), ("english",) * len(rows), record)
    compress(model, parse_arm(options.step).steps[0], windows)


def quantize_peer(
    model: Any, rows: list[list[int]], options: argparse.Namespace, file: Path | None
) -> list[dict[str, Any]]:
    """Quantize with llm-compressor. file: our weights, to compare each matrix with and to continue with."""
    import datasets
    import torch
    import transformers
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import base

    from quantize_peers import recipe_of

    found: list[dict[str, Any]] = []
    prepare, update = base.prepare_batch, base.update_batch_qparams
    if file is not None:
        ours, hessians = torch.load(file), {}
        names = {id(module): name for name, module in model.base_model.named_modules()}

        def preparing(modules: Any, *more: Any) -> Any:
            prepared = prepare(modules, *more)
            for module, hessian in zip(modules, prepared[1], strict=True):
                hessians[id(module)] = hessian.double()
            return prepared

        def updating(modules: Any, quantized: Any, *more: Any) -> None:
            for index, module in enumerate(modules):
                mine, theirs = (
                    ours[f"{names[id(module)]}.weight"].float(),
                    quantized[index].to(module.weight.dtype),
                )
                hessian = hessians.pop(id(module))
                lost = [values.double() - module.weight.double() for values in (mine, theirs)]
                errors = [float(((one @ hessian) * one).sum()) for one in lost]
                equal = float((mine == theirs.float()).float().mean())
                found.append(
                    {"name": names[id(module)], "ours": errors[0], "peer": errors[1], "equal": equal}
                )
                quantized[index] = mine
            update(modules, quantized, *more)

        base.prepare_batch, base.update_batch_qparams = preparing, updating
    data = datasets.Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    oneshot(
        model=model,
        tokenizer=transformers.AutoTokenizer.from_pretrained(options.model),
        dataset=data,
        recipe=recipe_of(options.step),
        max_seq_length=max(map(len, rows)),
        num_calibration_samples=len(rows),
    )
    base.prepare_batch, base.update_batch_qparams = prepare, update
    return found


if __name__ == "__main__":
    main()
