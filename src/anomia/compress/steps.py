"""The steps that make a compressed model out of base, as plain values, and the names of all methods.

Nothing heavy is imported here: the command line reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeGuard

PRUNING_METHODS: Mapping[str, str] = {
    "magnitude": "smallest |W| of each matrix (no calibration text)",
    "wanda": "smallest |W|·‖X‖ of each output row (Sun et al. 2024)",
    "ria": "relative importance and activations, with channel permutation for N:M (Zhang et al. 2024)",
    "wandapp": "Wanda++: |W| by ‖X‖ and the gradient of the block's own output (Yang et al. 2025)",
    "sparsegpt": "second-order pruning with weight updates (Frantar and Alistarh 2023)",
    "alps": "mask by ADMM, weights by conjugate gradients (Meng et al. 2024)",
    "mwanda": "M-Wanda (Choenni and Titov 2025): a reconstruction from the published description",
    "prunerzero": "Pruner-Zero's symbolic metric (Dong et al. 2024): the published formula, a reconstruction",
}
UPDATES: Mapping[str, str] = {
    "update": "after pruning: the least-squares weights for its mask, update,solver=cg or admm (Boža 2024)",
    "dsnot": "after pruning: swaps of pruned and kept weights that lower the error (Zhang et al. 2024, DSnoT)",
}
RESHAPING_METHODS: Mapping[str, str] = {
    "shortgpt": "drops a share of the blocks, those that change their input least (Men et al. 2024)",
    "flap": "drops a share of heads and hidden channels of each block, by fluctuation (An et al. 2024)",
    "slicegpt": "rotates the residual stream and cuts a share of its width (Ashkboos et al. 2024)",
    "dropexperts": "drops a share of each mixture's experts, those that the calibration text uses least",
    "mergeexperts": "merges each mixture's experts until a share of them is gone",
}
QUANTIZATION_METHODS: Mapping[str, str] = {
    "int8": "8-bit integer weights, one scale a row",
    "int4": "4-bit integer weights, one scale a group of 128 inputs",
    "int3": "3-bit integer weights, one scale a group of 128 inputs",
    "int2": "2-bit integer weights, one scale a group of 128 inputs",
    "gptq": "gptq:BITS with 2, 3, 4 or 8 bits: errors are made up for column after column (Frantar et al. 2023)",
    "awq": "awq:BITS with 2, 3, 4 or 8 bits: inputs scaled by how strong they are (Lin et al. 2024)",
    "nf4": "4-bit normal floats through bitsandbytes",
    "llm.int8": "LLM.int8() through bitsandbytes",
}
EMBEDDING_TYPES = ("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k")
NULL_DTYPES = ("float32", "bfloat16", "float16")
METHODS: Mapping[str, str] = {
    **PRUNING_METHODS,
    **UPDATES,
    **RESHAPING_METHODS,
    **QUANTIZATION_METHODS,
    "embeddings": "token embeddings and head rounded as GGUF files store them: embeddings:q6_k",
    "checkpoint": "a model that somebody already compressed, asked exactly what base is asked: checkpoint:MODEL",
    "packaged": "the same as its own folder asks and ends it, with its tokenizer and template: packaged:MODEL",
    "null": "base again under harmless noise: null:float32 (another dtype), null:batch=4, or null:int8",
    "endpoint": "a model behind an OpenAI-compatible completions server: endpoint:URL#MODEL",
}
RECONSTRUCTIONS = frozenset({"mwanda", "prunerzero"})
UNCALIBRATED = frozenset({"magnitude"})
CALIBRATED_QUANTIZATION = frozenset({"gptq", "awq"})
ALLOCATIONS = ("uniform", "owl")
SOLVERS = ("cg", "admm")
ORDERS = ("act", "plain")
BITS = (2, 3, 4, 8)

_ESCAPES = (("%", "%25"), ("+", "%2B"), (",", "%2C"))
# What a method says as its amount, written before its options.
_AMOUNTS = ("method", "target", "bits", "share", "kind")


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
class Update:
    """What is done with the weights of a mask that the pruning step before it chose; it belongs to that step.

    method: of `UPDATES`. solver: of the least squares, None for its own choice. cycles: rounds of swaps.
    """

    method: str
    solver: str | None = None
    cycles: int | None = None

    def __str__(self) -> str:
        return self.method + _write_options(self)


@dataclass(frozen=True, slots=True)
class Prune:
    """One pruning step; an option left `None` takes the study's value.

    calibration: where the text comes from (`c4`, `demo`, `balanced`, `own`, `wikipedia:LANG`, `file:PATH`).
    samples: passages. tokens: longest window in tokens. budget: total tokens over all windows.
    allocation: `uniform`, or `owl` (outlier-weighted sparsity a block). permute: whether RIA may permute channels
    for a pattern. rounds: of Wanda++'s regional optimizer. updates: what follows on the same mask, in order.
    """

    method: str
    target: Target
    calibration: str | None = None
    samples: int | None = None
    tokens: int | None = None
    budget: int | None = None
    allocation: str | None = None
    permute: bool | None = None
    rounds: int | None = None
    updates: tuple[Update, ...] = ()

    def __str__(self) -> str:
        amount = str(self.target) if isinstance(self.target, Pattern) else repr(self.target)
        return "+".join((f"{self.method}:{amount}{_write_options(self)}", *map(str, self.updates)))


@dataclass(frozen=True, slots=True)
class Reshape:
    """One step that leaves fewer blocks, channels or experts. share: of them that go, between 0 and 1."""

    method: str
    share: float
    calibration: str | None = None
    samples: int | None = None
    tokens: int | None = None
    budget: int | None = None

    def __str__(self) -> str:
        return f"{self.method}:{self.share!r}{_write_options(self)}"


@dataclass(frozen=True, slots=True)
class Quantize:
    """One quantization step.

    group: inputs that share a scale, `None` for the method's own default. Of GPTQ and AWQ: bits; symmetric: whether
    codes have no zero point (None: GPTQ yes, AWQ no); order: of GPTQ's columns, `act` by how strong inputs are; and
    the calibration text, as in `Prune`.
    """

    method: str
    group: int | None = None
    bits: int | None = None
    symmetric: bool | None = None
    order: str | None = None
    calibration: str | None = None
    samples: int | None = None
    tokens: int | None = None
    budget: int | None = None

    def __str__(self) -> str:
        options = _write_options(self)
        if self.bits is not None:
            return f"{self.method}:{self.bits}{options}"
        return self.method + options.replace(",", ":", 1)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Token embeddings and head rounded to a block format of GGUF files. kind: of `EMBEDDING_TYPES`."""

    kind: str

    def __str__(self) -> str:
        return f"embeddings:{self.kind}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A compressed model, loaded instead of base. model: hub id, folder, GGUF file or a folder with an adapter.

    packaged: asked with the tokenizer, the chat template and the end tokens that it brings, as its users would; else
    with base's token ids wherever the vocabulary is the same.
    """

    model: str
    packaged: bool = False

    def __str__(self) -> str:
        return f"{'packaged' if self.packaged else 'checkpoint'}:{escape(self.model)}"


@dataclass(frozen=True, slots=True)
class Served:
    """A model behind a completions server. url: of the API, as in `http://localhost:8000/v1`. model: its name there."""

    url: str
    model: str

    def __str__(self) -> str:
        return f"endpoint:{self.url}#{escape(self.model)}"


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


Calibrated = Prune | Reshape | Quantize
Step = Prune | Reshape | Quantize | Embeddings | Checkpoint | Null | Served


@dataclass(frozen=True, slots=True)
class Arm:
    """One model under test: base after `steps`; `name` is how tables and figures call it."""

    name: str
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return "+".join(map(str, self.steps)) if self.steps else "base"


def needs_calibration(step: Step) -> TypeGuard[Calibrated]:
    """Whether a step reads calibration text."""
    if isinstance(step, Prune):
        return step.method not in UNCALIBRATED or step.allocation == "owl" or bool(step.updates)
    return isinstance(step, Reshape) or (
        isinstance(step, Quantize) and step.method in CALIBRATED_QUANTIZATION
    )


def escape(value: str) -> str:
    """A value as it stands in a specification.

    >>> escape("a,b+c")
    'a%2Cb%2Bc'
    """
    for plain, escaped in _ESCAPES:
        value = value.replace(plain, escaped)
    return value


def unescape(value: str) -> str:
    """The value that stands escaped in a specification."""
    for plain, escaped in reversed(_ESCAPES):
        value = value.replace(escaped, plain)
    return value


def _write_options(step: Update | Prune | Reshape | Quantize) -> str:
    values = ((f.name, getattr(step, f.name)) for f in fields(step) if f.name not in (*_AMOUNTS, "updates"))
    return "".join(f",{key}={escape(_written(value))}" for key, value in values if value is not None)


def _written(value: object) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
