"""Whether a written model holds the zeros that were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from anomia.compress.blocks import DecoderBlocks, all_matrices
from anomia.compress.prune import count_zeros
from anomia.compress.report import MatrixReport
from anomia.errors import CompressionError

PRUNE_AGAIN = "the disk may be failing; remove the folder and prune again"


def check_zeros(out: Path, decoder: DecoderBlocks, matrices: Sequence[MatrixReport]) -> None:
    """Compare all blocks of a model that was read back with the report of its pruning."""
    expected = {matrix.name: matrix for matrix in matrices}
    for index, block in enumerate(decoder.modules):
        check_block(out, block, f"{decoder.name}.{index}", expected)


def check_block(out: Path, block: nn.Module, where: str, expected: Mapping[str, MatrixReport]) -> None:
    """Compare one block that was read back with the report.

    expected: what was pruned, by full name. Raises `CompressionError` that names the first matrix that differs.
    """
    for matrix in all_matrices(block, where):
        name = f"{where}.{matrix.name}"
        zeros = count_zeros(matrix.weight)
        if name not in expected or zeros != expected[name].zeros:
            made = expected[name].zeros if name in expected else 0
            raise CompressionError(f"{out}: {name} has {zeros} zeros in its file, not {made}; {PRUNE_AGAIN}")
