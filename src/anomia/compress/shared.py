"""Weights that a model has in several places: they are compressed once, or not at all.

Two places have the same weight if they hold one parameter, or parameters in the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.errors import RefusedError

# Block attributes: names of the parameters that an earlier place in the blocks has (Zamba's attention); of those that
# something outside of the block has, too; and of those that can't be changed without something else, with its name.
_SHARED = "_anomia_shared"
_ELSEWHERE = "_anomia_elsewhere"
_TIED = "_anomia_tied"


class WeightPlace(NamedTuple):
    """A tensor in a module. block: the index of the block that the module is a part of there, None outside of them."""

    path: str
    tensor: torch.Tensor
    block: int | None = None


def mark_shared(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Note in each block which of its parameters other places of the model have.

    Raises `RefusedError` for a block that is in the list twice: it would share all of them with itself, and stay dense.
    """
    if len(set(map(id, blocks))) < len(blocks):
        raise RefusedError(
            f"the model has the same block ({type(blocks[0]).__name__}) several times in its list of "
            "blocks, so what it would lose can't be counted; make a copy of the block for each place"
        )
    places = places_of(model, blocks)
    same: dict[Any, list[WeightPlace]] = {}
    for place in places:
        same.setdefault(key_of(place.tensor), []).append(place)
    partly = overlapping(places)
    seen: set[Any] = set()
    for index, block in enumerate(blocks):
        shared, elsewhere, tied = set(), set(), {}
        for name, parameter in block.named_parameters(remove_duplicate=False):
            key = key_of(parameter)
            if key in seen:
                shared.add(name)
            seen.add(key)
            if any(place.block != index for place in same[key]):
                elsewhere.add(name)
            others = [place.path for place in same[key] if place.block is None] or partly.get(key, [])
            if others:
                elsewhere.add(name)
                tied[name] = others[0]
        block.__dict__.update({_SHARED: shared, _ELSEWHERE: elsewhere, _TIED: tied})


def shared_names(block: nn.Module) -> set[str]:
    """Return the names of a block's parameters that an earlier place in the blocks has."""
    names: set[str] = block.__dict__.get(_SHARED, set())
    return names


def names_elsewhere(block: nn.Module) -> set[str]:
    """Return the names of a block's parameters that another block or a part outside of the blocks has, too."""
    names: set[str] = block.__dict__.get(_ELSEWHERE, set())
    return names


def storages_elsewhere(block: nn.Module) -> set[int]:
    """Return the addresses of the storages of the parameters in `names_elsewhere`."""
    return {block.get_parameter(name).untyped_storage().data_ptr() for name in names_elsewhere(block)}


def check_alone(block: nn.Module, name: str, *, where: str) -> None:
    """Refuse to change a parameter if something would change with it. name: in the block; where: the block's path."""
    tied: Mapping[str, str] = block.__dict__.get(_TIED, {})
    if name in tied:
        raise RefusedError(
            f"{where}.{name} and {tied[name]} are the same weights in memory, so both would change; give "
            "one of them a copy of its own, or keep both as they are (--dense)"
        )


def shares_matrices(block: nn.Module) -> bool:
    """Whether a block shares matrices with an earlier block, or has one twice."""
    return any(block.get_parameter(name).dim() >= 2 for name in shared_names(block))


def places_of(model: nn.Module, blocks: Sequence[nn.Module] = ()) -> list[WeightPlace]:
    """Return the parameters and buffers of every module of a model, once in each block and once outside of them.

    The tensors can have any shape. A second name of a whole list of blocks is no second place.
    """
    numbers = {id(block): index for index, block in enumerate(blocks)}
    seen: set[tuple[int, int | None]] = set()
    found: list[WeightPlace] = []

    def visit(module: nn.Module, path: str, block: int | None) -> None:
        block = numbers.get(id(module), block)
        if (id(module), block) in seen:
            return
        seen.add((id(module), block))
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found.append(WeightPlace(f"{path}{name}", tensor, block))
        for name, child in module.named_children():
            visit(child, f"{path}{name}.", block)

    visit(model, "", None)
    return found


def key_of(tensor: torch.Tensor) -> Any:
    """Return a key that a tensor has in all places."""
    if not _has_memory(tensor):
        return id(tensor)
    return (str(tensor.device), tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def overlapping(places: Sequence[WeightPlace]) -> dict[Any, list[str]]:
    """Return, by a tensor's key, the paths of those that share some of its memory, but not all in the same form.

    The form includes the address, the type, the shape and the strides (`key_of`).
    """
    found: dict[Any, list[str]] = {}
    spans = sorted(
        ((str(p.tensor.device), *_span(p.tensor)), number)
        for number, p in enumerate(places)
        if _has_memory(p.tensor)
    )
    open_spans: list[tuple[tuple[str, int, int], int]] = []
    for span, number in spans:
        open_spans = [each for each in open_spans if each[0][0] == span[0] and each[0][2] > span[1]]
        for _, other in open_spans:
            one, two = places[number], places[other]
            if key_of(one.tensor) != key_of(two.tensor) and _meet(one.tensor, two.tensor):
                found.setdefault(key_of(one.tensor), []).append(two.path)
                found.setdefault(key_of(two.tensor), []).append(one.path)
        open_spans.append((span, number))
    return found


def _has_memory(tensor: torch.Tensor) -> bool:
    plain = type(tensor.data) is torch.Tensor and tensor.layout == torch.strided
    return plain and not tensor.is_meta and tensor.numel() > 0


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the first address of a tensor, and the one after its last element."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _meet(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors whose spans overlap have a byte of memory in common."""
    spans = list(_spans_of_rows(one)), list(_spans_of_rows(other))
    mine = torch.tensor(sorted(spans[0]))
    starts, ends = mine[:, 0].contiguous(), mine[:, 1]
    for first, last in spans[1]:
        place = int(torch.searchsorted(starts, last)) - 1
        if place >= 0 and int(ends[place]) > first:
            return True
    return False


def _spans_of_rows(tensor: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Yield the spans of a tensor's contiguous pieces: the whole, or slices along the dimension of the largest step."""
    if tensor.is_contiguous() or tensor.dim() == 0:
        yield _span(tensor)
        return
    steps = [step if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True)]
    if max(steps) <= 1:
        yield _span(tensor)
        return
    for part in tensor.unbind(steps.index(max(steps))):
        yield from _spans_of_rows(part)
