"""Prefill: runs all sequences of a batch through the decoder, each shared token once.

Lays out the trees of a batch of asks in the rows of one KV cache and runs the decoder over their nodes. The result
is the hidden states of the positions to read, and a cache from which generation continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anomia.errors import ModelError
from anomia.probe.ask import Ask, TokenIds
from anomia.probe.attention import Prefill, TreeRow, planned
from anomia.probe.cache import Segment, TreeCache
from anomia.probe.head import Head
from anomia.probe.trie import Integers, Tree, plant

PREFILL_TOKENS = 4096
"""Tokens per pass through the decoder: enough to use the processor fully; bounds the memory of activations."""


class PlacedTree(NamedTuple):
    """A tree of the batch's ask number `ask`; its first `cached` nodes come from a precomputed prefix."""

    ask: int
    tree: Tree
    cached: int


class TreeBatch(NamedTuple):
    """The layout of a batch.

    rows: the trees. The first `growing` ones hold prompts to continue and keep their cache rows, those with beams
        or samples first; the others are only read.
    places: (ask, sequence) → row, and the node of each token. reads: (row, node) → index of its hidden state.
    """

    rows: list[PlacedTree]
    growing: int
    places: dict[tuple[int, TokenIds], tuple[int, Integers]]
    reads: dict[tuple[int, int], int]

    def read(self, ask: int, sequence: TokenIds, position: int = -1) -> int:
        """The index of the hidden state at a position of a sequence."""
        row, nodes = self.places[ask, sequence]
        return self.reads[row, int(nodes[position])]


def prompts(ask: Ask) -> list[TokenIds]:
    """The sequences of an ask to continue."""
    return [*ask.greedy.values(), *searched(ask)]


def searched(ask: Ask) -> list[TokenIds]:
    """The sequences of an ask to continue in several ways at once, by beams or samples."""
    return [*ask.beams.values(), *ask.samples.values()]


def read_positions(ask: Ask) -> Iterator[tuple[TokenIds, int]]:
    """The sequences that an ask needs computed, each with the first position that is read.

    The last token of an option is left out: nothing is read after it.
    """
    for prompt in prompts(ask):
        yield prompt, len(prompt) - 1
    for options in ask.options.values():
        for sequence in options.sequences:
            if len(sequence) > options.start:
                yield sequence[:-1], options.start - 1
    for target in ask.targets.values():
        yield target.prefix, len(target.prefix) - 1
    if ask.distribution is not None:
        yield ask.distribution, len(ask.distribution) - 1
    if ask.forced is not None:
        yield ask.forced.sequence, len(ask.forced.prompt) - 1


def lay_out(asks: Sequence[Ask]) -> TreeBatch:
    """Builds the trees of a batch and records which of their nodes will be read.

    Raises:
        ModelError: a sequence has no token before the first one to score or generate.
    """
    growing: list[tuple[PlacedTree, dict[TokenIds, Integers], dict[int, None]]] = []
    still: list[tuple[PlacedTree, dict[TokenIds, Integers], dict[int, None]]] = []
    for index, ask in enumerate(asks):
        needed = list(read_positions(ask))
        if any(first < 0 for _, first in needed):
            raise ModelError(
                f"item {ask.item_id!r}: nothing comes before the first token to be scored or generated, and "
                "a model gives no distribution without a token; give the prompt a beginning-of-sequence token"
            )
        forest = plant(sequence for sequence, _ in needed)
        continued = {forest.places[prompt][0] for prompt in prompts(ask)}
        wanted: list[dict[int, None]] = [{} for _ in forest.trees]
        for sequence, first in needed:
            home, nodes = forest.places[sequence]
            wanted[home].update(dict.fromkeys(nodes[first:].tolist()))
        for tree_index, tree in enumerate(forest.trees):
            cached = min(_shared(tree, ask.shared_prefix), *wanted[tree_index])
            places = {s: nodes for s, (home, nodes) in forest.places.items() if home == tree_index}
            entry = (PlacedTree(index, tree, cached), places, wanted[tree_index])
            (growing if tree_index in continued else still).append(entry)
    # Rows with many leaves per step are adjacent, so that decoding pads little.
    growing.sort(key=lambda entry: set(entry[1]).isdisjoint(searched(asks[entry[0].ask])))
    rows = [*growing, *still]
    return TreeBatch(
        rows=[row for row, _, _ in rows],
        growing=len(growing),
        places={
            (row.ask, sequence): (index, nodes)
            for index, (row, places, _) in enumerate(rows)
            for sequence, nodes in places.items()
        },
        reads={
            key: place
            for place, key in enumerate(
                (index, n) for index, (_, _, wanted) in enumerate(rows) for n in wanted
            )
        },
    )


