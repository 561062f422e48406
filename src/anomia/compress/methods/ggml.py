"""The block formats of GGUF files: weights rounded to what such a file gives back, bit for bit as llama.cpp does it.

Formulas and the order of every sum are those of `quantize_row_*_ref` in ggml's `ggml-quants.c`, without an importance
matrix: llama.cpp has none for embeddings. Blocks are columns here, so that a sum over a block adds row after row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from anomia.errors import CompressionError, RefusedError

SUPER = 256
_SMALLEST = 1e-15
# Values that are rounded at a time: what stays in a CPU's cache, and what fills a GPU.
_CHUNK = {"cpu": 1 << 18, "other": 1 << 24}


class Format(NamedTuple):
    """How a block is stored. values: in a block. bytes: of a block.

    round_trip: blocks [values, B] float32, to what they stand for once stored.
    """

    values: int
    bytes: int
    round_trip: Callable[[torch.Tensor], torch.Tensor]


def bits_per_weight(kind: str) -> float:
    """Bits for a weight in a format, scales and minima included: 6.5625 for `q6_k`.

    Raises `CompressionError` for a name that is no format.
    """
    found = format_of(kind)
    return 8 * found.bytes / found.values


def packed_bytes(rows: int, columns: int, kind: str) -> int:
    """Bytes of a matrix [rows, columns] in the format that it gets: `kind`, or what replaces it at this width."""
    found = format_of(fitting(kind, columns))
    return rows * columns // found.values * found.bytes


def fitting(kind: str, columns: int) -> str:
    """The format that llama.cpp stores rows of `columns` values in where `kind` is asked for.

    A k-quant needs a multiple of 256; where that doesn't hold, the next larger format with blocks of 32 replaces it,
    and f16 where 32 doesn't divide the row either (`tensor_type_fallback` in `llama-quant.cpp`).

    >>> fitting("q6_k", 2048), fitting("q6_k", 640), fitting("q4_k", 100)
    ('q6_k', 'q8_0', 'f16')
    """
    if columns % format_of(kind).values:
        kind = _FALLBACKS.get(kind, "f16")
    return kind if columns % format_of(kind).values == 0 else "f16"


def format_of(kind: str) -> Format:
    """A format by its name. Raises `CompressionError` for a name that is none."""
    if kind not in FORMATS:
        raise CompressionError(f"{kind!r} is not a format of GGUF files; known: {', '.join(FORMATS)}")
    return FORMATS[kind]


@torch.no_grad()
def round_trip(weight: torch.Tensor, kind: str, *, where: str = "the matrix") -> torch.Tensor:
    """What a matrix [rows, columns] becomes by being stored as `kind` and read again, in float32.

    Raises `CompressionError` where blocks don't divide the rows, and for values that are NaN or infinite, or too large
    for the half-precision scale of a block.
    """
    found = format_of(kind)
    rows, columns = weight.shape
    if columns % found.values:
        raise CompressionError(
            f"{where} has rows of {columns} values, which blocks of {found.values} ({kind}) can't divide; "
            f"llama.cpp stores such rows as {fitting(kind, columns)}"
        )
    size = max(1, _CHUNK.get(weight.device.type, _CHUNK["other"]) // columns)
    # Apple's GPUs have no doubles.
    device = torch.device("cpu") if weight.device.type == "mps" else weight.device
    result = torch.empty(rows, columns, dtype=torch.float32, device=weight.device)
    for start in range(0, rows, size):
        part = weight[start : start + size].to(device, torch.float32)
        if not bool(torch.isfinite(part).all()):
            raise RefusedError(
                f"{where} has values that are NaN or infinite, so it can't be rounded; the model is damaged, or needs "
                "a wider type (--dtype bfloat16 or float32)"
            )
        blocks = part.reshape(-1, found.values).T.contiguous()
        rounded = found.round_trip(blocks).T.reshape(part.shape)
        if not bool(torch.isfinite(rounded).all()):
            raise CompressionError(
                f"{where} has values up to {float(part.abs().max()):.3g}, too large for the half-precision scales of {kind}"
            )
        result[start : start + size] = rounded
    return result


def _half(values: torch.Tensor) -> torch.Tensor:
    """As a scale is stored."""
    return values.half().float()


def _over(number: float, values: torch.Tensor) -> torch.Tensor:
    """number / values. A Python number over a tensor is its product with the reciprocal, which rounds twice."""
    return torch.full_like(values, number) / values


def _by(values: torch.Tensor, number: float) -> torch.Tensor:
    """values / number, which a GPU would make the product with the number's reciprocal."""
    return values / torch.full_like(values, number)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, _over(1.0, scale))


