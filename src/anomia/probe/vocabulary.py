"""Reading logits: probabilities, the top tokens, the rank of a given token.

Vocabularies reach a quarter of a million entries, so choosing tokens carelessly costs as much as computing logits.
Here each row is summarized once by blocks of 64 entries, a few rows at a time in float32 so that they stay in the
processor's cache; everything else looks into single blocks. The `k` largest entries of a row are in the `k` blocks
with the largest maxima, so there is no sort or selection over the vocabulary, and no float32 copy of all logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anomia.probe.ask import Distribution, Placement

BLOCK = 64
_CPU_ELEMENTS = 2**20
_DEVICE_ELEMENTS = 2**25


class Summary(NamedTuple):
    """Rows of logits summarized by blocks; the last block is padded with −inf.

    logits: [N, V], as given. peaks: [N, blocks], the largest logit of each block, float32.
    best: [N], the largest logit of each row. sums: [N, blocks], the sum of exp((logit − best) / temperature).
    totals: [N], `sums` summed over blocks, float64. finite: [N], False where any logit is NaN or infinite.
    """

    logits: Tensor
    temperature: float
    peaks: Tensor
    best: Tensor
    sums: Tensor
    totals: Tensor
    finite: Tensor

    @property
    def log_normalizer(self) -> Tensor:
        """The logsumexp of each row [N] at temperature 1: a token's log-probability is its logit minus this."""
        assert self.temperature == 1.0
        return self.best + self.totals.log().float()


