"""Statistics of the inputs of each weight matrix of a block, gathered on the still-dense block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.calibration import Batch
from anomia.compress.calls import Call, run_block
from anomia.compress.exponents import near_one
from anomia.compress.matrices import FusedExperts, WeightMatrix, find_fused_experts, find_matrices
from anomia.compress.products import Watched, WeightProducts
from anomia.errors import RefusedError

# Tokens and Hessian rows per step: large enough for fast products, small enough for the caches and for buffers that
# aren't returned to the system each time.
_ROWS = 1024
_STRIP = 256


class StatisticNeeds(NamedTuple):
    """The statistics that a method needs. Norms are always gathered; sums: also Σx and Σ|x|."""

    hessian: bool = False
    languages: bool = False
    sums: bool = False

    def __or__(self, other: tuple[bool, ...]) -> StatisticNeeds:
        """Return the statistics that either needs."""
        return StatisticNeeds(*(mine or theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(slots=True)
class LanguageStatistic:
    """Sums over the tokens of one language. sum_squares: [in]. active: how often each input was above zero, [in]."""

    sum_squares: torch.Tensor
    active: torch.Tensor
    tokens: int = 0


@dataclass(slots=True)
class InputStatistic:
    """Sums over the calibration tokens that reached an input, in float32; padding is ignored.

    sum_squares: [in]. hessian: X·Xᵀ, [in, in], if requested; `finish` fills in its lower half, and multiplies it by a
    power of four if it is far from 1.
    sum, sum_abs: Σx and Σ|x|, [in], if requested.
    faint: inputs that some token excited so little that its square is zero, [in] bool; None if there is none.
    """

    sum_squares: torch.Tensor
    tokens: int = 0
    hessian: torch.Tensor | None = None
    languages: dict[str, LanguageStatistic] = field(default_factory=dict)
    sum: torch.Tensor | None = None
    sum_abs: torch.Tensor | None = None
    faint: torch.Tensor | None = None

    @property
    def norms(self) -> torch.Tensor:
        """The L2 norm ‖X‖₂ of each input over all tokens, [in] float32."""
        return self.sum_squares.sqrt()

    def add(
        self, inputs: torch.Tensor, needs: StatisticNeeds, language: str, weights: torch.Tensor | None = None
    ) -> None:
        """Add the tokens `inputs`, [T, in]. weights: of each token in all sums, [T] float32; None if all are 1."""
        parts = repeat(None) if weights is None else torch.split(weights, _ROWS)
        for rows, mine in zip(torch.split(inputs, _ROWS), parts, strict=False):
            self._add(rows.float(), needs, language, mine)

    def _add(
        self, plain: torch.Tensor, needs: StatisticNeeds, language: str, weights: torch.Tensor | None
    ) -> None:
        """Add the tokens `plain`, [T, in] float32."""
        # Products of two such values have the token's weight.
        values = plain if weights is None else plain * weights.sqrt()[:, None]
        if needs.hessian:
            if self.hessian is None:
                self.hessian = values.new_zeros(values.shape[1], values.shape[1])
            _add_gram(self.hessian, values)
        squares = torch.linalg.vecdot(values, values, dim=0)
        self.sum_squares += squares
        self.tokens += len(values)
        if bool((silent := squares == 0).any()) and bool((excited := silent & values.any(dim=0)).any()):
            self.faint = excited if self.faint is None else self.faint | excited
        if needs.sums:
            before = torch.zeros_like(self.sum_squares)
            once = plain if weights is None else plain * weights[:, None]
            self.sum = (before if self.sum is None else self.sum) + once.sum(dim=0)
            self.sum_abs = (before if self.sum_abs is None else self.sum_abs) + once.abs().sum(dim=0)
        if needs.languages:
            mine = self.languages.get(language)
            if mine is None:
                zeros = torch.zeros_like(self.sum_squares)
                mine = self.languages[language] = LanguageStatistic(zeros, zeros.clone())
            mine.sum_squares += squares
            mine.active += (values > 0).sum(dim=0)
            mine.tokens += len(values)

    def finish(self, where: str) -> None:
        """Copy the upper half of the Hessian, [in, in], to the lower half, and bring it near 1.

        Raises `CompressionError` if a sum is NaN or infinite, since scores can't be computed from it.
        """
        broken = int((~torch.isfinite(self.sum_squares)).sum())
        if broken or (self.hessian is not None and not torch.isfinite(self.hessian).all()):
            raise RefusedError(
                f"{where}: the activations that enter it are NaN, infinite or too large in {broken or 'some'} of "
                f"{len(self.sum_squares)} inputs, so no weight can be scored; load the model in a wider type "
                "(--dtype bfloat16 or float32)"
            )
        if self.hessian is not None:
            upper = self.hessian.triu_()
            upper += upper.triu(1).T
            self.hessian = near_one(upper)


class SharedInput(NamedTuple):
    """Matrices that share their input (q/k/v, gate/up), with its statistic; `None` if no token reached it.

    gradients: for methods that need them, [out, in] float32 each, in the order of the matrices.
    """

    matrices: tuple[WeightMatrix, ...]
    statistic: InputStatistic | None
    gradients: tuple[torch.Tensor, ...] = ()


class _ReadError(Exception):
    """Raised to end a block's forward pass once the last input is read."""


