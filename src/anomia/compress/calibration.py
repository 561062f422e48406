"""Calibration text and its windows: each passage becomes one window without padding, cut at the token limit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch

from anomia.compress.answers import AnswerTokens, is_control
from anomia.compress.options import WINDOW_TOKENS, TextOptions
from anomia.compress.overlap import build_sieve
from anomia.compress.sources import open_source, take
from anomia.errors import DataError
from anomia.items.languages import UNKNOWN
from anomia.models.fingerprint import fingerprint_token_ids
from anomia.words import counted

# Shares of a text's tokens above which there is a warning: unknown ones, and the most frequent one.
_ODD_SHARE = 0.1
_ODD_MOST = 0.5


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """The chosen calibration passages.

    source: canonical name of the source. languages: one per passage, `""` if unknown. answers: the tokens of passages
    that are a prompt with its answer, one or None per passage; empty if none is.
    asked: number of requested passages, `None` for all. removed: passages excluded because they overlap evaluation
    passages. text_hash: SHA-256 over the passages in order.
    """

    source: str
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    text_hash: str
    asked: int | None = None
    removed: int = 0
    warnings: tuple[str, ...] = ()
    answers: tuple[AnswerTokens | None, ...] = ()


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """What a run stores about its calibration set. token_hash: SHA-256 over all windows' token ids.

    controls: how many of the passages are a prompt with the answer to another one.
    """

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
    controls: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Windows:
    """Token windows of different lengths, up to `record.longest_window` tokens. languages: one per window.

    answer_starts: where the answer starts in each window; None in a window without one. answer_weight: the weight of
    positions that predict an answer's tokens; others have 1.
    """

    token_ids: tuple[tuple[int, ...], ...] = field(repr=False)
    languages: tuple[str, ...] = field(repr=False)
    record: CalibrationRecord
    answer_starts: tuple[int | None, ...] = field(default=(), repr=False)
    answer_weight: float = 1.0


class Batch(NamedTuple):
    """A batch of windows. Right padding needs no mask, since tokens of a causal model don't see later tokens.

    input_ids: [B, S] int64. real: [B·S] bool, False on padding; `None` if there is no padding.
    languages: one per window. weights: of each position in sums over tokens, [B·S] float32; `None` if all are 1.
    starts: where the answer starts in each window, None in one without; empty if there is no answer in the text.
    """

    input_ids: torch.Tensor
    real: torch.Tensor | None
    languages: tuple[str, ...]
    weights: torch.Tensor | None = None
    starts: tuple[int | None, ...] = ()

    @property
    def predicting(self) -> torch.Tensor:
        """The positions that predict an answer's tokens, in windows without an answer all real ones: [B·S] bool."""
        counts = torch.ones_like(self.input_ids, dtype=torch.bool)
        real = counts if self.real is None else self.real.view(counts.shape)
        counts = real.clone()
        for row, mine, start in zip(counts, real, self.starts, strict=bool(self.starts)):
            if start is not None:
                row[: start - 1] = False
                # Nothing of the answer comes after its last token.
                row[int(mine.sum()) - 1 :] = False
        return counts.reshape(-1)


def read_calibration(text: TextOptions) -> CalibrationText:
    """Choose the passages of a source, in its order, excluding those that overlap evaluation passages.

    A passage that is excluded is replaced by the source's next one. Raises `DataError` if nothing is left, `StudyError`
    for an unknown source.
    """
    source = text.source
    sieve = build_sieve(text.evaluation_passages)
    opened = open_source(text)
    passages, removed, missing, empty = take(opened, lambda passage: not sieve.catches(passage))
    if not passages:
        raise DataError(
            f"calibration={source} has no passage"
            + (f" with text in its {counted(empty, 'row')}" if empty and not removed else "")
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
        warnings.append(f"calibration={source}: excluded {share} text with evaluation")
    if empty:
        rows = counted(empty, "row that has", "rows that have")
        warnings.append(f"calibration={source}: excluded {rows} no text")
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
        answers=tuple(passage.tokens for passage in passages) if any(p.tokens for p in passages) else (),
    )


