"""Finds the files of a model: exactly those that transformers reads. Loads no weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomia.errors import ModelError
from anomia.models.headers import POINTER, first_bytes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MODEL = ("model*.safetensors", "pytorch_model*.bin", "*.gguf", "consolidated*.safetensors")
_SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.(safetensors|gguf)$")
_DISTRIBUTED = re.compile(r"^shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors$")
_CONFIGS = ("config.json", ADAPTER)
_HUB_SECONDS = 10
# The hub's client has used several libraries, whose exceptions have no class in common.
_UNREACHED = {"NetworkError", "ConnectionError", "OfflineModeIsEnabled"}
_SETTINGS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The location of a model and its files.

    source: the argument for `from_pretrained`, a folder or a hub id. gguf: the GGUF file in that folder, if it is one.
    folder: the local folder of the configuration; None if there is none. weights: safetensors files in reading order.
    unused: weight files next to them that are not read.
    """

    source: str
    gguf: str | None = None
    folder: Path | None = None
    weights: tuple[Path, ...] = ()
    unused: tuple[str, ...] = ()


def find_files(name: str, *, revision: str | None = None, weights: bool = True) -> ModelFiles:
    """Finds the files that loading a hub id, a folder or a GGUF file reads, and downloads them from the hub.

    Args:
        name: the name as given by the user.
        revision: the revision of a hub repository.
        weights: whether weights on the hub are needed.

    Raises:
        ModelError: there is no such model, or its files aren't what their names say.
        OSError: the hub's client could not access a repository.
    """
    source, gguf = locate(name)
    if gguf:
        return ModelFiles(source, gguf)
    if not Path(source).is_dir():
        return _on_the_hub(name, revision) if weights else ModelFiles(name)
    folder = Path(source)
    files = weight_files(folder)
    unused = {file.name for file in folder.glob("*.safetensors")} - {file.name for file in files}
    return ModelFiles(source, None, folder, files, tuple(sorted(unused)))


def locate(name: str) -> tuple[str, str | None]:
    """The folder or hub id to load from, and the GGUF file in it. Checks the small files of a folder.

    Raises:
        ModelError: nothing is there, or it isn't a model.
    """
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        _check_gguf(path)
        return str(path.parent), path.name
    if path.is_dir():
        _check_folder(path)
        return str(path), None
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or (path.parent.is_dir() and "/" in name):
        raise ModelError(
            f"model: there is no folder {name!r}; give a hub id (owner/name), a folder or a .gguf file"
        )
    return name, None


def check_hub_id(name: str, *, revision: str | None = None) -> None:
    """Checks that a repository is in the hub's cache or on the hub, with one short question.

    Only what is clearly not there is refused; anything else is left to loading.

    Raises:
        ModelError: no repository can have this name, none has, or it isn't cached and the hub can't be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        cached = [huggingface_hub.try_to_load_from_cache(name, file, revision=revision) for file in _CONFIGS]
        if not any(isinstance(file, str) for file in cached):
            huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS)
    except (HFValidationError, RepositoryNotFoundError):
        raise ModelError(
            f"model: {name!r} can't be loaded: no folder has this name, and no hub repository that this machine may "
            "read; check the spelling, or log in with `hf auth login` if it is private"
        ) from None
    except Exception as error:
        if {each.__name__ for each in type(error).__mro__} & _UNREACHED:
            raise ModelError(
                f"model: {name!r} can't be loaded: no folder has this name, the hub's cache doesn't hold it, and the "
                "hub can't be reached; check the spelling and the connection"
            ) from None


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder that transformers reads, in its order.

    Raises:
        ModelError: there are none, or some are missing.
    """
    if any(_DISTRIBUTED.match(file.name) for file in folder.iterdir()):
        raise ModelError(
            f"model: {folder} holds a distributed checkpoint (shard-…); consolidate it with save_pretrained first"
        )
    named = read_settings(folder / "config.json").get("transformers_weights")
    if named:
        index = folder / str(named) if str(named).endswith(".index.json") else None
        single = folder / str(named)
    else:
        index, single = folder / INDEX, folder / SINGLE
    if single.is_file() and single != index:
        return (single,)
    if index is not None and index.is_file():
        return _shards(folder, index)
    if named:
        raise ModelError(f"model: {folder}'s config.json names {named} as its weights, which is not there")
    raise ModelError(_without_weights(folder))


def holds_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter and no model weights, whatever other files of a model it has."""
    if not (folder / ADAPTER).is_file():
        return False
    return not any(file for pattern in _MODEL for file in folder.glob(pattern))


def read_settings(path: Path) -> dict[str, Any]:
    """Reads one of a model's JSON files.

    Raises:
        ModelError: it isn't a JSON object in UTF-8.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"model: {path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        remedy = (
            "save it as UTF-8 without a byte order mark"
            if "BOM" in str(error)
            else "copy it again from where the model came from"
        )
        raise ModelError(f"model: {path} is not JSON ({error}); {remedy}") from None
    if not isinstance(values, dict):
        raise ModelError(
            f"model: {path} holds a {type(values).__name__} where a JSON object is expected;"
            " copy it again from where the model came from"
        )
    return values


