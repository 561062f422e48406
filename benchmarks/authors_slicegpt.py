"""SliceGPT next to its authors' code, for `authors.py`.

The paper rotates the input of each block's parts by its own principal directions; ours has one rotation for the whole
model. So there are two arms. In the first their code runs as it is. In the second, marked by `SAME`, its principal
directions are those of the inputs of all norms, each state scaled to unit mean square; the head is sliced, too; and
the means that it takes from embeddings, which for an RMSNorm changes the model, are put back. Everything else is
theirs: the principal components, the norms, the rotated matrices, the residual paths, the slices.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

# After the arm: theirs has one rotation, like ours.
SAME = " one rotation"


def prune_slicegpt(model: Any, arm: str, windows: list[torch.Tensor], folder: str) -> list[torch.Tensor]:
    """Slice a Llama with their code to our hidden size W.

    windows: token ids, [1, S] each. Returns the bases of the states that enter each block and leave the last, [H, W] or
    [H, H], orthonormal columns.
    """
    from anomia.compress.reshape.slicegpt import _sizes

    adapters, fusion, rotate, schedule = _their_modules(folder)
    share, one = arm.removesuffix(SAME), arm.endswith(SAME)
    _, width = _sizes(model, float(share.partition(":")[2]))
    dense = _unit_inputs(model, windows) if one else []
    embeddings = model.get_input_embeddings().weight.detach().clone()
    model.config.torch_dtype = model.dtype
    adapter = adapters.LlamaModelAdapter(model)
    fusion.replace_layers(adapter)
    for layer in model.model.layers:
        # An attention returned three values.
        layer.self_attn.forward = partial(_with_none, layer.self_attn.forward)
    fusion.fuse_modules(adapter)
    principal, found = rotate.pca_calc, []
    if one:
        model.get_input_embeddings().weight.data.copy_(embeddings)
        shared = principal(dense)

    def recorded(states: Any, masks: Any = None) -> Any:
        values, vectors = shared if one else principal(states, masks)
        found.append(vectors)
        return values, vectors

    rotate.pca_calc = recorded
    given = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]
    scheduler = schedule.ConstSlicingScheduler(width, do_slice_head=one)
    # Their default turns the kept directions at random, which changes no result; without it they can be compared.
    rotate.rotate_and_slice(adapter, given, scheduler, final_orientation="pca")
    # Called for the embeddings, then for each block's second norm and output.
    bases = [vectors[:, :width].to(model.dtype) for vectors in found[::2]]
    if not one:
        bases[-1] = found[-1].to(model.dtype)
    return bases


def bases_of(dense: Any, sliced: Any) -> list[torch.Tensor]:
    """The one basis of a model that we sliced, [H, W], for each block and the last output, from its embeddings."""
    old = dense.get_input_embeddings().weight.detach().double()
    new = sliced.get_input_embeddings().weight.detach().double()
    basis = torch.linalg.lstsq(old, new).solution.to(dense.dtype)
    return [basis] * (len(sliced.model.layers) + 1)


def common(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The mean of |cos| between directions of the same rank, [H, W] each: 1 if they are equal up to their signs."""
    width = min(ours.shape[1], theirs.shape[1])
    return float((ours[:, :width].double() * theirs[:, :width].double()).sum(dim=0).abs().mean())


@torch.no_grad()
def block_error(dense: Any, sliced: Any, bases: list[torch.Tensor], rows: list[list[int]]) -> float:
    """The mean over blocks of ‖f̂(h·Q)·Qᵀ − f(h)‖²/‖f(h) − h‖², with the first token of a row left out.

    h: what enters the block f in the dense model.
    """
    lost = torch.zeros(len(dense.model.layers), 2, dtype=torch.float64)

    def hook(index: int, other: Any) -> Callable[..., None]:
        def compare(_: Any, args: Any, kwargs: Any, out: Any) -> None:
            states, expected = args[0], out if torch.is_tensor(out) else out[0]
            got = other(states @ bases[index], *args[1:], **kwargs)
            got = (got if torch.is_tensor(got) else got[0]) @ bases[index + 1].T
            lost[index, 0] += (got - expected)[:, 1:].double().square().sum()
            lost[index, 1] += (expected - states)[:, 1:].double().square().sum()

        return compare

    handles = [
        layer.register_forward_hook(hook(index, other), with_kwargs=True)
        for index, (layer, other) in enumerate(zip(dense.model.layers, sliced.model.layers, strict=True))
    ]
    for row in rows:
        dense.base_model(input_ids=torch.tensor([row]), use_cache=False)
    for handle in handles:
        handle.remove()
    return float((lost[:, 0] / lost[:, 1]).mean())


def _their_modules(folder: str) -> tuple[Any, Any, Any, Any]:
    """Import theirs without its `__init__`, which imports parts of transformers that are gone."""
    package = types.ModuleType("slicegpt")
    package.__path__ = [str(Path(folder) / "src" / "slicegpt")]
    sys.modules["slicegpt"] = package
    adapters: Any = importlib.import_module("slicegpt.adapters.llama_adapter")
    block: Any = adapters.CompressedLlamaDecoderLayer
    theirs = block.forward
    block.forward = lambda *args, **named: theirs(*args, **named)[0]
    names = ("layernorm_fusion", "rotate", "slicing_scheduler")
    fusion, rotate, schedule = (importlib.import_module(f"slicegpt.{name}") for name in names)
    return adapters, fusion, rotate, schedule


def _with_none(forward: Callable[..., Any], *args: Any, **named: Any) -> tuple[Any, ...]:
    return (*forward(*args, **named), None)


@torch.no_grad()
def _unit_inputs(model: Any, windows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The inputs of all norms of hidden states, scaled to unit mean square: [1, S, H] per norm and window."""
    found: list[torch.Tensor] = []

    def read(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        found.append(args[0] / args[0].square().mean(dim=-1, keepdim=True).sqrt())

    norms = [module for name, module in model.named_modules() if name.endswith("norm")]
    handles = [norm.register_forward_pre_hook(read) for norm in norms]
    for ids in windows:
        model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found
