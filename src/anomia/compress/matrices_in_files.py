"""Prune or quantize the matrices of a model folder into another one, with one block in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anomia.compress.apply import check_step, choices_of, versions, warnings_of
from anomia.compress.calibration import Windows
from anomia.compress.in_files import InFiles
from anomia.compress.left_dense import note_on_bare
from anomia.compress.matrices import kept_weights
from anomia.compress.methods.table import goes_by_block, method_of
from anomia.compress.outputs import check_logits
from anomia.compress.packed import notes_on
from anomia.compress.pipeline import Finished, OnProgress, go_through
from anomia.compress.report import CompressionReport, MatrixReport, by_reason
from anomia.compress.shards import shard_name
from anomia.compress.steps import Prune, Quantize, reads_final_loss
from anomia.compress.walk import calibrating
from anomia.compress.written import check_written, content_hash
from anomia.words import counted, percent


def streams(step: Prune | Quantize) -> bool:
    """Whether a step needs only one block in memory."""
    return (
        goes_by_block(step) and method_of(step.method).whole_gradients is None and not reads_final_loss(step)
    )


def change_matrices(
    blocks: InFiles,
    out: Path,
    step: Prune | Quantize,
    windows: Windows | None,
    state: dict[str, Any],
    save_state: Callable[[], None],
    *,
    batch_tokens: int,
    progress: OnProgress | None = None,
) -> CompressionReport:
    """Prune or quantize a model folder into another one, starting at the first block that no earlier call finished.

    Args:
        state: of an earlier call, changed in place.
        save_state: stores the state.

    Raises:
        CompressionError: the step doesn't fit this model, or a finished file is damaged.
    """
    started = time.perf_counter()
    check_step(blocks.decoder, step)
    unpacked = blocks.why_unpacked(step)
    blocks.check_room()
    reports = [[_matrix(entry) for entry in block] for block in state["matrices"]]
    blocks.resumed, blocks.digests = len(reports), state.get("states") or ()
    blocks.meant = state.get("values") or {}
    blocks.vanished = state.get("vanished") or {}
    if not reports:
        blocks.check_outer()
    shards = state.setdefault("shards", [])
    for index, digest in enumerate(shards[: len(reports)]):
        check_written(out, [out / shard_name(index)], digest, out)

    def save(finished: Finished) -> None:
        state["sparsities"] = finished.sparsities
        state["matrices"] = [[list(report) for report in block] for block in finished.reports]
        written = blocks.states.digests if blocks.states is not None else {}
        state["states"] = [written[batch] for batch in sorted(written)]
        state["values"], state["vanished"] = blocks.meant, blocks.vanished
        new = range(len(shards), len(finished.reports))
        shards.extend(content_hash([out / shard_name(index)]) for index in new)
        save_state()

    finished, untried = Finished(list(state["sparsities"]), reports, save=save), ""
    with ExitStack() as stack:
        if windows is not None:
            stack.enter_context(calibrating(blocks.model, blocks.device))
        go_through(blocks, step, windows, finished, batch_tokens=batch_tokens, progress=progress)
        if blocks.save_as != "dense" and finished.left is not None:
            # The blocks of a packed folder can't be run from their codes.
            untried = check_logits(blocks, *finished.left)
    blocks.write_rest(step)
    matrices = tuple(report for block in finished.reports for report in block)
    blocks.check_written(matrices, step)
    why = blocks.why_dense()
    return CompressionReport(
        step=str(step),
        matrices=matrices,
        seconds=time.perf_counter() - started,
        calibration=None if windows is None else windows.record,
        block_sparsity=tuple(finished.sparsities),
        left_dense=tuple(why),
        dense_why=by_reason(why),
        kept_weights=kept_weights(blocks.decoder),
        reconstruction=choices_of(step),
        warnings=(
            *warnings_of(step, windows, matrices, packed=blocks.save_as != "dense"),
            *([untried] if untried else []),
            *_vanished(blocks.vanished),
            *((blocks.note,) if blocks.note and windows is not None else ()),
            *notes_on({blocks.stored_name(name): why for name, why in unpacked.items()}),
            *((bare,) if (bare := note_on_bare(blocks.model, blocks.decoder, places=blocks.places)) else ()),
        ),
        versions=versions(),
    )


def _vanished(shares: Mapping[str, float]) -> list[str]:
    """Return a warning if float16 makes many values zero. shares: by stored name."""
    if not shares:
        return []
    worst = max(shares, key=lambda name: shares[name])
    return [
        f"float16 makes more than 1 % of the values of {counted(len(shares), 'tensor')} zero ({worst}: "
        f"{percent(shares[worst])}), which errors don't show; use --dtype bfloat16 or float32"
    ]


def _matrix(entry: Sequence[Any]) -> MatrixReport:
    report = MatrixReport(*entry)
    return report._replace(shape=(report.shape[0], report.shape[1]))
