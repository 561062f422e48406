"""Restoration: base's weights put back into the compressed model, and what it then answers.

This decides what an order is worth. A margin only rewards one token over another; here items are answered freely and
graded. Only items that had no part in the order count.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from anomia.errors import ModelError
from anomia.locate.cases import LocatedItem
from anomia.locate.curves import GOAL
from anomia.locate.located import BUDGETS
from anomia.locate.pairs import ModelPair, WeightUnit
from anomia.probe.ask import Decoding, Reply
from anomia.probe.decode import decode_reply
from anomia.probe.select import ChosenEngine
from anomia.records import read_rows, write_rows

_FIRST = (1, 2, 4, 8)
"""How many of the first units of a leading order are restored together, besides what budgets take."""
READING_SCHEMA: Mapping[str, Any] = {
    "language": pl.String,
    "item_id": pl.String,
    "correct": pl.Boolean,
    "rank": pl.Int32,
    "margin": pl.Float64,
    "control_margin": pl.Float64,
    "text": pl.String,
}


@dataclass(frozen=True, slots=True)
class MixtureReader:
    """Asks mixtures of the two models, with the run's engine and grader.

    folder: finished readings are kept in it, and not repeated; None keeps nothing.
    """

    pair: ModelPair
    engine: ChosenEngine
    tokenizer: Any
    decoding: Decoding
    batch_size: int
    folder: Path | None = None

    def read(self, names: Iterable[str], cases: Sequence[LocatedItem]) -> pl.DataFrame:
        """What the model with base's weights in these units answers: one row of `READING_SCHEMA` per case, in order."""
        restored = sorted(set(names))
        file = None if self.folder is None else self.folder / f"{_key(restored, cases)}.parquet"
        if file is not None and file.is_file():
            return read_rows(file)
        with self.pair.restored(restored) as model:
            rows = list(self._ask(model, cases))
        if file is not None:
            write_rows(rows, file, READING_SCHEMA)
        return pl.DataFrame(rows, schema=dict(READING_SCHEMA), orient="row")

    def _ask(self, model: Any, cases: Sequence[LocatedItem]) -> Iterator[dict[str, Any]]:
        # Items of like length share a batch, as in a run.
        order = sorted(range(len(cases)), key=lambda n: (cases[n].candidate.tokens, n))
        replies = self.engine.answer(
            model, [cases[n].ask for n in order], self.decoding, batch_size=self.batch_size
        )
        found = dict(zip(order, replies, strict=True))
        for number, case in enumerate(cases):
            yield {
                "language": case.candidate.language,
                "item_id": case.candidate.item_id,
                **graded(case, found[number], self.tokenizer),
            }


def graded(case: LocatedItem, reply: Reply, tokenizer: Any) -> dict[str, Any]:
    """Whether the open answer is right (of a position: whether base's token comes first), and where gold stands.

    Logits that aren't finite count as a wrong answer.
    """
    if not reply.finite:
        return {"correct": False, "rank": None, "margin": None, "control_margin": None, "text": None}
    encoded = case.candidate.encoded
    places, text = reply.placements, None
    if case.candidate.position is None:
        text = decode_reply(encoded, reply, tokenizer).greedy["open"].text

    def margin(name: str) -> float | None:
        if name not in places:
            return None
        return places[name].log_prob - places[f"{name}_rival"].log_prob

    return {
        "correct": places["gold"].rank == 1
        if text is None
        else bool(encoded.grading.verdict(text, encoded.item.question)),
        "rank": places["gold"].rank,
        "margin": margin("gold"),
        "control_margin": margin("control"),
        "text": text,
    }


def _key(names: Sequence[str], cases: Sequence[LocatedItem]) -> str:
    asked = [
        [
            case.candidate.language,
            case.candidate.item_id,
            case.gold,
            case.control,
            case.ask.greedy.get("open"),
        ]
        for case in cases
    ]
    return hashlib.sha256(json.dumps([names, asked]).encode()).hexdigest()[:24]


class Mixture(NamedTuple):
    """One experiment. kind: `block`, `matrix`, `without_block` (the block compressed in base), an order's name, or
    `place`.

    place: the block or matrix; for an order, the number of the draw. budget: the share of weights aimed at, for an
    order. restored: the units with base's weights.
    """

    kind: str
    place: str
    budget: float | None
    restored: tuple[str, ...]


def single_mixtures(units: Sequence[WeightUnit], blocks: int, leaders: Sequence[str]) -> list[Mixture]:
    """Every block restored alone, every block compressed alone in base, and the leading units restored alone."""
    everything = [unit.name for unit in units]
    found = []
    for block in range(blocks):
        mine = tuple(unit.name for unit in units if unit.block == block)
        if mine:
            rest = tuple(name for name in everything if name not in set(mine))
            found += [
                Mixture("block", str(block), None, mine),
                Mixture("without_block", str(block), None, rest),
            ]
    return [*found, *(Mixture("matrix", name, None, (name,)) for name in leaders)]


def by_weight(scores: Mapping[str, float], units: Sequence[WeightUnit]) -> list[str]:
    """The names of units by their score per weight, the largest first; units without a score come last."""
    scored = [unit for unit in units if math.isfinite(scores.get(unit.name, math.nan))]
    names = {unit.name for unit in scored}
    rest = [unit.name for unit in units if unit.name not in names]
    return [unit.name for unit in sorted(scored, key=lambda unit: -scores[unit.name] / unit.weights)] + rest


