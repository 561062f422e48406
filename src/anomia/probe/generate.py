"""Greedy answers, beams and samples for all items of a batch, grown together one layer of leaves at a time.

A path is one answer in progress; it points to a node of its item's tree. Paths at the same node that choose the
same token continue as one leaf, so an answer that greedy decoding, a beam and seven samples agree on is computed
once. A beam that forks becomes two leaves with one parent: no cache is copied or reordered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from anomia.loops import LoopWatch
from anomia.probe import vocabulary
from anomia.probe.ask import Decoding, OnTokens
from anomia.probe.attention import LeafGroup, LeafLayer, planned
from anomia.probe.beams import BeamSearch, candidate_count
from anomia.probe.cache import TreeCache
from anomia.probe.head import LOGIT_ROWS, Head
from anomia.probe.prefill import TreeBatch
from anomia.probe.sampling import Stream, attempt, draw
from anomia.probe.transfer import to_device, to_host

COMPACT_BELOW = 0.75
"""The cache's rows are compacted when less than this share of them is still growing."""


NextTokens = tuple[Sequence[int], Sequence[float]]
"""The top next tokens and their log-probabilities."""


@dataclass(eq=False, slots=True)
class Node:
    """A token of a tree from which generation continues."""

    item: int
    row: int
    slot: int
    depth: int
    token: int
    parent: Node | None = None
    children: int = 0


@dataclass(eq=False, slots=True)
class Path:
    """A greedy answer or sample in progress; a sample draws from the stream of its step.

    watch: follows a greedy answer that ends once it is settled to be a loop.
    """

    node: Node
    stream: Stream | None = None
    watch: LoopWatch | None = None
    tokens: list[int] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class BeamState:
    """A beam search, and the node of each running beam."""

    beams: BeamSearch
    nodes: list[Node]


class Choice(NamedTuple):
    """The choices at a node: the greedy token, the candidates for beams, one token per stream."""

    best: int
    candidates: NextTokens
    drawn: dict[Stream, int]


class Frontier(NamedTuple):
    """The nodes whose next tokens are chosen together.

    states: [nodes, H], before the output head. visible: [nodes, capacity], the slots that each node sees.
    """

    nodes: list[Node]
    states: Tensor
    visible: Tensor


DecodeStep = Callable[[Head, "TreeDecodeState", Frontier, list[Node]], Frontier]
"""Runs the decoder on the next layer; see `append`."""


@dataclass(eq=False)
class TreeDecodeState:
    """The rows of the cache in which leaves grow.

    depths: [rows, capacity], the depth of the token in each slot. free: the free slots of each row, the next one
    last. used: one past the highest slot of each row that has been used.
    """

    cache: TreeCache
    depths: Tensor
    free: list[list[int]]
    used: list[int]

    @staticmethod
    def over(
        batch: TreeBatch, cache: TreeCache, taken: Sequence[Iterable[int]], device: torch.device
    ) -> TreeDecodeState:
        """The growing rows of a prefilled batch; `taken` lists, per row, the slots that a prompt's end sees.

        Slots that only other branches used are free again. The lowest free slots are used first, which keeps rows
        short.
        """
        depths = torch.zeros(batch.growing, cache.capacity, dtype=torch.long)
        for row in range(batch.growing):
            tree = batch.rows[row].tree
            depths[row, : len(tree.depths)] = torch.from_numpy(tree.depths)
        seen = [set(row) for row in taken]
        free = [[slot for slot in range(cache.capacity - 1, -1, -1) if slot not in row] for row in seen]
        return TreeDecodeState(cache, depths.to(device), free, [max(row) + 1 for row in seen])

    def occupy(self, node: Node) -> None:
        """Assigns a free slot of its row to a node."""
        node.slot = self.free[node.row].pop()
        self.used[node.row] = max(self.used[node.row], node.slot + 1)

    def release(self, node: Node) -> None:
        """Frees the slot of a leaf without children, and of the ancestors that only it needed."""
        while node.parent is not None and node.children == 0:
            self.free[node.row].append(node.slot)
            node = node.parent
            node.children -= 1

    def compact(self, nodes: Sequence[Node]) -> None:
        """Moves the rows of `nodes` to the front if many of the other rows have stopped growing."""
        rows = sorted({node.row for node in nodes})
        if len(rows) >= COMPACT_BELOW * (rows[-1] + 1):
            return
        chosen = to_device(rows, self.depths.device)
        self.cache.keep(chosen)
        self.depths = self.depths[chosen]
        self.free = [self.free[row] for row in rows]
        self.used = [self.used[row] for row in rows]
        moved = {row: place for place, row in enumerate(rows)}
        for node in _with_ancestors(nodes):
            node.row = moved[node.row]


