"""The steps from base to a compressed model, as plain values.

The command line imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self, TypeGuard

from anomia.compress.catalogue import CATALOGUE, YES_NO, OptionValue

_ESCAPES = (("%", "%25"), ("+", "%2B"), (",", "%2C"))


class Pattern(NamedTuple):
    """Semi-structured sparsity: of every `group` consecutive inputs of a row, at most `keep` stay.

    This is the N:M of Sun et al. (2024) and of the hardware. For the usual 2:4 and 4:8 the other definition (N zeros of
    every M) is the same.
    """

    keep: int
    group: int

    @property
    def sparsity(self) -> float:
        """The fraction of weights that become zero."""
        return 1.0 - self.keep / self.group

    def __str__(self) -> str:
        return f"{self.keep}:{self.group}"


Target = float | Pattern


MethodOptions = tuple[tuple[str, OptionValue], ...]
"""The given options of a method, as (name, value) in the order of the catalogue."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration text of a method; `None` leaves a setting to `options.TextOptions`.

    source: `c4`, `demo`, `balanced`, `own`, `wikipedia:LANG` or `file:PATH`. samples: number of passages. tokens: of
    the longest window. budget: total tokens of all windows.
    """

    source: str | None = None
    samples: int | None = None
    tokens: int | None = None
    budget: int | None = None

    def options(self) -> MethodOptions:
        """Return the given settings as options of a specification."""
        named = {"calibration": self.source, "samples": self.samples, "tokens": self.tokens}
        named["budget"] = self.budget
        return tuple((name, value) for name, value in named.items() if value is not None)


@dataclass(frozen=True, slots=True)
class _Method:
    """The common part of steps with a method. options: the method's own, as listed in the catalogue."""

    method: str
    options: MethodOptions = field(default=(), kw_only=True)

    def option(self, name: str) -> Any:
        """Return the value of an option or its default; `None` if the method has no such option."""
        given = dict(self.options)
        if name in given:
            return given[name]
        defaults = {option.name: option.default for option in CATALOGUE[self.method].options}
        return defaults.get(name)

    def with_option(self, name: str, value: OptionValue) -> Self:
        """Return the step with another value of an option."""
        given = dict(self.options) | {name: value}
        order = [option.name for option in CATALOGUE[self.method].options]
        return replace(self, options=tuple((key, given[key]) for key in order if key in given))


@dataclass(frozen=True, slots=True)
class Update(_Method):
    """A weight update for the mask of the preceding pruning step, to which it belongs."""

    def __str__(self) -> str:
        return self.method + _write(self.options)


@dataclass(frozen=True, slots=True)
class Prune(_Method):
    """A pruning step. allocation: `uniform`, or `owl` (outlier-weighted sparsity per block); `None` is uniform.

    updates: weight updates for the same mask, in order.
    """

    target: Target
    calibration: Calibration = Calibration()
    allocation: str | None = None
    updates: tuple[Update, ...] = ()

    def __str__(self) -> str:
        amount = str(self.target) if isinstance(self.target, Pattern) else repr(self.target)
        spread: MethodOptions = () if self.allocation is None else (("allocation", self.allocation),)
        options = _write((*self.calibration.options(), *spread, *self.options))
        return "+".join((f"{self.method}:{amount}{options}", *map(str, self.updates)))


@dataclass(frozen=True, slots=True)
class Take(Prune):
    """The zeros and weights of the blocks of an already pruned model, for the updates that follow. model: its name."""

    model: str = field(kw_only=True)

    def __str__(self) -> str:
        first = f"{self.method}:{escape(self.model)}{_write(self.calibration.options())}"
        return "+".join((first, *map(str, self.updates)))


@dataclass(frozen=True, slots=True)
class Reshape(_Method):
    """A step that removes blocks, channels or experts. share: the fraction to remove, between 0 and 1."""

    share: float
    calibration: Calibration = Calibration()

    def __str__(self) -> str:
        return f"{self.method}:{self.share!r}{_write((*self.calibration.options(), *self.options))}"


@dataclass(frozen=True, slots=True)
class Quantize(_Method):
    """A quantization step. bits: None if they are part of the method's name."""

    bits: int | None = None
    calibration: Calibration = Calibration()

    def __str__(self) -> str:
        options = _write((*self.options, *self.calibration.options()))
        if self.bits is not None:
            return f"{self.method}:{self.bits}{options}"
        return self.method + options.replace(",", ":", 1)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Rounds token embeddings and head to a GGUF block format. kind: one of `catalogue.EMBEDDING_TYPES`."""

    kind: str

    def __str__(self) -> str:
        return f"embeddings:{self.kind}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A compressed model, loaded instead of base. model: hub id, folder, GGUF file or a folder with an adapter.

    packaged: use the model's own tokenizer, chat template and end tokens, as its users would; otherwise base's token
    ids, if the vocabulary is the same.
    """

    model: str
    packaged: bool = False

    def __str__(self) -> str:
        return f"{'packaged' if self.packaged else 'checkpoint'}:{escape(self.model)}"


