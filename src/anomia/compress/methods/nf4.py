"""Round the weights of the decoder blocks to 4-bit normal floats with bitsandbytes (Dettmers et al. 2023)."""

from __future__ import annotations

import torch

from anomia.compress.catalogue import NF4_BLOCK
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.quantize import RoundTrip, require, round_block, without_cuda
from anomia.compress.report import MatrixReport
from anomia.errors import RefusedError


def _round_nf4(work: BlockWork) -> list[MatrixReport]:
    """Round every matrix of a block, in place, with one scale per 64 weights. Raises `MissingExtraError`."""
    return round_block(work, _nf4())


def _nf4() -> RoundTrip:
    """Round a weight [out, in] to NF4 with bitsandbytes and back: [out, in]."""
    functional = require("bitsandbytes.functional", "bitsandbytes")

    def round_trip(weight: torch.Tensor) -> torch.Tensor:
        try:
            packed, scales = functional.quantize_4bit(weight, quant_type="nf4", blocksize=NF4_BLOCK)
            values: torch.Tensor = functional.dequantize_4bit(packed, scales)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise RefusedError(without_cuda("nf4", weight, error)) from None
        return values.to(weight.dtype)

    return round_trip


METHOD = Method(None, _round_nf4, prune_unreached)
