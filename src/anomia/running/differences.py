"""Differences other than weights between base and a run's checkpoints and served models: reported and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from anomia.compress.steps import Arm, Checkpoint, Served
from anomia.endpoint.tokens import count_early, served_differences
from anomia.errors import AnomiaError
from anomia.items.prompts import write_prompt
from anomia.models.describe import Description, describe
from anomia.models.diff import Difference, differences
from anomia.models.difference import listed
from anomia.models.load import load_tokenizer
from anomia.notes import ASKED, CONFOUNDING, read_differences, write_differences
from anomia.running.cells import OpenCell, PlannedCell
from anomia.running.progress import Progress
from anomia.study import Study

# Prompts whose token ids are compared, per language and in total: enough for every language, and quick.
_A_LANGUAGE, _MOST = 3, 60
# Prompts that a server counts, and characters of their passages: few and short requests.
_SERVED_MOST, _SERVED_LONGEST = 2, 600

DifferencesByArm = Mapping[str, tuple[Difference, ...]]


def compare_arms(cells: Sequence[PlannedCell], progress: Progress) -> DifferencesByArm:
    """Compares base with every checkpoint and served model that still has pending shards, and reports differences.

    Models that can't be examined are skipped; their turn reports why. Returns differences by arm.
    """
    pending = [arm for arm in cells[0].arms[1:] if any(cell.pending(arm.name) for cell in cells)]
    checkpoints = {arm.name: step for arm in pending if isinstance(step := arm.steps[0], Checkpoint)}
    served = {arm.name: step for arm in pending if isinstance(step := arm.steps[0], Served)}
    found = dict[str, tuple[Difference, ...]]()
    if checkpoints:
        found |= _compare_checkpoints(cells, checkpoints, progress)
    if served:
        found |= _compare_served(cells, served, progress)
    return found


def _compare_checkpoints(
    cells: Sequence[PlannedCell], models: Mapping[str, Checkpoint], progress: Progress
) -> DifferencesByArm:
    study = cells[0].study
    prompts = _prompts(cells)
    known: dict[str, Description | None] = {}
    found: dict[str, tuple[Difference, ...]] = {}
    progress.stage("comparing configurations, tokenizers and end tokens", len(models))
    for arm, step in models.items():
        for name in (study.base, step.model):
            if name not in known:
                known[name] = _described(study, name, prompts)
        base, other = known[study.base], known[step.model]
        if base is not None and other is not None:
            found[arm] = differences(base, other, chat=study.chat)
            _say(arm, step, found[arm], progress)
        progress.advance()
    return found


def _compare_served(
    cells: Sequence[PlannedCell], models: Mapping[str, Served], progress: Progress
) -> DifferencesByArm:
    study = cells[0].study
    found: dict[str, tuple[Difference, ...]] = {}
    progress.stage("counting tokens at servers", len(models))
    for arm, step in models.items():
        # A server may still be starting; its turn repeats the count.
        with suppress(AnomiaError):
            tokenizer, _ = load_tokenizer(
                study.base,
                revision=study.revision,
                trust_remote_code=study.trust_remote_code,
                chat_template=study.chat_template,
            )
            counted = count_early(step.url, step.model, served_prompts(cells), tokenizer, chat=study.chat)
            found[arm] = served_differences(counted)
            _say_served(arm, found[arm], progress)
        progress.advance()
    return found


def store_differences(cells: Sequence[OpenCell], found: DifferencesByArm) -> None:
    """Writes the differences into the folder of every cell.

    For a served model that has already answered, the stored differences are kept; its turn checks whether they still
    hold.
    """
    for cell in cells:
        served = {arm.name for arm in cell.arms[1:] if isinstance(arm.steps[0], Served)}
        stored = read_differences(cell.run.folder).keys()
        for arm, rows in found.items():
            if not (arm in served and arm in stored and cell.begun(arm)):
                write_differences(cell.run.folder, arm, rows)


def settle_served(
    cells: Sequence[OpenCell], arm: Arm, rows: Sequence[Difference], progress: Progress
) -> None:
    """Stores the differences found at a server in its turn, and reports them if they are new."""
    if any(read_differences(cell.run.folder).get(arm.name) != list(rows) for cell in cells):
        _say_served(arm.name, rows, progress)
    for cell in cells:
        write_differences(cell.run.folder, arm.name, rows)


def served_prompts(cells: Sequence[PlannedCell]) -> dict[str, str]:
    """Prompts for a server to count, by name: from the first and the last language, with short passages."""
    found = {
        f"{items.language} {item.question.id}": write_prompt(
            "open",
            item.question.context[:_SERVED_LONGEST],
            item.question.question,
            templates=cell.study.templates,
        )
        for cell in cells
        for items in cell.item_sets
        for item in items.items[:2]
    }
    names = list(found)
    return {name: found[name] for name in dict.fromkeys([*names[: _SERVED_MOST - 1], *names[-1:]])}


def _described(study: Study, name: str, prompts: Mapping[str, str]) -> Description | None:
    try:
        return describe(
            name,
            revision=study.revision if name == study.base else None,
            trust_remote_code=study.trust_remote_code,
            prompts=prompts,
            base=None if name == study.base else study.base,
            base_revision=study.revision,
        )
    except AnomiaError:
        return None


def _say(arm: str, step: Checkpoint, rows: Sequence[Difference], progress: Progress) -> None:
    """Reports confounding differences and how the run handles them."""
    confounding = [row for row in rows if row.kind == CONFOUNDING]
    noted = [row.what for row in rows if row.kind == "noted"]
    asked = [row for row in confounding if row.part == ASKED]
    kept = [row for row in confounding if row.part != ASKED]
    for row in confounding:
        progress.say(f"{arm}: different {row.what}: {row.base} in base, {row.other} here")
    if asked and not step.packaged:
        progress.say(
            f"{arm}: it is asked base's token ids and ends at base's end tokens where its vocabulary is base's; "
            "--as-packaged measures what its own folder would do"
        )
    elif asked:
        progress.say(
            f"{arm}: it is asked as its own folder says, so its losses are not due to the weights alone"
        )
    if kept:
        progress.say(
            f"{arm}: {', '.join(row.what for row in kept)} can't be taken from base, so its losses may come from this "
            "and not from the weights; give it base's settings to tell them apart (anomia diff says why each matters)"
        )
    if noted:
        progress.say(f"{arm}: also differs from base in {listed(noted, 8)}; anomia diff says how")


def _say_served(arm: str, rows: Sequence[Difference], progress: Progress) -> None:
    """Reports how a server's tokenizer differs from base's, and what the server doesn't tell."""
    for row in rows:
        if row.kind == CONFOUNDING:
            progress.say(
                f"{arm}: different {row.what}: {row.base} in base, {row.other} at the server; {row.why}"
            )
            progress.say(
                f"{arm}: its losses may come from this and not from the weights; serve it with base's tokenizer to "
                "tell them apart"
            )
    untold = [row.what for row in rows if row.kind == "noted"]
    if untold:
        progress.say(f"{arm}: not reported by the server, so not compared with base: {', '.join(untold)}")


def _prompts(cells: Sequence[PlannedCell]) -> dict[str, str]:
    """A sample of the prompts that will be asked, by name."""
    found = {
        f"{items.language} {item.question.id}": write_prompt(
            "open", item.question.context, item.question.question, templates=cell.study.templates
        )
        for cell in cells
        for items in cell.item_sets
        for item in items.items[:_A_LANGUAGE]
    }
    return dict(list(found.items())[:_MOST])
