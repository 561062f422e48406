"""What a method is: the statistics it reads, and what it does with one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.blocks import Call, WeightMatrix
from anomia.compress.calibration import Batch
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import Group, Needs
from anomia.compress.steps import Prune, Quantize, Target, Update


@dataclass(slots=True)
class BlockWork:
    """One block while a method works on it; its matrices are changed in place.

    block: the module. where: its path in the model. groups: matrices that share an input and what is known of it;
    those that no calibration token reached aren't among them. step: what was asked for. target: of pruning, for this
    block. hidden(i): the states that enter the block in batch i, [B, S, H]; calls: one a batch (both empty where the
    method needs no text).
    packed: what is stored in a matrix's place, by its name in the block; quantizing methods fill it in.
    reordered: a note on each matrix whose inputs got another order before the method ran, by its name.
    """

    block: nn.Module
    where: str
    groups: Sequence[Group]
    step: Prune | Quantize
    target: Target | None = None
    batches: Sequence[Batch] = ()
    hidden: Callable[[int], torch.Tensor] | None = None
    calls: Sequence[Call] = ()
    packed: dict[str, Any] = field(default_factory=dict)
    reordered: dict[str, str] = field(default_factory=dict)


class Method(NamedTuple):
    """A way to prune or quantize.

    needs: the statistics that it reads, `None` for none. run: changes a block in place and reports each of its
    matrices, by their names in the block. unreached: does the same for a matrix that no calibration token reached.
    choices: what a reconstruction decided by itself. whole_gradients: whether groups carry the gradients of the
    language-modelling loss, for which the whole model is held. prepare: changes a block so that it computes the same,
    before its dense weights are noted.
    """

    needs: Needs | None
    run: Callable[[BlockWork], list[MatrixReport]]
    unreached: Callable[[WeightMatrix, BlockWork], MatrixReport]
    choices: tuple[str, ...] = ()
    whole_gradients: bool = False
    prepare: Callable[[BlockWork], None] | None = None


class Updater(NamedTuple):
    """A way to change weights after pruning.

    run: gets the block, pruned, the weights that it had before by name in the block (float32, [out, in]), and the
    update that was asked for; it changes the block in place and reports every matrix of its groups. As many weights
    stay zero as before, in each matrix.
    """

    needs: Needs
    run: Callable[[BlockWork, Mapping[str, torch.Tensor], Update], list[MatrixReport]]
