"""Find and read the sample logs of models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple

from anomia.errors import DataError
from anomia.interop.filters import with_filter_of_base
from anomia.interop.formats import log_format
from anomia.interop.samples import DATE, SampleFile, task_of
from anomia.interop.task_language import language_in
from anomia.items.languages import language_name
from anomia.models.difference import listed

_NAMED = 4


class Logs(NamedTuple):
    """The sample files of each model.

    unused: files of tasks that neither generate nor choose. older: files replaced by a newer one of the same task in
    the same folder.
    """

    files: Mapping[str, Sequence[SampleFile]]
    unused: Sequence[Path]
    older: Sequence[Path] = ()


def read_logs(
    tool: str,
    models: Mapping[str, Sequence[Path]],
    *,
    filter_name: str | None = None,
    language: str | None = None,
    tasks: Sequence[str] = (),
) -> Logs:
    """Read the samples of models.

    models: files and folders by name; in a folder, the newest file of each task is read.
    filter_name: the filter to use for tasks with several; None uses base's first filter for all models.
    language: the language of all questions; overrides documents and task names.
    tasks: patterns of task names (`mmlu_*`); of a folder's logs, only those that match one are read. None matches all.

    Raises:
        DataError: a file can't be read, a folder has several models, or a model lacks base's filter.
    """
    files: dict[str, list[SampleFile]] = {}
    unused: list[Path] = []
    older: list[Path] = []
    for name, paths in models.items():
        files[name] = []
        for path in paths:
            if not path.is_dir():
                files[name].append(read_given(tool, path, filter_name=filter_name))
                continue
            newest, before = _newest(tool, path, tasks)
            older += before
            for log in newest:
                found = log_format(tool).read(log, filter_name=filter_name)
                if found is None:
                    unused.append(log)
                else:
                    files[name].append(found)
        base = next(iter(files))
        if name != base:
            files[name] = [
                with_filter_of_base(
                    files[base], file, partial(_through, tool, file.path), model=name, given=filter_name
                )
                for file in files[name]
            ]
    files = {name: [_with_language(file, language) for file in each] for name, each in files.items()}
    used = {file.filter for each in files.values() for file in each}
    if filter_name is not None and filter_name not in used:
        raise DataError(
            f"import: no task has several filters, of which one is {filter_name!r}; leave out --filter"
        )
    return Logs(files, unused, older)


def _through(tool: str, path: Path, filter_name: str) -> SampleFile | None:
    return log_format(tool).read(path, filter_name=filter_name)


def read_given(tool: str, path: Path, *, filter_name: str | None = None) -> SampleFile:
    """Read a file that the user named.

    Raises:
        DataError: the file can't be read, or its task only scores given texts.
    """
    found = log_format(tool).read(path, filter_name=filter_name)
    if found is None:
        raise DataError(
            f"import: {path} is of a task that only scores given texts (log-likelihood or perplexity): its "
            "models neither answered nor chose; leave it out"
        )
    return found


def _newest(tool: str, folder: Path, tasks: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The newest file of each task anywhere below one model's folder, and the older files. tasks: patterns of names."""
    pattern = log_format(tool).pattern
    # Names end in the date, so the newest file of a task sorts last.
    found = sorted(folder.rglob(pattern), key=lambda file: file.name)
    if not found:
        raise DataError(f"import: {folder} holds no {pattern}; give the folder that {tool} wrote")
    models = sorted({_model_folder(file) for file in found})
    if len(models) > 1:
        named = ", ".join(map(str, models[:_NAMED]))
        more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
        raise DataError(
            f"import: {folder} holds the logs of {len(models)} model folders: {named}{more}; "
            f"give each model its own, as {models[0]}"
        )
    if tasks:
        known = dict.fromkeys(map(task_of, found))
        found = [file for file in found if any(fnmatch(task_of(file), name) for name in tasks)]
        if not found:
            raise DataError(
                f"import: no log in {folder} is of a task named {' or '.join(tasks)}; it has {listed(list(known), 8)}"
            )
    newest = list({task_of(file): file for file in found}.values())
    return newest, [file for file in found if file not in newest]


def _model_folder(file: Path) -> Path:
    """The folder of a file's model: the file's own, or the one above if that is a date."""
    return file.parent.parent if re.fullmatch(DATE, file.parent.name) else file.parent


def _with_language(file: SampleFile, given: str | None) -> SampleFile:
    """Set the given language on all samples, or the one in the task's name on samples whose language is unknown."""
    if given:
        name = language_name(given)
        return file._replace(samples=tuple(sample._replace(language=name) for sample in file.samples))
    named_language = language_in(file.task)
    return file.in_language(named_language) if named_language else file
