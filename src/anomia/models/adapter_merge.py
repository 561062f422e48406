"""An adapter's tensors, each followed to the weight that it changes, and merged into it in float32.

The result computes what peft computes with the adapter beside its base. LoRA and what is saved with it (DoRA, whole
modules, biases, rows of tokens, enlarged vocabularies) needs no package; other kinds are merged by peft itself.
"""

from __future__ import annotations

import importlib
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from anomia.errors import ModelError
from anomia.models.adapters import LORA, TOKENS, Adapter
from anomia.models.headers import opened, same_values
from anomia.models.tensors import ignorable, ignored_notes

_PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_KEY = re.compile(
    rf"^(?P<module>.+?)\.(?P<part>{'|'.join(_PARTS)}|(?:token_adapter\.)?trainable_tokens_delta)(?P<rest>\.weight|\.bias)?$"
)
_FACTORS = frozenset({*_PARTS, "lora_B.bias", "tokens"})
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_PREFIX = "base_model.model."
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save|token_adapter)(?=\.)")
# The base's own, kept beside what replaces it.
_REPLACED = re.compile(r"\.original_module\.")
# Settings of LoRA that change nothing of what a saved one computes, or are followed here.
_FOLLOWED = {
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters",
    "task_type", "token_indices", "trainable_token_indices", "use_dora", "use_rslora", "velora_config", "init_weights",
}  # fmt: skip
# These change the base's own weights before training begins, so that the saved factors fit no other.
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Change(NamedTuple):
    """What is done to one module. Values are names of the adapter's tensors.

    parts: factors by their role. whole: stored weight or bias that replaces the module's, by its name there.
    """

    parts: dict[str, str]
    whole: dict[str, str]


class Plan(NamedTuple):
    """An adapter followed to the modules of its base.

    changes: by the model's module. rows: of the vocabulary afterwards. unused: tensors that change nothing here, with
    the reason. absent: what the adapter's settings name and it holds nothing for.
    """

    changes: Mapping[str, Change]
    rows: int
    unused: Mapping[str, str]
    absent: tuple[str, ...]


def needs_peft(adapter: Adapter) -> str:
    """Why only peft can merge an adapter; "" where this program can."""
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


def plan(adapter: Adapter, model: Any) -> Plan:
    """Follows every tensor of an adapter to its module, by names and shapes; the model may be without values.

    Raises:
        ModelError: a tensor has no place in the model, another shape than its place, or lacks its other half; rows of an
            enlarged vocabulary are not stored.
    """
    changes: dict[str, Change] = {}
    unused: dict[str, str] = {}
    places = _Places(model)
    for name in adapter.stored:
        if _REPLACED.search(name):
            unused[name] = ""
            continue
        path, part = _read(name)
        module, attribute = places.find(path, part)
        if module is None:
            reason = ignorable(f"{path}.weight", model.config)
            if reason is None:
                raise ModelError(_homeless(adapter, name, model))
            unused[name] = reason
            continue
        change = changes.setdefault(module, Change({}, {}))
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
    rows = _rows(adapter, model, changes)
    for module, change in changes.items():
        _check(adapter, model, module, change, rows)
    return Plan(changes, rows, unused, _absent(adapter, changes, model))


@torch.no_grad()
def merge(adapter: Adapter, model: Any, found: Plan) -> None:
    """Changes a model's weights in place to what the adapter makes of them, each computed in float32.

    A head that is tied to the embeddings gets a weight of its own where only one of the two is changed.

    Raises:
        ModelError: the base is packed, or a merged weight would be NaN or infinite.
    """
    for name in found.changes:
        weight = getattr(model.get_submodule(name), "weight", None)
        if weight is not None and (weight.dtype not in _FLOATS or type(weight.data) is not torch.Tensor):
            raise ModelError(
                f"model: {adapter.name!r} is an adapter, and the base's {name} is packed ({weight.dtype}), so nothing can be"
                " merged into it; give the dense model as base"
            )
    embeddings = model.get_input_embeddings()
    if found.rows != embeddings.weight.shape[0]:
        model.resize_token_embeddings(found.rows, mean_resizing=False)
    values = _Values(adapter)
    apart = _untied(adapter, model, found.changes, values)
    if apart is not None:
        # What is not told apart by the adapter was saved of the one weight that both share.
        for name, change in found.changes.items():
            if name not in apart and name in _vocabulary_modules(model) and "weight" in change.whole:
                _set(adapter, model.get_submodule(name), "weight", values[change.whole["weight"]], name)
        _untie(model)
    for name, change in found.changes.items():
        module = model.get_submodule(name)
        for attribute, tensor in change.whole.items():
            _set(adapter, module, attribute, values[tensor], tensor)
    for name, change in found.changes.items():
        module = model.get_submodule(name)
        if "tokens" in change.parts:
            indices = torch.tensor(_indices(adapter, name), device=module.weight.device)
            rows = values[change.parts["tokens"]].to(module.weight.device, module.weight.dtype)
            module.weight.data.index_copy_(0, indices, rows)
        if len(change.parts) > ("tokens" in change.parts):
            _add(
                adapter,
                name,
                module,
                {part: values[key] for part, key in change.parts.items() if part != "tokens"},
            )


