"""What a specification such as `wanda:0.5` leaves open: the calibration text, and how a folder is made.

Nothing heavy is imported here: `anomia compress` and `anomia prune` take their flags from these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from anomia.compress.steps import Calibration
from anomia.flags import Flag

SaveAs = Literal["dense", "compressed-tensors"]
BATCH_TOKENS = 1024
"""Tokens per calibration batch."""
WINDOW_TOKENS = 2048
"""Tokens of the longest calibration window."""

_Flag = partial(Flag, section="compression", commands=("compress", "prune"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """Which text a step is calibrated on, as far as the step doesn't say it.

    source: as in `sources.SOURCES`. samples: passages of each stream (default 128; 64 per language for `balanced` and
    `own`). tokens: of the longest window. budget: tokens of all windows. languages: for `balanced` and `demo`.
    language: the one that `own` is for. data_dir: a folder that is looked through before the hub.
    evaluation_passages: text that calibration must not share.
    """

    source: Annotated[
        str,
        _Flag(
            name="--calibration",
            help="c4, demo, wikipedia:LANGUAGE, balanced or file:PATH (default {default}).",
        ),
    ] = "c4"
    samples: Annotated[
        int | None, _Flag(name="--calibration-samples", help="Number of passages (default 128).", least=1)
    ] = None
    tokens: Annotated[
        int, _Flag(name="--calibration-tokens", help="Tokens per passage (default {default}).", least=1)
    ] = WINDOW_TOKENS
    data_dir: Annotated[
        Path | None,
        _Flag(
            name="--calibration-folder",
            help="A folder with c4.en.jsonl and wikipedia/LANGUAGE.jsonl, searched before the hub.",
        ),
    ] = None
    budget: Annotated[
        int | None, _Flag(name="--calibration-budget", help="Total number of tokens.", least=1)
    ] = None
    languages: Annotated[Sequence[str], _Flag(help="Languages for balanced calibration.", metavar="A,B")] = ()
    language: str | None = None
    evaluation_passages: Sequence[str] = field(default=(), repr=False)

    def under(self, step: Calibration) -> TextOptions:
        """These values, and a step's own where it has some."""
        own = {each.name: getattr(step, each.name) for each in fields(step)}
        return replace(self, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """How `compress_folder` makes a folder.

    save_as: how the matrices of a last quantizing step are stored: `dense` as the values that they stand for.
    dtype: `auto` keeps the stored type. device: where the block in work is computed: `cpu`, `cuda`, `mps` or `auto`.
    perplexity_text: a text file on which dense and compressed model are compared, `perplexity_tokens` of it.
    batch_tokens: tokens of a calibration batch; changes speed, memory and the statistics' last bits.
    """

    save_as: Annotated[
        SaveAs,
        _Flag(
            help="{default} (the default), or compressed-tensors, which stores the codes of a final gptq or awq step.",
            metavar="STORAGE",
            commands=("compress",),
        ),
    ] = "dense"
    text: TextOptions = TextOptions()
    dtype: Annotated[
        str, _Flag(help="auto (as stored), float32, bfloat16 or float16 (default {default}).")
    ] = "auto"
    device: Annotated[
        str,
        _Flag(help="Device for the block being processed: cpu, cuda, mps or auto (default {default})."),
    ] = "cpu"
    perplexity_text: Annotated[
        Path | None,
        _Flag(
            name="--perplexity",
            help="A text file to compare the dense and the compressed model on.",
            metavar="FILE",
        ),
    ] = None
    perplexity_tokens: Annotated[
        int | None, _Flag(help="Use only this many of its tokens (default: all).", least=2)
    ] = None
    batch_tokens: int = BATCH_TOKENS
