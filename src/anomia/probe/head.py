"""From hidden states to logits, for the positions that are read and no others.

Between its decoder and its logits a model may do more than one product (soft-capping, scaling), so the
model's own code does it: its `forward` runs with the decoder replaced by hidden states that are known
already. That holds for every `...ForCausalLM` whose `forward` calls its base model once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOGIT_ROWS = 512
"""Positions that go through the output head at once: what bounds the memory that logits take."""
FLOAT32_ROWS = 64
"""The same for positions whose product is taken in float32."""
FLOAT32_COLUMNS = 16384
"""Vocabulary entries whose weights are held in float32 at once."""


def decode_states(model: Any, **inputs: Any) -> tuple[Tensor, type]:
    """Runs the decoder alone: hidden states [1, N, H] before the output head, and the type of its output."""
    output = model.base_model(use_cache=True, return_dict=True, **inputs)
    return output.last_hidden_state, type(output)


def read_logits(model: Any, states: Tensor, output_type: type, *, float32_product: bool = False) -> Tensor:
    """Logits [N, V] of hidden states [N, H] as `decode_states` gives them.

    In the model's dtype, as `model.generate` reads them, or with the head's product taken in float32; what
    the model does to its logits behind the head then happens in float32 as well.
    """

    def known_states(*_: Any, **__: Any) -> Any:
        return output_type(last_hidden_state=states[None])

    with ExitStack() as replaced:
        replaced.enter_context(_forward_replaced(model.base_model, known_states))
        if float32_product and states.dtype != torch.float32:
            head = model.get_output_embeddings()
            replaced.enter_context(_forward_replaced(head, lambda hidden: _float32_linear(head, hidden)))
        placeholder = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        logits: Tensor = model(input_ids=placeholder, use_cache=False, return_dict=True).logits
    return logits[0]


def _float32_linear(head: Any, hidden: Tensor) -> Tensor:
    """The head's product in float32, its weight converted a piece at a time."""
    if type(head) is not torch.nn.Linear:  # a quantized head knows only its own product
        output: Tensor = type(head).forward(head, hidden)
        return output.float()
    hidden = hidden.float()
    logits = hidden.new_empty(*hidden.shape[:-1], head.out_features)
    for first in range(0, head.out_features, FLOAT32_COLUMNS):
        piece = slice(first, first + FLOAT32_COLUMNS)
        bias = None if head.bias is None else head.bias[piece].float()
        logits[..., piece] = functional.linear(hidden, head.weight[piece].float(), bias)
    return logits


@contextmanager
def _forward_replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, the module's `forward` is this one; a replacement made before (offloading hooks) comes back."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.forward = before
