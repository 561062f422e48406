"""How many bytes the weights of an arm take where they are stored, for accuracy against size on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from anomia.compress.blocks import all_matrices, find_blocks
from anomia.compress.catalogue import CATALOGUE
from anomia.compress.methods.embeddings import saved_bytes
from anomia.compress.methods.grid import is_symmetric
from anomia.compress.methods.quantize import NF4_BLOCK, group_of
from anomia.compress.steps import Checkpoint, Embeddings, Null, Quantize, Step
from anomia.errors import ModelError
from anomia.files import read_json
from anomia.models.files import INDEX, SINGLE, weight_files


def stored_bytes(
    model: nn.Module, steps: Sequence[Step] = (), *, source: str | None = None, revision: str | None = None
) -> int:
    """The bytes of a model's weights as they would be stored, without the headers of files.

    A dense model counts every tensor once (tied ones too), in the type that it was loaded in. A pruned one counts
    the same: zeros are stored like any other value. A quantized one counts its matrices packed, and its embeddings
    where those were rounded, whatever this program computes with. A model that came packed (GGUF, GPTQ, AWQ, …) counts its files.

    Args:
        model: as it is now, after `steps`.
        steps: all that was done to it.
        source: hub id, folder or GGUF file it was loaded from. revision: of a hub repository.
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
    # LLM.int8() has put its own small tensors in place of the dense ones.
    if not isinstance(last, Quantize) or last.method == "llm.int8":
        return dense
    decoder = find_blocks(model)
    for index, block in enumerate(decoder.modules):
        for matrix in all_matrices(block, decoder.path(index)):
            rows, columns = matrix.weight.shape
            dense -= matrix.weight.nbytes
            dense += packed_bytes(rows, columns, last, scale_bytes=matrix.weight.element_size())
    return dense


def tensor_bytes(model: nn.Module) -> int:
    """All parameters and saved buffers, shared ones once; of packed ones (torchao) the tensors that they consist of."""
    sizes = {
        (str(part.device), part.data_ptr(), part.nbytes): part.nbytes
        for value in model.state_dict().values()
        if torch.is_tensor(value)
        for part in _parts(value)
    }
    return sum(sizes.values())


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor, or those that a wrapper of several holds: the wrapper claims the size of the dense one."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    for name in flatten()[0]:
        yield from _parts(getattr(tensor, name))


def packed_bytes(rows: int, columns: int, step: Quantize, *, scale_bytes: int = 2) -> int:
    """A quantized matrix: its integers without gaps, one scale for each group of inputs, and its zero points if any.

    Scales have the size of the model's type, those of nf4 are float32. GGUF's Q8_0 and Q4_0 take just as much at
    groups of 32 with two bytes a scale.
    """
    group = NF4_BLOCK if step.method == "nf4" else group_of(step) or columns
    scales = math.ceil(rows * columns / group)
    bits = step.bits or CATALOGUE[step.method].bits
    assert bits is not None
    zeros = math.ceil(scales * bits / 8) if step.bits and not is_symmetric(step) else 0
    return (
        math.ceil(rows * columns * bits / 8) + scales * (4 if step.method == "nf4" else scale_bytes) + zeros
    )


def files_bytes(source: str, *, revision: str | None = None) -> int | None:
    """The size of a model's weight files: a GGUF file, or the safetensors of a folder or of the hub's cache.

    None where they can't be found.
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
    """Whether the files hold packed weights: the model says so, or they do, where loading has unpacked them."""
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        return True
    folder = Path(source).expanduser()
    if not folder.is_dir():
        found = _cached(source, revision)
        if found is None:
            return False
        folder = found
    return bool((read_json(folder / "config.json") or {}).get("quantization_config"))
