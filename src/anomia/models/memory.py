"""Models that are already in memory, as in a notebook: they get a name and are loaded by it as copies."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from anomia.errors import ModelError
from anomia.models.fingerprint import fingerprint_weights

PREFIX = "memory:"
_HELD: dict[str, tuple[Any, Any]] = {}


def hold(model: Any, tokenizer: Any, *, name: str = "model") -> str:
    """Keeps a model and its tokenizer in this process, and returns its name for use as base or checkpoint.

    The name ends in a fingerprint of the weights, so that a resumed run finds the same weights or none.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") or "model"
    # The last hyphen separates the name from the fingerprint.
    label = f"{PREFIX}{slug}-{fingerprint_weights(model).replace('-', '')}"
    _HELD[label] = (model, tokenizer)
    return label


def given_name(label: str) -> str | None:
    """The name of a held model without its fingerprint; None for other models."""
    return label.removeprefix(PREFIX).rpartition("-")[0] if label.startswith(PREFIX) else None


def let_go(labels: Iterable[str]) -> None:
    """Forgets held models, so that their memory can be freed."""
    for label in labels:
        _HELD.pop(label, None)


def held(name: str) -> tuple[Any, Any]:
    """A copy of a held model, which compression may change, and its tokenizer.

    Raises:
        ModelError: no model is held under this name, for example because another process held it.
    """
    if name not in _HELD:
        raise ModelError(
            f"model: {name!r} was held in memory by a process that has ended; give the model again, or save it "
            "as a folder"
        )
    model, tokenizer = _HELD[name]
    return copy.deepcopy(model), tokenizer
