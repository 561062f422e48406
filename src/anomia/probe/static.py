"""Decode steps with static tensor shapes, which a GPU can replay as captured CUDA graphs.

A decode step of a large model consists of some thousand small operations, and launching each takes as long as
running it. A captured step is launched at once, but its tensors must keep their shapes and addresses. So the
cache, the masks and the inputs are allocated once and written in place, the number of leaves is padded to one of a
few counts, the number of attended slots is rounded up, and the leaves of a row have a layout as wide as the row can
ever get. Padding doesn't change results: padding leaves write to a cache row of their own, which no leaf reads.

The same steps run on any device, one operation at a time if they can't be captured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from anomia.probe.attention import AttentionInputs, leaf_mask, padded_attention, planned
from anomia.probe.cache import TreeCache
from anomia.probe.generate import Frontier, Node, TreeDecodeState, numbered
from anomia.probe.head import Head
from anomia.probe.transfer import to_device

_log = logging.getLogger(__name__)

FEW_LEAVES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""The number of leaves is padded to one of these, and beyond them to a multiple of the last."""
SLOTS = 256
"""The length of cache rows and the number of attended slots are multiples of this."""


class StepSizes(NamedTuple):
    """The sizes that determine the tensor shapes of a step.

    leaves: including padding. length: slots that are attended to. rows: growing rows of the cache; the first `wide`
    of them have at most `most` leaves each, the others at most `fewer`.
    """

    leaves: int
    length: int
    rows: int
    wide: int
    most: int
    fewer: int

    def groups(self) -> Iterator[tuple[slice, slice, int]]:
        """Yields cache rows, their places in the padded layout, and the places per row."""
        middle = self.wide * self.most
        if self.wide:
            yield slice(0, self.wide), slice(0, middle), self.most
        if self.rows > self.wide:
            yield slice(self.wide, self.rows), slice(middle, self.places), self.fewer

    @property
    def places(self) -> int:
        """Places in the padded layout; one more after them takes the padding leaves."""
        return self.wide * self.most + (self.rows - self.wide) * self.fewer

    def place(self, row: int, number: int) -> int:
        """The place of leaf `number` of a row."""
        if row < self.wide:
            return row * self.most + number
        return self.wide * self.most + (row - self.wide) * self.fewer + number


@dataclass(frozen=True)
class StaticLayer:
    """A pass over one layer of leaves in a padded layout; an `attention.AttentionPlan`.

    places: [W], the place of each leaf in the layout. visible, ages: [W, L], as in `attention.LeafGroup`.
    """

    homes: tuple[Tensor, Tensor]
    shape: StepSizes
    places: Tensor
    visible: Tensor
    ages: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(self, inputs: AttentionInputs) -> Tensor:
        """Returns the attention output [W, heads, D]; see `AttentionPlan.attend`."""
        query = inputs.query
        padded = query.new_zeros(self.shape.places + 1, *query.shape[1:])
        padded[self.places] = query
        if inputs.window not in self.masks:
            self.masks[inputs.window] = leaf_mask(
                self.visible, self.ages, self.places, len(padded), inputs.window, query.dtype
            )
        mask = self.masks[inputs.window]  # [places + 1, L]
        outputs = [
            padded_attention(inputs, padded[places], rows, mask[places].view(-1, width, self.shape.length))
            for rows, places, width in self.shape.groups()
        ]
        outputs.append(torch.zeros_like(outputs[0][:1]))
        return torch.cat(outputs)[self.places]


class _Captured(NamedTuple):
    """A step that can be replayed, and the hidden states [W, H] that it writes."""

    graph: Any
    states: Tensor


