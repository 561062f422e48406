"""The KV cache of a batch of token trees: allocated once, written in place, never concatenated.

There is one row per tree; the caller assigns the slots (`attention.AttentionPlan.homes`). Layers with a sliding
window keep everything, because a branch may start anywhere and the window is applied by depth.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from anomia.probe.attention import current_plan

Segment = list[tuple[Tensor, Tensor]]
"""Keys and values of consecutive tokens by layer, each [KV heads, tokens, D]."""


class TreeCache(Cache):  # type: ignore[misc]
    """A `transformers` cache with the keys and values of each layer, each [rows, KV heads, capacity, D].

    A layer is allocated on its first write, with the model's head count, head size and dtype.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.capacity = capacity
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *unused: Any, **also_unused: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the states [1, KV heads, N, D] of the packed tokens.

        Returns all keys and values of the layer, each [rows, KV heads, capacity, D].
        """
        rows, slots = current_plan().homes
        keys, values = self._layer(layer_idx, key_states[0], value_states[0])
        keys[rows, :, slots] = key_states[0].transpose(0, 1)
        values[rows, :, slots] = value_states[0].transpose(0, 1)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Always 0: positions are passed explicitly and never derived from a length."""
        return 0

    def keep(self, rows: Tensor) -> None:
        """Drops all rows except `rows` [kept], which move to the front in the given order."""
        self.rows = len(rows)
        for layer, (keys, values) in self.stored.items():
            self.stored[layer] = (keys.index_select(0, rows), values.index_select(0, rows))

    def segment(self, row: int, stop: int) -> Segment:
        """A copy of the first `stop` slots of a row."""
        return [
            (keys[row, :, :stop].clone(), values[row, :, :stop].clone())
            for _, (keys, values) in sorted(self.stored.items())
        ]

    def load(self, row: int, segment: Segment, stop: int) -> None:
        """Fills the first `stop` slots of a row from a segment of another cache for the same model."""
        for layer, states in enumerate(segment):
            for store, state in zip(self._layer(layer, *states), states, strict=True):
                store[row, :, :stop] = state[:, :stop]

    def _layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The storage of a layer, allocated to match states [KV heads, N, D] if need be.

        Zeros, not uninitialized memory: a masked slot contributes 0 × its value, which is NaN if the value is.
        """
        if layer not in self.stored:
            self.stored[layer] = (
                keys.new_zeros(self.rows, len(keys), self.capacity, keys.shape[-1]),
                values.new_zeros(self.rows, len(values), self.capacity, values.shape[-1]),
            )
        return self.stored[layer]
