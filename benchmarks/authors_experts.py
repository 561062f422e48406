"""Compare dropped and merged experts with the authors' code, on a small Mixtral trained on bytes for a minute.

    python benchmarks/authors_experts.py --python PYTHON --reap FOLDER --hcsmoe FOLDER --mcsmoe FOLDER --naee FOLDER

PYTHON: of an environment with `transformers==4.40.1`, scikit-learn and accelerate, for which most of their code was
written. The folders are checkouts (`REPOSITORIES`); those that aren't given are left out. `dropexperts` is REAP's
rule and `mergeexperts` HC-SMoE's, so there choices and weights must be equal. The other two are other methods: of all
sets of experts that can go, NAEE takes the one whose outputs differ least, which tells how far ours is from that; and
MC-SMoE groups experts by their router logits.

Both sides get the same model, in float32, and the same windows. Reported are the perplexity of bytes of WikiText-2's
test text, the block error (`errors.py`), what is equal, and processor seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared" / "data" / "calibration"
# Option: repository, our arm.
REPOSITORIES = {
    "reap": ("CerebrasResearch/reap", "dropexperts:0.25"),
    "naee": ("Lucky-Lance/Expert_Sparsity", "dropexperts:0.25"),
    "hcsmoe": ("wazenmai/HC-SMoE", "mergeexperts:0.5"),
    "mcsmoe": ("UNITES-Lab/MC-SMoE", "mergeexperts:0.5"),
}
EXPERTS, BLOCKS, WINDOW = 8, 4, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, (repository, _) in REPOSITORIES.items():
        parser.add_argument(f"--{name}", metavar="FOLDER", help=f"a checkout of {repository}")
    parser.add_argument("--python", help="an interpreter with transformers 4.40.1")
    parser.add_argument("--text", default=str(SHARED / "c4.en.jsonl"), help="JSON lines with a field `text`")
    parser.add_argument("--test", default=str(SHARED / "wikitext2.test.raw"), help="plain text")
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--seeds", type=int, default=3, help="models")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], getattr(options, options.worker[0]), Path(options.worker[1]))
        return
    sys.path.insert(0, str(HERE))
    print("model | theirs | perplexity: dense, ours, theirs | block error | equal | processor seconds")
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows, test = make_model(Path(folder), seed, options)
            for name, (_, arm) in REPOSITORIES.items():
                if getattr(options, name):
                    compare(seed, name, arm, rows, test, Path(folder), options)
                elif not seed:
                    print(f"{name} | left out, no --{name}")


def make_model(folder: Path, seed: int, options: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Train a small Mixtral on bytes and write it to `folder/dense`; return windows for calibration and test."""
    import torch
    import transformers

    lines = Path(options.text).read_text(encoding="utf-8").splitlines()
    text = torch.tensor(list("\n".join(json.loads(line)["text"] for line in lines).encode()))
    torch.manual_seed(seed)
    config = transformers.MixtralConfig(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=BLOCKS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=EXPERTS, num_experts_per_tok=2, bos_token_id=None,
        eos_token_id=None, max_position_embeddings=WINDOW, sliding_window=None, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        output_router_logits=True, initializer_range=0.1, router_aux_loss_coef=0.1,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(options.steps):
        starts = torch.randint(len(text) - 128, (16,))
        ids = torch.stack([text[start : start + 128] for start in starts])
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / options.steps)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.config.output_router_logits = False
    model.save_pretrained(folder / "dense")
    rows = text[: 8 * WINDOW].view(-1, WINDOW).tolist()
    (folder / "windows.json").write_text(json.dumps(rows))
    test = torch.tensor(list(Path(options.test).read_bytes()[: 16 * WINDOW])).view(-1, WINDOW).tolist()
    return rows, test


