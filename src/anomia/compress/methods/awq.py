"""AWQ: scale up the weights of strong inputs before rounding, and the inputs down (Lin et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from anomia.compress.calls import Call
from anomia.compress.exponents import far_exponent, shifted
from anomia.compress.matrices import layer_of
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.gptq import UNREACHED, put, round_unreached
from anomia.compress.methods.grid import Grid, Quantized, grid_of, round_to_nearest
from anomia.compress.methods.scales import (
    Folding,
    Producer,
    divide,
    find_producers,
    realize,
    unchanged,
    weight_of,
)
from anomia.compress.methods.update import layer_error
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Quantize
from anomia.errors import RefusedError

STEPS = 20
_SMALLEST = 1e-4
NO_PRODUCER = "rounded without scales: nothing in the block takes them without changing something else"
NOT_ALONE = (
    "rounded without scales: it is the weight of no layer, but a parameter or a part of one, such as an "
    "expert's"
)


class Inputs(NamedTuple):
    """Matrices that share their input, and its statistics.

    names: in the block; the first one names the group. weights: [out, in] each. hessian: X·Xᵀ, [in, in]; mean_abs: mean
    |x|, [in]; both None if no token reached the input. alone: whether each matrix is a separate layer.
    """

    names: tuple[str, ...]
    weights: tuple[torch.Tensor, ...]
    hessian: torch.Tensor | None
    mean_abs: torch.Tensor | None
    alone: bool = True


class Rounded(NamedTuple):
    """A quantized matrix.

    scales: factors on its weights, [in]. error: `layer_error` of its outputs, for the scaled weights and inputs.
    """

    quantized: Quantized
    scales: torch.Tensor | None
    error: float | None
    note: str = ""


class FoundScales(NamedTuple):
    """The scales with the lowest loss.

    scales: [in] float32, positive; weights are multiplied and inputs divided by them. power: α, of the mean |x|.
    loss, unscaled: Σ‖(Q(W·s)/s − W)·X‖² over the matrices, with and without the scales.
    """

    scales: torch.Tensor
    power: float
    loss: float
    unscaled: float


@torch.no_grad()
def search_scales(
    weights: Sequence[torch.Tensor],
    hessian: torch.Tensor,
    mean_abs: torch.Tensor,
    grid: Grid,
    *,
    realize: Callable[[torch.Tensor], torch.Tensor] = lambda scales: scales,
) -> FoundScales:
    """Search one scale per input for matrices that share their inputs, among 20 candidates.

    The candidates are no scales, which wins ties, and s = x̄^α / w̄^(1 − α) for 19 values of α from 0 to 1. x̄ is the
    mean |x| of an input; w̄ is the mean over all rows of |w| divided by the largest |w| of its group. The scales are
    normalized to √(max·min) = 1. An input that is always zero keeps scale 1.

    The original measures the error at the output of the surrounding module (the whole attention for q, k and v). Here
    it is the error of the matrices' own outputs, which the Hessian gives exactly, for all calibration tokens and
    without running the block.

    Args:
        weights: [out, in] each.
        hessian: X·Xᵀ, [in, in] float32.
        mean_abs: mean |x| of each input, [in].
        grid: bits, groups and the type of the scales.
        realize: returns the nearest feasible scales [in], since the producer of the inputs rounds its weights.

    Source: Lin et al. (2024), Section 3.2; candidates as in llm-compressor and AutoAWQ with `duo_scaling`.
    """
    exponent = far_exponent(weights)
    dense = [shifted(weight.float(), -exponent) for weight in weights]
    dead = mean_abs == 0
    strength = shifted(mean_abs.float(), -far_exponent([mean_abs])).clamp(min=torch.finfo(torch.float32).tiny)
    relative = _relative_weights(dense, grid)
    none = torch.ones_like(strength)
    unscaled = _loss(dense, hessian, none, grid)
    best = FoundScales(none, 0.0, unscaled, unscaled)
    for step in range(STEPS - 1):
        power = step / (STEPS - 2)
        scales = strength.pow(power) / (relative.pow(1 - power) + _SMALLEST)
        scales = scales.clamp(min=_SMALLEST)
        live = scales[~dead]
        if not len(live):
            break
        scales = realize(torch.where(dead, none, scales / (live.max() * live.min()).sqrt()))
        loss = _loss(dense, hessian, scales, grid)
        if loss < best.loss:
            best = FoundScales(scales, power, loss, unscaled)
    return best


def awq_block(work: BlockWork) -> list[MatrixReport]:
    """Quantize every matrix, [out, in], of a block with `quantize_block`, in place.

    The producers that take scales, [in], change too.
    """
    assert isinstance(work.step, Quantize)
    assert work.hidden is not None
    if not work.groups:
        return []
    inputs = []
    for group in work.groups:
        found = group.statistic
        assert found is not None
        assert found.sum_abs is not None
        names, weights = zip(*group.matrices, strict=True)
        alone = all(layer_of(work.block, name) is not None for name in names)
        inputs.append(Inputs(names, weights, found.hessian, found.sum_abs / found.tokens, alone))
    # The last batch has the shortest windows.
    last = len(work.batches) - 1
    grid = grid_of(work.step, work.groups[0].matrices[0].weight.dtype)
    done = quantize_block(work.block, inputs, grid, work.hidden(last), work.calls[last], where=work.where)
    reports = []
    for group in work.groups:
        assert group.statistic is not None
        dead = int((group.statistic.sum_squares == 0).sum())
        for matrix in group.matrices:
            rounded = done[matrix.name]
            report = put(matrix, rounded.quantized, work)
            reports.append(report._replace(dead_columns=dead, note=rounded.note, error=rounded.error))
    return reports


@torch.no_grad()
def quantize_block(
    block: nn.Module,
    groups: Sequence[Inputs],
    grid: Grid,
    hidden: torch.Tensor,
    call: Call,
    *,
    clip: bool = False,
    where: str = "a block",
) -> dict[str, Rounded]:
    """Quantize the matrices of a block, and fold their scales into the producers of their inputs.

    Norms and biases that take scales are changed in place. The matrices aren't: the caller writes the returned values.
    First the scaled, unrounded block is compared with the original on `hidden`; if its output differs, no scales are
    folded.

    Args:
        hidden, call: the block's input states for a batch, [B, S, H], and the other arguments.
        clip: also search each group's range.

    Returns each matrix, [out, in], by its name in the block.
    Raises `CompressionError` if a matrix has NaN or infinite values.
    """
    for group in groups:
        for name, weight in zip(group.names, group.weights, strict=True):
            if not bool(torch.isfinite(weight).all()):
                raise RefusedError(f"{where}.{name} has weights that are NaN or infinite")
    reached = {g.names[0]: g for g in groups if g.alone and g.hessian is not None}
    watched = {name: Folding(g.names, g.weights[0].shape[1]) for name, g in reached.items()}
    producers = find_producers(block, watched, hidden, call)
    scales = _search_all(block, reached, producers, grid)
    fold = partial(_fold, groups=reached, producers=producers, scales=scales)
    if producers and not unchanged(block, fold, producers.values(), hidden, call):
        producers, scales = {}, {}
    folded = {
        name: weight.float().clone()
        for group in groups
        for name, weight in zip(group.names, group.weights, strict=True)
    }
    _scale_matrices(folded, reached, producers, scales)
    for name, producer in producers.items():
        if producer.name in folded:
            _divide_bias(block, producer, scales[name])
        else:
            divide(block, producer, scales[name])
    done: dict[str, Rounded] = {}
    for group in groups:
        mine = scales.get(group.names[0])
        note = ""
        if group.hessian is None:
            note = UNREACHED
        elif mine is None:
            note = NO_PRODUCER if group.alone else NOT_ALONE
        for name in group.names:
            hessian = group.hessian
            if hessian is not None and mine is not None:
                hessian = hessian / mine[:, None] / mine
            quantized = round_to_nearest(folded[name], grid, hessian=hessian if clip else None)
            error = None if hessian is None else layer_error(quantized.values(), folded[name], hessian)
            done[name] = Rounded(quantized, mine, error, note)
    return done


def _search_all(
    block: nn.Module, groups: Mapping[str, Inputs], producers: Mapping[str, Producer], grid: Grid
) -> dict[str, torch.Tensor]:
    found = {}
    for name, producer in producers.items():
        group = groups[name]
        assert group.hessian is not None
        assert group.mean_abs is not None
        search = search_scales(
            group.weights, group.hessian, group.mean_abs, grid, realize=partial(realize, block, producer)
        )
        found[name] = search.scales
    return found


def _fold(
    block: nn.Module,
    groups: Mapping[str, Inputs],
    producers: Mapping[str, Producer],
    scales: Mapping[str, torch.Tensor],
) -> None:
    """Fold scales into a block's matrices and their producers, in place. scales: by group name, [in] each."""
    for name, mine in scales.items():
        for matrix in groups[name].names:
            weight_of(block, matrix).mul_(mine)
        divide(block, producers[name], mine)


