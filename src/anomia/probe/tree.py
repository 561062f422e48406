"""The tree engine: answers every question about an item from one prefill of a token tree.

All sequences of an item are merged (`trie`), all nodes of a batch's trees go through the decoder once (`prefill`,
`attention`, `cache`), the positions to read go through the output head (`head`, `vocabulary`, `reading`), and all
answers grow together from the ends of their prompts (`generate`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomia.errors import ModelError
from anomia.loops import LoopWatch
from anomia.probe.ask import Ask, Decoding, OnSplit, OnTokens, Reply, TokenIds
from anomia.probe.attention import tree_attention_in
from anomia.probe.beams import BeamSearch
from anomia.probe.cache import Segment, TreeCache
from anomia.probe.generate import BeamState, Frontier, Node, Path, TreeDecodeState, append, grow
from anomia.probe.head import Head
from anomia.probe.prefill import TreeBatch, lay_out, prefill, prompts
from anomia.probe.reading import follow, place_targets, score_options
from anomia.probe.sampling import Stream
from anomia.probe.static import StaticSteps, forget_steps, steps_for
from anomia.probe.transfer import to_device

_log = logging.getLogger(__name__)


def answer(
    model: Any,
    asks: Sequence[Ask],
    decoding: Decoding,
    *,
    batch_size: int,
    on_split: OnSplit | None = None,
    on_tokens: OnTokens | None = None,
    static: bool | None = None,
) -> Iterator[Reply]:
    """Answers asks in batches of `batch_size` consecutive ones; see `Engine`.

    A batch that doesn't fit into memory is halved, repeatedly if need be; earlier replies are kept.
    The model must be in evaluation mode and accepted by `select.supports_tree`.
    static: decode in steps of fixed shapes (see `static`); by default only on GPUs.

    Raises:
        ModelError: a single item doesn't fit into memory, or nothing comes before the first token to score or
            generate.
    """
    prefixes: dict[TokenIds, Segment] = {}
    fixed = Head(model).device.type == "cuda" if static is None else static

    def answer_batch(
        model: Any, asks: Sequence[Ask], decoding: Decoding, prefixes: dict[TokenIds, Segment]
    ) -> list[Reply]:
        return _answer_batch(model, asks, decoding, prefixes, fixed, on_tokens)

    for first in range(0, len(asks), batch_size):
        batch = asks[first : first + batch_size]
        yield from _answer_halving(answer_batch, model, batch, decoding, prefixes, on_split)


_AnswerBatch = Callable[[Any, Sequence[Ask], Decoding, dict[TokenIds, Segment]], list[Reply]]


def _answer_halving(
    answer_batch: _AnswerBatch,
    model: Any,
    asks: Sequence[Ask],
    decoding: Decoding,
    prefixes: dict[TokenIds, Segment],
    on_split: OnSplit | None,
) -> Iterator[Reply]:
    """Answers a batch with `answer_batch`, or its halves in turn if it doesn't fit into memory.

    prefixes: keys and values of the prefixes that items share, [1, heads, S, head] per layer; emptied before halving.
    """
    try:
        replies = answer_batch(model, asks, decoding, prefixes)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(asks) == 1:
            raise ModelError(
                f"item {asks[0].item_id!r} does not fit into memory even alone: ask fewer probes or samples, "
                "cut passages shorter, or use a smaller model"
            ) from error
        replies = None
    if replies is not None:
        yield from replies
        return
    # Outside the handler, whose traceback would keep the tensors of the failed attempt alive.
    prefixes.clear()
    forget_steps(model)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _log.warning("a batch of %d items does not fit into memory and is halved", len(asks))
    if on_split is not None:
        on_split(tuple(ask.item_id for ask in asks))
    middle = (len(asks) + 1) // 2
    for half in (asks[:middle], asks[middle:]):
        yield from _answer_halving(answer_batch, model, half, decoding, prefixes, on_split)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. CUDA has its own exception; the CPU allocator raises a plain RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@torch.inference_mode()
def _answer_batch(
    model: Any,
    asks: Sequence[Ask],
    decoding: Decoding,
    prefixes: dict[TokenIds, Segment],
    static: bool,
    on_tokens: OnTokens | None,
) -> list[Reply]:
    """Answers the items of one batch, one reply per item in order: a prefill of their trees, then the decoding steps.

    The prefill has one row [S] per tree, the decoding one token for each open answer, beam or sample [N, 1].

    Args:
        prefixes: keys and values of the prefixes that items share, [1, heads, S, head] per layer; new ones are added.
        static: whether decoding uses a cache of fixed size.
        on_tokens: called with the number of new tokens after each step.
    """
    batch = lay_out(asks)
    if not batch.rows:
        return [Reply(ask.item_id) for ask in asks]
    with tree_attention_in(model):
        head = Head(model)
        paths = paths_of_rows(batch, asks, decoding)
        slots = capacity(batch, paths, decoding)
        steps = None
        if static:
            steps = steps_for(
                model, rows=batch.growing, capacity=slots, leaves=sum(paths), device=head.device
            )
        cache = TreeCache(batch.growing, slots) if steps is None else steps.cache
        states = prefill(head, batch, asks, cache, prefixes)
        scores, broken = score_options(head, batch, asks, states)
        exact, inexact = place_targets(head, batch, asks, states, decoding)
        followed, unfollowed = follow(head, batch, asks, states, decoding)
        generated = [_starts(index, ask, batch, decoding) for index, ask in enumerate(asks)]
        unfinished = _grow_all(head, batch, cache, states, generated, decoding, paths, steps, on_tokens)
    broken |= inexact | unfollowed | unfinished
    return [
        Reply(
            item_id=ask.item_id,
            greedy={name: tuple(path.tokens) for name, path in started.greedy.items()},
            option_log_probs=scores[index],
            placements=exact[index].placements,
            distribution=exact[index].distribution,
            reference_log_probs=exact[index].reference_log_probs,
            beams={name: search.beams.finished() for name, search in started.searches.items()},
            samples={
                name: {seed: tuple(tuple(path.tokens) for path in paths) for seed, paths in by_seed.items()}
                for name, by_seed in started.samples.items()
            },
            forced=followed[index],
            finite=index not in broken,
        )
        for index, (ask, started) in enumerate(zip(asks, generated, strict=True))
    ]


def paths_of_rows(batch: TreeBatch, asks: Sequence[Ask], decoding: Decoding) -> list[int]:
    """The number of answers that grow in each growing row of a batch."""
    paths = [0] * batch.growing
    for index, ask in enumerate(asks):
        drawn = decoding.num_samples * len(decoding.sample_seeds)
        for sent, each in ((ask.greedy, 1), (ask.beams, decoding.num_beams), (ask.samples, drawn)):
            for prompt in sent.values():
                paths[batch.places[index, prompt][0]] += each
    return paths


def searched_paths(ask: Ask, decoding: Decoding) -> int:
    """The number of beams and samples of an ask."""
    drawn = decoding.num_samples * len(decoding.sample_seeds)
    return decoding.num_beams * len(ask.beams) + drawn * len(ask.samples)


def capacity(batch: TreeBatch, paths: Sequence[int], decoding: Decoding) -> int:
    """The most slots that a row needs: its nodes, plus one leaf per path and step.

    The last token of an answer is never computed, and the slots of ended beams are free again.
    """
    return max(
        (
            len(row.tree.tokens) + count * (decoding.max_new_tokens - 1)
            for row, count in zip(batch.rows, paths, strict=False)
        ),
        default=0,
    )


class _Started(NamedTuple):
    """The growing answers of one ask."""

    greedy: dict[str, Path]
    samples: dict[str, dict[int, list[Path]]]
    searches: dict[str, BeamState]
    nodes: dict[TokenIds, Node]


def _starts(index: int, ask: Ask, batch: TreeBatch, decoding: Decoding) -> _Started:
    """Starts the answers of an ask at the ends of their prompts."""
    nodes = {}
    for prompt in prompts(ask):
        row, path = batch.places[index, prompt]
        nodes[prompt] = Node(index, row, int(path[-1]), len(prompt) - 1, prompt[-1])
    samples = {
        name: {
            seed: [Path(nodes[prompt], Stream(seed, ask.item_id, n, 0)) for n in range(decoding.num_samples)]
            for seed in decoding.sample_seeds
        }
        for name, prompt in ask.samples.items()
    }
    searches = {name: BeamState(_search(decoding), [nodes[prompt]]) for name, prompt in ask.beams.items()}
    greedy = {
        name: Path(nodes[prompt], watch=LoopWatch(decoding.max_new_tokens) if decoding.end_loops else None)
        for name, prompt in ask.greedy.items()
    }
    return _Started(greedy, samples, searches, nodes)


def _search(decoding: Decoding) -> BeamSearch:
    return BeamSearch(
        num_beams=decoding.num_beams,
        eos_token_ids=decoding.eos_token_ids,
        max_new_tokens=decoding.max_new_tokens,
    )


def _grow_all(
    head: Head,
    batch: TreeBatch,
    cache: TreeCache,
    states: Tensor,
    generated: Sequence[_Started],
    decoding: Decoding,
    paths_by_row: Sequence[int],
    steps: StaticSteps | None,
    on_tokens: OnTokens | None,
) -> set[int]:
    """Grows all answers to their ends from the prefill's states [reads, H].

    Returns the indices of asks with non-finite logits.
    """
    ends = [
        (node, batch.places[index, prompt][1], batch.read(index, prompt))
        for index, started in enumerate(generated)
        for prompt, node in started.nodes.items()
    ]
    if not ends:
        return set()
    device = states.device
    visible = torch.zeros(len(ends), cache.capacity, dtype=torch.bool)
    taken: list[set[int]] = [set() for _ in range(batch.growing)]
    for order, (node, path, _) in enumerate(ends):
        visible[order, torch.from_numpy(path)] = True
        taken[node.row].update(path.tolist())
    tree_state = TreeDecodeState.over(batch, cache, taken, device)
    reads = to_device([read for _, _, read in ends], device)
    layer = Frontier([node for node, _, _ in ends], states[reads], visible.to(device))
    paths = [
        path
        for started in generated
        for drawn in ({0: list(started.greedy.values())}, *started.samples.values())
        for group in drawn.values()
        for path in group
    ]
    searches = [search for started in generated for search in started.searches.values()]
    if steps is not None:
        reaching = {path.node.row for path in paths if path.stream is not None}
        reaching |= {node.row for search in searches for node in search.nodes}
        steps.begin(tree_state, layer, wide=len(reaching), paths=paths_by_row)
    step = steps.append if steps else append
    return grow(head, tree_state, layer, paths, searches, decoding, step=step, on_tokens=on_tokens)