def describe(adapter: Adapter, found: Plan | None, before: int) -> str:
    """What was done, in a line: `base plus the adapter NAME (LoRA of rank 8 on 28 modules, merged in float32)`.

    before: rows of the vocabulary of base.
    """
    if found is None:
        return f"base plus the adapter {adapter.label} ({adapter.kind}, merged by peft)"
    factors = [change for change in found.changes.values() if set(change.parts) - {"tokens"}]
    said = []
    if factors:
        ranks = sorted({adapter.stored[_first(change)].shape[0] for change in factors})
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        kind = "DoRA" if adapter.settings.get("use_dora") else "LoRA"
        said.append(f"{kind} of rank {rank} on {len(factors)} modules")
    whole = [name for name, change in found.changes.items() if change.whole]
    if whole:
        said.append(f"{len(whole)} stored whole ({', '.join(whole[:2])}{', …' if whole[2:] else ''})")
    tokens = [name for name, change in found.changes.items() if "tokens" in change.parts]
    if tokens:
        said.append(f"{len(_indices(adapter, tokens[0]))} rows of {' and '.join(tokens)}")
    if found.rows != before:
        said.append(f"{found.rows:,} tokens in place of {before:,}")
    return f"base plus the adapter {adapter.label} ({', '.join(said)}; merged in float32)"


def notes(found: Plan | None) -> list[str]:
    """What a reader has to know besides: tensors that are not used, and modules without any."""
    if found is None:
        return []
    said = list(ignored_notes(found.unused))
    if found.absent:
        said.append(
            f"the adapter's settings name {len(found.absent)} more modules that it holds nothing for"
            f" ({', '.join(found.absent[:2])}{', …' if found.absent[2:] else ''}); they are base's"
        )
    return said


def check_peft(adapter: Adapter) -> Any:
    """The package peft, for an adapter that only it can merge.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise ModelError(
            f"model: {adapter.name!r} is an adapter that is merged through the package peft ({needs_peft(adapter)}), which"
            " is not installed: pip install 'anomia[peft]'"
        ) from None


def merge_with_peft(adapter: Adapter, model: Any) -> Any:
    """The model with an adapter of another kind merged into it, by the package peft.

    Raises:
        ModelError: peft is not installed, or can't merge it into this base.
    """
    peft = check_peft(adapter)
    try:
        # What it warns of is checked here, or is of training.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = peft.PeftModel.from_pretrained(
                model, str(adapter.folder), torch_device="cpu", use_safetensors=True
            )
            known = {_plain(name) for name in peft.get_peft_model_state_dict(wrapped)}
            merged = wrapped.merge_and_unload(safe_merge=True)
    # Whatever a method of another package can't do with this base.
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"model: {adapter.name!r} can't be merged by peft: {text}") from None
    stored = {_plain(name) for name in adapter.stored}
    lost, lacking = sorted(stored - known), sorted(known - stored)
    if lost or lacking:
        raise ModelError(
            f"model: {adapter.name!r} doesn't fit its base: {len(lost)} of its tensors are not used by peft and"
            f" {len(lacking)} are missing ({(lost or lacking)[0]}); give the base that it was made for"
        )
    return merged


class _Values:
    """The adapter's tensors in float32, read when they are needed."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def __getitem__(self, name: str) -> torch.Tensor:
        with opened(self._adapter.stored[name].file) as file:
            value: torch.Tensor = file.get_tensor(name).float()
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"model: {self._adapter.name!r} has values in {name} that are NaN or infinite")
        return value


class _Places:
    """The modules of a model by the names that adapters give them, as transformers translates names of weights."""

    def __init__(self, model: Any) -> None:
        self._modules = dict(model.named_modules())
        self._expected = model.state_dict()
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._prefix = model.base_model_prefix

    def find(self, path: str, part: str) -> tuple[str | None, str]:
        """The module of a path and the name of its parameter; None where there is none of that kind."""
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


