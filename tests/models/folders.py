"""A tiny model folder to change, field by field, and what transformers itself makes of a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.models.load import quiet_transformers

# None of these is a probe text of the program.
ORACLE_TEXTS = (
    "Where was Marie Skłodowska born?", "La réponse est: Orléans, 42 %.", "e\u0301te\u0301 und a\u0308", "  two  spaces ",
    "Кто основал Киев?", "\tone\n\ntwo\r\n", "say </s> and <s> twice", "שלום 123", "🙂🙃", "x = {'a': 1}", "ABC abc", "ﬀ №",
)  # fmt: skip
PROMPT = [[0, 5, 17, 300, 41, 260, 7, 99]]


@dataclass(frozen=True)
class Oracle:
    """What transformers makes of a folder. ids, texts: of `ORACLE_TEXTS`. logits: after `PROMPT`."""

    ids: list[list[int]]
    texts: list[str]
    ends: frozenset[int]
    logits: torch.Tensor
    chat: str | None


def ask(folder: Path) -> Oracle | None:
    """What a folder does in transformers alone; None where it can't be loaded whole."""
    try:
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", use_safetensors=True, output_loading_info=True
            )
            if info["missing_keys"] or info["mismatched_keys"]:
                return None
            with torch.inference_mode():
                logits = model.eval()(torch.tensor(PROMPT)).logits.float()
            ids = [list(tokenizer(text).input_ids) for text in ORACLE_TEXTS]
            texts = [tokenizer.decode([300, 5, 17, 41, 260, 44, 1, 7])]
            chat = None
            if tokenizer.chat_template:
                turn = [{"role": "user", "content": "Who?"}]
                chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except BaseException as error:
        # A panic in Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return None
    eos = model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    ends = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
    return Oracle(ids, texts, ends, logits, chat)


def copied(source: Path, target: Path) -> Path:
    """A folder with the small files of another, and its weights as links: the same file, not a copy."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            os.link(file, target / file.name)
        else:
            shutil.copy2(file, target / file.name)
    return target


def edit(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """Changes a JSON file of a folder in place."""
    values = json.loads((folder / file).read_text(encoding="utf-8"))
    change(values)
    (folder / file).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return folder


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Changes the weights of a folder."""
    file = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    file.unlink()
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, file, {"format": "pt"})
    return folder
