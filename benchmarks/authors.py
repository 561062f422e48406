"""Compare pruned models with those of the methods' authors' code (or of another's, where they published none).

    python benchmarks/authors.py --wanda FOLDER --dsnot FOLDER ... [ARM ...]

Each folder is a checkout (`REPOSITORIES`); arms whose folder isn't given are left out. Their code is run as it is, but
for what is done to it from outside: the calibration windows are given, moving to a GPU does nothing, each block gets the
arguments that today's transformers passes (the code was written for the LLaMA of 2023), and what `prune_*` below says.

Both use the same model and the same windows of equal length. Reported are the perplexity of the first tokens of
WikiText-2's test text, the errors of matrices and blocks on its first 1,000 tokens (`errors.py`), what both removed as a
share of what either removed, and the processor seconds of pruning. Each contestant runs in its own process, on one thread.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from authors_blocks import Wrapped, each_block

# Before PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared" / "data" / "calibration"
# Option: repository.
REPOSITORIES = {
    "wanda": "locuslab/wanda, which has SparseGPT, too",
    "ria": "biomedical-cybernetics/Relative-importance-and-activation-pruning",
    "dsnot": "zyxxmu/DSnoT",
    "admm": "fmfi-compbio/admm-pruning",
    "alps": "mazumder-lab/ALPS",
    "flap": "CASIA-IVA-Lab/FLAP",
    "slicegpt": "microsoft/TransformerCompression; needs ml_collections",
    "wandapp": "TTTTTTris/wandaplus, not the authors'",
    "shortgpt": "sramshetty/ShortGPT, not the authors'",
}
DSNOT = {
    "initial_method": "wanda", "max_cycle_time": 50, "pow_of_var_regrowing": 1,
    "pow_of_var_pruning": 1, "skip_layer": "no_skip", "skip_sub_layer": "no_skip", "without_same_sign": True,
    "without_DSnoT": False, "get_time_overhead": False,
}  # fmt: skip
RIA = {
    "prune_method": "ria", "calib_dataset": "c4", "a": 0.5, "reconstruction": False, "gptq": False,
    "reallocation": False, "lsa": False, "per_outneuron": False, "semi_sparse_acc": False,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; the demo's if left out")
    for name, repository in REPOSITORIES.items():
        parser.add_argument(f"--{name}", metavar="FOLDER", help=f"a checkout of {repository}")
    parser.add_argument("--text", default=str(SHARED / "c4.en.jsonl"), help="JSON lines with a field `text`")
    parser.add_argument("--test", default=str(SHARED / "wikitext2.test.raw"), help="plain text")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--scored", type=int, default=3000)
    parser.add_argument("--dtype", default="float32", help="of the model: in bfloat16, rounding adds noise")
    parser.add_argument(
        "--blocks", type=int, help="only the model's first blocks: fast, but perplexity says nothing then"
    )
    parser.add_argument("arms", nargs="*", help=f"{len(ARMS)} arms if left out")
    options = parser.parse_args()
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    for library in ("torch", "transformers", "anomia.compress.apply", "anomia.compress.perplexity"):
        importlib.import_module(library)
    print(
        "arm | perplexity: ours, theirs, ours over it | layer error | block error | removed by both | "
        "processor seconds"
    )
    for arm in options.arms or ARMS:
        if not getattr(options, ARMS[arm][0]):
            print(f"{arm} | left out, no --{ARMS[arm][0]}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / worker) for worker in ("ours", "theirs")]
            found = [run(arm, file, options) for file in files]
            if None in found:
                print(f"{arm} | failed", flush=True)
                continue
            both = shared(*files)
        show(arm, *found, both)


def show(arm: str, ours: Any, theirs: Any, both: float) -> None:
    """Print a line. both: what `shared` returns."""
    errors = [
        "" if ours[kind] is None else f"{ours[kind]:.3%}, {theirs[kind]:.3%}" for kind in ("layer", "block")
    ]
    over = ours["perplexity"] / theirs["perplexity"] - 1
    print(
        f"{arm} | {ours['perplexity']:.3f}, {theirs['perplexity']:.3f}, {over:+.2%} | {' | '.join(errors)} | "
        f"{both:.2%} | {ours['seconds']:.0f}, {theirs['seconds']:.0f}",
        flush=True,
    )


def run(arm: str, file: str, options: Any) -> dict[str, Any] | None:
    """What a contestant measures in its own process, forked so that libraries are loaded once; None if it fails.

    file: where it writes what it removed, named for the contestant.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(measure(arm, Path(file).name, file, options)))
    process.start()
    sender.close()
    try:
        return dict(receiver.recv())
    except EOFError:
        return None
    finally:
        process.join()


