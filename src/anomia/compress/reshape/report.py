"""The report of a reshaping: plain values for the run, `anomia.json` and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# By method: what its share is a fraction of, and why the share can't be met exactly.
_WHAT = {
    "shortgpt": ("blocks", "only whole blocks go"),
    "flap": ("matrices' weights", "only whole heads and steps of channels go"),
    "slicegpt": ("hidden size", "it is cut in steps"),
    "dropexperts": ("experts", "only whole experts go"),
    "mergeexperts": ("experts", "only whole experts go"),
}
# A smaller difference from the share gets no note.
_NEAR = 0.005


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


def with_share(report: ReshapeReport, asked: float, weights: tuple[int, int]) -> ReshapeReport:
    """Return the report with the removed share, and a note if it differs from the requested share.

    asked: the share, or from 1 on a number of pieces. weights: in all matrices of the blocks, before and after.
    """
    share = _share(report, weights)
    if share is None or asked >= 1 or abs(share - asked) <= _NEAR:
        return replace(report, share=share)
    of, why = _WHAT[report.method]
    note = f"{share:.1%} of the {of} went where {asked:.1%} were asked for: {why}"
    return replace(report, share=share, notes=(*report.notes, note))


def _share(report: ReshapeReport, weights: tuple[int, int]) -> float | None:
    if report.method == "flap":
        before, after = weights
    elif "removed_blocks" in report.details:
        after = len(report.details["kept_blocks"])
        before = after + len(report.details["removed_blocks"])
    else:
        # A change of the number of experts has one field; a change of the hidden size can have several.
        name = "hidden_size" if "hidden_size" in report.before else next(iter(report.before), "")
        old, new = report.before.get(name), report.after.get(name)
        if not isinstance(old, int) or not isinstance(new, int):
            return None
        before, after = old, new
    return 1 - after / before if before else None
