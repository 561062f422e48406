"""Compare masks for patterns with the authors' code, matrix by matrix: the same weights and inputs on both sides.

    python benchmarks/authors_masks.py --wanda FOLDER --ria FOLDER --sparsegpt FOLDER [--blocks 0 15] [METHOD ...]

Each folder is a checkout (`REPOSITORIES`); methods whose folder isn't given are left out. A matrix and its inputs in
the dense model are put into a model of one block with one layer, which their code prunes as it is (but for what
`authors.py` does to it), with their statistics. Ours is the function that the method calls, with our statistics. With
`permute`, RIA's channel permutation is on: theirs reorders the inputs of every matrix, so here ours does, too.

Reported per method: matrices with equal masks, what both removed as a share of what either removed, and processor
seconds; for SparseGPT also the largest difference of kept weights, relative to the largest weight, and, as a measure
of what rounding alone does, their code next to itself with the windows in the opposite order; with `permute` the sum
of scores that the patterns keep, over that without permutation.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

# Before PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import nn

from anomia.compress.methods.masks import cut
from anomia.compress.methods.permute import fitting_order, kept_score
from anomia.compress.methods.ria import ria_cut, ria_scores
from anomia.compress.methods.sparsegpt import sparsegpt
from anomia.compress.methods.wanda import wanda_cut
from anomia.compress.steps import Pattern
from authors import RIA, SHARED, on_cpu

PATTERN = Pattern(2, 4)
REPOSITORIES = {
    "wanda": "locuslab/wanda",
    "ria": "biomedical-cybernetics/Relative-importance-and-activation-pruning",
    "sparsegpt": "IST-DASLab/sparsegpt",
}


class Case(NamedTuple):
    """A matrix [out, in] with its name in the block, and its inputs, [windows, tokens, in]."""

    name: str
    weight: torch.Tensor
    inputs: torch.Tensor

    @property
    def norms(self) -> torch.Tensor:
        """‖X‖₂ of each input, [in]."""
        return self.inputs.flatten(0, 1).square().sum(dim=0).sqrt()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, repository in REPOSITORIES.items():
        parser.add_argument(f"--{name}", metavar="FOLDER", help=f"a checkout of {repository}")
    parser.add_argument("--model", help="a model folder; the demo's if left out")
    parser.add_argument("--text", default=str(SHARED / "c4.en.jsonl"), help="JSON lines with a field `text`")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--blocks", type=int, nargs="+", default=[0])
    parser.add_argument("methods", nargs="*", help=", ".join(METHODS))
    options = parser.parse_args()
    on_cpu()
    cases = list(read_cases(options))
    print("method | masks equal | removed by both | further | processor seconds: ours, theirs")
    for method in options.methods or METHODS:
        repository, ours, theirs = METHODS[method]
        folder = getattr(options, repository)
        if not folder:
            print(f"{method} | left out, no --{repository}")
            continue
        for name in [name for name in sys.modules if name.split(".")[0] in ("lib", "sparsegpt", "quant")]:
            del sys.modules[name]
        sys.path.insert(0, folder)
        show(method, cases, ours, theirs)
        sys.path.remove(folder)


def show(method: str, cases: list[Case], ours: Any, theirs: Any) -> None:
    """Prune all cases on both sides and print a line."""
    same = both = either = 0
    seconds, further = [0.0, 0.0], [0.0]
    gains: list[list[float]] = []
    for case in cases:
        pruned = []
        for side, prune in enumerate((ours, theirs)):
            started = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                pruned.append(prune(case))
            seconds[side] += time.process_time() - started
        gone = [one == 0 for one in pruned]
        same += torch.equal(*gone)
        both, either = both + int((gone[0] & gone[1]).sum()), either + int((gone[0] | gone[1]).sum())
        kept = ~gone[0] & ~gone[1]
        further.append(float((pruned[0] - pruned[1])[kept].abs().max() / case.weight.abs().max()))
        scores = ria_scores(case.weight, case.norms)
        plain = kept_score(scores, PATTERN)
        gains.append([float(scores[~mask].sum(dtype=torch.float64)) / plain for mask in gone])
    more = f"kept weights within {max(further):.1e}" if "sparsegpt" in method else ""
    if method.endswith(" permute"):
        means = [sum(side) / len(side) for side in zip(*gains, strict=True)]
        more = f"scores kept {means[0]:.5f}, {means[1]:.5f}"
    print(
        f"{method} | {same} of {len(cases)} | {both / either:.3%} | {more} | {seconds[0]:.1f}, {seconds[1]:.1f}",
        flush=True,
    )


@torch.no_grad()
def read_cases(options: Any) -> Iterator[Case]:
    """Run the dense model; matrices that read the same inputs each get them."""
    import transformers

    from anomia.demo import demo_model
    from prune import equal_windows

    folder = options.model or str(demo_model())
    rows = torch.tensor(equal_windows(folder, options.text, options.windows, options.tokens))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for index in options.blocks:
        block, inputs = model.model.layers[index], {}
        layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}

        def keep(name: str, inputs: dict[str, Any] = inputs) -> Callable[..., None]:
            return lambda _, args: inputs.__setitem__(name, args[0].clone())

        handles = [module.register_forward_pre_hook(keep(name)) for name, module in layers.items()]
        model(rows, use_cache=False)
        for handle in handles:
            handle.remove()
        for name, module in layers.items():
            yield Case(name, module.weight.detach().clone(), inputs[name])


# Ours: each returns the pruned matrix.


def our_wanda(case: Case) -> torch.Tensor:
    return case.weight.masked_fill(wanda_cut(case.weight, case.norms, PATTERN).mask, 0)


def our_ria(case: Case) -> torch.Tensor:
    return case.weight.masked_fill(ria_cut(case.weight, case.norms, PATTERN).mask, 0)


def our_permuted(case: Case) -> torch.Tensor:
    scores = ria_scores(case.weight, case.norms)
    order = fitting_order(scores, PATTERN)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[:, order] = cut(scores[:, order], PATTERN, weight=case.weight[:, order]).mask
    return case.weight.masked_fill(mask, 0)


def our_sparsegpt(case: Case) -> torch.Tensor:
    states = case.inputs.flatten(0, 1)
    return sparsegpt([case.weight], states.T @ states, PATTERN, where=case.name).weights[0]


# Theirs.


class OneLayer(nn.Module):
    """A model of one block, which is one layer by a name; it gives each window's inputs to the block."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        out, size = case.weight.shape
        self.case, self.seqlen, self.hf_device_map = case, case.inputs.shape[1], {}
        self.config = SimpleNamespace(use_cache=False, hidden_size=size)
        block, place = Block(), case.name.split(".")
        parent: nn.Module = block
        for part in place[:-1]:
            parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        layer = nn.Linear(size, out, bias=False)
        layer.weight.data = case.weight.clone()
        parent.add_module(place[-1], layer)
        block.layer = [layer]
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([block])

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        states = self.case.inputs[int(index)][None]
        found: torch.Tensor = self.model.layers[0](states, attention_mask=None, position_ids=torch.zeros(1))
        return found


