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

from anomia.probe.vocabulary import BLOCK, Summary, block_logits, weights

DRAWS_AT_ONCE = 16
"""Draws that are checked together: bounds memory where distributions are flat and nuclei wide."""


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


def draw(summary: Summary, wanted: Sequence[int], streams: Sequence[Stream], top_p: float) -> list[int]:
    """One token for each stream, from the nucleus of row `wanted[i]`.

    A row that isn't finite yields some token: what is drawn from it is meaningless anyway.
    """
    device = summary.sums.device
    drawn = [0] * len(streams)
    finite = summary.finite.tolist()
    waiting = [index for index, row in enumerate(wanted) if finite[row]]
    attempt = 0
    while waiting:
        rows = torch.tensor([wanted[index] for index in waiting], device=device)
        numbers = [uniform(streams[index], attempt) for index in waiting]
        aims = torch.tensor(numbers, dtype=torch.float64, device=device) * summary.totals[rows]
        tokens = _invert(summary, rows, aims)
        kept = [
            keep
            for some in range(0, len(rows), DRAWS_AT_ONCE)
            for keep in _in_nucleus(
                summary, rows[some : some + DRAWS_AT_ONCE], tokens[some : some + DRAWS_AT_ONCE], top_p
            )
        ]
        for index, token, keep in zip(waiting, tokens.tolist(), kept, strict=True):
            if keep:
                drawn[index] = token
        waiting = [index for index, keep in zip(waiting, kept, strict=True) if not keep]
        attempt += 1
    return drawn


def _invert(summary: Summary, rows: Tensor, aims: Tensor) -> Tensor:
    """The tokens [n] at which the running sums of the weights of `rows` [n] pass `aims` [n]."""
    cumulative = summary.sums[rows].cumsum(-1, dtype=torch.float64)  # [n, blocks]
    block = torch.searchsorted(cumulative, aims[:, None], right=True)[:, 0].clamp_(
        max=cumulative.shape[1] - 1
    )
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp_(min=0)[:, None])[:, 0], 0.0)
    logits, tokens = block_logits(summary, rows, block)
    members = weights(summary, rows, logits).cumsum(-1)
    inside = torch.searchsorted(members, (aims - before)[:, None], right=True).clamp_(max=BLOCK - 1)
    return tokens.gather(1, inside)[:, 0].clamp_(max=summary.logits.shape[1] - 1)


def _in_nucleus(summary: Summary, rows: Tensor, tokens: Tensor, top_p: float) -> list[bool]:
    """Whether each token [n] lies in the nucleus of its row [n]: what is likelier holds less than `top_p`.

    All that is likelier stands in blocks whose peak is at least as large.
    """
    own = summary.logits[rows, tokens].float()
    place, block = (summary.peaks[rows] >= own[:, None]).nonzero().unbind(1)
    logits, others = block_logits(summary, rows[place], block)
    likelier = (logits > own[place, None]) | ((logits == own[place, None]) & (others > tokens[place, None]))
    mass = torch.where(likelier, weights(summary, rows[place], logits), 0.0).sum(-1)
    above = torch.zeros(len(rows), dtype=torch.float64, device=rows.device).index_add_(0, place, mass)
    possible = weights(summary, rows, own) > 0
    kept: list[bool] = ((above < top_p * summary.totals[rows]) & possible).tolist()
    return kept