def _check_folder(path: Path) -> None:
    if holds_adapter(path):
        raise ModelError(_adapter_alone(path))
    if not (path / "config.json").is_file():
        raise ModelError(_without_config(path))
    # Templates, vocabularies or weights may be Git LFS pointers.
    for file in sorted(path.iterdir()):
        if file.is_file() and first_bytes(file).startswith(POINTER) and file.suffix != ".md":
            raise ModelError(
                f"model: {file} is a Git LFS pointer, not the file itself; run `git lfs pull` in {path}"
            )
    for name in _SETTINGS:
        if (path / name).is_file():
            read_settings(path / name)
    if (path / ADAPTER).is_file():
        raise ModelError(
            f"model: {path} holds a model and an adapter ({ADAPTER}). Programs with peft apply the adapter, others"
            f" ignore it, so the results would be of one or the other. To measure the model alone, move {ADAPTER}"
            f" out of the folder; to measure it with the adapter, move {ADAPTER} and the adapter's weights into a "
            "folder of their own and give that as checkpoint:FOLDER, with this one as base"
        )


def _adapter_alone(path: Path) -> str:
    """The message for an adapter where a whole model is needed."""
    base = read_settings(path / ADAPTER).get("base_model_name_or_path") or "its base model"
    return (
        f"model: the folder {path} holds an adapter of {base} without the model. As an arm it is put on its base:"
        f" anomia run --base BASE --arm checkpoint:{path}. For a whole model merge it:"
        " PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(NEW)"
    )


def _without_config(path: Path) -> str:
    """The message for a folder without `config.json`."""
    if (path / ADAPTER).is_file():
        other = sorted({file.name for pattern in _MODEL for file in path.glob(pattern)})
        return (
            f"model: the folder {path} holds an adapter ({ADAPTER}) next to weights of a model "
            f"({', '.join(other[:2])}) that has no config.json. Which of the two is meant is unclear: move the "
            "adapter's files (adapter_*) into a folder of their own and give that as checkpoint:FOLDER; to measure "
            "the model, copy its config.json and tokenizer too"
        )
    below = sorted(
        file.parent for file in [*path.glob("*/config.json"), *path.glob("snapshots/*/config.json")]
    )
    if below:
        return f"model: the folder {path} has no config.json; {below[-1]} below it has one: give that folder"
    if (path / "params.json").is_file():
        return (
            f"model: the folder {path} has no config.json; params.json shows its maker's own format. Convert it, or"
            " take the model's repository for transformers"
        )
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if ggufs:
        return f"model: {path} holds GGUF weights; give the file itself: {path / ggufs[0]}"
    return f"model: the folder {path} has no config.json; it is not a Hugging Face model folder"


def _without_weights(path: Path) -> str:
    """The message for a folder with a configuration but without weights that can be read."""
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if any(_SHARD.search(name) for name in files):
        return (
            f"model: {path} has shards ({files[0]}, …) but no {INDEX}; copy the index from where the shards "
            "came from"
        )
    if files:
        return (
            f"model: {path} has no {SINGLE}, and {', '.join(files[:3])} would not be read; rename it to {SINGLE} if it"
            " holds the model's weights"
        )
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        return (
            f"model: {path} has its weights as pickle only ({pickles[0]}), which can run code when loaded. "
            "Convert it with save_pretrained(..., safe_serialization=True) where you trust it"
        )
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if ggufs:
        return f"model: {path} holds GGUF weights; give the file itself: {path / ggufs[0]}"
    return f"model: the folder {path} has no weights (*.safetensors)"


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    """The shards that an index names, in the order of their names, as transformers reads them."""
    content = read_settings(index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places or "metadata" not in content:
        lacks = "'metadata'" if isinstance(places, dict) and places else "'weight_map'"
        raise ModelError(f"model: {index} is not a safetensors index (it has no {lacks}); download it again")
    files = tuple(folder / name for name in sorted({str(name) for name in places.values()}))
    for file in files:
        if not file.is_file():
            raise ModelError(f"model: the shard {file} is missing; download the model again")
    return files


def _check_gguf(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"model: the GGUF file {path} does not exist")
    start = first_bytes(path)
    if start.startswith(POINTER):
        raise ModelError(
            f"model: {path} is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}"
        )
    if not start.startswith(b"GGUF"):
        raise ModelError(f"model: {path} can't be loaded: it is not a GGUF file; download it again")
    if _SHARD.search(path.name):
        raise ModelError(
            f"model: {path} is one part of a GGUF file, and transformers reads one file only; join the parts with"
            " llama-gguf-split --merge"
        )


def _on_the_hub(name: str, revision: str | None) -> ModelFiles:
    """Gets the files of a hub repository into the hub's cache, as transformers does."""
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    def get(file: str) -> str | None:
        found: str | None = cached_file(
            name, file, revision=revision, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        return found

    config = get("config.json")
    if get(ADAPTER) is not None:
        what = "an adapter without its model" if config is None else "a model and an adapter"
        raise ModelError(
            f"model: {name!r} holds {what} ({ADAPTER}); merge the adapter into a folder of its own"
            " (PeftModel.merge_and_unload, then save_pretrained), and give that"
        )
    if config is None:
        # Loading reports the reason: no such repository, a gated one, no connection.
        return ModelFiles(name)
    folder = Path(config).parent
    named = read_settings(Path(config)).get("transformers_weights")
    single = get(str(named or SINGLE))
    if single is not None and single.endswith(".safetensors"):
        return ModelFiles(name, None, folder, (Path(single),))
    index = single or get(INDEX)
    if index is None:
        return ModelFiles(name, None, folder)
    shards, _ = get_checkpoint_shard_files(name, index, revision=revision)
    return ModelFiles(name, None, folder, tuple(Path(shard) for shard in shards))
