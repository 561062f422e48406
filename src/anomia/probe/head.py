"""From hidden states to logits, only for the positions that are read.

A model may do more than the head's product between decoder and logits (soft-capping, scaling), so its own code
runs: `forward`, with the decoder replaced by the known hidden states. This works for every `...ForCausalLM` whose
`forward` calls its base model once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOGIT_ROWS = 512
"""Positions per pass through the output head; bounds the memory of logits."""
FLOAT32_ROWS = 64
"""The same where the product is taken in float32."""
FLOAT32_COLUMNS = 16384
"""Vocabulary entries whose weights are converted to float32 at a time."""


class Head:
    """The output head of a model, with everything that `forward` does between decoder and logits.

    On CPUs logits go into a reused buffer: they are so large that getting new pages from the system costs a quarter
    of the product itself.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._output_type: Any = None
        self._buffer: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """The device that token ids go to."""
        device: torch.device = self._model.get_input_embeddings().weight.device
        return device

    def decode(self, **inputs: Any) -> Tensor:
        """Runs only the decoder; returns the hidden states [N, H] of one packed sequence, before the output head."""
        output = self._model.base_model(use_cache=True, return_dict=True, **inputs)
        self._output_type = type(output)
        states: Tensor = output.last_hidden_state
        return states[0]

    def logits(self, states: Tensor, *, float32_product: bool = False) -> Tensor:
        """Returns the logits [N, V] of hidden states [N, H] from `decode`. The next call overwrites them.

        They are in the model's dtype, as `model.generate` reads them, unless the head's product is taken in float32;
        then anything that the model does to its logits after the head is in float32 as well.
        """

        def known_states(*_: Any, **__: Any) -> Any:
            return self._output_type(last_hidden_state=states[None])

        linear = self._model.get_output_embeddings()
        plain = type(linear) is torch.nn.Linear  # a quantized head knows only its own product
        with ExitStack() as replaced:
            for decoder in self._decoders():
                replaced.enter_context(_forward_replaced(decoder, known_states))
            if float32_product and states.dtype != torch.float32:
                product = _float32_linear if plain else _float32_output
                replaced.enter_context(_forward_replaced(linear, lambda hidden: product(linear, hidden)))
            elif plain and states.device.type == "cpu":
                replaced.enter_context(_forward_replaced(linear, lambda hidden: self._linear(linear, hidden)))
            placeholder = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
            logits: Tensor = self._model(input_ids=placeholder, use_cache=False, return_dict=True).logits
        return logits[0]

    def _decoders(self) -> list[Any]:
        """The modules that `forward` may call for hidden states: the base model or, as in OPT, the decoder in it."""
        get_decoder = getattr(self._model, "get_decoder", None)
        inner = get_decoder() if callable(get_decoder) else None
        base = self._model.base_model
        return [base] if inner is None or inner is base or inner is self._model else [base, inner]

    def _linear(self, linear: torch.nn.Linear, hidden: Tensor) -> Tensor:
        """The head's product, from [1, N, H] to [1, N, V], written to the reused buffer."""
        rows = hidden.shape[1]
        if self._buffer is None or len(self._buffer) < rows:
            self._buffer = hidden.new_empty(rows, linear.out_features)
        product = torch.mm(hidden[0], linear.weight.t(), out=self._buffer[:rows])
        if linear.bias is not None:
            product += linear.bias
        return product[None]


def _float32_linear(linear: torch.nn.Linear, hidden: Tensor) -> Tensor:
    """The head's product in float32, from [..., H] to [..., V], converting the weight piece by piece."""
    hidden = hidden.float()
    logits = hidden.new_empty(*hidden.shape[:-1], linear.out_features)
    for first in range(0, linear.out_features, FLOAT32_COLUMNS):
        piece = slice(first, first + FLOAT32_COLUMNS)
        bias = None if linear.bias is None else linear.bias[piece].float()
        logits[..., piece] = functional.linear(hidden, linear.weight[piece].float(), bias)
    return logits


def _float32_output(head: torch.nn.Module, hidden: Tensor) -> Tensor:
    output: Tensor = type(head).forward(head, hidden)
    return output.float()


@contextmanager
def _forward_replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replaces the module's `forward` inside the block; restores an earlier replacement (offloading hooks)."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.forward = before
