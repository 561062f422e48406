"""Pruning and quantization: observe a block's inputs, change the block, pass its outputs to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from anomia.compress.allocation import allocation_of, spread_sparsity
from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch, Windows
from anomia.compress.matrices import all_matrices
from anomia.compress.methods.base import BlockWork, WholeWork
from anomia.compress.methods.guided import Snapshot, TokenGradients, guidance, token_gradients
from anomia.compress.methods.repair import aim_at_base
from anomia.compress.methods.table import method_of, updater_of, without_running
from anomia.compress.methods.update import layer_error
from anomia.compress.methods.zeros import check_zeros, count_zeros, note_zeros
from anomia.compress.report import MatrixReport
from anomia.compress.shards import check_finite, count_broken
from anomia.compress.statistics import SharedInput, StatisticNeeds, observe
from anomia.compress.steps import Pattern, Prune, Quantize, Target, Update, before_guidance, is_guided
from anomia.compress.visit import AtBlock, Blocks, BlocksInMemory, visit
from anomia.compress.walk import make_model_batches
from anomia.errors import RefusedError

OnProgress = Callable[[int, int], None]
# Relative rounding of an error that is summed in float32 over all rows.
_ROUNDING = 1e-4
SILENT = "its inputs are zero for all calibration tokens: done without them, by the weights alone"
FAINT = "its inputs are too small for their squares in float32: done without them, by the weights alone"


@dataclass(slots=True)
class Finished:
    """The finished blocks. sparsities: of each block, empty if all are the same. reports: of each finished block.

    left: the tokens of a batch, [B, S], and what leaves the last block for it, [B, S, H], if this call finished it.
    """

    sparsities: list[float] = field(default_factory=list)
    reports: list[list[MatrixReport]] = field(default_factory=list)
    left: tuple[torch.Tensor, torch.Tensor] | None = None
    save: Callable[[Finished], None] = field(default=lambda _: None, repr=False)


@torch.no_grad()
def go_through(
    blocks: Blocks,
    step: Prune | Quantize,
    windows: Windows | None,
    finished: Finished,
    *,
    batch_tokens: int,
    progress: OnProgress | None = None,
) -> None:
    """Change every block that isn't finished yet, in order.

    Args:
        blocks: the blocks of the model.
        step: the pruning or quantization step.
        windows: calibration tokens; None for steps that need none.
        finished: the results of an interrupted call; extended and saved after each block.
        batch_tokens: tokens per calibration batch.
        progress: called with (blocks done, all blocks).

    Raises:
        CompressionError: the method doesn't fit a block; the blocks before it are changed and stored.
    """
    count = len(blocks.decoder.modules)
    method, needs = method_of(step.method), all_needs(step)
    batches: list[Batch] | None = None
    gradients: list[dict[str, torch.Tensor]] = []
    notes: list[dict[str, str]] = []
    if needs is not None:
        assert windows is not None
        batches = make_model_batches(blocks.decoder, windows, needs, batch_tokens=batch_tokens)
    if method.whole_gradients is not None:
        assert windows is not None
        gradients, notes = method.whole_gradients(blocks.model, blocks.decoder, windows, all_matrices)
    loss: TokenGradients | None = None
    if isinstance(step, Prune) and is_guided(step):
        assert windows is not None
        assert batches is not None
        loss = _final_loss(blocks, step, windows, batches, batch_tokens)
    if not finished.sparsities:
        finished.sparsities = _spread(blocks, step, windows, batch_tokens)
        finished.save(finished)

    def change(at: AtBlock) -> list[MatrixReport]:
        work = _work_at(at, step, _target(step, finished, at.index), needs)
        if gradients:
            mine = gradients[at.index]
            work.groups = [
                group._replace(gradients=tuple(mine[matrix.name] for matrix in group.matrices))
                for group in work.groups
            ]
            work.unscored = notes[at.index]
        if loss is not None:
            work.guide = partial(guidance, loss, at.index, batches=at.batches)
        reports = change_block(work)
        packed = work.packed
        del work
        blocks.store(at.index, packed)
        if at.index + 1 == count:
            # No block reads what leaves the last one.
            left = at.check_outputs()
            finished.left = None if left is None else (at.batches[0].input_ids, left)
        return [report._replace(name=f"{at.where}.{report.name}") for report in reports]

    updates = step.updates if isinstance(step, Prune) else ()
    beside = step.option("targets") == "base" or any(updater_of(update.method).beside for update in updates)
    whole = None
    if isinstance(step, Prune) and any(updater_of(update.method).whole for update in updates):
        whole = _Whole(blocks, step)
    for reports in visit(blocks, batches, change, dense=False, first=len(finished.reports), beside=beside):
        finished.reports.append(reports)
        finished.save(finished)
        if progress is not None:
            progress(len(finished.reports), count)
    if whole is not None:
        assert windows is not None
        finished.reports = whole.change(finished.reports, windows, progress)


class _Whole:
    """The updates of a step that change all blocks at once, after the others."""

    def __init__(self, blocks: Blocks, step: Prune) -> None:
        assert isinstance(blocks, BlocksInMemory)
        self._blocks, self._step = blocks, step
        self._updates = [update for update in step.updates if updater_of(update.method).whole]
        for update in self._updates:
            updater_of(update.method).room(blocks.decoder)
        self._base = Snapshot(blocks.decoder)

    def change(
        self, reports: Sequence[Sequence[MatrixReport]], windows: Windows, progress: OnProgress | None
    ) -> list[list[MatrixReport]]:
        """Change the model; returns the reports of each block. Errors of matrices before no longer hold."""
        decoder, found = self._blocks.decoder, [list(block) for block in reports]
        for update in self._updates:
            updater = updater_of(update.method)
            assert updater.whole is not None
            batches = make_model_batches(decoder, windows, updater.needs, batch_tokens=updater.batch_tokens)
            work = WholeWork(self._blocks.model, decoder, self._base, batches, self._step)
            if progress is not None:
                work.progress = progress
            note = updater.whole(work, update)
            for index, block in enumerate(decoder.modules):
                matrices = {
                    f"{decoder.path(index)}.{matrix.name}": matrix
                    for matrix in all_matrices(block, decoder.path(index))
                }
                check_finite({name: matrix.weight for name, matrix in matrices.items()})
                for place, report in enumerate(found[index]):
                    zeros = count_zeros(matrices[report.name].weight)
                    if zeros < report.zeros:
                        raise RefusedError(
                            f"{report.name} has {zeros:,} zeros after {update} where {report.zeros:,} were there "
                            "before. Please report this with the model's name"
                        )
                    notes = "; ".join(part for part in (report.note, note) if part)
                    error = report.error if note else None
                    found[index][place] = report._replace(zeros=zeros, error=error, note=notes)
        return found


def _final_loss(
    blocks: Blocks, step: Prune, windows: Windows, batches: Sequence[Batch], batch_tokens: int
) -> TokenGradients:
    """Measure the final loss of the model pruned without what the loss guides; the blocks are base's again afterwards.

    Masks of later blocks are chosen anew behind repaired ones, so they differ a little from those measured here.
    """
    assert isinstance(blocks, BlocksInMemory)
    if blocks.decoder.fault:
        raise RefusedError(f"{blocks.decoder.fault}, which base's own inputs need")
    base = Snapshot(blocks.decoder)
    try:
        pruned = BlocksInMemory(blocks.model, blocks.decoder)
        go_through(pruned, before_guidance(step), windows, Finished(), batch_tokens=batch_tokens)
        return token_gradients(blocks.model, blocks.decoder, base, batches)
    finally:
        base.restore()


def _work_at(
    at: AtBlock, step: Prune | Quantize, target: Target | None, needs: StatisticNeeds | None
) -> BlockWork:
    """Observe a block; the statistics are freed with the result."""
    if needs is None or at.states is None:
        # One group per matrix, without a statistic.
        groups = [SharedInput((matrix,), None) for matrix in all_matrices(at.block, at.where)]
        return BlockWork(at.block, at.where, groups, step, target, at.batches, None, at.calls)
    hidden: Callable[[int], torch.Tensor] = at.states.read
    if at.calls and at.calls[0].whole is not None:
        hidden = _no_states(at.where, step)
    return BlockWork(
        at.block, at.where, _observe(at, needs), step, target, at.batches, hidden, at.calls, beside=at.beside
    )


def _observe(at: AtBlock, needs: StatisticNeeds) -> list[SharedInput]:
    assert at.states is not None
    return observe(at.block, at.batches, at.states.read, at.calls, needs, where=at.where)


def _no_states(where: str, step: Prune | Quantize) -> Callable[[int], torch.Tensor]:
    """Return a substitute for the states that raises, for blocks that can't be run by themselves."""

    def read(_: int) -> torch.Tensor:
        raise RefusedError(
            f"{where} can't be run by itself, which {step.method} needs; {', '.join(without_running(step))} don't"
        )

    return read