def grow(
    head: Head,
    tree_state: TreeDecodeState,
    layer: Frontier,
    paths: Sequence[Path],
    searches: Sequence[BeamState],
    decoding: Decoding,
    *,
    step: DecodeStep,
    on_tokens: OnTokens | None = None,
) -> set[int]:
    """Grows every path and search to its end, in place. The first `layer` holds the L ends of the prompts.

    Each step turns states [L, H] into logits [L, V], LOGIT_ROWS rows at a time, and those into the next layer.
    Finished paths get no leaf, so a pass computes only what is still growing.
    Returns the items with NaN or infinite logits; they stop growing there.
    """
    broken: set[int] = set()
    while layer.nodes:
        choices = _choose(head, layer, paths, searches, decoding, broken)
        paths = [path for path in paths if path.node.item not in broken]
        searches = [search for search in searches if search.nodes and search.nodes[0].item not in broken]
        leaves = _Leaves()
        lengths = sum(len(path.tokens) for path in paths)
        going = [path for path in paths if _step(path, choices[path.node], leaves, decoding)]
        extended = sum(len(path.tokens) for path in paths) - lengths
        paths = going
        for search in searches:
            parents = search.beams.advance([choices[node].candidates for node in search.nodes])
            search.nodes = [
                leaves.grown(search.nodes[parent], beam.tokens[-1])
                for parent, beam in zip(parents, search.beams.running, strict=True)
            ]
        if on_tokens is not None:
            on_tokens(extended + sum(len(search.nodes) for search in searches))
        for node in layer.nodes:
            tree_state.release(node)
        if not leaves.nodes:
            break
        layer = step(head, tree_state, layer, sorted(leaves.nodes.values(), key=lambda leaf: leaf.row))
    return broken


