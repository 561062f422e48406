"""Models that a notebook already holds: given a name under which they are loaded like any other, as copies."""

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
    """Keeps a model and its tokenizer for this process, and returns what to call it as base or checkpoint.

    The name ends in a fingerprint of the weights: a run that is gone on with meets the same weights or none.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") or "model"
    # The last hyphen parts the name from the fingerprint.
    label = f"{PREFIX}{slug}-{fingerprint_weights(model).replace('-', '')}"
    _HELD[label] = (model, tokenizer)
    return label


def given_name(label: str) -> str | None:
    """The name that a model was held under, without its fingerprint; None for a model that is not held."""
    return label.removeprefix(PREFIX).rpartition("-")[0] if label.startswith(PREFIX) else None


def let_go(labels: Iterable[str]) -> None:
    """Forgets models, so that their memory can be used again."""
    for label in labels:
        _HELD.pop(label, None)


def held(name: str) -> tuple[Any, Any]:
    """A copy of a held model, which compression may change, and its tokenizer.

    Raises:
        ModelError: nothing is held under this name, as in another process than the one that held it.
    """
    if name not in _HELD:
        raise ModelError(
            f"model: {name!r} was held in memory by a process that has ended; give the model again, or save it "
            "as a folder"
        )
    model, tokenizer = _HELD[name]
    return copy.deepcopy(model), tokenizer
