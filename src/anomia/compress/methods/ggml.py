"""The block formats of GGUF files: round weights as storing and reading them would, bit for bit like llama.cpp.

Formulas and the order of every sum are those of `quantize_row_*_ref` in ggml's `ggml-quants.c`, without an importance
matrix, which llama.cpp doesn't use for embeddings. Blocks are columns here, so a sum over a block adds row after row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from anomia.errors import RefusedError

SUPER = 256
_SMALLEST = 1e-15
# Values rounded at a time: few enough for a CPU's cache, or enough to fill a GPU.
_CHUNK = {"cpu": 1 << 18, "other": 1 << 24}


class Format(NamedTuple):
    """A block format. values, bytes: per block.

    round_trip: maps blocks [values, B] float32 to their values after storing.
    """

    values: int
    bytes: int
    round_trip: Callable[[torch.Tensor], torch.Tensor]


def packed_bytes(rows: int, columns: int, kind: str) -> int:
    """Return the bytes of a matrix [rows, columns] in the format `kind`, or in its replacement at this width."""
    found = format_of(fitting(kind, columns))
    return rows * columns // found.values * found.bytes


def fitting(kind: str, columns: int) -> str:
    """Return the format that llama.cpp uses for rows of `columns` values if `kind` is requested.

    A k-quant needs a multiple of 256 values; otherwise the next larger format with blocks of 32 replaces it, or f16 if
    32 doesn't divide the row either (`tensor_type_fallback` in `llama-quant.cpp`).

    >>> fitting("q6_k", 2048), fitting("q6_k", 640), fitting("q4_k", 100)
    ('q6_k', 'q8_0', 'f16')
    """
    if columns % format_of(kind).values:
        kind = _FALLBACKS.get(kind, "f16")
    return kind if columns % format_of(kind).values == 0 else "f16"


def format_of(kind: str) -> Format:
    """Return a format by its name. Raises `CompressionError` for an unknown name."""
    if kind not in FORMATS:
        raise RefusedError(f"{kind!r} is not a format of GGUF files; known: {', '.join(FORMATS)}")
    return FORMATS[kind]


@torch.no_grad()
def round_trip(weight: torch.Tensor, kind: str, *, where: str = "the matrix") -> torch.Tensor:
    """Return a matrix, [rows, columns], as it is after being stored as `kind` and read again.

    weight: [rows, columns]. The result is float32.
    Raises `CompressionError` if blocks don't divide the rows, or if a value is NaN, infinite, or too large for the
    half-precision scale of a block.
    """
    found = format_of(kind)
    rows, columns = weight.shape
    if columns % found.values:
        raise RefusedError(
            f"{where} has rows of {columns} values, which blocks of {found.values} ({kind}) can't divide; "
            f"llama.cpp stores such rows as {fitting(kind, columns)}"
        )
    size = max(1, _CHUNK.get(weight.device.type, _CHUNK["other"]) // columns)
    # Apple's GPUs have no float64.
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
            raise RefusedError(
                f"{where} has values up to {float(part.abs().max()):.3g}, too large for the half-precision "
                f"scales of {kind}"
            )
        result[start : start + size] = rounded
    return result


def _half(values: torch.Tensor) -> torch.Tensor:
    """Round scales to half precision, as they are stored."""
    return values.half().float()


def _over(number: float, values: torch.Tensor) -> torch.Tensor:
    """Return number / values. PyTorch computes a Python number / tensor as number · reciprocal, which rounds twice."""
    return torch.full_like(values, number) / values


def _by(values: torch.Tensor, number: float) -> torch.Tensor:
    """Return values / number. For a Python number, a GPU would multiply by its reciprocal."""
    return values / torch.full_like(values, number)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, _over(1.0, scale))


def _largest(x: torch.Tensor) -> torch.Tensor:
    """Return the value with the largest magnitude in each column, the first one on ties. [n, B] to [B]."""
    size = x.abs()
    # On ties, the choice of `max` depends on the device.
    rows = torch.arange(len(x), device=x.device)[:, None].expand_as(x)
    first = rows.masked_fill(size < size.amax(dim=0), len(x)).amin(dim=0, keepdim=True)
    return x.gather(0, first)[0]


def _f16(x: torch.Tensor) -> torch.Tensor:
    return _half(x)


def _q8_0(x: torch.Tensor) -> torch.Tensor:
    scale = _by(x.abs().amax(dim=0), 127)
    values = x * _inverse(scale)
    whole = values.trunc()
    # Round halves away from zero; `torch.round` rounds them to even.
    whole += ((values - whole).abs() >= 0.5) * values.sign()
    return whole * _half(scale)


def _symmetric(x: torch.Tensor, half: int) -> torch.Tensor:
    """Round q4_0 (half 8) and q5_0 (half 16) blocks [n, B]: the value of largest magnitude gets the code -half."""
    scale = _largest(x) / -half
    codes = (x * _inverse(scale) + (half + 0.5)).trunc().clamp_(max=2 * half - 1)
    return (codes - half) * _half(scale)


def _affine(x: torch.Tensor, most: int) -> torch.Tensor:
    """Round q4_1 (most 15) and q5_1 (most 31) blocks [n, B], with a scale and the smallest value."""
    low = x.amin(dim=0)
    scale = _by(x.amax(dim=0) - low, most)
    codes = ((x - low) * _inverse(scale) + 0.5).trunc().clamp_(max=most)
    return codes * _half(scale) + _half(low)


def _added(x: torch.Tensor) -> torch.Tensor:
    """Sum the columns, [n, B] to [B], row after row; `torch.sum` adds in another order."""
    total = x[0].clone()
    for row in x[1:]:
        total += row
    return total


def _split(x: torch.Tensor, size: int) -> torch.Tensor:
    """Split super-blocks [256, B] into blocks [size, 256 / size · B]; those of one super-block are B columns apart."""
    return x.reshape(SUPER // size, size, -1).transpose(0, 1).reshape(size, -1)


def _joined(x: torch.Tensor, superblocks: int) -> torch.Tensor:
    """Undo `_split`: [size, 256 / size · B] to [256, B]."""
    return x.reshape(len(x), -1, superblocks).transpose(0, 1).reshape(SUPER, superblocks)


def _scale_q6(x: torch.Tensor) -> torch.Tensor:
    """Find the best scale of each block, [B]; errors are weighted by x² (`make_qx_quants`, rmse_type 1). x: [16, B]."""
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
    """Find the scale for 3 bits, [B], improving codes one by one while that helps (`make_q3_quants`). x: [n, B]."""
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
    """Search the scale and minimum of each block with the smallest weighted error (`make_qkx2_quants`).

    x, weight: [n, B]. most: the largest code. first: added to `most` in the first trial; each of the `steps` later
    trials adds another 0.1. absolute: minimize the absolute error, not the squared one.
    Returns scales and negated minima, [B] each.
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
    """Round q2_k, q4_k and q5_k super-blocks [256, B]; block scales and minima are integers times one scale each."""
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
    """Round values [n, B] to a whole number of steps; the largest value of a column is `most` steps."""
    largest = values.amax(dim=0).clamp_(min=0)
    inverse = torch.where(largest > 0, _over(most, largest), 0.0)
    return _half(_by(largest, most)) * (inverse * values).round().remainder(256).clamp_(max=most)


def _with_mean(x: torch.Tensor) -> torch.Tensor:
    """Return the error weights of blocks [32, B]: the root mean square of the block plus |x|."""
    # Float32 roots may be off by one bit; rounded float64 roots never are.
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
