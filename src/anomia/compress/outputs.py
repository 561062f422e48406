"""A short pass over a compressed model, since a step without calibration text never runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anomia.compress.calls import check_tokens, text_limit
from anomia.compress.in_files import InFiles
from anomia.compress.reshape.subject import walked
from anomia.compress.walk import calibrating
from anomia.errors import CompressionError, RefusedError
from anomia.models.examine import examine
from anomia.models.sizes import text_part, vocabulary_of

_TOKENS = 16
# The first ids are often padding, and the marks of a text's start and end.
_FIRST = 3


@torch.no_grad()
def check_outputs(model: Any) -> str:
    """Run a loaded model on a few fixed tokens. Returns a note if it can't be run, else "".

    Raises:
        RefusedError: logits are NaN or infinite.
    """
    try:
        ids = _few_tokens(model).to(next(model.parameters()).device)
        with calibrating(model):
            logits = model(input_ids=ids, use_cache=False).logits
    # A model may need other inputs than tokens.
    except Exception as error:
        return _not_tried(error)
    _refuse(logits, "its logits")
    return ""


def check_folder(folder: Path, scratch: Path, *, device: torch.device) -> str:
    """Run the blocks of a model folder on a few fixed tokens, with one in memory at a time, and states in `scratch`.

    Returns a note if they can't be run one by one, else "".

    Raises:
        RefusedError: the states that leave the last block, or the logits, are NaN or infinite.
    """
    blocks = InFiles(examine(str(folder)), folder, folder, scratch, dtype="auto", device=device)
    if not blocks.fits or blocks.note:
        return _not_tried(blocks.decoder.fault or blocks.note or "its blocks aren't stored one by one")
    try:
        with calibrating(blocks.model, device):
            ids = _few_tokens(blocks.model)
            states = walked(blocks, ids)
    except CompressionError as error:
        return _not_tried(error)
    _refuse(states, f"the states that leave the blocks {blocks.decoder.name}")
    with calibrating(blocks.model, device):
        return check_logits(blocks, ids, states)


@torch.no_grad()
def check_logits(blocks: InFiles, ids: torch.Tensor, states: torch.Tensor) -> str:
    """Check the logits of the first tokens.

    ids: [B, S]. states: what leaves the last block for them, [(streams,) B, S, H].
    Returns a note if they can't be computed from the states alone, else "". Raises `RefusedError`.
    """
    try:
        logits = blocks.logits(*_begin(ids, states))
    # What follows the blocks may need more than their states.
    except Exception as error:
        return _not_tried(error)
    _refuse(logits, "its logits")
    return ""


def _begin(ids: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first tokens of the first row. ids: [B, S]; states: [(streams,) B, S, H].

    Where the model adds tokens of its own, so that states have more than S, all tokens of that row.
    """
    axes = [axis for axis in range(states.dim() - 2) if states.shape[axis : axis + 2] == ids.shape]
    if not axes:
        return ids[:1], states.narrow(states.dim() - 3, 0, 1)
    count = min(_TOKENS, ids.shape[1])
    return ids[:1, :count], states.narrow(axes[0], 0, 1).narrow(axes[0] + 1, 0, count)


def _few_tokens(model: Any) -> torch.Tensor:
    """Return a few token ids of the model, [1, S], after its start token: its states are the largest in many models."""
    count = vocabulary_of(model)
    ids = torch.arange(_FIRST, _FIRST + min(_TOKENS, text_limit(model) or _TOKENS))[None] % count
    start = getattr(text_part(model.config), "bos_token_id", None)
    if isinstance(start, int) and 0 <= start < count:
        ids[0, 0] = start
    check_tokens(model, ids)
    return ids


def _not_tried(why: object) -> str:
    return (
        "the result wasn't run on a few tokens to see that its outputs are finite "
        f"({' '.join(str(why).split())[:160]})"
    )


def _refuse(values: torch.Tensor, what: str) -> None:
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        raise RefusedError(
            f"the result answers nothing: on a few tokens, {what} are NaN or infinite in {broken:,} of "
            f"{values.numel():,} values; the model is damaged, or needs a wider type (--dtype bfloat16 or "
            "float32)"
        )
