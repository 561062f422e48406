"""Check that a written model is the intended one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from anomia.compress.matrices import all_matrices
from anomia.compress.methods.zeros import count_zeros
from anomia.compress.report import MatrixReport
from anomia.compress.written import value_hash
from anomia.errors import CompressionError
from anomia.models.headers import StoredTensor
from anomia.models.load import load_model

PRUNE_AGAIN = "the disk may be failing; remove the folder and run the command again"


def check_saved(out: Path, model: nn.Module) -> None:
    """Load a written model and compare every tensor with the one in memory.

    Raises `CompressionError` with the first tensor that differs.
    """
    expected = model.state_dict()
    found = load_model(str(out), device="cpu").model.state_dict()
    for name in sorted(expected.keys() | found.keys()):
        mine, theirs = expected.get(name), found.get(name)
        if mine is None or theirs is None or not torch.equal(mine.cpu(), theirs):
            raise CompressionError(f"{out}: the tensor {name} is not what was written; {PRUNE_AGAIN}")


def check_shapes(
    out: Path, expected: Mapping[str, StoredTensor], written: Mapping[str, StoredTensor]
) -> None:
    """Check that every tensor is written in its shape. Raises `CompressionError` with the first that isn't."""
    for name, info in expected.items():
        found = written.get(name)
        if found is None or found.shape != info.shape:
            raise CompressionError(f"{out}: the tensor {name} is not what was written; {PRUNE_AGAIN}")


def check_values(out: Path, stored: Mapping[str, torch.Tensor], meant: Mapping[str, str]) -> None:
    """Compare tensors, as read from the files, with the hashes of what was meant, by stored name.

    Raises `CompressionError` with the first that differs.
    """
    for name, value in stored.items():
        if value_hash(value) != meant.get(name):
            raise CompressionError(f"{out}: the tensor {name} is not what was written; {PRUNE_AGAIN}")


def check_block(out: Path, block: nn.Module, where: str, expected: Mapping[str, MatrixReport]) -> None:
    """Compare one block, as read from the file, with the report.

    expected: reports by full name. Raises `CompressionError` with the first matrix that differs.
    """
    for matrix in all_matrices(block, where):
        name = f"{where}.{matrix.name}"
        zeros = count_zeros(matrix.weight)
        if name not in expected or zeros != expected[name].zeros:
            made = expected[name].zeros if name in expected else 0
            raise CompressionError(f"{out}: {name} has {zeros} zeros in its file, not {made}; {PRUNE_AGAIN}")