def change_block(work: BlockWork) -> list[MatrixReport]:
    """Apply a step to the matrices, [out, in], of one block in place: the method, then the updates on its mask.

    Names in the reports are those in the block. A matrix that no calibration token reached (an expert that was never
    chosen), or whose inputs are all zero or too small to be squared, is handled by the method's `unreached`, and its
    report has a note of which it is.

    Raises:
        CompressionError: gradients or new weights are NaN or infinite, or there are fewer zeros than requested.
    """
    step, method = work.step, method_of(work.step.method)
    for group in work.groups:
        _check_gradients(group, work.where)
    groups = work.groups
    zeros = {}
    if isinstance(step, Prune):
        zeros = {m.name: count_zeros(m.weight) for group in groups for m in group.matrices}
    # Inputs that are all zero give no scores: treat such a matrix as one that no token reached.
    silent = {matrix.name: note for group in groups if (note := _silence(group)) for matrix in group.matrices}
    work.groups = [g for g in groups if (_is_reached(g) and not _silence(g)) or all_needs(step) is None]
    without = [matrix for g in groups if g not in work.groups for matrix in g.matrices]
    if method.prepare is not None:
        method.prepare(work)
    updates = step.updates if isinstance(step, Prune) else ()
    hessian = bool((all_needs(step) or StatisticNeeds()).hessian)
    dense = {
        m.name: m.weight.float().clone() if updates else m.weight.clone()
        for g in (work.groups if updates or hessian else ())
        for m in g.matrices
    }
    aimed = aim_at_base(work, dense) if step.option("targets") == "base" else {}
    others = [method.unreached(matrix, work) for matrix in without]
    others = [report._replace(note=silent.get(report.name, report.note)) for report in others]
    weights = {matrix.name: matrix.weight for group in work.groups for matrix in group.matrices}
    made = [
        report._replace(error=aimed[report.name](weights[report.name])) if report.name in aimed else report
        for report in method.run(work)
    ]
    reports = _with_errors([*made, *others], work.groups, dense)
    for update in updates:
        run = updater_of(update.method).run
        if run is None:
            continue
        before = {report.name: report for report in reports}
        for report in run(work, dense, update):
            old = before[report.name]
            if report.zeros < old.zeros:
                raise RefusedError(
                    f"{work.where}.{report.name} has {report.zeros:,} zeros after {update} where {old.zeros:,} were "
                    "there before. Please report this with the model's name"
                )
            notes = "; ".join(note for note in (old.note, report.note) if note)
            before[report.name] = report._replace(dead_columns=old.dead_columns, note=notes)
        if updater_of(update.method).beside:
            reports = list(before.values())
            continue
        errors = {report.name: report.error for report in reports}
        reports = [
            _note_growth(report, errors[report.name], update)
            for report in _with_errors(list(before.values()), work.groups, dense)
        ]
    if isinstance(step, Prune) and not method.given_zeros:
        assert work.target is not None
        found = {matrix.name: (matrix, group.statistic) for group in groups for matrix in group.matrices}
        for index, report in enumerate(reports):
            check_zeros(report, work.target, work.where)
            reports[index] = note_zeros(report, *found[report.name], work.target, zeros[report.name])
    check_finite({f"{work.where}.{matrix.name}": matrix.weight for g in groups for matrix in g.matrices})
    return reports


