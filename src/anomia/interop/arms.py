"""Assign sample logs to models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anomia.errors import DataError
from anomia.grade import normalize
from anomia.interop.pairs import is_known
from anomia.interop.samples import KEYS, SampleFile
from anomia.interop.sources import read_given

BASE = "base"


def models_from(
    tool: str,
    paths: Sequence[Path],
    base: Sequence[Path],
    arms: Sequence[str],
    *,
    filter_name: str | None = None,
) -> dict[str, list[Path]]:
    """Files and folders by model, base first: from flags, from folders, or from the order of plain files.

    paths: folders, one per model, with base's first; or files. The first file of each task is base's, the second
        the first arm's, and so on.
    base, arms: values of the flags; arms are `NAME=PATH`.

    Raises:
        DataError: the files can't be assigned to models.
    """
    if base or arms:
        if paths:
            raise DataError("import: give either files, or --base and --arm, not both")
        return _from_flags(base, arms)
    if any(path.is_dir() for path in paths):
        if len(paths) < 2:
            raise DataError("import: give base's folder and at least one of a compressed model")
        names = [BASE, *_distinct([path.resolve().name for path in paths[1:]])]
        return {name: [path] for name, path in zip(names, paths, strict=True)}
    if len(paths) < 4:
        raise DataError(
            "import: a comparison needs a generation and a multiple-choice log of base and of a compressed model: "
            f"four files, got {len(paths)}"
        )
    return _from_order([read_given(tool, path, filter_name=filter_name) for path in paths])


def _from_flags(base: Sequence[Path], arms: Sequence[str]) -> dict[str, list[Path]]:
    if not base or not arms:
        raise DataError("import: give --base and at least one --arm NAME=PATH")
    models: dict[str, list[Path]] = {BASE: list(base)}
    for text in arms:
        name, sign, path = text.partition("=")
        if not (sign and name.strip() and path) or name.strip() == BASE:
            raise DataError(f"import: --arm needs NAME=PATH, with a name other than {BASE!r}; got {text!r}")
        models.setdefault(name.strip(), []).append(Path(path))
    return models


def _from_order(files: Sequence[SampleFile]) -> dict[str, list[Path]]:
    tasks: list[list[SampleFile]] = []
    for file in files:
        same = next((task for task in tasks if _same_task(task[0], file)), None)
        if same is None:
            tasks.append([file])
        else:
            same.append(file)
    count = len(tasks[0])
    if count < 2 or any(len(task) != count for task in tasks):
        given = "; ".join(", ".join(str(file.path) for file in task) for task in tasks)
        raise DataError(
            "import: every task needs one file per model, base and at least one arm, but the tasks have: "
            f"{given}; add what is missing, remove what is too many, or assign files with --base and --arm"
        )
    names = [BASE, *(["compressed"] if count == 2 else [f"compressed-{n}" for n in range(1, count)])]
    return {name: [task[n].path for task in tasks] for n, name in enumerate(names)}


def _same_task(one: SampleFile, other: SampleFile) -> bool:
    """Whether two files share most of their questions in the same form, regardless of names that say nothing."""
    if one.form != other.form:
        return False
    if one.task != other.task and is_known(one) and is_known(other):
        # Two tasks of a harness over the same documents, such as two kinds of multiple choice.
        return False
    most = min(len(one.samples), len(other.samples)) / 2
    for kind in KEYS:
        mine, others = (_names(file, kind) for file in (one, other))
        # A kind of key that a log lacks, or that all its questions share, can't decide.
        if min(len(mine), len(others)) > most:
            return len(mine & others) > most
    return False


def _names(file: SampleFile, kind: str) -> set[tuple[str, ...]]:
    """The keys of a file's questions. Ids may restart in every task, so they are paired with the gold answer."""
    samples = [sample for sample in file.samples if kind in sample.keys]
    if kind != "id":
        return {(sample.keys[kind],) for sample in samples}
    return {(sample.keys[kind], normalize(sample.answers[0])) for sample in samples if sample.answers}


def _distinct(names: Sequence[str]) -> list[str]:
    """Arm names from folder names, with numbers added to repeated ones."""
    taken: Counter[str] = Counter()
    found = []
    for given in names:
        name = "compressed" if given in ("", BASE) else given
        taken[name] += 1
        found.append(name if taken[name] == 1 else f"{name}-{taken[name]}")
    return found
