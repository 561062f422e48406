"""The models of a run: base and the arms, each with the engine that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anomia.compress.answers import is_control, is_of_answers
from anomia.compress.size import stored_bytes
from anomia.compress.steps import Checkpoint, Null, Quantize, Served, Step
from anomia.endpoint.ready import check_same, known_by, notes_of, reach
from anomia.endpoint.tokens import count_tokens, served_differences
from anomia.errors import RunError
from anomia.items import Question
from anomia.items.sets import only_probes
from anomia.models.fingerprint import architecture
from anomia.models.load import LoadedModel, load_model, load_tokenizer
from anomia.models.rewritten import made_from
from anomia.models.sizes import positions_of, vocabulary_of
from anomia.notes import write_notes
from anomia.probe.precision import precision_for
from anomia.probe.select import ChosenEngine, choose_engine
from anomia.run_folder import RunFolder, runs_of
from anomia.running.alike import Asked, ask_like_base, changed_model, check_base, today_of, what_is
from anomia.running.answerer import Answerer, LocalModel, RemoteModel
from anomia.running.answers import answers_in, study_for
from anomia.running.cells import OpenCell, PlannedCell, Turn
from anomia.running.compress import compress_arm, sources_of
from anomia.running.control import control_in
from anomia.running.differences import served_prompts, settle_served
from anomia.running.folder import Shard
from anomia.running.nulls import check_differs
from anomia.running.progress import Progress
from anomia.study import Study


def make_base(cells: Sequence[PlannedCell], progress: Progress, reuse: Sequence[Path] = ()) -> LocalModel:
    """Loads base and chooses its engine.

    cells: the cells that share it. reuse: earlier runs whose measurement of base, and so its dtype, may be reused.

    Raises:
        ModelError: base can't be loaded.
        RunError: an earlier run can't be read.
    """
    study = cells[0].study
    dtype = _dtype(cells, reuse)
    loaded = load(study, study.base, progress, dtype)
    if dtype is None and study.dtype == "auto":
        loaded = _settle_precision(study, loaded, progress)
    return LocalModel(loaded, _engine(cells, loaded))


def make_arm(turn: Turn, progress: Progress) -> Answerer:
    """Makes the model of an arm: connects to its server, or loads a checkpoint or base and compresses it in place.

    The model is made once for all cells; its calibration text shares no passage with any of them.

    Raises:
        ModelError, CompressionError, DataError: the arm can't be made.
        RunError: base, the checkpoint or the calibration text has changed since the arm of a cell was started.
    """
    if turn.served is not None:
        return _reach(turn, turn.served, progress)
    study, steps, first = turn.cells[0].study, turn.arm.steps, turn.cells[0].run
    checkpoint = steps[0] if isinstance(steps[0], Checkpoint) else None
    null = steps[0] if isinstance(steps[0], Null) else None
    dtype = null.dtype if null and null.dtype else _dtype(turn.cells, ())
    asked, model, rest = Asked(), dict[str, object](), steps
    if checkpoint is not None:
        # Its own chat template has to work only if it is used.
        loaded = load(study, checkpoint.model, progress, dtype, chat=False)
        loaded, asked = ask_like_base(study, first, checkpoint, loaded)
        model, rest = what_is(loaded), steps[1:]
    else:
        loaded = load(study, study.base, progress, dtype)
        for cell in turn.cells:
            check_base(cell.run, loaded)
    if null is not None:
        for cell in turn.cells:
            provenance = cell.run.provenance
            check_differs(turn.arm, dtype=provenance["dtype"], batch_size=int(provenance["batch_size"]))
        rest = (Quantize(null.method),) if null.method else ()
    base = None if checkpoint is not None else loaded
    report = {
        **(_compressed(turn, rest, loaded, progress, base) if rest else {"steps": []}),
        **({} if null is None else {"null": str(null)}),
        "size_bytes": stored_bytes(loaded.model, rest if null else steps, source=loaded.name),
        "vocabulary": vocabulary_of(loaded.model),
        "model": model,
        "made_from": made_from(Path(checkpoint.model).expanduser()) if checkpoint is not None else None,
    }
    for cell in turn.cells:
        write_notes(cell.run.folder, turn.arm.name, loaded.notes, unlike=asked.why)
        _note(turn, cell, report)
    return LocalModel(loaded, _engine(turn.cells, loaded), null.batch if null else None, asked)


def make_alone(study: Study, progress: Progress) -> LocalModel:
    """Loads the base of a study outside of a run.

    Raises:
        ModelError: it can't be loaded.
    """
    loaded = load(study, study.base, progress, None)
    if study.dtype == "auto":
        loaded = _settle_precision(study, loaded, progress)
    return LocalModel(loaded, choose_engine(loaded.model, study.engine))


def _compressed(
    turn: Turn, steps: Sequence[Step], loaded: LoadedModel, progress: Progress, base: LoadedModel | None
) -> dict[str, Any]:
    """Applies steps in place; returns their reports, and per data set how many passages calibration text excludes.

    base: the uncompressed model before it is changed; None if it isn't in memory.
    """
    questions: dict[str, list[Question]] = {}
    for cell in turn.cells:
        of_data = questions.setdefault(cell.study.data, [])
        of_data += [item.question for items in turn.sets(cell) for item in items.items]
    every = [question for of_data in questions.values() for question in of_data]
    study = turn.cells[0].study
    answers = _answers(
        turn, steps, base, [question.context or question.question for question in every], progress
    )
    report = compress_arm(
        loaded, steps, study, turn.languages, [question.context for question in every], progress, answers
    )
    return {
        **report,
        "free_of": {data: len({question.context for question in found}) for data, found in questions.items()},
    }


def _answers(
    turn: Turn, steps: Sequence[Step], base: LoadedModel | None, passages: Sequence[str], progress: Progress
) -> dict[str, Path]:
    """The files with base's answers that steps are calibrated on, by source."""
    cell = turn.cells[0]
    wanted = [source for source in sources_of(steps, cell.study) if is_of_answers(source)]
    if not wanted:
        return {}
    loaded = base or load(cell.study, cell.study.base, progress, _dtype(turn.cells, ()))
    model = LocalModel(loaded, _engine(turn.cells, loaded))
    found = {}
    for source in wanted:
        asked = study_for(cell.study, source)
        place = cell.run.folder.answers_file
        if is_control(source):
            grading = cell.study.grading if asked.data == cell.study.data else asked.grading
            found[source] = control_in(
                place, asked, model, grading=grading, avoid=passages, progress=progress
            )
        else:
            found[source] = answers_in(place, asked, model, avoid=passages, progress=progress)
    return found


