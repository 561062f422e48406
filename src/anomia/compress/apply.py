"""Applying one step to a loaded model, in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from anomia._version import __version__
from anomia.compress.allocation import allocation_of, spread_sparsity
from anomia.compress.blocks import (
    DecoderBlocks,
    all_matrices,
    find_blocks,
    left_dense,
)
from anomia.compress.calibration import Windows, make_batches, make_windows, read_calibration
from anomia.compress.prune import METHODS, prune_groups
from anomia.compress.methods.prunerzero import gradient_norms
from anomia.compress.methods.quantize import DEQUANTIZED, quantize_blocks
from anomia.compress.report import CompressionReport, MatrixReport
from anomia.compress.size import stored_bytes
from anomia.compress.spec import (
    UNCALIBRATED,
    Checkpoint,
    Null,
    Pattern,
    Prune,
    Quantize,
    Served,
    Step,
    Target,
)
from anomia.compress.statistics import Group
from anomia.compress.walk import BATCH_TOKENS, calibrating, check_walk, make_model_batches, walk
from anomia.errors import CompressionError

Progress = Callable[[int, int], None]


def prepare_windows(
    step: Step,
    tokenizer: Any,
    *,
    calibration: str = "c4",
    samples: int | None = None,
    tokens: int = 2048,
    budget: int | None = None,
    languages: Sequence[str] = (),
    language: str | None = None,
    data_dir: Path | None = None,
    evaluation_passages: Sequence[str] = (),
) -> Windows | None:
    """The calibration windows of a step, `None` if it needs none.

    What the step itself says wins over the keyword arguments, which are the study's values.
    Raises `DataError` and `StudyError` as `read_calibration` does.
    """
    if not needs_calibration(step):
        return None
    assert isinstance(step, Prune)
    text = read_calibration(
        step.calibration or calibration,
        samples=step.samples or samples,
        languages=languages,
        language=language,
        data_dir=data_dir,
        evaluation_passages=evaluation_passages,
    )
    return make_windows(text, tokenizer, tokens=step.tokens or tokens, budget=step.budget or budget)


def needs_calibration(step: Step) -> bool:
    """Whether a step reads calibration text."""
    return isinstance(step, Prune) and (step.method not in UNCALIBRATED or step.allocation == "owl")


def compress(
    model: nn.Module,
    step: Step,
    windows: Windows | None = None,
    *,
    progress: Progress | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> CompressionReport:
    """Apply one step to the model in place.

    The calibration activations enter a block, statistics are taken on the still-dense block, all its matrices
    are pruned, the activations go through the pruned block, and the next block follows. Embeddings, norms,
    biases and the head keep every bit.

    Args:
        model: any causal language model of `transformers`, on one device.
        step: what to do; a `Checkpoint` is loaded, not applied.
        windows: calibration tokens (`prepare_windows`); not needed for magnitude pruning and quantization.
        progress: called with (blocks done, all blocks).
        batch_tokens: tokens of a calibration batch; changes speed, memory and the statistics' last bits.

    Raises:
        CompressionError: the step doesn't fit this model; nothing was changed.
    """
    if isinstance(step, Checkpoint | Null | Served):
        raise CompressionError(f"{step} is a model of its own: load it instead of base")
    started = time.perf_counter()
    decoder = find_blocks(model)
    if isinstance(step, Quantize):
        quantized = quantize_blocks(decoder, step, progress=progress)
        return CompressionReport(
            step=str(step),
            matrices=tuple(quantized),
            seconds=time.perf_counter() - started,
            left_dense=tuple(left_dense(model, decoder)),
            warnings=() if step.method == "llm.int8" else (DEQUANTIZED,),
            versions=versions("torchao", "bitsandbytes"),
            size_bytes=stored_bytes(model, [step]),
        )
    check_target(decoder, step.target)
    if needs_calibration(step) and windows is None:
        raise CompressionError(f"{step} needs calibration text, and none was given")
    matrices: list[MatrixReport] = []
    with ExitStack() as stack:
        if windows is not None:
            stack.enter_context(calibrating(model))
            check_walk(model, decoder, make_batches(windows)[0])
        sparsities = _spread(model, decoder, step, windows, batch_tokens)
        for index, groups in _groups(model, decoder, step, windows, batch_tokens):
            target = sparsities[index] if sparsities else step.target
            matrices += prune_groups(step.method, groups, target, where=f"{decoder.name}.{index}")
            if progress is not None:
                progress(index + 1, len(decoder.modules))
    return CompressionReport(
        step=str(step),
        matrices=tuple(matrices),
        seconds=time.perf_counter() - started,
        calibration=None if windows is None else windows.record,
        block_sparsity=tuple(sparsities),
        left_dense=tuple(left_dense(model, decoder)),
        reconstruction=METHODS[step.method].choices,
        warnings=warnings_of(step, windows, matrices),
        versions=versions(),
        size_bytes=stored_bytes(model, [step]),
    )


def _spread(
    model: nn.Module, decoder: DecoderBlocks, step: Prune, windows: Windows | None, batch_tokens: int
) -> list[float]:
    """The sparsity of each block, empty where all have the same; costs one walk over the dense model."""
    allocation = allocation_of(step)
    if allocation is None or isinstance(step.target, Pattern):
        return []
    assert windows is not None
    batches = make_model_batches(decoder, windows, allocation.needs, batch_tokens=batch_tokens)
    dense = walk(model, decoder, batches, allocation.needs)
    return spread_sparsity([allocation.importance(groups) for _, groups in dense], step.target)


def _groups(
    model: nn.Module, decoder: DecoderBlocks, step: Prune, windows: Windows | None, batch_tokens: int
) -> Iterator[tuple[int, list[Group]]]:
    """What each block's method reads, block by block; the caller prunes in between."""
    needs = METHODS[step.method].needs
    if needs is not None:
        assert windows is not None
        batches = make_model_batches(decoder, windows, needs, batch_tokens=batch_tokens)
        yield from walk(model, decoder, batches, needs)
        return
    gradients: list[dict[str, torch.Tensor]] = []
    if step.method == "prunerzero":
        assert windows is not None
        gradients = gradient_norms(model, decoder, windows, all_matrices)
    for index, block in enumerate(decoder.modules):
        matrices = all_matrices(block, f"{decoder.name}.{index}")
        mine = gradients[index] if gradients else {}
        yield index, [Group((m,), None, (mine[m.name],) if mine else ()) for m in matrices]


