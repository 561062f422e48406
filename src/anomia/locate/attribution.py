"""Attribution: how much of an item's change from the compressed model to base each unit of weights carries.

With W(α) = compressed + α·Δ, the share of parameter k in the change of a margin m is ⟨Δ_k, ∇m⟩ integrated over α from
0 to 1 (by Simpson's rule); the shares of all parameters add up to m(1) − m(0). No gradient of a weight is kept: for a
linear layer the product is the sum over tokens of G · ΔX, with X its input and G the gradient of its output, so each
item of a batch gets its own share. For other modules, ΔX is the derivative of the output along Δ (forward mode).
Parameters for which this fails too get their own gradient, one item at a time. A trial on a short text compares these
ways with plain gradients and chooses one for each parameter.

Source: integrated gradients (Sundararajan et al. 2017), along a path of weights instead of inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from anomia.errors import ModelError
from anomia.locate.located import POINTS
from anomia.locate.pairs import ModelPair, WeightUnit
from anomia.measure.bootstrap import FloatArray
from anomia.probe.ask import TokenIds

BATCH_TOKENS = 2048
"""Tokens per batch, padding included."""
UNRELIABLE = 0.3
"""An item's shares are unreliable if this much of its change is missing from their sum."""
_TRIAL_TOKENS = (24, 17)
# How far the shares of a trial may be from plain gradients, as a part of the sum of their sizes.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_TOLERANCE_IN_HALF = 0.05
_MISSED = 1e-6


class Margin(NamedTuple):
    """Log-odds of a token against a rival after a prefix, in nats."""

    prefix: TokenIds
    token: int
    rival: int


class Margins(NamedTuple):
    """What is asked of one item: a margin to explain, and the same for the control answer if there is one."""

    item_id: str
    gold: Margin
    control: Margin | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Shares of the units in each item's change, in nats. Rows are items, in the order given.

    units: names. gold, control: [items, units]; the control's are NaN for an item without one. ends, control_ends:
    the margins in the compressed model and in base: [items, 2]. moved: the norm of the change of the unit's output in
    base over the item's tokens, ‖ΔX‖; NaN where a unit has no output of its own: [items, units]. points: on the path.
    by_gradient: parameters that needed gradients of their own, item by item.
    """

    units: tuple[str, ...]
    gold: FloatArray
    control: FloatArray
    ends: FloatArray
    control_ends: FloatArray
    moved: FloatArray
    points: int
    by_gradient: tuple[str, ...] = ()

    @property
    def residuals(self) -> FloatArray:
        """The part of each item's change that the shares don't add up to: [items]; infinite without a change."""
        return residual_of(self.gold, self.ends)

    @property
    def unreliable(self) -> NDArray[np.bool_]:
        """Items whose shares don't add up: [items]."""
        return ~(np.abs(self.residuals) <= UNRELIABLE)


