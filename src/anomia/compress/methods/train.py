"""Training: a few gradient steps on the kept weights of a block, towards base's output of the whole block.

Least squares fits one group of matrices at a time, as if what follows were linear. Training also sees what attention
and activation functions make of them (arXiv 2510.14444, for attention and feed-forward blocks).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from anomia.compress.calibration import Batch
from anomia.compress.calls import Call, run_block
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import BlockWork, Updater
from anomia.compress.methods.repair import check_alone
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Update
from anomia.errors import RefusedError

RATE = 0.01
"""The first step of Adam, in units of the root mean square of a matrix's kept weights."""
HELD_OUT = 8
"""Every eighth batch decides which epoch's weights stay, and isn't trained on."""
_TINY = 1e-8
USELESS = "training lowered no error on the batches it wasn't trained on: as before it"


def train_block(work: BlockWork, dense: Mapping[str, torch.Tensor], update: Update) -> list[MatrixReport]:
    """Train the kept weights of a block in place; zeros stay zero, and only matrices that a step changes move.

    The loss is the mean over tokens of w_t ‖y_t − ŷ_t‖²/‖y_t‖²: y is the output of the unchanged block on base's
    states, ŷ that of the compressed block on the compressed model's, and w_t the token's weight. Adam takes one step
    per batch; the rate falls linearly to zero. The weights of the epoch with the least loss on the held-out batches
    stay, those before the first epoch included.

    dense: not read, [out, in] each.

    Raises `CompressionError` for a block that can't be run by itself, and for a loss that is NaN or infinite.
    """
    del dense
    trained = _Trained(check_alone(work))
    lowest, best = trained.held_out(), None
    for _ in trained.epochs(update.option("epochs")):
        loss = trained.held_out()
        if loss < lowest:
            lowest, best = loss, trained.copies()
    if best is not None:
        trained.store(best)
    note = USELESS if best is None else ""
    return [report_matrix(matrix)._replace(note=note) for group in work.groups for matrix in group.matrices]


class _Runner(nn.Module):
    """A block, run as the model runs it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: torch.Tensor, call: Call) -> torch.Tensor:
        """Return the output states, [B, S, H]. hidden: [B, S, H]."""
        return run_block(self.block, hidden, call)


class _Trained:
    """A block's matrices as float32 copies that gradients move, with the batches to train and to judge on."""

    def __init__(self, work: BlockWork) -> None:
        assert work.hidden is not None
        assert work.beside is not None
        self._work, self._hidden, self._beside = work, work.hidden, work.beside
        self._parameters = holding(work.block, [matrix for group in work.groups for matrix in group.matrices])
        self._masks = {name: parameter != 0 for name, parameter in self._parameters.items()}
        self._weights = {
            name: parameter.detach().float().clone() for name, parameter in self._parameters.items()
        }
        count = len(work.batches)
        # The last of a few batches, too: with a single one, training is judged by what it was trained on.
        self._held = list(range(HELD_OUT - 1, count, HELD_OUT)) or ([count - 1] if count > 1 else [0])
        self._seen = [number for number in range(count) if number not in self._held] or [0]
        self._runner = _Runner(work.block)

    def epochs(self, count: int) -> Iterator[int]:
        """Train epoch after epoch; yields after each."""
        groups = [
            {"params": [weight], "lr": RATE * root_mean_square(weight, self._masks[name])}
            for name, weight in self._weights.items()
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        total, done = count * len(self._seen), 0
        rates = [group["lr"] for group in optimizer.param_groups]
        for epoch in range(count):
            order = list(self._seen)
            random.Random(f"{self._work.where} {epoch}").shuffle(order)
            for number in order:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - done / total)
                self._step(number, optimizer)
                done += 1
            yield epoch

    def _step(self, number: int, optimizer: torch.optim.Optimizer) -> None:
        with torch.enable_grad():
            for weight in self._weights.values():
                weight.requires_grad_(True)
            loss = self._loss(number)
            loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(float(loss)):
            raise RefusedError(
                f"{self._work.where}: the error of its output is NaN or infinite; load the model in a wider type "
                "(--dtype bfloat16 or float32)"
            )
        for name, weight in self._weights.items():
            weight.requires_grad_(False)
            if weight.grad is not None:
                weight.grad.mul_(self._masks[name])
        optimizer.step()
        optimizer.zero_grad()

    def held_out(self) -> float:
        """Return the mean loss of the held-out batches."""
        with torch.no_grad():
            return sum(float(self._loss(number)) for number in self._held) / len(self._held)

    def _loss(self, number: int) -> torch.Tensor:
        """Return the mean over a batch's tokens of w ‖y − ŷ‖²/‖y‖², a scalar."""
        batch = self._work.batches[number]
        with torch.no_grad():
            target = _real(self._beside.run(number), batch)
        state = {
            f"block.{name}": weight.to(self._parameters[name].dtype) for name, weight in self._weights.items()
        }
        found: Any = functional_call(self._runner, state, (self._hidden(number), self._work.calls[number]))
        apart = (target - _real(found, batch)).square().sum(1) / target.square().sum(1).clamp_min(_TINY)
        if batch.weights is None:
            return apart.mean()
        weights = batch.weights if batch.real is None else batch.weights[batch.real]
        weights = weights.to(apart)
        return (apart * weights).sum() / weights.sum()

    def copies(self) -> dict[str, torch.Tensor]:
        """Return copies of the weights, by parameter."""
        return {name: weight.clone() for name, weight in self._weights.items()}

    def store(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Write weights into the block, by parameter; zeros stay."""
        for name, parameter in self._parameters.items():
            parameter.data.copy_(weights[name] * self._masks[name])


def holding(block: nn.Module, matrices: Sequence[WeightMatrix]) -> dict[str, nn.Parameter]:
    """Return the parameters of a block that hold matrices ([out, in] each), by name; experts share one."""
    places = [matrix.weight.data_ptr() for matrix in matrices]
    return {
        name: parameter
        for name, parameter in block.named_parameters()
        if any(0 <= place - parameter.data_ptr() < parameter.nbytes for place in places)
    }


def _real(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the states of tokens that aren't padding, [T, H] float32. states: [B, S, H]."""
    rows = states.reshape(-1, states.shape[-1])
    return (rows if batch.real is None else rows[batch.real.to(rows.device)]).float()


def root_mean_square(weight: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the root mean square of the kept weights. weight, mask: of the same shape, such as [out, in]."""
    kept = weight[mask]
    return float(kept.square().mean().sqrt()) if len(kept) else 0.0


UPDATER = Updater(StatisticNeeds(), train_block, beside=True)
