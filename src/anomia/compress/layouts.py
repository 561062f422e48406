"""Find out how parameters of no declared layout are multiplied, in a pass over a few tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomia.compress.products import COPIES, FACTORS, Watched, WeightProducts, memory
from anomia.compress.shared import shared_names
from anomia.compress.stacks import SEEN, Fold, Layout, RowStack, is_layer, stacks

_FOLDS = tuple(Fold(rows, transposed) for rows in (1, 2) for transposed in (False, True))


class Unknown(NamedTuple):
    """A parameter whose layout isn't known: its module, its name there, and itself."""

    module: nn.Module
    name: str
    parameter: nn.Parameter


def unknown_layouts(blocks: Sequence[nn.Module]) -> list[Unknown]:
    """Return the parameters of blocks that no declaration and no earlier pass explains."""
    return [
        Unknown(module, name, parameter)
        for block in blocks
        for module, name, parameter in (
            *((module, name, parameter) for _, module, name, parameter in stacks(block)),
            *_bare(block),
        )
        if not (isinstance(getattr(module, "is_transposed", None), bool) and parameter.dim() == 3)
        and name not in module.__dict__.get(SEEN, {})
    ]


def _bare(block: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield the parameters of two dimensions that belong to no layer: they may hold several matrices, one, or none."""
    for path, module in block.named_modules():
        if is_layer(module):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if parameter.dim() == 2 and min(parameter.shape) > 1 and full not in shared_names(block):
                yield module, name, parameter


class LayoutWatch:
    """What a pass of the model shows of some parameters. modes: active during the pass."""

    def __init__(self, unknown: Sequence[Unknown]) -> None:
        self._unknown = unknown
        # The slices come first: those of a stack are also some rows of it as one matrix.
        self._layouts: tuple[bool | Fold, ...] = (False, True, *_FOLDS)
        watched = [
            Watched(f"{number} {kind}", part)
            for number, (_, _, parameter) in enumerate(unknown)
            for kind, layout in enumerate(self._layouts)
            for part in _parts(parameter.data, layout)
        ]
        self._used: set[str] = set()
        self._products = WeightProducts(watched, lambda name, *_: self._used.add(name))
        self._rows = _RowSlices(
            {n: u.parameter.data for n, u in enumerate(unknown) if u.parameter.dim() == 2}
        )
        self.modes = (self._products, self._rows)

    def note(self) -> None:
        """Store the layouts in the modules, but not of a stack multiplied in another shape or in several layouts."""
        found = [self._found(number) for number in range(len(self._unknown))]
        seen: dict[tuple[type, str], set[Layout]] = {}
        for (module, name, _), kinds in zip(self._unknown, found, strict=True):
            seen.setdefault((type(module), name), set()).update(kinds or ())
        for (module, name, parameter), own in zip(self._unknown, found, strict=True):
            kinds = seen[type(module), name]
            if parameter.dim() == 2:
                # Blocks may have unequal numbers of experts.
                layout = next(iter(own or kinds)) if len(own or kinds) == 1 else None
                fits = not isinstance(layout, RowStack) or len(parameter) % layout.number == 0
                note_layout(module, name, layout if fits else None)
            elif not kinds:
                note_layout(module, name, None)
            elif len(kinds) == 1 and kinds != {None}:
                note_layout(module, name, next(iter(kinds)))

    def _found(self, number: int) -> set[Layout] | None:
        """Return the layouts in which a parameter is multiplied, with None for another one; None if it isn't."""
        if self._unknown[number].parameter.dim() == 2:
            return self._rows.layouts(number)
        kinds: set[Layout] = {
            layout for kind, layout in enumerate(self._layouts) if f"{number} {kind}" in self._used
        }
        unread = any(f"{number} {kind}" in self._products.unread for kind in range(len(self._layouts)))
        return kinds or ({None} if unread else None)


def note_layout(module: nn.Module, name: str, layout: Layout) -> None:
    """Store the layout of a parameter in its module."""
    module.__dict__.setdefault(SEEN, {})[name] = layout


def take_layouts(unknown: Sequence[Unknown], small: Sequence[nn.Module]) -> None:
    """Store the layouts found in the blocks of a tiny model, for weights that aren't loaded."""
    seen: dict[tuple[type, str], tuple[nn.Module, Layout]] = {}
    for block in small:
        for module in block.modules():
            for name, layout in module.__dict__.get(SEEN, {}).items():
                seen[type(module), name] = (module, layout)
    for module, name, parameter in unknown:
        if (type(module), name) not in seen:
            continue
        twin, layout = seen[type(module), name]
        if isinstance(layout, RowStack) and layout.number > 1:
            layout = layout._replace(number=_count_like(module, parameter, twin, name, layout.number))
        note_layout(module, name, layout)


def _count_like(module: nn.Module, parameter: torch.Tensor, twin: nn.Module, name: str, count: int) -> int:
    """Return how many matrices a parameter holds, [count · rows, columns], by the module's attributes; 0 if unclear.

    twin: a small module of the same type, in which the parameter of this name holds `count`. The attributes that give
    the number and the rows of its matrices also give those of the module.
    """
    rows = len(twin.get_parameter(name)) // count
    mine, its = vars(module), vars(twin)
    numbers = {mine.get(key) for key, value in its.items() if type(value) is int and value == count}
    heights = {mine.get(key) for key, value in its.items() if type(value) is int and value == rows}
    fitting = {
        n
        for n in numbers
        if type(n) is int
        and n > 0
        and len(parameter) % n == 0
        and (not heights or len(parameter) // n in heights)
    }
    return fitting.pop() if len(fitting) == 1 else 0


class _RowSlices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which rows of some parameters, [R, C] each by number, are multiplied as matrices of their own."""

    def __init__(self, parameters: dict[int, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # By memory: a parameter or a copy of a whole one, with its number.
        self._wholes = {memory(whole): (number, whole) for number, whole in parameters.items()}
        self._lengths = {number: len(parameter) for number, parameter in parameters.items()}
        self._found: dict[int, set[tuple[int, int, bool] | None]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        places = FACTORS.get(func)
        if places is not None:
            left, right = args[places[0]], args[places[1]]
            # The weight as [in, out] is the right factor, or as [out, in] the left one.
            for weight, inputs in ((right, -2), (left, -1)):
                number, whole = self._wholes.get(memory(weight), (None, weight))
                if number is not None and weight.dim() >= 2:
                    for part in weight if weight.dim() == 3 else (weight,):
                        self._found.setdefault(number, set()).add(_part_of(whole, part, inputs))
        out = func(*args, **(kwargs or {}))
        if func in COPIES and memory(args[0]) in self._wholes:
            number, whole = self._wholes[memory(args[0])]
            if out.shape == args[0].shape == whole.shape:
                self._wholes[memory(out)] = (number, out)
        return out

    def layouts(self, number: int) -> set[Layout] | None:
        """Return how a parameter, [R, C], is multiplied: in equal parts or as a whole, else {None}.

        None if it isn't multiplied at all.
        """
        found = self._found.get(number)
        if found is None:
            return None
        parts = {part for part in found if part is not None}
        sizes = {(rows, transposed) for _, rows, transposed in parts}
        if None in found or len(sizes) != 1:
            return {None}
        ((rows, transposed),) = sizes
        whole = self._lengths[number]
        even = rows and whole % rows == 0 and all(first % rows == 0 for first, _, _ in parts)
        return {RowStack(whole // rows, transposed) if even else None}


def _part_of(whole: torch.Tensor, part: torch.Tensor, inputs: int) -> tuple[int, int, bool] | None:
    """Return (first row, rows, whether they are the inputs) of a factor of a product.

    None if it isn't some rows of the whole, [R, C].
    inputs: the dimension of `part`, [., .], over which the product sums.
    """
    step, across = whole.stride()
    first, rest = divmod(int(part.storage_offset() - whole.storage_offset()), step)
    for rows, columns in ((0, 1), (1, 0)):
        full = part.shape[columns] == whole.shape[1] and part.stride(columns) == across
        if full and part.stride(rows) == step and rest == 0 and 0 <= first <= len(whole) - part.shape[rows]:
            return first, part.shape[rows], inputs % 2 == rows
    return None


def _parts(parameter: torch.Tensor, layout: bool | Fold) -> list[torch.Tensor]:
    """Return the matrices of a parameter, [., ., .], in a layout, [out, in] each; none if they would be copies."""
    if parameter.dim() != 3:
        return []
    if isinstance(layout, Fold):
        return [layout.of(parameter)] if parameter.is_contiguous() else []
    return [part.T if layout else part for part in parameter]
