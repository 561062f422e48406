"""The dtype to run a model in on a CPU: float32 if it fits and costs little, else the stored dtype.

In half precision, rounding alone flips answers, and such flips look like damage from compression.
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

from anomia.compress.blocks import find_blocks
from anomia.probe.twin import shallow_twin

# Float32 is used only if it costs less than this many times the stored dtype.
MOST_TIMES = 2.0
# The share of free memory that float32 weights may take.
FLOAT32_SHARE = 0.4
# The passes for a batch of about 16 items, as (shape of the token ids, number of passes): the prompts, then steps of
# one token for all paths.
_PASSES = (((1, 256), 24), ((32, 1), 32))
# Positions that the head reads in each pass.
_HEAD_PLACES = 32
_REPEATS = 2
HALF = (torch.float16, torch.bfloat16)


class Precision(NamedTuple):
    """The dtype to run in, and the reason in one sentence.

    times: the cost of float32 as a multiple of the stored dtype's; None if it wasn't measured.
    """

    dtype: torch.dtype
    why: str
    times: float | None = None


def precision_for(model: Any) -> Precision | None:
    """The precision to run a model in on a CPU, or None if there is no choice.

    There is none on other devices, for models already in float32, and for packed (quantized) weights.
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
    """Whether a model is in half precision on a CPU and its float32 weights would take a small share of free memory."""
    return (
        _is_half_on_cpu(model) and _float32_bytes(model) <= FLOAT32_SHARE * psutil.virtual_memory().available
    )


def _is_half_on_cpu(model: Any) -> bool:
    packed = getattr(model.config, "quantization_config", None) is not None
    return not packed and model.device.type == "cpu" and model.dtype in HALF


def _float32_bytes(model: Any) -> int:
    return 4 * sum(int(parameter.numel()) for parameter in model.parameters())


def cost_of_float32(model: Any) -> float | None:
    """Times the model's first blocks and its head in both dtypes; returns float32 time / stored dtype time.

    Timed are a pass over a text, [1, T], and one over a batch of single tokens, [B, 1].
    The first blocks are extrapolated to all blocks. To limit the influence of other load on the machine, it runs on
    one thread (threads waiting for busy cores would measure the scheduler) and takes the best of alternating repeats.
    Returns None if the shallow copy of the model can't be made.
    """
    exact = shallow_twin(model)
    if exact is None or exact.get_output_embeddings() is None:
        return None
    twins = {torch.float32: exact, model.dtype: copy.deepcopy(exact).to(model.dtype)}
    depths = [len(find_blocks(each).modules) for each in (model, exact)]
    vocabulary = model.get_input_embeddings().weight.shape[0]
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
    """Seconds that the blocks take for each tensor of token ids [B, T], then for the head with a float32 softmax."""
    took = []
    for tokens in asked:
        began = time.perf_counter()
        states = model.base_model(tokens, use_cache=False).last_hidden_state.flatten(0, 1)  # [N, D]
        took.append(time.perf_counter() - began)
    # A single position, sliced from the states, would take a slow path in some bfloat16 kernels that no run takes.
    states = states[-_HEAD_PLACES:].contiguous()
    began = time.perf_counter()
    model.get_output_embeddings()(states).float().log_softmax(-1)
    return [*took, time.perf_counter() - began]
