"""Accounts for every tensor in a model's files: used, ignorable by a known rule, or reported. Loads no weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import transformers
from accelerate import init_empty_weights
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

from anomia.models.headers import StoredTensor, same_values
from anomia.models.sizes import layers_of, number
from anomia.words import counted

_FLOATS = {"F64", "F32", "F16", "BF16"}
SCALE = re.compile(
    r"(^|[._:])(\w*scales?(_inv|_2)?|\w*zeros?(_points?)?|g_idx|qweight|q_weight|qdata|absmax|quant_map|quant_state\S*"
    r"|nested_\w+|SCB|weight_format|weight_packed|weight_shape|\w*amax|blocks|codebooks?|codes|Qidxs|W_q)$"
)
# Computed while loading, or for training only: nothing is lost without them.
_SILENT = re.compile(r"inv_freq$|(cos|sin)_cached$|(^|\.)position_ids$|\.masked_bias$|num_batches_tracked$")
# Matches paths outside the decoder blocks, so that modules inside a block never count as a separate part.
_BEFORE_BLOCKS = r"^(?!.*lora_)(?:(?!(?:layers|h|blocks|layer)\.\d)[^.]+\.)*?"
# Not needed to answer text prompts, but worth a note.
_TOLD = {
    "multi-token prediction": re.compile(rf"{_BEFORE_BLOCKS}mtp(_\w+)?\.|\.(eh_proj|enorm|hnorm)\."),
    "an image or audio part": re.compile(
        rf"{_BEFORE_BLOCKS}(vision|visual|audio|image|multi_modal_projector|mm_projector|embed_vision|embed_audio)\w*\."
    ),
    "scales of a quantized KV cache, which is kept in full precision here": re.compile(
        r"self_attn\.((k|v)_proj\.)?(k|v|q|kv)_(cache_)?scale$"
    ),
}
LAYER = re.compile(r"^(.*?(?:layers|h|blocks|layer))\.(\d+)\.")


class Account(NamedTuple):
    """How the tensors in files correspond to those of a model. Names are either stored names or the model's names.

    places: model name to stored name, for tensors used as they are. converted: stored names that are split or joined
    while loading. filled: model names that get a value. ignored: stored name to the reason, empty if it needs no note.
    surplus: stored name to its name while loading; the model has no place for it. missing: model names. mismatched:
    model name, found and expected shape. packed: stored names of non-float tensors that the model takes as floats.
    expected: all model names.
    """

    places: Mapping[str, str]
    converted: frozenset[str]
    filled: frozenset[str]
    ignored: Mapping[str, str]
    surplus: Mapping[str, str]
    missing: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    packed: tuple[str, ...]
    expected: frozenset[str]


NOTHING = Account({}, frozenset(), frozenset(), {}, {}, (), (), (), frozenset())
"""The empty account."""


def skeleton(config: Any, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False) -> Any:
    """Builds the causal language model of a configuration on the meta device, except for its buffers."""
    with init_empty_weights(include_buffers=False):
        options = {} if dtype is None else {"dtype": dtype}
        model = transformers.AutoModelForCausalLM.from_config(
            copy.deepcopy(config), trust_remote_code=trust_remote_code, **options
        )
    return model.eval()


def account(model: Any, stored: Mapping[str, StoredTensor]) -> Account:
    """Matches every stored tensor to its place in an unquantized model, with the renaming rules of transformers.

    Args:
        model: a model from `skeleton`.
        stored: headers of all files that are read, by stored name; values are read only to compare two tensors with
            the same place.
    """
    expected = model.state_dict()
    renamings, converters = _rules(model)
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    places: dict[str, str] = {}
    converted: set[str] = set()
    filled: set[str] = set()
    extra: dict[str, str] = {}
    for name in stored:
        prefix = model.base_model_prefix
        target, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if target not in expected and name in expected:
            target, pattern = rename_source_key(name, [], [], prefix, expected)
        if target not in expected:
            extra[name] = target
        elif pattern is not None:
            targets = by_pattern[pattern].target_patterns
            filled.update(target.replace(targets[0], each) for each in targets)
            converted.add(name)
        elif target not in places:
            places[target] = name
        elif not same_values(name, stored[name], places[target], stored[places[target]]):
            extra[name] = target
    missing, ignored = _by_rule(model, set(expected) - filled - places.keys(), extra, stored)
    surplus = {name: target for name, target in extra.items() if name not in ignored}
    return Account(
        places=places,
        converted=frozenset(converted),
        filled=frozenset(filled | places.keys()),
        ignored=ignored,
        surplus=surplus,
        missing=missing,
        mismatched=tuple(
            (name, stored[place].shape, tuple(expected[name].shape))
            for name, place in places.items()
            if stored[place].shape != tuple(expected[name].shape)
        ),
        packed=tuple(
            name
            for name in (
                *(place for key, place in places.items() if _floats(expected[key])),
                *sorted(converted),
            )
            if stored[name].dtype not in _FLOATS
        ),
        expected=frozenset(expected),
    )


def merged_on_loading(model: Any) -> Callable[[str], bool]:
    """Returns a test for stored names of tensors that transformers doesn't only rename while loading, but converts."""
    renamings, converters = _rules(model)
    expected = model.state_dict()

    def is_merged(name: str) -> bool:
        return (
            rename_source_key(name, renamings, converters, model.base_model_prefix, expected)[1] is not None
        )

    return is_merged


