"""A list of matrices to keep dense, in the forms that other tools take.

`FILE` itself is the list that Anomia reads; beside it stand files for llm-compressor, GPTQModel, llama.cpp and torchao.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomia.errors import StudyError
from anomia.files import write_text

_GGUF = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
GGUF_TYPE = "q8_0"
"""The type that llama.cpp is told to keep matrices in."""


def kept_modules(place: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """The modules of units that are matrices, in the model's order; an expert counts as its whole stack.

    kinds: the kind of every unit, by its name and in the model's order.
    """
    chosen = set(place)
    found = [
        re.sub(r"\[\d+\]$", "", name)
        for name, kind in kinds.items()
        if name in chosen and kind in ("matrix", "head", "embedding")
    ]
    return list(dict.fromkeys(found))


def forms(modules: Sequence[str]) -> dict[str, Any]:
    """The list in the form of each tool.

    llm-compressor: `ignore` of a modifier, exact names. gptqmodel: `dynamic` of its configuration, where `-:` leaves a
    module out. torchao: names for the filter of `quantize_`. llama.cpp: arguments of `llama-quantize`; empty for
    modules without a name in GGUF.
    """
    return {
        "llm-compressor": {"ignore": list(modules)},
        "gptqmodel": {"dynamic": {f"-:^{re.escape(name)}$": {} for name in modules}},
        "torchao": {"modules_to_not_convert": list(modules)},
        "llama.cpp": {
            "arguments": [
                word
                for name in modules
                if (tensor := gguf_name(name)) is not None
                for word in ("--tensor-type", f"^{re.escape(tensor)}$={GGUF_TYPE}")
            ],
            "without_a_name": [name for name in modules if gguf_name(name) is None],
        },
    }


def gguf_name(module: str) -> str | None:
    """The name of a module's weight in GGUF, for models with Llama's names; None for others.

    >>> gguf_name("model.layers.3.mlp.down_proj")
    'blk.3.ffn_down.weight'
    """
    if module.endswith("embed_tokens"):
        return "token_embd.weight"
    if module == "lm_head":
        return "output.weight"
    found = re.fullmatch(r"(?:.*\.)?layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)", module)
    if found is None or found[2] not in _GGUF:
        return None
    return f"blk.{found[1]}.{_GGUF[found[2]]}.weight"


def write_keep(file: Path, modules: Sequence[str], *, sentence: str) -> None:
    """Writes the list with all forms as one JSON file.

    Raises:
        RunError: the file can't be written.
    """
    whole = {"dense": list(modules), "why": sentence, **forms(modules)}
    write_text(file, json.dumps(whole, ensure_ascii=False, indent=2) + "\n")


def read_keep(file: Path) -> tuple[str, ...]:
    """The names in a list that `write_keep` wrote, or one name per line.

    Raises:
        StudyError: the file can't be read or has no names.
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"dense: {file} can't be read: {error}") from None
    names: Any
    if text.lstrip().startswith("{"):
        try:
            names = json.loads(text).get("dense")
        except ValueError as error:
            raise StudyError(f"dense: {file} is not JSON: {error}") from None
    else:
        names = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise StudyError(
            f'dense: {file} has no names; it is a list that `anomia locate --keep` wrote (with "dense"), or has one module '
            "per line"
        )
    return tuple(names)