def _dtype(cells: Sequence[PlannedCell], reuse: Sequence[Path]) -> str | None:
    """The dtype chosen at the start of the run, or of the run that base is reused from; None before that."""
    for cell in cells:
        if cell.run is not None:
            return str(cell.run.provenance["dtype"])
    if reuse and cells[0].study.dtype == "auto":
        return str(RunFolder(runs_of(reuse[0])[0]).provenance()["dtype"])
    return None


def _settle_precision(study: Study, loaded: LoadedModel, progress: Progress) -> LoadedModel:
    """Returns base in float32 if that costs little on a CPU, else unchanged; reports the choice.

    Base is loaded again, as every arm will be: a cast would also convert values that aren't stored, such as rotary
    frequencies and the scale of embeddings, and base would differ from its arms.
    """
    precision = precision_for(loaded.model)
    if precision is None:
        return loaded
    text = f"base runs in {precision.why}"
    if precision.dtype != torch.float32:
        advice = (
            "an arm null:float32 says"
            if only_probes(study.data)
            else "the batch-size sensitivity and an arm null:float32 show"
        )
        text += f"; half precision flips some answers by itself: {advice} how many, --dtype float32 avoids it"
    progress.say(text)
    if precision.dtype == loaded.model.dtype:
        return loaded
    return load(study, loaded.name, progress, str(precision.dtype).removeprefix("torch."))


