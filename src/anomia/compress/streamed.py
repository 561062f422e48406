"""Steps that read and write the files of a model part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anomia.compress.calibration import Windows
from anomia.compress.in_files import InFiles
from anomia.compress.matrices_in_files import change_matrices, streams
from anomia.compress.methods.table import reshaper_of
from anomia.compress.options import SaveAs
from anomia.compress.pipeline import OnProgress
from anomia.compress.report import CompressionReport
from anomia.compress.reshape_in_files import InFolder, can_be_reshaped, reshape_files
from anomia.compress.steps import Embeddings, Prune, Quantize, Reshape, Step, needs_calibration
from anomia.compress.tables_in_files import StoredTable, round_tables, stored_tables
from anomia.compress.written import Written
from anomia.files import write_json
from anomia.models.examine import Examined

StreamedStep = tuple[CompressionReport, int]
"""The report of a step, and the number of parts that an earlier call had finished."""
StepRunner = Callable[[Windows | None, int, OnProgress | None], StreamedStep]
"""Runs a step, given calibration windows, the tokens per batch and a progress callback."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A step that is ready to run.

    model: without its weights. state: of an unfinished call, with the finished `matrices`, and hashes of the `measured`
    and `written` files. save: stores the state.
    """

    model: Any
    state: dict[str, Any]
    save: Callable[[], None]
    run: StepRunner

    def is_begun(self) -> bool:
        """Whether an earlier call finished a part of the step."""
        return bool(self.state["matrices"] or self.state["measured"] or self.state["written"])


def open_streamed(
    found: Examined,
    source: Path,
    out: Path,
    scratch: Path,
    step: Step,
    state: dict[str, Any],
    *,
    dtype: str,
    device: torch.device,
    save_as: SaveAs = "dense",
    dense: Sequence[str] = (),
) -> Streamed | None:
    """Prepare a step that streams through the files; `None` if the whole model must be loaded.

    Args:
        source: the folder with the weights.
        out: the new folder.
        scratch: folder for states and statistics.
        state: of an earlier call, changed in place.
    """
    state.setdefault("measured", [])
    save = partial(write_json, scratch / "state.json", state)
    written = Written(out, state.setdefault("written", {}), save)
    tables = stored_tables(found) if isinstance(step, Embeddings) else None
    if not isinstance(step, Prune | Quantize | Reshape):
        if tables is None or not isinstance(step, Embeddings):
            return None
        return Streamed(
            found.skeleton,
            state,
            save,
            partial(_embeddings, found, source, out, step, tables, written, dtype),
        )
    if isinstance(step, Reshape) and not reshaper_of(step.method).streamed:
        return None
    if not isinstance(step, Reshape) and not streams(step):
        return None
    blocks = InFiles(
        found,
        source,
        out,
        scratch,
        dtype=dtype,
        device=device,
        save_as=save_as,
        runs=needs_calibration(step),
        dense=dense,
    )
    if not (can_be_reshaped(blocks) if isinstance(step, Reshape) else blocks.fits):
        return None
    if isinstance(step, Reshape):
        subject = InFolder(blocks, out, scratch, state, save, written)
        return Streamed(blocks.model, state, save, partial(_reshape, subject, step, state))
    return Streamed(blocks.model, state, save, partial(_matrices, blocks, out, step, state, save))


def _embeddings(
    found: Examined, source: Path, out: Path, step: Embeddings, tables: Sequence[StoredTable],
    written: Written, dtype: str, windows: Windows | None, batch_tokens: int, progress: OnProgress | None,
) -> StreamedStep:  # fmt: skip
    return round_tables(found, source, out, step, tables, written, dtype=dtype, progress=progress)


def _reshape(
    subject: InFolder, step: Reshape, state: dict[str, Any], windows: Windows | None, batch_tokens: int,
    progress: OnProgress | None,
) -> StreamedStep:  # fmt: skip
    before = len(state["measured"])
    report = reshape_files(subject, step, windows, batch_tokens=batch_tokens, progress=progress)
    return report, before


def _matrices(
    blocks: InFiles, out: Path, step: Prune | Quantize, state: dict[str, Any], save: Callable[[], None],
    windows: Windows | None, batch_tokens: int, progress: OnProgress | None,
) -> StreamedStep:  # fmt: skip
    before = len(state["matrices"])
    report = change_matrices(
        blocks, out, step, windows, state, save, batch_tokens=batch_tokens, progress=progress
    )
    return report, before
