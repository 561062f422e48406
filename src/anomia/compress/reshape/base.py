"""The type of a method that drops whole parts of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from anomia.compress.calibration import Windows
from anomia.compress.options import BATCH_TOKENS
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.report import ReshapeReport
from anomia.errors import CompressionError

if TYPE_CHECKING:
    from anomia.compress.pipeline import Progress
    from anomia.compress.reshape.subject import Subject


class Walk(NamedTuple):
    """The walk in which the dense model is measured: over which text, in batches of how many tokens.

    progress: called with (blocks measured, all blocks).
    """

    windows: Windows
    batch_tokens: int = BATCH_TOKENS
    progress: Progress | None = None


class Reshaper(NamedTuple):
    """A method that drops parts of a model.

    name: as in a step. reshape: does the work of `apply`, after its checks. streamed: whether it works one block at a
    time, so that the model can stay in its files.
    """

    name: str
    reshape: Callable[[Subject, float, Walk], ReshapeReport]
    streamed: bool = True

    def apply(
        self,
        subject: Subject,
        share: float,
        windows: Windows | None,
        *,
        progress: Progress | None = None,
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
            raise CompressionError(f"{self.name} needs calibration text, and none was given")
        if subject.decoder.paths:
            why = f"it has several stacks of blocks: {subject.decoder.name}"
            raise rebuild.refusal(self.name, subject.model, why)
        subject.check(rebuild.check_batch(windows, subject.device))
        return self.reshape(subject, share, Walk(windows, batch_tokens, progress))
