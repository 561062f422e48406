"""The one table of methods that change a model's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anomia.compress.reshape.depth import shortgpt
from anomia.compress.reshape.report import ReshapeReport

RESHAPERS: Mapping[str, Callable[..., ReshapeReport]] = {"shortgpt": shortgpt}
"""By the names of `steps.RESHAPING_METHODS`: (model, decoder, share, windows, *, progress, batch_tokens)."""
