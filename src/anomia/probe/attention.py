"""Attention over token trees: many trees packed into one sequence, where each token sees only its ancestors.

The linear layers run on real tokens alone, without padding between items; only attention knows which token
belongs to which tree. It is registered with `transformers` as a separate attention implementation
(`AttentionInterface`), because the additive 4-D masks of the stock implementations differ by architecture, are
silently wrong where a window is applied elsewhere, and are slower: on CPUs their bfloat16 kernel takes four times
as long as the two matrix products here.

A sliding window is applied by depth, as the model does along one branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

IMPLEMENTATION = "anomia_tree"
QUERY_BLOCK = 128
"""Queries at a time on CPUs: their scores stay in the processor's cache, and keys after a block are skipped."""

FEW_QUERIES = 128
"""Up to this many queries, keys × queries is four times as fast on CPUs as queries × keys."""


class AttentionInputs(NamedTuple):
    """The inputs of an attention layer in a packed forward pass.

    query: [N, heads, D]. key, value: the whole cache, [rows, KV heads, capacity, D].
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    window: int | None
    softcap: float | None


class AttentionPlan(Protocol):
    """How the N tokens of one packed forward pass see the KV cache."""

    @property
    def homes(self) -> tuple[Tensor, Tensor]:
        """The row [N] and the slot [N] where each token's key and value are stored."""
        ...

    def attend(self, inputs: AttentionInputs) -> Tensor:
        """Returns the attention output [N, heads, D]."""
        ...


_plan: ContextVar[AttentionPlan] = ContextVar("plan")


@contextmanager
def planned(plan: AttentionPlan) -> Iterator[None]:
    """Makes tree attention follow `plan` inside the block."""
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def current_plan() -> AttentionPlan:
    """The plan of the running forward pass."""
    return _plan.get()


WindowByLayer = dict[int, int | None]
"""The attention window by layer, None for full attention."""

_windows: ContextVar[WindowByLayer | None] = ContextVar("windows", default=None)


@contextmanager
def recorded_windows() -> Iterator[WindowByLayer]:
    """Records the window that the model requests in each layer inside the block."""
    windows: WindowByLayer = {}
    token = _windows.set(windows)
    try:
        yield windows
    finally:
        _windows.reset(token)


@dataclass(frozen=True, slots=True)
class TreeRow:
    """Nodes `start` to `stop` of the tree in cache row `row`, packed into the pass from `offset` on.

    The nodes before `start` are already cached. `depths` and `ends` have shape [stop].
    """

    row: int
    start: int
    stop: int
    offset: int
    depths: Tensor
    ends: Tensor


@dataclass(frozen=True)
class Prefill:
    """A pass over the nodes of whole trees, where a node's slot is its index in the tree.

    masks: by row and window, additive, [stop − start, stop].
    """

    homes: tuple[Tensor, Tensor]
    rows: tuple[TreeRow, ...]
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    def attend(self, inputs: AttentionInputs) -> Tensor:
        """Returns the attention output [N, heads, D]; see `AttentionPlan.attend`."""
        query, key, value, scaling, window, softcap = inputs
        outputs = []
        groups = key.shape[1]
        for row in self.rows:
            if (row.row, window) not in self.masks:
                self.masks[row.row, window] = tree_mask(row, window, query.dtype)
            mask = self.masks[row.row, window]  # [new, stop]
            new = row.stop - row.start
            block = QUERY_BLOCK if query.device.type == "cpu" else new
            for first in range(0, new, block):
                last = min(first + block, new)
                seen = row.start + last
                asked = query[row.offset + first : row.offset + last]  # [q, heads, D]
                output = masked_attention(
                    asked.view(last - first, groups, -1, asked.shape[-1]).permute(1, 2, 0, 3)[
                        None
                    ],  # [1, KV heads, group, q, D]
                    key[row.row, None, :, :seen],
                    value[row.row, None, :, :seen],
                    mask[None, first:last, :seen],
                    scaling=scaling,
                    softcap=softcap,
                )
                outputs.append(output[0].permute(2, 0, 1, 3).flatten(1, 2))
        return torch.cat(outputs)


@dataclass(frozen=True)
class LeafGroup:
    """The n leaves of cache rows `first_row` to `last_row`, about equally many per row.

    leaves: their positions in the pass. places: [n], the place of each in a padded [rows, width] layout.
    visible: [n, L], the slots that a leaf sees, including its own. ages: [n, L], the leaf's depth minus the depth
    of the token in each slot of its row. masks: by window, additive, [rows, width, L].
    """

    leaves: slice
    first_row: int
    last_row: int
    width: int
    places: Tensor
    visible: Tensor
    ages: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """The additive mask [rows, width, L] (`leaf_mask`)."""
        if window not in self.masks:
            size = (self.last_row - self.first_row) * self.width
            mask = leaf_mask(self.visible, self.ages, self.places, size, window, dtype)
            self.masks[window] = mask.view(-1, self.width, mask.shape[1])
        return self.masks[window]


