"""Which matrices enter a product while code runs, whatever module or function computes it, and with what inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
# Where the two factors stand among the arguments.
_FACTORS = {
    _ATEN.mm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.bmm.default: (0, 1),
    _ATEN.baddbmm.default: (1, 2),
    _ATEN.mv.default: (0, 1),
    _ATEN.addmv.default: (1, 2),
}


class Watched(NamedTuple):
    """A matrix to look out for. weight: [out, in], a view of the memory that the code computes with."""

    name: str
    weight: torch.Tensor


class WeightProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `take(name, inputs, source)` for each product of a watched matrix, or of some of its rows, with activations.

    inputs: [T, in], in the order of the tokens. source: the tensor that they came from. Rows of zeros are left out where
    one product holds several matrices: code that sends every token to every expert silences those that an expert
    doesn't get with zeros. `unread` names matrices whose memory entered a product in some other shape.
    """

    def __init__(
        self, watched: Iterable[Watched], take: Callable[[str, torch.Tensor, torch.Tensor], None]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._take = take
        self._by_memory: dict[Any, list[Watched]] = {}
        self.unread: set[str] = set()
        for each in watched:
            self._by_memory.setdefault(_memory(each.weight), []).append(each)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        places = _FACTORS.get(func)
        if places is not None:
            for name, inputs, source in self._uses(args[places[0]], args[places[1]]):
                if len(inputs):
                    self._take(name, inputs, source)
        return func(*args, **(kwargs or {}))

    def _uses(
        self, left: torch.Tensor, right: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        if right.dim() == 1:
            right = right[:, None]
        # [n, m, k] · [n, k, p]: the weight is the right factor as [in, out], or the left one as [out, in].
        for weight, other in ((right.mT, left), (left, right.mT)):
            if _memory(weight) not in self._by_memory:
                continue
            if weight.dim() == 2:
                name = self._name(weight)
                if name is not None:
                    yield name, other, other
                else:
                    self.unread |= {each.name for each in self._by_memory[_memory(weight)]}
                continue
            names = [self._name(weight[index]) for index in range(len(weight))]
            if None in names:
                self.unread |= {each.name for each in self._by_memory[_memory(weight)]}
            if len(set(names)) == 1 and names[0] is not None:
                yield names[0], other.reshape(-1, other.shape[-1]), other
            elif len(set(names)) == len(names):
                for index, name in enumerate(names):
                    rows = other[index]
                    real = rows if rows.is_meta else rows[(rows != 0).any(dim=1)]
                    if name is not None and len(real):
                        yield name, real, rows

    def _name(self, weight: torch.Tensor) -> str | None:
        """The watched matrix of which `weight`, [out', in], holds rows."""
        for name, mine in self._by_memory[_memory(weight)]:
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


def _memory(tensor: torch.Tensor) -> Any:
    """What two views of one memory have in common, with or without values in it."""
    storage = tensor.untyped_storage()
    return storage._cdata if tensor.is_meta else (str(tensor.device), storage.data_ptr())
