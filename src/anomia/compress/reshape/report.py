"""What a reshaping did: plain values for the run, `anomia.json` and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# What of a model a share is of, and what goes in whole pieces.
_WHAT = {
    "shortgpt": ("blocks", "only whole blocks go"),
    "flap": ("matrices' weights", "only whole heads and steps of channels go"),
    "slicegpt": ("hidden size", "it is cut in steps"),
    "dropexperts": ("experts", "only whole experts go"),
    "mergeexperts": ("experts", "only whole experts go"),
}
# Less is worth no word.
_NEAR = 0.005


@dataclass(frozen=True, slots=True)
class ReshapeReport:
    """One reshaping of a whole model.

    method: its name in a step, `shortgpt`. removed: what is gone, one line per kind.
    before, after: the configuration's fields that changed. scores: what the choice was made by, one list per block (for
    shortgpt one list of all blocks' influences). parameters, bytes: the whole model's, shared tensors once.
    notes: what was not as usual. share: of what was to be cut, how much went; None where that isn't known.
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
        """Plain values for JSON."""
        return asdict(self)


def with_share(report: ReshapeReport, asked: float, weights: tuple[int, int]) -> ReshapeReport:
    """The report with the share that went, and a note where it is another one than was asked for.

    asked: the share, or a number of pieces from 1 on. weights: of all matrices in the blocks, before and after.
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
        # Experts have one field; of a hidden size other fields may follow.
        name = "hidden_size" if "hidden_size" in report.before else next(iter(report.before), "")
        old, new = report.before.get(name), report.after.get(name)
        if not isinstance(old, int) or not isinstance(new, int):
            return None
        before, after = old, new
    return 1 - after / before if before else None