def check_target(decoder: DecoderBlocks, target: Target) -> None:
    """Refuse, before any work, a pattern that some matrix can't hold and weights that can't be pruned."""
    for index, block in enumerate(decoder.modules):
        where = f"{decoder.name}.{index}"
        for matrix in all_matrices(block, where):
            if isinstance(target, Pattern) and matrix.weight.shape[1] % target.group:
                raise CompressionError(
                    f"{where}.{matrix.name} has {matrix.weight.shape[1]} inputs, which {target} can't divide;"
                    " choose a pattern whose M divides them, or a sparsity"
                )


def warnings_of(step: Prune, windows: Windows | None, matrices: Sequence[MatrixReport]) -> tuple[str, ...]:
    """What a user should hear about: of the calibration text, and notes of single matrices, counted."""
    warnings = list(windows.record.warnings) if windows is not None else []
    needs = METHODS[step.method].needs
    if windows is not None and needs and needs.languages and len(set(windows.languages)) < 2:
        warnings.append(
            f"{step.method} compares languages, and its calibration text has one; calibration=balanced has several"
        )
    notes = [matrix.note for matrix in matrices if matrix.note]
    return (*warnings, *(f"{notes.count(note)} matrices: {note}" for note in dict.fromkeys(notes)))


def versions(*packages: str) -> dict[str, str]:
    """The versions that a result depends on; of `packages`, those that are installed."""
    found = {"anomia": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