def by_depth(units: Sequence[WeightUnit], blocks: int) -> list[str]:
    """The names of units from the first block to the last; what lies outside of the blocks comes last."""
    return [
        unit.name for unit in sorted(units, key=lambda unit: blocks if unit.block is None else unit.block)
    ]


def at_random(units: Sequence[WeightUnit], seed: int, draw: int) -> list[str]:
    """The names of units in a random order, in which each unit is as likely as any other at every place.

    Units that hold more than `GOAL` of the weights come after all others, in a random order: a set of few weights can't
    contain them, and at the front they would leave every small budget empty.
    """
    drawn = list(units)
    random.Random(f"{seed} {draw}").shuffle(drawn)
    most = GOAL * sum(unit.weights for unit in units)
    return [unit.name for unit in sorted(drawn, key=lambda unit: unit.weights > most)]


def fill(order: Sequence[str], units: Sequence[WeightUnit], budget: float) -> tuple[str, ...]:
    """The units that an order takes for a share of all weights: as many from its start as fit.

    Nothing is passed over, so that a larger budget always takes the units of a smaller one and more, and small units
    don't come in before their turn.
    """
    sizes = {unit.name: unit.weights for unit in units}
    left = budget * sum(sizes.values()) * (1 + 1e-9)
    taken = []
    for name in order:
        left -= sizes[name]
        if left < 0:
            break
        taken.append(name)
    return tuple(taken)


def share_of(names: Iterable[str], units: Sequence[WeightUnit]) -> float:
    """How large a share of all units' weights these units have."""
    sizes = {unit.name: unit.weights for unit in units}
    return sum(sizes[name] for name in names) / sum(sizes.values())


def all_budgets(
    budgets: Sequence[float],
    orders: Mapping[str, Sequence[Sequence[str]]],
    leading: Sequence[str],
    units: Sequence[WeightUnit],
) -> tuple[float, ...]:
    """The shares at which all orders are tried: the given ones, and those at which single units decide.

    These are the size of the first unit of each leading order, of its first 2, 4 and 8 where that is below all given
    shares, and, in every order, of what ends in a unit that is larger than `GOAL` of the weights.
    """
    least, found = min(budgets), set(budgets)
    for name, draws in orders.items():
        for order in draws:
            ends = [
                share_of(order[:count], units)
                for count in range(1, len(order) + 1)
                if share_of([order[count - 1]], units) > GOAL
            ]
            if name in leading:
                first = [share_of(order[:count], units) for count in _FIRST if count <= len(order)]
                ends += [first[0], *(share for share in first[1:] if share < least)]
            found |= {share for share in ends if share < 1 - 1e-9}
    ordered = sorted(found)
    # Sums of the same sizes in another order may differ by rounding.
    return tuple(share for n, share in enumerate(ordered) if not n or share > ordered[n - 1] * (1 + 1e-9))


def cumulative_mixtures(
    orders: Mapping[str, Sequence[Sequence[str]]],
    units: Sequence[WeightUnit],
    budgets: Sequence[float] = BUDGETS,
) -> list[Mixture]:
    """Every order at every budget. orders: by name, one list of units or several draws."""
    return [
        Mixture(name, str(draw), budget, fill(order, units, budget))
        for name, draws in orders.items()
        for draw, order in enumerate(draws)
        for budget in budgets
    ]


def without_idle(
    place: Sequence[str], returned: Callable[[Sequence[str]], float], *, tries: int
) -> tuple[str, ...]:
    """The units of a place without those that bring nothing back: without them, as much returns as with the whole.

    Args:
        place: the units, the most important first.
        returned: how much comes back with base's weights in some of them.
        tries: at most this many sets are tried, larger parts first.
    """
    kept = list(reversed(place))
    wanted, size, at = returned(place), max(1, len(place) // 2), 0
    while len(kept) > 1 and tries > 0:
        rest = kept[:at] + kept[at + size :]
        tries -= 1
        if rest and returned(rest) >= wanted:
            kept = rest
        else:
            at += size
        if at >= len(kept):
            if size == 1:
                break
            size, at = size // 2, 0
    return tuple(name for name in place if name in set(kept))


def read_all(
    reader: MixtureReader,
    mixtures: Sequence[Mixture],
    cases: Sequence[LocatedItem],
    advance: Callable[[], None] = lambda: None,
) -> pl.DataFrame:
    """The readings of all mixtures: `READING_SCHEMA` with the mixture's kind, place, budget and share of weights.

    Raises:
        ModelError: no mixture gives finite logits.
    """
    frames = []
    # Orders often take the same units for several budgets.
    seen: dict[frozenset[str], pl.DataFrame] = {}
    for mixture in mixtures:
        names = frozenset(mixture.restored)
        if names not in seen:
            seen[names] = reader.read(mixture.restored, cases)
        found = seen[names]
        frames.append(
            found.with_columns(
                pl.lit(mixture.kind).alias("kind"),
                pl.lit(mixture.place).alias("place"),
                pl.lit(mixture.budget, dtype=pl.Float64).alias("budget"),
                pl.lit(share_of(mixture.restored, reader.pair.units)).alias("share"),
            )
        )
        advance()
    whole = pl.concat(frames)
    if whole["margin"].is_null().all():
        raise ModelError(
            "locate: no mixture of the two models gives finite logits, so nothing can be compared"
        )
    return whole