class Block(nn.Module):
    layer: list[nn.Linear]

    def forward(self, states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        self.layer[0](states)
        return (states,)


def by_library(function: str, **further: Any) -> Callable[[Case], torch.Tensor]:
    """A function of a repository's `lib.prune`."""

    def prune(case: Case) -> torch.Tensor:
        theirs: Any = importlib.import_module("lib.prune")
        windows = len(case.inputs)
        theirs.get_loaders = lambda *_, **__: ([(torch.tensor(index),) for index in range(windows)], None)
        arguments = SimpleNamespace(
            model="llama",
            nsamples=windows,
            seed=0,
            seqlen=case.inputs.shape[1],
            sparsity_ratio=0.5,
            **further,
        )
        model = OneLayer(case)
        with torch.no_grad():
            getattr(theirs, function)(arguments, model, None, torch.device("cpu"), prune_n=2, prune_m=4)
        return model.model.layers[0].layer[0].weight.data  # type: ignore[no-any-return, union-attr]

    return prune


def their_sparsegpt(case: Case, windows: Sequence[int] | None = None) -> torch.Tensor:
    theirs: Any = importlib.import_module("sparsegpt")
    layer = nn.Linear(case.weight.shape[1], case.weight.shape[0], bias=False)
    layer.weight.data = case.weight.clone()
    solver = theirs.SparseGPT(layer)
    with torch.no_grad():
        for index in windows or range(len(case.inputs)):
            solver.add_batch(case.inputs[index][None], None)
        solver.fasterprune(0, prunen=2, prunem=4, percdamp=0.01, blocksize=128)
    return layer.weight.data


def their_reversed(case: Case) -> torch.Tensor:
    return their_sparsegpt(case, range(len(case.inputs))[::-1])


PERMUTED = {**RIA, "reallocation": True, "lsa": True, "fast": False, "importance_score": "sum"}
# Method: repository, ours, theirs.
METHODS: dict[str, tuple[str, Callable[[Case], torch.Tensor], Callable[[Case], torch.Tensor]]] = {
    "wanda:2:4": ("wanda", our_wanda, by_library("prune_wanda", use_variant=False)),
    "sparsegpt:2:4": ("sparsegpt", our_sparsegpt, their_sparsegpt),
    "sparsegpt:2:4 in Wanda's repository": ("wanda", our_sparsegpt, by_library("prune_sparsegpt")),
    "their sparsegpt:2:4, last window first": ("sparsegpt", their_reversed, their_sparsegpt),
    "ria:2:4,permute=no": ("ria", our_ria, by_library("prune_ria", **RIA)),
    "ria:2:4 permute": ("ria", our_permuted, by_library("prune_ria", **PERMUTED)),
}


if __name__ == "__main__":
    main()
