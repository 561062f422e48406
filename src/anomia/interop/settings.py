"""Read how another harness ran a model, from the results file next to its samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from anomia.errors import DataError
from anomia.interop.formats import LogFormat, log_format
from anomia.interop.samples import DATE, SampleFile

# The harnesses' argument names for a model's path.
MODEL_PATHS = ("pretrained", "model", "path", "engine", "model_name")


class Settings(NamedTuple):
    """How a model was run for one log.

    path: the results file. arguments: model arguments; an absent one has its default. others: other settings; an
    absent one may just be unknown to the harness's version. A value of None means that the setting is empty.
    """

    path: Path
    arguments: Mapping[str, str | None]
    others: Mapping[str, str | None]


def settings_of(tool: str, file: SampleFile) -> Settings | None:
    """The settings of the run that wrote a log; None if its results file is not found.

    Raises:
        DataError: the results file can't be read.
    """
    written = log_format(tool)
    path = _results_of(file.path, written)
    if path is None:
        return None
    try:
        held = _held(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"import: {path}, which says how the harness ran the model, can't be read: {error}; fix it or move it away"
        ) from None
    task = re.sub(r"\W", "_", file.task)
    return written.settings(path, held, task)


# One file has the settings of hundreds of tasks.
@lru_cache(maxsize=4)
def _held(path: Path, changed: int) -> dict[str, Any]:
    """The content of a results file. changed: when it was written."""
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise ValueError("it is not a JSON object")
    return held


def _results_of(log: Path, written: LogFormat) -> Path | None:
    """The results file of the same run, found by its date."""
    dated = re.search(f"_({DATE})$", log.stem)
    if dated is None:
        alone = list(log.parent.glob("results*.json"))
        return alone[0] if len(alone) == 1 else None
    places = [log.parent, log.parent.parent, *written.results(log)]
    found = [file for place in places for file in sorted(place.glob(f"*_{dated[1]}.json"))]
    logs = (written.pattern, "samples_*")
    return next((file for file in found if not any(fnmatch(file.name, name) for name in logs)), None)


def by_task(held: Mapping[str, Any], task: str, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The values that a results file has of one task, by name."""
    for name in names:
        for key, value in mapping(held.get(name)).items():
            if re.sub(r"\W", "_", key) == task:
                yield ("task version" if name == "versions" else name), value


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or nothing if it isn't a mapping."""
    return value if isinstance(value, Mapping) else {}


def as_setting(value: Any) -> str | None:
    """A value as normalized text, so that versions that write it differently agree; None if it is empty."""
    if value is None or value == "" or value == {} or value == []:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        value = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(value).strip().removeprefix("torch."))
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    return None if text == "None" else text