def _read(name: str) -> tuple[str, str]:
    """A stored name as the path of a module and what of it this is."""
    plain = _plain(name)
    match = _KEY.match(plain)
    if match is None:
        path, _, attribute = plain.rpartition(".")
        return _unwrapped(path), attribute
    part = "tokens" if "tokens" in match["part"] else match["part"]
    return _unwrapped(match["module"]), f"{part}.bias" if match["rest"] == ".bias" else part


def _unwrapped(path: str) -> str:
    return _WRAPPED.sub("", f".{path}.").strip(".")


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _first(change: Change) -> str:
    return change.parts.get("lora_A") or change.parts["lora_embedding_A"]


def _homeless(adapter: Adapter, name: str, model: Any) -> str:
    return (
        f"model: {adapter.name!r} is an adapter with a tensor {name} for which {type(model).__name__} has no place; without"
        f" it this would be another adapter. Give the base that it was made for ({adapter.base or 'it names none'}), or merge"
        " it there with peft (merge_and_unload) and give the merged folder"
    )


def _rows(adapter: Adapter, model: Any, changes: Mapping[str, Change]) -> int:
    """How many tokens the model has afterwards: as many as stored embeddings or heads have rows."""
    here = int(model.get_input_embeddings().weight.shape[0])
    names = _vocabulary_modules(model)
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
        untied = names if not _tied(model) or _untied(adapter, model, changes) else []
        lacks = [name for name in untied if name not in stored]
        head = model.get_output_embeddings()
        if (
            getattr(head, "bias", None) is not None
            and "bias" not in changes.get(names[-1], Change({}, {})).whole
        ):
            lacks.append(f"{names[-1]}.bias")
        if rows > here and lacks:
            raise ModelError(
                f"model: {adapter.name!r} was made on a vocabulary of {rows} rows where base has {here}, and doesn't hold the"
                f" new rows of {lacks[0]}; save it again with save_embedding_layers=True"
            )
        return rows
    for name, change in changes.items():
        if name in names and "tokens" in change.parts:
            new = [index for index in _indices(adapter, name) if index >= here]
            if new and (sorted(new) != list(range(here, here + len(new))) or not _tied(model)):
                raise ModelError(
                    f"model: {adapter.name!r} changes rows {min(new)} to {max(new)} of {name}, where base has {here}, and"
                    " doesn't hold all new rows of the embeddings and the head; save it again with save_embedding_layers=True"
                )
            here += len(new)
    return here


def _vocabulary_modules(model: Any) -> list[str]:
    """Names of the token embeddings and of the output head."""
    wanted = [
        module
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    ]
    return [name for each in wanted for name, module in model.named_modules() if module is each]


def _tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    if head is None:
        return True
    if head.weight is model.get_input_embeddings().weight:
        return True
    return bool(head.weight.is_meta and getattr(model.config.get_text_config(), "tie_word_embeddings", False))


def _untied(
    adapter: Adapter, model: Any, changes: Mapping[str, Change], values: _Values | None = None
) -> set[str] | None:
    """Which of embeddings and head, tied in the base, get a stored weight of their own; None where they stay tied.

    Empty where only factors tell them apart. values: to see whether two stored weights are equal.
    """
    names = _vocabulary_modules(model)
    if len(names) < 2 or not _tied(model):
        return None
    both = {name: changes[name] for name in names if name in changes}
    whole = [change.whole["weight"] for change in both.values() if "weight" in change.whole]
    if len(whole) == 2 and values is not None and not torch.equal(values[whole[0]], values[whole[1]]):
        return set(names)
    kept = (
        ()
        if adapter.settings.get("ensure_weight_tying")
        else _listed(adapter.settings.get("modules_to_save"))
    )
    apart = {
        name
        for name, change in both.items()
        if "weight" in change.whole and any(name == each or name.endswith(f".{each}") for each in kept)
    }
    factors = any(set(change.parts) - {"tokens"} for change in both.values())
    return apart if apart or factors else None


