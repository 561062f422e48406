"""Apply one step to a loaded model, in place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch
import transformers
from torch import nn

from anomia._version import __version__
from anomia.compress.blocks import DecoderBlocks, find_blocks
from anomia.compress.calibration import Windows, make_batches, make_windows, mixed, read_calibration
from anomia.compress.kept import check_kept, is_kept, keep_dense
from anomia.compress.left_dense import dense_in_files, not_rounded, note_on_bare
from anomia.compress.matrices import block_weights, compressed_layers, kept_weights, matrix_names
from anomia.compress.methods import embeddings
from anomia.compress.methods.grid import Quantized
from anomia.compress.methods.llm_int8 import replace_linears
from anomia.compress.methods.quantize import DEQUANTIZED, check_groups
from anomia.compress.methods.table import goes_by_block, method_of, reshaper_of
from anomia.compress.options import BATCH_TOKENS, TextOptions
from anomia.compress.pipeline import Finished, OnProgress, all_needs, check_target, go_through
from anomia.compress.report import CompressionReport, MatrixReport, by_reason
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Loaded
from anomia.compress.shards import check_weights
from anomia.compress.shared import key_of
from anomia.compress.size import stored_bytes
from anomia.compress.sources import read_mix
from anomia.compress.steps import (
    Checkpoint,
    Embeddings,
    Null,
    Prune,
    Quantize,
    Reshape,
    Served,
    Step,
    needs_calibration,
)
from anomia.compress.visit import BlocksInMemory
from anomia.compress.walk import calibrating, try_walk
from anomia.errors import CompressionError, RefusedError, StudyError
from anomia.words import counted

FEW_TOKENS = 128
"""Calibration tokens below which every step warns; published results use a thousand times as many."""


def prepare_windows(
    step: Step,
    tokenizer: Any,
    text: TextOptions = TextOptions(),
    *,
    positions: int | None = None,
) -> Windows | None:
    """Return the calibration windows of a step, `None` if it needs none.

    Settings of the step override `text`. positions: the model's limit in tokens, from `text_limit`.
    Raises `DataError` and `StudyError` as `read_calibration` does.
    """
    if not needs_calibration(step):
        return None
    wanted = text.under(step.calibration)
    if wanted.mix is None:
        return _windows(wanted, tokenizer, positions)
    source, share = read_mix(wanted.mix)
    budget = wanted.budget
    main = _windows(
        replace(wanted, budget=None if budget is None else round(budget * (1 - share))), tokenizer, positions
    )
    # As many tokens as make this share, whatever number of passages that takes.
    rest = max(2, round(main.record.tokens * share / (1 - share)))
    other = _windows(replace(wanted, source=source, samples=rest, budget=rest), tokenizer, positions)
    return mixed(main, other)


def _windows(text: TextOptions, tokenizer: Any, positions: int | None) -> Windows:
    return make_windows(
        read_calibration(text),
        tokenizer,
        tokens=text.tokens,
        budget=text.budget,
        positions=positions,
        answer_weight=text.answer_weight,
    )


def compress(
    model: nn.Module,
    step: Step,
    windows: Windows | None = None,
    *,
    progress: OnProgress | None = None,
    batch_tokens: int = BATCH_TOKENS,
    packed: dict[str, Quantized] | None = None,
    dense: Sequence[str] = (),
) -> CompressionReport:
    """Apply one step to the model in place.

    For each block: gather statistics on the still-dense block, change all its matrices, and run the calibration
    activations through the changed block to get the inputs of the next. Embeddings, norms, biases and the head keep
    every bit, unless the step rounds them.

    Args:
        model: any causal language model of `transformers`, on one device.
        step: the step to apply; a `Checkpoint` is loaded, not applied.
        windows: calibration tokens (`prepare_windows`); not needed for magnitude pruning and rounding.
        progress: called with (blocks done, all blocks).
        batch_tokens: tokens per calibration batch; affects speed, memory and the last bits of the statistics.
        packed: if given, gets the codes of quantized matrices, [out, in] each, by their names in the model.
        dense: names of matrices that stay as they are.

    Raises:
        CompressionError: the step doesn't fit this model. If its weights, the shapes of its matrices, the calibration
            text or a trial pass show that, nothing was changed. NaN, infinite or too large states, statistics and
            results show only during the work: then a part may be changed already, as a note on the error says
            (`__notes__`), and the model has to be loaded again. `compress_folder` changes no model of the caller.
    """
    if isinstance(step, Checkpoint | Null | Served):
        raise RefusedError(f"{step} is a complete model: load it instead of base")
    if needs_calibration(step) and windows is None:
        raise RefusedError(f"{step} needs calibration text, and none was given")
    started = time.perf_counter()
    check_weights(model.state_dict())
    keep_dense(model, dense)
    check_dense(model, [step])
    decoder = find_blocks(model)
    finished = Finished()
    matrices: tuple[MatrixReport, ...] = ()
    shaped: ReshapeReport | None = None
    if isinstance(step, Embeddings):
        with _told(lambda: "token tables"):
            matrices = tuple(embeddings.quantize_embeddings(model, step.kind, progress=progress))
    elif isinstance(step, Reshape):
        weights = block_weights(decoder)
        # Not inside `calibrating`: the new model would keep its temporary settings.
        reshaper = reshaper_of(step.method)
        shaped = reshaper.apply(
            Loaded(model, decoder), step.share, windows, progress=progress, batch_tokens=batch_tokens
        )
        decoder = find_blocks(model)
        shaped = reshaper.with_share(shaped, step.share, (weights, block_weights(decoder)))
    elif not goes_by_block(step):
        matrices = tuple(replace_linears(decoder, progress))
    else:
        check_step(decoder, step)
        with ExitStack() as stack:
            if windows is not None:
                stack.enter_context(calibrating(model))
                decoder = try_walk(model, decoder, make_batches(windows)[0])
            blocks = BlocksInMemory(model, decoder, packed)
            with _told(lambda: f"first {counted(len(finished.reports) + 1, 'block')}"):
                go_through(blocks, step, windows, finished, batch_tokens=batch_tokens, progress=progress)
        matrices = tuple(report for reports in finished.reports for report in reports)
    why = None if isinstance(step, Embeddings) else dense_in_files(model, decoder)
    return CompressionReport(
        step=str(step),
        matrices=matrices,
        seconds=time.perf_counter() - started,
        calibration=None if windows is None else windows.record,
        block_sparsity=tuple(finished.sparsities),
        left_dense=not_rounded(model, matrices) if why is None else tuple(why),
        dense_why=None if why is None else by_reason(why),
        kept_weights=kept_weights(decoder),
        reconstruction=choices_of(step),
        warnings=(
            *warnings_of(step, windows, matrices, packed=packed is not None),
            *(
                (f"{decoder.fault}: each block was observed in passes of the whole model",)
                if decoder.fault
                else ()
            ),
            *((bare,) if (bare := note_on_bare(model, decoder)) and not shaped and why is not None else ()),
            *(shaped.notes if shaped else ()),
            *(embeddings.notes(model, step.kind) if isinstance(step, Embeddings) else ()),
        ),
        reshaped=shaped.to_dict() if shaped else None,
        versions=versions("torchao", "bitsandbytes") if isinstance(step, Quantize) else versions(),
        size_bytes=stored_bytes(model, [step]),
    )


@contextmanager
def _told(part: Callable[[], str]) -> Iterator[None]:
    """Add a note to an error in the body: which part of the model in memory may be changed already."""
    try:
        yield
    except CompressionError as error:
        error.add_note(f"the model in memory may be changed in its {part()}; load it again")
        raise


def check_steps(model: nn.Module, steps: Sequence[Step]) -> None:
    """Refuse, before any work, steps that don't fit a matrix, as far as the model's shapes show.

    model: the one before the first step; its weights aren't read.
    """
    check_dense(model, steps)
    for step in steps:
        if isinstance(step, Reshape):
            return
        if goes_by_block(step):
            check_step(find_blocks(model), step)


def check_dense(model: nn.Module, steps: Sequence[Step]) -> None:
    """Refuse names of matrices to keep dense that the model doesn't have or that a step doesn't leave alone."""
    if not is_kept(model):
        return
    decoder = find_blocks(model)
    outside = check_kept(model, matrix_names(decoder))
    changed = {key_of(module.weight) for block in decoder.modules for _, module in compressed_layers(block)}
    for name in outside:
        weight: Any = model.get_submodule(name).weight
        if key_of(weight) in changed:
            raise StudyError(
                f"dense: {name} shares its weights with a matrix that would change; name that one, too"
            )
    for step in steps:
        if isinstance(step, Reshape):
            raise StudyError(f"dense: {step} drops parts of matrices and renames them; leave out --dense")
        if isinstance(step, Embeddings) and outside:
            raise StudyError(
                f"dense: {step} rounds {outside[0]}; leave it out of the list, or leave out {step}"
            )


def check_step(decoder: DecoderBlocks, step: Prune | Quantize) -> None:
    """Refuse, before any work, a step that doesn't fit some matrix."""
    if isinstance(step, Quantize):
        check_groups(decoder, step)
    else:
        check_target(decoder, step.target)


