"""Which dtype a CPU should run a model in: float32 where it fits and costs little, else what is stored.

In half precision rounding alone flips answers, and what flips looks like damage by compression.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Sequence
from operator import mul
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]  # it brings no types
import torch

from anomia.probe.twin import shallow_twin

# Float32 may cost so many times what the stored dtype costs.
MOST_TIMES = 2.0
# Of the memory that is free, so much may be taken by the weights.
_WEIGHTS_SHARE = 0.4
# What asking a batch of 16 items takes, about, as shapes of tokens and how many such passes: the prompts, and steps of
# one token for all paths. In each the head reads so many places.
_PASSES = (((1, 256), 24), ((32, 1), 32))
_HEAD_PLACES = 32
_REPEATS = 2
_HALF = (torch.float16, torch.bfloat16)


class Precision(NamedTuple):
    """The dtype to run in, and why in one sentence; `times`: what float32 would cost, None where that wasn't tried."""

    dtype: torch.dtype
    why: str
    times: float | None = None


def precision_for(model: Any) -> Precision | None:
    """What a model on a CPU should run in; None where there is nothing to decide.

    There isn't for models on other devices, in float32 already, or with weights that are packed.
    """
    if not _is_half_on_cpu(model):
        return None
    stored = model.dtype
    name = str(stored).removeprefix("torch.")
    if not fits_float32(model):
        return Precision(
            stored, f"{name}: float32 would need {_float32_bytes(model) / 1e9:.1f} GB, too much here"
        )
    times = cost_of_float32(model)
    if times is None:
        return Precision(stored, f"{name}: what float32 would cost can't be tried on this architecture")
    if times < MOST_TIMES:
        return Precision(torch.float32, f"float32, which costs about {times:.1f} times {name} here", times)
    return Precision(stored, f"{name}: float32 would take about {times:.1f} times as long here", times)


def fits_float32(model: Any) -> bool:
    """Whether a model is in half precision on a CPU, and its weights in float32 take a small part of free memory."""
    return (
        _is_half_on_cpu(model) and _float32_bytes(model) <= _WEIGHTS_SHARE * psutil.virtual_memory().available
    )


def _is_half_on_cpu(model: Any) -> bool:
    packed = getattr(model.config, "quantization_config", None) is not None
    return not packed and model.device.type == "cpu" and model.dtype in _HALF


def _float32_bytes(model: Any) -> int:
    return 4 * sum(int(parameter.numel()) for parameter in model.parameters())


def cost_of_float32(model: Any) -> float | None:
    """How many times as long float32 takes, by passes of the model's first blocks and its head in both dtypes.

    On one thread, and the best of a few repeats that take turns, so that other work on the machine decides little:
    threads that wait for each other on cores that are taken would measure the scheduler. The blocks count for all of
    the model's. None where there is no such copy of the model.
    """
    exact = shallow_twin(model)
    if exact is None or exact.get_output_embeddings() is None:
        return None
    twins = {torch.float32: exact, model.dtype: copy.deepcopy(exact).to(model.dtype)}
    depths = [each.config.get_text_config().num_hidden_layers for each in (model, exact)]
    vocabulary = model.config.get_text_config().vocab_size
    asked = [(torch.randint(vocabulary, shape), number) for shape, number in _PASSES]
    best = {dtype: [float("inf")] * (len(asked) + 1) for dtype in twins}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _, (dtype, twin) in itertools.product(range(_REPEATS), twins.items()):
                took = _seconds(twin, [tokens for tokens, _ in asked])
                best[dtype] = list(map(min, best[dtype], took))
    finally:
        torch.set_num_threads(threads)
    passes = [number for _, number in asked]
    seconds = {
        dtype: sum(map(mul, passes, blocks)) * depths[0] / depths[1] + sum(passes) * head
        for dtype, (*blocks, head) in best.items()
    }
    return float(seconds[torch.float32] / seconds[model.dtype])


def _seconds(model: Any, asked: Sequence[torch.Tensor]) -> list[float]:
    """What the blocks take for each of some token ids, and last the head, its logits normalized in float32."""
    took = []
    for tokens in asked:
        began = time.perf_counter()
        states = model.base_model(tokens, use_cache=False).last_hidden_state.flatten(0, 1)  # [N, D]
        took.append(time.perf_counter() - began)
    # A single place, cut out of the states, goes a slow way through some bfloat16 kernels that no run takes.
    states = states[-_HEAD_PLACES:].contiguous()
    began = time.perf_counter()
    model.get_output_embeddings()(states).float().log_softmax(-1)
    return [*took, time.perf_counter() - began]
