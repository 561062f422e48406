"""How much the inputs of a layer fluctuate over the calibration text (WIFV, An et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.calibration import Batch
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.axes import NAME, Axis
from anomia.compress.reshape.base import Walk
from anomia.compress.reshape.subject import Subject
from anomia.compress.visit import AtBlock
from anomia.errors import RefusedError


class Fluctuation(NamedTuple):
    """Statistics of a consumer's inputs over the real tokens, [in] float64. score: input variance · ‖W[:, in]‖²."""

    mean: torch.Tensor
    score: torch.Tensor


def measure_fluctuations(
    subject: Subject, axes: Sequence[Axis], walk: Walk
) -> list[list[Fluctuation | None]]:
    """Compute the statistics of every consumer, [in] each, by axis and block, in one walk over the dense model.

    Raises `CompressionError` if a statistic is NaN or infinite, or if there are fewer than two tokens.
    """

    def look(at: AtBlock) -> dict[str, torch.Tensor]:
        moments = {name: _Moments() for axis in axes if (name := axis.consumers[at.index])}
        with _Reading(at.block, moments) as current:
            for one in at.passes():
                current.append(one.batch)
                rows = rebuild.real_rows(one.run(), one.batch)
                # A norm squares the states in float32: if that overflows, later states no longer describe this model.
                rebuild.finite(
                    torch.linalg.vecdot(rows, rows), NAME, f"squares of the states that leave {at.where}"
                )
        found = {n: m.finish(at.block.get_submodule(n), f"{at.where}.{n}") for n, m in moments.items()}
        return {f"{field} {n}": value for n, f in found.items() for field, value in f._asdict().items()}

    about = " ".join(sorted({name for axis in axes for name in axis.consumers if name}))
    measured = subject.measure(walk, look, about=about)
    return [
        [
            None if name is None else Fluctuation(one[f"mean {name}"], one[f"score {name}"])
            for name, one in zip(axis.consumers, measured, strict=True)
        ]
        for axis in axes
    ]


class _Moments:
    """Sums of a layer's inputs and of their squares over tokens, [in] float64. `add` takes [tokens, in]."""

    def __init__(self) -> None:
        self.tokens = 0
        self.sum = self.squares = torch.zeros(())

    def add(self, rows: torch.Tensor) -> None:
        values = rows.double()
        self.sum = self.sum + values.sum(dim=0).cpu()
        self.squares = self.squares + values.square().sum(dim=0).cpu()
        self.tokens += len(values)

    def finish(self, module: Any, where: str) -> Fluctuation:
        if self.tokens < 2:
            raise RefusedError(f"{NAME}: {where} saw {self.tokens} calibration tokens; give longer text")
        mean = self.sum / self.tokens
        variance = ((self.squares - self.tokens * mean.square()) / (self.tokens - 1)).clamp(min=0)
        weight = matrix_of(module).double().cpu()
        score = variance * weight.square().sum(dim=0)
        rebuild.finite(self.squares.float(), NAME, where)
        return Fluctuation(mean, rebuild.finite(score, NAME, where))


def matrix_of(module: Any) -> torch.Tensor:
    """Return a layer's weight as [out, in]."""
    weight: torch.Tensor = module.weight.data
    turned: torch.Tensor = weight.T
    return turned if isinstance(module, Conv1D) else weight


class _Reading(ExitStack):
    """Adds the inputs of some layers to their moments; yields a list to which the caller appends the current batch."""

    def __init__(self, block: nn.Module, moments: Mapping[str, _Moments]) -> None:
        super().__init__()
        self._batches: list[Batch] = []
        for name, mine in moments.items():

            def read(_: nn.Module, args: tuple[Any, ...], mine: _Moments = mine) -> None:
                mine.add(rebuild.real_rows(args[0], self._batches[-1]))

            self.callback(block.get_submodule(name).register_forward_pre_hook(read).remove)

    def __enter__(self) -> list[Batch]:  # type: ignore[override]
        return self._batches
