"""The memory that the token tree needs, and the batch size that fits.

Bytes = weights + batch × item + the larger of activations (during prefill) and logits, where

- an item takes its growing rows × the slots of the longest row (rounded up on GPUs, see `static`) × the bytes of
  a slot;
- a slot holds a key and a value for every layer: 2 × layers × KV heads × head size × bytes of the dtype; in half
  precision on CPUs add one layer, which the matrix product copies;
- logits take positions read at once × vocabulary × bytes of the dtype, plus float32 for the few positions whose
  product is taken in float32;
- activations take, per token of a prefill pass, the larger of attention (six times the size of its queries) and
  the feed-forward layer (three times its size), plus the hidden states in float32 and in the dtype.

The C library's allocator may also hold on to freed memory; `SPARE` leaves room for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import torch

from anomia.models.sizes import sizes_of
from anomia.probe.ask import Ask, Decoding
from anomia.probe.head import FLOAT32_ROWS, LOGIT_ROWS
from anomia.probe.prefill import PREFILL_TOKENS, lay_out
from anomia.probe.static import rounded
from anomia.probe.tree import capacity, paths_of_rows, searched_paths

SPARE = 0.8
"""The share of free memory that may be used."""
BESIDE = 1_100_000_000
"""Bytes on a CPU besides model and probes: libraries, tokenizers, a run's records, and what is freed but kept.

Measured with Gemma, whose tokenizer is large.
"""
LARGEST_ON_CPU = 16
LARGEST = 128
"""Batches larger than these are no faster."""


class MemoryNeed(NamedTuple):
    """Bytes of the weights, of each item of a batch, and of everything that doesn't grow with the batch."""

    weights: int
    item: int
    fixed: int

    def total(self, batch_size: int) -> int:
        """Peak memory of a batch in bytes."""
        return self.weights + batch_size * self.item + self.fixed


def estimate(model: Any, asks: Sequence[Ask], decoding: Decoding) -> MemoryNeed:
    """The memory need of the largest of these asks; see the module's docstring for the formula."""
    sizes = sizes_of(model.config.get_text_config())
    size = model.dtype.itemsize
    batches = [lay_out([ask]) for ask in asks]
    slots = max(
        (
            capacity(batch, paths_of_rows(batch, [ask], decoding), decoding)
            for batch, ask in zip(batches, asks, strict=True)
        ),
        default=0,
    )
    if model.device.type == "cuda":
        slots = rounded(slots)
    rows = max((batch.growing for batch in batches), default=0)
    tokens = max((sum(len(row.tree.tokens) for row in batch.rows) for batch in batches), default=0)
    reads = max((len(batch.reads) for batch in batches), default=0)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    exact = FLOAT32_ROWS if any(ask.targets or ask.distribution or ask.forced for ask in asks) else 0
    leaves = max((len(ask.greedy) + searched_paths(ask, decoding) for ask in asks), default=0)
    logits = vocabulary * (min(LOGIT_ROWS, len(asks) * max(reads, leaves)) * size + exact * 4)
    passed = min(PREFILL_TOKENS, len(asks) * tokens)
    widest = max(6 * sizes.heads * sizes.head, 3 * sizes.inner)
    width = max(sizes.width, int(model.get_input_embeddings().weight.shape[1]))
    activations = passed * (width * (2 * 4 + 2 * size) + widest * size)
    # `parameters()` lists shared parameters (tied embeddings) once.
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    slot = slot_bytes(model)
    if size < torch.float32.itemsize and model.device.type == "cpu":
        slot += slot // sizes.layers
    return MemoryNeed(weights, rows * slots * slot, max(logits, activations))


def larger(one: MemoryNeed, other: MemoryNeed) -> MemoryNeed:
    """What both need if they run one after the other."""
    return MemoryNeed(*map(max, one, other))


def slot_bytes(model: Any) -> int:
    """Bytes of the keys and values of one token in all layers."""
    sizes = sizes_of(model.config.get_text_config())
    bytes_: int = 2 * sizes.layers * sizes.kv_heads * sizes.head * model.dtype.itemsize
    return bytes_


def fitting_batch_size(model: Any, need: MemoryNeed) -> int:
    """The largest useful batch size that fits into free memory, with the model already loaded."""
    largest = LARGEST_ON_CPU if model.device.type == "cpu" else LARGEST
    if not need.item:
        return largest
    return int(min(largest, max(1, (SPARE * free_bytes(model.device) - need.fixed) // need.item)))


def free_bytes(device: torch.device) -> int:
    """Bytes of free memory on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
