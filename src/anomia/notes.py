"""What a reader of a run should know about an arm: `RUN/notes/*.json`, shown with its figures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from anomia.files import read_json, write_json


def write_notes(run: Path, arm: str, notes: Sequence[str]) -> None:
    """Stores the notes of an arm; the same ones again change nothing, and none writes nothing."""
    if notes:
        name = hashlib.sha256(arm.encode()).hexdigest()[:12]
        write_json(run / "notes" / f"{name}.json", {"arm": arm, "notes": list(notes)})


def read_notes(run: Path) -> dict[str, list[str]]:
    """The notes of all arms of a run, by arm."""
    found = {}
    for file in sorted((run / "notes").glob("*.json")):
        entry = read_json(file) or {}
        found[str(entry.get("arm"))] = [str(note) for note in entry.get("notes", ())]
    return found
