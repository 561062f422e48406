"""Steps other than pruning and quantizing that go through the files of a model, part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anomia.compress.calibration import Windows
from anomia.compress.in_files import InFiles
from anomia.compress.pipeline import Progress
from anomia.compress.report import CompressionReport
from anomia.compress.reshape.table import STREAMED
from anomia.compress.reshape_in_files import InFolder, can_be_reshaped, reshape_files
from anomia.compress.steps import Embeddings, Reshape
from anomia.compress.tables_in_files import round_tables, stored_tables
from anomia.compress.written import Written
from anomia.files import write_json
from anomia.models.examine import Examined

Run = Callable[[Windows | None, int, Progress | None], tuple[CompressionReport, int]]
"""Does a step with tokens in batches of so many. Returns the report, and how many parts an earlier call had finished."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A step that is ready to go. model: without its weights. state: of an unfinished call, with what is `measured` and
    `written`. save: keeps it."""

    model: Any
    state: dict[str, Any]
    save: Callable[[], None]
    run: Run

    def is_begun(self) -> bool:
        """Whether an earlier call finished a part."""
        return bool(self.state["measured"] or self.state["written"])


def open_streamed(
    found: Examined,
    source: Path,
    out: Path,
    scratch: Path,
    step: Embeddings | Reshape,
    state: dict[str, Any],
    *,
    dtype: str,
    device: torch.device,
) -> Streamed | None:
    """A step that goes through the files; `None` where the whole model has to be loaded.

    Args:
        source: the folder with the weights. out: the new one. scratch: for states and statistics.
        state: what an earlier call left, changed in place.
    """
    state.setdefault("measured", [])
    save = partial(write_json, scratch / "state.json", state)
    written = Written(out, state.setdefault("written", {}), save)
    if isinstance(step, Embeddings):
        tables = stored_tables(found)
        if tables is None:
            return None

        def run(
            windows: Windows | None, batch_tokens: int, progress: Progress | None
        ) -> tuple[CompressionReport, int]:
            return round_tables(found, source, out, step, tables, written, dtype=dtype, progress=progress)

        return Streamed(found.skeleton, state, save, run)
    if step.method not in STREAMED:
        return None
    blocks = InFiles(found, source, out, scratch, dtype=dtype, device=device)
    if not can_be_reshaped(blocks):
        return None

    def reshape(
        windows: Windows | None, batch_tokens: int, progress: Progress | None
    ) -> tuple[CompressionReport, int]:
        before = len(state["measured"])
        subject = InFolder(blocks, out, scratch, state, save, written)
        report = reshape_files(subject, step, windows, batch_tokens=batch_tokens, progress=progress)
        return report, before

    return Streamed(blocks.model, state, save, reshape)
