"""Self-test: whether a token tree gives a model's own answers, tried on the loaded model before any measurement.

Without it, an architecture whose attention differs from the tree's assumptions would be silently wrong. Two ragged
trees with branches, then leaves that continue only the second leaf of a layer, are compared with plain forward
passes over the same sequences. The windows that the model passes to its attention are compared with those in its
configuration, because an error at a window's edge can be smaller than rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from anomia.models.sizes import layers_of, text_part, types_of, values_of, whole
from anomia.probe.ask import Ask, RankTarget, TokenIds
from anomia.probe.attention import WindowByLayer, recorded_windows, tree_attention_in
from anomia.probe.cache import TreeCache
from anomia.probe.generate import Frontier, Node, TreeDecodeState, append
from anomia.probe.head import Head
from anomia.probe.prefill import lay_out, prefill
from anomia.probe.twin import shallow_twin

LONGEST_WINDOW = 1024
"""The test's prompt exceeds windows up to this many tokens; wider ones are only compared with the configuration."""
FLOAT32_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.05
"""Allowed error in standard deviations of the logits; structural errors are about one standard deviation."""
PADDINGS = (3, 1, 8)
"""Lengths of masked left padding, with which a model differs from itself only by rounding."""


@torch.inference_mode()
def tree_fault(model: Any) -> str | None:
    """Describes what is wrong with tree answers for this model; None if nothing is.

    In half precision rounding can be as large as a fault, so the logits are compared on a shallow float32 copy
    (`shallow_twin`) if one can be made.
    """
    asks = _test_asks(model)
    fault, by_tree = _run_fault(model, asks)
    if fault is not None or by_tree is None:
        return fault
    if model.dtype != torch.float32:
        twin = shallow_twin(model)
        if twin is not None:
            fault, by_twin = _run_fault(twin, asks)
            # A copy that fails to run on a tree says nothing about the model.
            if fault is None and by_twin is not None:
                return _difference(twin, *by_twin)
    return _difference(model, *by_tree)


def _run_fault(model: Any, asks: Sequence[Ask]) -> tuple[str | None, tuple[list[TokenIds], Tensor] | None]:
    """Runs a tree; returns why it can't be run, or the sequences and the logits [sequences, V] after each."""
    declared = declared_windows(model)
    try:
        with tree_attention_in(model), recorded_windows() as passed:
            found = _by_tree(model, asks)
    except Exception as failure:  # any: third-party code meets a cache and an attention that it doesn't know
        return f"its code does not run on a token tree ({type(failure).__name__}: {str(failure)[:200]})", None
    if not passed:
        return "its attention can't be replaced", None
    if passed != declared:
        windows = (
            f"its layers use windows {_summary(passed)}, its configuration declares {_summary(declared)}"
        )
        return windows, None
    return None, found


def _difference(model: Any, sequences: Sequence[TokenIds], found: Tensor) -> str | None:
    """Describes how a tree's logits [sequences, V] differ from plain passes; None if only by rounding."""
    plain = torch.cat([_plain(model, sequence) for sequence in sequences])
    if not plain.isfinite().all():
        return None  # broken weights are for the measurement to report, and both engines show them
    paddings = PADDINGS[:1] if model.dtype == torch.float32 else PADDINGS
    noise = max(float((plain[:1] - _plain(model, sequences[0], padding=n)).abs().max()) for n in paddings)
    deviation = float(plain.std())
    tolerance = FLOAT32_TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
    error = float((found - plain).abs().max())
    if error <= max(4 * noise, tolerance * deviation):
        return None
    return (
        f"its logits on a token tree differ by {error / deviation:.2g} standard deviations from plain passes"
    )


