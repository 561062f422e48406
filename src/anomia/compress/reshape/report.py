"""What a reshaping did: plain values for the run, `anomia.json` and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReshapeReport:
    """One reshaping of a whole model.

    method: its name in a step, `shortgpt`. removed: what is gone, one line per kind.
    before, after: the configuration's fields that changed. scores: what the choice was made by, one list per block (for
    shortgpt one list of all blocks' influences). parameters, bytes: the whole model's, shared tensors once.
    notes: what was not as usual.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
