"""Regrowing: pruned weights that the final loss misses come back, in exchange for kept ones that it needs least.

What a pruned weight would give back is its share of the loss along the path from the compressed model to base, as
`anomia locate` attributes it: −w ∫ ∂L/∂w dα, with L = KL(base ‖ model) at the positions that predict answers. What a
kept weight costs is the change of L without it, to second order (LeCun et al. 1990, optimal brain damage): |w g| +
½ w² F, with F the Fisher information of the compressed model's own words (Martens 2020, section 5). The first-order
part counts as a cost whatever its sign: weights that it would have go are mostly chosen by noise, and letting them go
made the loss of unseen text worse in most small models that were tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.catalogue import CATALOGUE
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import Updater, WholeWork
from anomia.compress.methods.gradients import view_like
from anomia.compress.methods.guided import check_room, outputs_at
from anomia.compress.methods.whole import (
    backward,
    held_out,
    matrices_of,
    mean_loss,
    not_finite,
    parameters_of,
    shares_of,
    without_gradients,
)
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Pattern, Take, Update

PATH = ((0.0, 1 / 6), (0.5, 4 / 6))
"""Points between the compressed model and base, and their weights by Simpson's rule; at base the gradient is 0."""
SHARE = 0.02
"""The largest share of a row's weights that is swapped."""
HALVINGS = 3
USELESS = "regrowing lowered no divergence on the batches that decide: no weight was swapped"
BATCH_TOKENS = 1024


class Swaps(NamedTuple):
    """Weights that come back and weights that go: [out, in] bool each, with as many of both in each row or group."""

    back: torch.Tensor
    gone: torch.Tensor


@dataclass(slots=True)
class _Sums:
    """By parameter, in its shape: ∫ ∂L/∂w dα, ∂L/∂w of the compressed model, and the diagonal of its Fisher."""

    path: dict[str, torch.Tensor]
    gradient: dict[str, torch.Tensor]
    fisher: dict[str, torch.Tensor]


def check_regrowing(decoder: DecoderBlocks) -> None:
    """Refuse, before any work, blocks for whose gradients there is not enough memory."""
    weights = sum(parameter.numel() for parameter in parameters_of(decoder).values())
    device = next(decoder.modules[0].parameters()).device
    # Gradients, their integral, the Fisher information, and the weights on the path.
    kept = 4 * CATALOGUE["regrow"].kept * weights
    check_room(kept, device, "regrowing keeps gradients of all weights in float32")


def regrow(work: WholeWork, update: Update) -> str:
    """Swap pruned and kept weights of all matrices in place, with as many zeros in each row, or group of a pattern.

    What comes back has base's value. Of each row at most 2 % of the weights are swapped, only pairs that the estimates
    call a gain; if that doesn't lower the loss on the held-out batches, half as many, up to three times.

    Returns a note for all matrices, empty if weights were swapped.
    Raises `CompressionError` for outputs or gradients that are NaN or infinite.
    """
    parameters = parameters_of(work.decoder)
    seen, decide = held_out(work.batches)
    sums = _sums(work, parameters, seen)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    lowest = mean_loss(work, decide, {})
    for halving in range(HALVINGS + 1):
        _swap_all(work, parameters, sums, SHARE / 2**halving)
        if mean_loss(work, decide, {}) < lowest:
            return ""
        for name, parameter in parameters.items():
            parameter.data.copy_(before[name])
    return USELESS


