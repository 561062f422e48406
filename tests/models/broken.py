"""Ways in which a model's folder comes to be broken, and the words that name the cause and the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 33587712\n"
WEIGHTS = "model.safetensors"
Break = Callable[[Path], Any]


def copied(folder: Path, into: Path) -> Path:
    into.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, into)
    return into


def change_config(folder: Path, *, drop: tuple[str, ...] = (), **values: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in drop}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})


def split(folder: Path, *, index: bool = True) -> None:
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, mine in parts.items():
        save_file({name: tensors[name] for name in mine}, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    places = {name: file for file, mine in parts.items() for name in mine}
    if index:
        content = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    split(folder)
    path = folder / f"{WEIGHTS}.index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _into(folder: Path, *below: str) -> None:
    """Everything one or more folders further down."""
    place = folder.joinpath(*below)
    files = list(folder.iterdir())
    place.mkdir(parents=True)
    for file in files:
        file.rename(place / file.name)


def _adapter(folder: Path) -> None:
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "owner/base",
        "r": 4,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(4, 4)}, folder / "adapter_model.safetensors")


def _duplicate(folder: Path) -> None:
    split(folder)
    first, second = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    name, value = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: value + 1}, second, metadata={"format": "pt"})


def _rename_weights(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)


def _tokenizer_of(folder: Path, kind: str, *, vocabulary: bool = False) -> None:
    """Takes the tokenizer away; some classes then make an empty one."""
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": kind, "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if vocabulary:
        (folder / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "</s>": 2}))


def _remote(folder: Path) -> None:
    change_config(
        folder, model_type="mine_own", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    )
    (folder / "mine.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w').close()\nclass C: pass\nclass M: pass\n"
    )


FOLDERS: dict[str, tuple[Break, str]] = {
    "weights are a Git LFS pointer": (lambda f: (f / WEIGHTS).write_text(POINTER), r"safetensors is a Git LFS pointer.*git lfs pull"),
    "the tokenizer is a Git LFS pointer": (lambda f: (f / "tokenizer.json").write_text(POINTER), r"tokenizer\.json is a Git LFS pointer.*git lfs pull"),
    "shards without their index": (lambda f: split(f, index=False), r"has shards .* but no model\.safetensors\.index\.json; copy the index"),
    "a shard is missing": (lambda f: (split(f), (f / "model-00002-of-00002.safetensors").unlink()), r"00002-of-00002\.safetensors is missing"),
    "an index without metadata": (lambda f: change_index(f, lambda c: c.pop("metadata")), r"not a safetensors index \(it has no 'metadata'\)"),
    "an index that names nothing": (lambda f: change_index(f, lambda c: c.update(weight_map={})), r"it has no 'weight_map'"),
    "an index that is cut off": (lambda f: (split(f), (f / f"{WEIGHTS}.index.json").write_text('{"metadata": {')), r"index\.json is not JSON"),
    "a tensor in two shards, with two values": (_duplicate, r"is in model-00001.* and in model-00002.*different values"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), r"model\.safetensors is empty; download it again"),
    "weights cut off": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:9999]), r"is truncated.*9,999 bytes"),
    "a login page as weights": (lambda f: (f / WEIGHTS).write_bytes(b"<!DOCTYPE html><html>Sign in" * 9), r"is a web page .*log in and download"),
    "an error message as weights": (lambda f: (f / WEIGHTS).write_bytes(b'{"error": "Unauthorized"}' * 9), r"a server's answer"),
    "a pickle under another name": (lambda f: torch.save({"a": torch.ones(3)}, f / WEIGHTS), r"is a pickle under another name"),
    "a GGUF file under another name": (lambda f: (f / WEIGHTS).write_bytes(b"GGUF" + bytes(99)), r"is a GGUF file under another name"),
    "weights under a name that is not read": (lambda f: _rename_weights(f, "model.fp16.safetensors"), r"model\.fp16\.safetensors would not be read; rename it to model\.safetensors"),
    "one shard without an index": (lambda f: _rename_weights(f, "model-00001-of-00001.safetensors"), r"rename it to model\.safetensors"),
    "pickles only": (lambda f: _rename_weights(f, "pytorch_model.bin"), r"pickle only \(pytorch_model\.bin\)"),
    "GGUF weights in a folder": (lambda f: _rename_weights(f, "x.gguf"), r"holds GGUF weights; give the file itself"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"has no weights"),
    "a distributed checkpoint": (lambda f: _rename_weights(f, "shard-00001-model-00001-of-00001.safetensors"), r"distributed checkpoint"),
    "a configuration that names other weights": (lambda f: change_config(f, transformers_weights="gone.safetensors"), r"names gone\.safetensors as its weights, which is not there"),
    "no configuration": (lambda f: (f / "config.json").unlink(), r"has no config\.json; it is not a Hugging Face"),
    "the folder above": (lambda f: _into(f, "checkpoint-500"), r"has no config\.json; .*checkpoint-500 below it has one: give that folder"),
    "a folder of the hub's cache": (lambda f: _into(f, "snapshots", "0a1b"), r"snapshots/0a1b below it has one"),
    "its maker's own format": (lambda f: (f / "config.json").rename(f / "params.json"), r"params\.json shows its maker's own format"),
    "a configuration that is cut off": (lambda f: (f / "config.json").write_text('{"model_type": "llama",'), r"config\.json is not JSON \(.*copy it again"),
    "a configuration with a byte order mark": (lambda f: (f / "config.json").write_text((f / "config.json").read_text(), encoding="utf-8-sig"), r"without a byte order mark"),
    "a configuration that is a list": (lambda f: (f / "config.json").write_text("[]"), r"holds a list where a JSON object is expected"),
    "generation settings that are cut off": (lambda f: (f / "generation_config.json").write_text('{"eos_token_id": [1, '), r"generation_config\.json is not JSON"),
    "special tokens that are cut off": (lambda f: (f / "special_tokens_map.json").write_text("{"), r"special_tokens_map\.json is not JSON"),
    "no model type": (lambda f: change_config(f, drop=("model_type",)), r"has no model_type"),
    "a model type of the future": (lambda f: change_config(f, model_type="brandnew4"), r"does not know its model type \(brandnew4\); upgrade transformers"),
    "a model that generates no text": (lambda f: change_config(f, model_type="vit", drop=("architectures",)), r"not a causal language model"),
    "code of its own": (_remote, r"its own code, which is not run.*--trust-remote-code"),
    "layer types of a deeper model": (lambda f: change_config(f, model_type="qwen3", layer_types=["full_attention"] * 3), r"contradicts itself: .*`num_hidden_layers` \(2\).*`layer_types` \(3\)"),
    "no attention heads": (lambda f: change_config(f, num_attention_heads=0), r"can't be loaded: .*\w{4}"),
    "a size that is a text": (lambda f: change_config(f, hidden_size="32"), r"can't be loaded: .*hidden_size"),
    "an adapter next to a model": (_adapter, r"holds a model and an adapter.*move adapter_config\.json out.*checkpoint:FOLDER"),
    "an adapter that wraps the model": (lambda f: change_tensors(f, lambda t: [t.update({f"base_model.model.{n}": t.pop(n)}) for n in list(t)]), r"start with 'base_model\.model\.'"),
    "no tokenizer": (lambda f: [x.unlink() for x in f.glob("tokenizer*")], r"has no tokenizer files; copy base's tokenizer files"),
    "no tokenizer, of a class that makes an empty one": (lambda f: _tokenizer_of(f, "Qwen2Tokenizer"), r"no tokenizer files with a vocabulary.*copy base's tokenizer files"),
    "a vocabulary without its merges": (lambda f: _tokenizer_of(f, "Qwen2Tokenizer", vocabulary=True), r"can't be loaded: .*merges"),
    "a tokenizer that is cut off": (lambda f: (f / "tokenizer.json").write_text('{"version": "1.0", '), r"can't be loaded"),
}  # fmt: skip