def summarize(logits: Tensor, temperature: float = 1.0) -> Summary:
    """Summarizes logits [N, V] of any dtype; each row is first converted to float32."""
    count, size = logits.shape
    blocks = -(-size // BLOCK)
    peaks, sums = (logits.new_empty(count, blocks, dtype=torch.float32) for _ in range(2))
    best, lowest = (logits.new_empty(count, dtype=torch.float32) for _ in range(2))
    at_once = max(1, (_CPU_ELEMENTS if logits.device.type == "cpu" else _DEVICE_ELEMENTS) // size)
    for first in range(0, count, at_once):
        rows = slice(first, min(first + at_once, count))
        values = logits[rows].to(torch.float32, copy=True)
        lowest[rows] = values.amin(-1)
        if size % BLOCK:
            values = functional.pad(values, (0, -size % BLOCK), value=-torch.inf)
        in_blocks = values.view(len(values), blocks, BLOCK)
        torch.amax(in_blocks, -1, out=peaks[rows])
        torch.amax(peaks[rows], -1, out=best[rows])
        if temperature != 1.0:
            values.sub_(best[rows, None]).div_(temperature)
        # On CPUs softmax computes exponentials faster than `exp`. Its division is undone with the share of the top
        # token, which is exp(0) before the division.
        shares = values.softmax(-1).view_as(in_blocks)
        likeliest_block = peaks[rows].argmax(-1)
        highest = shares[torch.arange(len(shares), device=shares.device), likeliest_block].amax(-1)
        torch.sum(shares, -1, out=sums[rows])
        sums[rows].div_(highest[:, None])
    totals = sums.sum(-1, dtype=torch.float64)
    return Summary(logits, temperature, peaks, best, sums, totals, lowest.isfinite() & best.isfinite())


def block_logits(summary: Summary, rows: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The logits and tokens, both [n, 64], of `blocks` [n] of `rows` [n]; −inf beyond the vocabulary."""
    size = summary.logits.shape[1]
    tokens = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)
    values = summary.logits[rows[:, None], tokens.clamp(max=size - 1)].float()
    return values.masked_fill_(tokens >= size, -torch.inf), tokens


def weights(summary: Summary, rows: Tensor, values: Tensor) -> Tensor:
    """exp((logit − best) / temperature) in float64, for logits `values` [n, …] of `rows` [n]."""
    scaled = (values - summary.best[rows].view(-1, *(1,) * (values.ndim - 1))) / summary.temperature
    return scaled.exp().double()


def argmax(summary: Summary) -> Tensor:
    """The token with the largest logit of each row, [N]; of ties the lowest, as in `torch.argmax`."""
    rows = torch.arange(len(summary.best), device=summary.best.device)
    block = summary.peaks.argmax(-1)
    members, _ = block_logits(summary, rows, block)
    return block * BLOCK + members.argmax(-1)


def likeliest(summary: Summary, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest logits of `rows` [n] in descending order, and their tokens: both [n, count]."""
    count = min(count, summary.logits.shape[1])
    chosen = summary.peaks[rows].topk(min(count, summary.peaks.shape[1]), sorted=False).indices
    values, tokens = block_logits(summary, rows.repeat_interleave(chosen.shape[1]), chosen.flatten())
    size = (len(rows), chosen.shape[1] * BLOCK)
    top = values.view(size).topk(count)
    return top.values, tokens.view(size).gather(1, top.indices)


def place(summary: Summary, tokens: Sequence[int]) -> list[Placement]:
    """Ranks tokens in the next-token distribution of a one-row summary."""
    logits = summary.logits[0].float()
    placements = []
    for token in tokens:
        logit = logits[token]
        placements.append(
            Placement(
                rank=1 + int(_count_true(logits > logit)),
                ties=int(_count_true(logits == logit)) - 1,
                log_prob=float(logit - summary.log_normalizer[0]),
                margin=float(summary.best[0] - logit),
            )
        )
    return placements


def first_rows(summary: Summary, count: int) -> Summary:
    """The first `count` rows of a summary."""
    rows = slice(count)
    return summary._replace(
        **{
            name: getattr(summary, name)[rows]
            for name in ("logits", "peaks", "best", "sums", "totals", "finite")
        }
    )


def place_each(summary: Summary, tokens: Sequence[int]) -> list[Placement]:
    """Ranks one token in each row of a summary [N]; `tokens` [N]."""
    logits = summary.logits
    chosen = torch.tensor(tokens, device=logits.device)[:, None]
    own = logits.gather(1, chosen).float()
    above = _count_true(logits > own)
    equal = _count_true(logits == own) - 1
    log_probs = own[:, 0] - summary.log_normalizer
    margins = summary.best - own[:, 0]
    columns = (1 + above, equal, log_probs, margins)
    return [Placement(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _count_true(mask: Tensor) -> Tensor:
    """The number of true entries in each row of a mask [..., V]: [...]. On CPUs, `sum` first widens each entry."""
    if mask.device.type != "cpu":
        return mask.sum(-1)
    return torch.as_tensor(np.count_nonzero(mask.numpy(), axis=-1))


def distributions(summary: Summary, count: int) -> list[Distribution]:
    """The top `count` tokens of each row of a summary. Ties are ordered by token id."""
    normalizer = summary.log_normalizer
    values, tokens = likeliest(summary, torch.arange(len(normalizer), device=normalizer.device), count)
    log_probs = values - normalizer[:, None]
    tails = (1.0 - log_probs.double().exp().sum(-1)).clamp(min=0.0).tolist()
    found = []
    for row, (own, chosen) in enumerate(zip(log_probs.tolist(), tokens.tolist(), strict=True)):
        ordered = sorted((-value, token) for value, token in zip(own, chosen, strict=True))
        found.append(
            Distribution(
                tuple(token for _, token in ordered), tuple(-value for value, _ in ordered), tails[row]
            )
        )
    return found


def distribution(
    summary: Summary, count: int, asked: Sequence[int]
) -> tuple[Distribution, tuple[float, ...]]:
    """The top `count` tokens of a one-row summary, and the log-probabilities of the tokens `asked`."""
    [normalizer] = summary.log_normalizer
    [found] = distributions(summary, count)
    return found, tuple((summary.logits[0, list(asked)].float() - normalizer).tolist())
