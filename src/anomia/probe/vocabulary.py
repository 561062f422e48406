"""What is read from logits: probabilities, the likeliest tokens, the place of a given token.

Vocabularies reach a quarter of a million entries, so choosing tokens costs as much as making logits where
it is done carelessly. Here a few rows at a time are converted to float32 (so that they stay in the
processor's cache), and each row is summed up by blocks of 64 entries. The `k` largest entries of a row lie
in the `k` blocks with the largest maxima, so neither a sort nor a selection over the vocabulary is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anomia.probe.ask import Distribution, Placement

BLOCK = 64
_CPU_ELEMENTS = 2**20
_DEVICE_ELEMENTS = 2**26


class Rows(NamedTuple):
    """Some rows of logits in float32, padded with −inf to whole blocks.

    logits: [r, blocks × 64]. peaks: [r, blocks], the largest logit of each block. best: [r], the largest.
    finite: [r], False where any logit is NaN or infinite.
    """

    logits: Tensor
    peaks: Tensor
    best: Tensor
    finite: Tensor


class Weights(NamedTuple):
    """Unnormalized probabilities of `Rows`: exp((logit − best) / temperature).

    values: [r, blocks × 64]. block_sums: [r, blocks]. totals: [r], float64.
    """

    values: Tensor
    block_sums: Tensor
    totals: Tensor


def in_rows(logits: Tensor) -> Iterator[tuple[slice, Rows]]:
    """Logits [N, V] of any dtype, a few rows at a time."""
    count, size = logits.shape
    at_once = max(1, (_CPU_ELEMENTS if logits.device.type == "cpu" else _DEVICE_ELEMENTS) // size)
    for first in range(0, count, at_once):
        place = slice(first, min(first + at_once, count))
        piece = logits[place].float()
        lowest = piece.amin(-1)
        if size % BLOCK:
            piece = torch.nn.functional.pad(piece, (0, -size % BLOCK), value=-torch.inf)
        peaks = in_blocks(piece).amax(-1)
        best = peaks.amax(-1)
        yield place, Rows(piece, peaks, best, lowest.isfinite() & best.isfinite())


def in_blocks(padded: Tensor) -> Tensor:
    """[r, blocks × 64] as [r, blocks, 64]."""
    return padded.view(len(padded), -1, BLOCK)


def weigh(rows: Rows, temperature: float = 1.0) -> Weights:
    """The rows' unnormalized probabilities at a temperature."""
    values = rows.logits - rows.best[:, None]
    if temperature != 1.0:
        values.div_(temperature)
    values.exp_()
    block_sums = in_blocks(values).sum(-1)
    return Weights(values, block_sums, block_sums.sum(-1, dtype=torch.float64))


def log_normalizer(rows: Rows, weights: Weights) -> Tensor:
    """logsumexp of each row [r], float32: a token's log-probability is its logit minus this."""
    return rows.best + weights.totals.log().float()


def likeliest(rows: Rows, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest logits of each row in falling order, and their tokens: both [r, count]."""
    blocks = min(count, rows.peaks.shape[1])
    chosen = rows.peaks.topk(blocks, sorted=False).indices  # [r, blocks]
    inside = torch.arange(BLOCK, device=chosen.device)
    candidates = (chosen[:, :, None] * BLOCK + inside).flatten(1)
    top = rows.logits.gather(1, candidates).topk(count)
    return top.values, candidates.gather(1, top.indices)


def argmax(rows: Rows) -> Tensor:
    """The largest logit's token [r]; the lowest of those that tie, as `torch.argmax` has it."""
    block = rows.peaks.argmax(-1)
    members = in_blocks(rows.logits)[torch.arange(len(block), device=block.device), block]
    return block * BLOCK + members.argmax(-1)


def token_log_probs(logits: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [M] of `tokens` [M], each in the row of `logits` [N, V] that `rows` [M] names.

    Also whether each row is finite [N]. Rows are converted to float32 before the softmax.
    """
    normalizers, finite = [], []
    for _, piece in in_rows(logits):
        normalizers.append(log_normalizer(piece, weigh(piece)))
        finite.append(piece.finite)
    return logits[rows, tokens].float() - torch.cat(normalizers)[rows], torch.cat(finite)


def place(logits: Tensor, tokens: Sequence[int]) -> tuple[list[Placement], bool]:
    """Where tokens stand in a next-token distribution, `logits` [V] in float32, and whether it is finite."""
    [(_, rows)] = in_rows(logits[None])
    normalizer = log_normalizer(rows, weigh(rows))[0]
    placements = []
    for token in tokens:
        logit = logits[token]
        placements.append(
            Placement(
                rank=1 + int((logits > logit).sum()),
                ties=int((logits == logit).sum()) - 1,
                log_prob=float(logit - normalizer),
                margin=float(rows.best[0] - logit),
            )
        )
    return placements, bool(rows.finite[0])


def distribution(logits: Tensor, count: int, asked: Sequence[int]) -> tuple[Distribution, tuple[float, ...]]:
    """The `count` likeliest tokens of `logits` [V], and the log-probabilities of the tokens `asked`.

    Equal logits stand in the order of their tokens.
    """
    [(_, rows)] = in_rows(logits[None])
    normalizer = log_normalizer(rows, weigh(rows))[0]
    values, tokens = likeliest(rows, min(count, len(logits)))
    ordered = sorted(zip((values[0] - normalizer).tolist(), tokens[0].tolist(), strict=True), key=_falling)
    tail = 1.0 - float((values[0] - normalizer).double().exp().sum())
    return (
        Distribution(
            tuple(token for _, token in ordered), tuple(value for value, _ in ordered), max(0.0, tail)
        ),
        tuple((logits[list(asked)] - normalizer).tolist()),
    )


def _falling(entry: tuple[float, int]) -> tuple[float, int]:
    return -entry[0], entry[1]