def declared_windows(model: Any) -> WindowByLayer:
    """The attention window of each layer according to the model's configuration."""
    config = text_part(model.config)
    layers = range(layers_of(config) or 0)
    windows: list[int | None] = [whole(value) for value in values_of(config, "sliding_window")]
    if not getattr(config, "use_sliding_window", True):
        windows = [None]
    if len(windows) != len(layers):
        windows = [max((each for each in windows if each is not None), default=None)] * len(layers)
    types = types_of(config)
    if types is None:
        return dict(zip(layers, windows, strict=True))
    # A layer without a type is taken for one without a window, which the self-test would find wrong.
    slides = [kind == "sliding_attention" for kind in types] + [False] * len(layers)
    return {layer: windows[layer] if slides[layer] else None for layer in layers}


def _summary(windows: WindowByLayer) -> str:
    return str(sorted({str(window) for window in windows.values()}))


def _test_asks(model: Any) -> list[Ask]:
    """Two asks of different lengths, each with a prompt longer than the windows and two branches.

    One branch continues the prompt, the other leaves it three tokens before its end.
    """
    windows = [w for w in declared_windows(model).values() if w is not None and w <= LONGEST_WINDOW]
    length = max(windows, default=0) + 24
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]

    def tokens(count: int) -> TokenIds:
        return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

    asks = []
    for number, size in enumerate((length, length - 7)):
        prompt = tokens(size)
        branches = (prompt + tokens(4), prompt[:-3] + tokens(6))
        targets = {str(place): RankTarget(branch, 0) for place, branch in enumerate(branches)}
        asks.append(Ask(str(number), greedy={"prompt": prompt}, targets=targets))
    return asks


def _by_tree(model: Any, asks: Sequence[Ask]) -> tuple[list[TokenIds], Tensor]:
    """Runs the tree; returns sequences, and the next-token logits [sequences, V] after each.

    The sequences are the branches of the prompts and the leaves of the second layer. For each prompt, both of these
    leaves continue the second leaf of the first layer, as beams do when one dies out.
    """
    batch = lay_out(asks)
    cache = TreeCache(len(batch.rows), max(len(row.tree.tokens) for row in batch.rows) + 4)
    head = Head(model)
    prefilled = prefill(head, batch, asks, cache, {})
    sequences, states, nodes, visible = [], [], [], []
    taken: list[list[int]] = []
    for index, ask in enumerate(asks):
        for target in ask.targets.values():
            sequences.append(target.prefix)
            states.append(prefilled[batch.read(index, target.prefix)])
        row, path = batch.places[index, ask.greedy["prompt"]]
        nodes.append(Node(index, row, int(path[-1]), len(path) - 1, ask.greedy["prompt"][-1]))
        sees = torch.zeros(cache.capacity, dtype=torch.bool)
        sees[torch.from_numpy(path)] = True
        visible.append(sees)
        taken.append(path.tolist())
    device = prefilled.device
    tree_state = TreeDecodeState.over(batch, cache, taken, device)
    layer = Frontier(nodes, torch.empty(0), torch.stack(visible).to(device))
    for step in range(2):
        parents = layer.nodes if step == 0 else layer.nodes[1::2]
        leaves = [
            Node(parent.item, parent.row, -1, parent.depth + 1, token, parent)
            for parent in parents
            for token in (5 + step, 7 + step)
        ]
        layer = append(head, tree_state, layer, leaves)
    for leaf, state in zip(layer.nodes, layer.states, strict=True):
        assert leaf.parent is not None
        sequences.append((*asks[leaf.item].greedy["prompt"], leaf.parent.token, leaf.token))
        states.append(state)
    logits = head.logits(torch.stack(states))
    return sequences, logits.float()


def _plain(model: Any, sequence: TokenIds, padding: int = 0) -> Tensor:
    """The next-token logits [1, V] from the model's own forward pass, after `padding` masked tokens."""
    ids = torch.tensor([[0] * padding + list(sequence)], device=model.device)
    mask = torch.tensor([[0] * padding + [1] * len(sequence)], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    # Logits for a whole prompt over a large vocabulary would cost more than the test itself.
    only_last = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    logits: Tensor = model(
        ids, attention_mask=mask, position_ids=positions, use_cache=False, **only_last
    ).logits
    return logits[:, -1].float()