def choose_swaps(
    zeros: torch.Tensor, gain: torch.Tensor, cost: torch.Tensor, share: float, group: int | None = None
) -> Swaps:
    """Choose, in each row, the pairs of a pruned and a kept weight with the largest gain over cost.

    Args:
        zeros: which weights are pruned, [out, in] bool.
        gain: how much the loss falls if a pruned weight comes back, [out, in] float32.
        cost: how much it rises if a kept weight goes, [out, in] float32.
        share: the largest share of a row's weights that is swapped.
        group: exchange weights only within this many consecutive inputs, at most one pair in each; None for the row.
    """
    rows, columns = zeros.shape
    most = math.ceil(share * columns)
    back, gone = (torch.zeros_like(zeros) for _ in range(2))
    gain = gain.masked_fill(~zeros, -torch.inf)
    cost = cost.masked_fill(zeros, torch.inf)
    if group is not None:
        gain, cost = (each.view(rows, columns // group, group) for each in (gain, cost))
        best, comes = gain.max(dim=2)
        least, goes = cost.min(dim=2)
        start = torch.arange(0, columns, group, device=zeros.device)
        pairs = (best - least).topk(min(most, columns // group), dim=1)
        comes, goes = ((each + start).gather(1, pairs.indices) for each in (comes, goes))
        worth = pairs.values > 0
    else:
        most = min(most, columns)
        best, comes = gain.topk(most, dim=1)
        least, goes = cost.topk(most, dim=1, largest=False)
        worth = best - least > 0
    back.scatter_(1, comes, worth)
    gone.scatter_(1, goes, worth)
    return Swaps(back, gone)


def _swap_all(work: WholeWork, parameters: Mapping[str, nn.Parameter], sums: _Sums, share: float) -> None:
    for index, matrices in enumerate(matrices_of(work.decoder)):
        block, where = work.decoder.modules[index], work.decoder.path(index)
        mine = {name: each for name, each in parameters.items() if name.startswith(f"{where}.")}
        for matrix in matrices.values():
            weight, zeros = matrix.weight, matrix.weight == 0

            def of(values: Mapping[str, torch.Tensor], matrix: WeightMatrix = matrix) -> torch.Tensor:
                return view_like(matrix, block, {id(each): values[name] for name, each in mine.items()})  # noqa: B023

            base = of(work.base.values).to(weight)
            gain = -(base.float() * of(sums.path))
            kept = weight.float()
            cost = (kept * of(sums.gradient)).abs() + kept.square() * of(sums.fisher) / 2
            swaps = choose_swaps(zeros & (base != 0), gain, cost, share, _group(work, zeros))
            weight.copy_(torch.where(swaps.back, base, weight).masked_fill(swaps.gone, 0))


def _group(work: WholeWork, zeros: torch.Tensor) -> int | None:
    """The group of the pattern that a matrix's zeros ([out, in] bool) keep; None if rows are all that is kept."""
    target = work.step.target
    if isinstance(target, Pattern):
        return target.group
    return pattern_of(zeros) if isinstance(work.step, Take) else None


def pattern_of(zeros: torch.Tensor) -> int | None:
    """Return the smallest group of 2, 4, 8 or 16 inputs with as many zeros in every one; None if there is none."""
    for group in (2, 4, 8, 16):
        if zeros.shape[1] % group == 0:
            counts = zeros.view(len(zeros), -1, group).sum(dim=2)
            if 0 < int(counts.min()) == int(counts.max()) < group:
                return group
    return None


def _sums(work: WholeWork, parameters: Mapping[str, nn.Parameter], seen: Sequence[int]) -> _Sums:
    """Read all gradients from the batches numbered `seen`; each sum has its parameter's shape."""
    path, fisher = (
        {name: torch.zeros_like(each, dtype=torch.float32) for name, each in parameters.items()}
        for _ in range(2)
    )
    gradient: dict[str, torch.Tensor] = {}
    total, done = len(seen) * (len(PATH) + 1), 0
    for alpha, weight in PATH:
        values = {
            name: torch.lerp(each.detach().float(), work.base.values[name].float(), alpha).to(each.dtype)
            for name, each in parameters.items()
        }
        for each in values.values():
            each.requires_grad_(True)
        for number in seen:
            backward(work, number, values, "regrow")
            done += 1
            work.progress(done, total)
        for name, each in values.items():
            mine = torch.zeros_like(path[name]) if each.grad is None else each.grad.float() / len(seen)
            path[name].add_(mine, alpha=weight)
            if alpha == 0:
                gradient[name] = mine
    for number, found in enumerate(_squares(work, parameters, seen)):
        for name, each in found:
            fisher[name].add_(each, alpha=1 / len(seen))
        work.progress(done + number + 1, total)
    if not all(
        bool(torch.isfinite(each).all()) for sums in (path, gradient, fisher) for each in sums.values()
    ):
        raise not_finite(work, "regrow")
    return _Sums(path, gradient, fisher)


def _squares(
    work: WholeWork, parameters: Mapping[str, nn.Parameter], seen: Sequence[int], seed: int = 0
) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
    """For each batch, an unbiased estimate of the Fisher information of its mean loss, by parameter in its shape.

    A token is drawn from the model's own probabilities at each position. The gradients of different positions then have
    mean 0 and are uncorrelated, so the square of their sum has the sum of their squares as its mean.
    """
    device = next(work.model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for number in seen:
        batch = work.batches[number]
        values = {name: each.detach().clone().requires_grad_(True) for name, each in parameters.items()}
        with torch.enable_grad(), without_gradients(work.model):
            got = outputs_at(work.model, batch.input_ids.to(device), batch, values)
            probabilities = got.detach().float().softmax(-1)
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            probabilities.scatter_add_(1, drawn, torch.full_like(drawn, -1, dtype=probabilities.dtype))
            # Each position's information counts by its share: the square root, since sums are squared.
            probabilities *= shares_of(batch).to(device).sqrt()[:, None]
            got.backward(probabilities.to(got.dtype))  # type: ignore[no-untyped-call]
        yield ((name, each.grad.float().square()) for name, each in values.items() if each.grad is not None)


UPDATER = Updater(StatisticNeeds(), whole=regrow, room=check_regrowing, batch_tokens=BATCH_TOKENS)
