"""All sequences of a batch through the decoder, each shared token once.

Lays the trees of a batch of asks out in the rows of one KV cache and runs the decoder over their nodes.
What comes out is the hidden states of the positions that will be read, and a cache that generation goes on
from.
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
"""Tokens that go through the decoder at once: enough to use the processor fully; what bounds activations."""


class PlacedTree(NamedTuple):
    """A tree of one of the batch's asks; its first `cached` nodes come from a prefix computed before."""

    ask: int
    tree: Tree
    cached: int


class TreeBatch(NamedTuple):
    """Where everything stands.

    rows: the trees. The first `growing` ones hold prompts to continue and keep their rows of the cache, those
        with beams or samples first; the others are only read.
    places: (ask, sequence) → row and the node of each token. reads: (row, node) → index of its hidden state.
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
    """The sequences of an ask that are continued."""
    singles = [prompt for prompt in (ask.beams, ask.samples) if prompt is not None]
    return [*ask.greedy.values(), *singles]


def read_positions(ask: Ask) -> Iterator[tuple[TokenIds, int]]:
    """The sequences that an ask needs computed, and for each the first position that is read.

    Of an option the last token need not be computed: nothing is read behind it.
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


def lay_out(asks: Sequence[Ask]) -> TreeBatch:
    """Plants the trees of a batch and notes what will be read of them.

    Raises:
        ModelError: a sequence has no token before the first that is asked for.
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
    # Rows with many leaves a step stand together, so that decoding pads little.
    growing.sort(key=lambda entry: not {asks[entry[0].ask].beams, asks[entry[0].ask].samples} & set(entry[1]))
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
    """The length of the prefix if the whole tree stands on it, else 0."""
    size = len(prefix)
    if not size or size > len(tree.tokens) or tree.ends[size - 1] != len(tree.tokens):
        return 0
    return size if tuple(tree.tokens[:size].tolist()) == prefix else 0


def prefill(
    head: Head, batch: TreeBatch, asks: Sequence[Ask], cache: TreeCache, prefixes: dict[TokenIds, Segment]
) -> Tensor:
    """Fills the cache with all nodes and returns the hidden states that will be read: [reads, H].

    `prefixes` remembers shared prefixes from one batch to the next; those that this batch doesn't use are
    forgotten.
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
            # What is only read needs its keys and values in this one pass.
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
    """Consecutive rows that together have at most PREFILL_TOKENS tokens, or single ones that have more."""
    first, total = start, 0
    for index in range(start, stop):
        if index > first and total + sizes[index] > PREFILL_TOKENS:
            yield range(first, index)
            first, total = index, 0
        total += sizes[index]
    if first < stop:
        yield range(first, stop)


def _pass(head: Head, cache: TreeCache, rows: Sequence[PlacedTree], first: int) -> tuple[Tensor, list[int]]:
    """One forward pass over the nodes that aren't cached yet of some trees, packed into one sequence.

    The trees fill the rows of the cache from `first` on.
    Returns their hidden states [N, H], and where each tree begins.
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
    """The keys and values of a prefix, computed in a cache of its own."""
    tree = plant([prefix]).trees[0]
    cache = TreeCache(rows=1, capacity=len(prefix))
    _pass(head, cache, [PlacedTree(ask=0, tree=tree, cached=0)], 0)
    return cache.segment(0, len(prefix))
