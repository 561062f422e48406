"""Reads the teacher-forced positions of a batch: option scores, ranks, distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anomia.probe import vocabulary
from anomia.probe.ask import Ask, Decoding, Distribution, Followed, ForcedAnswer, Placement
from anomia.probe.head import FLOAT32_ROWS, LOGIT_ROWS, Head
from anomia.probe.prefill import TreeBatch

OptionScores = dict[str, tuple[tuple[float, ...], ...]]


class Exact(NamedTuple):
    """Values read from the float32 logits of one ask."""

    placements: dict[str, Placement]
    distribution: Distribution | None
    reference_log_probs: tuple[float, ...]


def score_options(
    head: Head, batch: TreeBatch, asks: Sequence[Ask], states: Tensor
) -> tuple[list[OptionScores], set[int]]:
    """The log-probability of every option token, and the indices of asks with non-finite logits.

    `states`: the hidden states [reads, H] from `prefill`.
    """
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
    device = states.device
    for first in range(0, len(reads), LOGIT_ROWS):
        rows = torch.tensor(reads[first : first + LOGIT_ROWS], device=device)
        logits = head.logits(states[rows])
        here = [i for i, (read, _, _) in enumerate(wanted) if first <= place[read] < first + len(rows)]
        at = [place[wanted[i][0]] - first for i in here]
        tokens = torch.tensor([wanted[i][1] for i in here], device=device)
        summary = vocabulary.summarize(logits)
        log_probs = logits[at, tokens].float() - summary.log_normalizer[at]
        for i, value in zip(here, log_probs.tolist(), strict=True):
            values[i] = value
        good = summary.finite.tolist()
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
    head: Head, batch: TreeBatch, asks: Sequence[Ask], states: Tensor, decoding: Decoding
) -> tuple[list[Exact], set[int]]:
    """Ranks and distributions from the hidden states [reads, H], with the head's product in float32.

    Returns them by ask, and the indices of asks with non-finite logits.
    """
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
    for first in range(0, len(reads), FLOAT32_ROWS):
        members = reads[first : first + FLOAT32_ROWS]
        chosen = states[torch.tensor(members, device=states.device)]
        logits = head.logits(chosen, float32_product=True)
        for row, read in zip(logits, members, strict=True):
            asked = names.get(read, [])
            tokens = [asks[index].targets[name].token for index, name in asked]
            summary = vocabulary.summarize(row[None])
            placements = vocabulary.place(summary, tokens)
            for (index, name), placement in zip(asked, placements, strict=True):
                outcomes[index].placements[name] = placement
            for index in distributions.get(read, []):
                found, references = vocabulary.distribution(
                    summary, decoding.top_tokens, asks[index].reference_tokens
                )
                outcomes[index] = Exact(outcomes[index].placements, found, references)
            if not summary.finite[0]:
                broken |= {index for index, _ in asked} | set(distributions.get(read, []))
    return outcomes, broken


def follow(
    head: Head, batch: TreeBatch, asks: Sequence[Ask], states: Tensor, decoding: Decoding
) -> tuple[list[Followed | None], set[int]]:
    """What the model says along each ask's forced answer, from the hidden states [reads, H].

    Returns it by ask, and the indices of asks with non-finite logits.
    """
    found: list[Followed | None] = [None] * len(asks)
    broken: set[int] = set()
    for index, ask in enumerate(asks):
        if ask.forced is None:
            continue
        first = len(ask.forced.prompt) - 1
        reads = [
            batch.read(index, ask.forced.sequence, position)
            for position in range(first, len(ask.forced.sequence))
        ]
        found[index], finite = _along(head, ask.forced, states, reads, decoding)
        if not finite:
            broken.add(index)
    return found, broken


def _along(
    head: Head, forced: ForcedAnswer, states: Tensor, reads: Sequence[int], decoding: Decoding
) -> tuple[Followed, bool]:
    """`Followed` for one answer of T tokens, and whether all logits are finite.

    states: [reads of the batch, H]. reads: the rows of the answer's T + 1 positions.
    """
    placements: list[Placement] = []
    best: list[int] = []
    ends: list[float] = []
    distributions: list[Distribution] = []
    references: list[tuple[float, ...]] = []
    finite = True
    end_tokens = torch.tensor(decoding.eos_token_ids, device=states.device, dtype=torch.long)
    for start in range(0, len(reads), FLOAT32_ROWS):
        rows = torch.tensor(reads[start : start + FLOAT32_ROWS], device=states.device)
        logits = head.logits(states[rows], float32_product=True)
        summary = vocabulary.summarize(logits)
        finite &= bool(summary.finite.all())
        best += vocabulary.argmax(summary).tolist()
        ends += (logits[:, end_tokens].float().logsumexp(-1) - summary.log_normalizer).tolist()
        tokens = forced.tokens[start : start + len(rows)]
        if tokens:
            kept = vocabulary.first_rows(summary, len(tokens))
            placements += vocabulary.place_each(kept, tokens)
        if forced.references:
            for row, asked in enumerate(forced.references[start : start + len(rows)]):
                references.append(
                    tuple((logits[row, list(asked)].float() - summary.log_normalizer[row]).tolist())
                )
        else:
            distributions += vocabulary.distributions(summary, decoding.forced_top_tokens)
    return (
        Followed(tuple(placements), tuple(best), tuple(ends), tuple(distributions), tuple(references)),
        finite,
    )
