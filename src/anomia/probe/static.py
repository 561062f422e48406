"""Decode steps whose tensor shapes don't change, so that a GPU can replay them as captured graphs.

A decode step of a large model on a GPU is some thousand small operations, and telling the GPU about each
takes as long as doing it. A captured step is told at once, but only where its tensors keep their shapes and
places. So here the cache, the masks and the inputs are taken once and written in place, leaves are filled up
to one of a few counts, the slots that are attended to are rounded up, and the leaves of a row stand in a
layout that is as wide as the row can ever get. Filling up changes no result: what is filled up sees and is
seen by nothing.

The same steps run on any device, one operation at a time where they can't be captured.
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

from anomia.probe.attention import additive, masked_attention, planned
from anomia.probe.cache import TreeCache
from anomia.probe.generate import Frontier, Node, TreeDecodeState, numbered
from anomia.probe.head import Head
from anomia.probe.transfer import to_device

_log = logging.getLogger(__name__)

FEW_LEAVES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Leaves are filled up to one of these; beyond them to multiples of the last."""
SLOTS = 256
"""Rows of the cache are as long as a multiple of this, and as many slots are attended to."""


class Shape(NamedTuple):
    """What the shapes of a step's tensors follow from.

    leaves: with those that fill up. length: the slots that are attended to. rows: rows of the cache that
    grow. The first `wide` of them have at most `most` leaves each, the others at most `fewer`.
    """

    leaves: int
    length: int
    rows: int
    wide: int
    most: int
    fewer: int

    def groups(self) -> Iterator[tuple[slice, slice, int]]:
        """Rows of the cache, their places in the padded layout, and the places a row has."""
        middle = self.wide * self.most
        if self.wide:
            yield slice(0, self.wide), slice(0, middle), self.most
        if self.rows > self.wide:
            yield slice(self.wide, self.rows), slice(middle, self.places), self.fewer

    @property
    def places(self) -> int:
        """Places in the padded layout; one behind them takes what only fills up."""
        return self.wide * self.most + (self.rows - self.wide) * self.fewer

    def place(self, row: int, number: int) -> int:
        """Where the leaf of this number among those of its row stands."""
        if row < self.wide:
            return row * self.most + number
        return self.wide * self.most + (row - self.wide) * self.fewer + number


@dataclass(frozen=True)
class StaticLayer:
    """A pass over one layer of leaves in a padded layout; an `attention.AttentionPlan`.

    places: [W], where each leaf stands in the layout. visible, ages: [W, L], as in `attention.LeafGroup`.
    """

    homes: tuple[Tensor, Tensor]
    shape: Shape
    places: Tensor
    visible: Tensor
    ages: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """See `AttentionPlan.attend`."""
        padded = query.new_zeros(self.shape.places + 1, *query.shape[1:])
        padded[self.places] = query
        mask = self._mask(window, query.dtype)
        outputs = []
        for rows, places, width in self.shape.groups():
            count, length = rows.stop - rows.start, self.shape.length
            output = masked_attention(
                padded[places].view(count, width, key.shape[1], -1, query.shape[-1]).permute(0, 2, 3, 1, 4),
                key[rows, :, :length],
                value[rows, :, :length],
                mask[places].view(count, width, length),
                scaling=scaling,
                softcap=softcap,
            )  # [rows, KV heads, group, width, D]
            outputs.append(output.permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1))
        outputs.append(torch.zeros_like(outputs[0][:1]))
        return torch.cat(outputs)[self.places]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """The additive mask [places + 1, L]."""
        if window not in self.masks:
            seen = self.visible if window is None else self.visible & (self.ages < window)
            size = (self.shape.places + 1, self.shape.length)
            mask = torch.full(size, torch.finfo(dtype).min, dtype=dtype, device=seen.device)
            mask[self.places] = additive(seen, dtype)
            self.masks[window] = mask
        return self.masks[window]


class _Captured(NamedTuple):
    """A step that can be replayed, and where it leaves its hidden states [W, H]."""

    graph: Any
    states: Tensor


