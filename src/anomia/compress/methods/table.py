"""Look up methods by name."""

from __future__ import annotations

from typing import TypeGuard

from anomia.compress.catalogue import CATALOGUE
from anomia.compress.methods.base import Method, Updater
from anomia.compress.reshape.base import Reshaper
from anomia.compress.steps import Prune, Quantize, Step


def goes_by_block(step: Step) -> TypeGuard[Prune | Quantize]:
    """Whether a step works block by block; llm.int8 replaces layers instead."""
    return isinstance(step, Prune | Quantize) and bool(CATALOGUE[step.method].code)


def method_of(name: str) -> Method:
    """Return a method that works block by block, by name."""
    method: Method = CATALOGUE[name].load()
    return method


def updater_of(name: str) -> Updater:
    """Return a method that changes weights after pruning, by name."""
    updater: Updater = CATALOGUE[name].load()
    return updater


def reshaper_of(name: str) -> Reshaper:
    """Return a method that drops parts of a model, by name."""
    reshaper: Reshaper = CATALOGUE[name].load()
    return reshaper