@torch.no_grad()
def observe(
    block: nn.Module,
    batches: Sequence[Batch],
    hidden: Callable[[int], torch.Tensor],
    calls: Sequence[Call],
    needs: StatisticNeeds,
    *,
    where: str,
) -> list[SharedInput]:
    """Run a block on all batches and gather the statistic of every matrix's input.

    hidden(i): the block's input states in batch i, [B, S, H]. calls: one per batch.
    A batch ends at the layer whose input was the last one read in the first batch. Groups of matrices are in order of
    first use; matrices that no token reached come last. If a weight is multiplied without calling its layer (`dt_proj`
    of Mamba), its input is taken from the product.

    Raises `CompressionError` for fused experts that the block doesn't use one matrix at a time, and for activations
    that are NaN or infinite.
    """
    matrices = {matrix.name: matrix for matrix in find_matrices(block, where=where)}
    experts = find_fused_experts(block, where=where)
    whole = bool(calls) and calls[0].whole is not None
    gathering = _Gathering(needs, where, shares=not whole)
    modules = {name: block.get_submodule(name) for name in matrices}
    slices = [Watched(*matrix) for fused in experts for matrix in fused.matrices()]
    if whole:
        # Another layer may share the matrix.
        slices += [Watched(*matrix) for matrix in matrices.values()]
        modules = {}
    last: str | None = None
    uncalled: list[Watched] = []
    for index, batch in enumerate(batches):
        gathering.start(batch, last)
        padded = batch.real is not None
        with _watching(modules, [*slices, *uncalled], gathering.take, padded), suppress(_ReadError):
            run_block(block, hidden(index), calls[index])
        fired = set(gathering.fired)
        if index == 0 and not experts and len(fired) == len(matrices) and not whole:
            last = gathering.fired[-1]
        elif index == 0 and (silent := [Watched(*m) for m in matrices.values() if m.name not in fired]):
            gathering.start(batch, None)
            with _watching({}, silent, gathering.take, padded):
                run_block(block, hidden(index), calls[index])
            uncalled = [each for each in silent if each.name in gathering.fired]
    gathering.check_shared()
    for name, statistic in gathering.statistics.items():
        statistic.finish(f"{where}.{name}")
    return _grouped(matrices, experts, gathering)


class _Gathering:
    """Gathers the statistics of one block. owners: by matrix name, the first matrix with the same input."""

    def __init__(self, needs: StatisticNeeds, where: str, *, shares: bool = True) -> None:
        self.statistics: dict[str, InputStatistic] = {}
        self.owners: dict[str, str] = {}
        self.fired: list[str] = []
        self.where = where
        self._needs = needs
        self._shares = shares
        self._times: Counter[str] = Counter()
        self._seen: dict[tuple[Any, ...], tuple[torch.Tensor, str, set[str]]] = {}

    def start(self, batch: Batch, last: str | None) -> None:
        self._batch, self._last = batch, last
        self.fired = []
        self._seen = {}

    def take(self, name: str, inputs: torch.Tensor, source: torch.Tensor) -> None:
        """Take the input of a matrix, [..., in], right before the product. source: the tensor that holds its values."""
        self.fired.append(name)
        if inputs.numel():
            self._count(name, inputs, source)
        if name == self._last:
            self._seen = {}
            raise _ReadError

    def _count(self, name: str, inputs: torch.Tensor, source: torch.Tensor) -> None:
        """Add an input once per batch for all matrices that share it.

        inputs: [..., in]. source: the tensor with their values, of any shape; the same tensor means a shared input.
        Raises `CompressionError` if a matrix shares its input only in some batches.
        """
        # The reference in `_seen` keeps the memory from being reused for another tensor of this batch.
        key = (
            source.data_ptr(),
            *source.shape,
            *source.stride(),
            source._version,
            "" if self._shares else name,
        )
        _, owner, named = self._seen.setdefault(key, (source, self.owners.get(name, name), set()))
        if self.owners.setdefault(name, owner) != owner:
            raise RefusedError(f"{self.where}.{name} doesn't share its input with {owner} in every batch")
        self._times[name] += name not in named
        if owner == name and name not in named:
            rows = _real_rows(inputs, self._batch, f"{self.where}.{name}")
            if name not in self.statistics:
                zeros = torch.zeros(rows.shape[1], dtype=torch.float32, device=rows.device)
                self.statistics[name] = InputStatistic(zeros)
            weights = _real_weights(
                len(inputs.reshape(-1, inputs.shape[-1])), self._batch, f"{self.where}.{name}"
            )
            self.statistics[name].add(rows, self._needs, self._batch.languages[0], weights)
        named.add(name)

    def check_shared(self) -> None:
        """Refuse matrices that shared an input in some batches only."""
        for name, owner in self.owners.items():
            if self._times[name] != self._times[owner]:
                raise RefusedError(f"{self.where}.{name} doesn't share its input with {owner} each time")


