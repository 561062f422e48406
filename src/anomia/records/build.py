"""Builds rows from items and replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomia.items.item import ItemSet
from anomia.probe.ask import Distribution, Reply
from anomia.probe.decode import Decoded
from anomia.probe.encode import EncodedItem
from anomia.probes import CHOICE_OWN
from anomia.records.replied import Replied
from anomia.records.schema import COLUMNS, ITEM_COLUMNS


def record(
    encoded: EncodedItem,
    reply: Reply,
    decoded: Decoded,
    tokenizer: Any,
    *,
    arm: str,
    dataset: str,
    index: int,
    base_distribution: Distribution | None = None,
) -> dict[str, Any]:
    """One row of `SCHEMA`: the graded reply of one arm to one item.

    Args:
        encoded: the item as asked.
        reply: the engine's reply.
        decoded: the texts of the reply.
        tokenizer: turns tokens back into text.
        arm, dataset, index: the key of the row; `index` is the item's position in the fixed order.
        base_distribution: base's next-token distribution, for the KL divergence; None for base itself.
    """
    if not reply.finite:
        # Values read from NaN or infinite logits are meaningless.
        reply, decoded = Reply(reply.item_id, finite=False), Decoded({})
    replied = Replied(encoded, reply, decoded, tokenizer, arm, dataset, index, base_distribution)
    return {name: column.value(replied) for name, column in COLUMNS.items()}


def with_own(row: dict[str, Any], scored: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the columns of the options made from base's answer.

    scored: the row of the item that has these options as its standard ones.
    """
    found = {
        name: scored[name.replace(CHOICE_OWN, "choice", 1)] for name in row if name.startswith(CHOICE_OWN)
    }
    return {**row, **found}


def item_rows(items: ItemSet) -> list[dict[str, Any]]:
    """The rows of `ITEM_SCHEMA` for one language."""
    return [
        {name: column.value(items, index, item) for name, column in ITEM_COLUMNS.items()}
        for index, item in enumerate(items.items)
    ]
