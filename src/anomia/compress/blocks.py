"""Find the decoder blocks of a model by inspecting its modules, not by a table of names."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from anomia.compress.kept import mark_kept
from anomia.compress.routers import has_linear
from anomia.compress.shared import mark_shared
from anomia.compress.trial import try_model
from anomia.errors import RefusedError


class DecoderBlocks(NamedTuple):
    """The repeated blocks of a decoder.

    name: their path in the model, such as `model.layers`.
    paths: the path of each block, if the model has several lists of blocks (HRM has two stacks); else empty.
    padded: whether padding after a text leaves its states unchanged, so texts of unequal length can share a batch.
    fault: why the blocks can't be run one after the other outside the model; empty if they can.
    """

    name: str
    modules: tuple[nn.Module, ...]
    paths: tuple[str, ...] = ()
    padded: bool = True
    fault: str = ""

    def path(self, index: int) -> str:
        """Return the path of a block in the model."""
        return self.paths[index] if self.paths else f"{self.name}.{index}"


def find_blocks(model: nn.Module) -> DecoderBlocks:
    """Find the decoder blocks: the outermost lists of modules with linear layers in the text decoder.

    Lists in a part with its own configuration (a vision or audio tower) are ignored. Several lists are concatenated in
    the model's order.

    Raises `CompressionError` for a model that is not built from repeated blocks.
    """
    lists = _lists(model, _decoder(model)) or _lists(model, model)
    if not lists:
        raise RefusedError(
            f"{type(model).__name__} has no list of decoder blocks with linear layers; it can't be pruned"
        )
    modules = tuple(block for _, blocks in lists for block in blocks)
    mark_shared(model, modules)
    try_model(model, modules, lambda small: find_blocks(small).modules)
    paths = tuple(f"{name}.{index}" for name, blocks in lists for index in range(len(blocks)))
    for path, block in zip(paths, modules, strict=True):
        mark_kept(model, path, block)
    return DecoderBlocks(", ".join(name for name, _ in lists), modules, paths if len(lists) > 1 else ())


def _decoder(model: nn.Module) -> nn.Module:
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else None
    return decoder if isinstance(decoder, nn.Module) else model


def _lists(model: nn.Module, root: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    prefix = next((name for name, module in model.named_modules() if module is root), "")
    found: list[tuple[str, nn.ModuleList]] = []
    apart = [name for name, module in model.named_modules() if is_other_model(model, module)]
    for name, module in root.named_modules(prefix=prefix):
        if not isinstance(module, nn.ModuleList) or len(module) == 0 or not all(map(_is_block, module)):
            continue
        if not any(name.startswith(f"{outer}.") for outer in (*(n for n, _ in found), *apart)):
            found.append((name, module))
    return found


def _is_block(module: nn.Module) -> bool:
    return not isinstance(module, nn.Linear | Conv1D) and has_linear(module)


def is_other_model(model: nn.Module, module: nn.Module) -> bool:
    """Whether a part is a model whose configuration differs in type from the whole model's and the text decoder's."""
    whole, own = getattr(model, "config", None), getattr(module, "config", None)
    if not isinstance(module, PreTrainedModel) or whole is None or own is None:
        return False
    return type(own) is not type(whole) and type(own) is not type(whole.get_text_config())
