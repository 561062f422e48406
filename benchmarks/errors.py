"""Errors of a compressed model's parts on text, next to its dense model.

Each part gets the input that it has in the dense model, so errors of earlier parts don't count. The first token of a
window is left out: its states can be a thousand times as large as all others.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from anomia.compress.blocks import find_blocks
from anomia.compress.matrices import find_matrices


class Errors(NamedTuple):
    """Means over a model's matrices and blocks.

    layer: ‖(Ŵ−W)X‖²/‖WX‖² of a matrix; None where no matrix has the same inputs and outputs in both models.
    block: ‖f̂(h)−f(h)‖²/‖f(h)−h‖² of a block f with input h; 1 for a block that is gone.
    """

    layer: float | None
    block: float


@torch.no_grad()
def errors_of(
    dense: Any, compressed: Any, rows: Sequence[Sequence[int]], *, kept: Sequence[int] | None, matrices: bool
) -> Errors:
    """Run the dense model on windows of token ids and each compressed part on the dense inputs.

    kept: the dense index of each compressed block; None if all are there. matrices: whether to compare matrices, which
    says nothing if a method moved scales or channels between them.
    """
    blocks, others = find_blocks(dense).modules, find_blocks(compressed).modules
    places = range(len(blocks)) if kept is None else kept
    lost: dict[tuple[int, str], list[float]] = {}

    def add(key: tuple[int, str], new: torch.Tensor, old: torch.Tensor, base: torch.Tensor | None) -> None:
        sums = lost.setdefault(key, [0.0, 0.0])
        new, old = new[:, 1:].double(), old[:, 1:].double()
        sums[0] += float((new - old).square().sum())
        sums[1] += float((old if base is None else old - base[:, 1:].double()).square().sum())

    with ExitStack() as stack:
        for index, other in zip(places, others, strict=True):

            def whole(
                _: Any, args: Any, kwargs: Any, out: Any, index: int = index, other: Any = other
            ) -> None:
                add((index, ""), first(other(*args, **kwargs)), first(out), args[0])

            stack.callback(blocks[index].register_forward_hook(whole, with_kwargs=True).remove)
            for name in names_of(blocks[index]) if matrices else ():
                twin, key = other.get_submodule(name), (index, name)

                def part(_: Any, args: Any, out: Any, key: Any = key, twin: Any = twin) -> None:
                    add(key, twin(args[0]), out, None)

                stack.callback(blocks[index].get_submodule(name).register_forward_hook(part).remove)
        for row in rows:
            dense.base_model(input_ids=torch.tensor([row]), use_cache=False)
    shares = {key: error / size for key, (error, size) in lost.items()}
    gone = [1.0] * (len(blocks) - len(others))
    layers = [share for (_, name), share in shares.items() if name]
    return Errors(
        statistics.fmean(layers) if layers else None,
        statistics.fmean([*(share for (_, name), share in shares.items() if not name), *gone]),
    )


def names_of(block: Any) -> Iterator[str]:
    """The names of a block's weight matrices."""
    return (matrix.name for matrix in find_matrices(block, where=""))


def first(out: Any) -> torch.Tensor:
    """A block's states, which some models return with other values."""
    return out if torch.is_tensor(out) else out[0]


def kept_blocks(folder: Path) -> list[int] | None:
    """The dense index of each block that a compressed folder kept; None if it kept all, or if Anomia didn't write it."""
    if not (folder / "anomia.json").exists():
        return None
    report = json.loads((folder / "anomia.json").read_text())
    for step in (*report["before"], report["compression"]):
        kept = ((step.get("reshaped") or {}).get("details") or {}).get("kept_blocks")
        if kept is not None:
            return list(kept)
    return None