class StaticSteps:
    """Memory for decode steps of fixed shapes, and the steps captured on it.

    The cache has one extra row for the keys and values of padding leaves.
    """

    def __init__(self, *, rows: int, capacity: int, leaves: int, device: torch.device) -> None:
        self.rows = rows
        self.capacity = rounded(capacity)
        self.leaves = filled_up(leaves)
        self.cache = TreeCache(rows + 1, self.capacity)
        self._depths = torch.zeros(rows + 1, self.capacity, dtype=torch.long, device=device)
        # Two buffers, so that running a step twice, as capturing does, has the same effect as running it once.
        self._before, self._after = (
            torch.zeros(self.leaves, self.capacity, dtype=torch.bool, device=device) for _ in range(2)
        )
        self._inputs = torch.zeros(6, self.leaves, dtype=torch.long, device=device)
        self._graphs: dict[StepSizes, _Captured] = {}
        self._pool: Any = None
        self._captures = device.type == "cuda"
        self._wide, self._most, self._fewer = 0, 1, 1

    def fits(self, *, rows: int, capacity: int, leaves: int) -> bool:
        """Whether a batch of this size fits."""
        return rows <= self.rows and capacity <= self.capacity and leaves <= self.leaves

    def clear(self) -> None:
        """Zeroes the cache for another batch: a NaN in a masked slot would still spread."""
        for keys, values in self.cache.stored.values():
            keys.zero_()
            values.zero_()

    def begin(self, tree_state: TreeDecodeState, layer: Frontier, *, wide: int, paths: Sequence[int]) -> None:
        """Starts from the ends of the prompts; `paths` [rows] is the most leaves that each row can have.

        The first `wide` rows are those with beams or samples.
        """
        growing = len(tree_state.free)
        self._wide, self._most = wide, max(paths[:wide], default=1)
        self._fewer = max(paths[wide:], default=1)
        self._depths[:growing] = tree_state.depths
        tree_state.depths = self._depths
        self._after[: len(layer.nodes)] = layer.visible

    def append(
        self, head: Head, tree_state: TreeDecodeState, before: Frontier, leaves: list[Node]
    ) -> Frontier:
        """Like `generate.append`, with N leaves padded to the next prepared count W; returns their states [N, H]."""
        for leaf in leaves:
            tree_state.occupy(leaf)
        shape = StepSizes(
            leaves=filled_up(len(leaves)),
            length=min(self.capacity, rounded(max(tree_state.used))),
            rows=len(tree_state.free),
            wide=self._wide,
            most=self._most,
            fewer=self._fewer,
        )
        parents = {node: index for index, node in enumerate(before.nodes)}
        numbers = numbered([leaf.row for leaf in leaves])
        columns = [
            (leaf.row, leaf.slot, leaf.depth, leaf.token, parents[leaf.parent], shape.place(leaf.row, number))
            for leaf, number in zip(leaves, numbers, strict=True)
            if leaf.parent is not None
        ]
        filling = [(self.rows, 0, 0, 0, 0, shape.places)] * (shape.leaves - len(columns))
        device = self._inputs.device
        self._inputs[:, : shape.leaves] = to_device(list(zip(*columns, *filling, strict=True)), device)
        self._before.copy_(self._after)
        return Frontier(leaves, self._run(head, shape)[: len(leaves)], self._after[: len(leaves)])

    def _step(self, head: Head, shape: StepSizes) -> Tensor:
        """One step on the input buffers; returns hidden states [W, H]. Nothing is read back to the host."""
        rows, slots, depths, tokens, parents, places = self._inputs[:, : shape.leaves].unbind(0)
        visible = self._before[parents].scatter_(1, slots[:, None], True)
        self._after[: shape.leaves] = visible
        self._depths[rows, slots] = depths
        ages = depths[:, None] - self._depths[:, : shape.length][rows]
        plan = StaticLayer((rows, slots), shape, places, visible[:, : shape.length], ages)
        with planned(plan):
            return head.decode(input_ids=tokens[None], position_ids=depths[None], past_key_values=self.cache)

    def _run(self, head: Head, shape: StepSizes) -> Tensor:
        """Returns the states [W, H] of a step. The first step of a shape runs eagerly and is then captured."""
        captured = self._graphs.get(shape)
        if captured is not None:
            captured.graph.replay()
            return captured.states
        states = self._step(head, shape)
        if self._captures:
            try:
                self._graphs[shape] = self._capture(head, shape)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as failure:
                # Anything in a model that can't be captured (a value read back, a lazily loaded library) ends here.
                self._captures = False
                _log.warning(
                    "decode steps of this model can't be captured as CUDA graphs and run one operation at a "
                    "time: %s",
                    str(failure).partition("\n")[0],
                )
        return states

    def _capture(self, head: Head, shape: StepSizes) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            states = self._step(head, shape)
        return _Captured(graph, states)


def filled_up(leaves: int) -> int:
    """The padded number of leaves of a step."""
    largest = FEW_LEAVES[-1]
    return next((count for count in FEW_LEAVES if count >= leaves), math.ceil(leaves / largest) * largest)


def rounded(slots: int) -> int:
    """The number of slots rounded up to a multiple of SLOTS."""
    return math.ceil(slots / SLOTS) * SLOTS


class _Kept(NamedTuple):
    """Steps that are reused from batch to batch, and the addresses of the weights when they were captured."""

    steps: StaticSteps
    weights: tuple[int, ...]


_kept: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()


def steps_for(model: Any, *, rows: int, capacity: int, leaves: int, device: torch.device) -> StaticSteps:
    """Cleared steps with room for a batch: the model's last ones if they are large enough.

    A captured step reads weights from fixed addresses, so the steps are dropped if weights have moved.
    """
    weights = tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers()))
    kept = _kept.pop(model, None)
    if kept and kept.weights == weights and kept.steps.fits(rows=rows, capacity=capacity, leaves=leaves):
        kept.steps.clear()
        _kept[model] = kept
        return kept.steps
    del kept  # before the new cache is taken
    steps = StaticSteps(rows=rows, capacity=capacity, leaves=leaves, device=device)
    _kept[model] = _Kept(steps, weights)
    return steps


def forget_steps(model: Any) -> None:
    """Frees the memory of a model's steps."""
    _kept.pop(model, None)
