"""Find out which layers' outputs choose among experts, in a pass over a few tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomia.compress.products import FACTORS, memory
from anomia.compress.routers import MOST, experts_of, is_inside, note_choice, own_weights, verdict

_ATEN = torch.ops.aten
# The position of the dimension among which one is chosen, and that dimension by default.
_CHOOSING = {
    _ATEN.topk.default: (2, -1),
    _ATEN.sort.default: (1, -1),
    _ATEN.sort.stable: (2, -1),
    _ATEN.argsort.default: (1, -1),
    _ATEN.argmax.default: (1, None),
    _ATEN.max.dim: (1, None),
    _ATEN.kthvalue.default: (2, -1),
    _ATEN.multinomial.default: (None, -1),
}
_WEIGHING = {_ATEN._softmax.default: (1, -1), _ATEN._safe_softmax.default: (1, -1)}
# What else mixes an output with other values than elementwise.
_MIXING = ("scaled_dot_product", "convolution", "grouped_mm", "linear", "embedding")


class ChoiceCandidate(NamedTuple):
    """A weight that may be a router's: its block, its path there, its module, its name in the module, its outputs."""

    block: nn.Module
    path: str
    module: nn.Module
    name: str
    rows: int

    @property
    def weight(self) -> torch.Tensor:
        """The weight, with `rows` as one of its sides."""
        found: torch.Tensor = getattr(self.module, self.name)
        return found


def candidates(blocks: Sequence[nn.Module]) -> list[ChoiceCandidate]:
    """Return the weights, outside of experts, that have few rows beside experts and no verdict of an earlier pass."""
    return [
        ChoiceCandidate(block, path, module, name, rows)
        for block in blocks
        if (experts := experts_of(block))
        for path, module, name, rows in own_weights(block)
        if 1 < rows <= MOST * max(experts.values())
        and verdict(module, name) is None
        and not any(path.startswith(f"{at}.") and is_inside(block, path, at) for at in experts if at)
    ]


class ChoiceWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees, while a model runs, for which weights a product with them reaches a choice before any other product.

    A choice is a top-k, an argmax or the like, or a softmax, over as many values as the weight has rows or as there
    are experts.
    """

    def __init__(self, watched: Sequence[ChoiceCandidate]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = watched
        self._sizes = [{each.rows, *experts_of(each.block).values()} for each in watched]
        self._weights = {each.weight.data_ptr(): number for number, each in enumerate(watched)}
        # By memory: what came from weights alone, and from products with them. The tensors are held, so that their
        # memory isn't reused.
        self._from: dict[Any, set[int]] = {}
        self._of: dict[Any, set[int]] = {}
        self._held: list[torch.Tensor] = []
        self._used: set[int] = set()
        self._chosen: set[int] = set()
        self._weighed: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = list(_tensors((*args, *kwargs.values())))
        places = FACTORS.get(func)
        if places is not None:
            products = {n for place in places for n in self._weights_in(args[place])}
            self._used |= products
            self._mark(self._of, out, products)
        elif not any(part in func.overloadpacket.__name__ for part in _MIXING):
            outputs = {n for tensor in given for n in self._of.get(memory(tensor), ())}
            self._mark(self._from, out, {n for tensor in given for n in self._weights_in(tensor)})
            self._mark(self._of, out, outputs)
            for kinds, found in ((_CHOOSING, self._chosen), (_WEIGHING, self._weighed)):
                if outputs and func in kinds:
                    size = _chosen_among(args, kwargs, *kinds[func])
                    found |= {number for number in outputs if size in self._sizes[number]}
        return out

    def _weights_in(self, tensor: torch.Tensor) -> Collection[int]:
        """Return the weights of which a tensor is a view, a cast or another form."""
        number = self._weights.get(tensor.data_ptr())
        return (number,) if number is not None else self._from.get(memory(tensor), ())

    def _mark(self, where: dict[Any, set[int]], out: Any, numbers: set[int]) -> None:
        if not numbers:
            return
        for tensor in _tensors(out):
            if tensor.is_floating_point():
                where.setdefault(memory(tensor), set()).update(numbers)
                self._held.append(tensor)

    def note(self) -> None:
        """Store what was seen in the modules; nothing for weights that took no part in the pass."""
        for number, each in enumerate(self._watched):
            if number in self._used:
                note_choice(each.module, each.name, number in self._chosen, number in self._weighed)


def take_choices(watched: Sequence[ChoiceCandidate], small: Sequence[nn.Module]) -> None:
    """Store what was seen in the blocks of a tiny model, for weights that aren't loaded."""
    seen = {
        (type(block), path, type(module), name): found
        for block in small
        for path, module, name, _ in own_weights(block)
        if (found := verdict(module, name)) is not None
    }
    for each in watched:
        found = seen.get((type(each.block), each.path, type(each.module), each.name))
        if found is not None:
            note_choice(each.module, each.name, *found)


def _chosen_among(args: Sequence[Any], kwargs: dict[str, Any], place: int | None, default: int | None) -> int:
    """Return among how many values an operation chooses. place: of the dimension in its arguments."""
    dim = kwargs.get("dim", args[place] if place is not None and len(args) > place else default)
    return int(args[0].numel() if dim is None else args[0].shape[dim])


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
