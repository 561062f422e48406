"""What differs between base and the checkpoints of a run besides their weights: said first, and stored in the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anomia.compress.steps import Checkpoint
from anomia.errors import AnomiaError
from anomia.items.prompts import open_prompt
from anomia.models.describe import Description, describe
from anomia.models.diff import Difference, differences
from anomia.models.difference import listed
from anomia.notes import ASKED, CONFOUNDING, write_differences
from anomia.running.cells import CellRun
from anomia.running.progress import Progress
from anomia.study import Study

# Prompts of a study whose token ids are compared: enough for every language, and quick.
_A_LANGUAGE, _MOST = 3, 60

Found = Mapping[str, tuple[Difference, ...]]


def compare_arms(cells: Sequence[CellRun], progress: Progress) -> Found:
    """Compares base with every checkpoint that still has something to answer, and says what a reader has to know.

    One that can't be looked at is left to its turn, which says why. Returns differences by arm.
    """
    study = cells[0].study
    models = {
        arm.name: step
        for arm in cells[0].arms[1:]
        if isinstance(step := arm.steps[0], Checkpoint) and any(cell.pending(arm.name) for cell in cells)
    }
    if not models:
        return {}
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


def store_differences(cells: Sequence[CellRun], found: Found) -> None:
    """Writes what was found into the folder of every cell."""
    for cell in cells:
        for arm, rows in found.items():
            write_differences(cell.path, arm, [row._asdict() for row in rows])


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
        progress.say(f"{arm}: other {row.what}: {row.base} in base, {row.other} here")
    if asked and not step.packaged:
        progress.say(
            f"{arm}: it is asked base's token ids and ends at base's end tokens where its vocabulary is base's; "
            "--as-packaged measures what its own folder would do"
        )
    elif asked:
        progress.say(f"{arm}: it is asked as its own folder says: what it loses is not the weights' alone")
    if kept:
        progress.say(
            f"{arm}: {', '.join(row.what for row in kept)} can't be taken from base: what it loses may be that and not the "
            "weights; give it base's settings to tell them apart (anomia diff says why each matters)"
        )
    if told:
        progress.say(f"{arm}: also differs from base in {listed(told, 8)}; anomia diff says how")


def _prompts(cells: Sequence[CellRun]) -> dict[str, str]:
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
