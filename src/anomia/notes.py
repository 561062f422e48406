"""Caveats about an arm, shown with its results: notes, refusals of a server, and differences from base besides the
weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from anomia import renamed
from anomia.models.difference import Difference
from anomia.probes import ALONG
from anomia.run_folder import RunFolder

# The kind of a difference that changes answers without being compression.
CONFOUNDING = "confounding"
# The part of a difference that a run takes from base for a checkpoint: prompts and where answers end.
ASKED = "asked"


def write_notes(run: RunFolder, arm: str, notes: Sequence[str], *, unlike: str = "") -> None:
    """Store the notes of an arm, replacing earlier ones; without any, write nothing.

    unlike: how the arm's prompts differed from base's, if they did.
    """
    if notes or unlike:
        entry = {"arm": arm, "notes": [*notes, *([unlike] if unlike else [])], "unlike": unlike}
        run.notes.of_arm(arm).write(entry)


def read_unlike(run: RunFolder) -> dict[str, str]:
    """By arm, how its prompts differed from base's; arms with the same prompts are absent."""
    return {str(entry.get("arm")): str(entry["unlike"]) for entry in run.notes.all() if entry.get("unlike")}


def read_notes(run: RunFolder) -> dict[str, list[str]]:
    """The notes of a run by arm, including a server's refusals."""
    found = {
        str(entry.get("arm")): [str(note) for note in entry.get("notes", ())] for entry in run.notes.all()
    }
    for arm, notes in _refusals(run).items():
        found.setdefault(arm, []).extend(notes)
    return found


def write_differences(run: RunFolder, arm: str, differences: Sequence[Difference]) -> None:
    """Store the differences between base and an arm besides the weights."""
    run.differences.of_arm(arm).write({"arm": arm, "differences": [row._asdict() for row in differences]})


def read_differences(run: RunFolder) -> dict[str, list[Difference]]:
    """By compared arm, its differences from base besides the weights."""
    return {
        str(entry.get("arm")): [
            Difference(**{**row, "kind": renamed.KINDS.get(row["kind"], row["kind"])})
            for row in entry.get("differences", ())
        ]
        for entry in run.differences.all()
    }


def _refusals(run: RunFolder) -> dict[str, list[str]]:
    """By arm, notes on a server's refusals: the number of items per probe, and the first reason."""
    counts: dict[str, Counter[str]] = {}
    reasons: dict[tuple[str, bool], str] = {}
    for entry in run.refused.all():
        arm = str(entry.get("arm"))
        for probes in dict(entry.get("refused") or {}).values():
            counts.setdefault(arm, Counter()).update(map(str, probes))
            for probe, reason in probes.items():
                reasons.setdefault((arm, probe == ALONG), str(reason))
    found: dict[str, list[str]] = {}
    for arm, count in counts.items():
        lacking, notes = count.pop(ALONG, 0), found.setdefault(arm, [])
        if count:
            notes.append(
                f"excluded, because the server refused to answer: {_listed(count)} ({reasons[arm, False]})"
            )
        if lacking:
            items = f"{lacking} item{'s' if lacking > 1 else ''}"
            notes.append(f"no ranks along base's long answer for {items}: {reasons[arm, True]}")
    return found


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{probe} of {count} item{'s' if count > 1 else ''}" for probe, count in counts.items())