def make_windows(
    text: CalibrationText,
    tokenizer: Any,
    *,
    tokens: int = WINDOW_TOKENS,
    budget: int | None = None,
    positions: int | None = None,
    answer_weight: float = 1.0,
) -> Windows:
    """Encode every passage separately (with the tokenizer's special tokens) and cut it at `tokens` tokens.

    A prompt with its answer keeps its own token ids; it is dropped, with a warning, if it is longer than `tokens`.

    budget: total tokens of all windows; the passage that reaches it is cut there. Two sources with the same budget can
    be compared. Passages with fewer than two tokens are dropped, with a warning.
    positions: the longest text in tokens that the model takes; passages are cut there, with a warning.
    answer_weight: the weight of positions that predict the tokens of an answer.
    Raises `DataError` if no window is left, or an answer was made with another tokenizer.
    """
    longest = tokens if positions is None else min(tokens, positions)
    windows: list[tuple[int, ...]] = []
    languages: list[str] = []
    warnings = list(text.warnings)
    left = budget
    starts: list[int | None] = []
    tiny = cut = unknown = long = controls = 0
    answers = text.answers or (None,) * len(text.texts)
    _check_tokenizer(text.source, answers, tokenizer)
    nothing = tuple(tokenizer("", truncation=True, max_length=longest)["input_ids"])
    for passage, language, answer in zip(text.texts, text.languages, answers, strict=True):
        limit = longest if left is None else min(longest, left)
        if limit < 2:
            break
        if answer is None:
            ids = tuple(tokenizer(passage, truncation=True, max_length=limit)["input_ids"])
        elif len(answer.ids) > longest:
            long += 1
            continue
        else:
            ids = answer.ids[:limit]
        if not ids or ids == nothing:
            unknown += 1
            continue
        if len(ids) < 2:
            tiny += 1
            continue
        if answer is None and len(ids) == longest < tokens and (left is None or left > longest):
            cut += len(tokenizer(passage, truncation=True, max_length=longest + 1)["input_ids"]) > longest
        windows.append(ids)
        languages.append(language)
        starts.append(None if answer is None or answer.start >= len(ids) else answer.start)
        controls += answer is not None and answer.answer_of is not None
        left = None if left is None else left - len(ids)
    if not windows and unknown and not tiny:
        raise DataError(
            f"calibration={text.source}: the tokenizer gives no token but special ones for any of its "
            f"{counted(unknown, 'passage')}; give text that it knows, or the model the tokenizer that it "
            "was trained with"
        )
    if not windows and long:
        raise DataError(
            f"calibration={text.source}: all {counted(long, 'prompt')} with their answers are longer than "
            f"{counted(longest, 'token')}; take longer windows (--calibration-tokens)"
        )
    if not windows:
        raise DataError(f"calibration={text.source}: no passage has two tokens; give longer text")
    if controls and not is_control(text.source):
        warnings.append(
            f"calibration={text.source}: {counted(controls, 'prompt is', 'prompts are')} followed by a control answer, "
            "the answer to another prompt"
        )
    if long:
        warnings.append(
            f"calibration={text.source}: dropped {counted(long, 'prompt')} with their answers, longer than "
            f"{counted(longest, 'token')}"
        )
    if unknown:
        warnings.append(
            f"calibration={text.source}: dropped {counted(unknown, 'passage')} for which the tokenizer has no token"
        )
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
    warnings += _odd_tokens(text.source, windows, getattr(tokenizer, "unk_token_id", None))
    by_language: Counter[str] = Counter()
    for ids, language in zip(windows, languages, strict=True):
        by_language[language or UNKNOWN] += len(ids)
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
        controls=controls,
    )
    return Windows(
        tuple(windows),
        tuple(languages),
        record,
        tuple(starts) if any(start is not None for start in starts) else (),
        answer_weight,
    )


