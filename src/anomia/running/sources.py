"""The files that base and checkpoints were measured from; a run is resumed and reported only if they are unchanged.

Fingerprints of loaded weights are compared in a model's turn. This check runs before any turn, without loading, and
also covers models without a turn: finished arms, and base while checkpoint arms are still pending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from anomia.compress.steps import Checkpoint
from anomia.errors import AnomiaError, RunError
from anomia.models.adapters import find_adapter
from anomia.models.examine import look_up
from anomia.models.memory import PREFIX
from anomia.running.cells import OpenCell, PlannedCell
from anomia.study import BASE, Study

_READ = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "merges.txt", "*.model", "*.jinja", "*.tiktoken", "adapter_config.json", "adapter_model.safetensors",
)  # fmt: skip
_PIECE = 2**24


def check_sources(cells: Sequence[PlannedCell]) -> None:
    """Refuses a run if files of its base or checkpoints have changed since they were measured; records new ones.

    Files that can't be found any more are not checked, nor are runs that recorded none.

    Raises:
        RunError: a file of a measured model has changed.
    """
    known: dict[str, dict[str, Any] | None] = {}
    for cell in cells:
        if cell.run is None:
            continue
        noted = cell.run.folder.sources.read() or {}
        now = dict(noted)
        for arm, name in _models(cell):
            begun = cell.begun(arm) if arm != BASE else True
            if arm not in noted and begun:
                continue
            before = noted.get(arm) if begun else None
            if name not in known or known[name] is None:
                known[name] = files_of(cell.study, name, before or {})
            found = known[name]
            if found is None:
                continue
            changed = [] if before is None else _changed(before, found)
            if changed:
                raise RunError(
                    f"run: {cell.path}: {arm} was measured with different files than {name} has now "
                    f"({', '.join(changed[:3])}{', …' if changed[3:] else ''} changed); restore them, or give another "
                    "--out"
                )
            now[arm] = found
        if now != noted:
            cell.run.folder.sources.write(now)


def note_base(cell: OpenCell) -> None:
    """Records the files of base in a newly started run."""
    found = files_of(cell.study, cell.study.base, {})
    if found is not None:
        sources = cell.run.folder.sources
        sources.write({**(sources.read() or {}), BASE: found})


def files_of(study: Study, name: str, before: Mapping[str, Any]) -> dict[str, Any] | None:
    """The files that loading a model reads, as [size, mtime in ns, hash] by name; None if they aren't on this machine.

    before: an earlier result; files with unchanged size and mtime are not read again.
    """
    if name.startswith(PREFIX):
        return None
    try:
        paths = _paths(study, name)
    except (AnomiaError, OSError):
        return None
    return {path.name: _stamp(path, before.get(path.name)) for path in paths} or None


def code_of(study: Study, name: str) -> str | None:
    """A hash of the code in a model's repository; None if there is none or it may not run."""
    found = files_of(study, name, {}) if study.trust_remote_code else None
    code = {key: stamp[-1] for key, stamp in (found or {}).items() if key.endswith(".py")}
    return xxhash.xxh3_64_hexdigest(repr(sorted(code.items())).encode()) if code else None


def _models(cell: PlannedCell) -> list[tuple[str, str]]:
    """Base and the checkpoints of a cell, as (arm, model)."""
    arms = [(arm.name, step.model) for arm in cell.arms[1:] if isinstance(step := arm.steps[0], Checkpoint)]
    return [(BASE, cell.study.base), *arms]


def _paths(study: Study, name: str) -> list[Path]:
    revision = study.revision if name == study.base else None
    adapter = None if name == study.base else find_adapter(name, revision=revision)
    if adapter is not None:
        return _small(adapter.folder, code=False)
    files = look_up(name, revision=revision)
    if files.gguf:
        return [Path(files.source) / files.gguf]
    small = [] if files.folder is None else _small(files.folder, code=study.trust_remote_code)
    return [*files.weights, *small]


def _small(folder: Path, *, code: bool) -> list[Path]:
    patterns = (*_READ, *(("*.py",) if code else ()))
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _stamp(path: Path, before: Any) -> list[Any]:
    there = path.stat()
    stamp = [there.st_size, there.st_mtime_ns]
    if before and before[:2] == stamp:
        return list(before)
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return [*stamp, digest.hexdigest()]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of files with different content, or that only one of the two has."""
    names = sorted({*before, *now})
    return [name for name in names if (before.get(name) or [0])[-1] != (now.get(name) or [0])[-1]]
