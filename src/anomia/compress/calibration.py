"""Calibration text and its windows: one passage, one unpadded window, cut at the token limit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch

from anomia.compress.options import WINDOW_TOKENS, TextOptions
from anomia.compress.overlap import build_sieve
from anomia.compress.sources import open_source, take
from anomia.errors import DataError
from anomia.words import counted


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Passages for calibration, as chosen.

    source: canonical name of where they come from. languages: one a passage, `""` if unknown.
    asked: passages wanted, `None` for all. removed: passages left out for overlapping evaluation passages.
    text_hash: SHA-256 over the passages in order.
    """

    source: str
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    text_hash: str
    asked: int | None = None
    removed: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """What a run stores about its calibration. token_hash: SHA-256 over all windows' token ids."""

    source: str
    asked: int | None
    passages: int
    removed: int
    tokens: int
    longest_window: int
    token_limit: int
    token_budget: int | None
    tokens_by_language: Mapping[str, int]
    text_hash: str
    token_hash: str
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Windows:
    """Token windows of different lengths, longest `record.longest_window`; languages: one a window."""

    token_ids: tuple[tuple[int, ...], ...] = field(repr=False)
    languages: tuple[str, ...] = field(repr=False)
    record: CalibrationRecord


class Batch(NamedTuple):
    """Windows side by side. Right padding needs no mask: no token of a causal model sees what follows it.

    input_ids: [B, S] int64. real: [B·S] bool, False on padding; `None` where there is none.
    languages: one a window.
    """

    input_ids: torch.Tensor
    real: torch.Tensor | None
    languages: tuple[str, ...]


def read_calibration(text: TextOptions) -> CalibrationText:
    """Choose the passages of a source, in its order, without those that overlap evaluation passages.

    A passage that is left out is replaced by the next one of the source. Raises `DataError` when nothing is left,
    `StudyError` for an unknown source.
    """
    source = text.source
    sieve = build_sieve(text.evaluation_passages)
    opened = open_source(text)
    passages, removed, missing = take(opened, lambda passage: not sieve.catches(passage))
    if not passages:
        raise DataError(
            f"calibration={source} has no passage"
            + (f" that shares no text with the {removed} evaluated ones" if removed else "")
            + "; give another source"
        )
    asked = None if opened.asked is None else opened.asked * len(opened.streams)
    warnings = []
    if missing:
        short = _counts(passage.language for passage in passages)
        warnings.append(
            f"calibration={source}: {counted(len(passages), 'passage')} of the {asked} asked for ({short})"
        )
    if removed:
        share = counted(removed, "passage that shares", "passages that share")
        warnings.append(f"calibration={source}: left out {share} text with evaluation")
    if repeated := len(passages) - len({passage.text for passage in passages}):
        again = counted(repeated, "passage repeats another one", "passages repeat others")
        warnings.append(f"calibration={source}: {again}; each counts")
    name = f"own:{text.language}" if source == "own" else source
    return CalibrationText(
        source=name,
        texts=tuple(passage.text for passage in passages),
        languages=tuple(passage.language for passage in passages),
        text_hash=_hash(passage.text.encode() for passage in passages),
        asked=asked,
        removed=removed,
        warnings=tuple(warnings),
    )


def make_windows(
    text: CalibrationText,
    tokenizer: Any,
    *,
    tokens: int = WINDOW_TOKENS,
    budget: int | None = None,
    positions: int | None = None,
) -> Windows:
    """Encode every passage by itself (with the tokenizer's own special tokens) and cut it at `tokens`.

    budget: total tokens over all windows; the passage that reaches it is cut there. Two sources with the
    same budget can be compared. A passage of fewer than two tokens is dropped, with a warning.
    positions: the longest text that the model takes; passages are cut there, with a warning.
    """
    longest = tokens if positions is None else min(tokens, positions)
    windows: list[tuple[int, ...]] = []
    languages: list[str] = []
    warnings = list(text.warnings)
    left = budget
    tiny = cut = 0
    for passage, language in zip(text.texts, text.languages, strict=True):
        limit = longest if left is None else min(longest, left)
        if limit < 2:
            break
        ids = tuple(tokenizer(passage, truncation=True, max_length=limit)["input_ids"])
        if len(ids) < 2:
            tiny += 1
            continue
        if len(ids) == longest < tokens and (left is None or left > longest):
            cut += len(tokenizer(passage, truncation=True, max_length=longest + 1)["input_ids"]) > longest
        windows.append(ids)
        languages.append(language)
        left = None if left is None else left - len(ids)
    if not windows:
        raise DataError(f"calibration={text.source}: no passage has two tokens; give longer text")
    if tiny:
        warnings.append(
            f"calibration={text.source}: dropped {counted(tiny, 'passage')} of fewer than two tokens"
        )
    if cut:
        were = counted(cut, "passage was", "passages were")
        warnings.append(
            f"calibration={text.source}: {were} cut to {counted(longest, 'token')}, the model's positions; "
            f"{tokens:,} were asked for"
        )
    if left is not None and left > 1:
        warnings.append(
            f"calibration={text.source}: {counted(left, 'token')} short of the budget of {budget}"
        )
    by_language: Counter[str] = Counter()
    for ids, language in zip(windows, languages, strict=True):
        by_language[language or "unknown"] += len(ids)
    record = CalibrationRecord(
        source=text.source,
        asked=text.asked,
        passages=len(windows),
        removed=text.removed,
        tokens=sum(map(len, windows)),
        longest_window=max(map(len, windows)),
        token_limit=longest,
        token_budget=budget,
        tokens_by_language=dict(by_language),
        text_hash=text.text_hash,
        token_hash=_hash(" ".join(map(str, ids)).encode() for ids in windows),
        warnings=tuple(warnings),
    )
    return Windows(tuple(windows), tuple(languages), record)


def make_batches(
    windows: Windows, *, batch_tokens: int = 4096, padded: bool = True, by_language: bool = False
) -> list[Batch]:
    """Lay windows of like length side by side, at most `batch_tokens` tokens a batch with its padding.

    padded=False puts only equal lengths together. by_language=True never mixes languages in a batch.
    The composition follows from the lengths alone; a window longer than `batch_tokens` stands by itself.
    """
    groups: list[list[int]] = []
    order = sorted(
        range(len(windows.token_ids)),
        key=lambda i: (windows.languages[i] if by_language else "", -len(windows.token_ids[i]), i),
    )
    for index in order:
        width = len(windows.token_ids[index])
        group = groups[-1] if groups else []
        fits = (
            bool(group)
            and (len(group) + 1) * len(windows.token_ids[group[0]]) <= batch_tokens
            and (padded or len(windows.token_ids[group[0]]) == width)
            and (not by_language or windows.languages[group[0]] == windows.languages[index])
        )
        if fits:
            group.append(index)
        else:
            groups.append([index])
    return [
        _batch([windows.token_ids[i] for i in group], tuple(windows.languages[i] for i in group))
        for group in groups
    ]


def _batch(rows: list[tuple[int, ...]], languages: tuple[str, ...]) -> Batch:
    width = len(rows[0])
    # Repeating a row's last token as padding needs no padding token, which many tokenizers lack.
    ids = torch.tensor([row + row[-1:] * (width - len(row)) for row in rows])  # [B, S]
    lengths = torch.tensor([len(row) for row in rows])
    real = (torch.arange(width) < lengths[:, None]).reshape(-1)  # [B·S]
    return Batch(ids, None if bool(real.all()) else real, languages)


def _counts(languages: Iterable[str]) -> str:
    return ", ".join(f"{name or 'unknown'} {count}" for name, count in Counter(languages).items())


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
