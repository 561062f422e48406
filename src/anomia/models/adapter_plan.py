"""Assigns an adapter's tensors to the modules that they change, by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from anomia.errors import ModelError
from anomia.models.adapter_settings import indices_of, listed, rank_of, scale_of
from anomia.models.adapter_targets import check_targets, leaves_out, linear_modules
from anomia.models.adapters import LORA, TOKENS, Adapter
from anomia.models.headers import same_values
from anomia.models.tensors import ignorable, ignored_notes

_PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_KEY = re.compile(
    rf"^(?P<module>.+?)\.(?P<part>{'|'.join(_PARTS)}|(?:token_adapter\.)?trainable_tokens_delta)"
    r"(?P<rest>\.weight|\.bias)?$"
)
_FACTORS = frozenset({*_PARTS, "lora_B.bias", "tokens"})
_PREFIX = "base_model.model."
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save|token_adapter)(?=\.)")
# The base's own module, stored next to its replacement.
_REPLACED = re.compile(r"\.original_module\.")


class ModuleChange(NamedTuple):
    """The changes to one module. Values are names of the adapter's tensors.

    parts: factors by role. whole: stored weights or biases that replace the module's, by parameter name.
    """

    parts: dict[str, str]
    whole: dict[str, str]


class Plan(NamedTuple):
    """An adapter's tensors, assigned to the modules of its base.

    changes: by module name. rows: rows of the vocabulary afterwards. unused: tensors that change nothing, with the
    reason. absent: modules that the adapter's settings name but that it has no tensors for. untold: the settings don't
    say which modules the factors are for.
    """

    changes: Mapping[str, ModuleChange]
    rows: int
    unused: Mapping[str, str]
    absent: tuple[str, ...]
    untold: bool = False


def plan(adapter: Adapter, model: Any) -> Plan:
    """Assigns every tensor of an adapter to its module, by name and shape; the model may lack values.

    Raises:
        ModelError: a tensor has no place in the model, the wrong shape, or lacks its other half; rows of an enlarged
            vocabulary are not stored; the settings exclude all factors, or can't be read.
    """
    check_targets(adapter)
    changes: dict[str, ModuleChange] = {}
    paths: dict[str, str] = {}
    unused: dict[str, str] = {}
    places = _Places(model)
    for name in adapter.stored:
        if _REPLACED.search(name):
            unused[name] = ""
            continue
        path, part = _read(name)
        if ".modules_to_save." in name and not _is_saved(adapter, path):
            unused[name] = "modules_to_save in the adapter's settings doesn't name their modules"
            continue
        module, attribute = places.find(path, part)
        if module is None:
            reason = ignorable(f"{path}.weight", model.config)
            if reason is None:
                raise ModelError(_homeless(adapter, name, model))
            unused[name] = reason
            continue
        change = changes.setdefault(module, ModuleChange({}, {}))
        paths[module] = path
        target = change.parts if part in _FACTORS else change.whole
        key = part if target is change.parts else attribute
        if key in target:
            before = target[key]
            if same_values(before, adapter.stored[before], name, adapter.stored[name]):
                unused[name] = ""
                continue
            raise ModelError(
                f"model: {adapter.name!r} has two tensors for {module}.{key} ({target[key]} and {name}); save it again"
            )
        target[key] = name
    linear = linear_modules(model)
    unused |= _leave_out(adapter, model, changes, paths, linear)
    if not changes and any(unused.values()):
        first, why = next((name, why) for name, why in unused.items() if why)
        raise ModelError(
            f"model: {adapter.name!r} holds nothing that would change this base ({first}, …: {why}); give the base "
            f"that it was made for ({adapter.base or 'it names none'}), or copy adapter_config.json from where the "
            "adapter came from"
        )
    rows = _rows(adapter, model, changes)
    for module, change in changes.items():
        _check(adapter, model, module, change, rows)
    untold = adapter.settings.get("target_modules") is None and any(map(_factors, changes.values()))
    return Plan(changes, rows, unused, _absent(adapter, changes, model, linear), untold)


def describe(adapter: Adapter, found: Plan | None, before: int) -> str:
    """Describes a merge in one line: `base plus the adapter NAME (LoRA of rank 8 on 28 modules; merged in float32)`.

    before: rows of base's vocabulary.
    """
    if found is None:
        return f"base plus the adapter {adapter.label} ({adapter.kind}, merged by peft)"
    factors = [change for change in found.changes.values() if _factors(change)]
    phrases = []
    if factors:
        ranks = sorted({adapter.stored[_first(change)].shape[0] for change in factors})
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        kind = "DoRA" if adapter.settings.get("use_dora") else "LoRA"
        phrases.append(f"{kind} of rank {rank} on {len(factors)} modules")
    whole = [name for name, change in found.changes.items() if change.whole]
    if whole:
        phrases.append(f"{len(whole)} stored whole ({', '.join(whole[:2])}{', …' if whole[2:] else ''})")
    tokens = [name for name, change in found.changes.items() if "tokens" in change.parts]
    if tokens:
        phrases.append(f"{len(indices_of(adapter, tokens[0]))} rows of {' and '.join(tokens)}")
    if found.rows != before:
        phrases.append(f"{found.rows:,} tokens in place of {before:,}")
    return f"base plus the adapter {adapter.label} ({', '.join(phrases)}; merged in float32)"


def notes(found: Plan | None) -> list[str]:
    """Notes for the reader: unused tensors, and modules without tensors."""
    if found is None:
        return []
    phrases = list(ignored_notes(found.unused))
    if found.untold:
        phrases.append(
            "the adapter's settings don't say which modules it is for (target_modules); it is put on all that it has"
            " factors for, and peft chooses by the kind of model"
        )
    if found.absent:
        phrases.append(
            f"the adapter's settings name {len(found.absent)} more modules that it holds nothing for"
            f" ({', '.join(found.absent[:2])}{', …' if found.absent[2:] else ''}); they are base's"
        )
    return phrases


def _leave_out(
    adapter: Adapter,
    model: Any,
    changes: dict[str, ModuleChange],
    paths: Mapping[str, str],
    linear: frozenset[str],
) -> dict[str, str]:
    """Removes from `changes` what peft would not use according to the settings; returns it with the reason."""
    out: dict[str, str] = {}
    bare: dict[str, str] = {}
    kept = 0
    # With this switch, changes to the embeddings also apply to the head, whichever is named.
    tied = vocabulary_modules(model) if adapter.settings.get("ensure_weight_tying") else []
    for name, change in list(changes.items()):
        parts = [part for part in change.parts if (part == "tokens") == (adapter.kind == TOKENS)]
        setting = leaves_out(adapter, [name, paths[name]], linear) if parts and name not in tied else ""
        kept += bool(parts and not setting)
        if setting:
            why = f"{setting} in the adapter's settings leaves their modules out"
            out |= {change.parts.pop(part): why for part in parts}
        elif _factors(change):
            # In modules with factors, peft uses this name for the base's own weight.
            beside = [each for each, key in change.whole.items() if ".base_layer." not in key]
            why = "peft ignores whole weights of modules that also have factors"
            bare |= {change.whole.pop(each): why for each in beside}
        if not change.parts and not change.whole:
            del changes[name]
    if out and not kept:
        first, why = next(iter(out.items()))
        raise ModelError(
            f"model: {adapter.name!r} has settings that leave out all {len(out)} factors that it holds ({first}, …: "
            f"{why}); correct them, or copy adapter_config.json from where the adapter came from"
        )
    return out | bare


class _Places:
    """The modules of a model by the names that adapters use, translated as transformers renames weights."""

    def __init__(self, model: Any) -> None:
        self._modules = dict(model.named_modules())
        self._expected = model.state_dict()
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._prefix = model.base_model_prefix

    def find(self, path: str, part: str) -> tuple[str | None, str]:
        """The module name for a path, or None if there is no fitting module, and the name of its parameter."""
        factor = part in _FACTORS
        attribute = "weight" if factor else part
        for name in (path, self._renamed(path)):
            module = self._modules.get(name) if name else None
            if module is None or not isinstance(getattr(module, attribute, None), torch.Tensor):
                continue
            fits = nn.Embedding if "embedding" in part else nn.Linear | Conv1D | nn.Embedding
            if not factor or isinstance(module, fits):
                return name, attribute
        return None, attribute

    def _renamed(self, path: str) -> str | None:
        weight = f"{path}.weight"
        target, pattern = rename_source_key(
            weight, self._renamings, self._converters, self._prefix, self._expected
        )
        if pattern is not None or target not in self._expected:
            return None
        return str(target).removesuffix(".weight")


def vocabulary_modules(model: Any) -> list[str]:
    """Names of the token embeddings and the output head."""
    wanted = [
        module
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    ]
    return [name for each in wanted for name, module in model.named_modules() if module is each]


def is_tied(model: Any) -> bool:
    """Whether the head shares its weight with the embeddings, or there is no head.

    For a model without values, the configuration decides.
    """
    head = model.get_output_embeddings()
    if head is None:
        return True
    if head.weight is model.get_input_embeddings().weight:
        return True
    return bool(head.weight.is_meta and getattr(model.config.get_text_config(), "tie_word_embeddings", False))


def distinct(
    adapter: Adapter,
    model: Any,
    changes: Mapping[str, ModuleChange],
    values: Callable[[str], torch.Tensor] | None = None,
) -> set[str] | None:
    """Which of embeddings and head, tied in the base, get their own stored weights; None if they stay tied.

    The set is empty if they differ only by factors. values: reads one of the adapter's weights [V, H] by stored name,
    to compare the two.
    """
    names = vocabulary_modules(model)
    if len(names) < 2 or not is_tied(model):
        return None
    both = {name: changes[name] for name in names if name in changes}
    whole = [change.whole["weight"] for change in both.values() if "weight" in change.whole]
    if len(whole) == 2 and values is not None and not torch.equal(values(whole[0]), values(whole[1])):
        return set(names)
    kept = (
        () if adapter.settings.get("ensure_weight_tying") else listed(adapter.settings.get("modules_to_save"))
    )
    apart = {
        name
        for name, change in both.items()
        if "weight" in change.whole and any(name == each or name.endswith(f".{each}") for each in kept)
    }
    factors = any(set(change.parts) - {"tokens"} for change in both.values())
    return apart if apart or factors else None


def _rows(adapter: Adapter, model: Any, changes: Mapping[str, ModuleChange]) -> int:
    """The number of rows of the vocabulary afterwards, from stored embeddings, heads or token rows."""
    here = int(model.get_input_embeddings().weight.shape[0])
    names = vocabulary_modules(model)
    stored = {
        name: adapter.stored[change.whole["weight"]].shape[0]
        for name, change in changes.items()
        if name in names and "weight" in change.whole
    }
    if len(set(stored.values())) > 1:
        raise ModelError(
            f"model: {adapter.name!r} holds vocabularies of {' and '.join(map(str, stored.values()))} rows"
            f" ({', '.join(stored)}); save it again"
        )
    if stored:
        rows = next(iter(stored.values()))
        untied = names if not is_tied(model) or distinct(adapter, model, changes) else []
        lacks = [name for name in untied if name not in stored]
        head = model.get_output_embeddings()
        if (
            getattr(head, "bias", None) is not None
            and "bias" not in changes.get(names[-1], ModuleChange({}, {})).whole
        ):
            lacks.append(f"{names[-1]}.bias")
        if rows > here and lacks:
            raise ModelError(
                f"model: {adapter.name!r} was made on a vocabulary of {rows} rows where base has {here}, and doesn't "
                f"hold the new rows of {lacks[0]}; save it again with save_embedding_layers=True"
            )
        return rows
    for name, change in changes.items():
        if name in names and "tokens" in change.parts:
            new = [index for index in indices_of(adapter, name) if index >= here]
            if new and (sorted(new) != list(range(here, here + len(new))) or not is_tied(model)):
                raise ModelError(
                    f"model: {adapter.name!r} changes rows {min(new)} to {max(new)} of {name}, where base has {here}, "
                    "and doesn't hold all new rows of the embeddings and the head; save it again with "
                    "save_embedding_layers=True"
                )
            here += len(new)
    return here


def _check(adapter: Adapter, model: Any, name: str, change: ModuleChange, rows: int) -> None:
    """Refuses tensors that don't fit their module, with a weight [out, in], or each other.

    lora_A is [r, in], lora_B [out, r]; for embeddings [V, H], lora_embedding_A is [r, V], lora_embedding_B [H, r].
    rows: of the vocabulary afterwards.
    """
    module = model.get_submodule(name)
    shape = _shape(module)
    if name in vocabulary_modules(model):
        shape = (rows, shape[1])
    stored = {part: adapter.stored[key].shape for part, key in change.parts.items()}
    expected: dict[str, tuple[int, ...]] = {}
    if "tokens" in stored:
        indices = indices_of(adapter, name)
        expected["tokens"] = (len(indices), shape[1])
        if indices and max(indices) >= shape[0]:
            raise ModelError(
                f"model: {adapter.name!r} changes row {max(indices)} of {name}, which has {shape[0]}"
            )
    rank = rank_of(adapter, name)
    out, inputs = shape
    for part in stored:
        if part != "tokens":
            expected[part] = {
                "lora_A": (rank, inputs), "lora_B": (out, rank), "lora_B.bias": (out,),
                "lora_embedding_A": (rank, out), "lora_embedding_B": (inputs, rank),
                "lora_magnitude_vector": (inputs if "lora_embedding_A" in stored else out,),
            }[part]  # fmt: skip
    for part, wanted in expected.items():
        if stored[part] != wanted:
            raise ModelError(
                f"model: {adapter.name!r} can't be put on this base: {change.parts[part]} is {_text(stored[part])} "
                f"where {name} and the adapter's settings ask for {_text(wanted)}; give the base that it was made for "
                f"({adapter.base or 'it names none'})"
            )
    halves = [
        {"lora_A", "lora_B"} & stored.keys(),
        {"lora_embedding_A", "lora_embedding_B"} & stored.keys(),
    ]
    if any(len(half) == 1 for half in halves) or (set(stored) - {"tokens"} and not any(halves)):
        key = next(key for part, key in change.parts.items() if part != "tokens")
        raise ModelError(
            f"model: {adapter.name!r} has {key} without its other half; it is damaged, save it again"
        )
    if bool(adapter.settings.get("use_dora")) != ("lora_magnitude_vector" in stored) and any(halves):
        raise ModelError(
            f"model: {adapter.name!r} says use_dora={bool(adapter.settings.get('use_dora'))}, which is not what it "
            f"holds for {name}; copy adapter_config.json from where the adapter came from"
        )
    if any(halves):
        scale_of(adapter, name)
    for attribute, key in change.whole.items():
        there = tuple(getattr(module, attribute).shape)
        wanted = (rows, *there[1:]) if name in vocabulary_modules(model) else there
        if adapter.stored[key].shape != wanted:
            raise ModelError(
                f"model: {adapter.name!r} can't be put on this base: {key} is {_text(adapter.stored[key].shape)} where"
                f" {name}.{attribute} is {_text(wanted)}; give the base that it was made for"
                f" ({adapter.base or 'it names none'})"
            )


def _absent(
    adapter: Adapter, changes: Mapping[str, ModuleChange], model: Any, linear: frozenset[str]
) -> tuple[str, ...]:
    """Modules of the model that the settings name but the adapter has no tensors for."""
    saved = listed(adapter.settings.get("modules_to_save"))
    names_targets = adapter.kind == LORA and adapter.settings.get("target_modules") is not None
    lacking = []
    for name, module in model.named_modules():
        if name in changes or not isinstance(module, nn.Linear | Conv1D | nn.Embedding):
            continue
        whole = any(name == each or name.endswith(f".{each}") for each in saved)
        if whole or (names_targets and not leaves_out(adapter, [name], linear)):
            lacking.append(name)
    return tuple(lacking)


def _homeless(adapter: Adapter, name: str, model: Any) -> str:
    return (
        f"model: {adapter.name!r} is an adapter with a tensor {name} for which {type(model).__name__} has no place; "
        "without it this would be another adapter. Give the base that it was made for "
        f"({adapter.base or 'it names none'}), or merge it there with peft (merge_and_unload) and give the merged "
        "folder"
    )


def _read(name: str) -> tuple[str, str]:
    """Splits a stored name into the path of a module and the part or parameter."""
    short = plain(name)
    match = _KEY.match(short)
    if match is None:
        path, _, attribute = short.rpartition(".")
        return _unwrapped(path), attribute
    part = "tokens" if "tokens" in match["part"] else match["part"]
    return _unwrapped(match["module"]), f"{part}.bias" if match["rest"] == ".bias" else part


def _unwrapped(path: str) -> str:
    return _WRAPPED.sub("", f".{path}.").strip(".")


def plain(name: str) -> str:
    """A stored name without peft's prefix."""
    return name.removeprefix(_PREFIX)


def _is_saved(adapter: Adapter, path: str) -> bool:
    """Whether `modules_to_save` names a module or one that contains it."""
    saved = adapter.settings.get("modules_to_save")
    names = [saved] if isinstance(saved, str) else listed(saved)
    return any(f".{each}." in f".{path}." for each in names)


def _factors(change: ModuleChange) -> bool:
    """Whether a module has factors (token rows don't count)."""
    return bool(set(change.parts) - {"tokens"})


def _first(change: ModuleChange) -> str:
    return change.parts.get("lora_A") or change.parts["lora_embedding_A"]


def _shape(module: Any) -> tuple[int, int]:
    """(outputs, inputs) of a module; for embeddings (rows, width)."""
    if module.weight.dim() != 2:
        # Such weights are only stored whole, and checked as whole.
        return (int(module.weight.shape[0]), 1)
    first, second = (int(size) for size in module.weight.shape)
    return (second, first) if isinstance(module, Conv1D) else (first, second)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
