"""The type of a method that drops whole parts of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from anomia.compress.calibration import Windows
from anomia.compress.options import BATCH_TOKENS
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.report import ReshapeReport
from anomia.errors import RefusedError

if TYPE_CHECKING:
    from anomia.compress.pipeline import OnProgress
    from anomia.compress.reshape.subject import Subject


# A smaller difference from the requested share gets no note.
_NEAR = 0.005


def by_field(report: ReshapeReport, weights: tuple[int, int]) -> float | None:
    """The removed share of the field of the configuration that changed: a number of experts, or the hidden size."""
    # A change of the number of experts has one field; a change of the hidden size can have several.
    name = "hidden_size" if "hidden_size" in report.before else next(iter(report.before), "")
    before, after = report.before.get(name), report.after.get(name)
    if not isinstance(before, int) or not isinstance(after, int):
        return None
    return 1 - after / before if before else None


def by_blocks(report: ReshapeReport, weights: tuple[int, int]) -> float | None:
    """The removed share of the blocks."""
    kept, removed = len(report.details["kept_blocks"]), len(report.details["removed_blocks"])
    return removed / (kept + removed) if kept + removed else None


def by_weights(report: ReshapeReport, weights: tuple[int, int]) -> float | None:
    """The removed share of the weights in the matrices of the blocks."""
    before, after = weights
    return 1 - after / before if before else None


class Walk(NamedTuple):
    """The walk in which the dense model is measured: over which text, in batches of how many tokens.

    progress: called with (blocks measured, all blocks).
    """

    windows: Windows
    batch_tokens: int = BATCH_TOKENS
    progress: OnProgress | None = None


class Reshaper(NamedTuple):
    """A method that drops parts of a model.

    name: as in a step. reshape: does the work of `apply`, after its checks. of: what the share is a fraction of, and
    pieces: why it can't always be met; both for messages. removed: the share that a report says was removed, given the
    weights in all matrices of the blocks, before and after; None if it isn't known. streamed: whether it works one
    block at a time, so that the model can stay in its files.
    """

    name: str
    reshape: Callable[[Subject, float, Walk], ReshapeReport]
    of: str
    pieces: str
    removed: Callable[[ReshapeReport, tuple[int, int]], float | None] = by_field
    streamed: bool = True

    def apply(
        self,
        subject: Subject,
        share: float,
        windows: Windows | None,
        *,
        progress: OnProgress | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> ReshapeReport:
        """Reshape a model in place.

        Args:
            share: the fraction to drop; each method says of what.
            windows: calibration tokens, for the dense model; padding is ignored.
            progress: called with (blocks measured, all blocks).

        Raises:
            CompressionError: there is no calibration text, the model has several stacks of blocks, its states are not
                finite, or the method refuses it; nothing was changed.
        """
        if windows is None or not any(windows.token_ids):
            raise RefusedError(f"{self.name} needs calibration text, and none was given")
        if subject.decoder.paths:
            why = f"it has several stacks of blocks: {subject.decoder.name}"
            raise rebuild.refusal(self.name, subject.model, why)
        subject.check(rebuild.check_batch(windows, subject.device))
        return self.reshape(subject, share, Walk(windows, batch_tokens, progress))

    def with_share(self, report: ReshapeReport, asked: float, weights: tuple[int, int]) -> ReshapeReport:
        """Return the report with the removed share, and a note if it differs from the requested share.

        asked: the share, or from 1 on a number of pieces. weights: in all matrices of the blocks, before and after.
        """
        share = self.removed(report, weights)
        if share is None or asked >= 1 or abs(share - asked) <= _NEAR:
            return replace(report, share=share)
        note = f"{share:.1%} of the {self.of} went where {asked:.1%} were asked for: {self.pieces}"
        return replace(report, share=share, notes=(*report.notes, note))
