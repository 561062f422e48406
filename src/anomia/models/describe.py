"""What a model is besides the values of its weights, found out in seconds: nothing is loaded but its tokenizer."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from anomia.errors import ModelError
from anomia.models.chat import render
from anomia.models.files import ModelFiles, find_files
from anomia.models.fingerprint import fingerprint_tokenizer
from anomia.models.gguf_header import gguf_read_once
from anomia.models.load import load_tokenizer, quiet_transformers
from anomia.models.memory import PREFIX, held
from anomia.models.tokenization import PROBE_TEXTS, Tokenization, attempt, describe_tokenizer
from anomia.models.weights import Weights, build, describe_held, describe_weights

# The day that templates see here; two descriptions of one folder are equal on any day.
_DAY = datetime.date(2024, 2, 29)
_LARGE = 256 * 2**20
_CHAT_PROBES = ("prompt", "composed", "<|im_end|>", "newlines", "trailing space")


class SmallFile(NamedTuple):
    """A file that is no weights. date: when it was last written, in UTC; sha256 is "" where it is too large."""

    bytes: int
    date: str
    sha256: str


class Template(NamedTuple):
    """A chat template. rendered: some prompts as users' turns. fault: why it can't be used, "" where it can."""

    text: str
    rendered: Mapping[str, str]
    ids: Mapping[str, tuple[int, ...] | None]
    fault: str


@dataclass(frozen=True, slots=True)
class Description:
    """What two models are compared by.

    kind: the class that is loaded. settings: of its configuration, nested ones with dots. known: those that the class
    knows. generation: what the folder would generate with. end_tokens: what generation stops at. dtype: what it is
    loaded as where nothing else is asked for. weights: None where the files are not on this machine.
    fingerprint: of the tokenizer, as runs store it.
    """

    name: str
    kind: str
    model_type: str
    settings: Mapping[str, Any]
    known: frozenset[str] = field(repr=False)
    quantization: Mapping[str, Any] | None
    generation: Mapping[str, Any]
    end_tokens: tuple[int, ...]
    dtype: str
    positions: int | None
    tokenizer: Tokenization
    fingerprint: str
    template: Template | None
    weights: Weights | None
    files: Mapping[str, SmallFile] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the list of all tokens."""
        plain = dataclasses.asdict(self)
        del plain["tokenizer"]["vocabulary"]
        if self.template is not None:
            plain["template"] = self.template._asdict()
        plain["files"] = {name: file._asdict() for name, file in self.files.items()}
        plain["known"] = sorted(self.known)
        return plain


def describe(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    prompts: Mapping[str, str] | None = None,
    hash_weights: bool = False,
) -> Description:
    """Describes a model without loading its weights.

    Args:
        name: a hub id, a folder, a `.gguf` file, or a model held in memory.
        revision: of a hub repository.
        trust_remote_code: whether code that the repository brings along may run.
        prompts: texts by name, such as a study's, whose token ids are compared too.
        hash_weights: also read the weight files to hash them.

    Raises:
        ModelError: it can't be found, or loading would refuse it.
    """
    with gguf_read_once():
        tokenizer, config = load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
    with quiet_transformers():
        if name.startswith(PREFIX):
            model, _ = held(name)
            files = ModelFiles(name)
            weights: Weights | None = describe_held(model, name)
            generation = model.generation_config
        else:
            files = find_files(name, revision=revision)
            model = build(name, config, trust_remote_code=trust_remote_code)
            weights = describe_weights(name, files, model, hashed=hash_weights)
            generation = _generation(name, files, model, revision)
    text = config.get_text_config()
    return Description(
        name=name,
        kind=type(model).__name__,
        model_type=text.model_type,
        settings=_settings(config),
        known=_known(text),
        quantization=_plain(config.to_dict().get("quantization_config")),
        generation={key: _plain(value) for key, value in generation.to_dict().items() if value is not None},
        end_tokens=_ends(name, generation.eos_token_id, tokenizer),
        dtype=_dtype(files, config, weights),
        positions=getattr(text, "max_position_embeddings", None),
        tokenizer=describe_tokenizer(tokenizer, prompts),
        fingerprint=fingerprint_tokenizer(tokenizer),
        template=_template(tokenizer),
        weights=weights,
        files=_small_files(files),
    )


