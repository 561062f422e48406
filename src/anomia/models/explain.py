"""Turns the many errors of loading a model into one message with the cause and a remedy."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tokenizer.tiktoken", "qwen.tiktoken", "tiktoken.model",
)  # fmt: skip
_LONGEST = 400
# Advice that libraries add for their own callers.
_ADVICE = re.compile(
    r"^(class validation error|if this is a private|you can (inspect|update|avoid)|please (pass|open|file)|note "
    r"that|tip:|see also|make sure you)"
    r"|you may consider adding|ignore_mismatched_sizes|above report",
    re.IGNORECASE,
)


def explain(
    name: str, error: BaseException, *, part: str = "", folder: Path | None = None, logged: str = ""
) -> str:
    """The message on why a model can't be loaded, and what to do.

    Args:
        name: the model's name as given by the user.
        error: the exception that a library raised.
        part: the part that was being read: `config.json` or `tokenizer`, empty for the whole model.
        folder: the folder of the model's small files, if they are on this machine.
        logged: what the library logged before it raised.
    """
    lines = _lines(error)
    lowered = " ".join(lines).lower()
    if "trust_remote_code" in lowered or "custom code" in lowered:
        remedy = (
            "it comes with its own code, which is not run; `run` and `compare` run it with "
            "--trust-remote-code, if you trust it"
        )
    elif "gated" in lowered:
        remedy = "it is gated: accept its terms on the hub and log in with `hf auth login`"
    elif "backend tokenizer" in lowered and folder is not None and not has_tokenizer(folder):
        remedy = (
            "it has no tokenizer files; copy base's tokenizer files (tokenizer.json, tokenizer_config.json, "
            "…) into its folder"
        )
    elif "backend tokenizer" in lowered:
        remedy = (
            "its tokenizer can't be read: install what it needs (pip install sentencepiece tiktoken), or "
            "copy base's tokenizer.json into its folder"
        )
    elif "does not recognize this architecture" in lowered:
        remedy = (
            f"transformers {transformers.__version__} does not know its model type ({_quoted(lines)}); "
            "upgrade transformers, or correct model_type in config.json"
        )
    elif "should have a `model_type` key" in lowered:
        remedy = "its config.json has no model_type; copy config.json from where the model came from"
    elif "for this kind of automodel" in lowered:
        remedy = (
            f"it is not a causal language model ({_quoted(lines)}); Anomia asks models that generate text"
        )
    elif "layer_types" in lowered and "num_hidden_layers" in lowered:
        remedy = (
            f"its config.json contradicts itself: {cause(lines)}; a model that was pruned in depth keeps one "
            "entry of layer_types for each of its layers"
        )
    elif any(sign in lowered for sign in ("offline", "connect", "couldn't reach", "cached files", "resolve")):
        remedy = "the hub can't be reached and it is not in the local cache; check the connection, or give a folder"
    elif any(sign in lowered for sign in ("not a valid model identifier", "not a local folder", "404")):
        remedy = "no folder and no hub repository has this name; check the spelling"
    elif "safetensors" in lowered and ("no file named" in lowered or "a file named" in lowered):
        remedy = "it has no safetensors weights; pickle is not loaded"
    elif "CONVERSION" in logged and "|" in logged:
        remedy = (
            "tensors that are joined while loading do not fit together, as where one expert's is missing "
            f"({cause(lines, logged)})"
        )
    elif part == "tokenizer":
        remedy = f"its tokenizer can't be read ({cause(lines)}); copy base's tokenizer files into its folder"
    elif part:
        remedy = (
            f"its {part} can't be used ({cause(lines)}); compare it with the one that the model came with"
        )
    else:
        remedy = cause(lines, logged)
    return f"model: {name!r} can't be loaded: {remedy}"


def cause(lines: list[str], logged: str = "") -> str:
    """The lines of an error joined, without a library's advice; if too long, the middle is left out."""
    shown = [line for line in lines if not _ADVICE.search(line)] or lines
    # The error may only point to a table in the log.
    if any("report" in line.lower() for line in lines):
        table = [line for line in _cleaned(logged) if "|" in line and "Key |" not in line]
        shown = table[:2] or shown
    text = " ".join(shown)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2].rstrip()} … {text[-_LONGEST // 2 :].lstrip()}"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file that can contain a tokenizer's vocabulary."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES) or any(folder.glob("*.tiktoken"))


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collects what transformers logs about loading weights, which names causes that its errors don't."""
    shown: list[str] = []

    class _Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.getMessage())

    logger = logging.getLogger("transformers.modeling_utils")
    before, kept = (logger.level, logger.propagate), _Kept()
    logger.addHandler(kept)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield shown
    finally:
        logger.removeHandler(kept)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _lines(error: BaseException) -> list[str]:
    """The lines of an error and its causes, without duplicates; the type of an error without text."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(lines) < 40:
        text = str(seen).strip() or type(seen).__name__
        if isinstance(seen, KeyError | TypeError | AttributeError | ZeroDivisionError | IndexError):
            text = f"{type(seen).__name__}: {text}"
        lines += [line for line in _cleaned(text) if not any(line in known for known in lines)]
        seen = seen.__cause__
    return lines


def _cleaned(text: str) -> list[str]:
    return [line for part in text.splitlines() if (line := " ".join(part.split()))]


def _quoted(lines: list[str]) -> str:
    """The first quoted part of an error, or its first line."""
    found = re.search(r"`([^`]+)`|'([^']+)'", lines[0])
    return next(filter(None, found.groups())).rpartition(".")[2] if found else lines[0]
