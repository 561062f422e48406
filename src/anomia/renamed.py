"""Names that changed, from old to new: the only place that knows them.

What users write under an old name is still read, with one note that names the new word, until the next release. Folders
of earlier runs hold old names too and are read without a note.
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, str] = {"reach_limit": "oracle_limit"}
"""Keys of a study."""

OPTIONS: Mapping[str, str] = {
    "--power": "--items-needed",
    "--desired-power": "--target-power",
    "--chance": "--target-power",
}
"""Flags of `anomia plan`."""

COLUMNS: Mapping[str, str] = {
    old: old.replace("foil", "control")
    for old in (
        "foil", "foil_rank", "foil_rank_ties", "foil_token_log_prob", "foil_margin", "foil_distinct_rank",
        "foil_distinct_rank_ties", "foil_distinct_token_log_prob", "foil_distinct_margin", "beams_foil", "samples_foil",
    )
}  # fmt: skip
"""Columns of records and items."""

TARGETS: Mapping[str, str] = {"foil": "control", "foil_distinct": "control_distinct"}
"""Tokens whose rank is asked for. Hashes of what an item was asked keep the old names, so that they still agree."""

MEASURES: Mapping[str, str] = {
    "accuracy/reach_": "accuracy/oracle_",
    "drop/reach_": "drop/oracle_",
    "recovery/beams/foil": "recovery/beams/control",
    "recovery/samples/foil": "recovery/samples/control",
    "control/": "also_picked/",
    "recovery_over_foil/": "recovery_over_control/",
    "divergence/same_top": "divergence/top1_agreement",
}
"""How names of measures begin."""

KINDS: Mapping[str, str] = {"told": "noted"}
"""Kinds of differences between two models."""

TABLES: Mapping[str, str] = {"reach": "oracle", "noise_and_controls": "noise_and_checks"}
"""Files of a report's tables, without the ending."""


class RenamedWarning(DeprecationWarning):
    """An old name was used; it will be removed in the next release."""


def column(name: str) -> str:
    """The name of a column of the records or items, whatever version wrote it.

    >>> column("beams_foil"), column("open_text")
    ('beams_control', 'open_text')
    """
    return COLUMNS.get(name, name)


def measure(name: str) -> str:
    """The name of a measure, whatever version wrote it; one that is unknown stays as it is.

    >>> measure("recovery/beams/foil_newly_broken")
    'recovery/beams/control_newly_broken'
    """
    for old, new in MEASURES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def settings(values: Mapping[str, Any], *, with_notes: bool = False) -> dict[str, Any]:
    """The settings of a study in their order, whatever version wrote them. with_notes: with a note about each old name.

    Where both names are given the old one stays, and is refused as an unknown key.
    """
    names = {old: new for old, new in SETTINGS.items() if old in values and new not in values}
    for old, new in names.items() if with_notes else ():
        note(old, new)
    return {names.get(key, key): value for key, value in values.items()}


def option(name: str) -> str:
    """The name of a flag of `anomia plan` without its dashes, whatever version had it, with a note about an old one."""
    new = OPTIONS.get(f"--{name}")
    if new is None:
        return name
    note(f"--{name}", new)
    return new.removeprefix("--")


def hashed_target(name: str) -> str:
    """What the hash of an item calls a token whose rank is asked for."""
    return next((old for old, new in TARGETS.items() if new == name), name)


def note(old: str, new: str) -> None:
    """Tells that a name is old, at the line that called this package."""
    # Pydantic calls the validators, so the outermost frame counts, not the nearest.
    inside = [
        depth
        for depth, (frame, _) in enumerate(traceback.walk_stack(inspect.currentframe()), 1)
        if str(frame.f_globals.get("__name__")).partition(".")[0] in ("anomia", "pydantic")
    ]
    warnings.warn(
        f"{old} is now {new}; the old name will be removed in the next release",
        RenamedWarning,
        stacklevel=inside[-1] + 1,
    )