def _largest(x: torch.Tensor) -> torch.Tensor:
    """The value of the largest magnitude of each column, with its sign: the first of equals. [n, B] to [B]."""
    size = x.abs()
    # Which of equals `max` takes is up to the device.
    rows = torch.arange(len(x), device=x.device)[:, None].expand_as(x)
    first = rows.masked_fill(size < size.amax(dim=0), len(x)).amin(dim=0, keepdim=True)
    return x.gather(0, first)[0]


def _f16(x: torch.Tensor) -> torch.Tensor:
    return _half(x)


def _q8_0(x: torch.Tensor) -> torch.Tensor:
    scale = _by(x.abs().amax(dim=0), 127)
    values = x * _inverse(scale)
    whole = values.trunc()
    # Halves go away from zero; `torch.round` takes them to the even number.
    whole += ((values - whole).abs() >= 0.5) * values.sign()
    return whole * _half(scale)


def _symmetric(x: torch.Tensor, half: int) -> torch.Tensor:
    """q4_0 (half 8) and q5_0 (half 16): the value of largest magnitude becomes exactly -half."""
    scale = _largest(x) / -half
    codes = (x * _inverse(scale) + (half + 0.5)).trunc().clamp_(max=2 * half - 1)
    return (codes - half) * _half(scale)


def _affine(x: torch.Tensor, most: int) -> torch.Tensor:
    """q4_1 (most 15) and q5_1 (most 31): a scale and the smallest value."""
    low = x.amin(dim=0)
    scale = _by(x.amax(dim=0) - low, most)
    codes = ((x - low) * _inverse(scale) + 0.5).trunc().clamp_(max=most)
    return codes * _half(scale) + _half(low)


def _added(x: torch.Tensor) -> torch.Tensor:
    """Sums of the columns, [n, B] to [B], one row after another: `sum` adds in another order."""
    total = x[0].clone()
    for row in x[1:]:
        total += row
    return total


