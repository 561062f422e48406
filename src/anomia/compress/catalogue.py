"""The catalogue of methods for arms: their names, arguments and code.

A new method is an entry here and a file that exports its `Method`. The command line imports this module, so it imports
nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any

from anomia.errors import StudyError, nearest

BITS = (2, 3, 4, 8)
ALLOCATIONS = ("uniform", "owl")
EMBEDDING_TYPES = ("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k")
NULL_DTYPES = ("float32", "bfloat16", "float16")
YES_NO = ("no", "yes")

OptionValue = str | int | bool


class MethodKind(StrEnum):
    """What a step does to a model."""

    PRUNE = "prune"
    """Sets weights to zero; takes a sparsity or a pattern."""
    TAKE = "take"
    """Takes the blocks of an already pruned model; takes its name."""
    UPDATE = "update"
    """Changes the weights that the pruning step before it kept."""
    RESHAPE = "reshape"
    """Drops whole parts; takes the share to drop."""
    ROUND = "round"
    """Rounds weights to the nearest code; the number of bits is part of the name."""
    QUANTIZE = "quantize"
    """Rounds weights with calibration text; takes the number of bits."""
    EMBEDDINGS = "embeddings"
    """Rounds embeddings and head; takes a GGUF block format."""
    CHECKPOINT = "checkpoint"
    """A complete model, asked exactly as base is."""
    PACKAGED = "packaged"
    """A complete model, asked as its own folder says."""
    NULL = "null"
    """Base under harmless noise."""
    SERVED = "served"
    """A model behind a server; the whole arm."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option of one method, written `name=value`; an update's yes is also written as the name alone.

    choices: the allowed words, None for a positive integer. default: the value if the option isn't given.
    pattern_only: not allowed with a plain sparsity.
    """

    name: str
    choices: tuple[str, ...] | None = None
    default: OptionValue | None = None
    pattern_only: bool = False

    def read(self, text: str, where: str) -> OptionValue:
        """Parse a value; `yes` and `no` become a bool. Raises `StudyError`."""
        if self.choices is None:
            return positive(text, self.name, where)
        if text not in self.choices:
            raise StudyError(f"{where}: unknown {self.name} {text!r}; {nearest(text, self.choices)}")
        return text == "yes" if self.choices == YES_NO else text


TARGETS = Option("targets", ("layer", "base"), default="layer")
"""What a method's outputs are compared with: the dense layer's on the compressed model's inputs, or base's own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One method.

    code: `module:name` below `anomia.compress`; empty if the step is not applied to a model.
    options: the method's own options, in the order in which they are written. calibrated: whether it reads text.
    passes: its cost for plans, in forward passes over its calibration tokens.
    kept: float32 numbers that it keeps per weight of the blocks, beside a model that it loads whole.
    bits: per stored weight, if the name has it. scales: weights per scale and bytes of a scale, if no option sets them.
    allocates: whether it chooses the sparsity of each block itself.
    anew: whether it chooses all weights again, which undoes earlier pruning.
    reconstruction: whether it was rebuilt from its published description.
    """

    name: str
    kind: MethodKind
    summary: str
    code: str = ""
    options: tuple[Option, ...] = ()
    calibrated: bool = True
    passes: float = 2.0
    kept: int = 0
    bits: int | None = None
    scales: tuple[int, int] | None = None
    allocates: bool = False
    anew: bool = False
    reconstruction: bool = False

    def load(self) -> Any:
        """Import the method: a `Method`, an `Updater` or a `Reshaper`."""
        module, _, name = self.code.partition(":")
        return getattr(import_module(f"anomia.compress.{module}"), name)


GROUP = 128
NF4_BLOCK = 64

CATALOGUE: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "magnitude",
            MethodKind.PRUNE,
            "smallest |W| of each matrix (no calibration text)",
            "methods.magnitude:METHOD",
            calibrated=False,
        ),
        Entry(
            "wanda",
            MethodKind.PRUNE,
            "smallest |W|·‖X‖ of each output row (Sun et al. 2024)",
            "methods.wanda:METHOD",
        ),
        Entry(
            "ria",
            MethodKind.PRUNE,
            "relative importance and activations, with channel permutation for N:M (Zhang et al. 2024)",
            "methods.ria:METHOD",
            (Option("permute", YES_NO, default=True, pattern_only=True),),
        ),
        Entry(
            "wandapp",
            MethodKind.PRUNE,
            "Wanda++: |W| by ‖X‖ and the gradient of the block's own output (Yang et al. 2025)",
            "methods.wandapp:METHOD",
            (Option("rounds"), Option("alpha", default=100)),
            passes=8,
        ),
        Entry(
            "sparsegpt",
            MethodKind.PRUNE,
            "second-order pruning with weight updates (Frantar and Alistarh 2023)",
            "methods.sparsegpt:METHOD",
            (TARGETS,),
            passes=6,
        ),
        Entry(
            "alps",
            MethodKind.PRUNE,
            "mask by ADMM, weights by conjugate gradients (Meng et al. 2024)",
            "methods.alps:METHOD",
            (TARGETS,),
            passes=10,
            anew=True,
        ),
        Entry(
            "mwanda",
            MethodKind.PRUNE,
            "M-Wanda (Choenni and Titov 2025): a reconstruction from the published description",
            "methods.mwanda:METHOD",
            passes=3,
            allocates=True,
            reconstruction=True,
        ),
        Entry(
            "prunerzero",
            MethodKind.PRUNE,
            "Pruner-Zero's symbolic metric (Dong et al. 2024): the published formula, a reconstruction",
            "methods.prunerzero:METHOD",
            passes=6,
            kept=2,
            reconstruction=True,
        ),
        Entry(
            "fisher",
            MethodKind.PRUNE,
            "w² · squared gradient of the calibration answers' log probability (Theis et al. 2018)",
            "methods.fisher:METHOD",
            passes=6,
            kept=2,
        ),
        Entry(
            "taken",
            MethodKind.TAKE,
            "the blocks of an already pruned model, to be repaired: taken:MODEL+repair",
            "methods.taken:METHOD",
            calibrated=False,
            passes=1,
        ),
        Entry(
            "update",
            MethodKind.UPDATE,
            "after pruning: the least-squares weights for its mask, update,solver=cg or admm (Boža 2024)",
            "methods.update:UPDATER",
            (Option("solver", ("cg", "admm"), default="cg"),),
            passes=6,
        ),
        Entry(
            "repair",
            MethodKind.UPDATE,
            "after pruning: kept weights whose outputs come close to those of the unpruned model on its own inputs",
            "methods.repair:UPDATER",
            (Option("guided", YES_NO, default=False),),
            passes=20,
        ),
        Entry(
            "train",
            MethodKind.UPDATE,
            "after pruning: a few gradient steps on each block's kept weights, towards the unpruned model's output",
            "methods.train:UPDATER",
            (Option("epochs", default=4),),
            passes=20,
        ),
        Entry(
            "regrow",
            MethodKind.UPDATE,
            "right after pruning: swaps of pruned and kept weights, by path gradients of the final loss",
            "methods.regrow:UPDATER",
            passes=16,
            kept=4,
        ),
        Entry(
            "distill",
            MethodKind.UPDATE,
            "after pruning, last: gradient steps on all kept weights, towards the unpruned model's probabilities",
            "methods.distill:UPDATER",
            (Option("epochs", default=4),),
            passes=20,
            kept=4,
        ),
        Entry(
            "dsnot",
            MethodKind.UPDATE,
            "after pruning: swaps of pruned and kept weights that lower the error (Zhang et al. 2024, DSnoT)",
            "methods.dsnot:UPDATER",
            (Option("cycles"),),
            passes=0,
        ),
        Entry(
            "shortgpt",
            MethodKind.RESHAPE,
            "drops a share of the blocks, those that change their input least (Men et al. 2024)",
            "reshape.depth:SHORTGPT",
            passes=1,
        ),
        Entry(
            "flap",
            MethodKind.RESHAPE,
            "drops a share of heads and hidden channels of each block, by fluctuation (An et al. 2024)",
            "reshape.width:FLAP",
            passes=1,
        ),
        Entry(
            "slicegpt",
            MethodKind.RESHAPE,
            "rotates the residual stream and cuts a share of its width (Ashkboos et al. 2024)",
            "reshape.slicegpt:SLICEGPT",
        ),
        Entry(
            "dropexperts",
            MethodKind.RESHAPE,
            "drops a share of each mixture's experts, those that the calibration text uses least",
            "reshape.experts:DROP_EXPERTS",
        ),
        Entry(
            "mergeexperts",
            MethodKind.RESHAPE,
            "merges each mixture's experts until a share of them is gone",
            "reshape.experts:MERGE_EXPERTS",
            passes=4,
        ),
        *(
            Entry(
                f"int{bits}",
                MethodKind.ROUND,
                f"{bits}-bit integer weights, one scale {scales}",
                "methods.quantize:METHOD",
                (Option("group", default=None if bits == 8 else GROUP),),
                calibrated=False,
                bits=bits,
            )
            for bits, scales in ((8, "per row"), *((bits, "per group of 128 inputs") for bits in (4, 3, 2)))
        ),
        Entry(
            "gptq",
            MethodKind.QUANTIZE,
            "gptq:BITS with 2, 3, 4 or 8 bits: errors are made up for column after column (Frantar et al. 2023)",
            "methods.gptq:METHOD",
            (
                Option("group", default=GROUP),
                Option("symmetric", YES_NO, default=True),
                Option("order", ("act", "plain"), default="act"),
                TARGETS,
            ),
            passes=6,
        ),
        Entry(
            "awq",
            MethodKind.QUANTIZE,
            "awq:BITS with 2, 3, 4 or 8 bits: inputs scaled by how strong they are (Lin et al. 2024)",
            "methods.awq:METHOD",
            (Option("group", default=GROUP), Option("symmetric", YES_NO, default=False)),
            passes=10,
        ),
        Entry(
            "nf4",
            MethodKind.ROUND,
            "4-bit normal floats through bitsandbytes",
            "methods.nf4:METHOD",
            calibrated=False,
            bits=4,
            scales=(NF4_BLOCK, 4),
        ),
        Entry("llm.int8", MethodKind.ROUND, "LLM.int8() through bitsandbytes", calibrated=False),
        Entry(
            "embeddings",
            MethodKind.EMBEDDINGS,
            "token embeddings and head rounded as GGUF files store them: embeddings:q6_k",
            calibrated=False,
        ),
        Entry(
            "checkpoint",
            MethodKind.CHECKPOINT,
            "a model that somebody already compressed, asked exactly what base is asked: checkpoint:MODEL",
            calibrated=False,
        ),
        Entry(
            "packaged",
            MethodKind.PACKAGED,
            "the same as its own folder asks and ends it, with its tokenizer and template: packaged:MODEL",
            calibrated=False,
        ),
        Entry(
            "null",
            MethodKind.NULL,
            "base again under harmless noise: null:float32 (another dtype), null:batch=4, or null:int8",
            calibrated=False,
        ),
        Entry(
            "endpoint",
            MethodKind.SERVED,
            "a model behind an OpenAI-compatible completions server: endpoint:URL#MODEL",
            calibrated=False,
        ),
    )
}


def methods(*kinds: MethodKind) -> tuple[str, ...]:
    """Return the names of the methods of some kinds, in the order of the catalogue."""
    return tuple(name for name, entry in CATALOGUE.items() if entry.kind in kinds)


def positive(text: str, name: str, where: str) -> int:
    """Parse a positive integer. Raises `StudyError`."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise StudyError(f"{where}: {name} must be a positive whole number, not {text!r}")
    return int(text)
