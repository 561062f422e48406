"""The KV cache of a batch of token trees: allocated once, written in place, never concatenated.

One row a tree. Which slot a token takes is the caller's business (`attention.AttentionPlan.homes`); layers with a
sliding window keep everything, because a branch may start anywhere and the window is applied by depth.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from anomia.probe.attention import current_plan

Segment = list[tuple[Tensor, Tensor]]
"""Keys and values [KV heads, tokens, D] of a run of tokens, by layer."""


class TreeCache(Cache):  # type: ignore[misc]
    """Keys and values by layer, each [rows, KV heads, capacity, D]; a `transformers` cache.

    Storage is taken when a layer is first written, with the shape and the dtype that the model gives.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.capacity = capacity
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *unused: Any, **also_unused: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the packed tokens' [1, KV heads, N, D]; returns all as [rows, KV heads, capacity, D]."""
        rows, slots = current_plan().homes
        keys, values = self._layer(layer_idx, key_states[0], value_states[0])
        keys[rows, :, slots] = key_states[0].transpose(0, 1)
        values[rows, :, slots] = value_states[0].transpose(0, 1)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions are always given explicitly, none follows from a length."""
        return 0

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these, which move to the front in the order given. `rows`: [kept]."""
        self.rows = len(rows)
        for layer, (keys, values) in self.stored.items():
            self.stored[layer] = (keys.index_select(0, rows), values.index_select(0, rows))

    def segment(self, row: int, stop: int) -> Segment:
        """The first `stop` slots of a row, copied."""
        return [
            (keys[row, :, :stop].clone(), values[row, :, :stop].clone())
            for _, (keys, values) in sorted(self.stored.items())
        ]

    def load(self, row: int, segment: Segment, stop: int) -> None:
        """Fills the first `stop` slots of a row from a segment of another cache of the same model."""
        for layer, states in enumerate(segment):
            for store, state in zip(self._layer(layer, *states), states, strict=True):
                store[row, :, :stop] = state[:, :stop]

    def _layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's storage, for states [KV heads, N, D] like these.

        Zeros, not uninitialized memory: a masked slot counts zero times its value, which is NaN for a NaN.
        """
        if layer not in self.stored:
            self.stored[layer] = (
                keys.new_zeros(self.rows, len(keys), self.capacity, keys.shape[-1]),
                values.new_zeros(self.rows, len(values), self.capacity, values.shape[-1]),
            )
        return self.stored[layer]
