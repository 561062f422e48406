"""Pairs of tiny models that differ in some of their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from ..compress.conftest import tiny_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def damaged(
    model: Any, *, size: float = 0.02, seed: int = 1, where: Callable[[str], bool] = lambda name: True
) -> Any:
    """A copy of a model with noise on the parameters whose name `where` accepts, in parts of each one's spread."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in other.named_parameters():
        if where(name):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            spread = float(parameter.data.std()) if parameter.numel() > 1 else 0.0
            parameter.data += (size * max(spread, 0.1) * noise).to(parameter.dtype)
    return other


def pair_of(
    family: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any
) -> tuple[Any, Any]:
    """A tiny model and a slightly damaged copy, every parameter included."""
    base = tiny_model(family, seed=seed).to(dtype)
    return base, damaged(base, **changes)