def splits_on_loading(model: Any) -> str:
    """The name of stored weights that transformers splits into several of an architecture; empty if there are none."""
    return next(
        (
            rule.source_patterns[0]
            for rule in _rules(model)[1]
            if len(rule.target_patterns) > 1
            and all(name.endswith(".weight") for name in rule.source_patterns)
        ),
        "",
    )


def _rules(model: Any) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    """The rules of transformers for an architecture's stored tensors."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return renamings, [rule for rule in rules if isinstance(rule, WeightConverter)]


def file_names(
    model: Any, names: Iterable[str], places: Mapping[str, str] = {}
) -> dict[str, tuple[str, ...]]:
    """The names that a model's parameters have in its safetensors files, by the names in the model.

    A parameter that is joined from several tensors while loading has several.

    Args:
        model: a model with or without weights.
        names: names of parameters in the model.
        places: stored names by the names in the model, where they are known.
    """
    return {
        name: (places[name],)
        if name in places
        else tuple(revert_weight_conversion(model, {name: model.get_parameter(name).to("meta")}))
        for name in names
    }


def from_loading(
    model: Any, info: Mapping[str, Any], stored: Mapping[str, StoredTensor], *, quantized: bool
) -> Account:
    """The account from the loading information of transformers. Surplus tensors have their names in the model.

    Args:
        model: the loaded model.
        info: its loading information.
        stored: headers by stored name, if the files are safetensors.
        quantized: whether a quantization method handled the weights, so that a packed weight only needs a scale.
    """
    state = model.state_dict()
    ignored, surplus = {}, {}
    for name in sorted(info["unexpected_keys"]):
        why = ignorable(name, model.config)
        if why is None:
            surplus[name] = name
        else:
            ignored[name] = why
    return Account(
        places={},
        converted=frozenset(),
        filled=frozenset(state) - set(info["missing_keys"]),
        ignored=ignored,
        surplus=surplus,
        missing=tuple(sorted(info["missing_keys"])),
        mismatched=tuple(
            (name, tuple(one), tuple(other)) for name, one, other in sorted(info["mismatched_keys"])
        ),
        packed=tuple(
            name
            for name in sorted(state.keys() & stored.keys())
            if stored[name].dtype not in _FLOATS
            and _floats(state[name])
            and not (quantized and _has_scale(name, stored))
        ),
        expected=frozenset(state),
    )


def _has_scale(name: str, stored: Iterable[str]) -> bool:
    """Whether a packed weight's scale is stored next to it."""
    stem = name.removesuffix(".weight")
    return any(other != name and other.startswith(stem) and SCALE.search(other) for other in stored)


def ignorable(name: str, config: Any) -> str | None:
    """The reason why a tensor without a place in the model can be ignored; None if it can't.

    The reason is empty if it needs no note.
    """
    if _SILENT.search(name):
        return ""
    for reason, pattern in _TOLD.items():
        if pattern.search(name):
            return reason
    heads, layers = number(config, "num_nextn_predict_layers") or 0, layers_of(config)
    layer = LAYER.match(name)
    if layer is not None and layers is not None and 0 <= int(layer[2]) - layers < heads:
        return "multi-token prediction"
    return None


def ignored_notes(ignored: Mapping[str, str]) -> tuple[str, ...]:
    """Notes for the reader on ignored tensors, one per reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in ignored.items():
        if reason:
            reasons.setdefault(reason, []).append(name)
    return tuple(
        f"{counted(len(names), 'tensor in the files is', 'tensors in the files are')} not used: "
        f"{reason} ({names[0]}{', …' if names[1:] else ''})"
        for reason, names in reasons.items()
    )


def _by_rule(
    model: Any, missing: Iterable[str], extra: Mapping[str, str], stored: Mapping[str, StoredTensor]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The tensors still missing, and the surplus tensors that can be ignored, by the model's rules and by ours.

    missing: model names. extra: stored name to the name while loading. stored: headers by stored name.
    Returns model names, and stored name to the reason.
    """
    lacking = set(missing)
    for target, source in getattr(model, "all_tied_weights_keys", {}).items():
        if len({target, source} & lacking) == 1:
            lacking -= {target, source}
    info = SimpleNamespace(missing_keys=lacking, unexpected_keys=set(extra.values()))
    model._adjust_missing_and_unexpected_keys(info)
    ignored = {}
    for name, target in extra.items():
        if target in model.state_dict():
            continue
        reason = ignorable(target, model.config)
        # GPT-2's rule for its old causal masks, `attn.bias`, would also match an added bias.
        vector = name.endswith("bias") and len(stored[name].shape) == 1
        mask = name.endswith("attn.bias") and len(stored[name].shape) == 4
        if reason is None and (mask or (target not in info.unexpected_keys and not vector)):
            reason = "" if mask or "bias" in target else "excluded by this architecture's own rule"
        if reason is not None:
            ignored[name] = reason
    return tuple(sorted(info.missing_keys)), ignored


def _floats(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()
