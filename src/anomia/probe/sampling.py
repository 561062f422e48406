"""Nucleus sampling that depends only on the seed, the item, the sample's index and the step.

The nucleus is the smallest set of top tokens whose total probability reaches `top_p` (Holtzman et al. 2020), as
computed by `TopPLogitsWarper` of `transformers`: a token belongs to it if the likelier tokens total less than
`top_p`. Of tied tokens, the one with the higher id counts as likelier.

A token is drawn from the whole distribution and redrawn until it is in the nucleus. This gives exactly the nucleus
distribution, needs no sort however wide the nucleus is, and takes at most 1 / top_p draws on average.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anomia.probe.transfer import to_device, to_host
from anomia.probe.vocabulary import BLOCK, Summary, block_logits, weights

DRAWS_AT_ONCE = 16
"""Draws that are checked together; bounds memory when distributions are flat and nuclei wide."""
ATTEMPTS_AT_ONCE = 3
"""Attempts per draw on devices where reading a result back makes the program wait. With p = 0.9, one draw in 1,000
needs a fourth attempt."""


class Stream(NamedTuple):
    """The random numbers of one step of one sample."""

    seed: int
    item_id: str
    sample: int
    step: int


def uniform(stream: Stream, attempt: int) -> float:
    """A number in [0, 1) that depends only on the arguments: 53 bits of their hash."""
    text = "\x1f".join((str(stream.seed), stream.item_id, str(stream.sample), str(stream.step), str(attempt)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


class Attempt(NamedTuple):
    """Drawn tokens [n], whether each is in the nucleus [n], and the number of attempts made per draw so far."""

    tokens: Tensor
    kept: Tensor
    tried: int


def draw(
    summary: Summary, wanted: Sequence[int], streams: Sequence[Stream], top_p: float, *, tried: int = 0
) -> list[int]:
    """Draws one token for each stream i from the nucleus of row `wanted[i]`, after `tried` earlier attempts.

    A non-finite row yields an arbitrary token; its replies are meaningless anyway.
    """
    drawn = [0] * len(streams)
    waiting = list(range(len(streams)))
    while waiting:
        made = attempt(
            summary,
            [wanted[index] for index in waiting],
            [streams[index] for index in waiting],
            top_p,
            tried=tried,
        )
        tokens, kept = to_host(made.tokens, made.kept)
        for index, token in zip(waiting, tokens, strict=True):
            drawn[index] = token
        waiting = [index for index, keep in zip(waiting, kept, strict=True) if not keep]
        tried = made.tried
    return drawn


def attempt(
    summary: Summary,
    wanted: Sequence[int],
    streams: Sequence[Stream],
    top_p: float,
    *,
    tried: int = 0,
    at_once: bool | None = None,
) -> Attempt:
    """Draws for each stream without waiting for the device: tokens [streams], and which are in the nucleus.

    summary: of logits [rows, V]. wanted: the row of each stream. at_once: makes several attempts per stream and
    checks them over whole rows, so that no shape depends on values; the default except on CPUs, where one attempt
    at a time is less work. The drawn tokens are the same.
    """
    device = summary.sums.device
    at_once = device.type != "cpu" if at_once is None else at_once
    times = ATTEMPTS_AT_ONCE if at_once else 1
    in_nucleus = _in_nucleus_by_rows if at_once else _in_nucleus
    rows = to_device(wanted, device, torch.long)
    numbers = [[uniform(stream, tried + time) for time in range(times)] for stream in streams]
    aims = to_device(numbers, device, torch.float64).view(len(rows), times) * summary.totals[rows, None]
    rows = rows.repeat_interleave(times)
    tokens = _invert(summary, rows, aims.flatten())
    kept = torch.empty(len(rows), dtype=torch.bool, device=device)
    for first in range(0, len(rows), DRAWS_AT_ONCE):
        some = slice(first, first + DRAWS_AT_ONCE)
        kept[some] = in_nucleus(summary, rows[some], tokens[some], top_p)
    kept |= ~summary.finite[rows]
    by_time = kept.view(-1, times)
    earliest = by_time.int().argmax(1, keepdim=True)  # the first attempt that is kept, else the first one
    return Attempt(
        tokens.view(-1, times).gather(1, earliest)[:, 0], by_time.gather(1, earliest)[:, 0], tried + times
    )


def _invert(summary: Summary, rows: Tensor, aims: Tensor) -> Tensor:
    """The tokens [n] at which the cumulative weights of `rows` [n] exceed `aims` [n]."""
    cumulative = summary.sums[rows].cumsum(-1, dtype=torch.float64)  # [n, blocks]
    block = torch.searchsorted(cumulative, aims[:, None], right=True)[:, 0].clamp_(
        max=cumulative.shape[1] - 1
    )
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp_(min=0)[:, None])[:, 0], 0.0)
    logits, tokens = block_logits(summary, rows, block)
    members = weights(summary, rows, logits).cumsum(-1)
    inside = torch.searchsorted(members, (aims - before)[:, None], right=True).clamp_(max=BLOCK - 1)
    return tokens.gather(1, inside)[:, 0].clamp_(max=summary.logits.shape[1] - 1)


def _in_nucleus(summary: Summary, rows: Tensor, tokens: Tensor, top_p: float) -> Tensor:
    """Whether each token [n] is in the nucleus of its row [n]: the likelier tokens total less than `top_p`.

    Only blocks with a peak at least as large as the token's logit can contain likelier tokens.
    """
    own = summary.logits[rows, tokens].float()
    place, block = (summary.peaks[rows] >= own[:, None]).nonzero().unbind(1)
    logits, others = block_logits(summary, rows[place], block)
    likelier = (logits > own[place, None]) | ((logits == own[place, None]) & (others > tokens[place, None]))
    mass = torch.where(likelier, weights(summary, rows[place], logits), 0.0).sum(-1)
    above = torch.zeros(len(rows), dtype=torch.float64, device=rows.device).index_add_(0, place, mass)
    possible = weights(summary, rows, own) > 0
    return (above < top_p * summary.totals[rows]) & possible


def _in_nucleus_by_rows(summary: Summary, rows: Tensor, tokens: Tensor, top_p: float) -> Tensor:
    """`_in_nucleus` over whole rows: more arithmetic, but no shape depends on values, so nothing waits."""
    own = summary.logits[rows, tokens].float()
    logits = summary.logits[rows].float()  # [n, V]
    others = torch.arange(logits.shape[1], device=rows.device)
    likelier = (logits > own[:, None]) | ((logits == own[:, None]) & (others > tokens[:, None]))
    mass = torch.where(likelier, weights(summary, rows, logits), 0.0).sum(-1)
    possible = weights(summary, rows, own) > 0
    return (mass < top_p * summary.totals[rows]) & possible
