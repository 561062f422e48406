"""From what was asked and replied to rows."""

from __future__ import annotations

from typing import Any

from anomia.items.item import ItemSet
from anomia.probe.ask import Distribution, Reply
from anomia.probe.decode import Said
from anomia.probe.encode import EncodedItem
from anomia.records.replied import Replied
from anomia.records.schema import COLUMNS, ITEM_COLUMNS


def record(
    encoded: EncodedItem,
    reply: Reply,
    said: Said,
    tokenizer: Any,
    *,
    arm: str,
    dataset: str,
    index: int,
    base_distribution: Distribution | None = None,
) -> dict[str, Any]:
    """One row of `SCHEMA`: the graded reply of one arm to one item.

    Args:
        encoded: the item as it was asked.
        reply: what the engine answered.
        said: its texts.
        tokenizer: turns tokens back into text.
        arm, dataset, index: where the row belongs; index is the item's place in the fixed order.
        base_distribution: base's at the same position, for the KL divergence; None for base itself.
    """
    if not reply.finite:
        # What was read of logits that are NaN or infinite means nothing.
        reply, said = Reply(reply.item_id, finite=False), Said({})
    replied = Replied(encoded, reply, said, tokenizer, arm, dataset, index, base_distribution)
    return {name: column.value(replied) for name, column in COLUMNS.items()}


def item_rows(items: ItemSet) -> list[dict[str, Any]]:
    """The rows of `ITEM_SCHEMA` of one language."""
    return [
        {name: column.value(items, index, item) for name, column in ITEM_COLUMNS.items()}
        for index, item in enumerate(items.items)
    ]
