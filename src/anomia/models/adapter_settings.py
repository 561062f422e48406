"""Reads an adapter's settings, for the whole adapter and for single modules, as peft does."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from anomia.errors import ModelError
from anomia.models.adapters import LORA, TOKENS, Adapter

# LoRA settings that don't affect what a saved adapter computes, or that are implemented here.
_FOLLOWED = {
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "target_parameters", "task_type", "token_indices", "trainable_token_indices", "use_dora", "use_rslora",
    "velora_config", "init_weights",
}  # fmt: skip
# These initializations change the base's weights before training, so the saved factors fit no other weights.
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def needs_peft(adapter: Adapter) -> str:
    """The reason why only peft can merge an adapter; "" if this program can."""
    settings = adapter.settings
    if adapter.kind == TOKENS:
        return ""
    if adapter.kind != LORA:
        return f"it is of the kind {adapter.kind}"
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_MOVES_BASE):
        return f"init_lora_weights is {init!r}, which changes the base's own weights first"
    used = [key for key in ("target_parameters", "arrow_config") if settings.get(key)]
    used += [key for key, value in settings.items() if value and key not in _FOLLOWED]
    return f"it uses {', '.join(used)}" if used else ""


def indices_of(adapter: Adapter, module: str) -> list[int]:
    """The indices of a module's trained rows, in stored order."""
    given = adapter.settings.get("token_indices" if adapter.kind == TOKENS else "trainable_token_indices")
    if isinstance(given, Mapping):
        given = next(
            (rows for name, rows in given.items() if module == name or module.endswith(f".{name}")), None
        )
    if not isinstance(given, list) or not all(isinstance(index, int) and index >= 0 for index in given):
        raise ModelError(
            f"model: {adapter.name!r} holds rows of {module}, and its settings don't say which "
            "(trainable_token_indices)"
        )
    return given


def rank_of(adapter: Adapter, module: str) -> int:
    """The rank of a module's factors; 0 if the settings give none."""
    found = _of_pattern(adapter, "rank_pattern", module) or adapter.settings.get("r")
    return int(found) if isinstance(found, int) else 0


def scale_of(adapter: Adapter, module: str) -> float:
    """The factor for a module's B·A: alpha / rank, or alpha / √rank (rsLoRA, Kalajdzievski 2023).

    Raises:
        ModelError: the settings have no alpha or rank, or an alpha that isn't a number.
    """
    alpha = _of_pattern(adapter, "alpha_pattern", module)
    alpha = adapter.settings.get("lora_alpha") if alpha is None else alpha
    if alpha is None:
        raise ModelError(
            f"model: {adapter.name!r} has no lora_alpha in its settings; without it the size of its change is unknown"
        )
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ModelError(
            f"model: {adapter.name!r} has {alpha!r} as lora_alpha of {module}, which is not a number; correct it in"
            " adapter_config.json"
        )
    rank = rank_of(adapter, module)
    if rank < 1:
        raise ModelError(
            f"model: {adapter.name!r} has no rank (r) for {module} in its settings; without it the size of its change "
            "is unknown; correct it in adapter_config.json"
        )
    return float(alpha) / (math.sqrt(rank) if adapter.settings.get("use_rslora") else rank)


def _of_pattern(adapter: Adapter, key: str, module: str) -> Any:
    """The value of a pattern setting for a module, as in peft: the first pattern that matches the end of its name."""
    patterns = adapter.settings.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise ModelError(
            f"model: {adapter.name!r} has a {key} that is not a mapping of modules ({patterns!r}); correct it in"
            " adapter_config.json"
        )
    for pattern, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error:
            raise ModelError(
                f"model: {adapter.name!r} has a {key} that is not a pattern: {pattern!r}"
            ) from None
        if matches:
            return value
    return None


def listed(value: Any) -> list[str]:
    """A list of names; empty for a pattern or a missing value."""
    return [str(each) for each in value] if isinstance(value, list) else []
