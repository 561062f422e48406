"""How much of a loss is packaging: a checkpoint asked as its folder says, next to the same weights asked like base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from anomia.compress.spec import like_base
from anomia.measure.frame import KEY, arms_of, pair, prepare, right, scopes
from anomia.measure.rates import Estimate, rate
from anomia.probes import BY_NAME, FORMATS


class PackagingRow(NamedTuple):
    """The answers of base that an arm loses as its folder packages it, and how many of them the packaging costs."""

    arm: str
    weights: str
    """The arm with the same weights, asked like base."""
    probe: str
    """`open` or `choice`."""
    scope: str
    lost: int
    by_packaging: int
    """Right with these weights when asked like base."""
    by_weights: int
    made_up: int
    """Wrong with these weights when asked like base, but right as packaged."""
    estimate: Estimate | None


def packaging(records: pl.DataFrame) -> list[PackagingRow]:
    """Rows for every arm that was measured both ways, in each language and pooled over all of them."""
    records, arms = prepare(records), arms_of(records)
    found: list[PackagingRow] = []
    for arm in arms:
        weights = like_base(arm)
        if weights in arms:
            found += _rows(records, arm, weights)
    return found


def _rows(records: pl.DataFrame, arm: str, weights: str) -> Iterator[PackagingRow]:
    verdicts = [BY_NAME[name].column for name in FORMATS]
    packaged, plain = (pair(records, name) for name in (arm, weights))
    plain = plain.select(*KEY, *(pl.col(f"{column}_arm").alias(f"{column}_weights") for column in verdicts))
    both = packaged.join(plain, on=KEY, maintain_order="left")
    passages = both["passage"].to_numpy()
    for probe, column in zip(FORMATS, verdicts, strict=True):
        if both[column].null_count() == len(both):
            continue
        base, says, could = (right(both, f"{column}{side}") for side in ("", "_arm", "_weights"))
        for scope, mask in scopes(both):
            lost = mask & base & ~says
            taken = could[lost]
            yield PackagingRow(
                arm,
                weights,
                probe,
                scope,
                lost=int(lost.sum()),
                by_packaging=int(taken.sum()),
                by_weights=int((~taken).sum()),
                made_up=int((mask & base & says & ~could).sum()),
                estimate=rate(taken, passages[lost]),
            )
