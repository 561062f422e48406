"""What differs between base and the checkpoints and served models of a run besides their weights: said first, and
stored in the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from anomia.compress.steps import Arm, Checkpoint, Served
from anomia.endpoint.tokens import count_early, served_differences
from anomia.errors import AnomiaError
from anomia.items.prompts import open_prompt
from anomia.models import load_tokenizer
from anomia.models.describe import Description, describe
from anomia.models.diff import Difference, differences
from anomia.models.difference import listed
from anomia.notes import ASKED, CONFOUNDING, read_differences, write_differences
from anomia.running.cells import OpenCell, PlannedCell
from anomia.running.progress import Progress
from anomia.study import Study

# Prompts of a study whose token ids are compared: enough for every language, and quick.
_A_LANGUAGE, _MOST = 3, 60
# Of those that a server counts, and of how many characters of a passage: few and short requests.
_SERVED_MOST, _SERVED_LONGEST = 2, 600

Found = Mapping[str, tuple[Difference, ...]]


def compare_arms(cells: Sequence[PlannedCell], progress: Progress) -> Found:
    """Compares base with every checkpoint and served model that still has something to answer, and says what a reader has
    to know.

    One that can't be looked at is left to its turn, which says why. Returns differences by arm.
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
) -> Found:
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


def _compare_served(cells: Sequence[PlannedCell], models: Mapping[str, Served], progress: Progress) -> Found:
    study = cells[0].study
    found: dict[str, tuple[Difference, ...]] = {}
    progress.stage("counting tokens at servers", len(models))
    for arm, step in models.items():
        # A server may still be starting; its turn counts again.
        with suppress(AnomiaError):
            tokenizer, _ = load_tokenizer(
                study.base, revision=study.revision, trust_remote_code=study.trust_remote_code
            )
            counted = count_early(step.url, step.model, served_prompts(cells), tokenizer, chat=study.chat)
            found[arm] = served_differences(counted)
            _say_served(arm, found[arm], progress)
        progress.advance()
    return found


def store_differences(cells: Sequence[OpenCell], found: Found) -> None:
    """Writes what was found into the folder of every cell.

    Of a served model that has answered something, what stands there was counted when it did; its turn sees whether it
    still is so.
    """
    for cell in cells:
        served = {arm.name for arm in cell.arms[1:] if isinstance(arm.steps[0], Served)}
        stored = read_differences(cell.run.folder).keys()
        for arm, rows in found.items():
            if not (arm in served and arm in stored and cell.begun(arm)):
                write_differences(cell.run.folder, arm, [row._asdict() for row in rows])


def settle_served(
    cells: Sequence[OpenCell], arm: Arm, rows: Sequence[Difference], progress: Progress
) -> None:
    """Stores what differs at a server when its turn comes, and says it where it was not found before."""
    plain = [row._asdict() for row in rows]
    if any(read_differences(cell.run.folder).get(arm.name) != plain for cell in cells):
        _say_served(arm.name, rows, progress)
    for cell in cells:
        write_differences(cell.run.folder, arm.name, plain)


def served_prompts(cells: Sequence[PlannedCell]) -> dict[str, str]:
    """Prompts of a study that a server counts, by name: of its first and its last language, with short passages."""
    found = {
        f"{items.language} {item.question.id}": open_prompt(
            item.question.context[:_SERVED_LONGEST], item.question.question, templates=cell.study.templates
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
    """Says what is confounding, and what the run does about it."""
    confounding = [row for row in rows if row.kind == CONFOUNDING]
    told = [row.what for row in rows if row.kind == "told"]
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
            f"{arm}: {', '.join(row.what for row in kept)} can't be taken from base, so its losses may come from this and not from the "
            "weights; give it base's settings to tell them apart (anomia diff says why each matters)"
        )
    if told:
        progress.say(f"{arm}: also differs from base in {listed(told, 8)}; anomia diff says how")


def _say_served(arm: str, rows: Sequence[Difference], progress: Progress) -> None:
    """Says what a server's tokenizer does otherwise, and what isn't known of it."""
    for row in rows:
        if row.kind == CONFOUNDING:
            progress.say(
                f"{arm}: different {row.what}: {row.base} in base, {row.other} at the server; {row.why}"
            )
            progress.say(
                f"{arm}: its losses may come from this and not from the weights; serve it with base's tokenizer to tell them apart"
            )
    untold = [row.what for row in rows if row.kind == "told"]
    if untold:
        progress.say(f"{arm}: not reported by the server, so not compared with base: {', '.join(untold)}")


def _prompts(cells: Sequence[PlannedCell]) -> dict[str, str]:
    """Some of the prompts that will be asked, by name."""
    found = {
        f"{items.language} {item.question.id}": open_prompt(
            item.question.context, item.question.question, templates=cell.study.templates
        )
        for cell in cells
        for items in cell.item_sets
        for item in items.items[:_A_LANGUAGE]
    }
    return dict(list(found.items())[:_MOST])
