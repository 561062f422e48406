"""Weights that aren't parameters but are computed from other tensors in each pass, so changes to them are lost."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from anomia.errors import RefusedError

_PARAMETRIZED = "torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
_HOOKS = (
    (BasePruningMethod, "_tensor_name", "torch.nn.utils.prune.remove(layer, {name!r})"),
    (WeightNorm, "name", "torch.nn.utils.remove_weight_norm(layer, {name!r})"),
    (SpectralNorm, "name", "torch.nn.utils.remove_spectral_norm(layer, {name!r})"),
)


def computed(module: nn.Module) -> dict[str, str]:
    """Return the names of the tensors that a module computes in each pass, with the call that makes each permanent."""
    found = {}
    if is_parametrized(module):
        parametrized = getattr(module, "parametrizations")  # noqa: B009
        found = {name: _PARAMETRIZED.format(name=name) for name in parametrized}
    for hook in module._forward_pre_hooks.values():
        for kind, attribute, remedy in _HOOKS:
            if isinstance(hook, kind):
                name = getattr(hook, attribute)
                found[name] = remedy.format(name=name)
    return found


def check_own(module: nn.Module, name: str, *, where: str) -> None:
    """Refuse a tensor of a module that is computed in each pass. where: the module's path in the model.

    Raises `RefusedError`.
    """
    if name in module._parameters:
        return
    remedy = computed(module).get(name)
    how = f"make it permanent first: {remedy}" if remedy else "store it as a parameter first"
    raise RefusedError(
        f"{where}.{name} is no parameter: it is computed from other tensors in each pass, so every change "
        f"of it would be lost; {how}"
    )
