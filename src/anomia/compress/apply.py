"""Applying one pruning step to a loaded model, in place, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from anomia._version import __version__
from anomia.compress.attention import strips_where_faster
from anomia.compress.blocks import (
    Call,
    DecoderBlocks,
    Interner,
    Matrix,
    find_blocks,
    find_fused_experts,
    find_matrices,
    left_dense,
    record_calls,
    run_block,
)
from anomia.compress.calibration import Batch, Windows, make_batches, make_windows, read_calibration
from anomia.compress.prune import METHODS, by_magnitude, prune_groups
from anomia.compress.report import CompressionReport, MatrixReport
from anomia.compress.spec import UNCALIBRATED, Checkpoint, Pattern, Prune, Quantize, Step, Target
from anomia.compress.statistics import Group, Needs, observe
from anomia.errors import CompressionError

Progress = Callable[[int, int], None]
BATCH_TOKENS = 1024


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
    if isinstance(step, Checkpoint):
        raise CompressionError(f"{step} is a model of its own: load it instead of base")
    if isinstance(step, Quantize):
        raise CompressionError(f"{step} is not available yet")
    started = time.perf_counter()
    decoder = find_blocks(model)
    check_target(decoder, step.target)
    count = len(decoder.modules)
    matrices: list[MatrixReport] = []
    if needs_calibration(step):
        if windows is None:
            raise CompressionError(f"{step} needs calibration text, and none was given")
        with quiet_model(model):
            batches = batches_for(decoder, windows, METHODS[step.method].needs, batch_tokens)
            for index, groups in walk(model, decoder, batches, METHODS[step.method].needs):
                matrices += prune_groups(step.method, groups, step.target, where=f"{decoder.name}.{index}")
                if progress is not None:
                    progress(index + 1, count)
    else:
        for index, block in enumerate(decoder.modules):
            where = f"{decoder.name}.{index}"
            for report in by_magnitude(all_matrices(block, where), step.target):
                matrices.append(report._replace(name=f"{where}.{report.name}"))
            if progress is not None:
                progress(index + 1, count)
    return CompressionReport(
        step=str(step),
        matrices=tuple(matrices),
        seconds=time.perf_counter() - started,
        calibration=None if windows is None else windows.record,
        left_dense=tuple(left_dense(model, decoder)),
        warnings=(() if windows is None else windows.record.warnings) + warnings_of(matrices),
        versions=versions(),
    )


def walk(
    model: nn.Module, decoder: DecoderBlocks, batches: Sequence[Batch], needs: Needs
) -> Iterator[tuple[int, list[Group]]]:
    """The statistics of one block after the other; between two, the caller may prune the block in place."""
    states, calls = enter(model, decoder, batches)
    for index, block in enumerate(decoder.modules):
        where = f"{decoder.name}.{index}"
        yield index, observe(block, batches, states.__getitem__, calls[index], needs, where=where)
        if index + 1 < len(decoder.modules):
            for state, call in zip(states, calls[index], strict=True):
                with torch.no_grad():
                    state.copy_(run_block(block, state, call))
        calls[index] = []


def enter(
    model: nn.Module, decoder: DecoderBlocks, batches: Sequence[Batch]
) -> tuple[list[torch.Tensor], list[list[Call]]]:
    """What enters the first block in each batch, and how each block is called, by block and batch."""
    intern = Interner()
    states: list[torch.Tensor] = []
    calls: list[list[Call]] = [[] for _ in decoder.modules]
    for batch in batches:
        hidden, recorded = record_calls(model, decoder, batch.input_ids.to(next(model.parameters()).device))
        states.append(hidden.detach().clone())
        for mine, call in zip(calls, recorded, strict=True):
            mine.append(Call(intern(call.args), intern(dict(call.kwargs))))
    return states, calls


def batches_for(
    decoder: DecoderBlocks, windows: Windows, needs: Needs, batch_tokens: int = BATCH_TOKENS
) -> list[Batch]:
    """Batches that suit the model: a mixture of experts would route padding to experts, so it gets none."""
    mixture = any(
        "expert" in name.lower() or getattr(module, "is_transposed", None) is not None
        for name, module in decoder.modules[-1].named_modules()
    )
    return make_batches(windows, batch_tokens=batch_tokens, padded=not mixture, by_language=needs.languages)


def all_matrices(block: nn.Module, where: str) -> list[Matrix]:
    """Every matrix of a block that pruning touches, an expert's slices one by one."""
    matrices = find_matrices(block, where=where)
    for fused in find_fused_experts(block, where=where):
        matrices += fused.matrices()
    return matrices


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


def warnings_of(matrices: Sequence[MatrixReport]) -> tuple[str, ...]:
    """What a user should hear about: notes of single matrices, counted."""
    notes = [matrix.note for matrix in matrices if matrix.note]
    return tuple(f"{notes.count(note)} matrices: {note}" for note in dict.fromkeys(notes))


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {"anomia": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


@contextmanager
def quiet_model(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, attention in strips, experts one by one, for as long as activations are observed."""
    training = model.training
    config = getattr(model, "config", None)
    experts = getattr(config, "_experts_implementation", None)
    model.eval()
    if experts not in (None, "eager"):
        model.set_experts_implementation("eager")  # type: ignore[operator]
    try:
        with strips_where_faster(model):
            yield
    finally:
        model.train(training)
        if experts not in (None, "eager"):
            model.set_experts_implementation(experts)  # type: ignore[operator]