def compare(
    seed: int, name: str, arm: str, rows: list[list[int]], test: list[list[int]], folder: Path, options: Any
) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file

    from errors import errors_of

    def load(path: Path) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    dense, mine = load(folder / "dense"), load(folder / "dense")
    started = time.process_time()
    details = compress_ours(mine, arm, rows)
    seconds = time.process_time() - started
    (folder / "ours.json").write_text(json.dumps(details))
    command = [options.python, __file__, f"--{name}", getattr(options, name), "--worker", name, str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    done: Any = subprocess.run(command, check=False, **quiet)  # type: ignore[call-overload]
    if done.returncode:
        print(f"{seed} | {name} | failed: {done.stderr.strip().splitlines()[-1:]}")
        return
    found, theirs = load_file(folder / f"{name}.safetensors"), load(folder / name)
    errors = [errors_of(dense, model, test[:4], kept=None, matrices=False).block for model in (mine, theirs)]
    same = EQUAL[name](details, found, mine)
    print(
        f"{seed} | {name} | {', '.join(f'{perplexity(model, test):.4f}' for model in (dense, mine, theirs))} | "
        f"{', '.join(f'{error:.3%}' for error in errors)} | {same} | {seconds:.1f}, {float(found['seconds']):.1f}",
        flush=True,
    )


def compress_ours(model: Any, arm: str, rows: list[list[int]]) -> dict[str, Any]:
    """Compress in place; return what was chosen and measured in each block."""
    from anomia.compress.apply import compress
    from anomia.compress.calibration import CalibrationRecord, Windows
    from anomia.compress.spec import parse_arm

    tokens = sum(map(len, rows))
    record = CalibrationRecord("benchmark", None, len(rows), 0, tokens, WINDOW, WINDOW, None, {}, "", "")
    windows = Windows(tuple(map(tuple, rows)), ("",) * len(rows), record)
    report: Any = compress(model, parse_arm(arm).steps[0], windows).reshaped
    return {**report["details"], "scores": report["scores"]}


def perplexity(model: Any, rows: list[list[int]]) -> float:
    import torch

    with torch.no_grad():
        losses = [model(ids, labels=ids).loss for ids in (torch.tensor([row]) for row in rows)]
    return float(torch.stack(losses).mean().exp())


# What is equal, by contestant. ours: from `compress_ours`. found: what the worker wrote.


def equal_reap(ours: Any, found: Any, _: Any) -> str:
    """Blocks with the same kept experts, and the largest difference of saliencies, by both kinds of router weights."""
    import torch

    scores = torch.tensor(ours["scores"], dtype=torch.float64)
    parts = []
    for kind in ("renormalized", "plain"):
        kept = [k == o for k, o in zip(found[f"kept.{kind}"].tolist(), ours["kept_experts"], strict=True)]
        off = float((found[f"scores.{kind}"].double() - scores).abs().max() / scores.max())
        parts.append(f"{kind}: {sum(kept)} of {len(kept)} blocks, saliency within {off:.1e}")
    return "; ".join(parts)


def equal_naee(ours: Any, found: Any, _: Any) -> str:
    """Where our choice comes among all by their loss, and how much more it loses than the best."""
    ranks, over = [], []
    for index, kept in enumerate(ours["kept_experts"]):
        gone = [expert for expert in range(EXPERTS) if expert not in kept]
        losses, sets = found[f"losses.{index}"], found[f"sets.{index}"].tolist()
        mine = losses[sets.index(gone)]
        ranks.append(int((losses < mine).sum()) + 1)
        over.append(float(mine / losses.min() - 1))
    counts = f"rank {', '.join(map(str, ranks))} of {len(sets)}"
    return f"{counts}; loss over the best {', '.join(f'{one:.0%}' for one in over)}"


def equal_merged(ours: Any, found: Any, model: Any) -> str:
    """Blocks with the same groups, and the largest difference of merged weights, relative to the largest weight."""
    same, off, zero = 0, 0.0, 0
    for index, clusters in enumerate(ours["clusters"]):
        labels = found[f"labels.{index}"].tolist()
        theirs = {tuple(e for e in range(EXPERTS) if labels[e] == label) for label in labels}
        same += theirs == {tuple(sorted(members)) for members in clusters}
        experts = model.model.layers[index].mlp.experts
        for place, members in enumerate(clusters):
            if not any(ours["tokens"][index][member] for member in members):
                # Weighted by frequency, a group that got no token is zero; ours is then the plain mean.
                zero += not found[f"w1.{index}.{min(members)}"].any()
                continue
            gate, up = experts.gate_up_proj[place].detach().chunk(2)
            for part, mine in (("w1", gate), ("w3", up), ("w2", experts.down_proj[place].detach())):
                their = found[f"{part}.{index}.{min(members)}"]
                off = max(off, float((mine - their).abs().max() / mine.abs().max()))
    unused = f"; {zero} groups without a token are zero in theirs" if zero else ""
    return (
        f"groups of {same} of {len(ours['clusters'])} blocks, weights of our groups within {off:.1e}{unused}"
    )


EQUAL: dict[str, Callable[[Any, Any, Any], str]] = {
    "reap": equal_reap,
    "naee": equal_naee,
    "hcsmoe": equal_merged,
    "mcsmoe": equal_merged,
}


# The code of others, in the other environment. Each function changes a model in place and returns tensors.


def work(name: str, checkout: str, folder: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.nn.Module.cuda = lambda module, *_: module  # type: ignore[method-assign, assignment]
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    move = torch.nn.Module.to
    torch.nn.Module.to = lambda module, *args, **named: (  # type: ignore[method-assign, assignment]
        module if str(args[0]).startswith("cuda") else move(module, *args, **named)
    )
    rows = [torch.tensor([row]) for row in json.loads((folder / "windows.json").read_text())]
    model = transformers.MixtralForCausalLM.from_pretrained(
        folder / "dense", torch_dtype=torch.float32
    ).eval()
    ours = json.loads((folder / "ours.json").read_text())
    started = time.process_time()
    found = WORKERS[name](model, rows, Path(checkout), ours)
    seconds = torch.tensor(time.process_time() - started)
    if name != "reap":
        for layer in model.model.layers:
            # Merged experts are one module; files can't hold it twice.
            moe = layer.block_sparse_moe
            for index, expert in enumerate(moe.experts):
                moe.experts[index] = type(expert)(model.config)
                moe.experts[index].load_state_dict(expert.state_dict())
        model.save_pretrained(folder / name)
    save_file({**found, "seconds": found.get("seconds", seconds)}, folder / f"{name}.safetensors")


def package(name: str, folder: Path) -> None:
    """Make a package without running its `__init__`, which imports what isn't needed."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def work_reap(model: Any, rows: list[Any], checkout: Path, ours: Any) -> dict[str, Any]:
    """Their observer with router weights as the model uses them, which sum to 1, and with plain ones; then `prune`."""
    import torch

    package("reap", checkout / "src" / "reap")
    for name in ("main", "args", "data", "cluster", "eval"):
        stub: Any = types.ModuleType(f"reap.{name}")
        stub.__getattr__ = lambda _: None
        sys.modules[f"reap.{name}"] = stub
    observer: Any = importlib.import_module("reap.observer")
    pruning: Any = importlib.import_module("reap.prune")
    found: dict[str, Any] = {}
    seconds = []
    for kind in ("plain", "renormalized"):
        started = time.process_time()
        settings = observer.MixtralMoEObserverHookConfig(
            renormalize_router_weights=kind == "renormalized", record_pruning_metrics_only=True
        )
        watching = observer.MoETransformerObserver(model, hook_config=settings)
        with torch.no_grad():
            for ids in rows:
                model(ids)
        data = watching.report_state()
        watching.close_hooks()
        found[f"scores.{kind}"] = torch.stack([data[index]["reap"] for index in range(BLOCKS)])
        gone = [one.topk(EXPERTS // 4, largest=False).indices.tolist() for one in found[f"scores.{kind}"]]
        kept = [[expert for expert in range(EXPERTS) if expert not in one] for one in gone]
        found[f"kept.{kind}"] = torch.tensor(kept)
        if kind == "renormalized":
            settings = types.SimpleNamespace(
                prune_method="reap", perserve_super_experts=False, perserve_outliers=False
            )
            pruning.prune(data, model, settings, EXPERTS // 4, Path(sys.argv[-1]) / "reap")
        seconds.append(time.process_time() - started)
    return {**found, "seconds": torch.tensor(seconds[1])}


def work_naee(model: Any, rows: list[Any], checkout: Path, ours: Any) -> dict[str, Any]:
    import torch
    import transformers

    sys.path.insert(0, str(checkout))
    package("data", checkout / "data")
    sys.modules["data"].CacheDataset = importlib.import_module("data.dataset").CacheDataset  # type: ignore[attr-defined]
    package("method", checkout / "method")
    pruning: Any = importlib.import_module("method.expert_pruning")
    # Written for a transformers in which an expert took the router's weights.
    expert: Any = transformers.models.mixtral.modeling_mixtral.MixtralBlockSparseTop2MLP
    plain = expert.forward
    expert.forward = lambda module, states, weights=1.0: plain(module, states) * weights
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]
    _, (history,) = pruning.layerwise_pruning(model, batches, types.SimpleNamespace(r=EXPERTS * 3 // 4))
    found = {}
    for index, losses in history.items():
        found[f"sets.{index}"] = torch.tensor(list(losses))
        found[f"losses.{index}"] = torch.tensor(list(losses.values()), dtype=torch.float64)
    return found


def work_hcsmoe(model: Any, rows: list[Any], checkout: Path, ours: Any) -> dict[str, Any]:
    """Their settings for Mixtral: mean outputs, average linkage, weights by frequency."""
    for name in ("hcsmoe", "hcsmoe.merging", "hcsmoe.utils", "hcsmoe.models", "hcsmoe.models.mixtral"):
        package(name, checkout.joinpath(*name.split(".")))
    theirs: Any = importlib.import_module("hcsmoe.merging.grouping_mixtral")
    grouper = theirs.ExpertsGrouperForMixtral(
        model.config, similarity_base="expert-output", cluster="hierarchical", linkage="average"
    )
    batches = [{"input_ids": ids} for ids in rows]
    grouper.compute_all_usages(model, batches)
    grouper.cluster_experts(model=model, dataloader=batches, num_groups=EXPERTS // 2)
    return merged(theirs, model, grouper, {})


def work_mcsmoe(model: Any, rows: list[Any], checkout: Path, ours: Any) -> dict[str, Any]:
    """Their grouping by router logits; and their merge of our groups, whose weights are returned."""
    import copy

    for name in ("mcsmoe", "mcsmoe.merging", "mcsmoe.utils"):
        package(name, checkout.joinpath(*name.split(".")))
    theirs: Any = importlib.import_module("mcsmoe.merging.grouping_mixtral")
    grouper = theirs.ExpertsGrouperForMixtral(config=model.config, similarity_base="router-logits")
    batches = [{"input_ids": ids} for ids in rows]
    grouper.compute_all_similarities(model, batches)
    grouper.compute_all_usages(model, batches)
    grouper.group_experts_globally_from_dominant_experts(
        num_average_groups=EXPERTS // 2, merging_layers=list(range(BLOCKS))
    )
    other, regrouped = copy.deepcopy(model), copy.deepcopy(grouper)
    for index, clusters in enumerate(ours["clusters"]):
        for label, members in enumerate(clusters):
            regrouped._group_state_dict[f"model.layers.{index}.block_sparse_moe"][members] = label
    weights = merged(theirs, other, regrouped, {})
    return merged(theirs, model, grouper, weights)


def merged(theirs: Any, model: Any, grouper: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """Merge; return each expert's group, and its merged weights unless they are given."""
    theirs.merge_by_groups_with_usage_weighted(model, grouper=grouper, merging_layers=list(range(BLOCKS)))
    found = {}
    for index, layer in enumerate(model.model.layers):
        found[f"labels.{index}"] = grouper.group_state_dict()[
            f"model.layers.{index}.block_sparse_moe"
        ].clone()
        for number, expert in enumerate(layer.block_sparse_moe.experts):
            for part in ("w1", "w2", "w3"):
                found[f"{part}.{index}.{number}"] = getattr(expert, part).weight.detach().clone()
    return {**found, **{key: value for key, value in weights.items() if key.startswith("w")}}


WORKERS: dict[str, Callable[[Any, list[Any], Path, Any], dict[str, Any]]] = {
    "reap": work_reap,
    "naee": work_naee,
    "hcsmoe": work_hcsmoe,
    "mcsmoe": work_mcsmoe,
}


if __name__ == "__main__":
    main()