def _with_errors(
    reports: Sequence[MatrixReport], groups: Sequence[SharedInput], dense: Mapping[str, torch.Tensor]
) -> list[MatrixReport]:
    """Add to the reports the error of each matrix against its dense weights, if its group has a Hessian.

    An error that the method computed stays: AWQ's inputs aren't those of the dense weights.
    dense: by a matrix's name in the block, [out, in] each.
    """
    found = {
        matrix.name: layer_error(matrix.weight, dense[matrix.name], group.statistic.hessian)
        for group in groups
        if group.statistic is not None and group.statistic.hessian is not None
        for matrix in group.matrices
    }
    return [
        report if report.error is not None else report._replace(error=found.get(report.name))
        for report in reports
    ]


def _note_growth(report: MatrixReport, before: float | None, update: Update) -> MatrixReport:
    """Add a note to the report if an update made the matrix's error larger. before: the error before the update."""
    if before is None or report.error is None or report.error <= before * (1 + _ROUNDING):
        return report
    note = f"{update.method} made the error of its output larger than the mask before it had"
    return report._replace(note="; ".join(part for part in (report.note, note) if part))


def all_needs(step: Prune | Quantize) -> StatisticNeeds | None:
    """Return the statistics that a step and its updates read, `None` for none."""
    needs = method_of(step.method).needs
    for update in step.updates if isinstance(step, Prune) else ():
        needs = (needs or StatisticNeeds()) | updater_of(update.method).needs
    return needs