@dataclass(frozen=True)
class LeafLayer:
    """A pass over one layer of leaves, which are sorted by row."""

    homes: tuple[Tensor, Tensor]
    groups: tuple[LeafGroup, ...]

    def attend(self, inputs: AttentionInputs) -> Tensor:
        """See `AttentionPlan.attend`."""
        query = inputs.query
        outputs = []
        for group in self.groups:
            rows = slice(group.first_row, group.last_row)
            padded = query.new_zeros((rows.stop - rows.start) * group.width, *query.shape[1:])
            padded[group.places] = query[group.leaves]
            mask = group.mask(inputs.window, query.dtype)
            outputs.append(padded_attention(inputs, padded, rows, mask)[group.places])
        return torch.cat(outputs)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask: 0 where `seen`, the lowest number of the dtype elsewhere."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def tree_mask(row: TreeRow, window: int | None, dtype: torch.dtype) -> Tensor:
    """The additive mask [stop − start, stop] that lets each node see its ancestors and itself."""
    nodes = torch.arange(row.stop, device=row.ends.device)
    queries = nodes[row.start :, None]
    seen = (nodes <= queries) & (row.ends > queries)
    if window is not None:
        seen &= row.depths[row.start :, None] - row.depths < window
    return additive(seen, dtype)


def leaf_mask(
    visible: Tensor, ages: Tensor, places: Tensor, size: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """The additive mask [size, L] of leaves in a padded layout; padding sees nothing and is dropped afterwards.

    visible, ages: [n, L], as in `LeafGroup`. places: [n], the row of each leaf in the mask.
    """
    seen = visible if window is None else visible & (ages < window)
    mask = torch.full((size, seen.shape[1]), torch.finfo(dtype).min, dtype=dtype, device=seen.device)
    mask[places] = additive(seen, dtype)
    return mask


def padded_attention(inputs: AttentionInputs, padded: Tensor, rows: slice, mask: Tensor) -> Tensor:
    """The attention outputs [R · width, heads, D] of a padded layout, with `width` leaves in each of R cache rows.

    padded: the queries in this layout, [R · width, heads, D]. mask: additive, [R, width, L].
    """
    count, width, length = mask.shape
    output = masked_attention(
        padded.view(count, width, inputs.key.shape[1], -1, padded.shape[-1]).permute(0, 2, 3, 1, 4),
        inputs.key[rows, :, :length],
        inputs.value[rows, :, :length],
        mask,
        scaling=inputs.scaling,
        softcap=inputs.softcap,
    )  # [R, KV heads, group, width, D]
    return output.permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float, softcap: float | None
) -> Tensor:
    """Grouped-query attention under an additive mask, with the softmax in float32.

    query: [R, KV heads, group, Q, D]; key, value: [R, KV heads, L, D]; mask: [R or 1, Q, L].
    Returns [R, KV heads, group, Q, D of value].
    """
    rows, groups, group, asked, _ = query.shape
    if query.device.type != "cpu" and softcap is None:
        return fused_attention(query, key, value, mask, scaling=scaling)
    flat = query.flatten(2, 3)  # [R, KV heads, group × Q, D]
    if flat.shape[2] <= FEW_QUERIES:
        scores = (key @ flat.transpose(2, 3)).transpose(2, 3).contiguous()
    else:
        scores = flat @ key.transpose(2, 3)  # [R, KV heads, group × Q, L]
    scores = scores.mul_(scaling).view(rows, groups, group, asked, -1)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    # In half precision, PyTorch's softmax computes in float32 anyway and rounds once.
    weights = scores.add_(mask[:, None, None]).softmax(-1)
    return (weights.flatten(2, 3) @ value).view(rows, groups, group, asked, -1)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float) -> Tensor:
    """`masked_attention` as one PyTorch operation, with the same shapes.

    Query heads that share keys are laid out as further queries, so that no key is copied.
    """
    seen = (
        mask[:, None, None].expand(-1, -1, query.shape[2], -1, -1).flatten(2, 3)
    )  # [R or 1, 1, group × Q, L]
    output = functional.scaled_dot_product_attention(
        query.flatten(2, 3), key, value, attn_mask=seen, scale=scaling
    )
    return output.reshape(*query.shape[:-1], -1)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """The attention implementation that `transformers` calls (see `AttentionInterface`).

    query: [1, heads, N, D] of the packed tokens. key, value: the whole cache as returned by `TreeCache.update`,
    [rows, KV heads, capacity, D]. attention_mask is not read: the plan of the pass has its own.
    Returns [1, N, heads, D].
    """
    if (windows := _windows.get()) is not None:
        windows[module.layer_idx] = sliding_window  # type: ignore[index]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    inputs = AttentionInputs(query[0].transpose(0, 1), key, value, scaling, sliding_window, softcap)
    return current_plan().attend(inputs)[None], None


AttentionInterface.register(IMPLEMENTATION, tree_attention)


@contextmanager
def tree_attention_in(model: Any) -> Iterator[None]:
    """Makes the model use tree attention inside the block and restores its own attention afterwards.

    Only configurations are changed, never weights.
    """
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    before = [(config, config._attn_implementation) for config in configs]
    for config, _ in before:
        config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
