"""The type of a method that drops whole parts of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from anomia.compress.reshape.report import ReshapeReport


class Reshaper(NamedTuple):
    """A method that drops parts of a model.

    loaded: takes (model, decoder, share, windows, *, progress, batch_tokens), for a model in memory.
    streamed: takes (subject, share, windows, *, progress, batch_tokens), and works one block at a time; None if the
    method needs the whole model.
    """

    loaded: Callable[..., ReshapeReport]
    streamed: Callable[..., ReshapeReport] | None = None
