"""How the experts of a model are used over the calibration text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.reshape import rebuild
from anomia.compress.reshape.base import Walk
from anomia.compress.reshape.mixtures import Mixtures
from anomia.compress.reshape.subject import Subject
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.visit import AtBlock
from anomia.compress.walk import make_model_batches
from anomia.errors import RefusedError

# Calibration tokens per block on which every expert is run, to compare their outputs.
_COMPARED_TOKENS = 2048


class Usage(NamedTuple):
    """Statistics of each expert of one block over the calibration tokens, [E] float64.

    tokens: number of tokens routed to it. saliency: mean of router weight · ‖output‖ over them, 0 if there are none.
    outputs: mean output over the same tokens for all experts, [E, H]; None unless requested.
    """

    tokens: torch.Tensor
    saliency: torch.Tensor
    outputs: torch.Tensor | None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the statistics that aren't None, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def measure_usage(
    subject: Subject, mixtures: Mixtures, walk: Walk, method: str, *, outputs: bool = False
) -> list[Usage | None]:
    """Measure how every expert is used, [E] each, by block, in one walk over the dense model.

    outputs: also run all experts on the same tokens, for their mean outputs, [E, H].

    Raises `CompressionError` if the experts aren't called with states, choices and weights, or if a value is NaN or
    infinite.
    """
    stride = 0

    def look(at: AtBlock) -> dict[str, torch.Tensor]:
        path = mixtures.modules[at.index]
        where = f"{at.where}.{path}"
        counter = _Counter(mixtures.experts, where, method, stride)
        with _counting(None if path is None else at.block.get_submodule(path), counter):
            for one in at.passes():
                one.run()
        return {} if path is None else counter.finish().tensors()

    if outputs:
        batches = make_model_batches(
            subject.decoder, walk.windows, StatisticNeeds(), batch_tokens=walk.batch_tokens
        )
        stride = max(1, sum(batch.input_ids.numel() for batch in batches) // _COMPARED_TOKENS)
    found = subject.measure(walk, look, about=method)
    return [Usage(one["tokens"], one["saliency"], one.get("outputs")) if one else None for one in found]


class _Counter:
    """Sums over the tokens of one block's experts. stride: each stride-th token is sent to all experts; 0: none is."""

    def __init__(self, count: int, where: str, method: str, stride: int) -> None:
        self._where, self._method, self._stride = where, method, stride
        self._tokens = torch.zeros(count, dtype=torch.float64)
        self._weighted = torch.zeros(count, dtype=torch.float64)
        self._outputs: torch.Tensor | None = None
        self._compared = 0

    def add(self, run: Callable[..., torch.Tensor], args: tuple[Any, ...]) -> None:
        """Count one call of the experts. args: states [..., H]; choices and their weights, [T, k] each.

        run: the experts' forward, which takes the same arguments; called here with one expert at a time.
        """
        hidden, chosen, weights = args
        hidden = hidden.reshape(-1, hidden.shape[-1])
        ones = torch.ones_like(weights[:, :1])
        for expert in range(len(self._tokens)):
            rows, places = torch.where(chosen == expert)
            if len(rows) == 0:
                continue
            out = run(hidden[rows], torch.full_like(chosen[rows, :1], expert), ones[rows])
            norms = out.double().reshape(len(rows), -1).norm(dim=1)
            self._tokens[expert] += len(rows)
            self._weighted[expert] += (weights[rows, places].double() * norms).sum().cpu()
        if self._stride:
            some = hidden[:: self._stride]
            picked = chosen[:: self._stride, :1]
            means = [
                run(some, torch.full_like(picked, e), ones[:: self._stride])
                .double()
                .reshape(len(some), -1)
                .sum(dim=0)
                for e in range(len(self._tokens))
            ]
            total = torch.stack(means).cpu()
            self._outputs = total if self._outputs is None else self._outputs + total
            self._compared += len(some)

    def finish(self) -> Usage:
        if not bool(self._tokens.any()):
            raise RefusedError(
                f"{self._method}: no calibration token reached {self._where}; give longer text"
            )
        saliency = self._weighted / self._tokens.clamp(min=1)
        outputs = None if self._outputs is None else self._outputs / self._compared
        for values in (saliency, *([] if outputs is None else [outputs])):
            rebuild.finite(values, self._method, self._where)
        return Usage(self._tokens, saliency, outputs)


@contextmanager
def _counting(module: nn.Module | None, counter: _Counter) -> Iterator[None]:
    """Report each call of the experts to the counter, which runs the experts again with its own choices."""
    if module is None:
        yield
        return
    busy = False

    def read(experts: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal busy
        if busy:
            return
        given = (*args, *kwargs.values())
        counter_args = routing_of(given)
        if counter_args is None:
            raise RefusedError(
                f"{counter._method}: {counter._where} ({type(experts).__name__}) isn't called with states, choices and "
                "weights, so it can't be seen which expert gets which token"
            )
        busy = True
        try:
            counter.add(experts, counter_args)
        finally:
            busy = False

    handle = module.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def routing_of(given: Sequence[Any]) -> tuple[Any, Any, Any] | None:
    """Return states [T, H], choices [T, k] and weights [T, k], the arguments of fused experts in `transformers`."""
    if len(given) != 3 or not all(map(torch.is_tensor, given)):
        return None
    hidden, chosen, weights = given
    tokens = hidden.numel() // hidden.shape[-1]
    fits = chosen.dim() == 2 and chosen.shape == weights.shape and len(chosen) == tokens
    return (hidden, chosen, weights) if fits and not chosen.is_floating_point() else None