def _untie(model: Any) -> None:
    """Gives a tied head a weight of its own."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _check(adapter: Adapter, model: Any, name: str, change: Change, rows: int) -> None:
    """Refuses tensors of one module that do not fit it, or each other."""
    module = model.get_submodule(name)
    shape = _shape(module)
    if name in _vocabulary_modules(model):
        shape = (rows, shape[1])
    stored = {part: adapter.stored[key].shape for part, key in change.parts.items()}
    expected: dict[str, tuple[int, ...]] = {}
    if "tokens" in stored:
        indices = _indices(adapter, name)
        expected["tokens"] = (len(indices), shape[1])
        if indices and max(indices) >= shape[0]:
            raise ModelError(
                f"model: {adapter.name!r} changes row {max(indices)} of {name}, which has {shape[0]}"
            )
    rank = _rank(adapter, name)
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
                f"model: {adapter.name!r} can't be put on this base: {change.parts[part]} is {_text(stored[part])} where"
                f" {name} and the adapter's settings ask for {_text(wanted)}; give the base that it was made for"
                f" ({adapter.base or 'it names none'})"
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
            f"model: {adapter.name!r} says use_dora={bool(adapter.settings.get('use_dora'))}, which is not what it holds for"
            f" {name}; copy adapter_config.json from where the adapter came from"
        )
    for attribute, key in change.whole.items():
        there = tuple(getattr(module, attribute).shape)
        wanted = (rows, *there[1:]) if name in _vocabulary_modules(model) else there
        if adapter.stored[key].shape != wanted:
            raise ModelError(
                f"model: {adapter.name!r} can't be put on this base: {key} is {_text(adapter.stored[key].shape)} where"
                f" {name}.{attribute} is {_text(wanted)}; give the base that it was made for"
                f" ({adapter.base or 'it names none'})"
            )


def _shape(module: Any) -> tuple[int, int]:
    """Outputs and inputs; of embeddings, rows and width."""
    if module.weight.dim() != 2:
        # Only stored whole, and checked as such.
        return (int(module.weight.shape[0]), 1)
    first, second = (int(size) for size in module.weight.shape)
    return (second, first) if isinstance(module, Conv1D) else (first, second)


def _indices(adapter: Adapter, module: str) -> list[int]:
    """The rows of a module that are trained, in the order in which they are stored."""
    given = adapter.settings.get("token_indices" if adapter.kind == TOKENS else "trainable_token_indices")
    if isinstance(given, Mapping):
        given = next(
            (rows for name, rows in given.items() if module == name or module.endswith(f".{name}")), None
        )
    if not isinstance(given, list) or not all(isinstance(index, int) and index >= 0 for index in given):
        raise ModelError(
            f"model: {adapter.name!r} holds rows of {module}, and its settings don't say which (trainable_token_indices)"
        )
    return given


def _of_pattern(adapter: Adapter, key: str, module: str) -> Any:
    """What a pattern of the settings says of a module, as peft reads it: the first whose end matches."""
    for pattern, value in (adapter.settings.get(key) or {}).items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error:
            raise ModelError(f"model: {adapter.name!r} has a {key} that is no pattern: {pattern!r}") from None
        if matches:
            return value
    return None


def _rank(adapter: Adapter, module: str) -> int:
    found = _of_pattern(adapter, "rank_pattern", module) or adapter.settings.get("r")
    return int(found) if isinstance(found, int) else 0


def _scale(adapter: Adapter, module: str) -> float:
    alpha = _of_pattern(adapter, "alpha_pattern", module)
    alpha = adapter.settings.get("lora_alpha") if alpha is None else alpha
    if not isinstance(alpha, int | float):
        raise ModelError(
            f"model: {adapter.name!r} has no lora_alpha in its settings; without it its size is unknown"
        )
    rank = _rank(adapter, module)
    return float(alpha) / (math.sqrt(rank) if adapter.settings.get("use_rslora") else rank)


def _add(adapter: Adapter, name: str, module: Any, parts: Mapping[str, torch.Tensor]) -> None:
    """weight + scale · B·A; with DoRA each output (of embeddings: each column) is brought to its stored length."""
    weight = module.weight.data
    parts = {part: value.to(weight.device) for part, value in parts.items()}
    scale = _scale(adapter, name)
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
            f"model: {adapter.name!r}: merging {what} gives values that are NaN or too large for {place.dtype}; load it in a "
            "wider type (--dtype float32)"
        )
    place.copy_(cast)


def _absent(adapter: Adapter, changes: Mapping[str, Change], model: Any) -> tuple[str, ...]:
    """Modules that the settings name, the model has, and the adapter holds nothing for."""
    named = [
        each for key in ("target_modules", "modules_to_save") for each in _listed(adapter.settings.get(key))
    ]
    if adapter.settings.get("layers_to_transform") is not None or adapter.settings.get("exclude_modules"):
        return ()
    lacking = []
    for name, module in model.named_modules():
        fits = any(name == each or name.endswith(f".{each}") for each in named)
        if fits and name not in changes and isinstance(module, nn.Linear | Conv1D | nn.Embedding):
            lacking.append(name)
    return tuple(lacking)


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
