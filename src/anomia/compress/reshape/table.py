"""The one table of methods that change a model's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anomia.compress.reshape.depth import remove_blocks, shortgpt
from anomia.compress.reshape.experts import drop_experts, dropexperts, merge_experts, mergeexperts
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.slicegpt import slicegpt
from anomia.compress.reshape.width import flap, narrow

RESHAPERS: Mapping[str, Callable[..., ReshapeReport]] = {
    "shortgpt": shortgpt,
    "flap": flap,
    "slicegpt": slicegpt,
    "dropexperts": dropexperts,
    "mergeexperts": mergeexperts,
}
"""By the names of `steps.RESHAPING_METHODS`: (model, decoder, share, windows, *, progress, batch_tokens)."""

STREAMED: Mapping[str, Callable[..., ReshapeReport]] = {
    "shortgpt": remove_blocks,
    "flap": narrow,
    "dropexperts": drop_experts,
    "mergeexperts": merge_experts,
}
"""Those that need one block at a time: (subject, share, windows, *, progress, batch_tokens)."""
