"""Nucleus sampling that depends on nothing but the item, the sample's number and the step.

The nucleus is the smallest set of likeliest tokens that together hold probability `top_p` (Holtzman et al.
2020), as `transformers`' `TopPLogitsWarper` computes it: a token belongs to it if those that are likelier
hold less than `top_p`. Of tokens that tie, the higher one counts as the likelier.

A token is drawn from the whole distribution and kept if it lies in the nucleus, else drawn again. That
gives the nucleus' distribution exactly, needs no sort however wide the nucleus is, and takes 1 / top_p
draws on average.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anomia.probe.vocabulary import BLOCK, Rows, Weights, in_blocks


class Stream(NamedTuple):
    """The random numbers of one step of one sample."""

    seed: int
    item_id: str
    sample: int
    step: int


def uniform(stream: Stream, attempt: int) -> float:
    """A number in [0, 1) that is a function of its arguments alone: 53 bits of a hash of them."""
    text = "\x1f".join((str(stream.seed), stream.item_id, str(stream.sample), str(stream.step), str(attempt)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def draw(
    rows: Rows, weights: Weights, wanted: Sequence[int], streams: Sequence[Stream], top_p: float
) -> list[int]:
    """One token for each stream, from the nucleus of row `wanted[i]`.

    A row that isn't finite yields some token: what is drawn from it is meaningless anyway.
    """
    cumulative = weights.block_sums.cumsum(-1, dtype=torch.float64)  # [r, blocks]
    drawn = [0] * len(streams)
    waiting = [index for index, row in enumerate(wanted) if bool(rows.finite[row])]
    attempt = 0
    while waiting:
        row = torch.tensor([wanted[index] for index in waiting], device=cumulative.device)
        numbers = [uniform(streams[index], attempt) for index in waiting]
        aims = torch.tensor(numbers, dtype=torch.float64, device=cumulative.device) * weights.totals[row]
        tokens = _invert(weights, cumulative[row], row, aims)
        kept = _in_nucleus(rows, weights, row, tokens, top_p).tolist()
        for index, token, keep in zip(waiting, tokens.tolist(), kept, strict=True):
            if keep:
                drawn[index] = token
        waiting = [index for index, keep in zip(waiting, kept, strict=True) if not keep]
        attempt += 1
    return drawn


def _invert(weights: Weights, cumulative: Tensor, row: Tensor, aims: Tensor) -> Tensor:
    """The tokens [n] at which the running sum of the weights of `row` [n] passes `aims` [n]."""
    block = torch.searchsorted(cumulative, aims[:, None], right=True)[:, 0].clamp_(
        max=cumulative.shape[1] - 1
    )
    members = in_blocks(weights.values)[row, block].cumsum(-1, dtype=torch.float64)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp_(min=0)[:, None])[:, 0], 0.0)
    inside = torch.searchsorted(members, (aims - before)[:, None], right=True)[:, 0].clamp_(max=BLOCK - 1)
    return block * BLOCK + inside


def _in_nucleus(rows: Rows, weights: Weights, row: Tensor, tokens: Tensor, top_p: float) -> Tensor:
    """Whether each token [n] lies in the nucleus of its row [n]."""
    own = weights.values[row, tokens]
    totals = weights.totals[row]
    # Blocks without anything likelier hold only mass that counts as below. That settles most draws without
    # a pass over the vocabulary.
    without = rows.peaks[row] < rows.logits[row, tokens][:, None]
    below = torch.where(without, weights.block_sums[row], 0.0).sum(-1, dtype=torch.float64)
    kept = (below > (1 - top_p) * totals) & (own > 0)
    for index in ((~kept) & (own > 0)).nonzero()[:, 0].tolist():
        values = weights.values[row[index]]
        likelier = values > own[index]
        likelier[tokens[index] + 1 :] |= values[tokens[index] + 1 :] == own[index]
        above = torch.where(likelier, values, 0.0).sum(dtype=torch.float64)
        kept[index] = above < top_p * totals[index]
    return kept