def residual_of(shares: FloatArray, ends: FloatArray) -> FloatArray:
    """1 − the sum of shares [items, units] over the change between the ends [items, 2]: [items]."""
    change = ends[:, 1] - ends[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(change != 0, 1.0 - shares.sum(axis=1) / change, np.inf)


def simpson(points: int) -> list[tuple[float, float]]:
    """Positions on [0, 1] and their weights by the composite rule of Simpson.

    >>> simpson(3)
    [(0.0, 0.16666666666666666), (0.5, 0.6666666666666666), (1.0, 0.16666666666666666)]
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(f"Simpson's rule takes an odd number of points from 3 on, not {points}")
    steps = points - 1
    inner = [4 if n % 2 else 2 for n in range(1, steps)]
    return [(n / steps, weight / (3 * steps)) for n, weight in enumerate([1, *inner, 1])]


def attribute(
    pair: ModelPair,
    subjects: Sequence[Margins],
    *,
    points: int = POINTS,
    batch_tokens: int = BATCH_TOKENS,
    way: Way | None = None,
    observe: Observer | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Attribution:
    """Attributes the change of every item's margins to the units that differ.

    Args:
        pair: the two models; it holds the compressed weights before and after.
        subjects: the items.
        points: on the path; an odd number from 3 on.
        batch_tokens: tokens per batch, padding included.
        way: how parameters are attributed (`choose_way`); None chooses it.
        observe: sees the passes at both ends of the path (for the lens).
        advance: called after each batch at each point.
    """
    path = simpson(points)
    rows = _rows(subjects)
    columns = {unit.name: column for column, unit in enumerate(pair.units)}
    size = (2, len(subjects), len(columns))
    shares, moved = np.zeros(size), np.full(size[1:], np.nan)
    ends = np.full((2, len(subjects), 2), np.nan)
    shares[1] = [[0.0 if each.control is not None else np.nan] * len(columns) for each in subjects]
    way = way or choose_way(pair, [row.prefix for row in rows])
    with differentiable(pair.model):
        batches = list(_batches(rows, batch_tokens if way.batched else 0))
        for alpha, weight in path:
            with pair.between(alpha):
                for batch in batches:
                    passed = way.passed(batch, observe if alpha in (0.0, 1.0) else None, alpha)
                    for row, margins, found, norms in passed:
                        for kind, item in row.margins:
                            shares[kind, item] += weight * _in_units(found[kind], pair.units)
                            if alpha in (0.0, 1.0):
                                ends[kind, item, int(alpha)] = margins[kind]
                            if kind == 0 and alpha == 1.0:
                                moved[item] = _norms_of(norms, pair.units)
                    advance()
    return Attribution(
        tuple(columns), shares[0], shares[1], ends[0], ends[1], moved, points, tuple(sorted(way.by_gradient))
    )


class _Row(NamedTuple):
    """A prefix to be passed. asked: by kind (0 gold, 1 control), the margin read after it. margins: (kind, item)."""

    prefix: TokenIds
    asked: dict[int, Margin]
    margins: tuple[tuple[int, int], ...]


class Observer:
    """Sees the passes at both ends of the path."""

    def watch(self, model: Any) -> Any:
        """A context in which the passes run."""
        raise NotImplementedError

    def see(self, items: Sequence[tuple[int, int]], row: int, position: int, alpha: float) -> None:
        """Called when a row of the pass is read at a position. items: the (kind, item) pairs whose margin is there."""
        raise NotImplementedError


def _rows(subjects: Sequence[Margins]) -> list[_Row]:
    """One row per item and prefix; where gold and control are read after the same prefix, they share it."""
    rows = []
    for number, each in enumerate(subjects):
        margins = [(0, each.gold)] + ([(1, each.control)] if each.control is not None else [])
        if len(margins) == 2 and margins[0][1].prefix == margins[1][1].prefix:
            rows.append(_Row(each.gold.prefix, dict(margins), ((0, number), (1, number))))
        else:
            rows += [_Row(margin.prefix, {kind: margin}, ((kind, number),)) for kind, margin in margins]
    return rows


def _batches(rows: Sequence[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    """Rows of similar length together, the longest last; a batch of one if nothing may share one."""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: len(row.prefix)):
        if batch and (len(batch) + 1) * len(row.prefix) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _in_units(found: dict[str, FloatArray], units: Sequence[WeightUnit]) -> FloatArray:
    """The shares of parameters, by name (one value, or one per expert), as a row of units: [units]."""
    return np.array(
        [
            found[unit.parameter].sum() if unit.expert is None else found[unit.parameter][unit.expert]
            for unit in units
        ]
    )


def _norms_of(squares: dict[str, float], units: Sequence[WeightUnit]) -> FloatArray:
    return np.array([np.sqrt(squares.get(unit.parameter, np.nan)) for unit in units])


@contextmanager
def differentiable(model: Any) -> Iterator[None]:
    """Lets gradients flow through a model in evaluation mode, without gradients for its parameters."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


RowShares = tuple[_Row, dict[int, float], dict[int, dict[str, FloatArray]], dict[str, float]]


@dataclass
class Way:
    """How the parameters of a model are attributed.

    batched: several items share a pass. by_gradient: parameters that need their own gradient, one item at a time.
    """

    pair: ModelPair
    batched: bool = True
    by_gradient: set[str] = field(default_factory=set)

    def passed(
        self, batch: Sequence[_Row], observe: Observer | None = None, alpha: float = 0.0
    ) -> Iterator[RowShares]:
        """Passes a batch forward, and back once per kind of margin.

        Yields for each row its margins, for each kind the shares by parameter ([1], or [experts]), and the squared
        norms of what Δ changes in each parameter's output.
        """
        model: Any = self.pair.model
        lengths = [len(row.prefix) for row in batch]
        device = model.get_input_embeddings().weight.device
        ids = torch.zeros(len(batch), max(lengths), dtype=torch.long)
        for number, row in enumerate(batch):
            ids[number, : len(row.prefix)] = torch.tensor(row.prefix)
        kinds = sorted({kind for row in batch for kind in row.asked})
        with ExitStack() as stack:
            taps = stack.enter_context(_Taps(self.pair, lengths, self.by_gradient))
            if observe is not None:
                stack.enter_context(observe.watch(model))
            logits = logits_at(model, ids.to(device), [length - 1 for length in lengths])
            if observe is not None:
                for number, row in enumerate(batch):
                    observe.see(row.margins, number, lengths[number] - 1, alpha)
            values: list[dict[int, float]] = [{} for _ in batch]
            for kind in kinds:
                taps.start(kind)
                margins = [
                    logits[number, row.asked[kind].token] - logits[number, row.asked[kind].rival]
                    for number, row in enumerate(batch)
                    if kind in row.asked
                ]
                torch.stack(margins).sum().backward(retain_graph=kind != kinds[-1])  # type: ignore[no-untyped-call]
                asked = [number for number, row in enumerate(batch) if kind in row.asked]
                for number, value in zip(asked, margins, strict=True):
                    values[number][kind] = float(value.detach())
        for number, row in enumerate(batch):
            shares = {kind: taps.shares_of(kind, number) for kind in row.asked}
            yield row, values[number], shares, taps.squares_of(number)


def logits_at(model: Any, ids: Tensor, positions: Sequence[int]) -> Tensor:
    """The logits of each row [B, T] at its position, in at least float32: [B, V]. Padding comes after the texts."""
    wanted = sorted(set(positions))
    options: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = torch.tensor(wanted, device=ids.device)
    logits: Tensor = model(input_ids=ids, **options).logits
    rows = torch.arange(len(positions), device=ids.device)
    kept = logits.shape[1] == len(wanted) and "logits_to_keep" in options
    columns = [wanted.index(position) if kept else position for position in positions]
    chosen = logits[rows, torch.tensor(columns, device=ids.device)]
    return chosen.to(torch.promote_types(chosen.dtype, torch.float32))


class _NoShareError(Exception):
    """Parameters, by name, whose share can't be read from their module's inputs and output."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = frozenset(names)


class _Taps:
    """Reads, while a batch goes back through the model, what each parameter's Δ does to the margins.

    lengths: of each row, in tokens. A module that owns a parameter keeps its inputs; when the gradient of its output
    arrives, both are multiplied and only one number per row is kept.
    """

    def __init__(self, pair: ModelPair, lengths: Sequence[int], by_gradient: set[str]) -> None:
        self._pair = pair
        self._lengths = lengths
        self._longest = max(lengths)
        self._by_gradient = by_gradient
        self._kind = 0
        self._inside = False
        self._handles: list[Any] = []
        self._shares: dict[int, dict[str, Tensor]] = {}
        self._squares: dict[str, Tensor] = {}
        self._owners: dict[nn.Module, list[tuple[str, str]]] = {}
        parameters = {id(p): name for name, p in pair.parameters.items()}
        for module in pair.model.modules():
            mine = [
                (parameters[id(p)], leaf)
                for leaf, p in module.named_parameters(recurse=False)
                if id(p) in parameters and parameters[id(p)] not in by_gradient
            ]
            if mine:
                self._owners[module] = mine

    def __enter__(self) -> _Taps:
        first = self._pair.model.get_input_embeddings()
        for module in {first: None, **self._owners}:
            self._handles.append(module.register_forward_hook(self._after, with_kwargs=True))
        for name in self._by_gradient:
            parameter = self._pair.parameters[name]
            parameter.requires_grad_(True)
            hook = partial(self._take_gradient, name)
            self._handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self._by_gradient:
            self._pair.parameters[name].requires_grad_(False)
            self._pair.parameters[name].grad = None

    def start(self, kind: int) -> None:
        """The next gradients belong to margins of this kind."""
        self._kind = kind
        self._shares.setdefault(kind, {})

    def shares_of(self, kind: int, row: int) -> dict[str, FloatArray]:
        """The shares by parameter in one row: [1] each, or [slices] for a parameter that needed its own gradient."""
        found = self._shares[kind]
        shares: dict[str, FloatArray] = {}
        for name, parameter in self._pair.parameters.items():
            if name in self._by_gradient:
                shares[name] = found[name].numpy() if name in found else np.zeros(_slices(parameter))
            else:
                shares[name] = found[name][row : row + 1].numpy() if name in found else np.zeros(1)
        return shares

    def squares_of(self, row: int) -> dict[str, float]:
        """The squared norms of ΔX in one row, by parameter."""
        return {name: float(squares[row]) for name, squares in self._squares.items()}

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Keeps a module's inputs until the gradient of its output arrives."""
        if self._inside:
            return output
        if isinstance(output, Tensor) and not output.requires_grad:
            # Nothing before it differs: the graph starts here.
            output = output.detach().requires_grad_(True)
        if module not in self._owners:
            return output
        if not isinstance(output, Tensor):
            raise _NoShareError([name for name, _ in self._owners[module]])
        args = tuple(_detached(each) for each in args)
        kwargs = {key: _detached(each) for key, each in kwargs.items()}
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: self._take(module, args, kwargs, gradient)
        )
        return output

    @torch.no_grad()
    def _take(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gradient: Tensor
    ) -> None:
        """Adds ⟨G, ΔX⟩ of every parameter of a module to the rows, [B] each. gradient: G, [B, T, …] as the output."""
        shares = self._shares[self._kind]
        for name, leaf in self._owners[module]:
            try:
                moved = self._moved(module, leaf, self._pair.delta(name), args, kwargs)
                wide = torch.promote_types(moved.dtype, torch.float32)
                moved, gradient = self._by_row(moved.to(wide)), self._by_row(gradient.to(wide))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
                raise _NoShareError([name]) from error
            per_row = (moved * gradient).sum(dim=(1, 2)).cpu().double()
            shares[name] = shares[name] + per_row if name in shares else per_row
            if self._kind == 0:
                squares = moved.square().sum(dim=2)  # [B, T]
                if squares.shape[1] == self._longest:
                    for row, length in enumerate(self._lengths):
                        squares[row, length:] = 0
                else:
                    squares *= gradient.any(dim=2)  # the head is given the positions of all rows
                total = squares.sum(dim=1).cpu().double()
                self._squares[name] = self._squares[name] + total if name in self._squares else total

    def _moved(
        self, module: nn.Module, leaf: str, delta: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """The derivative of a module's output along Δ of one of its parameters: ΔX, [B, T, …] as the output.

        delta: Δ, in the parameter's shape.
        """
        plain = type(module).forward in (nn.Linear.forward, Conv1D.forward) and len(args) == 1 and not kwargs
        if plain and leaf == "weight":
            return args[0] @ delta if isinstance(module, Conv1D) else functional.linear(args[0], delta)
        if plain:
            return delta.expand(*args[0].shape[:-1], *delta.shape)

        def call(values: Tensor) -> Any:
            return torch.func.functional_call(module, {leaf: values}, args, kwargs)

        self._inside = True
        try:
            moved = torch.func.jvp(call, (module.get_parameter(leaf).detach(),), (delta,))[1]
        finally:
            self._inside = False
        if not isinstance(moved, Tensor):
            raise TypeError(f"an output of type {type(moved).__name__}")
        return moved

    def _by_row(self, values: Tensor) -> Tensor:
        """An output by row of the batch and token: [B, T, …] or [B·T, …] to [B, T, rest]; of one row any shape.

        values: the output, whose tokens may also be its third dimension, as in [B, heads, T, D].
        Raises:
            ValueError: it has another shape.
        """
        rows, tokens = len(self._lengths), self._longest
        if rows == 1:
            whole = tuple(values.shape[:2]) == (1, tokens) or values.shape[:1] == (tokens,)
            return values.reshape(1, tokens, -1) if whole else values.reshape(1, 1, -1)
        if values.shape[0] == rows * tokens or tuple(values.shape[:2]) == (rows, tokens):
            return values.reshape(rows, tokens, -1)
        if values.shape[0] == rows and values.dim() == 4 and values.shape[2] == tokens:
            return values.transpose(1, 2).reshape(rows, tokens, -1)
        if values.shape[0] == rows and values.shape[1] < tokens:
            # The head is given only the positions that are read.
            return values.reshape(rows, values.shape[1], -1)
        raise ValueError(f"an output of shape {tuple(values.shape)}")

    @torch.no_grad()
    def _take_gradient(self, name: str, parameter: Tensor) -> None:
        """Adds ⟨Δ, gradient⟩ of a parameter, slice by slice along its first dimension, and forgets the gradient."""
        assert parameter.grad is not None
        wide = torch.promote_types(parameter.dtype, torch.float32)
        both = parameter.grad.to(wide) * self._pair.delta(name).to(wide)
        found = both.reshape(_slices(parameter), -1).sum(dim=1).cpu().double()
        parameter.grad = None
        shares = self._shares[self._kind]
        shares[name] = shares[name] + found if name in shares else found


def _slices(parameter: Tensor) -> int:
    """How many numbers are kept of a parameter's gradient: one per expert of a stack of matrices, else one."""
    return len(parameter) if parameter.dim() == 3 else 1


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def choose_way(pair: ModelPair, prefixes: Sequence[TokenIds]) -> Way:
    """Decides how each parameter is attributed, by comparing with plain gradients on the ends of one text.

    Raises:
        ModelError: the model has no gradients at all.
    """
    parameters = set(pair.parameters)
    text = max(prefixes, key=len)
    rows = [
        _Row(text[-length:], {0: Margin((), text[-1], text[-1] - 1 if text[-1] else 1)}, ((0, number),))
        for number, length in enumerate(_TRIAL_TOKENS)
    ]
    stacks = {name for name in parameters if pair.parameters[name].dim() == 3}
    with differentiable(pair.model), pair.between(0.5):
        try:
            true = [next(Way(pair, False, parameters).passed([row])) for row in rows]
        except RuntimeError as error:
            raise ModelError(
                f"locate: {type(pair.model).__name__} can't be differentiated ({error}); nothing can be attributed"
            ) from error
        expected = [{name: float(shares.sum()) for name, shares in found[2][0].items()} for found in true]
        if not stacks and not pair.routes:
            together = Way(pair, True, set())
            with suppress(_NoShareError):
                if not _unlike(together, rows, expected):
                    return together
        apart = set(stacks)
        while True:
            try:
                return Way(pair, False, apart | _unlike(Way(pair, False, set(apart)), rows, expected))
            except _NoShareError as error:
                apart |= error.names


def _unlike(way: Way, rows: Sequence[_Row], expected: Sequence[dict[str, float]]) -> set[str]:
    """The parameters whose shares differ from plain gradients by this way.

    Raises:
        _NoShareError: some parameters have no share by this way.
    """
    tolerance = _TOLERANCE.get(way.pair.model.dtype, _TOLERANCE_IN_HALF)
    batches = [rows] if way.batched else [[row] for row in rows]
    found = [each for batch in batches for each in way.passed(batch)]
    wrong: set[str] = set()
    for (_, _, shares, _), true in zip(found, expected, strict=True):
        whole = sum(map(abs, true.values()))
        for name, value in true.items():
            mine = float(shares[0][name].sum())
            # A share of exactly 0 is one that was missed, however small the true one is.
            if abs(mine - value) > tolerance * whole or (mine == 0 and abs(value) > _MISSED * whole):
                wrong.add(name)
    return wrong
