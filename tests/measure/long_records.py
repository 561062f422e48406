"""Long answers planted into the records of a study."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from anomia.records import SCHEMA

# Of four items in turn: base's tokens, the arm's, where the arm loops, and the ranks of base's tokens in the arm.
TURNS: tuple[dict[str, Any], ...] = (
    {"base": 40, "arm": 40, "loop": None, "ranks": [1] * 40, "equal": True},
    {"base": 40, "arm": 100, "loop": 20, "ranks": [1] * 10 + [2] * 10 + [11] * 20, "equal": False},
    {"base": 20, "arm": 100, "loop": None, "ranks": [1] * 10 + [10] * 10, "equal": False},
    {"base": 80, "arm": 50, "loop": None, "ranks": [1] * 80, "equal": False},
)
LIMIT = 100


def with_long_answers(records: pl.DataFrame, arm: str) -> pl.DataFrame:
    """The records with a long answer of base and of one arm to every item."""
    rows = []
    for index, name in records.select("index", "arm").iter_rows():
        turn, own = TURNS[index % len(TURNS)], name == "base"
        size = turn["base" if own else "arm"]
        ranks = [1] * turn["base"] if own else turn["ranks"]
        row = {
            "text": "text", "correct": size < LIMIT, "ids": list(range(size)), "ended": size < LIMIT,
            "loop_start": None if own else turn["loop"], "ranks": ranks, "log_probs": [-0.5] * len(ranks),
            "margins": [0.0] * len(ranks), "end_log_probs": [math.log(0.25)] * (len(ranks) + 1),
        }  # fmt: skip
        if name == arm:
            row |= {
                "equal": turn["equal"], "same_final": turn["equal"], "same_script": True, "same_language": True,
                "same_layout": True, "divergence": None if turn["equal"] else 10,
                "kl": [float(rank > 1) for rank in (*ranks, 1)], "top1": [rank == 1 for rank in (*ranks, 1)],
            }  # fmt: skip
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return records.with_columns(
        pl.Series(f"continuation_{name}", [row.get(name) for row in rows], SCHEMA[f"continuation_{name}"])
        for name in names
    )