class _Leaves:
    """The next layer: one leaf per parent and token, however many paths and beams choose it."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[Node, int], Node] = {}

    def grown(self, parent: Node, token: int) -> Node:
        leaf = self.nodes.get((parent, token))
        if leaf is None:
            leaf = Node(parent.item, parent.row, -1, parent.depth + 1, token, parent)
            parent.children += 1
            self.nodes[parent, token] = leaf
        return leaf


def _step(path: Path, choice: Choice, leaves: _Leaves, decoding: Decoding) -> bool:
    """Extends a path by its next token; returns whether it continues."""
    token = choice.best if path.stream is None else choice.drawn[path.stream]
    if token in decoding.eos_token_ids:
        return False
    path.tokens.append(token)
    if len(path.tokens) >= decoding.max_new_tokens or (path.watch is not None and path.watch.add(token)):
        return False
    path.node = leaves.grown(path.node, token)
    if path.stream is not None:
        path.stream = path.stream._replace(step=len(path.tokens))
    return True


def _choose(
    head: Head,
    layer: Frontier,
    paths: Sequence[Path],
    searches: Sequence[BeamState],
    decoding: Decoding,
    broken: set[int],
) -> dict[Node, Choice]:
    """The choices at all nodes of a layer, from its states [L, H], with LOGIT_ROWS rows of logits [·, V] at a time.

    Adds items with non-finite logits to `broken`.
    """
    streams: dict[Node, list[Stream]] = {node: [] for node in layer.nodes}
    for path in paths:
        if path.stream is not None:
            streams[path.node].append(path.stream)
    ranked = {node for search in searches for node in search.nodes}
    choices: dict[Node, Choice] = {}
    for first in range(0, len(layer.nodes), LOGIT_ROWS):
        nodes = layer.nodes[first : first + LOGIT_ROWS]
        logits = head.logits(layer.states[first : first + LOGIT_ROWS])
        summary = vocabulary.summarize(logits)
        beaming = [row for row, node in enumerate(nodes) if node in ranked]
        count = candidate_count(decoding.num_beams, decoding.eos_token_ids)
        wanted = [(row, stream) for row, node in enumerate(nodes) for stream in streams[node]]
        best, finite, candidates, draws = _read(summary, beaming, count, wanted, decoding)
        found = dict(zip(beaming, candidates, strict=True))
        drawn: list[dict[Stream, int]] = [{} for _ in nodes]
        for (row, stream), token in zip(wanted, draws, strict=True):
            drawn[row][stream] = token
        for row, node in enumerate(nodes):
            choices[node] = Choice(best[row], found.get(row, ((), ())), drawn[row])
            if not finite[row]:
                broken.add(node.item)
    return choices


class _Read(NamedTuple):
    """Values read from rows of logits: `best` and `finite` per row, `candidates` per beam row, `draws` per draw."""

    best: list[int]
    finite: list[bool]
    candidates: list[NextTokens]
    draws: list[int]


def _read(
    summary: vocabulary.Summary,
    beaming: Sequence[int],
    count: int,
    wanted: Sequence[tuple[int, Stream]],
    decoding: Decoding,
) -> _Read:
    """Reads all choices from logits [rows, V] in one transfer.

    A GPU waits once per step, unless draws keep missing the nucleus. beaming: the rows with beams, `count` candidates
    each. wanted: the row and the stream of each draw.
    """
    device = summary.best.device
    chosen = to_device(beaming, device, torch.long)
    values, tokens = vocabulary.likeliest(summary, chosen, count)
    log_probs = values - summary.log_normalizer[chosen, None]
    rows, streams = [row for row, _ in wanted], [stream for _, stream in wanted]
    warmed = summary
    if decoding.temperature != 1.0 and wanted:
        warmed = vocabulary.summarize(summary.logits, decoding.temperature)
    first = attempt(warmed, rows, streams, decoding.top_p)
    best, finite, *pairs, draws, kept = to_host(
        vocabulary.argmax(summary), summary.finite, tokens, log_probs, first.tokens, first.kept
    )
    missed = [index for index, keep in enumerate(kept) if not keep]
    if missed:
        again = draw(
            warmed,
            [rows[index] for index in missed],
            [streams[index] for index in missed],
            decoding.top_p,
            tried=first.tried,
        )
        for index, token in zip(missed, again, strict=True):
            draws[index] = token
    return _Read(best, finite, list(zip(*pairs, strict=True)), draws)


def append(head: Head, tree_state: TreeDecodeState, before: Frontier, leaves: list[Node]) -> Frontier:
    """Runs the decoder on N leaves, sorted by row and without slots yet, whose parents are in `before`.

    Returns their states [N, H] and the slots that they see [N, capacity]. The parents' mask rows are copied; the
    cache [rows, KV heads, capacity, D] is written in place.
    """
    tree_state.compact(leaves)
    for leaf in leaves:
        tree_state.occupy(leaf)
    device = tree_state.depths.device
    place = {node: index for index, node in enumerate(before.nodes)}
    columns = [
        (leaf.row, leaf.slot, leaf.depth, leaf.token, place[leaf.parent]) for leaf in leaves if leaf.parent
    ]
    row, slot, depth, token, parent = to_device(columns, device).unbind(1)
    visible = before.visible[parent]
    visible[torch.arange(len(leaves), device=device), slot] = True
    tree_state.depths[row, slot] = depth
    groups = []
    for first, last in _alike([leaf.row for leaf in leaves]):
        rows = (leaves[first].row, leaves[last - 1].row + 1)
        length = max(tree_state.used[slice(*rows)])
        in_row = numbered([leaf.row for leaf in leaves[first:last]])
        width = max(in_row) + 1
        members = slice(first, last)
        groups.append(
            LeafGroup(
                leaves=members,
                first_row=rows[0],
                last_row=rows[1],
                width=width,
                places=(row[members] - rows[0]) * width + to_device(in_row, device),
                visible=visible[members, :length],
                ages=depth[members, None] - tree_state.depths[row[members], :length],
            )
        )
    plan = LeafLayer((row, slot), tuple(groups))
    with planned(plan):
        states = head.decode(
            input_ids=token[None], position_ids=depth[None], past_key_values=tree_state.cache
        )
    return Frontier(leaves, states, visible)


def numbered(rows: Sequence[int]) -> list[int]:
    """The number of each leaf within its row, for leaves sorted by row."""
    first: dict[int, int] = {}
    return [index - first.setdefault(row, index) for index, row in enumerate(rows)]


def _alike(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Splits leaves, sorted by row, into ranges whose rows have about equally many leaves.

    Rows are padded to the widest of their group, so rows with few leaves (one greedy answer) don't share a group
    with rows with many (beams and samples).
    """
    counts = Counter(rows)
    first, widest, narrowest = 0, 0, len(rows)
    for index, row in enumerate(rows):
        if index and row == rows[index - 1]:
            continue
        widest, narrowest = max(widest, counts[row]), min(narrowest, counts[row])
        if widest > 3 * narrowest:
            yield first, index
            first, widest, narrowest = index, counts[row], counts[row]
    yield first, len(rows)


def _with_ancestors(nodes: Sequence[Node]) -> set[Node]:
    """The nodes and all their ancestors."""
    found: set[Node] = set()
    for node in nodes:
        at: Node | None = node
        while at is not None and at not in found:
            found.add(at)
            at = at.parent
    return found
