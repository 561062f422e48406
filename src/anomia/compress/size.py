"""The size of an arm's stored weights in bytes, for plots of accuracy against size on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from anomia.compress.blocks import find_blocks
from anomia.compress.catalogue import CATALOGUE
from anomia.compress.matrices import all_matrices
from anomia.compress.methods.embeddings import saved_bytes
from anomia.compress.methods.grid import is_symmetric
from anomia.compress.methods.quantize import group_of
from anomia.compress.methods.table import goes_by_block
from anomia.compress.steps import Checkpoint, Embeddings, Null, Quantize, Step
from anomia.errors import ModelError
from anomia.files import read_json
from anomia.models.files import INDEX, SINGLE, weight_files


def stored_bytes(
    model: nn.Module, steps: Sequence[Step] = (), *, source: str | None = None, revision: str | None = None
) -> int:
    """Return the bytes of a model's weights as they would be stored, without file headers.

    For a dense model, every tensor counts once (tied ones too), in the type in which it was loaded. A pruned model
    counts the same, since zeros are stored like other values. For a quantized model, matrices and rounded embeddings
    count as packed, even if this program computes with dequantized values. For a model that was loaded packed (GGUF,
    GPTQ, AWQ, …), the files count.

    Args:
        model: after all `steps`.
        steps: the steps that were applied to it.
        source: hub id, folder or GGUF file from which it was loaded.
        revision: of a hub repository.
    """
    done = [step for step in steps if not isinstance(step, Checkpoint | Null)]
    if (
        not done
        and source is not None
        and (source.endswith(".gguf") or _came_packed(model, source, revision))
    ):
        files = files_bytes(source, revision=revision)
        if files is not None:
            return files
    dense = tensor_bytes(model)
    last = done[-1] if done else None
    if isinstance(last, Embeddings):
        dense -= saved_bytes(model, last.kind)
        last = done[-2] if len(done) > 1 else None
    # A step that replaces layers has put its packed tensors in place of the dense ones.
    if last is None or not goes_by_block(last) or not isinstance(last, Quantize):
        return dense
    decoder = find_blocks(model)
    for index, block in enumerate(decoder.modules):
        for matrix in all_matrices(block, decoder.path(index)):
            rows, columns = matrix.weight.shape
            dense -= matrix.weight.nbytes
            dense += packed_bytes(rows, columns, last, scale_bytes=matrix.weight.element_size())
    return dense


def tensor_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and saved buffers, shared ones once; packed ones (torchao) by their parts."""
    sizes = {
        (str(part.device), part.data_ptr(), part.nbytes): part.nbytes
        for value in model.state_dict().values()
        if torch.is_tensor(value)
        for part in _parts(value)
    }
    return sum(sizes.values())


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor, or the inner tensors of a wrapper subclass, which reports the size of the dense tensor."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    for name in flatten()[0]:
        yield from _parts(getattr(tensor, name))


def packed_bytes(rows: int, columns: int, step: Quantize, *, scale_bytes: int = 2) -> int:
    """Return the bytes of a quantized matrix: codes without gaps, one scale per group of inputs, and any zero points.

    Scales have the size of the model's type if the method doesn't say otherwise. With groups of 32 and two bytes per
    scale, the size is that of GGUF's Q8_0 and Q4_0.
    """
    entry = CATALOGUE[step.method]
    group, scale_bytes = entry.scales or (group_of(step) or columns, scale_bytes)
    scales = math.ceil(rows * columns / group)
    bits = step.bits or entry.bits
    assert bits is not None
    zeros = math.ceil(scales * bits / 8) if step.bits and not is_symmetric(step) else 0
    return math.ceil(rows * columns * bits / 8) + scales * scale_bytes + zeros


def files_bytes(source: str, *, revision: str | None = None) -> int | None:
    """Return the bytes of a model's weight files: a GGUF file, or safetensors in a folder or in the hub's cache.

    None if they can't be found.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path.stat().st_size
    folder = path if path.is_dir() else _cached(source, revision)
    if folder is None:
        return None
    with suppress(ModelError):
        return sum(int(file.stat().st_size) for file in weight_files(folder))
    return None


def _cached(source: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with suppress(HFValidationError):
        for name in (INDEX, SINGLE):
            found = try_to_load_from_cache(source, name, revision=revision)
            if isinstance(found, str):
                return Path(found).parent
    return None


def _came_packed(model: nn.Module, source: str, revision: str | None) -> bool:
    """Whether the files hold packed weights, by the model's configuration or, if loading unpacked them, the files'."""
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        return True
    folder = Path(source).expanduser()
    if not folder.is_dir():
        found = _cached(source, revision)
        if found is None:
            return False
        folder = found
    return bool((read_json(folder / "config.json") or {}).get("quantization_config"))
