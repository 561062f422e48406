from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.probe.trie import plant

sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple), max_size=12)


@settings(deadline=None)
@given(sequences)
def test_every_sequence_can_be_read_back_along_its_parents(found):
    forest = plant(found)
    assert set(forest.places) == set(found)
    for sequence, (home, nodes) in forest.places.items():
        tree = forest.trees[home]
        assert tuple(tree.tokens[nodes].tolist()) == sequence
        assert tree.parents[nodes].tolist() == [-1, *nodes[:-1].tolist()]
        assert tree.depths[nodes].tolist() == list(range(len(sequence)))


@settings(deadline=None)
@given(sequences)
def test_ends_say_exactly_who_is_whose_ancestor(found):
    for tree in plant(found).trees:
        size = len(tree.tokens)
        for node in range(size):
            line = {node}
            while (above := int(tree.parents[min(line)])) >= 0:
                line.add(above)
            seen = {other for other in range(size) if other <= node < tree.ends[other]}
            assert seen == line


@settings(deadline=None)
@given(sequences)
def test_parents_come_first_and_no_token_stands_twice_under_one_parent(found):
    for tree in plant(found).trees:
        assert (tree.parents < np.arange(len(tree.tokens))).all()
        edges = list(zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True))
        assert len(set(edges)) == len(edges)


@settings(deadline=None)
@given(sequences, st.randoms())
def test_neither_order_nor_repetition_matters(found, random):
    shuffled = found * 2
    random.shuffle(shuffled)
    one, other = plant(found), plant(shuffled)
    assert len(one.trees) == len(other.trees)
    for mine, theirs in zip(one.trees, other.trees, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_what_shares_less_than_half_grows_apart():
    trunk = (1, 2, 3, 4, 5, 6, 7, 8)
    forest = plant([trunk, (*trunk, 9), (*trunk[:4], 9, 9), (1, 9, 9, 9)])
    assert len(forest.trees) == 2
    assert forest.places[trunk][0] == forest.places[(*trunk[:4], 9, 9)][0]
    assert forest.places[(1, 9, 9, 9)][0] != forest.places[trunk][0]
    assert len(forest.trees[0].tokens) == 8 + 1 + 2