def _split(x: torch.Tensor, size: int) -> torch.Tensor:
    """Super-blocks [256, B] as blocks [size, 256 / size · B]; those of one super-block stand B apart."""
    return x.reshape(SUPER // size, size, -1).transpose(0, 1).reshape(size, -1)


def _joined(x: torch.Tensor, superblocks: int) -> torch.Tensor:
    """Undoes `_split`."""
    return x.reshape(len(x), -1, superblocks).transpose(0, 1).reshape(SUPER, superblocks)


def _scale_q6(x: torch.Tensor) -> torch.Tensor:
    """The scale of each block [16, B] that fits best, larger values counting more (`make_qx_quants`, rmse_type 1)."""
    most = 32
    largest = _largest(x)
    weight = x * x
    weighted = weight * x
    codes, product = torch.empty_like(x), torch.empty_like(x)

    def sums(factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        torch.mul(x, _over(-factor, largest), out=codes).round_().clamp_(-most, most - 1)
        first = _added(torch.mul(weighted, codes, out=product))
        return first, _added(torch.mul(weight, codes, out=product).mul_(codes))

    tenth = torch.tensor(0.1, dtype=torch.float32)
    up, down = sums(float(most))
    scale = torch.where(down != 0, up / down, 0.0)
    best = scale * up
    for step in (*range(-9, 0), *range(1, 10)):
        up, down = sums(float(most + tenth * step))
        better = (down > 0) & (up * up > best * down)
        scale = torch.where(better, up / down, scale)
        best = torch.where(better, scale * up, best)
    return torch.where(largest.abs() < _SMALLEST, 0.0, scale)


def _q6_k(x: torch.Tensor) -> torch.Tensor:
    superblocks = x.shape[1]
    blocks = _split(x, 16)
    scales = _scale_q6(blocks).reshape(-1, superblocks)
    largest = _largest(scales)
    empty = largest.abs() < _SMALLEST
    inverse = _over(-128.0, largest)
    of_scales = (inverse * scales).round().clamp_(max=127)
    scale = torch.where(empty, 0.0, _half(_over(1.0, inverse)) * of_scales).reshape(-1)
    codes = torch.where(scale == 0, 0.0, (blocks / scale).round()).clamp_(-32, 31)
    return _joined(scale * codes, superblocks)


def _scale_q3(x: torch.Tensor) -> torch.Tensor:
    """The same for 3 bits, where codes change one by one for as long as that helps (`make_q3_quants`). [n, B] to [B]."""
    most = 4
    largest = _largest(x)
    codes = (x * _over(-most, largest)).round().clamp_(-most, most - 1)
    weight = x * x
    weighted = weight * x
    up, down = _added(weighted * codes), _added(weight * codes * codes)
    for _ in range(5):
        changed = False
        for value, w, wx, code in zip(x, weight, weighted, codes, strict=True):
            rest = up - wx * code
            squares = down - w * code * code
            new = (value * squares / rest).round().clamp_(-most, most - 1)
            new_up, new_down = rest + wx * new, squares + w * new * new
            better = (rest > 0) & (new != code) & (new_down > 0)
            better &= new_up * new_up * down > up * up * new_down
            if bool(better.any()):
                changed = True
                code.copy_(torch.where(better, new, code))
                up, down = torch.where(better, new_up, up), torch.where(better, new_down, down)
        if not changed:
            break
    scale = torch.where(down > 0, up / down, 0.0)
    return torch.where(largest.abs() < _SMALLEST, 0.0, scale)


def _q3_k(x: torch.Tensor) -> torch.Tensor:
    superblocks = x.shape[1]
    blocks = _split(x, 16)
    scales = _scale_q3(blocks).reshape(-1, superblocks)
    largest = _largest(scales)
    inverse = _over(-32.0, largest)
    of_scales = (inverse * scales).round().clamp_(-32, 31)
    scale = torch.where(largest == 0, 0.0, _half(_over(1.0, inverse)) * of_scales).reshape(-1)
    codes = torch.where(scale == 0, 0.0, (blocks / scale).round()).clamp_(-4, 3)
    return _joined(scale * codes, superblocks)


def _scale_and_minimum(
    x: torch.Tensor, weight: torch.Tensor, most: int, first: float, steps: int, *, absolute: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale and minimum of each block [n, B] with the smallest weighted error found (`make_qkx2_quants`).

    first: added to `most` in the first trial, and a tenth more in each of the `steps` after it. absolute: whether the
    error is that, or squared. Returns [B] each, the minimum negated.
    """
    high, low = x.amax(dim=0), x.amin(dim=0).clamp_(max=0)
    flat = high == low
    flat_low = low.clone()
    weighted = weight * x
    sum_w, sum_x = _added(weight), _added(weighted)
    codes, product = torch.empty_like(x), torch.empty_like(x)

    def encode(inverse: torch.Tensor) -> None:
        torch.sub(x, low, out=codes).mul_(inverse).round_().clamp_(0, most)

    def error(scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
        torch.mul(codes, scale, out=product).add_(minimum).sub_(x)
        if absolute:
            product.abs_()
        else:
            product.mul_(product)
        return _added(product.mul_(weight))

    inverse = _over(most, high - low)
    scale = _over(1.0, inverse)
    encode(inverse)
    best = error(scale, low)
    float32 = torch.tensor([first, 0.1, most], dtype=torch.float32)
    for step in range(steps + 1):
        encode(_over(float(float32[0] + float32[1] * step + float32[2]), high - low))
        sum_l = _added(torch.mul(weight, codes, out=product))
        sum_l2 = _added(torch.mul(weight, codes, out=product).mul_(codes))
        sum_xl = _added(torch.mul(weight, codes, out=product).mul_(x))
        determinant = sum_w * sum_l2 - sum_l * sum_l
        here = (sum_w * sum_xl - sum_x * sum_l) / determinant
        lowest = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        here = torch.where(lowest > 0, sum_xl / sum_l2, here)
        lowest = lowest.clamp(max=0)
        now = error(here, lowest)
        better = (determinant > 0) & (now < best)
        best, scale = torch.where(better, now, best), torch.where(better, here, scale)
        low = torch.where(better, lowest, low)
    return torch.where(flat, 0.0, scale), -torch.where(flat, flat_low, low)


def _with_minima(
    x: torch.Tensor, size: int, weight: Callable[[torch.Tensor], torch.Tensor], most: int, most_scale: int,
    first: float, steps: int, *, absolute: bool = False,
) -> torch.Tensor:  # fmt: skip
    """q2_k, q4_k and q5_k: scales and minima of the blocks of a super-block as integers of one scale each."""
    superblocks = x.shape[1]
    blocks = _split(x, size)
    scales, minima = (
        part.reshape(-1, superblocks)
        for part in _scale_and_minimum(blocks, weight(blocks), most, first, steps, absolute=absolute)
    )
    scale, minimum = (_in_steps(part, most_scale).reshape(-1) for part in (scales, minima))
    codes = torch.where(scale == 0, 0.0, ((blocks + minimum) / scale).round()).clamp_(0, most)
    return _joined(scale * codes - minimum, superblocks)


def _in_steps(values: torch.Tensor, most: int) -> torch.Tensor:
    """Each value [n, B] as a whole number of steps, of which the largest of its column has `most`."""
    largest = values.amax(dim=0).clamp_(min=0)
    inverse = torch.where(largest > 0, _over(most, largest), 0.0)
    return _half(_by(largest, most)) * (inverse * values).round().remainder(256).clamp_(max=most)


def _with_mean(x: torch.Tensor) -> torch.Tensor:
    """How much each value of a block [32, B] counts: its magnitude, and the block's."""
    # Float32 roots may be off by one bit; those of doubles, rounded, never are.
    return (_added(x * x) / 32).double().sqrt().float() + x.abs()


FORMATS: Mapping[str, Format] = {
    "q8_0": Format(32, 34, _q8_0),
    "q5_1": Format(32, 24, lambda x: _affine(x, 31)),
    "q5_0": Format(32, 22, lambda x: _symmetric(x, 16)),
    "q4_1": Format(32, 20, lambda x: _affine(x, 15)),
    "q4_0": Format(32, 18, lambda x: _symmetric(x, 8)),
    "q6_k": Format(SUPER, 210, _q6_k),
    "q5_k": Format(SUPER, 176, lambda x: _with_minima(x, 32, _with_mean, 31, 63, -0.5, 15)),
    "q4_k": Format(SUPER, 144, lambda x: _with_minima(x, 32, _with_mean, 15, 63, -1.0, 20)),
    "q3_k": Format(SUPER, 110, _q3_k),
    "q2_k": Format(SUPER, 84, lambda x: _with_minima(x, 16, torch.abs, 3, 15, -0.5, 15, absolute=True)),
    "f16": Format(1, 2, _f16),
}
_FALLBACKS = {"q6_k": "q8_0", "q5_k": "q5_1", "q4_k": "q5_0", "q3_k": "q4_0", "q2_k": "q4_0"}
