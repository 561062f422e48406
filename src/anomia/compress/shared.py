"""Parameters that several blocks of a model share; they are compressed with the first of these blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from anomia.errors import RefusedError

# Block attribute: names of the parameters shared with an earlier block (Zamba's attention).
_SHARED = "_anomia_shared"


def mark_shared(blocks: Sequence[nn.Module]) -> None:
    """Note in each block which of its parameters an earlier block has.

    Raises `CompressionError` for a block that is in the list twice: it would share all of them with itself, and stay dense.
    """
    if len(set(map(id, blocks))) < len(blocks):
        raise RefusedError(
            f"the model has the same block ({type(blocks[0]).__name__}) several times in its list of blocks, so what it "
            "would lose can't be counted; make a copy of the block for each place"
        )
    seen: set[int] = set()
    for block in blocks:
        mine = dict(block.named_parameters(remove_duplicate=False))
        block.__dict__[_SHARED] = {name for name, parameter in mine.items() if id(parameter) in seen}
        seen |= {id(parameter) for parameter in mine.values()}


def shared_names(block: nn.Module) -> set[str]:
    """Return the names of a block's parameters that an earlier block has."""
    names: set[str] = block.__dict__.get(_SHARED, set())
    return names


def shares_matrices(block: nn.Module) -> bool:
    """Whether a block shares matrices with an earlier block."""
    return any(block.get_parameter(name).dim() >= 2 for name in shared_names(block))
