"""Observe which matrices are multiplied while code runs, and with what inputs, whatever module or function does it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
COPIES = (_ATEN.clone.default, _ATEN._to_copy.default)
"""Operations that copy a tensor, possibly into another type or order."""
FACTORS = {
    _ATEN.mm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.bmm.default: (0, 1),
    _ATEN.baddbmm.default: (1, 2),
    _ATEN.mv.default: (0, 1),
    _ATEN.addmv.default: (1, 2),
}
"""The positions of the two factors among the arguments of a product."""


class Watched(NamedTuple):
    """A matrix to watch. weight: [out, in], a view of the memory that the code computes with."""

    name: str
    weight: torch.Tensor


class _Reordered(NamedTuple):
    """A copy of matrices in another order.

    origin: for each element of its memory, the place in the matrices' memory. copied: held so that its memory isn't
    used again.
    """

    origin: torch.Tensor
    watched: list[Watched]
    copied: torch.Tensor

    def columns(self, part: torch.Tensor, watched: torch.Tensor) -> torch.Tensor | None:
        """Return the column of a watched matrix, [out, in], that each column of a part of the copy, [out', in], is.

        None if the part doesn't consist of whole rows of it.
        """
        if part.shape[1] != watched.shape[1]:
            return None
        places = self.origin.as_strided(part.shape, part.stride(), part.storage_offset()).long()
        places = places - int(watched.storage_offset())
        (down, across), (count, width) = watched.stride(), watched.shape
        large, small = max(down, across), min(down, across)
        first, second = places // large, places % large // small
        rows, columns = (first, second) if down > across else (second, first)
        whole = (rows == rows[:, :1]).all() and (columns == columns[:1]).all()
        inside = (places >= 0).all() and (rows < count).all() and (columns < width).all()
        return columns[0] if whole and inside and len(torch.unique(columns[0])) == width else None


class WeightProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `take(name, inputs, source)` for each product of activations with a watched matrix or some of its rows.

    inputs: [T, in], in token order. source: the tensor that the inputs came from.
    drops_zeros: in a product of several matrices, leave out rows of zeros, because code that sends every token to every
    expert zeroes the tokens that aren't routed to it. If false, they are left out only if all rows are zero.
    `unread` names matrices whose memory entered a product in another shape.
    """

    def __init__(
        self,
        watched: Iterable[Watched],
        take: Callable[[str, torch.Tensor, torch.Tensor], None],
        *,
        drops_zeros: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._take = take
        self._drops_zeros = drops_zeros
        self._by_memory: dict[Any, list[Watched]] = {}
        self._reordered: dict[Any, _Reordered] = {}
        self.unread: set[str] = set()
        for each in watched:
            self._by_memory.setdefault(memory(each.weight), []).append(each)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        places = FACTORS.get(func)
        if places is not None:
            for name, inputs, source in self._uses(args[places[0]], args[places[1]]):
                if len(inputs):
                    self._take(name, inputs, source)
        out = func(*args, **(kwargs or {}))
        if func in COPIES and args[0].dim() >= 2 and memory(args[0]) in self._by_memory:
            self._follow(args[0], out)
            self._follow_reordered(args[0], out)
        return out

    def _follow(self, weight: torch.Tensor, copied: torch.Tensor) -> None:
        """Watch a copy too (expanded over a batch or cast to another type). weight, copied: [..., rows, columns]."""
        for index in itertools.product(*map(range, weight.shape[:-2])):
            part, same = weight[index], copied[index]
            if (name := self._name(part)) is not None:
                self._by_memory.setdefault(memory(copied), []).append(Watched(name, same))
            elif (name := self._name(part.T)) is not None:
                self._by_memory.setdefault(memory(copied), []).append(Watched(name, same.T))

    def _follow_reordered(self, weight: torch.Tensor, copied: torch.Tensor) -> None:
        """Watch a copy of a whole matrix in another order, as `einsum` makes it. weight, copied: of equal shape."""
        mine = [
            each
            for each in self._by_memory[memory(weight)]
            if each.weight.numel() == weight.numel() > 0
            and each.weight.shape not in (weight.shape, weight.mT.shape)
        ]
        if not mine or copied.untyped_storage().nbytes() != copied.nbytes:
            return
        # Of each element of the copy, its place in the memory of the matrix.
        size = weight.untyped_storage().nbytes() // weight.element_size()
        places = torch.arange(size, dtype=torch.int32, device=weight.device)
        places = places.as_strided(weight.shape, weight.stride(), weight.storage_offset())
        origin = torch.empty(copied.numel(), dtype=torch.int32, device=copied.device)
        origin.as_strided(copied.shape, copied.stride()).copy_(places)
        self._reordered[memory(copied)] = _Reordered(origin, mine, copied)
        self._by_memory.setdefault(memory(copied), [])

    def _uses_reordered(
        self, weight: torch.Tensor, other: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield the watched matrix of which a product reads a copy in another order, as `_uses` does.

        weight: [out, in]; other: [T, in].
        """
        copy = self._reordered.get(memory(weight))
        if copy is not None:
            for each in copy.watched:
                columns = copy.columns(weight, each.weight)
                if columns is not None:
                    rows = torch.empty_like(other)
                    rows[:, columns] = other
                    yield each.name, rows, other
                    return
            self.unread |= {each.name for each in copy.watched}
        self.unread |= {each.name for each in self._by_memory[memory(weight)]}

    def _uses(
        self, left: torch.Tensor, right: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield the watched matrices in a product: name, inputs [T, in], and the tensor that they came from.

        left, right: [m, k] and [k, p] or [k]; or, batched, [n, m, k] and [n, k, p].
        """
        if right.dim() == 1:
            right = right[:, None]
        # [n, m, k] · [n, k, p]: the weight is the right factor as [in, out], or the left one as [out, in].
        for weight, other in ((right.mT, left), (left, right.mT)):
            if memory(weight) not in self._by_memory:
                continue
            if weight.dim() == 2:
                name = self._name(weight)
                if name is not None:
                    yield name, other, other
                else:
                    yield from self._uses_reordered(weight, other)
                continue
            places: dict[str | None, list[int]] = {}
            for index in range(len(weight)):
                places.setdefault(self._name(weight[index]), []).append(index)
            for index in places.pop(None, ()):
                yield from self._uses_reordered(weight[index], other[index])
            for name, indices in places.items():
                if name is None:
                    continue
                # Views where possible: equal views show that two matrices share their input.
                source = (
                    other[indices[0]] if len(indices) == 1 else other if len(places) == 1 else other[indices]
                )
                rows = source.reshape(-1, source.shape[-1])
                if len(places) > 1:
                    kept = (rows != 0).any(dim=1)
                    if self._drops_zeros or not kept.any():
                        rows = rows[kept]
                yield name, rows, source

    def _name(self, weight: torch.Tensor) -> str | None:
        """Return the name of the watched matrix that contains the rows of `weight`, [out', in], if any."""
        for name, mine in self._by_memory[memory(weight)]:
            (rows, columns), (down, across) = mine.shape, mine.stride()
            if weight.shape[1] != columns or (columns > 1 and weight.stride(1) != across):
                continue
            if weight.shape[0] > 1 and rows > 1 and weight.stride(0) % down:
                continue
            first, rest = divmod(int(weight.storage_offset() - mine.storage_offset()), max(1, down))
            step = weight.stride(0) // max(1, down) if weight.shape[0] > 1 else 1
            if rest == 0 and first >= 0 and step >= 1 and first + (weight.shape[0] - 1) * step < rows:
                return name
        return None


def memory(tensor: torch.Tensor) -> Any:
    """Return a key that views of the same memory share."""
    return (str(tensor.device), tensor.untyped_storage().data_ptr())
