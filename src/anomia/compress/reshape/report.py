"""The report of a reshaping: plain values for the run, `anomia.json` and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReshapeReport:
    """One reshaping of a whole model.

    method: its name in a step, such as `shortgpt`. removed: what was removed, one line per kind.
    before, after: the changed configuration fields.
    parameters_*, bytes_*: of the whole model; shared tensors count once.
    scores: the scores used for the choice, one list per block (for shortgpt, one list with all blocks' influences).
    notes: anything unusual. share: the fraction that was removed; None if it isn't known.
    """

    method: str
    removed: tuple[str, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    scores: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