def check_target(decoder: DecoderBlocks, target: Target) -> None:
    """Refuse, before any work, weights that can't be pruned, and a pattern that doesn't divide a matrix's inputs."""
    for index, block in enumerate(decoder.modules):
        where = decoder.path(index)
        for matrix in all_matrices(block, where):
            if isinstance(target, Pattern) and matrix.weight.shape[1] % target.group:
                raise RefusedError(
                    f"{where}.{matrix.name} has {matrix.weight.shape[1]} inputs, which {target} can't divide;"
                    " choose a pattern whose M divides them, or a sparsity"
                )


def _target(step: Prune | Quantize, finished: Finished, index: int) -> Target | None:
    if isinstance(step, Quantize):
        return None
    return finished.sparsities[index] if finished.sparsities else step.target


def _spread(
    blocks: Blocks, step: Prune | Quantize, windows: Windows | None, batch_tokens: int
) -> list[float]:
    """Return the sparsity of each block, [blocks], or none if all are the same; costs one walk over the dense model."""
    if isinstance(step, Quantize) or isinstance(step.target, Pattern):
        return []
    allocation = allocation_of(step)
    if allocation is None:
        return []
    assert windows is not None
    batches = make_model_batches(blocks.decoder, windows, allocation.needs, batch_tokens=batch_tokens)

    def look(at: AtBlock) -> tuple[float, int]:
        groups = _observe(at, allocation.needs)
        return allocation.importance(groups), sum(m.weight.numel() for g in groups for m in g.matrices)

    importance, weights = zip(*visit(blocks, batches, look), strict=True)
    return spread_sparsity(importance, step.target, weights=weights)


def _check_gradients(group: SharedInput, where: str) -> None:
    """Refuse gradients that are NaN or infinite, since they can't be compared."""
    for matrix, gradient in zip(group.matrices, group.gradients, strict=False):
        if broken := count_broken(gradient):
            raise RefusedError(
                f"the gradient of {where}.{matrix.name} has {broken:,} of {gradient.numel():,} values that are NaN or "
                "infinite, so its weights can't be compared; load the model in a wider type (--dtype "
                "bfloat16 or float32)"
            )


def _is_reached(group: SharedInput) -> bool:
    """Whether a calibration token reached the matrices of a group."""
    return group.statistic is not None and group.statistic.tokens > 0


def _silence(group: SharedInput) -> str:
    """Return why inputs that tokens reached can't be scored: their sums of squares are zero or too small. Else ""."""
    statistic = group.statistic
    if statistic is None or not statistic.tokens or not len(statistic.sum_squares):
        return ""
    largest = float(statistic.sum_squares.max())
    if largest >= torch.finfo(torch.float32).tiny:
        return ""
    return SILENT if largest == 0 and statistic.faint is None else FAINT