def choices_of(step: Step) -> tuple[str, ...]:
    """Return the decisions of a reconstructed method that its paper leaves open."""
    return method_of(step.method).choices if isinstance(step, Prune) else ()


def warnings_of(
    step: Step, windows: Windows | None, matrices: Sequence[MatrixReport], *, packed: bool = False
) -> tuple[str, ...]:
    """Return the warnings for the user: about the calibration text, and the matrices' notes with their counts.

    packed: whether codes are stored instead of dequantized values.
    """
    warnings = list(windows.record.warnings) if windows is not None else []
    if isinstance(step, Quantize) and goes_by_block(step) and not packed:
        warnings.append(DEQUANTIZED)
    needs = method_of(step.method).needs if isinstance(step, Prune) else None
    if windows is not None and needs and needs.languages and len(set(windows.languages)) < 2:
        assert isinstance(step, Prune)
        warnings.append(
            f"{step.method} compares languages, and its calibration text has one; calibration=balanced has several"
        )
    if windows is not None:
        warnings += _few_tokens(step, windows.record.tokens, matrices)
    notes = [matrix.note for matrix in matrices if matrix.note]
    counts = Counter(notes).items()
    return (*warnings, *(f"{counted(count, 'matrix', 'matrices')}: {note}" for note, count in counts))


def _few_tokens(step: Step, tokens: int, matrices: Sequence[MatrixReport]) -> list[str]:
    """Warn of a calibration text that is too short for what the step estimates from it. tokens: of the whole text."""
    needs = all_needs(step) if isinstance(step, Prune | Quantize) and goes_by_block(step) else None
    widest = max((matrix.shape[1] for matrix in matrices), default=0)
    if needs and needs.hessian and tokens < widest:
        return [
            f"the calibration text has {counted(tokens, 'token')}, fewer than the {widest:,} inputs of the "
            "widest matrix, so their second moments are singular and the step fits chance; use more "
            "passages"
        ]
    if tokens < FEW_TOKENS:
        return [
            f"the calibration text has only {counted(tokens, 'token')}, so what is measured of activations is mostly "
            "chance; use more passages"
        ]
    return []


def versions(*packages: str) -> dict[str, str]:
    """Return the versions that a result depends on, and those of the installed `packages`."""
    found = {"anomia": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
