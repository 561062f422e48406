"""The data sets. Each file of this folder defines one as `SET`; to add a data set, add a file."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from anomia.items.data_set import DataSet

_FOUND: list[DataSet] = [import_module(f"{__name__}.{module.name}").SET for module in iter_modules(__path__)]
SETS: dict[str, DataSet] = {each.name: each for each in sorted(_FOUND, key=lambda each: each.name)}


def set_of(data: str) -> DataSet | None:
    """The data set of a study's `data` value, such as `squad` for `squad:PATH`; None if the name is unknown."""
    return SETS.get(data.partition(":")[0])


def only_languages(data: str) -> tuple[str, ...] | None:
    """All languages of a data set, without reading it; None if only its files tell."""
    found = set_of(data)
    return None if found is None or ":" in data else found.only_languages


def only_probes(data: str) -> tuple[str, ...]:
    """The only probes that a data set can be asked; empty for all."""
    found = set_of(data)
    return () if found is None else found.probes


def named() -> str:
    """The data sets on the hub and the file formats, as text for a message."""
    hub = [name for name, each in SETS.items() if each.repository]
    files = [f"{name}:PATH" for name, each in SETS.items() if each.path != "no" and each.task is None]
    tasks = [name for name, each in SETS.items() if each.task is not None]
    return (
        f"From the hub: {', '.join(hub)}. Files: {', '.join(files)}. Tasks: {', '.join(tasks)}, or TASK:PATH "
        "for your own"
    )


def local_folders() -> str:
    """The folders of local copies that a study's data folder may have, as text for a message."""
    folders = [each.folders[0] for each in SETS.values() if each.folders]
    return " and ".join([", ".join(folders[:-1]), folders[-1]] if len(folders) > 1 else folders)