class StaticSteps:
    """Memory for decode steps of fixed shapes, and the steps captured over it.

    The cache has one row more than can grow: there the keys and values go of what only fills up.
    """

    def __init__(self, *, rows: int, capacity: int, leaves: int, device: torch.device) -> None:
        self.rows = rows
        self.capacity = rounded(capacity)
        self.leaves = filled_up(leaves)
        self.cache = TreeCache(rows + 1, self.capacity)
        self._depths = torch.zeros(rows + 1, self.capacity, dtype=torch.long, device=device)
        # Two of them, so that running a step twice, as capturing it does, is running it once.
        self._before, self._after = (
            torch.zeros(self.leaves, self.capacity, dtype=torch.bool, device=device) for _ in range(2)
        )
        self._inputs = torch.zeros(6, self.leaves, dtype=torch.long, device=device)
        self._graphs: dict[Shape, _Captured] = {}
        self._pool: Any = None
        self._captures = device.type == "cuda"
        self._wide, self._most, self._fewer = 0, 1, 1

    def fits(self, *, rows: int, capacity: int, leaves: int) -> bool:
        """Whether a batch of this size finds room."""
        return rows <= self.rows and capacity <= self.capacity and leaves <= self.leaves

    def clear(self) -> None:
        """Empties the cache for another batch: a masked slot that holds NaN would still be one."""
        for keys, values in self.cache.stored.values():
            keys.zero_()
            values.zero_()

    def begin(self, tree_state: TreeDecodeState, layer: Frontier, *, wide: int, paths: Sequence[int]) -> None:
        """Takes over the ends of the prompts; `paths` [rows] is how many leaves a row can have.

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
        """Does what `generate.append` does, at the next size W of leaves that was prepared: states [N, H] of N leaves."""
        for leaf in leaves:
            tree_state.occupy(leaf)
        shape = Shape(
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

    def _step(self, head: Head, shape: Shape) -> Tensor:
        """One step on what stands in the inputs: hidden states [W, H]. Nothing is read back by the program."""
        rows, slots, depths, tokens, parents, places = self._inputs[:, : shape.leaves].unbind(0)
        visible = self._before[parents].scatter_(1, slots[:, None], True)
        self._after[: shape.leaves] = visible
        self._depths[rows, slots] = depths
        ages = depths[:, None] - self._depths[:, : shape.length][rows]
        plan = StaticLayer((rows, slots), shape, places, visible[:, : shape.length], ages)
        with planned(plan):
            return head.decode(input_ids=tokens[None], position_ids=depths[None], past_key_values=self.cache)

    def _run(self, head: Head, shape: Shape) -> Tensor:
        """The states [W, H] of a step: replayed where it was captured; the first of a shape runs plainly and is captured
        then.
        """
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
                # Whatever of a model can't be captured (a value read back, a library's lazy start) ends here.
                self._captures = False
                _log.warning(
                    "decode steps of this model can't be captured as CUDA graphs and run one operation at a "
                    "time: %s",
                    str(failure).partition("\n")[0],
                )
        return states

    def _capture(self, head: Head, shape: Shape) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            states = self._step(head, shape)
        return _Captured(graph, states)


def filled_up(leaves: int) -> int:
    """How many leaves a step computes that needs so many."""
    largest = FEW_LEAVES[-1]
    return next((count for count in FEW_LEAVES if count >= leaves), math.ceil(leaves / largest) * largest)


def rounded(slots: int) -> int:
    """Slots, rounded up as rows of the cache are."""
    return math.ceil(slots / SLOTS) * SLOTS


class _Kept(NamedTuple):
    """Steps that are used again from batch to batch, and where the weights stood when they were captured."""

    steps: StaticSteps
    weights: tuple[int, ...]


_kept: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()


def steps_for(model: Any, *, rows: int, capacity: int, leaves: int, device: torch.device) -> StaticSteps:
    """Emptied steps with room for a batch: the model's last ones where they are large enough.

    A captured step reads weights where they stood; steps of a model whose weights have moved are dropped.
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
    """Gives the memory of a model's steps back."""
    _kept.pop(model, None)
