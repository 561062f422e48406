"""Merges an adapter's tensors into the weights of its base in float32.

The result computes the same as peft with the unmerged adapter. LoRA and everything saved with it (DoRA, whole modules,
biases, token rows, enlarged vocabularies) needs no package; other kinds are merged by peft itself.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
import xxhash
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.errors import ModelError
from anomia.models.adapter_plan import Plan, distinct, plain, plan, vocabulary_modules
from anomia.models.adapter_settings import indices_of, needs_peft, scale_of
from anomia.models.adapters import Adapter
from anomia.models.fingerprint import raw_bytes
from anomia.models.headers import opened
from anomia.words import counted

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def examine(adapter: Adapter, model: Any) -> Plan | None:
    """Checks an adapter against its base, without the base's values, and returns the plan for `merge`.

    Args:
        adapter: the adapter, whose tensors are read.
        model: the base, which may lack values (meta tensors).

    Returns:
        The plan; None if peft merges the adapter.

    Raises:
        ModelError: it doesn't fit, contains NaN or infinite values, or needs peft, which is not installed.
    """
    if needs_peft(adapter):
        check_peft(adapter)
        used, found = list(adapter.stored), None
    else:
        found = plan(adapter, model)
        used = [
            name
            for change in found.changes.values()
            for name in (*change.parts.values(), *change.whole.values())
        ]
    for name in used:
        _read(adapter, name)
    return found


@torch.no_grad()
def merge(adapter: Adapter, model: Any, found: Plan) -> list[str]:
    """Merges an adapter into a model's weights, [out, in], in place, computing each in float32.

    A head that is tied to the embeddings is untied if the adapter changes the two differently.

    Returns:
        A note if modules stay as they were, else nothing.

    Raises:
        ModelError: the base is packed, or a merged weight would be NaN or infinite.
    """
    for name in found.changes:
        weight = getattr(model.get_submodule(name), "weight", None)
        if weight is not None and (weight.dtype not in _FLOATS or type(weight.data) is not torch.Tensor):
            raise ModelError(
                f"model: {adapter.name!r} is an adapter, and the base's {name} is packed ({weight.dtype}), so nothing "
                "can be merged into it; give the dense model as base"
            )
    before = _digests(model, found.changes)
    embeddings = model.get_input_embeddings()
    if found.rows != embeddings.weight.shape[0]:
        model.resize_token_embeddings(found.rows, mean_resizing=False)
    values = partial(_read, adapter)
    apart = distinct(adapter, model, found.changes, values)
    if apart is not None:
        # A stored weight that doesn't distinguish the two was saved from the one weight that both share.
        for name, change in found.changes.items():
            if name not in apart and name in vocabulary_modules(model) and "weight" in change.whole:
                _set(adapter, model.get_submodule(name), "weight", values(change.whole["weight"]), name)
        _untie(model)
    for name, change in found.changes.items():
        module = model.get_submodule(name)
        for attribute, tensor in change.whole.items():
            _set(adapter, module, attribute, values(tensor), tensor)
    for name, change in found.changes.items():
        module = model.get_submodule(name)
        if "tokens" in change.parts:
            indices = torch.tensor(indices_of(adapter, name), device=module.weight.device)
            rows = values(change.parts["tokens"]).to(module.weight.device, module.weight.dtype)
            module.weight.data.index_copy_(0, indices, rows)
        if len(change.parts) > ("tokens" in change.parts):
            _add(
                adapter,
                name,
                module,
                {part: values(key) for part, key in change.parts.items() if part != "tokens"},
            )
    after = _digests(model, found.changes)
    same = [name for name in found.changes if before[name] == after[name]]
    if len(same) == len(found.changes):
        return [_nothing_changed(model)]
    if not same:
        return []
    return [
        f"{len(same)} of the {len(found.changes)} modules that the adapter is for stay as in base: what it adds there "
        f"is zero, or too small for {_type(model)} ({', '.join(same[:2])}{', …' if same[2:] else ''})"
    ]


def _nothing_changed(model: Any) -> str:
    return (
        "the adapter changes no weight, so this is base once more: what it adds is zero, as before training, or too "
        f"small for {_type(model)}"
    )


def _type(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _digests(model: Any, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Hashes of the parameters of some modules, by the module's name."""
    return {
        name: tuple(
            f"{key} {value.dtype} {tuple(value.shape)} {xxhash.xxh3_128_hexdigest(raw_bytes(value.data))}"
            for key, value in model.get_submodule(name).named_parameters()
            if type(value.data) is torch.Tensor
        )
        for name in names
    }


