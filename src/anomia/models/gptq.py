"""Reads GPTQ checkpoints as dense weights, without the packages that transformers needs for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import GPTQConfig

from anomia.models.words import WORD, unpack

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
# The first version stores zero points minus 1.
_LESS = {"gptq": 1, "gptq_v2": 0}


def dequantized(parts: Mapping[str, torch.Tensor], *, version: str) -> torch.Tensor:
    """Returns the weights of a layer, [out, in] float32: scale × (code − zero point).

    Args:
        parts: `qweight` [in·bits / 32, out] and `qzeros` [groups, out·bits / 32], int32; `scales` [groups, out]; and
            `g_idx`, the group of each input, [in].
        version: `gptq` or `gptq_v2`, of the format.

    Source: `dequantize_weight` of GPTQModel.
    """
    groups = parts["g_idx"].long()
    columns, rows = len(groups), parts["qweight"].shape[1]
    bits = parts["qweight"].shape[0] * WORD // columns
    codes = unpack(parts["qweight"].T.contiguous(), bits, columns)  # [out, in]
    zeros = (unpack(parts["qzeros"], bits, rows).int() + _LESS[version]) & (2**bits - 1)  # [groups, out]
    steps = codes.float() - zeros.T[:, groups].float()
    weights: torch.Tensor = steps * parts["scales"].T[:, groups].float()
    return weights


class _Dequantize(ConversionOps):  # type: ignore[misc]
    """Makes a layer's weight of its parts while loading; also those of experts, before they are merged."""

    def __init__(self, quantizer: HfQuantizer) -> None:
        self._version = quantizer.quantization_config.format

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        *,
        model: Any = None,
        full_layer_name: str = "",
        **_: Any,
    ) -> dict[str, Any]:
        """Replaces the parts by weights. input_dict: by pattern, a list with one tensor per expert or layer."""
        dtype = model.get_parameter(full_layer_name).dtype
        found: dict[str, Any] = {}
        for pattern in input_dict:
            layer, dot, leaf = pattern.rpartition(".")
            if leaf == "weight":
                found[pattern] = input_dict[pattern]
            elif leaf == "qweight":
                columns = [_listed(input_dict[f"{layer}{dot}{part}"]) for part in _PARTS]
                found[f"{layer}{dot}weight"] = [
                    dequantized(dict(zip(_PARTS, parts, strict=True)), version=self._version).to(dtype)
                    for parts in zip(*columns, strict=True)
                ]
        if "weight" in found:
            return {full_layer_name: _listed(found["weight"])[0]}
        return found

    @property
    def reverse_op(self) -> ConversionOps:
        """There is none: what was loaded is dense."""
        raise NotImplementedError


def _listed(value: Any) -> Sequence[torch.Tensor]:
    return value if isinstance(value, list) else [value]


class GptqReader(HfQuantizer):  # type: ignore[misc]
    """Loads a GPTQ checkpoint as dense weights."""

    requires_calibration = True
    serialized_names = {"weight": ["weight", *_PARTS]}  # noqa: RUF012

    def __init__(self, quantization_config: Any, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        if quantization_config.format not in _LESS:
            raise ValueError(
                f"its GPTQ weights have the layout {quantization_config.format!r}, which needs a program of its own: "
                "serve it and name it as endpoint:URL#MODEL"
            )
        # Read by transformers: the result is an ordinary dense model.
        quantization_config.dequantize = True

    def get_load_operations(self) -> dict[str, Any]:
        """The operation that makes the weights."""
        return {"dequantize": _Dequantize}

    @property
    def is_trainable(self) -> bool:
        """Dense weights can be trained."""
        return True

    def is_serializable(self) -> bool:
        """Dense weights can be saved."""
        return True


class _Config(GPTQConfig):  # type: ignore[misc]
    """The settings of a checkpoint, without the list of packed layers, which transformers takes only with optimum."""

    def __init__(self, *, modules_in_block_to_quantize: Any = None, **settings: Any) -> None:
        super().__init__(**settings)


@contextmanager
def gptq_readable() -> Iterator[None]:
    """Inside the block, transformers loads GPTQ checkpoints with `GptqReader` if its own packages aren't installed."""
    if find_spec("optimum") and find_spec("gptqmodel"):
        yield
        return
    with (
        patch.dict(AUTO_QUANTIZER_MAPPING, gptq=GptqReader),
        patch.dict(AUTO_QUANTIZATION_CONFIG_MAPPING, gptq=_Config),
    ):
        yield