def shared(ours: str, theirs: str) -> float:
    """The share of what both removed in what either removed; for directions, how far they agree."""
    import torch

    from authors_slicegpt import common

    found = [torch.load(file) for file in (ours, theirs)]
    if found[0].is_floating_point():
        return common(*found)
    union, counts = torch.cat(found).unique(return_counts=True)
    return float((counts == 2).sum() / len(union))


def measure(arm: str, worker: str, file: str, options: Any) -> dict[str, Any]:
    """Prune with ours or theirs; write to a file what was removed, and return perplexity and errors."""
    import copy

    import torch
    import transformers

    from anomia.compress.perplexity import perplexity
    from errors import errors_of
    from prune import equal_windows

    rows = equal_windows(options.model, options.text, options.windows, options.tokens)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    dtype = getattr(torch, options.dtype)
    first = {"num_hidden_layers": options.blocks} if options.blocks else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, **first).eval()
    dense = copy.deepcopy(model)
    started = time.process_time()
    kept = (prune_ours if worker == "ours" else ARMS[arm][1])(model, arm, rows, options)
    seconds = time.process_time() - started
    text = Path(options.test).read_text(encoding="utf-8")
    found: dict[str, Any] = {
        "perplexity": perplexity(model, tokenizer, text, max_tokens=options.scored).value,
        "seconds": seconds,
    }
    ids = tokenizer(text[:20_000])["input_ids"]
    both = [ids[:500], [*ids[:1], *ids[500:1000]]]
    if arm.startswith("slicegpt"):
        from authors_slicegpt import bases_of, block_error

        bases = kept or bases_of(dense, model)
        torch.save(bases[0], file)
        return {**found, "layer": None, "block": block_error(dense, model, bases, both)}
    torch.save(removed(dense, model, kept), file)
    errors = errors_of(
        dense,
        model,
        both,
        kept=kept,
        matrices=kept is None and not arm.startswith("flap"),
    )
    return {**found, "layer": errors.layer, "block": errors.block}


def removed(dense: Any, model: Any, kept: list[int] | None) -> Any:
    """Numbers of the removed blocks, of the removed channels of all blocks, or of the zeros of all matrices."""
    import torch

    blocks, others = dense.model.layers, model.model.layers
    if kept is not None:
        return torch.tensor([index for index in range(len(blocks)) if index not in kept])
    gone, start = [], 0
    for block, other in zip(blocks, others, strict=True):
        up, narrow = block.mlp.up_proj.weight, other.mlp.up_proj.weight
        if up.shape != narrow.shape:
            # A kept channel keeps its row.
            gone.append(start + (~(up[:, None] == narrow).all(dim=2).any(dim=1)).nonzero()[:, 0])
            start += len(up)
            continue
        for name, module in other.named_modules():
            if isinstance(module, torch.nn.Linear):
                zeros = (module.weight == 0) & (block.get_submodule(name).weight != 0)
                gone.append(start + zeros.flatten().nonzero()[:, 0])
                start += zeros.numel()
    return torch.cat(gone)


def prune_ours(model: Any, arm: str, rows: list[list[int]], options: Any) -> list[int] | None:
    from anomia.compress.apply import compress
    from anomia.compress.calibration import CalibrationRecord, Windows
    from anomia.compress.spec import parse_arm

    tokens, longest = sum(map(len, rows)), max(map(len, rows))
    record = CalibrationRecord("benchmark", None, len(rows), 0, tokens, longest, longest, None, {}, "", "")
    windows = Windows(tuple(map(tuple, rows)), ("english",) * len(rows), record)
    report = compress(model, parse_arm(arm.partition(" ")[0]).steps[0], windows)
    for line in (*(report.reshaped or {}).get("removed", ()), *report.warnings):
        print(f"{arm}: {line}", file=sys.stderr)
    kept = (report.reshaped or {}).get("details", {}).get("kept_blocks")
    return None if kept is None else list(kept)


# The code of others. Each function changes a model in place and returns the blocks that it kept, None for all.


