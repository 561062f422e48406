"""Optional stopping: an arm takes items, languages interleaved, until its dissociation rate is precise enough.

Decisions depend only on finished records, so a resumed run makes the same ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl

from anomia.items.item import ItemSet
from anomia.measure.confidence_sequence import Stop, until_width
from anomia.measure.fates import dissociated, followed
from anomia.measure.frame import both, known
from anomia.measure.recognition import fate_index
from anomia.running.folder import OpenedRun, Shard, shards_of
from anomia.study import BASE

_COLUMNS = ["dataset", "language", "item_id", "passage_id", "index", "open_correct", "choice_correct"]


class Look(NamedTuple):
    """The look at which an arm stopped. items: items taken until then, out of `available`."""

    languages: tuple[str, ...]
    items: int
    available: int
    stop: Stop

    def plain(self) -> dict[str, Any]:
        """The look as plain values for the run's `stopping.json`."""
        estimate = self.stop.estimate
        return {
            "languages": list(self.languages),
            "items": self.items,
            "available": self.available,
            "reason": self.stop.reason,
            "dissociation": None if estimate is None else estimate._asdict(),
        }


def interleaved(shards: Iterable[Shard]) -> list[Shard]:
    """Shards in rounds: the first of every language, then the second of every language."""
    return sorted(shards, key=lambda shard: shard.first)


def stopped(
    folder: OpenedRun, arm: str, group: Sequence[ItemSet], *, width: float, oracle_limit: int
) -> Look | None:
    """The first look, after a finished round, at which an arm may stop; None if it has to continue.

    group: the languages that one model answers. width: the target width of the dissociation rate's interval. Only the
    first both-correct item of each passage counts, so that no passage changes between looks.
    """
    shards = [shard for items in group for shard in shards_of(arm, items, oracle_limit=oracle_limit)]
    available = sum(len(items.items) for items in group)
    taken: list[pl.DataFrame] = []
    for _, turn in itertools.groupby(interleaved(shards), key=lambda shard: shard.first):
        for shard in turn:
            if not folder.is_done(shard):
                return None
            taken.append(_both_sides(folder, shard))
        rows = pl.concat(taken)
        stop = _look(rows, width, items_left=available - len(rows))
        if stop.stop:
            return Look(tuple(items.language for items in group), len(rows), available, stop)
    return None


def _look(rows: pl.DataFrame, width: float, *, items_left: int) -> Stop:
    graded = known(rows, both("open_correct", "choice_correct"))
    fates = graded.with_columns(fate=pl.Series(fate_index(graded)))
    first = fates.filter(followed(fates["fate"].to_numpy())).unique(
        "passage_id", keep="first", maintain_order=True
    )
    return until_width(dissociated(first["fate"].to_numpy()), width=width, items_left=items_left)


def _both_sides(folder: OpenedRun, shard: Shard) -> pl.DataFrame:
    """The rows of a finished shard of an arm, joined to base's."""
    arm, base = (folder.rows(part, _COLUMNS) for part in (shard, replace(shard, arm=BASE)))
    verdicts = ["item_id", "open_correct", "choice_correct"]
    return base.join(arm.select(verdicts), on="item_id", suffix="_arm", how="inner", maintain_order="left")