@dataclass(frozen=True, slots=True)
class Served:
    """A model on a completions server. url: of the API, as in `http://localhost:8000/v1`. model: its name there."""

    url: str
    model: str

    def __str__(self) -> str:
        return f"endpoint:{self.url}#{escape(self.model)}"


@dataclass(frozen=True, slots=True)
class Null:
    """Base under harmless noise, to measure the effect of noise alone; exactly one of the three is set.

    dtype: another type. batch: items per batch. method: a mild quantization, `int8`.
    """

    dtype: str | None = None
    batch: int | None = None
    method: str | None = None

    def __str__(self) -> str:
        return f"null:batch={self.batch}" if self.batch is not None else f"null:{self.dtype or self.method}"


WHOLE = ("regrow", "distill")
"""The updates that change all blocks at once, after all others."""


def is_guided(step: Step) -> bool:
    """Whether an update of a step weights tokens by the final loss."""
    return isinstance(step, Prune) and any(update.option("guided") for update in step.updates)


def reads_final_loss(step: Step) -> bool:
    """Whether an update of a step reads the final loss, which takes the whole model in memory."""
    return is_guided(step) or (
        isinstance(step, Prune) and any(update.method in WHOLE for update in step.updates)
    )


def before_guidance(step: Prune) -> Prune:
    """Return the step with the updates before the first one that the final loss guides."""
    guided = next(n for n, update in enumerate(step.updates) if update.option("guided"))
    return replace(step, updates=step.updates[:guided])


def passes_of(step: Calibrated) -> float:
    """Return the cost of a step and its updates for plans, in forward passes over its calibration tokens."""
    passes = CATALOGUE[step.method].passes
    if isinstance(step, Prune):
        passes += sum(CATALOGUE[update.method].passes * _repeats(update) for update in step.updates)
        passes += step.allocation == "owl"
    if isinstance(step, Prune) and is_guided(step):
        passes += passes_of(before_guidance(step)) + GUIDED_PASSES
    return passes


def bytes_beside(step: Step, item: int) -> int:
    """Return how many bytes per weight of the blocks a step keeps beside a model that it loads whole.

    item: bytes of a stored weight, for base's blocks where the final loss is read.
    """
    if not isinstance(step, Prune):
        return 0
    kept = max(CATALOGUE[part.method].kept for part in (step, *step.updates))
    return 4 * kept + item * reads_final_loss(step)


def _repeats(update: Update) -> float:
    """How many times the epochs of its default an update takes; the catalogue's passes are for the default."""
    default = {option.name: option.default for option in CATALOGUE[update.method].options}.get("epochs")
    return update.option("epochs") / default if default else 1.0


GUIDED_PASSES = 4.0
"""A forward pass of base, and a forward and a backward pass of the compressed model."""
Calibrated = Prune | Reshape | Quantize
Step = Prune | Reshape | Quantize | Embeddings | Checkpoint | Null | Served


@dataclass(frozen=True, slots=True)
class Arm:
    """A model under test: base after `steps`. name: its label in tables and figures."""

    name: str
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return "+".join(map(str, self.steps)) if self.steps else "base"


def needs_calibration(step: Step) -> TypeGuard[Calibrated]:
    """Whether a step reads calibration text."""
    if isinstance(step, Prune) and (step.allocation == "owl" or step.updates):
        return True
    return isinstance(step, Prune | Reshape | Quantize) and CATALOGUE[step.method].calibrated


def escape(value: str) -> str:
    """Escape a value for a specification.

    >>> escape("a,b+c")
    'a%2Cb%2Bc'
    """
    for plain, escaped in _ESCAPES:
        value = value.replace(plain, escaped)
    return value


def unescape(value: str) -> str:
    """Undo `escape`."""
    for plain, escaped in reversed(_ESCAPES):
        value = value.replace(escaped, plain)
    return value


def _write(options: MethodOptions) -> str:
    return "".join(f",{name}={escape(_written(value))}" for name, value in options)


def _written(value: OptionValue) -> str:
    return YES_NO[value] if isinstance(value, bool) else str(value)
