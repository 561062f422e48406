"""Runs studies: base first, then every arm on the same items. Finished shards are never repeated.

Cells that share a base are measured together: base and every arm are loaded once, however many data sets and seeds
they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from anomia.compress.steps import Arm, Checkpoint, Served
from anomia.endpoint.ready import greet
from anomia.errors import AnomiaError, RunError
from anomia.matrix import Matrix, StudyCell, write_matrix
from anomia.models.load import check_place
from anomia.notes import write_notes
from anomia.run_folder import RunFolder, locked
from anomia.running.alike import check_base
from anomia.running.answerer import Answerer, LocalModel
from anomia.running.answers import check_answers
from anomia.running.begin import begin
from anomia.running.cells import OpenCell, PlannedCell, Turn, by_model, open_cell, turns_of
from anomia.running.compress import check_kept, check_text
from anomia.running.differences import compare_arms, store_differences
from anomia.running.log import JsonLog
from anomia.running.model import make_arm, make_base
from anomia.running.noise import lacks_noise, measure_noise
from anomia.running.nulls import check_differs
from anomia.running.progress import Ahead, Progress, Several
from anomia.running.reuse import reuse_base
from anomia.running.shard import check_finished, measure_shard
from anomia.running.sources import check_sources
from anomia.running.stopping import stopped
from anomia.study import BASE, Study


class Executor(NamedTuple):
    """Where and how models are asked.

    base: runs base's pending shards in cells that share it and measures the batch-size sensitivity; returns the started
    cells. Its last argument lists earlier runs whose measurement of base may be reused. arms: runs the pending shards
    of turns; returns, per turn, the reason if it failed, or None.
    """

    base: Callable[[Sequence[PlannedCell], Progress, Sequence[Path]], list[OpenCell]]
    arms: Callable[[Sequence[Turn], Progress], list[str | None]]


class ArmOutcome(NamedTuple):
    """The outcome of measuring an arm; `failed` is the reason if it could not be completed."""

    arm: str
    failed: str | None = None
    cell: str = ""


def run_study(study: Study, out: Path, *, progress: Progress) -> list[ArmOutcome]:
    """Measures one study into a run folder; see `run_matrix`."""
    return run_matrix(Matrix((StudyCell("", study),), single=True), out, progress=progress)


def run_matrix(
    matrix: Matrix,
    out: Path,
    *,
    progress: Progress,
    reuse: Sequence[Path] = (),
    measure: Executor | None = None,
) -> list[ArmOutcome]:
    """Measures base and every arm of every cell, resuming where an earlier call stopped.

    An arm that fails is reported and the others continue. The same holds for a base if there are several.

    Args:
        matrix: one cell, whose run is `out` itself, or several, whose runs are `out/cells/NAME`.
        out: the folder of the run.
        progress: receives progress and messages.
        reuse: earlier runs whose measurement of base may be reused.
        measure: the executor; by default this process, one model after the other.

    Raises:
        AnomiaError: the data, the only base model or the run folder can't be used.
    """
    paths = [out] if matrix.single else [RunFolder(out).cell(cell.name).path for cell in matrix.cells]
    if not matrix.single:
        _refuse_a_single_run(out)
    with ExitStack() as held:
        for folder in dict.fromkeys([out, *paths]):
            held.enter_context(locked(folder))
        cells = [
            open_cell("" if matrix.single else cell.name, cell.study, path, progress)
            for cell, path in zip(matrix.cells, paths, strict=True)
        ]
        progress = Several([progress, JsonLog(out)])
        shards = [shard for cell in cells for arm in cell.arms for shard in cell.pending(arm.name)]
        for group in by_model(cells):
            pending = [arm for arm in group[0].arms if any(cell.pending(arm.name) for cell in group)]
            languages = dict.fromkeys(items.language for cell in group for items in cell.item_sets)
            check_text(group[0].study, pending, list(languages))
            questions = [item.question for cell in group for items in cell.item_sets for item in items.items]
            check_answers(group[0].study, pending, [asked.context or asked.question for asked in questions])
            check_kept(group[0].study, pending)
        check_sources(cells)
        _look_at_arms(cells, progress)
        if not matrix.single:
            write_matrix(matrix, RunFolder(out).matrix_file)
        progress.begin(Ahead(sum(shard.last - shard.first for shard in shards), len(shards), len(cells)))
        groups = by_model(cells)
        outcomes: list[ArmOutcome] = []
        for group in groups:
            try:
                outcomes += _run_group(group, progress, reuse, measure or HERE)
            except AnomiaError as error:
                if len(groups) == 1 or isinstance(error, RunError):
                    raise
                progress.say(f"{group[0].study.base}: {error}")
                outcomes += [ArmOutcome(BASE, str(error), cell.name) for cell in group]
        return outcomes


def _look_at_arms(cells: Sequence[PlannedCell], progress: Progress) -> None:
    """Checks before base is measured that the models to compare with it exist.

    In a started run, missing models are left to their turns, so that the other arms continue. A server that doesn't
    answer is only reported, because it may still be starting.

    Raises:
        ModelError: a run that has not been started names a folder or file that isn't a model.
        CompressionError: by the settings of a study that has not been started, a null arm would be base itself.
        MissingExtraError: the packages for asking servers are not installed.
    """
    for cell in cells:
        given = cell.study.model_dump(include={"dtype", "batch_size"})
        known = {name: None if value == "auto" else value for name, value in given.items()}
        for arm in cell.arms[1:] if cell.run is None else ():
            check_differs(arm, **known)
    first = {arm.steps[0]: arm.name for cell in cells for arm in cell.arms[1:] if cell.pending(arm.name)}
    for step, name in first.items():
        if isinstance(step, Checkpoint) and all(cell.run is None for cell in cells):
            study = cells[0].study
            check_place(step.model, trust_remote_code=study.trust_remote_code, base=study.base)
        elif isinstance(step, Served):
            fault = greet(step.url, step.model)
            if fault is not None:
                progress.say(f"{name} does not answer yet; base is measured first ({fault})")


def _run_group(
    planned: Sequence[PlannedCell], progress: Progress, reuse: Sequence[Path], measure: Executor
) -> list[ArmOutcome]:
    """Measures base and all arms of cells that share a base."""
    base, *arms = planned[0].arms
    found_apart = compare_arms(planned, progress)
    cells = [cell for each in planned if (cell := each.opened()) and not _lacks_base(cell)]
    if len(cells) < len(planned):
        cells = measure.base(planned, progress, reuse)
    store_differences(cells, found_apart)
    turns = [turn for arm in arms for turn in turns_of(arm, cells) if _has_work(turn)]
    failed: dict[str, str] = {}
    for turn, reason in zip(turns, measure.arms(turns, progress), strict=True):
        if reason is not None:
            failed[turn.arm.name] = reason
    outcomes = []
    for cell in cells:
        found = [ArmOutcome(arm.name, failed.get(arm.name), cell.name) for arm in (base, *arms)]
        cell.run.folder.arms.write({outcome.arm: {"failed": outcome.failed} for outcome in found})
        if cell.study.until_width is not None:
            cell.run.folder.stopping.write(_looks(cell, arms))
        outcomes += found
    return outcomes


def _lacks_base(cell: OpenCell) -> bool:
    return bool(cell.pending(BASE)) or lacks_noise(cell.run)


def base_here(
    planned: Sequence[PlannedCell], progress: Progress, reuse: Sequence[Path] = ()
) -> list[OpenCell]:
    """Measures base in this process.

    Raises:
        AnomiaError: base can't be measured.
    """
    base = make_base(planned, progress, reuse)
    if base.remark:
        progress.say(f"{BASE}: {base.remark}")
    cells = []
    for each in planned:
        cell = begin_cell(each, base, progress, reuse)
        (turn,) = turns_of(cell.arms[0], [cell])
        for shard in turn.pending(cell):
            measure_shard(cell, shard, base, progress)
        measure_noise(cell, base, progress)
        cells.append(cell)
    return cells


def arms_here(turns: Sequence[Turn], progress: Progress) -> list[str | None]:
    """Measures arms in this process, one after the other.

    Raises:
        RunError: the run folder can't be used, which would stop the next arm as well.
    """
    failed: list[str | None] = []
    for turn in turns:
        try:
            _measure_turn(turn, progress)
        except RunError:
            raise
        except AnomiaError as error:
            if turn is not turns[-1]:
                progress.say(f"{turn.arm.name} can't be measured; the reason is given at the end")
            failed.append(str(error))
        else:
            failed.append(None)
    return failed


HERE = Executor(base_here, arms_here)


def _measure_turn(turn: Turn, progress: Progress) -> None:
    model = make_arm(turn, progress)
    if model.remark:
        progress.say(f"{turn.arm.name}: {model.remark}")
    for cell in turn.cells:
        check_arm(cell, turn.arm.name, model)
        for shard in turn.pending(cell):
            if turn.narrow_enough(cell):
                break
            measure_shard(cell, shard, model, progress)


def begin_cell(cell: PlannedCell, base: LocalModel, progress: Progress, reuse: Sequence[Path]) -> OpenCell:
    """Creates a cell's folder, or checks that base is unchanged since the cell was started."""
    opened = cell.opened()
    if opened is None:
        opened = begin(cell, base, progress, reuse)
        check_sources([opened])
        write_notes(opened.run.folder, BASE, base.loaded.notes)
        for note in base.loaded.notes:
            progress.say(f"base: {note}")
    else:
        check_base(opened.run, base.loaded)
        check_finished(opened, BASE, base)
    if reuse and opened.pending(BASE):
        reuse_base(opened, base, reuse, progress)
    return opened


def check_arm(cell: OpenCell, arm: str, model: Answerer) -> None:
    """Checks that an arm's finished items would be asked the same now.

    Arms that are asked like base are compared with base instead (`measure_shard`).
    """
    if not model.asked.alike:
        check_finished(cell, arm, model)


def _has_work(turn: Turn) -> bool:
    return any(turn.pending(cell) and not turn.narrow_enough(cell) for cell in turn.cells)


def _looks(cell: OpenCell, arms: Sequence[Arm]) -> dict[str, Any]:
    """When and why each arm stopped, per group of languages that one of its models answers."""
    width, limit = cell.study.until_width, cell.study.oracle_limit
    assert width is not None
    found: dict[str, Any] = {}
    for arm in arms:
        looks = [
            stopped(cell.run, arm.name, turn.sets(cell), width=width, oracle_limit=limit)
            for turn in turns_of(arm, [cell])
        ]
        found[arm.name] = [look.plain() for look in looks if look is not None]
    return {"width": width, "arms": found}


def _refuse_a_single_run(out: Path) -> None:
    if RunFolder(out).is_run:
        raise RunError(
            f"run: {out} holds a run of a single-cell study, and this study has several cells; give another --out"
        )