def prune_lib(name: str, **further: Any) -> Callable[..., None]:
    """A function of a repository's `lib.prune`."""

    def prune(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
        import torch

        folder = getattr(options, ARMS[arm][0])
        sys.path.insert(0, folder)
        theirs = importlib.import_module("lib.prune")
        on_cpu()
        theirs.get_loaders = lambda *_, **__: (batches(rows), None)  # type: ignore[attr-defined]
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
        with Wrapped(model, rows[:1]), torch.no_grad():
            getattr(theirs, name)(
                arguments, model, None, torch.device("cpu"), prune_n=pattern[0], prune_m=pattern[1]
            )

    return prune


def prune_admm(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
    """Their solver with one mask per row by |W|·‖X‖, which is Wanda's, instead of a gradual one."""
    sys.path.insert(0, options.admm)
    theirs: Any = importlib.import_module("lib.prune")
    solve = theirs.AdmmPruner.fasterprune

    def with_mask(self: Any, sparsity: float, prune_n: int, prune_m: int, percdamp: float) -> None:
        solve(self, sparsity, prune_n, prune_m, percdamp, iterative_prune=0, per_out=True)

    theirs.AdmmPruner.fasterprune = with_mask
    prune_lib("prune_admm")(model, arm, rows, options)


def prune_dsnot(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
    """Their threshold is for inputs summed over a window, of 2,048 tokens in the paper; ours is rescaled to that."""
    prune_lib("prune_DSnoT", **{**DSNOT, "update_threshold": 0.1 * len(rows[0]) / 2048})(
        model, arm, rows, options
    )


def prune_alps(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
    import torch

    sys.path.insert(0, options.alps)
    on_cpu()
    theirs: Any = importlib.import_module("llama")
    importlib.import_module("alps").dev = "cpu"  # type: ignore[attr-defined]
    sparsity = float(arm.partition(":")[2])
    theirs.args = SimpleNamespace(nsamples=len(rows), method="ALPS", sp=sparsity, nm_n=0, nm_m=0)
    with Wrapped(model, rows[:1]), torch.no_grad():
        theirs.llama_sequential(model, batches(rows), "cpu", nsamples=len(rows))


def prune_wandapp(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
    """Only patterns: without one, their function removes whole columns.

    Within a block, their inputs of a matrix are those after pruning the matrices before it. The weight of the gradient
    is that of our step, which rescales ‖X‖ to the amount of text in the paper.
    """
    import torch
    import transformers

    from anomia.compress.methods.wandapp import TOKENS
    from anomia.compress.spec import parse_arm

    sys.path.insert(0, options.wandapp)
    on_cpu()
    llama: Any = types.ModuleType("modeling_llama")
    llama.LlamaDecoderLayer = transformers.models.llama.modeling_llama.LlamaDecoderLayer
    sys.modules["modeling_llama"] = llama
    transformers.optimization.AdamW = torch.optim.AdamW
    pruner: Any = importlib.import_module("lib.wandaplus_wrapper").WeightWandaPlusPruner
    step: Any = parse_arm(arm).steps[0]
    scale = float(step.option("alpha")) * (sum(map(len, rows)) / TOKENS) ** 0.5
    with Wrapped(model, rows) as layers, torch.no_grad():
        inputs = [layers[0].entered[index] for index in range(len(rows))]
    for index, layer in enumerate(layers):
        layer.config = SimpleNamespace(
            args=SimpleNamespace(rgs_scaling=scale, sparsity_ratio=0.5, use_ro=False)
        )
        layer.ro, layer.layer_idx, layer.nm_n, layer.nm_m = False, index, step.target.keep, step.target.group
        layer.get_signals = types.MethodType(pruner.get_signals, layer)
        inputs = pruner.pruning(layer, inputs, None, torch.arange(len(rows[0]))[None])


def prune_shortgpt(model: Any, arm: str, rows: list[list[int]], options: Any) -> list[int]:
    """Their block influence, summed over all windows; the lowest blocks go."""
    import torch

    sys.path.insert(0, str(Path(options.shortgpt) / "short_gpt"))
    influence = importlib.import_module("metrics").block_influence
    layers = model.model.layers
    total = torch.zeros(len(layers))
    with torch.no_grad():
        for row in rows:
            states = each_block(model, row)
            for index in range(len(layers)):
                total[index] += influence(states[index], states[index + 1]).sum()
    count = int(len(layers) * float(arm.partition(":")[2]) + 1e-9)
    gone = total.argsort()[:count].tolist()
    kept = [index for index in range(len(layers)) if index not in gone]
    model.model.layers = torch.nn.ModuleList(layers[index] for index in kept)
    model.config.num_hidden_layers = len(kept)
    return kept


def prune_flap(model: Any, arm: str, rows: list[list[int]], options: Any) -> None:
    """Their structure UL-MM with our number of channels per block, and all heads.

    Their code has 128 channels per head and as many key as query heads, so heads are left alone. What it puts into
    biases needs some to be there.
    """
    import torch

    from anomia.compress.blocks import find_blocks
    from anomia.compress.reshape.axes import find_channels, find_heads

    sys.path.insert(0, options.flap)
    on_cpu()
    decoder, share, notes = find_blocks(model), float(arm.partition(":")[2]), []
    heads, kept_heads, axis = find_heads(model, decoder, share, notes)
    if axis is not None:
        raise SystemExit(f"{arm} removes heads: {heads} to {kept_heads}; choose a smaller share")
    inner, kept, _ = find_channels(model, decoder, share, axis, notes)
    file = Path(options.flap) / "lib" / "prune.py"
    sys.modules.setdefault("lib", types.ModuleType("lib")).__path__ = [str(file.parent)]
    specification: Any = importlib.util.spec_from_file_location("lib.prune", file)
    theirs: Any = importlib.util.module_from_spec(specification)
    code = file.read_text().replace("128", str(model.config.head_dim))
    exec(compile(code, str(file), "exec"), theirs.__dict__)
    theirs.get_loaders = lambda *_, **__: (batches(rows), None)
    theirs.cal_remove_neuron = lambda *_: inner - kept
    cut = theirs.compress

    def without_heads(layer: Any, attention: Any, *more: Any, **named: Any) -> None:
        assert attention is None or bool(attention.all())
        # They store means in half precision.
        wide = [one.float() if torch.is_tensor(one) and one.is_floating_point() else one for one in more]
        cut(layer, None, *wide, **named)

    theirs.compress = without_heads
    for layer in model.model.layers:
        down = layer.mlp.down_proj
        down.bias = torch.nn.Parameter(torch.zeros(down.out_features, dtype=down.weight.dtype))
    arguments = SimpleNamespace(
        nsamples=len(rows), seed=0, metrics="WIFV", structure="UL-MM", remove_heads=0, pruning_ratio=share,
        unstr=False,
    )  # fmt: skip
    model.hf_device_map, model.seqlen = {}, len(rows[0])
    with Wrapped(model, rows[:1]):
        theirs.prune_flap(arguments, model, None, torch.device("cpu"))


def prune_slices(model: Any, arm: str, rows: list[list[int]], options: Any) -> list[Any]:
    """Return the bases of the states instead of blocks."""
    from authors_slicegpt import prune_slicegpt

    return prune_slicegpt(model, arm, [ids for (ids,) in batches(rows)], options.slicegpt)


def batches(rows: list[list[int]]) -> list[tuple[Any]]:
    import torch

    return [(torch.tensor([row]),) for row in rows]


def on_cpu() -> None:
    """Make moving a tensor to a GPU do nothing."""
    import torch

    move = torch.Tensor.to

    def to(tensor: Any, *args: Any, **named: Any) -> Any:
        names = ["cpu" if isinstance(arg, str) and arg.startswith("cuda") else arg for arg in args]
        return move(tensor, *names, **named)

    torch.Tensor.to = to  # type: ignore[method-assign, assignment]
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    torch.cuda.synchronize = lambda *_: None


# Arm: repository, function.
ARMS: dict[str, tuple[str, Callable[..., list[Any] | None]]] = {
    "wanda:0.5": ("wanda", prune_lib("prune_wanda", use_variant=False)),
    "wanda:2:4": ("wanda", prune_lib("prune_wanda", use_variant=False)),
    "sparsegpt:0.5": ("wanda", prune_lib("prune_sparsegpt")),
    "sparsegpt:2:4": ("wanda", prune_lib("prune_sparsegpt")),
    "ria:0.5": ("ria", prune_lib("prune_ria", **RIA)),
    "ria:2:4,permute=no": ("ria", prune_lib("prune_ria", **RIA)),
    "wanda:0.5+dsnot": ("dsnot", prune_dsnot),
    "wanda:0.5+update,solver=admm": ("admm", prune_admm),
    "alps:0.5": ("alps", prune_alps),
    "wandapp:2:4": ("wandapp", prune_wandapp),
    "shortgpt:0.1": ("shortgpt", prune_shortgpt),
    "flap:0.1": ("flap", prune_flap),
    "slicegpt:0.2": ("slicegpt", prune_slices),
    "slicegpt:0.2 one rotation": ("slicegpt", prune_slices),
}


if __name__ == "__main__":
    main()