def _grouped(
    matrices: dict[str, WeightMatrix], experts: Sequence[FusedExperts], gathering: _Gathering
) -> list[SharedInput]:
    """Group the matrices of a block, [out, in] each, by the input that they share, with its statistic.

    matrices: by name, without those of `experts`. Matrices that no token reached are groups of their own, without a
    statistic.
    Raises `CompressionError` for a stack of experts, [E, out, in], that the model doesn't use one by one.
    """
    owners = gathering.owners
    for fused in experts:
        slices = {matrix.name: matrix for matrix in fused.matrices()}
        if not slices.keys() & owners.keys():
            raise RefusedError(
                f"{gathering.where}.{fused.name} holds the matrices of {len(slices)} experts in one parameter"
                f" {list(fused.parameter.shape)} that the model doesn't use one by one; such a mixture can't"
                " be pruned with calibration text, and is not silently left dense"
            )
        matrices = matrices | slices
    groups: dict[str, list[WeightMatrix]] = {}
    for name, owner in owners.items():
        groups.setdefault(owner, []).append(matrices[name])
    unseen = [SharedInput((matrix,), None) for name, matrix in matrices.items() if name not in owners]
    return [
        SharedInput(tuple(group), gathering.statistics[owner]) for owner, group in groups.items()
    ] + unseen


def _real_rows(inputs: torch.Tensor, batch: Batch, where: str) -> torch.Tensor:
    rows = inputs.reshape(-1, inputs.shape[-1])
    if batch.real is None:
        return rows
    if len(rows) != len(batch.real):
        raise RefusedError(f"{where}: {len(rows)} rows for {len(batch.real)} tokens of a padded batch")
    return rows[batch.real.to(rows.device)]


def _real_weights(rows: int, batch: Batch, where: str) -> torch.Tensor | None:
    """Return the weights of the tokens that aren't padding, [T] float32; None if all are 1. rows: of the input."""
    if batch.weights is None:
        return None
    if rows != len(batch.weights):
        raise RefusedError(
            f"{where} gets {rows} of {len(batch.weights)} tokens, as the experts of a mixture do, and answers can't be "
            "weighted there; leave out --answer-weight"
        )
    return batch.weights if batch.real is None else batch.weights[batch.real]


def _add_gram(total: torch.Tensor, values: torch.Tensor) -> None:
    """Add valuesᵀ·values to the upper half of `total` [in, in] in place, in strips. values: [T, in] float32."""
    # BLAS can compute half of a symmetric product, but its threads would spin and compete with PyTorch's.
    for first in range(0, len(total), _STRIP):
        strip = slice(first, first + _STRIP)
        total[strip, first:].addmm_(values[:, strip].T, values[:, first:])


@contextmanager
def _watching(
    modules: Mapping[str, nn.Module],
    products: Sequence[Watched],
    take: Callable[[str, torch.Tensor, torch.Tensor], None],
    padded: bool,
) -> Iterator[None]:
    """Call `take` for the input of each module, and for each product with one of the other matrices.

    take: gets a matrix's name, its input [..., in], and the tensor that holds the input's values.
    padded: keep rows of zeros in the inputs of products, since rows must match the tokens of a padded batch.
    """

    def hook(name: str) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            take(name, inputs, inputs)

        return read

    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_pre_hook(hook(name), with_kwargs=True)
            stack.callback(handle.remove)
        if products:
            stack.enter_context(WeightProducts(products, take, drops_zeros=not padded))
        yield
