"""Settings that a specification such as `wanda:0.5` leaves open: the calibration text, and those of a folder.

`anomia compress` and `anomia prune` take their flags from these fields, so this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from anomia.compress.kept import read_kept
from anomia.compress.steps import Calibration
from anomia.flags import Flag

SaveAs = Literal["dense", "compressed-tensors", "gptq"]
BATCH_TOKENS = 1024
"""Tokens per calibration batch."""
WINDOW_TOKENS = 2048
"""Maximum tokens per calibration window."""

_Flag = partial(Flag, section="compression", commands=("compress", "prune", "repair"))
_Text = partial(Flag, section="calibration", commands=("run", "compress", "prune", "repair"))

_SOURCES = "Calibration text: c4, demo, wikipedia:LANGUAGE, balanced,{} or file:PATH (default {{default}})."
_OF_STUDIES = (
    " own (each language's own text), answers (what base itself answers to other questions of the study; answers:DATA "
    "for those of other data), control-answers (the same prompts, each with another one's answer),"
)

_OF_DATA = (
    " answers:DATA (what the model itself answers to these questions or prompts), control-answers:DATA (the "
    "same prompts, each with another one's answer),"
)

# A study has the same flags.
SOURCE = _Text(
    name="--calibration",
    help=_SOURCES.format(_OF_STUDIES),
    help_on=dict.fromkeys(("compress", "prune", "repair"), _SOURCES.format(_OF_DATA)),
    metavar="SOURCE",
)
SAMPLES = _Text(
    name="--calibration-samples", help="Number of passages (default 128, or 64 per language).", least=1
)
TOKENS = _Text(name="--calibration-tokens", help="Tokens per passage (default {default}).", least=1)
FOLDER = _Text(
    name="--calibration-folder",
    help="A folder with c4.en.jsonl and wikipedia/LANGUAGE.jsonl, searched before the hub.",
    type=Path,
)
BUDGET = _Text(
    name="--calibration-budget", help="Total number of tokens, to compare sources fairly.", least=1
)
ANSWER_WEIGHT = _Text(
    name="--calibration-answer-weight",
    help="Weight of the tokens of answers in sums over tokens, where the text is a model's answers (default "
    "{default}).",
    metavar="W",
    type=float,
)
MIX = _Text(
    name="--calibration-mix",
    help="A second text and its share of the tokens, such as c4=0.25.",
    metavar="SOURCE=SHARE",
)
KEPT = Flag(
    name="--dense",
    section="compression",
    help=(
        "Matrices to keep as they are: comma-separated names, or a file of names such as that of "
        "anomia locate --keep."
    ),
    metavar="NAMES|FILE",
    type=str,
    read=read_kept,
    commands=("run", "compress", "prune", "repair"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """The calibration text of a step; settings of the step override these.

    source: one of `sources.SOURCES`. samples: passages per stream (default 128; 64 per language for `balanced` and
    `own`). tokens: of the longest window. budget: total tokens of all windows. languages: for `balanced` and `demo`.
    language: for `own`. answers: the files with base's answers, by source, for `answers` and `control-answers`.
    answer_weight: of positions that predict the tokens of an answer. mix: a second source and its share of the tokens,
    `SOURCE=SHARE`. data_dir: a folder that is searched before the hub. evaluation_passages: text that the calibration
    passages must not share.
    """

    source: Annotated[str, SOURCE] = "c4"
    samples: Annotated[int | None, SAMPLES] = None
    tokens: Annotated[int, TOKENS] = WINDOW_TOKENS
    data_dir: Annotated[Path | None, FOLDER] = None
    budget: Annotated[int | None, BUDGET] = None
    answer_weight: Annotated[float, ANSWER_WEIGHT] = 1.0
    mix: Annotated[str | None, MIX] = None
    languages: Annotated[Sequence[str], _Flag(help="Languages for balanced calibration.", metavar="A,B")] = ()
    language: str | None = None
    answers: Mapping[str, Path] = field(default_factory=dict)
    evaluation_passages: Sequence[str] = field(default=(), repr=False)

    def under(self, step: Calibration) -> TextOptions:
        """Return these settings, overridden by those of a step."""
        own = {each.name: getattr(step, each.name) for each in fields(step)}
        return replace(self, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """Settings of `compress_folder`.

    save_as: how the matrices of a final quantizing step are stored; `dense` stores dequantized values.
    dense: names of matrices that stay as they are.
    dtype: `auto` keeps the stored type. device: for the block being processed: `cpu`, `cuda`, `mps` or `auto`.
    perplexity_text: a text file on which the dense and the compressed model are compared; perplexity_tokens: how many
    of its tokens to use. batch_tokens: tokens per calibration batch; affects speed, memory and the last bits of the
    statistics.
    """

    save_as: Annotated[
        SaveAs,
        _Flag(
            help="{default} (the default); compressed-tensors or gptq to keep weights packed after a gptq or awq step.",
            metavar="STORAGE",
            commands=("compress",),
        ),
    ] = "dense"
    text: TextOptions = TextOptions()
    dense: Annotated[Sequence[str], KEPT] = ()
    dtype: Annotated[
        str,
        _Flag(
            help="Type of the weights: auto (as stored), float32, bfloat16 or float16 (default {default}).",
            metavar="DTYPE",
        ),
    ] = "auto"
    device: Annotated[
        str,
        _Flag(
            help="Device for the block being processed: cpu, cuda, mps or auto (default {default}).",
            metavar="DEVICE",
        ),
    ] = "cpu"
    perplexity_text: Annotated[
        Path | None,
        _Flag(
            name="--perplexity",
            help="A text file; gives the perplexity on it before and after.",
            metavar="FILE",
        ),
    ] = None
    perplexity_tokens: Annotated[
        int | None, _Flag(help="Use only this many of its tokens (default: all).", least=2)
    ] = None
    batch_tokens: int = BATCH_TOKENS
