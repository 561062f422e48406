"""Integers of a few bits packed without gaps into 32-bit words, as packed checkpoints store them."""

from __future__ import annotations

import torch

WORD = 32


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes [rows, n] uint8 into [rows, ⌈n·bits / 32⌉] int32.

    The first code is in the lowest bits; a code may span two words. compressed-tensors reads this layout for any number
    of bits since 0.19, and for 2, 4 and 8 bits before; GPTQ checkpoints have it too.
    """
    rows, count = codes.shape
    padded = torch.nn.functional.pad(codes.long(), (0, -count % WORD))
    starts = torch.arange(padded.shape[1], device=codes.device) * bits
    shifted = padded << (starts % WORD)  # up to 39 bits
    words = torch.zeros(rows, padded.shape[1] * bits // WORD + 1, dtype=torch.int64, device=codes.device)
    index = (starts // WORD).expand(rows, -1)
    words.scatter_add_(1, index, shifted & 0xFFFFFFFF)
    words.scatter_add_(1, index + 1, shifted >> WORD)
    words = words[:, : -(-count * bits // WORD)]
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Undo `pack`: [rows, ⌈count·bits / 32⌉] int32 to [rows, count] uint8."""
    long = torch.nn.functional.pad(words.long() & 0xFFFFFFFF, (0, 1))
    starts = torch.arange(count, device=words.device) * bits
    index, offset = starts // WORD, starts % WORD
    pairs = long[:, index] | (long[:, index + 1] << WORD)
    codes: torch.Tensor = (pairs >> offset) & (2**bits - 1)
    return codes.to(torch.uint8)