@torch.no_grad()
def merge_with_peft(adapter: Adapter, model: Any) -> tuple[Any, list[str]]:
    """Merges an adapter of another kind with the package peft.

    Returns:
        The model, and a note on how many modules have changed.

    Raises:
        ModelError: peft is not installed, or can't merge it into this base.
    """
    peft = check_peft(adapter)
    names = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    before = _digests(model, names)
    try:
        # Its warnings concern training, or faults that are checked here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = peft.PeftModel.from_pretrained(
                model, str(adapter.folder), torch_device="cpu", use_safetensors=True
            )
            known = {plain(name) for name in peft.get_peft_model_state_dict(wrapped)}
            merged = wrapped.merge_and_unload(safe_merge=True)
    # A method of another package may fail on this base in any way.
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"model: {adapter.name!r} can't be merged by peft: {text}") from None
    stored = {plain(name) for name in adapter.stored}
    lost, lacking = sorted(stored - known), sorted(known - stored)
    if lost or lacking:
        raise ModelError(
            f"model: {adapter.name!r} doesn't fit its base: {len(lost)} of its tensors are not used by peft and"
            f" {len(lacking)} are missing ({(lost or lacking)[0]}); give the base that it was made for"
        )
    after = _digests(merged, names)
    changed = sum(before[name] != after[name] for name in names)
    return merged, [f"peft changed {counted(changed, 'module')}" if changed else _nothing_changed(merged)]


def check_peft(adapter: Adapter) -> Any:
    """Imports the package peft, for an adapter that only peft can merge.

    Raises:
        ModelError: peft is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise ModelError(
            f"model: {adapter.name!r} is an adapter that is merged through the package peft ({needs_peft(adapter)}), "
            "which is not installed: pip install 'anomia[peft]'"
        ) from None


def _read(adapter: Adapter, name: str) -> torch.Tensor:
    """Reads one of the adapter's tensors in float32."""
    with opened(adapter.stored[name].file) as file:
        value: torch.Tensor = file.get_tensor(name).float()
    if not bool(torch.isfinite(value).all()):
        raise ModelError(f"model: {adapter.name!r} has values in {name} that are NaN or infinite")
    return value


def _untie(model: Any) -> None:
    """Gives a tied head its own copy of the weight."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _add(adapter: Adapter, name: str, module: Any, parts: Mapping[str, torch.Tensor]) -> None:
    """Computes weight + scale · B·A. With DoRA, each output (each column of embeddings) gets its stored norm.

    parts: A [r, in], B [out, r], magnitudes [out] and bias [out], by the adapter's name for the part; for embeddings
    A [r, V], B [H, r], magnitudes [H]. The weight is [out, in], in a Conv1D [in, out], in embeddings [V, H].
    """
    weight = module.weight.data
    parts = {part: value.to(weight.device) for part, value in parts.items()}
    scale = scale_of(adapter, name)
    turned = isinstance(module, Conv1D)
    if "lora_embedding_A" in parts:
        delta = (parts["lora_embedding_B"] @ parts["lora_embedding_A"]).T * scale
        along = 0
    else:
        delta = parts["lora_B"] @ parts["lora_A"] * scale
        along = 1
    dense = (weight.T if turned else weight).float() + delta
    if "lora_magnitude_vector" in parts:
        length = torch.linalg.vector_norm(dense, dim=along, keepdim=True)
        magnitude = parts["lora_magnitude_vector"]
        dense *= (magnitude[None, :] if along == 0 else magnitude[:, None]) / length
    _set(adapter, module, "weight", dense.T if turned else dense, name)
    if "lora_B.bias" in parts:
        added = parts["lora_B.bias"] * scale
        if module.bias is None:
            module.bias = nn.Parameter(added.to(weight.dtype), requires_grad=False)
        else:
            _set(adapter, module, "bias", module.bias.data.float() + added, name)


def _set(adapter: Adapter, module: Any, attribute: str, value: torch.Tensor, what: str) -> None:
    place = getattr(module, attribute).data
    cast = value.to(place.device, place.dtype)
    if not bool(torch.isfinite(cast).all()):
        raise ModelError(
            f"model: {adapter.name!r}: merging {what} gives values that are NaN or too large for {place.dtype}; load "
            "it in a wider type (--dtype float32)"
        )
    place.copy_(cast)
