"""A list of matrices to keep dense, in the forms that other tools take: one JSON file for all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    module out. torchao: of the `TorchAoConfig` of transformers. llama.cpp: arguments of `llama-quantize`; empty for
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

    dense: the modules' names. why: the sentence of the result.

    Raises:
        RunError: the file can't be written.
    """
    whole = {"dense": list(modules), "why": sentence, **forms(modules)}
    write_text(file, json.dumps(whole, ensure_ascii=False, indent=2) + "\n")
