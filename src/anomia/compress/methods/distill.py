"""Distillation: gradient steps on the kept weights of the whole model, towards base's output probabilities.

Least squares and training per block bring each block's outputs close to base's, and some of what remains adds up from
block to block. Here the loss is that of the whole model: KL(base ‖ compressed) at the positions that predict answers
(knowledge distillation, Hinton et al. 2015; for pruned weights Kurtić et al. 2023, arXiv 2310.06927).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.catalogue import CATALOGUE
from anomia.compress.methods.base import Updater, WholeWork
from anomia.compress.methods.guided import check_room
from anomia.compress.methods.train import root_mean_square
from anomia.compress.methods.whole import backward, held_out, mean_loss, not_finite, parameters_of
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Update

RATE = 2e-3
"""The largest step of Adam, in units of the root mean square of a matrix's kept weights."""
BATCH_TOKENS = 1024
"""Tokens of one gradient step: few, since the text is short and every step is small."""
USELESS = "distillation lowered no divergence on the batches it wasn't trained on: as before it"
_WARM = 0.05
_LONGEST = 1.0


def check_distillation(decoder: DecoderBlocks) -> None:
    """Refuse, before any work, blocks for whose training there is not enough memory."""
    weights = sum(parameter.numel() for parameter in parameters_of(decoder).values())
    device = next(decoder.modules[0].parameters()).device
    kept = 4 * CATALOGUE["distill"].kept * weights
    check_room(kept, device, "distillation keeps weights, gradients and two moments in float32")


def distill(work: WholeWork, update: Update) -> str:
    """Train the kept weights of all blocks in place; zeros stay zero, and only matrices that a step changes move.

    The loss is that of `whole.backward`. Adam takes one step per batch of windows, after a gradient whose norm is cut
    at 1; the rate rises over the first steps and then falls linearly to zero. The weights of the epoch with the least
    loss on the held-out batches stay, those before the first epoch included.

    Returns a note for all matrices, empty if training changed them.
    Raises `CompressionError` for outputs or gradients that are NaN or infinite.
    """
    distilled = _Distilled(work)
    lowest, best = distilled.held_out(), None
    for _ in distilled.epochs(update.option("epochs")):
        loss = distilled.held_out()
        if loss < lowest:
            lowest, best = loss, distilled.copies()
    if best is None:
        return USELESS
    distilled.store(best)
    return ""


class _Distilled:
    """The matrices of all blocks as float32 copies that gradients move, with the batches to train and to judge on."""

    def __init__(self, work: WholeWork) -> None:
        self._work = work
        self._parameters = parameters_of(work.decoder)
        self._masks = {name: parameter != 0 for name, parameter in self._parameters.items()}
        self._weights = {
            name: parameter.detach().float().clone() for name, parameter in self._parameters.items()
        }
        self._seen, self._held = held_out(work.batches)

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
            random.Random(f"distill {epoch}").shuffle(order)
            for number in order:
                share = min((done + 1) / max(1.0, _WARM * total), 1 - done / total)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * share
                self._step(number, optimizer)
                done += 1
                self._work.progress(done, total)
            yield epoch

    def _step(self, number: int, optimizer: torch.optim.Optimizer) -> None:
        for weight in self._weights.values():
            weight.requires_grad_(True)
        backward(self._work, number, self._as_stored(), "distill")
        for name, weight in self._weights.items():
            weight.requires_grad_(False)
            if weight.grad is not None:
                weight.grad.mul_(self._masks[name])
        if not math.isfinite(float(nn.utils.clip_grad_norm_(list(self._weights.values()), _LONGEST))):
            raise not_finite(self._work, "distill")
        optimizer.step()
        optimizer.zero_grad()

    def held_out(self) -> float:
        """Return the mean loss per position of the held-out batches, in nats."""
        return mean_loss(self._work, self._held, self._as_stored())

    def _as_stored(self) -> dict[str, torch.Tensor]:
        """The weights in the model's type, by parameter."""
        with torch.enable_grad():
            return {name: weight.to(self._parameters[name].dtype) for name, weight in self._weights.items()}

    def copies(self) -> dict[str, torch.Tensor]:
        """Return copies of the weights, by parameter."""
        return {name: weight.clone() for name, weight in self._weights.items()}

    def store(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Write weights into the model, by parameter; zeros stay."""
        for name, parameter in self._parameters.items():
            parameter.data.copy_(weights[name] * self._masks[name])


UPDATER = Updater(StatisticNeeds(), whole=distill, room=check_distillation, batch_tokens=BATCH_TOKENS)
