"""LLM.int8() (Dettmers et al. 2022) through bitsandbytes: it rounds activations too, so layers are replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.matrices import all_matrices, find_matrices, layer_of
from anomia.compress.methods.quantize import require, without_cuda
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.shared import shares_matrices
from anomia.errors import RefusedError

OUTLIER_THRESHOLD = 6.0
_LAYER = "Linear8bitLt"


@torch.no_grad()
def replace_linears(
    decoder: DecoderBlocks, progress: Callable[[int, int], None] | None
) -> list[MatrixReport]:
    """Replace all linear layers of the blocks, with weights [out, in], by bitsandbytes' 8-bit layers.

    Raises `CompressionError`, before any work, if a matrix doesn't belong to a linear layer.
    """
    if any(map(shares_matrices, decoder.modules)):
        raise RefusedError(
            f"llm.int8 replaces linear layers, and several of {decoder.name} have one weight; use int8"
        )
    layers = require("bitsandbytes.nn", "bitsandbytes")
    for index, block in enumerate(decoder.modules):
        where = decoder.path(index)
        others = [
            m.name for m in all_matrices(block, where) if not isinstance(layer_of(block, m.name), nn.Linear)
        ]
        if others:
            raise RefusedError(
                f"llm.int8 replaces linear layers, and {where}.{others[0]} is not one; use int8"
            )
    reports: list[MatrixReport] = []
    for index, block in enumerate(decoder.modules):
        where = decoder.path(index)
        for matrix in find_matrices(block, where=where):
            reports.append(report_matrix(matrix)._replace(name=f"{where}.{matrix.name}"))
            dense: Any = block.get_submodule(matrix.name)
            layer = layers.Linear8bitLt(
                dense.in_features,
                dense.out_features,
                bias=dense.bias is not None,
                has_fp16_weights=False,
                threshold=OUTLIER_THRESHOLD,
            )
            layer.load_state_dict(dense.state_dict())
            try:
                layer = layer.to(matrix.weight.device).requires_grad_(False)
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                raise RefusedError(without_cuda("llm.int8", matrix.weight, error)) from None
            # On a CPU, bitsandbytes rounds no activations in a layer that is in training mode, as new ones are.
            block.set_submodule(matrix.name, layer.train(dense.training))
        if progress is not None:
            progress(index + 1, len(decoder.modules))
    return reports


def add_settings(model: Any) -> None:
    """Name the 8-bit layers in a model's configuration, if it has some, so that transformers loads what is saved."""
    linear = {
        name: type(part).__name__ for name, part in model.named_modules() if isinstance(part, nn.Linear)
    }
    if _LAYER in linear.values():
        model.config.quantization_config = transformers.BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=OUTLIER_THRESHOLD,
            llm_int8_skip_modules=[name for name, kind in linear.items() if kind != _LAYER],
        )
