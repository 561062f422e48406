"""Cells of a run: the arms and items of each study, the pending shards, and the turns of models across cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from anomia.compress.spec import parse_arm
from anomia.compress.steps import Arm, Served
from anomia.items import ItemSet, build_items, read_questions
from anomia.items.sets import SETS
from anomia.probe.encode import check_written
from anomia.running.apart import texts_in, without_known
from anomia.running.compress import uses_own_text
from anomia.running.folder import OpenedRun, Shard, check_same, open_run, set_damaged_aside, shards_of
from anomia.running.progress import Progress
from anomia.running.stopping import interleaved, stopped
from anomia.study import BASE, Study

Begun = TypeVar("Begun", bound=OpenedRun | None, covariant=True)


@dataclass(frozen=True, slots=True)
class CellRun(Generic[Begun]):
    """A study, its items, and its run folder's content. An `OpenCell` has been started, a `PlannedCell` perhaps not."""

    name: str
    study: Study
    path: Path
    item_sets: Sequence[ItemSet] = field(repr=False)
    run: Begun

    @property
    def arms(self) -> list[Arm]:
        """Base and the study's arms."""
        return [Arm(BASE), *(parse_arm(text) for text in self.study.arms)]

    def shards(self, arm: str) -> list[Shard]:
        """All shards of an arm."""
        limit = self.study.oracle_limit
        return [shard for items in self.item_sets for shard in shards_of(arm, items, oracle_limit=limit)]

    def pending(self, arm: str) -> list[Shard]:
        """The unfinished shards of an arm."""
        return [s for s in self.shards(arm) if self.run is None or not self.run.is_done(s)]

    def begun(self, arm: str) -> bool:
        """Whether any shard of an arm is done."""
        return len(self.pending(arm)) < len(self.shards(arm))

    def items_of(self, shard: Shard) -> ItemSet:
        """The item set that a shard belongs to."""
        return next(items for items in self.item_sets if items.language == shard.language)

    @property
    def label(self) -> str:
        """The prefix of its progress messages; empty in a study with one cell."""
        return f"{self.name}, " if self.name else ""

    def opened(self) -> OpenCell | None:
        """The same cell if it has been started, else None."""
        return None if self.run is None else self.begun_as(self.run)

    def begun_as(self, run: OpenedRun) -> OpenCell:
        """The same cell with its started run."""
        return CellRun(self.name, self.study, self.path, self.item_sets, run)


PlannedCell: TypeAlias = CellRun[OpenedRun | None]
OpenCell: TypeAlias = CellRun[OpenedRun]


class Turn(NamedTuple):
    """The work of one model: its arm, the languages it was made for, and the cells that ask it."""

    arm: Arm
    languages: tuple[str, ...]
    cells: tuple[OpenCell, ...]

    @property
    def served(self) -> Served | None:
        """The served model of the arm, if it is behind a server."""
        first = next(iter(self.arm.steps), None)
        return first if isinstance(first, Served) else None

    def sets(self, cell: OpenCell) -> list[ItemSet]:
        """The items that this model answers in a cell."""
        return [items for items in cell.item_sets if items.language in self.languages]

    def pending(self, cell: OpenCell) -> list[Shard]:
        """The shards that this model still has to answer in a cell, in order."""
        shards = [shard for shard in cell.pending(self.arm.name) if shard.language in self.languages]
        return interleaved(shards) if cell.study.until_width else shards

    def narrow_enough(self, cell: OpenCell) -> bool:
        """Whether the arm has stopped early in a cell. Base never does, because every arm needs it."""
        width, limit = cell.study.until_width, cell.study.oracle_limit
        if width is None or self.arm.name == BASE:
            return False
        found = stopped(cell.run, self.arm.name, self.sets(cell), width=width, oracle_limit=limit)
        return found is not None


def open_cell(name: str, study: Study, path: Path, progress: Progress) -> PlannedCell:
    """Reads the items of a study and resumes the run in its folder, if there is one.

    Raises:
        AnomiaError: the data can't be used, or the folder contains something else.
    """
    items = read_items(study)
    cell: PlannedCell = CellRun(name, study, path, items, open_run(path, study))
    if cell.run is not None:
        check_same(cell.run, items)
        wanted = (shard for arm in cell.arms for shard in cell.shards(arm.name))
        for file in set_damaged_aside(cell.run, wanted):
            progress.say(
                f"{file.name.removesuffix('.damaged')} is damaged or does not belong to this run; it was "
                f"renamed to {file}, and that part is measured again"
            )
    return cell


def read_items(study: Study) -> list[ItemSet]:
    """The items of a study, one set per language.

    Raises:
        AnomiaError: they can't be used, or not without a chat template.
    """
    questions = read_questions(where_read(study), study.languages)
    left_out: Mapping[str, int] = {}
    if study.not_in:
        questions, left_out = without_known(questions, texts_in(study.not_in), data=study.data)
    sets = build_items(questions, dataset=study.data, limit=study.limit, seed=study.seed)
    for items in sets.values():
        for item in items.items:
            check_written(item.question, chat=study.chat)
    return [
        replace(items, excluded={**items.excluded, "known": left_out[language]}) if left_out else items
        for language, items in sets.items()
    ]


def by_model(cells: Iterable[PlannedCell]) -> list[list[PlannedCell]]:
    """Groups cells that share a base and the way it is loaded."""
    groups: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        study = cell.study
        key = repr((study.base, study.revision, study.chat, study.chat_template, study.dtype, study.engine))
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def turns_of(arm: Arm, cells: Sequence[OpenCell]) -> list[Turn]:
    """The turns of an arm, one per model that it needs."""
    return [
        Turn(arm, group, tuple(c for c in cells if any(items.language in group for items in c.item_sets)))
        for group in models_of(arm, cells)
    ]


def models_of(arm: Arm, cells: Sequence[PlannedCell]) -> list[tuple[str, ...]]:
    """The languages of each model that an arm needs: one model for all, or one per language with its own mask."""
    languages = tuple(dict.fromkeys(items.language for cell in cells for items in cell.item_sets))
    return [(name,) for name in languages] if uses_own_text(arm.steps, cells[0].study) else [languages]


def where_read(study: Study) -> str:
    """The data set, read from the study's data folder if it is there."""
    known = SETS.get(study.data)
    if study.data_folder is not None and known is not None:
        for name in known.folders:
            folder = Path(study.data_folder) / name
            if folder.is_dir() and any(re.search(r"\.json$", file.name) for file in folder.iterdir()):
                return f"squad:{folder}"
    return study.data
