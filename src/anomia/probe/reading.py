"""What is read at the teacher-forced positions of a batch: option scores, ranks, distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from anomia.probe import head, vocabulary
from anomia.probe.ask import Ask, Decoding, Distribution, Placement
from anomia.probe.prefill import Batch, Prefilled

OptionScores = dict[str, tuple[tuple[float, ...], ...]]


class Exact(NamedTuple):
    """What is read from one ask's float32 logits."""

    placements: dict[str, Placement]
    distribution: Distribution | None
    reference_log_probs: tuple[float, ...]


def score_options(
    model: Any, batch: Batch, asks: Sequence[Ask], prefilled: Prefilled
) -> tuple[list[OptionScores], set[int]]:
    """The log-probability of every option token, and the asks of which some logits were not finite."""
    wanted = [
        (batch.read(index, sequence[:-1], position - 1), sequence[position], index)
        for index, ask in enumerate(asks)
        for options in ask.options.values()
        for sequence in options.sequences
        for position in range(options.start, len(sequence))
    ]
    reads = sorted({read for read, _, _ in wanted})
    place = {read: order for order, read in enumerate(reads)}
    values = [0.0] * len(wanted)
    broken: set[int] = set()
    device = prefilled.states.device
    for first in range(0, len(reads), head.LOGIT_ROWS):
        rows = torch.tensor(reads[first : first + head.LOGIT_ROWS], device=device)
        logits = head.read_logits(model, prefilled.states[rows], prefilled.output_type)
        here = [i for i, (read, _, _) in enumerate(wanted) if first <= place[read] < first + len(rows)]
        at = [place[wanted[i][0]] - first for i in here]
        tokens = torch.tensor([wanted[i][1] for i in here], device=device)
        log_probs, finite = vocabulary.token_log_probs(logits, torch.tensor(at, device=device), tokens)
        for i, value in zip(here, log_probs.tolist(), strict=True):
            values[i] = value
        good = finite.tolist()
        broken |= {wanted[i][2] for i, row in zip(here, at, strict=True) if not good[row]}
    given = iter(values)
    scores = [
        {
            name: tuple(
                tuple(next(given) for _ in range(options.start, len(sequence)))
                for sequence in options.sequences
            )
            for name, options in ask.options.items()
        }
        for ask in asks
    ]
    return scores, broken


def place_targets(
    model: Any, batch: Batch, asks: Sequence[Ask], prefilled: Prefilled, decoding: Decoding
) -> tuple[list[Exact], set[int]]:
    """Ranks and distributions from float32 products, and the asks of which some logits were not finite."""
    outcomes = [Exact({}, None, ()) for _ in asks]
    names: dict[int, list[tuple[int, str]]] = {}
    distributions: dict[int, list[int]] = {}
    for index, ask in enumerate(asks):
        for name, target in ask.targets.items():
            names.setdefault(batch.read(index, target.prefix), []).append((index, name))
        if ask.distribution is not None:
            distributions.setdefault(batch.read(index, ask.distribution), []).append(index)
    reads = sorted({*names, *distributions})
    broken: set[int] = set()
    for first in range(0, len(reads), head.FLOAT32_ROWS):
        members = reads[first : first + head.FLOAT32_ROWS]
        states = prefilled.states[torch.tensor(members, device=prefilled.states.device)]
        logits = head.read_logits(model, states, prefilled.output_type, float32_product=True)
        for row, read in zip(logits, members, strict=True):
            asked = names.get(read, [])
            tokens = [asks[index].targets[name].token for index, name in asked]
            placements, finite = vocabulary.place(row, tokens)
            for (index, name), placement in zip(asked, placements, strict=True):
                outcomes[index].placements[name] = placement
            for index in distributions.get(read, []):
                found, references = vocabulary.distribution(
                    row, decoding.top_tokens, asks[index].reference_tokens
                )
                outcomes[index] = Exact(outcomes[index].placements, found, references)
            if not finite:
                broken |= {index for index, _ in asked} | set(distributions.get(read, []))
    return outcomes, broken
