"""Two models with the same parameters: a map of the weights that differ, and swapping them in place.

The compressed model is the working one. Base's values of a unit are copied into its memory and the compressed values
back, so that addresses stay valid (captured GPU steps hold them) and every bit is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from anomia.compress.blocks import find_blocks
from anomia.compress.left_dense import EMBEDDING, HEAD, NORM, why_dense
from anomia.compress.matrices import compressed_layers, find_fused_experts
from anomia.compress.routers import has_experts
from anomia.errors import ModelError

UnitKind = Literal["matrix", "norm", "embedding", "head", "bias", "other"]
KINDS: tuple[UnitKind, ...] = get_args(UnitKind)
_REASONS: Mapping[str, UnitKind] = {EMBEDDING: "embedding", HEAD: "head", NORM: "norm"}
_TRIAL_TOKENS = 16


class WeightUnit(NamedTuple):
    """Weights that are restored together: a parameter that differs, or the slice of one expert in a fused parameter.

    name: path in the model, without `.weight`; a slice ends in `[index]`. parameter: name of the whole parameter.
    expert: the number of the slice. block: index of its block; None outside of the blocks. place: its name inside the
    block.
    weights: how many it has. changed: how many of them differ.
    """

    name: str
    parameter: str
    expert: int | None
    block: int | None
    place: str
    kind: UnitKind
    weights: int
    changed: int


class ModelPair:
    """A compressed model and base's values of every parameter that differs.

    model: the working model. It holds the compressed weights unless `restored` or `between` says otherwise.
    units: what differs, in the model's order. blocks: the number of blocks. weights: of the whole model, whether they
    differ or not.
    """

    def __init__(self, base: Any, compressed: Any, text: Sequence[int] = ()) -> None:
        """Aligns two models; `base` must not be used for anything else afterwards.

        text: token ids of the longest text that will be asked. Settings such as attention windows and rotary positions
        show only there.

        Raises:
            ModelError: they can't be aligned parameter by parameter, or differ in more than their weights.
        """
        self.model: Any = _finer(base, compressed)
        expected = _trials(base, text)
        other = base if self.model is compressed else compressed
        _check_parts(self.model, other)
        mine = dict(self.model.named_parameters())
        theirs = dict(other.named_parameters(remove_duplicate=False))
        changed = {name: p for name, p in mine.items() if not same_bits(p.data, theirs[name].data)}
        self._parameters: dict[str, nn.Parameter] = changed
        there = {name: theirs[name].data for name in changed}
        here = {name: p.data.clone() for name, p in changed.items()}
        self._base: Mapping[str, Tensor] = there if other is base else here
        self._compressed: Mapping[str, Tensor] = here if other is base else there
        self._check_buffers(base, compressed)
        self._decoder = find_blocks(self.model)
        self.blocks = len(self._decoder.modules)
        self.weights = sum(p.numel() for p in mine.values())
        self.units = tuple(self._find_units())
        self._places = {unit.name: unit for unit in self.units}
        self.put_back()
        with self.restored(self.names):
            found = _trials(self.model, text)
        if not all(map(same_bits, expected, found)):
            raise ModelError(
                "locate: with all weights of base, the compressed model still computes something else: they differ "
                "in their settings; `anomia diff BASE COMPRESSED` says in which"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all units."""
        return tuple(unit.name for unit in self.units)

    @property
    def block_modules(self) -> tuple[nn.Module, ...]:
        """The blocks of the working model, in order."""
        return self._decoder.modules

    @property
    def routes(self) -> bool:
        """Whether blocks route tokens to experts, so that a layer may see the tokens of a batch in another order."""
        return any(map(has_experts, self._decoder.modules))

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The parameters of the working model that differ, by name."""
        return self._parameters

    def delta(self, parameter: str) -> Tensor:
        """Base's values of a parameter minus the compressed ones, in the parameter's shape and dtype."""
        return self._base[parameter] - self._compressed[parameter]

    @contextmanager
    def restored(self, names: Collection[str]) -> Iterator[Any]:
        """The model with base's weights in these units and compressed ones in the others.

        Afterwards all units hold the compressed weights again, also after an exception.
        """
        unknown = [name for name in names if name not in self._places]
        if unknown:
            raise KeyError(f"no unit {unknown[0]!r} differs between the two models")
        try:
            for name in names:
                self._write(self._places[name], self._base)
            yield self.model
        finally:
            self.put_back(names)

    @contextmanager
    def between(self, alpha: float) -> Iterator[Any]:
        """The model with the weights compressed + alpha · (base − compressed) in all units; then as before."""
        try:
            for name, parameter in self._parameters.items():
                if alpha == 1.0:
                    _copy(parameter.data, self._base[name])
                elif alpha != 0.0:
                    wide = torch.promote_types(parameter.dtype, torch.float32)
                    one, other = self._compressed[name].to(wide), self._base[name].to(wide)
                    _copy(parameter.data, torch.lerp(one, other, alpha).to(parameter.dtype))
            yield self.model
        finally:
            self.put_back()

    def put_back(self, names: Iterable[str] | None = None) -> None:
        """Writes the compressed weights of some units, or of all."""
        if names is None:
            for name, parameter in self._parameters.items():
                _copy(parameter.data, self._compressed[name])
            return
        for name in names:
            self._write(self._places[name], self._compressed)

    def _write(self, unit: WeightUnit, values: Mapping[str, Tensor]) -> None:
        target, source = self._parameters[unit.parameter].data, values[unit.parameter]
        if unit.expert is not None:
            target, source = target[unit.expert], source[unit.expert]
        _copy(target, source)

    def _find_units(self) -> Iterator[WeightUnit]:
        """Yields the units that differ: parameters of any shape or, of a stack of experts, [E, …], single slices."""
        kinds, experts = self._kinds()
        for name, parameter in self._parameters.items():
            unlike = _bits(self._base[name]) != _bits(self._compressed[name])
            block, place = self._place(name)
            short = name.removesuffix(".weight")
            whole = WeightUnit(
                short,
                name,
                None,
                block,
                place.removesuffix(".weight"),
                kinds.get(name) or _kind_of_vector(self.model, name),
                parameter.numel(),
                int(unlike.sum()),
            )
            if name not in experts:
                yield whole
                continue
            for index, part in enumerate(unlike):
                if part.any():
                    yield whole._replace(
                        name=f"{short}[{index}]",
                        expert=index,
                        place=f"{whole.place}[{index}]",
                        weights=part.numel(),
                        changed=int(part.sum()),
                    )

    def _kinds(self) -> tuple[dict[str, UnitKind], set[str]]:
        """The kinds of the parameters of two or more dimensions, and the names of those with a matrix per expert."""
        found: dict[str, UnitKind] = {
            name: _REASONS.get(reason, "other")
            for name, reason in why_dense(self.model, self._decoder).items()
        }
        experts: set[str] = set()
        for index, block in enumerate(self._decoder.modules):
            path = self._decoder.path(index)
            for name, _ in compressed_layers(block):
                found[f"{path}.{name}.weight"] = "matrix"
            for fused in find_fused_experts(block, where=path):
                found[f"{path}.{fused.name}"] = "matrix"
                # A parameter of two dimensions holds its experts one below the other: its rows are no matrices.
                if fused.parameter.dim() > 2:
                    experts.add(f"{path}.{fused.name}")
        return found, experts

    def _place(self, name: str) -> tuple[int | None, str]:
        """The block of a parameter and its name inside; None and the whole name outside of the blocks."""
        for index in range(len(self._decoder.modules)):
            path = f"{self._decoder.path(index)}."
            if name.startswith(path):
                return index, name.removeprefix(path)
        return None, name

    def _check_buffers(self, base: Any, compressed: Any) -> None:
        mine, theirs = dict(compressed.named_buffers()), dict(base.named_buffers())
        unlike = [
            name
            for name in sorted({*mine, *theirs})
            if name not in mine or name not in theirs or not same_bits(mine[name], theirs[name])
        ]
        if unlike:
            raise ModelError(
                f"locate: the two models differ in {unlike[0]}, which is computed from settings and is no weight; "
                "`anomia diff BASE COMPRESSED` says in which"
            )


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape, dtype and bits: NaN equals itself, and 0 differs from −0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(_bits(one), _bits(other)))


def _bits(values: Tensor) -> Tensor:
    """The bits of floating-point values as integers, in the same shape; other values as they are."""
    if not values.is_floating_point():
        return values
    size: Any = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize]
    return values.contiguous().view(size)


@torch.no_grad()
def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def _kind_of_vector(model: nn.Module, name: str) -> UnitKind:
    path, _, leaf = name.rpartition(".")
    if leaf.endswith("bias"):
        return "bias"
    return "norm" if "norm" in type(model.get_submodule(path)).__name__.lower() else "other"


def _finer(base: nn.Module, compressed: nn.Module) -> nn.Module:
    """The model that ties fewer parameters; it can hold the weights of both. The compressed one if they tie alike."""
    mine, theirs = _ties(compressed), _ties(base)
    if mine == theirs:
        return compressed
    for one, other, model in ((mine, theirs, compressed), (theirs, mine, base)):
        if all(any(group <= larger for larger in other) for group in one):
            return model
    raise ModelError("locate: the two models tie different weights, so that neither can hold the other's")


def _ties(model: nn.Module) -> set[frozenset[str]]:
    """The groups of names under which the model has one and the same parameter."""
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return {frozenset(group) for group in groups.values()}


def _check_parts(one: nn.Module, other: nn.Module) -> None:
    """Refuses models whose parameters, of any shape, can't be swapped one for one.

    Raises:
        ModelError: with the first parameter that can't.
    """
    mine, theirs = (dict(model.named_parameters(remove_duplicate=False)) for model in (one, other))
    for model, parameters in ((one, mine), (other, theirs)):
        for name, parameter in parameters.items():
            plain = type(parameter.data) is Tensor and parameter.is_floating_point() and not parameter.is_meta
            if not plain:
                raise ModelError(
                    f"locate: {name} of {type(model).__name__} is stored as {parameter.dtype} "
                    f"({type(parameter.data).__name__}): packed weights can't be swapped one for one; give the same "
                    "model with dequantized values (`anomia compress` writes them unless --save-as says otherwise)"
                )
    lonely = sorted({*mine} ^ {*theirs})
    if lonely:
        raise ModelError(
            f"locate: only one of the two models has {lonely[0]} ({len(lonely)} such parameters): a model whose "
            "layers were removed, renamed or packed can't be compared with base weight by weight"
        )
    for name, parameter in mine.items():
        if parameter.shape != theirs[name].shape:
            raise ModelError(
                f"locate: {name} is {list(parameter.shape)} in one model and {list(theirs[name].shape)} in the other: "
                "a model that was made narrower can't be compared with base weight by weight"
            )
        if parameter.dtype != theirs[name].dtype or parameter.device != theirs[name].device:
            raise ModelError(
                f"locate: {name} is {parameter.dtype} on {parameter.device} in one model and {theirs[name].dtype} on "
                f"{theirs[name].device} in the other; load both with one --dtype and --device"
            )


@torch.no_grad()
def _trials(model: Any, text: Sequence[int]) -> list[Tensor]:
    """The model's logits, to see whether two models compute the same: [1, T, V] for a few tokens, and [V] for the last
    token of a text.
    """
    embeddings = model.get_input_embeddings().weight
    ids = torch.arange(1, 1 + _TRIAL_TOKENS, device=embeddings.device)[None] % int(embeddings.shape[0])
    found: list[Tensor] = [model(input_ids=ids, use_cache=False).logits]
    if text:
        # A vocabulary of 262,144 at a thousand positions would take a gigabyte.
        last = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )
        ids = torch.tensor([text], device=embeddings.device)
        found.append(model(input_ids=ids, use_cache=False, **last).logits[0, -1])
    return found
