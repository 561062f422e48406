"""Runs a study: base first, then every arm on the same items; finished shards are never done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomia.compress.spec import Arm, parse_arm
from anomia.errors import AnomiaError, RunError
from anomia.items import ItemSet, build_items, read_questions
from anomia.run.begin import begin, check_weights
from anomia.run.compress import check_text, uses_own_text
from anomia.run.folder import RunFolder, Shard, check_same, open_run, shards_of
from anomia.run.model import engine_for, load, load_arm
from anomia.run.noise import lacks_noise, measure_noise
from anomia.run.progress import Progress
from anomia.run.shard import measure_shard
from anomia.run.stopping import interleaved, stopped
from anomia.study import BASE, Study


class ArmOutcome(NamedTuple):
    """How measuring an arm went: `failed` says why it could not be measured to the end."""

    arm: str
    failed: str | None = None


def run_study(study: Study, out: Path, *, progress: Progress) -> list[ArmOutcome]:
    """Measures base and every arm of a study into a run folder, going on where an earlier call stopped.

    An arm that can't be made is reported and the others go on.

    Raises:
        AnomiaError: the data, the base model or the run folder can't be used.
    """
    item_sets = _read_items(study)
    folder = open_run(out, study)
    if folder is not None:
        check_same(folder, item_sets)
    arms = [Arm(BASE), *(parse_arm(text) for text in study.arms)]
    todo = {arm.name: list(_pending(folder, study, arm.name, item_sets)) for arm in arms}
    languages = [items.language for items in item_sets]
    check_text(study, [arm for arm in arms if todo[arm.name]], languages)
    progress.begin(sum(shard.last - shard.first for shards in todo.values() for shard in shards))
    outcomes = []
    for arm in arms:
        if folder is not None and not todo[arm.name] and not (arm.name == BASE and lacks_noise(folder)):
            outcomes.append(ArmOutcome(arm.name))
            continue
        try:
            for group in _groups(study, arm, item_sets):
                shards = [shard for shard in todo[arm.name] if shard.language in {s.language for s in group}]
                if (not shards and arm.name != BASE) or _narrow_enough(study, folder, arm, group):
                    continue
                if arm.name == BASE:
                    loaded = load(study, study.base, progress)
                    engine = engine_for(study, folder, loaded)
                    folder = folder or begin(study, out, item_sets, loaded, engine, progress)
                    check_weights(folder, loaded)
                else:
                    assert folder is not None
                    loaded = load_arm(study, arm, group, folder, progress)
                    engine = engine_for(study, folder, loaded)
                if engine.reason:
                    progress.say(f"{arm.name}: {engine.name} engine: {engine.reason}")
                for shard in interleaved(shards) if study.until_width else shards:
                    if _narrow_enough(study, folder, arm, group):
                        break
                    items = next(s for s in group if s.language == shard.language)
                    measure_shard(study, folder, shard, items, loaded, engine, progress)
                if arm.name == BASE:
                    measure_noise(study, folder, item_sets, loaded, engine, progress)
                # The next model must not have to share the memory with this one.
                del loaded, engine
        except AnomiaError as error:
            # Where the run folder itself fails, the next arm can't be kept either.
            if arm.name == BASE or isinstance(error, RunError):
                raise
            progress.say(f"{arm.name}: {error}")
            outcomes.append(ArmOutcome(arm.name, failed=str(error)))
        else:
            outcomes.append(ArmOutcome(arm.name))
    assert folder is not None
    folder.note("arms.json", {outcome.arm: {"failed": outcome.failed} for outcome in outcomes})
    if study.until_width is not None:
        folder.note("stopping.json", _looks(study, folder, arms[1:], item_sets))
    return outcomes


def _narrow_enough(study: Study, folder: RunFolder | None, arm: Arm, group: Sequence[ItemSet]) -> bool:
    """Whether an arm has stopped. Base never does: every arm needs it."""
    if study.until_width is None or folder is None or arm.name == BASE:
        return False
    width, limit = study.until_width, study.reach_limit
    return stopped(folder, arm.name, group, width=width, reach_limit=limit) is not None


def _looks(
    study: Study, folder: RunFolder, arms: Sequence[Arm], item_sets: Sequence[ItemSet]
) -> dict[str, Any]:
    """When and why each arm stopped, for each group of languages that one of its models answers."""
    assert study.until_width is not None
    found: dict[str, Any] = {}
    for arm in arms:
        looks = [
            stopped(folder, arm.name, group, width=study.until_width, reach_limit=study.reach_limit)
            for group in _groups(study, arm, item_sets)
        ]
        found[arm.name] = [look.plain() for look in looks if look is not None]
    return {"width": study.until_width, "arms": found}


def _read_items(study: Study) -> list[ItemSet]:
    questions = read_questions(study.data, study.languages)
    sets = build_items(questions, dataset=study.data, limit=study.limit, seed=study.seed)
    return list(sets.values())


def _pending(
    folder: RunFolder | None, study: Study, arm: str, item_sets: Sequence[ItemSet]
) -> Iterator[Shard]:
    for items in item_sets:
        for shard in shards_of(arm, items, reach_limit=study.reach_limit):
            if folder is None or not folder.is_done(shard):
                yield shard


def _groups(study: Study, arm: Arm, item_sets: Sequence[ItemSet]) -> list[list[ItemSet]]:
    """The languages that one model answers: all of them, but one at a time where each has its own mask."""
    if uses_own_text(arm.steps, study):
        return [[items] for items in item_sets]
    return [list(item_sets)]