def mixed(main: Windows, other: Windows) -> Windows:
    """Join the windows of two texts. Languages and answers stay those of each window."""
    one, two = main.record, other.record
    starts = [
        *(main.answer_starts or (None,) * len(main.token_ids)),
        *(other.answer_starts or (None,) * len(other.token_ids)),
    ]
    by_language = Counter(one.tokens_by_language) + Counter(two.tokens_by_language)
    record = replace(
        one,
        source=f"{one.source} and {two.source} ({two.tokens / (one.tokens + two.tokens):.0%})",
        asked=None,
        passages=one.passages + two.passages,
        removed=one.removed + two.removed,
        tokens=one.tokens + two.tokens,
        longest_window=max(one.longest_window, two.longest_window),
        tokens_by_language=dict(by_language),
        text_hash=_hash(record.text_hash.encode() for record in (one, two)),
        token_hash=_hash(record.token_hash.encode() for record in (one, two)),
        controls=one.controls + two.controls,
        warnings=tuple(dict.fromkeys((*one.warnings, *two.warnings))),
    )
    return Windows(
        main.token_ids + other.token_ids,
        main.languages + other.languages,
        record,
        tuple(starts) if any(start is not None for start in starts) else (),
        main.answer_weight,
    )


def _check_tokenizer(source: str, answers: Sequence[AnswerTokens | None], tokenizer: Any) -> None:
    """Refuse token ids of another tokenizer: they would be other words, without anything looking wrong."""
    made = {answer.tokenizer for answer in answers if answer is not None}
    if made and made != {fingerprint_token_ids(tokenizer)}:
        raise DataError(
            f"calibration={source}: its answers were made with another tokenizer than this model's; make them with "
            "this model's base (anomia answers)"
        )


def _odd_tokens(source: str, windows: list[tuple[int, ...]], unknown: int | None) -> list[str]:
    """Warn of a text that the tokenizer doesn't know, or that says almost nothing: its statistics are of few tokens."""
    counts = Counter(token for ids in windows for token in ids)
    total = counts.total()
    if unknown is not None and counts[unknown] > _ODD_SHARE * total:
        return [
            f"calibration={source}: {counts[unknown] / total:.0%} of its tokens are the tokenizer's unknown "
            "token; give text in the model's languages"
        ]
    token, count = counts.most_common(1)[0]
    if total > len(windows) * 2 and count > _ODD_MOST * total:
        return [
            f"calibration={source}: {count / total:.0%} of its tokens are the same one (id {token}); give other text"
        ]
    return []


def make_batches(
    windows: Windows, *, batch_tokens: int = 4096, padded: bool = True, by_language: bool = False
) -> list[Batch]:
    """Group windows of similar length into batches, [B, S], of at most `batch_tokens` tokens, including padding.

    padded: if false, only windows of equal length share a batch. by_language: don't mix languages in a batch.
    The batches depend only on the windows' lengths (and languages). A window longer than `batch_tokens` gets its own
    batch.
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
    starts: Sequence[int | None] = windows.answer_starts or (None,) * len(windows.token_ids)
    weighted = windows.answer_weight != 1 and bool(windows.answer_starts)
    return [
        _batch(
            [windows.token_ids[i] for i in group],
            tuple(windows.languages[i] for i in group),
            [starts[i] for i in group] if windows.answer_starts else (),
            windows.answer_weight if weighted else None,
        )
        for group in groups
    ]


def _batch(
    rows: list[tuple[int, ...]],
    languages: tuple[str, ...],
    starts: Sequence[int | None],
    weight: float | None,
) -> Batch:
    """Pad windows to a batch, [B, S]. weight: of the positions that predict an answer's tokens; None for no weights."""
    width = len(rows[0])
    # Pad with the row's last token, since many tokenizers have no padding token.
    ids = torch.tensor([row + row[-1:] * (width - len(row)) for row in rows])  # [B, S]
    lengths = torch.tensor([len(row) for row in rows])
    real = (torch.arange(width) < lengths[:, None]).reshape(-1)  # [B·S]
    weights = None
    if weight is not None:
        weights = torch.ones(ids.shape)
        for row, start in zip(weights, starts, strict=True):
            if start is not None:
                row[start - 1 :] = weight
        weights = weights.reshape(-1)
    return Batch(ids, None if bool(real.all()) else real, languages, weights, tuple(starts))


def _counts(languages: Iterable[str]) -> str:
    return ", ".join(f"{name or 'unknown'} {count}" for name, count in Counter(languages).items())


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
