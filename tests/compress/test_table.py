"""Every name that the grammar knows has a method behind it, and no method is without a name."""

from __future__ import annotations

from anomia.compress.methods.table import METHODS, UPDATERS
from anomia.compress.reshape.table import RESHAPERS
from anomia.compress.steps import PRUNING_METHODS, QUANTIZATION_METHODS, RESHAPING_METHODS, UPDATES


def test_names_and_methods_agree() -> None:
    assert METHODS.keys() | {"llm.int8"} == PRUNING_METHODS.keys() | QUANTIZATION_METHODS.keys()
    assert UPDATERS.keys() == UPDATES.keys()
    assert RESHAPERS.keys() == RESHAPING_METHODS.keys()
