"""A list of matrices to keep dense, in the forms that other tools take: one JSON file for all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gguf

from anomia.files import write_text
from anomia.words import percent

GGUF_TYPE = "q8_0"
"""The type that llama.cpp is told to keep matrices in."""
_LISTED = ("matrix", "head", "embedding")
"""Kinds of units that a list can hold."""
_SLICE = re.compile(r"\[\d+\]$")
_BLOCK = re.compile(r"\.(\d+)\.")


def kept_modules(place: Collection[str], kinds: Mapping[str, str]) -> list[str]:
    """The modules of units that are matrices, in the model's order; an expert counts as its whole stack.

    kinds: the kind of every unit, by its name and in the model's order.
    """
    chosen = set(place)
    found = [_SLICE.sub("", name) for name, kind in kinds.items() if name in chosen and kind in _LISTED]
    return list(dict.fromkeys(found))


def keep_notes(
    place: Collection[str], kinds: Mapping[str, str], *, found: bool, share: float | None = None
) -> list[str]:
    """What a user of the list must know: what it can't hold, and whether it is of use.

    found: whether the damage has a place. share: of the differing weights, what the place holds.
    """
    notes = []
    chosen = set(place)
    if not found:
        size = "" if share is None else f" ({percent(share)} of the differing weights)"
        notes.append(
            f"the damage is diffuse: this list{size} is what brought half back, and of little use; another list of "
            "this size may do as well"
        )
    rest = [(name, kind) for name, kind in kinds.items() if name in chosen and kind not in _LISTED]
    if rest:
        notes.append(
            "no list can hold these, which belong to what brought half back but are no matrices; most tools leave them "
            f"as they are in base, so check that yours does: {', '.join(f'{name} ({kind})' for name, kind in rest)}"
        )
    if len(rest) == len(chosen):
        notes.append("nothing that brought half back is a matrix, so the list is empty")
    return notes


def stacks_of(names: Iterable[str]) -> set[str]:
    """The stacks of experts among units: parameters of which a unit is a slice."""
    return {_SLICE.sub("", name) for name in names if _SLICE.search(name)}


def forms(modules: Sequence[str], stacks: Collection[str] = ()) -> dict[str, Any]:
    """The list in the form of each tool. stacks: those that hold a matrix per expert.

    llm-compressor: `ignore` of a modifier, exact names. gptqmodel: `dynamic` of its configuration, where `-:` leaves a
    module out. Both make a module of each expert of a stack, so stacks become regular expressions.
    torchao: `fqn_to_config` of its `FqnToConfig`, to which the user adds what is quantized (`re:.+_proj`).
    `modules_to_not_convert` of the `TorchAoConfig` of transformers replaces its default, which leaves the head
    unconverted, so the head is added.
    llama.cpp: arguments of `llama-quantize`; empty for modules without a name in GGUF.
    """
    experts = {name: _of_each_expert(name) for name in modules if name in stacks}
    return {
        "llm-compressor": {
            "ignore": [f"re:{experts[name]}" if name in experts else name for name in modules]
        },
        "gptqmodel": {
            "dynamic": {f"-:{experts.get(name) or f'^{re.escape(name)}$'}": {} for name in modules}
        },
        "torchao": {
            "fqn_to_config": dict.fromkeys(modules),
            "modules_to_not_convert": list(dict.fromkeys([*modules, "lm_head"])),
        },
        "llama.cpp": {
            "arguments": [
                word
                for name in modules
                if (tensor := gguf_name(name)) is not None
                for word in ("--tensor-type", f"{_gguf_pattern(tensor)}={GGUF_TYPE}")
            ],
            "without_a_name": [name for name in modules if gguf_name(name) is None],
        },
    }


def _of_each_expert(stack: str) -> str:
    """A regular expression for the modules that tools make of a stack's matrices.

    >>> _of_each_expert("layers.0.experts.gate_up_proj")
    '^layers\\\\.0\\\\.experts\\\\.\\\\d+\\\\.(gate_proj|up_proj)$'
    """
    path, _, name = stack.rpartition(".")
    parts = {"gate_up_proj": "(gate_proj|up_proj)"}.get(name, re.escape(name))
    return rf"^{re.escape(path)}\.\d+\.{parts}$"


def _gguf_pattern(tensor: str) -> str:
    """A regular expression for one tensor. Most converters split the gates of experts from what they gate."""
    return f"^{re.escape(tensor)}$".replace("ffn_gate_up_exps", "ffn_(gate|up|gate_up)_exps")


def gguf_name(module: str) -> str | None:
    """The name of a module's weight in GGUF, if all architectures of llama.cpp that know the module name it alike.

    >>> gguf_name("model.layers.3.mlp.down_proj")
    'blk.3.ffn_down.weight'
    """
    # llama.cpp's converter leaves this part out of the names of models that also see.
    name = module.replace("language_model.", "")
    found = _BLOCK.search(name)
    first = name if found is None else f"{name[: found.start()]}.0.{name[found.end() :]}"
    names = {each.get_name(f"{first}.weight", try_suffixes=(".weight",)) for each in _name_maps()} - {None}
    if len(names) != 1:
        return None
    tensor = str(names.pop())
    return tensor if found is None else tensor.replace("blk.0.", f"blk.{found[1]}.", 1)


@cache
def _name_maps() -> tuple[Any, ...]:
    """The names of tensors in each architecture of llama.cpp, for its first block.

    Without RWKV's, which has other layers under the names of Qwen's, and without towers that see or hear.
    """
    return tuple(
        name_map(arch, 1)
        for arch, name in gguf.MODEL_ARCH_NAMES.items()
        if "rwkv" not in name and arch is not gguf.MODEL_ARCH.MMPROJ
    )


def name_map(arch: Any, blocks: int) -> Any:
    """gguf's map of an architecture's names. Making one changes a table of all architectures, which is put back."""
    table = gguf.TensorNameMap.block_mappings_cfg
    before = dict(table)
    try:
        return gguf.get_tensor_name_map(arch, blocks)
    finally:
        table.clear()
        table.update(before)


def write_keep(
    file: Path,
    modules: Sequence[str],
    stacks: Collection[str],
    *,
    sentence: str,
    notes: Sequence[str] = (),
) -> None:
    """Writes the list with all forms as one JSON file.

    dense: the modules' names. why: the sentence of the result. notes: what the list can't do (`keep_notes`).

    Raises:
        RunError: the file can't be written.
    """
    whole = {"dense": list(modules), "why": sentence, "notes": list(notes), **forms(modules, stacks)}
    write_text(file, json.dumps(whole, ensure_ascii=False, indent=2) + "\n")
