"""The modules that an adapter's settings target, as in peft; stored factors of other modules are not used."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.errors import ModelError
from anomia.models.adapter_settings import listed
from anomia.models.adapters import Adapter

_ALL_LINEAR = "all-linear"
# The settings that peft checks, in its order.
_EXCLUDED, _SAVED, _TARGETS, _LAYERS = (
    "exclude_modules", "modules_to_save", "target_modules", "layers_to_transform",
)  # fmt: skip


def linear_modules(model: Any) -> frozenset[str]:
    """Names of the modules meant by `target_modules: "all-linear"`: all linear layers except the output head."""
    head = model.get_output_embeddings()
    return frozenset(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    )


def check_targets(adapter: Adapter) -> None:
    """Refuses module settings that peft can't read either.

    Raises:
        ModelError: a setting has the wrong type or isn't a valid pattern, or two contradict each other.
    """
    settings = adapter.settings
    targets, layers, pattern = (settings.get(key) for key in (_TARGETS, _LAYERS, "layers_pattern"))

    def refuse(what: str) -> ModelError:
        return ModelError(
            f"model: {adapter.name!r} has {what} in adapter_config.json; copy the file from where the adapter came from"
        )

    for key in (_TARGETS, _EXCLUDED, "layers_pattern", _SAVED):
        value = settings.get(key)
        names = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(name, str) for name in names):
            raise refuse(f"a {key} that is neither a name nor a list of names ({value!r})")
        for name in names if isinstance(value, str) or key in ("layers_pattern", _SAVED) else ():
            try:
                re.compile(name)
            except re.error:
                raise refuse(f"a {key} that is not a pattern ({name!r})") from None
    numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise refuse(f"a {_LAYERS} that is neither a number nor a list of numbers ({layers!r})")
    if isinstance(targets, str) and (layers is not None or pattern is not None):
        raise refuse(f"{_LAYERS} or layers_pattern next to target_modules that are one pattern ({targets!r})")
    if pattern and layers is None:
        raise refuse(f"a layers_pattern ({pattern!r}) without {_LAYERS}")


def leaves_out(adapter: Adapter, names: Sequence[str], linear: Collection[str]) -> str:
    """The setting that excludes factors from a module; "" if they are used, or if no setting names modules.

    Args:
        adapter: an adapter whose settings were checked with `check_targets`.
        names: the module's name here, and its name in the adapter's file, from the model it was made on.
        linear: see `linear_modules`.
    """
    found = [_leaves_out(adapter, name, linear) for name in names]
    return "" if "" in found else found[0]


def _leaves_out(adapter: Adapter, name: str, linear: Collection[str]) -> str:
    """Like `check_target_module_exists` of peft 0.21."""
    settings = adapter.settings
    excluded, targets = settings.get(_EXCLUDED), settings.get(_TARGETS)
    if excluded and (
        re.fullmatch(excluded, name) if isinstance(excluded, str) else _ends_in(name, listed(excluded))
    ):
        return _EXCLUDED
    saved = settings.get(_SAVED)
    if any(re.match(rf"(^|.*\.){each}($|\..*)", name) for each in listed(saved)):
        return _SAVED
    if targets is None:
        return ""
    if isinstance(targets, str):
        fits = name in linear if targets.lower() == _ALL_LINEAR else bool(re.fullmatch(targets, name))
        return "" if fits else _TARGETS
    if not _ends_in(name, listed(targets)):
        return _TARGETS
    layers = settings.get(_LAYERS)
    if layers is None or layers == []:
        return ""
    layer = _layer(name, settings.get("layers_pattern"))
    return (
        "" if layer is not None and layer in (layers if isinstance(layers, list) else [layers]) else _LAYERS
    )


def _ends_in(name: str, ends: Sequence[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _layer(name: str, pattern: Any) -> int | None:
    """The layer number in a module's name."""
    patterns = [r"[^.]*"] if not pattern else [pattern] if isinstance(pattern, str) else listed(pattern)
    # Without a pattern, something has to come before the name of the list of layers.
    start = r"(?:^|.*?\.)" if pattern else r".*?\."
    found = (re.match(rf"{start}{each}\.(?P<layer>\d+)\.", name) for each in patterns)
    return next((int(match["layer"]) for match in found if match), None)
