"""Compresses a loaded base model to an arm, with the calibration text that the study names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomia.compress.answers import is_of_answers
from anomia.compress.apply import check_dense, check_steps, compress, prepare_windows
from anomia.compress.calibration import read_calibration
from anomia.compress.calls import text_limit
from anomia.compress.kept import keep_dense
from anomia.compress.methods.taken import check_taken
from anomia.compress.options import TextOptions
from anomia.compress.sources import read_mix
from anomia.compress.steps import Arm, Step, Take, needs_calibration
from anomia.models.examine import examine
from anomia.models.load import LoadedModel, load_tokenizer
from anomia.models.tensors import skeleton
from anomia.running.progress import Progress, stage_counter
from anomia.study import Study


def compress_arm(
    loaded: LoadedModel,
    steps: Sequence[Step],
    study: Study,
    languages: Sequence[str],
    passages: Sequence[str],
    progress: Progress,
    answers: Mapping[str, Path],
) -> dict[str, Any]:
    """Applies the steps in place and returns their reports as plain values.

    Args:
        loaded: the model to change.
        steps: the steps of the arm, without a leading checkpoint.
        study: supplies the settings that the steps leave open.
        languages: the languages this model will answer in; a single one if calibration is `own`.
        passages: evaluation passages, which calibration text must not contain.
        progress: updated block by block.
        answers: the files with base's answers, by calibration source.
    """
    keep_dense(loaded.model, study.dense)
    check_steps(loaded.model, steps)
    for step in steps:
        if isinstance(step, Take):
            base = examine(study.base, revision=study.revision, trust_remote_code=study.trust_remote_code)
            # A GGUF file's tensors aren't the model's; only names and shapes of blocks are compared then.
            if base.account is not None:
                check_taken(base, step.model)
    text = _text(study, languages=languages, evaluation_passages=passages)
    reports = []
    for step in steps:
        windows = prepare_windows(
            step,
            loaded.tokenizer,
            replace(
                text,
                language=languages[0] if uses_own_text([step], study) else None,
                answers=answers,
            ),
            positions=text_limit(loaded.model),
        )
        stage = stage_counter(progress, f"compressing: {step}")
        report = compress(loaded.model, step, windows, progress=stage, dense=study.dense)
        for warning in report.warnings:
            progress.say(f"{step}: {warning}")
        reports.append(report.to_dict())
    return {"steps": reports}


def sources_of(steps: Iterable[Step], study: Study) -> list[str]:
    """The calibration sources of the steps that need one, and what is mixed with them, sorted."""
    found = {step.calibration.source or study.calibration for step in steps if needs_calibration(step)}
    if found and study.calibration_mix is not None:
        found.add(read_mix(study.calibration_mix)[0])
    return sorted(found)


def check_text(study: Study, arms: Sequence[Arm], languages: Sequence[str]) -> None:
    """Reads one passage of every calibration source that arms will need, before spending hours on base.

    Raises:
        AnomiaError: a source is not available.
    """
    text = _text(study, languages=languages)
    for source in sources_of((step for arm in arms for step in arm.steps), study):
        if is_of_answers(source):
            continue
        for language in languages if source == "own" else languages[:1]:
            read_calibration(replace(text, source=source, samples=1, language=language))


def check_kept(study: Study, arms: Sequence[Arm]) -> None:
    """Refuses matrices to keep dense that base doesn't have or an arm can't keep, before spending hours on base.

    Raises:
        AnomiaError: the message names the matrix.
    """
    if not study.dense:
        return
    trusted = study.trust_remote_code
    _, config = load_tokenizer(study.base, revision=study.revision, trust_remote_code=trusted)
    model = skeleton(config, trust_remote_code=trusted)
    keep_dense(model, study.dense)
    for arm in arms:
        check_dense(model, arm.steps)


def _text(study: Study, *, languages: Sequence[str], evaluation_passages: Sequence[str] = ()) -> TextOptions:
    folder = study.calibration_folder
    return TextOptions(
        source=study.calibration,
        samples=study.calibration_samples,
        tokens=study.calibration_tokens,
        budget=study.calibration_budget,
        answer_weight=study.calibration_answer_weight,
        mix=study.calibration_mix,
        data_dir=None if folder is None else Path(folder),
        languages=languages,
        evaluation_passages=evaluation_passages,
    )


def uses_own_text(steps: Sequence[Step], study: Study) -> bool:
    """Whether every language gets its own mask."""
    return any(
        (step.calibration.source or study.calibration) == "own" for step in steps if needs_calibration(step)
    )