def _shared(tree: Tree, prefix: TokenIds) -> int:
    """The length of the prefix if the whole tree starts with it, else 0."""
    size = len(prefix)
    if not size or size > len(tree.tokens) or tree.ends[size - 1] != len(tree.tokens):
        return 0
    return size if tuple(tree.tokens[:size].tolist()) == prefix else 0


def prefill(
    head: Head, batch: TreeBatch, asks: Sequence[Ask], cache: TreeCache, prefixes: dict[TokenIds, Segment]
) -> Tensor:
    """Runs all nodes through the decoder; returns the hidden states that will be read, [reads, H].

    The growing rows are written to `cache`. `prefixes` keeps shared prefixes from one batch to the next; those that
    this batch doesn't use are dropped.
    """
    used = {asks[row.ask].shared_prefix for row in batch.rows if row.cached}
    for prefix in set(prefixes) - used:
        del prefixes[prefix]
    for prefix in sorted(used - set(prefixes)):
        prefixes[prefix] = _compute_prefix(head, prefix)
    by_row: list[list[int]] = [[] for _ in batch.rows]
    for row_index, node in batch.reads:
        by_row[row_index].append(node)
    sizes = [len(row.tree.tokens) - row.cached for row in batch.rows]
    states = []
    for members in (*_groups(sizes, 0, batch.growing), *_groups(sizes, batch.growing, len(sizes))):
        rows = [batch.rows[member] for member in members]
        home, first = cache, members.start
        if first >= batch.growing:
            # Trees that are only read need their keys and values in this pass alone.
            home, first = TreeCache(len(rows), max(len(row.tree.tokens) for row in rows)), 0
        for index, row in enumerate(rows, first):
            if row.cached:
                home.load(index, prefixes[asks[row.ask].shared_prefix], row.cached)
        passed, offsets = _pass(head, home, rows, first)
        chosen = [
            offset + node - row.cached
            for row, offset, member in zip(rows, offsets, members, strict=True)
            for node in by_row[member]
        ]
        states.append(passed[torch.tensor(chosen, device=passed.device)])
    return torch.cat(states)


def _groups(sizes: Sequence[int], start: int, stop: int) -> Iterator[range]:
    """Ranges of consecutive rows with at most PREFILL_TOKENS tokens in total; a longer row is on its own."""
    first, total = start, 0
    for index in range(start, stop):
        if index > first and total + sizes[index] > PREFILL_TOKENS:
            yield range(first, index)
            first, total = index, 0
        total += sizes[index]
    if first < stop:
        yield range(first, stop)


def _pass(head: Head, cache: TreeCache, rows: Sequence[PlacedTree], first: int) -> tuple[Tensor, list[int]]:
    """One forward pass over the N uncached nodes of some trees, packed into one sequence.

    The trees fill the rows of the cache from `first` on.
    Returns the hidden states [N, H], and the offset of each tree in them.
    """
    device = head.device
    offsets, tokens, positions, places, slots, plans = [], [], [], [], [], []
    offset = 0
    for place, (_, tree, cached) in enumerate(rows, first):
        size = len(tree.tokens)
        depths, ends = (torch.from_numpy(values).to(device) for values in (tree.depths, tree.ends))
        plans.append(TreeRow(place, cached, size, offset, depths, ends))
        tokens.append(tree.tokens[cached:])
        positions.append(tree.depths[cached:])
        places.append(np.full(size - cached, place))
        slots.append(np.arange(cached, size))
        offsets.append(offset)
        offset += size - cached
    ids, depths, at_rows, at_slots = (
        torch.from_numpy(np.concatenate(parts)).to(device) for parts in (tokens, positions, places, slots)
    )
    with planned(Prefill((at_rows, at_slots), tuple(plans))):
        states = head.decode(input_ids=ids[None], position_ids=depths[None], past_key_values=cache)
    return states, offsets


def _compute_prefix(head: Head, prefix: TokenIds) -> Segment:
    """The keys and values of a prefix, computed in a temporary cache."""
    tree = plant([prefix]).trees[0]
    cache = TreeCache(rows=1, capacity=len(prefix))
    _pass(head, cache, [PlacedTree(ask=0, tree=tree, cached=0)], 0)
    return cache.segment(0, len(prefix))