def _reach(turn: Turn, step: Served, progress: Progress) -> RemoteModel:
    """Connects to a served model; loads only base's tokenizer and configuration, which prompts are cut with."""
    study = turn.cells[0].study
    progress.stage(f"trying {step.url}", 1)
    served = reach(step.url, step.model)
    tokenizer, config = load_tokenizer(
        study.base,
        revision=study.revision,
        trust_remote_code=study.trust_remote_code,
        chat_template=study.chat_template,
    )
    first = turn.cells[0].run
    counted = count_tokens(
        served, served_prompts(turn.cells), tokenizer, chat=study.chat, today=today_of(first)
    )
    notes = notes_of(served.abilities)
    for cell in turn.cells:
        file = cell.run.folder.served.of_arm(turn.arm.name)
        before = file.read()
        if before is not None and cell.begun(turn.arm.name):
            check_same(before, served.abilities, counted, arm=turn.arm.name)
        file.write({"arm": turn.arm.name, **known_by(served.abilities, counted)})
        write_notes(cell.run.folder, turn.arm.name, notes)
    settle_served(turn.cells, turn.arm, served_differences(counted), progress)
    for note in notes[1:]:
        progress.say(f"{turn.arm.name}: {note}")
    progress.advance()
    return RemoteModel(step.model, served, tokenizer, positions_of(config), chat=study.chat)


def _note(turn: Turn, cell: OpenCell, report: dict[str, object]) -> None:
    """Stores the compression report in a cell's folder, unless it contradicts the one of a started arm.

    Raises:
        RunError: the calibration text or the model has changed since the arm was started.
    """
    whole = Shard(turn.arm.name, cell.study.data, "-".join(s.language for s in turn.sets(cell)), 0, 0)
    file = cell.run.folder.compression.of(whole.key)
    before = file.read()
    if before is not None and cell.begun(turn.arm.name) and _texts(before) != _texts(report):
        raise RunError(
            f"run: {cell.path}: {turn.arm.name} was started with different calibration text than there is now; "
            "restore the text, or give another --out"
        )
    if before is not None and cell.begun(turn.arm.name):
        now: Any = report["model"]
        changed = changed_model(dict(before.get("model") or {}), dict(now or {}))
        if changed:
            raise RunError(
                f"run: {cell.path}: {turn.arm.name} was started with a different model than there is now "
                f"({', '.join(changed)} differ); restore it, or give another --out"
            )
    file.write({"arm": turn.arm.name, **report})


def _texts(report: dict[str, object]) -> list[object]:
    steps = report["steps"]
    assert isinstance(steps, list)
    return [(step.get("calibration") or {}).get("token_hash") for step in steps]


def load(
    study: Study, name: str, progress: Progress, dtype: str | None, *, chat: bool | None = None
) -> LoadedModel:
    """Loads a model.

    dtype: None for the study's. chat: whether it needs a chat template; None for the study's setting.
    """
    progress.stage(f"loading {name}", 1)
    loaded = load_model(
        name,
        dtype=dtype or study.dtype,
        device=study.device,
        revision=study.revision if name == study.base else None,
        trust_remote_code=study.trust_remote_code,
        chat=study.chat if chat is None else chat,
        # A model that is asked as its own folder says keeps its own template.
        chat_template=study.chat_template if name == study.base else None,
        base=None if name == study.base else study.base,
        base_revision=study.revision,
    )
    progress.advance()
    return loaded


def _engine(cells: Sequence[PlannedCell], loaded: LoadedModel) -> ChosenEngine:
    """Chooses the engine: base's for models of its architecture, else one for the model itself."""
    here = architecture(loaded.model)
    for cell in cells:
        if cell.run is not None and cell.run.provenance["architecture"] == here:
            return choose_engine(loaded.model, cell.run.provenance["engine"], tried=True)
    return choose_engine(loaded.model, cells[0].study.engine)
