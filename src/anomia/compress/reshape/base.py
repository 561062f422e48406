"""What a method that drops whole parts is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from anomia.compress.reshape.report import ReshapeReport


class Reshaper(NamedTuple):
    """A way to drop parts of a model.

    loaded: (model, decoder, share, windows, *, progress, batch_tokens), for a model in memory. streamed: (subject,
    share, windows, *, progress, batch_tokens), one block at a time; None where the whole model is needed.
    """

    loaded: Callable[..., ReshapeReport]
    streamed: Callable[..., ReshapeReport] | None = None
