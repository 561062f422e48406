"""Token trees: sequences with common prefixes merged so that each shared token occurs once.

A tree is stored in preorder: a node comes after its parent, and its descendants are exactly the nodes between it and
the end of its subtree. So "is an ancestor of" is a comparison of integers, and a node's distance from the first
token (`depth`) is its position id.

Sequences with little in common go into separate trees: a tree is one row of the KV cache, and two long branches in
one row would read each other's tokens only to mask them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anomia.probe.ask import TokenIds

Integers = npt.NDArray[np.int64]


class Tree(NamedTuple):
    """Tokens in preorder; all arrays have shape [N].

    parents: index of the parent, -1 for a first token. depths: number of ancestors.
    ends: one past the last descendant, so j is an ancestor of i (or i itself) exactly when `j <= i < ends[j]`.
    """

    tokens: Integers
    parents: Integers
    depths: Integers
    ends: Integers


class Forest(NamedTuple):
    """Trees, and where to find each sequence: `places[sequence]` = (tree, node of each token)."""

    trees: tuple[Tree, ...]
    places: dict[TokenIds, tuple[int, Integers]]


def plant(sequences: Iterable[TokenIds]) -> Forest:
    """Merges sequences into trees; a sequence joins a tree that shares at least the first half of its tokens.

    The result doesn't depend on order or repetition. Empty sequences are left out.
    """
    # Longest first: the longest sequence opens a tree, and shorter ones are compared with it.
    ordered = sorted({s for s in sequences if s}, key=lambda s: (-len(s), s))
    growing: list[_Growing] = []
    homes: list[int] = []
    for sequence in ordered:
        shared = [tree.shared_with(sequence) for tree in growing]
        best = max(range(len(shared)), key=shared.__getitem__, default=-1)
        if best < 0 or 2 * shared[best] < len(sequence):
            best = len(growing)
            growing.append(_Growing())
        growing[best].add(sequence)
        homes.append(best)
    finished = [tree.finish() for tree in growing]
    places = {
        sequence: (home, finished[home][1][growing[home].nodes_of(sequence)])
        for sequence, home in zip(ordered, homes, strict=True)
    }
    return Forest(tuple(tree for tree, _ in finished), places)


class _Growing:
    """A tree under construction, nodes in insertion order; `children[node + 1]` maps next tokens to nodes."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.children: list[dict[int, int]] = [{}]

    def shared_with(self, sequence: TokenIds) -> int:
        """How many leading tokens of the sequence are in the tree."""
        node = -1
        for length, token in enumerate(sequence):
            after = self.children[node + 1].get(token)
            if after is None:
                return length
            node = after
        return len(sequence)

    def add(self, sequence: TokenIds) -> None:
        node = -1
        for token in sequence:
            after = self.children[node + 1].get(token)
            if after is None:
                after = len(self.tokens)
                self.children[node + 1][token] = after
                self.children.append({})
                self.tokens.append(token)
                self.parents.append(node)
            node = after

    def nodes_of(self, sequence: TokenIds) -> list[int]:
        nodes = []
        node = -1
        for token in sequence:
            node = self.children[node + 1][token]
            nodes.append(node)
        return nodes

    def finish(self) -> tuple[Tree, Integers]:
        """The tree in preorder, and each node's index in it [N].

        At a fork the branch that was added first comes first, so a tree begins with its longest sequence: a plain
        causal chain.
        """
        order: list[int] = []
        waiting = list(reversed(self.children[0].values()))
        while waiting:
            node = waiting.pop()
            order.append(node)
            waiting.extend(reversed(self.children[node + 1].values()))
        size = len(order)
        place = np.full(size + 1, -1, dtype=np.int64)
        place[order] = np.arange(size)
        parents = place[np.array(self.parents, dtype=np.int64)[order]]
        depths = np.zeros(size, dtype=np.int64)
        ends = np.arange(1, size + 1, dtype=np.int64)
        for node, parent in enumerate(parents.tolist()):
            depths[node] = depths[parent] + 1 if parent >= 0 else 0
        for node in range(size - 1, -1, -1):
            if (parent := parents[node]) >= 0:
                ends[parent] = max(ends[parent], ends[node])
        tokens = np.array(self.tokens, dtype=np.int64)[order]
        return Tree(tokens, parents, depths, ends), place[:size]
