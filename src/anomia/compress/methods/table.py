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


def without_running(step: Prune | Quantize) -> list[str]:
    """The calibrated methods of a step's kind that don't run blocks by themselves, by name."""
    kind = CATALOGUE[step.method].kind
    entries = [each for each in CATALOGUE.values() if each.kind is kind and each.code and each.calibrated]
    return [each.name for each in entries if not method_of(each.name).runs_block]


def updater_of(name: str) -> Updater:
    """Return a method that changes weights after pruning, by name."""
    updater: Updater = CATALOGUE[name].load()
    return updater


def reshaper_of(name: str) -> Reshaper:
    """Return a method that drops parts of a model, by name."""
    reshaper: Reshaper = CATALOGUE[name].load()
    return reshaper
