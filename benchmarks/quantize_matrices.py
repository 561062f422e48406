"""Compare GPTQ of single matrices with llm-compressor's: same weights, same Hessians, no pipeline around them.

    python benchmarks/quantize_matrices.py --peer-python OTHER/bin/python [--model FOLDER] [--blocks 0 5 11 17]

Perplexity after 2 or 3 bits moves by several percent with the rounding of sums, so it can't tell whether an algorithm is
as good as another. The error of a matrix's output can: tr(ΔW·H·ΔWᵀ), with H = XXᵀ from the dense model on calibration
windows, in float64. Both programs get W in bfloat16 and H in float32. The table has, for each setting, ours over theirs
of the errors summed over the matrices, the least and largest ratio of a matrix, and the share of equal values.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BITS = (2, 3, 4, 8)
SETTINGS = [
    {"bits": bits, "order": order, "symmetric": symmetric}
    for order, symmetric, bits in itertools.product(("act", "plain"), (True, False), BITS)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; the demo's if left out")
    parser.add_argument("--text", help="calibration: JSON lines with a field `text`")
    parser.add_argument("--blocks", type=int, nargs="+", default=(0, 5, 11, 17))
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--peer-python", help="the Python of an environment with llm-compressor")
    parser.add_argument("--json", type=Path, help="write the figures of each matrix here, too")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        peer_worker(options.worker, options.group)
        return
    if not options.peer_python:
        raise SystemExit("needs --peer-python, the Python of an environment with llm-compressor")
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    shared = HERE.parent.parent / "shared" / "data" / "calibration"
    options.text = options.text or str(shared / "c4.en.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    import torch

    parts = gather(options)
    torch.save(parts, folder / "parts.pt")
    command = [options.peer_python, __file__, "--worker", str(folder), "--group", str(options.group)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = []
    print(f"{'setting':28} {'ours over it':>13} {'least':>8} {'largest':>8} {'equal values':>13}", flush=True)
    for index, setting in enumerate(SETTINGS):
        theirs, rows = torch.load(folder / f"peer-{index}.pt"), []
        for name, (weight, hessian) in parts.items():
            mine = ours(weight, hessian, setting, options.group)
            pair = [output_error(values, weight, hessian) for values in (mine, theirs[name])]
            equal = float((mine == theirs[name]).float().mean())
            rows.append({"matrix": name, **setting, "ours": pair[0], "peer": pair[1], "equal": equal})
        figures += rows
        ratios = [row["ours"] / row["peer"] for row in rows]
        whole = sum(row["ours"] for row in rows) / sum(row["peer"] for row in rows)
        equal = sum(row["equal"] for row in rows) / len(rows)
        name = f"gptq:{setting['bits']},order={setting['order']}" + (
            "" if setting["symmetric"] else ",symmetric=no"
        )
        print(
            f"{name:28} {whole - 1:+13.2%} {min(ratios) - 1:+8.2%} {max(ratios) - 1:+8.2%} {equal:13.2%}",
            flush=True,
        )
    return figures


def gather(options: argparse.Namespace) -> dict[str, tuple[Any, Any]]:
    """The matrices of the chosen blocks and their Hessians in the dense model: [out, in] bfloat16, [in, in] float32."""
    import torch
    import transformers

    from anomia.compress.blocks import find_blocks
    from anomia.compress.matrices import find_matrices
    from prune import equal_windows

    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    parts: dict[str, tuple[Any, Any]] = {}
    for index in options.blocks:
        for matrix in find_matrices(find_blocks(model).modules[index], where=""):
            module = find_blocks(model).modules[index].get_submodule(matrix.name)
            width = module.weight.shape[1]
            hessian = torch.zeros(width, width)
            parts[f"{index}.{matrix.name}"] = (module.weight.detach(), hessian)

            def add(_: Any, args: Any, hessian: Any = hessian) -> None:
                inputs = args[0].flatten(0, -2).float()
                hessian.addmm_(inputs.T, inputs)

            module.register_forward_pre_hook(add)
    with torch.no_grad():
        for row in equal_windows(options.model, options.text, options.windows, options.tokens):
            model.base_model(input_ids=torch.tensor([row]), use_cache=False)
    return parts


def ours(weight: Any, hessian: Any, setting: dict[str, Any], group: int) -> Any:
    from anomia.compress.methods.gptq import gptq
    from anomia.compress.methods.grid import Grid

    grid = Grid(setting["bits"], group, setting["symmetric"], weight.dtype)
    return gptq([weight], hessian.clone(), grid, order=setting["order"]).quantized[0].values()


def output_error(values: Any, weight: Any, hessian: Any) -> float:
    """tr(ΔW·H·ΔWᵀ) in float64."""
    lost = values.double() - weight.double()
    return float(((lost @ hessian.double()) * lost).sum())


def peer_worker(folder: Path, group: int) -> None:
    """Quantize all matrices with each setting as llm-compressor's modifier does; write the values."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
    from llmcompressor.observers import Observer

    parts = torch.load(folder / "parts.pt")
    for index, setting in enumerate(SETTINGS):
        args = QuantizationArgs(
            num_bits=setting["bits"],
            type="int",
            strategy="group",
            group_size=group,
            symmetric=setting["symmetric"],
            dynamic=False,
            actorder="static" if setting["order"] == "act" else None,
        )
        done = {}
        for name, (weight, hessian) in parts.items():
            observer = Observer.load_from_registry("memoryless_minmax", base_name="weight", args=args)
            observer(weight)
            found = observer.get_qparams()
            values, _, fallback = quantize_weight(
                weights=weight[None].float(),
                hessians=hessian[None].clone(),
                scale=found["scale"][None],
                zero_point=found["zero_point"][None],
                global_scale=None,
                quant_args=args,
            )
            if bool(fallback.any()):
                print(f"{name}: rounded to nearest", file=sys.stderr)
            done[name] = values[0].to(weight.dtype)
        torch.save(done, folder / f"peer-{index}.pt")


if __name__ == "__main__":
    main()