def _generation(name: str, files: ModelFiles, model: Any, revision: str | None) -> Any:
    """The generation settings that loading ends with: the file, or what the configuration says in its place."""
    if files.gguf:
        return model.generation_config
    options = {"revision": revision}
    try:
        return transformers.GenerationConfig.from_pretrained(files.source, **options)
    except OSError:
        return transformers.GenerationConfig.from_pretrained(
            files.source, config_file_name="config.json", _from_model_config=True, **options
        )
    # Values that it checks, and types that its checks stumble over.
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"model: {name!r} can't be loaded: its generation_config.json is invalid: {str(error).splitlines()[0]}"
        ) from None


def _ends(name: str, eos: Any, tokenizer: Any) -> tuple[int, ...]:
    """What `LoadedModel.eos_token_ids` would be."""
    if eos is None:
        eos = tokenizer.eos_token_id
    ends = [] if eos is None else eos if isinstance(eos, list | tuple) else [eos]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ends):
        raise ModelError(
            f"model: {name!r} ends answers at eos_token_id {eos!r}, which holds something else than token ids; correct "
            "it in generation_config.json, or in config.json where there is no such file"
        )
    return tuple(ends)


def _settings(config: Any) -> dict[str, Any]:
    """The settings of the language model, and those of the whole that it has none of its own for."""
    text = config.get_text_config()
    found = text.to_dict()
    if text is not config:
        whole = config.to_dict()
        parts = set(getattr(config, "sub_configs", {}))
        found |= {key: value for key, value in whole.items() if key not in found and key not in parts}
        found["tie_word_embeddings"] = whole.get("tie_word_embeddings")
    for key in ("quantization_config", "_name_or_path"):
        found.pop(key, None)
    return _flat(_plain(found))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
        )
    return flat


def _known(config: Any) -> frozenset[str]:
    """The settings that a configuration's class has a default for; empty where it can't be made without any."""
    try:
        return frozenset(type(config)().to_dict())
    except Exception:
        return frozenset()


def _dtype(files: ModelFiles, config: Any, weights: Weights | None) -> str:
    """As `load_model` loads with `auto`: the configuration's, else the first that is stored; bfloat16 for GGUF."""
    if files.gguf:
        return "bfloat16"
    said = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if said is not None:
        return str(said).removeprefix("torch.")
    floats = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    stored = [kind for kind in (weights.dtypes if weights else ()) if kind in floats]
    return floats[stored[0]] if stored else "float32"


def _template(tokenizer: Any) -> Template | None:
    text = getattr(tokenizer, "chat_template", None)
    if not text:
        return None
    rendered: dict[str, str] = {}
    try:
        for probe in _CHAT_PROBES:
            rendered[probe] = render(tokenizer, PROBE_TEXTS[probe], today=_DAY)
        ids = {probe: attempt(tokenizer, whole, special=False) for probe, whole in rendered.items()}
    except ModelError as error:
        return Template(str(text), {}, {}, str(error))
    return Template(str(text), rendered, ids, "")


def _small_files(files: ModelFiles) -> dict[str, SmallFile]:
    """Everything in the folder that is no weights; of a GGUF file, itself."""
    if files.gguf:
        paths = [Path(files.source) / files.gguf]
    elif files.folder is None:
        return {}
    else:
        paths = [path for path in sorted(files.folder.iterdir()) if path.is_file()]
        paths = [
            path for path in paths if path.suffix not in (".safetensors", ".bin", ".pt", ".pth", ".gguf")
        ]
    return {path.name: _small_file(path) for path in paths}


def _small_file(path: Path) -> SmallFile:
    there = path.stat()
    date = datetime.datetime.fromtimestamp(there.st_mtime, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    if path.suffix == ".gguf" or there.st_size > _LARGE:
        return SmallFile(there.st_size, date, "")
    with path.open("rb") as file:
        return SmallFile(there.st_size, date, hashlib.file_digest(file, "sha256").hexdigest())


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return str(value).removeprefix("torch.")
