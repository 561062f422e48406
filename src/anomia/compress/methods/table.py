"""From the name of a method to what does its work."""

from __future__ import annotations

from typing import TypeGuard

from anomia.compress.catalogue import CATALOGUE
from anomia.compress.methods.base import Method, Updater
from anomia.compress.reshape.base import Reshaper
from anomia.compress.steps import Prune, Quantize, Step


def goes_by_block(step: Step) -> TypeGuard[Prune | Quantize]:
    """Whether a step goes through a model block by block; llm.int8 replaces layers instead."""
    return isinstance(step, Prune | Quantize) and bool(CATALOGUE[step.method].code)


def method_of(name: str) -> Method:
    """A method that goes through a model block by block, by its name."""
    method: Method = CATALOGUE[name].load()
    return method


def updater_of(name: str) -> Updater:
    """A way to change weights after pruning, by its name."""
    updater: Updater = CATALOGUE[name].load()
    return updater


def reshaper_of(name: str) -> Reshaper:
    """A way to drop parts, by its name."""
    reshaper: Reshaper = CATALOGUE[name].load()
    return reshaper
