"""Which rows of a run share a passage, within a language and across the languages of a parallel data set.

A parallel data set (XQuAD, MLQA, Belebele) asks the same questions in several languages. A passage that is hard in
one language is hard in all of them, so the passage is one unit. Shared question ids reveal this, but ids that merely
count (0, 1, 2 …) also coincide in unrelated data sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# At least this share of the smaller language's questions must occur in the other language, and at least this share of
# those must be grouped with the same questions.
_SHARED = 0.5
_GROUPED_ALIKE = 0.9
# Lengths of translated questions correlate (about 0.8 and more), those of unrelated ones don't.
_LEAST_CORRELATION = 0.3
_FEWEST_LENGTHS = 10
# A number, as in 17 or q0017, which any data set may use.
_COUNTER = re.compile(r"[A-Za-z_-]*[0-9]{1,7}")


class _Questions(NamedTuple):
    """The questions of one language, by id. passage: of each. length: of each in characters, 0 without a text."""

    ids: NDArray[np.str_]
    passage: NDArray[np.int64]
    length: NDArray[np.float64]


def passage_numbers(records: pl.DataFrame) -> NDArray[np.int32]:
    """The number of each row's passage: [rows]. Translations of a passage share a number.

    Two languages are parallel if at least half of the smaller one's question ids occur in the other and those questions
    fall into the same passages in both. If the ids are mere counters and no passage has several questions, the lengths
    of the questions must also correlate.
    """
    passages = _within_languages(records)
    languages = records["language"].to_numpy()
    found = {name: _questions(records, passages, languages == name) for name in sorted(set(languages))}
    nodes = int(passages.max(initial=-1)) + 1
    links: list[NDArray[np.int64]] = []
    for group in _parallel_groups(list(found.values())):
        ids = np.concatenate([each.ids for each in group])
        number = np.unique(ids, return_inverse=True)[1] + nodes
        links.append(np.stack([np.concatenate([each.passage for each in group]), number]))
        nodes = int(number.max()) + 1
    if not links:
        return passages.astype(np.int32)
    rows, columns = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(nodes, nodes))
    component: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return component[passages]


def _within_languages(records: pl.DataFrame) -> NDArray[np.int64]:
    """Passage numbers before translations are joined: [rows]. Equal texts are one passage, even across languages.

    A question without a passage is its own passage; its passage id is a hash of the question's id.
    """
    names = ["language", "item_id", "passage_id"]
    rows = records.select(names).unique()
    alone = [
        language if hashlib.sha256(item.encode()).hexdigest()[:16] == passage else ""
        for language, item, passage in rows.iter_rows()
    ]
    numbered = rows.with_columns(
        number=pl.concat_str(pl.Series(alone), "passage_id", separator="\0").rank("dense").cast(pl.Int64) - 1
    )
    joined = records.select(names).join(numbered, on=names, how="left", maintain_order="left")
    return joined["number"].to_numpy().astype(np.int64)


def _questions(records: pl.DataFrame, passages: NDArray[np.int64], here: NDArray[np.bool_]) -> _Questions:
    """Each question of a language once, however many arms were asked it. passages, here: [rows]."""
    ids, first = np.unique(records["item_id"].to_numpy()[here].astype(np.str_), return_index=True)
    length = records["question"].str.len_chars().fill_null(0).to_numpy()
    return _Questions(ids, passages[here][first], length[here][first].astype(np.float64))


def _parallel_groups(languages: Sequence[_Questions]) -> list[list[_Questions]]:
    """Groups of languages that are parallel to each other, without groups of one."""
    groups: list[list[_Questions]] = []
    for each in languages:
        mine = next((group for group in groups if _parallel(group[0], each)), None)
        if mine is None:
            groups.append([each])
        else:
            mine.append(each)
    return [group for group in groups if len(group) > 1]


def _parallel(one: _Questions, other: _Questions) -> bool:
    shared, left, right = np.intersect1d(one.ids, other.ids, assume_unique=True, return_indices=True)
    if not len(shared) or len(shared) < _SHARED * min(len(one.ids), len(other.ids)):
        return False
    first, second = one.passage[left], other.passage[right]
    groups, size_first = _sizes(first)
    _, size_second = _sizes(second)
    _, size_both = _sizes(first * (int(second.max()) + 1) + second)
    alike = (size_first == size_both) & (size_second == size_both)
    if alike.mean() < _GROUPED_ALIKE:
        return False
    counters = all(_COUNTER.fullmatch(name) for name in shared.tolist())
    if not counters or groups < len(shared):
        return True
    return _lengths_go_together(one.length[left], other.length[right])


def _sizes(labels: NDArray[np.int64]) -> tuple[int, NDArray[np.intp]]:
    """The number of groups, and for each entry the size of its group: [entries]."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(counts), counts[index]


def _lengths_go_together(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two lists of lengths are correlated; too few lengths count as parallel, the conservative choice."""
    known = (one > 0) & (other > 0)
    if known.sum() < _FEWEST_LENGTHS:
        return True
    first, second = np.log(one[known]), np.log(other[known])
    if not (first.std() and second.std()):
        return True
    return bool(np.corrcoef(first, second)[0, 1] >= _LEAST_CORRELATION)
