"""Perplexity of a causal language model on a text."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.errors import DataError
from anomia.models.sizes import fraction, positions_of

WINDOW = 2048
_ROWS = 256
_BEGINNING = 2000
_TOO_SHORT = "the text for perplexity has fewer than two tokens; give a longer one"


class Perplexity(NamedTuple):
    """A perplexity. value: exp of the mean negative log-likelihood per token. tokens: scored. window: in tokens."""

    value: float
    tokens: int
    window: int


@torch.no_grad()
def perplexity(
    model: Any, tokenizer: Any, text: str, *, window: int = WINDOW, max_tokens: int | None = None
) -> Perplexity:
    """Compute the perplexity over windows that don't overlap, as in the pruning literature (Frantar and Alistarh 2023).

    The text is encoded as a whole. If the tokenizer adds a start token, every window begins with it, unscored;
    otherwise the first token of a window isn't scored. Log-probabilities are computed in float32, a few hundred
    positions at a time. window: in tokens. max_tokens: use only the first tokens of the text.

    Raises `DataError` for a text with fewer than two tokens.
    """
    start, ids = _encode(tokenizer, text, max_tokens)
    window = min(window, positions_of(model.config) or window)
    step = max(1, window - len(start))
    loss, count = 0.0, 0
    for first in range(0, len(ids), step):
        row = torch.tensor([start + ids[first : first + step]], device=model.device)  # [1, S]
        if row.shape[1] < 2:
            continue
        losses = token_losses(model, row)
        loss += float(losses.sum(dtype=torch.float64))
        count += len(losses)
    if count == 0:
        raise DataError(_TOO_SHORT)
    mean = loss / count
    return Perplexity(math.exp(mean) if mean < 700 else math.inf, count, window)


def check_text(tokenizer: Any, text: str, *, max_tokens: int | None = None) -> None:
    """Refuse, before any work, a text in which `perplexity` can't score a token.

    Raises `DataError` for a text with fewer than two tokens.
    """
    nothing = list(tokenizer("")["input_ids"])
    if text.strip() and all(
        list(tokenizer(part)["input_ids"]) == nothing for part in (text[:_BEGINNING], text)
    ):
        raise DataError(
            "the tokenizer gives no token for the text for perplexity; give text that it knows, or the "
            "model the tokenizer that it was trained with"
        )
    # The beginning suffices for all but the shortest texts.
    for part in (text[:_BEGINNING], text):
        start, ids = _encode(tokenizer, part, max_tokens)
        if ids and len(start) + len(ids) > 1:
            return
    raise DataError(_TOO_SHORT)


def _encode(tokenizer: Any, text: str, max_tokens: int | None) -> tuple[list[int], list[int]]:
    """Return the start token of every window, if there is one, and the tokens to score."""
    ids = list(tokenizer(text)["input_ids"])
    start = ids[:1] if ids and ids[0] == getattr(tokenizer, "bos_token_id", None) else []
    return start, ids[len(start) :][:max_tokens]


def token_losses(model: Any, row: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of every token of `row` [1, S] but the first, [S − 1] float32.

    The head is applied to slices of the positions, since all logits of a large vocabulary would take gigabytes.
    """
    head: nn.Module = model.get_output_embeddings()
    entered: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    try:
        hidden = model.base_model(input_ids=row, use_cache=False).last_hidden_state  # [1, S, H]
        first = model(input_ids=row[:, :2], use_cache=False).logits[0]  # [2, V]
    finally:
        handle.remove()
    softcap = fraction(model.config, "final_logit_softcapping")

    def logits_of(states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(states).float()
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    targets = row[0, 1:]
    if not torch.allclose(logits_of(entered[0][0]), first.float(), rtol=1e-2, atol=1e-2):
        # The model transforms its logits in another way, so compute all of them with the model.
        logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
        return nn.functional.cross_entropy(logits, targets, reduction="none")
    parts = [
        nn.functional.cross_entropy(logits_of(states), wanted, reduction="none")
        for states, wanted in zip(
            torch.split(hidden[0, :-1], _ROWS), torch.split(targets, _ROWS), strict=True
        )
    ]
    return torch.cat(parts)