def _scale_matrices(
    weights: Mapping[str, torch.Tensor],
    groups: Mapping[str, Inputs],
    producers: Mapping[str, Producer],
    scales: Mapping[str, torch.Tensor],
) -> None:
    """Fold scales into float32 copies of the matrices, in place. weights: by name, [out, in] each."""
    for name, mine in scales.items():
        for matrix in groups[name].names:
            weights[matrix].mul_(mine)
        producer = producers[name]
        if producer.name in weights:
            weights[producer.name][producer.first : producer.first + len(mine)].div_(mine[:, None])


def _divide_bias(block: nn.Module, producer: Producer, scales: torch.Tensor) -> None:
    bias = getattr(block.get_submodule(producer.name), "bias", None)
    if bias is not None:
        part = bias.data[producer.first : producer.first + len(scales)]
        part.copy_(part.float() / scales)


def _relative_weights(weights: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    """Return the mean over all rows of |w| / the largest |w| of its group, [in]. weights: [out, in] each."""
    total = torch.zeros(weights[0].shape[1], device=weights[0].device)
    for weight in weights:
        grouped = weight.abs().reshape(len(weight), -1, grid.width(weight.shape[1]))
        total += (grouped / (grouped.amax(dim=2, keepdim=True) + 1e-6)).flatten(1).sum(dim=0)
    return total / sum(map(len, weights))


def _loss(weights: Sequence[torch.Tensor], hessian: torch.Tensor, scales: torch.Tensor, grid: Grid) -> float:
    loss = 0.0
    for weight in weights:
        errors = round_to_nearest(weight * scales, grid).values().float().div_(scales).sub_(weight)
        loss += float(torch.linalg.vecdot(errors @ hessian, errors).sum(dtype=torch.float64))
    return loss


METHOD = Method(StatisticNeeds(hessian=True, sums=True), awq_block, round_unreached, runs_block=True)
