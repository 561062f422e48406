"""The grammar of arm specifications: text such as `wanda:0.5,calibration=balanced+int8` to plain values.

    arm   = step { "+" step } | "endpoint:" URL "#" MODEL     steps are applied from left to right
    step  = method [ ":" amount ] { "," option "=" value }
    amount: a sparsity between 0 and 1 (`0.5`), or a pattern `N:M` (at most N of every M weights stay)

A `+`, `,` or `%` inside a value (a path, say) is written `%2B`, `%2C`, `%25`. `base` is the arm with no step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import urlsplit

from anomia.errors import StudyError, nearest

PRUNING_METHODS: Mapping[str, str] = {
    "magnitude": "smallest |W| of each matrix (no calibration text)",
    "wanda": "smallest |W|·‖X‖ of each output row (Sun et al. 2024)",
    "sparsegpt": "second-order pruning with weight updates (Frantar and Alistarh 2023)",
    "mwanda": "M-Wanda (Choenni and Titov 2025): a reconstruction from the published description",
    "prunerzero": "Pruner-Zero's symbolic metric (Dong et al. 2024): the published formula, a reconstruction",
}
QUANTIZATION_METHODS: Mapping[str, str] = {
    "int8": "8-bit integer weights, one scale a row",
    "int4": "4-bit integer weights, one scale a group of 128 inputs",
    "int3": "3-bit integer weights, one scale a group of 128 inputs",
    "int2": "2-bit integer weights, one scale a group of 128 inputs",
    "nf4": "4-bit normal floats through bitsandbytes (CUDA)",
    "llm.int8": "LLM.int8() through bitsandbytes (CUDA)",
}
NULL_DTYPES = ("float32", "bfloat16", "float16")
METHODS: Mapping[str, str] = {
    **PRUNING_METHODS,
    **QUANTIZATION_METHODS,
    "checkpoint": "a model that somebody already compressed, asked exactly what base is asked: checkpoint:MODEL",
    "packaged": "the same as its own folder asks and ends it, with its tokenizer and template: packaged:MODEL",
    "null": "base again under harmless noise: null:float32 (another dtype), null:batch=4, or null:int8",
    "endpoint": "a model behind an OpenAI-compatible completions server: endpoint:URL#MODEL",
}
RECONSTRUCTIONS = frozenset({"mwanda", "prunerzero"})
UNCALIBRATED = frozenset({"magnitude"})
ALLOCATIONS = ("uniform", "owl")

_ESCAPES = (("%", "%25"), ("+", "%2B"), (",", "%2C"))


class Pattern(NamedTuple):
    """Semi-structured sparsity: of every `group` consecutive inputs of a row, at most `keep` stay.

    The N:M of Sun et al. (2024) and of the hardware; for the usual 2:4 and 4:8 the other reading
    (N zeros of every M) gives the same.
    """

    keep: int
    group: int

    @property
    def sparsity(self) -> float:
        """Fraction of weights that become zero."""
        return 1.0 - self.keep / self.group

    def __str__(self) -> str:
        return f"{self.keep}:{self.group}"


Target = float | Pattern


@dataclass(frozen=True, slots=True)
class Prune:
    """One pruning step; an option left `None` takes the study's value.

    calibration: where the text comes from (`c4`, `demo`, `balanced`, `own`, `wikipedia:LANG`, `file:PATH`).
    samples: passages. tokens: longest window in tokens. budget: total tokens over all windows.
    allocation: `uniform`, or `owl` (outlier-weighted sparsity a block).
    """

    method: str
    target: Target
    calibration: str | None = None
    samples: int | None = None
    tokens: int | None = None
    budget: int | None = None
    allocation: str | None = None

    def __str__(self) -> str:
        amount = str(self.target) if isinstance(self.target, Pattern) else repr(self.target)
        return f"{self.method}:{amount}" + _write_options(self, skip=("method", "target"))


@dataclass(frozen=True, slots=True)
class Quantize:
    """One quantization step. group: inputs that share a scale, `None` for the method's own default."""

    method: str
    group: int | None = None

    def __str__(self) -> str:
        return self.method if self.group is None else f"{self.method}:group={self.group}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A compressed model, loaded instead of base. model: hub id, folder or GGUF file.

    packaged: asked with the tokenizer, the chat template and the end tokens that it brings, as its users would; else
    with base's token ids wherever the vocabulary is the same.
    """

    model: str
    packaged: bool = False

    def __str__(self) -> str:
        return f"{'packaged' if self.packaged else 'checkpoint'}:{_escape(self.model)}"


@dataclass(frozen=True, slots=True)
class Served:
    """A model behind a completions server. url: of the API, as in `http://localhost:8000/v1`. model: its name there."""

    url: str
    model: str

    def __str__(self) -> str:
        return f"endpoint:{self.url}#{_escape(self.model)}"


@dataclass(frozen=True, slots=True)
class Null:
    """Base again under harmless noise, for what noise alone does: exactly one of the three.

    dtype: another one. batch: items per batch. method: a mild quantization, `int8`.
    """

    dtype: str | None = None
    batch: int | None = None
    method: str | None = None

    def __str__(self) -> str:
        return f"null:batch={self.batch}" if self.batch is not None else f"null:{self.dtype or self.method}"


Step = Prune | Quantize | Checkpoint | Null | Served


@dataclass(frozen=True, slots=True)
class Arm:
    """One model under test: base after `steps`; `name` is how tables and figures call it."""

    name: str
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return "+".join(map(str, self.steps)) if self.steps else "base"


def parse_arm(text: str, *, name: str | None = None) -> Arm:
    """Read an arm specification; the canonical text is its name unless one is given.

    >>> parse_arm("wanda:0.50+int8").name
    'wanda:0.5+int8'

    Raises `StudyError`, with the nearest valid word, for anything that isn't a specification.
    """
    if not text.strip():
        raise StudyError("an arm specification is empty; give one such as wanda:0.5, or base")
    if text.strip().startswith("endpoint:"):
        served = _parse_endpoint(text.strip())
        return Arm(name if name is not None else str(served), (served,))
    steps = () if text.strip() == "base" else tuple(_parse_step(part, text) for part in text.split("+"))
    for step in steps[1:]:
        if isinstance(step, Checkpoint):
            raise StudyError(f"arm {text!r}: a checkpoint replaces the model, so it can only come first")
    if len(steps) > 1 and any(isinstance(step, Null) for step in steps):
        raise StudyError(f"arm {text!r}: null is base itself under harmless noise, so it stands alone")
    for step, following in pairwise(steps):
        if isinstance(step, Quantize):
            raise StudyError(f"arm {text!r}: {following} can't follow {step}; quantize in the last step")
    arm = Arm("", steps)
    return Arm(name if name is not None else str(arm), steps)


def _parse_step(part: str, arm: str) -> Step:
    head, *options = (piece.strip() for piece in part.split(","))
    method, _, amount = head.partition(":")
    where = f"arm {arm!r}"
    if method not in METHODS:
        if not method:
            raise StudyError(f"{where}: a step has no method; known: {', '.join(sorted(METHODS))}")
        if os.path.exists(arm) or arm.startswith((".", "/", "~")):
            raise StudyError(f"{where}: a folder or a file is an arm as checkpoint:{arm}")
        raise StudyError(f"{where}: unknown method {method!r}; {nearest(method, METHODS)}")
    if method == "endpoint":
        raise StudyError("arm endpoint: it stands alone: what is served can't be changed from here")
    if method in ("checkpoint", "packaged"):
        if not amount or options:
            raise StudyError(
                f"{where}: write {method}:MODEL with a hub id, folder or GGUF file and no options"
                " (a comma in a path is written %2C)"
            )
        return Checkpoint(_unescape(amount), packaged=method == "packaged")
    if method == "null":
        return _parse_null(amount, options, where)
    if method in QUANTIZATION_METHODS:
        given = _read_options([amount, *options] if amount else options, ("group",), where)
        if "group" in given and method in ("nf4", "llm.int8"):
            raise StudyError(f"{where}: {method} takes no group")
        return Quantize(method, group=_positive(given, "group", where))
    given = _read_options(options, tuple(f.name for f in fields(Prune))[2:], where)
    calibration = given.get("calibration")
    if method in UNCALIBRATED and given.keys() - {"allocation"} and given.get("allocation") != "owl":
        raise StudyError(f"{where}: {method} uses no calibration text; leave out {', '.join(sorted(given))}")
    allocation = given.get("allocation")
    if allocation is not None and allocation not in ALLOCATIONS:
        raise StudyError(f"{where}: unknown allocation {allocation!r}; {nearest(allocation, ALLOCATIONS)}")
    target = _parse_target(method, amount, where)
    if allocation == "owl" and isinstance(target, Pattern):
        raise StudyError(f"{where}: owl gives every block its own sparsity, which {target} can't follow")
    if allocation == "owl" and method == "mwanda":
        raise StudyError(f"{where}: mwanda brings its own allocation; leave out allocation=owl")
    return Prune(
        method,
        target,
        calibration=calibration,
        samples=_positive(given, "samples", where),
        tokens=_positive(given, "tokens", where),
        budget=_positive(given, "budget", where),
        allocation=allocation,
    )


def as_packaged(arms: Iterable[str]) -> list[str]:
    """Arms, and behind each checkpoint the same as its folder packages it.

    >>> as_packaged(["wanda:0.5", "checkpoint:a"])
    ['wanda:0.5', 'checkpoint:a', 'packaged:a']
    """
    found: dict[str, None] = {}
    for text in arms:
        found[text] = None
        first, *rest = parse_arm(text).steps or (None,)
        if isinstance(first, Checkpoint) and not first.packaged:
            found["+".join(map(str, (replace(first, packaged=True), *rest)))] = None
    return list(found)


def like_base(arm: str) -> str | None:
    """The arm with the weights of one that is asked as packaged, asked as base is; None for other arms.

    >>> like_base("packaged:a"), like_base("wanda:0.5")
    ('checkpoint:a', None)
    """
    head = "packaged:"
    return f"checkpoint:{arm.removeprefix(head)}" if arm.startswith(head) else None


def is_null(name: str) -> bool:
    """Whether an arm is base again under harmless noise, which other arms are read against."""
    return name.startswith("null:")


def arm_of(text: str) -> str:
    """The specification of a compressed model that is named as users name models: what is none is a checkpoint.

    >>> arm_of("me/my-pruned, too"), arm_of("wanda:0.5")
    ('checkpoint:me/my-pruned%2C too', 'wanda:0.5')
    """
    method = text.partition(":")[0].strip()
    return text if method in METHODS else str(Checkpoint(text))


def _parse_null(amount: str, options: list[str], where: str) -> Null:
    if amount.startswith("batch=") and not options:
        return Null(batch=_positive({"batch": amount.removeprefix("batch=")}, "batch", where))
    if amount in NULL_DTYPES and not options:
        return Null(dtype=amount)
    if amount == "int8" and not options:
        return Null(method=amount)
    known = (*NULL_DTYPES, "int8", "batch=4")
    raise StudyError(f"{where}: unknown noise {','.join([amount, *options])!r}; {nearest(amount, known)}")


def _parse_endpoint(text: str) -> Served:
    url, _, model = text.removeprefix("endpoint:").partition("#")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if "@" in url or "?" in url:
        # Not repeated in the message: it may hold a key.
        raise StudyError(
            "arm endpoint: the URL holds a name, a password or a query; a key comes from the environment "
            "(ANOMIA_ENDPOINT_KEY or OPENAI_API_KEY)"
        )
    if not sound or not model.strip() or not url.isprintable() or not url.isascii():
        raise StudyError(
            f"arm {text!r}: write endpoint:URL#MODEL, as in endpoint:http://localhost:8000/v1#my-model"
        )
    return Served(url.rstrip("/"), _unescape(model))


def parse_target(text: str) -> Target:
    """Read a sparsity such as `0.5` or a pattern such as `2:4`. Raises `StudyError`."""
    return _parse_target("sparsity", text, f"{text!r}")


def _parse_target(method: str, amount: str, where: str) -> Target:
    if not amount:
        raise StudyError(f"{where}: {method} needs a sparsity or a pattern: {method}:0.5, {method}:2:4")
    keep, colon, group = amount.partition(":")
    if colon:
        if not (keep.isdecimal() and group.isdecimal() and 0 < int(keep) < int(group)):
            raise StudyError(
                f"{where}: {amount!r} is no pattern; write N:M with 0 < N < M, such as 2:4"
                " (at most N of every M weights stay)"
            )
        return Pattern(int(keep), int(group))
    try:
        sparsity = float(amount)
    except ValueError:
        raise StudyError(f"{where}: {amount!r} is neither a sparsity (0.5) nor a pattern (2:4)") from None
    if not 0.0 < sparsity < 1.0:
        raise StudyError(f"{where}: sparsity must lie between 0 and 1, both excluded, not {amount}")
    return sparsity


def _read_options(pieces: list[str], known: tuple[str, ...], where: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if key not in known:
            raise StudyError(f"{where}: unknown option {key!r}; {nearest(key, known)}")
        if not equals or not value:
            raise StudyError(f"{where}: option {key!r} has no value; write {key}=VALUE")
        if key in given:
            raise StudyError(f"{where}: option {key!r} is given twice")
        given[key] = _unescape(value)
    return given


def _positive(given: Mapping[str, str], key: str, where: str) -> int | None:
    if key not in given:
        return None
    value = given[key]
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise StudyError(f"{where}: {key} must be a positive whole number, not {value!r}")
    return int(value)


def _write_options(step: Prune, *, skip: tuple[str, ...]) -> str:
    values = ((f.name, getattr(step, f.name)) for f in fields(step) if f.name not in skip)
    return "".join(f",{key}={_escape(str(value))}" for key, value in values if value is not None)


def _escape(value: str) -> str:
    for plain, escaped in _ESCAPES:
        value = value.replace(plain, escaped)
    return value


def _unescape(value: str) -> str:
    for plain, escaped in reversed(_ESCAPES):
        value = value.replace(escaped, plain)
    return value
