"""Refuses models whose tensors don't match their architecture, with the finding and the likely remedy."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from anomia.errors import ModelError
from anomia.models.headers import StoredTensor
from anomia.models.sizes import number, types_of
from anomia.models.tensors import LAYER, SCALE, Account

_WRAPPERS = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "base_model.model.",
    "student.",
)


class _Kind(NamedTuple):
    what: str
    pattern: re.Pattern[str]
    remedy: str


_KINDS = (
    _Kind(
        "pruning masks that were left in",
        re.compile(r"(_mask|\.mask|_orig)$"),
        "call torch.nn.utils.prune.remove on every pruned module, then save again",
    ),
    _Kind(
        "adapter factors that were not merged",
        re.compile(r"lora_|\.base_layer\.|modules_to_save|hada_w|lokr_|vera_|oft_[rR]|ia3_|trainable_tokens"),
        "merge them (PeftModel.merge_and_unload), then save again",
    ),
    _Kind(
        "a parametrization that was left in",
        re.compile(r"(^|\.)parametrizations\.|\.weight_[gv]$"),
        "call torch.nn.utils.parametrize.remove_parametrizations, then save again",
    ),
    _Kind(
        "scales or packed values of quantized weights",
        SCALE,
        "config.json has no quantization_config that would apply them: copy the config.json that the quantizing program"
        " wrote, or save the model dequantized",
    ),
    _Kind(
        "biases that were added, as compensation for what pruning removed",
        re.compile(r"bias$"),
        "if the architecture has a switch for them (attention_bias, mlp_bias), turn it on in config.json; else the "
        "model needs the code that it was made with (an auto_map in config.json, and --trust-remote-code)",
    ),
    _Kind(
        "factors of a GGUF file that scale rotary positions",
        re.compile(r"^rope_(freqs|factors)"),
        "transformers' reader does not apply them; serve the file with llama.cpp and measure it as an endpoint: arm",
    ),
    _Kind(
        "masks",
        re.compile(r"mask"),
        "apply them to the weights, then save again",
    ),
)


_OTHER_CODE = (
    "take the config.json and the code that it was made with, or remove the tensors if they are of training "
    "only"
)
_SERVED = "serve the file with llama.cpp and measure it as an endpoint: arm"


def refuse(name: str, model: Any, found: Account, stored: Mapping[str, StoredTensor]) -> None:
    """Refuses a model whose files and architecture don't match; reports the likeliest cause first.

    Args:
        name: the model's name as given by the user.
        model: a model of the architecture, with or without weights.
        found: the account of its tensors.
        stored: headers of the stored tensors by stored name; empty for a GGUF file.

    Raises:
        ModelError: tensors would be left out, are missing, have another shape, or contain packed values.
    """
    architecture = type(model).__name__
    surplus = {name: kind for name in found.surplus if (kind := _kind(name)) is not None}
    wrapped = _wrapper(found)
    if wrapped:
        raise ModelError(
            f"model: {name!r} lacks {len(found.missing)} of its weights: its tensors have names that start with"
            f" {wrapped!r} ({next(iter(found.surplus))}), as a wrapper of training saved them; save the model inside"
            " the wrapper"
        )
    layers = _layers(name, found, model.config)
    if layers:
        raise ModelError(layers)
    if surplus:
        kind = min(surplus.values(), key=_KINDS.index)
        names = [each for each, its in surplus.items() if its is kind]
        raise ModelError(
            f"model: {name!r} has {_listed(names, stored)} for which {architecture} has no place; they look like"
            f" {kind.what}, and without them this would be another model. Remedy: {kind.remedy}"
        )
    if found.packed:
        example = found.packed[0]
        raise ModelError(
            f"model: {name!r} has {_listed(found.packed, stored)} stored as {stored[example].dtype} without scales that"
            " would be applied; taken as they are they would be wrong by large factors. Copy config.json with its"
            " quantization_config and the scales from where the model came from; weights that were only cast must be"
            " saved as bfloat16"
        )
    if found.mismatched:
        raise ModelError(_mismatch(name, found, stored, model.config))
    if found.missing:
        raise ModelError(
            f"model: {name!r} lacks {len(found.missing)} of its weights, which would be random numbers:"
            f" {_shown(found.missing)}; it is damaged, or stored in a layout that this version of transformers"
            " can't read"
        )
    twice = [each for each, place in found.surplus.items() if place in found.expected]
    if twice:
        raise ModelError(
            f"model: {name!r} has two values for {found.surplus[twice[0]]}, under this name and in"
            f" {_listed(twice, stored)}; remove the tensors that don't belong to this model"
        )
    if found.surplus:
        raise ModelError(
            f"model: {name!r} has {_listed(list(found.surplus), stored)} for which {architecture} has no place; without"
            f" them this would be another model. Remedy: {_OTHER_CODE if stored else _SERVED}"
        )


def _kind(name: str) -> _Kind | None:
    return next((kind for kind in _KINDS if kind.pattern.search(name)), None)


def _wrapper(found: Account) -> str | None:
    """The prefix of a wrapper that keeps most of the missing tensors from their places, if any."""
    for prefix in _WRAPPERS:
        unwrapped = {each.replace(prefix, "", 1) for each in found.surplus if prefix in each}
        if found.missing and len(unwrapped & set(found.missing)) * 2 > len(found.missing):
            return prefix
    return None


def _layers(name: str, found: Account, config: Any) -> str | None:
    """The message if whole layers are missing or surplus, else None."""
    held = _by_stack({*found.filled, *found.surplus.values()})
    for stack, wanted in _by_stack(found.expected).items():
        there = held.get(stack, set())
        if not there or there == wanted:
            continue
        types = ", and shorten layer_types to it" if types_of(config) else ""
        remedy = (
            f"if it was pruned in depth set num_hidden_layers to {len(there)}{types}, else copy the config.json and all"
            " files of one model"
        )
        if sorted(there) != list(range(len(there))):
            remedy = (
                "a model that was pruned in depth must be saved with its layers numbered from 0 and without gaps; if it"
                " wasn't pruned, files are missing"
            )
        return (
            f"model: {name!r} can't be loaded: config.json says {len(wanted)} layers and the files hold {len(there)}"
            f" ({_ranges(there)}); {remedy}"
        )
    return None


def _by_stack(names: Collection[str]) -> dict[str, set[int]]:
    """The layer numbers in tensor names, by the prefix before the number."""
    stacks: dict[str, set[int]] = {}
    for name in names:
        match = LAYER.match(name)
        if match:
            stacks.setdefault(match[1], set()).add(int(match[2]))
    return stacks


def _mismatch(name: str, found: Account, stored: Mapping[str, StoredTensor], config: Any) -> str:
    """The message, with a remedy, on the first tensor whose stored shape differs from the architecture's.

    stored: headers by stored name.
    """
    tensor, there, expected = found.mismatched[0]
    place = stored.get(found.places.get(tensor, tensor))
    where = f" in {place.file.name}" if place else ""
    others = len(found.mismatched) - 1
    more = f" (and {others} more differ{'s' if others == 1 else ''})" if others else ""
    vocabulary = number(config, "vocab_size")
    first = there[0] if there else 0
    if re.search(r"embed|wte|lm_head|embed_out", tensor) and first != vocabulary:
        remedy = (
            f"the vocabulary has another size than config.json's vocab_size ({vocabulary}): set it to {first} and"
            " see that the tokenizer is this model's"
        )
    elif "expert" in tensor and there[1:] == expected[1:]:
        remedy = (
            f"set the number of experts in config.json to {first} if the others were removed, router and all"
        )
    elif re.search(r"gate|up_proj|down_proj|fc|mlp|dense_h|dense_4h", tensor):
        remedy = (
            "if the model was pruned in width, set intermediate_size in config.json to what all layers have; layers of"
            " unequal width need the code that they were made with"
        )
    else:
        remedy = "config.json and the weights belong to different models; copy both from one place"
    return (
        f"model: {name!r} can't be loaded: {tensor} is {_shape(there)}{where} where config.json asks for"
        f" {_shape(expected)}{more}; {remedy}"
    )


def _listed(names: Sequence[str], stored: Mapping[str, StoredTensor]) -> str:
    """`3 tensors (a, b, … in model.safetensors)`."""
    files = sorted({stored[each].file.name for each in names if each in stored})
    where = f" in {files[0]}{', …' if files[1:] else ''}" if files else ""
    return f"{len(names)} tensor{'s' if names[1:] else ''} ({_shown(names)}{where})"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", …" if names[2:] else "")


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape) or "a single number"


def _ranges(numbers: Collection[int]) -> str:
    """`0-3, 7`."""
    parts: list[list[int]] = []
    for each in sorted(numbers):
        if parts and each == parts[-1][1] + 1:
            parts[-1][1] = each
        else:
            parts.append([each, each])
    return ", ".join(str(one) if one == other else f"{one}-{other}" for one, other in parts)
