"""The type of a method: the statistics that it reads, and its functions for one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch, Windows
from anomia.compress.calls import Call
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.guided import Guidance, Snapshot
from anomia.compress.options import BATCH_TOKENS
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import SharedInput, StatisticNeeds
from anomia.compress.steps import Prune, Quantize, Target, Update
from anomia.compress.visit import Beside


@dataclass(slots=True)
class BlockWork:
    """One block while a method works on it; its matrices are changed in place.

    block: the module. where: its path in the model.
    groups: matrices that share an input, with its statistic; without matrices that no calibration token reached.
    step: the requested step. target: for pruning, the sparsity or pattern of this block.
    hidden(i): the block's input states in batch i, [B, S, H]. calls: one per batch. Both are empty if the method needs
    no text.
    packed: codes to store in place of a matrix, by its name in the block; filled in by quantizing methods.
    reordered: notes on matrices whose inputs were reordered before the method ran, by name.
    unscored: why matrices have a gradient of zero, by name, if the method reads gradients.
    beside: the block before any change, on the states of the unchanged model, for updates that want it.
    guide: what the final loss says of matrices of this block that share an input, by their names; None if no update
    asks for it.
    """

    block: nn.Module
    where: str
    groups: Sequence[SharedInput]
    step: Prune | Quantize
    target: Target | None = None
    batches: Sequence[Batch] = ()
    hidden: Callable[[int], torch.Tensor] | None = None
    calls: Sequence[Call] = ()
    packed: dict[str, Any] = field(default_factory=dict)
    reordered: dict[str, str] = field(default_factory=dict)
    unscored: Mapping[str, str] = field(default_factory=dict)
    beside: Beside | None = None
    guide: Callable[[Sequence[str]], Guidance] | None = None


@dataclass(slots=True)
class WholeWork:
    """A whole pruned model in memory, changed in place by an update that follows all blocks.

    base: the blocks' values before pruning. batches: the calibration text in batches of `Updater.batch_tokens`.
    step: the requested step. progress: called with (steps done, all steps).
    """

    model: nn.Module
    decoder: DecoderBlocks
    base: Snapshot
    batches: Sequence[Batch]
    step: Prune
    progress: Callable[[int, int], None] = lambda _, __: None


WholeGradients = Callable[
    [nn.Module, DecoderBlocks, Windows, Callable[[nn.Module, str], Sequence[WeightMatrix]]],
    tuple[list[dict[str, torch.Tensor]], list[dict[str, str]]],
]


class Method(NamedTuple):
    """A pruning or quantization method.

    needs: the statistics that it reads, `None` for none.
    run: changes a block in place and reports each of its matrices, by name in the block.
    unreached: does the same for a matrix that no calibration token reached.
    choices: the decisions of a reconstruction that its paper leaves open.
    whole_gradients: for a method that reads gradients of the language-modelling loss, which require the whole model in
    memory. Takes the model, its blocks, the windows, and what lists a block's matrices. Returns the gradients by block
    and matrix, [out, in] each, and why one is zero.
    prepare: changes a block without changing its output, before the dense weights are copied.
    runs_block: whether it runs blocks by themselves, which some can't be.
    given_zeros: whether the zeros come from elsewhere, so that none are asked for.
    """

    needs: StatisticNeeds | None
    run: Callable[[BlockWork], list[MatrixReport]]
    unreached: Callable[[WeightMatrix, BlockWork], MatrixReport]
    choices: tuple[str, ...] = ()
    whole_gradients: WholeGradients | None = None
    prepare: Callable[[BlockWork], None] | None = None
    runs_block: bool = False
    given_zeros: bool = False


class Updater(NamedTuple):
    """A method that changes weights after pruning, block by block or all blocks at once; one of the two is given.

    run: gets the pruned block, its dense weights by name in the block (float32, [out, in] each), and the requested
    update. It changes the block in place, keeps the number of zeros in each matrix, and reports every matrix of its
    groups.
    beside: whether it reads the unchanged model's states; then it computes errors against those.
    whole: gets the whole pruned model once its last block is finished, and the requested update; changes the blocks in
    place, keeps the zeros, and returns a note for all matrices, or none.
    room: refuses, before any block is changed, what doesn't fit into memory. batch_tokens: tokens of its batches.
    """

    needs: StatisticNeeds
    run: Callable[[BlockWork, Mapping[str, torch.Tensor], Update], list[MatrixReport]] | None = None
    beside: bool = False
    whole: Callable[[WholeWork, Update], str] | None = None
    room: Callable[[DecoderBlocks], None] = lambda _: None
    batch_tokens: int = BATCH_TOKENS
