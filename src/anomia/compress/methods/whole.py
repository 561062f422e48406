"""What updates of a whole model share: its matrices' parameters, the final loss of a batch, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch
from anomia.compress.calls import check_tokens
from anomia.compress.matrices import WeightMatrix, all_matrices
from anomia.compress.methods.base import WholeWork
from anomia.compress.methods.guided import kl_divergence, outputs_at
from anomia.compress.methods.train import HELD_OUT, holding
from anomia.errors import RefusedError


def parameters_of(decoder: DecoderBlocks) -> dict[str, nn.Parameter]:
    """Return the parameters that hold the compressed matrices of all blocks, by name in the model; shared ones once."""
    found: dict[str, nn.Parameter] = {}
    for index, matrices in enumerate(matrices_of(decoder)):
        for name, parameter in holding(decoder.modules[index], list(matrices.values())).items():
            if not any(parameter is other for other in found.values()):
                found[f"{decoder.path(index)}.{name}"] = parameter
    return found


def matrices_of(decoder: DecoderBlocks) -> list[dict[str, WeightMatrix]]:
    """Return the compressed matrices ([out, in] each) of each block, by name in the model."""
    return [
        {f"{decoder.path(index)}.{each.name}": each for each in all_matrices(block, decoder.path(index))}
        for index, block in enumerate(decoder.modules)
    ]


def held_out(batches: Sequence[Batch]) -> tuple[list[int], list[int]]:
    """Return the numbers of the batches to learn from, and of those that only decide: every eighth, at least one.

    Batches are sorted by length, so this is a fair sample of lengths. A single batch does both.
    """
    count = len(batches)
    decide = list(range(HELD_OUT // 2, count, HELD_OUT)) or [count - 1]
    return [number for number in range(count) if number not in decide] or decide, decide


def backward(work: WholeWork, number: int, values: Mapping[str, torch.Tensor], what: str) -> None:
    """Add the gradient of a batch's mean loss to `values`.

    The loss is the mean over the positions that predict an answer of w_t KL(base ‖ model), with the batch's weights.
    values: to use in place of the model's own parameters, by name, in their shapes; those that require a gradient get
    one.
    what: the update, for messages.

    Raises `CompressionError` for a loss that is NaN or infinite.
    """
    wanted, ids, batch = _wanted(work, number)
    with torch.enable_grad(), without_gradients(work.model):
        got = outputs_at(work.model, ids, batch, values)
        loss = kl_divergence(wanted, got.detach())
        del wanted
        if not bool(torch.isfinite(loss.nats).all()):
            raise not_finite(work, what)
        got.backward(loss.gradient * shares_of(batch).to(got)[:, None])  # type: ignore[no-untyped-call]


def not_finite(work: WholeWork, what: str) -> RefusedError:
    """Return the error for a loss or gradient that is NaN or infinite. what: the update."""
    return RefusedError(
        f"the final loss of {type(work.model).__name__}, or its gradient, is NaN or infinite, which {what} can't use; "
        f"load the model in a wider type (--dtype bfloat16 or float32), or leave out {what}"
    )


@torch.no_grad()
def mean_loss(work: WholeWork, numbers: Sequence[int], values: Mapping[str, torch.Tensor]) -> float:
    """Return the mean loss per position of some batches, in nats. values: as for `backward`."""
    total = positions = 0.0
    for number in numbers:
        wanted, ids, batch = _wanted(work, number)
        nats = kl_divergence(wanted, outputs_at(work.model, ids, batch, values)).nats.cpu()
        total += float((nats * shares_of(batch)).sum()) * len(nats)
        positions += len(nats)
    return total / positions


def _wanted(work: WholeWork, number: int) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    """Base's outputs for a batch, [N, V], its tokens, [B, S], and the batch."""
    batch = work.batches[number]
    ids = batch.input_ids.to(next(work.model.parameters()).device)
    check_tokens(work.model, ids)
    with torch.no_grad():
        return outputs_at(work.model, ids, batch, work.base.values), ids, batch


def shares_of(batch: Batch) -> torch.Tensor:
    """Return the share of each position that predicts in a batch's mean, [N] float32, with sum 1."""
    counts = batch.predicting
    shares = torch.ones(int(counts.sum())) if batch.weights is None else batch.weights[counts].float()
    return shares / shares.sum()


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Keep the model's own parameters out of the graph: only what stands in for them has gradients."""
    asked = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was in zip(model.parameters(), asked, strict=True):
            parameter.requires_grad_(was)
