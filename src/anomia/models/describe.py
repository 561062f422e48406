"""Describes a model without the values of its weights; takes seconds, because only the tokenizer is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers

from anomia.errors import ModelError
from anomia.models import adapter_merge, adapter_plan
from anomia.models.adapters import Adapter, check_base, find_adapter, own_base
from anomia.models.examine import look_up, read_config, read_tokenizer
from anomia.models.explain import explain, has_tokenizer
from anomia.models.files import ModelFiles, weight_files
from anomia.models.gguf_header import gguf_read_once
from anomia.models.gguf_rules import with_ends
from anomia.models.load import load_tokenizer, quiet_transformers, tokenizer_of
from anomia.models.memory import PREFIX, held
from anomia.models.reading import Reading, Template, read
from anomia.models.rewritten import rewritten
from anomia.models.sizes import positions_of
from anomia.models.small_files import SmallFile, small_files
from anomia.models.tokenization import Tokenization, plain
from anomia.models.weights import Weights, build, describe_held, describe_weights, with_rows

# Files that tokenizers don't read.
_NOT_READ = {
    "generation_config.json",
    "README.md",
    "LICENSE",
    ".gitattributes",
    "model.safetensors.index.json",
}
_MOST_READ = 3
_READ: dict[Hashable, Reading] = {}


@dataclass(frozen=True, slots=True)
class Description:
    """The properties by which two models are compared.

    kind: the model class. settings: its configuration, nested keys joined by dots. known: settings that the class
    knows. generation: the folder's generation settings. end_tokens: where generation stops. dtype: the default dtype
    for loading. weights: None if the files are not on this machine. fingerprint: of the tokenizer, as stored in runs.
    adapter: the adapter merged into a base, "" if none. rewritten: weights that compression wrote in another order or
    scale, "" if none are known.
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
    adapter: str = ""
    rewritten: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the vocabulary."""
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
    base: str | None = None,
    base_revision: str | None = None,
) -> Description:
    """Describes a model without loading its weights.

    Args:
        name: a hub id, a folder, a `.gguf` file, a model held in memory, or an adapter.
        revision: the revision of a hub repository.
        trust_remote_code: whether code from the repository may run.
        prompts: texts by name, such as a study's, whose token ids are compared too.
        hash_weights: also read the weight files to hash them.
        base: the base to put an adapter on; None for the one that it names.
        base_revision: the revision of the base.

    Raises:
        ModelError: the model can't be found, or loading would refuse it.
    """
    if name.startswith(PREFIX):
        return _describe_held(name, prompts)
    adapter = find_adapter(name, revision=revision)
    if adapter is not None:
        on = base or own_base(adapter)
        whole = describe(
            on,
            revision=base_revision,
            trust_remote_code=trust_remote_code,
            prompts=prompts,
            hash_weights=hash_weights,
        )
        return _with_adapter(adapter, on, whole, prompts, trust_remote_code=trust_remote_code)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with quiet_transformers(), gguf_read_once():
        files = look_up(name, revision=revision, weights=False)
        config = read_config(name, files, **options)
        files = files if files.folder or files.gguf else _cached(files, revision)
        reading = _reading(name, files, prompts, options)
        model = build(name, config, trust_remote_code=trust_remote_code)
        weights = describe_weights(
            name,
            files,
            model,
            own_code=trust_remote_code and bool(getattr(config, "auto_map", None)),
            hashed=hash_weights,
        )
        generation = _generation(name, files, model, revision)
    return _description(name, files, config, model, reading, weights, generation)


def _with_adapter(
    adapter: Adapter,
    on: str,
    whole: Description,
    prompts: Mapping[str, str] | None,
    *,
    trust_remote_code: bool,
) -> Description:
    """Describes a base with an adapter: the base's settings and tensors, the adapter's vocabulary and tokenizer."""
    config = load_tokenizer(on, trust_remote_code=trust_remote_code)[1]
    model = build(on, config, trust_remote_code=trust_remote_code)
    text, weights, settings = f"{adapter.label} ({adapter.kind})", whole.weights, dict(whole.settings)
    notes: list[str] = []
    try:
        before = int(model.get_input_embeddings().weight.shape[0])
        found = adapter_merge.examine(adapter, model)
        text, notes = adapter_plan.describe(adapter, found, before), adapter_plan.notes(found)
        if found is not None:
            settings["vocab_size"] = found.rows if found.rows != before else settings.get("vocab_size")
            weights = whole.weights and with_rows(whole.weights, found.changes, before, found.rows)
    except ModelError as error:
        # Without the base's weights, the description has no field for the reason.
        if weights is None:
            raise
        weights = dataclasses.replace(weights, refused=weights.refused or str(error))
    other = check_base(adapter, on, config)
    if weights is not None:
        weights = dataclasses.replace(weights, identity=(*weights.identity, adapter.identity))
    changed = dataclasses.replace(
        whole, name=adapter.name, weights=weights, settings=settings, files={},
        adapter=". ".join([text, *([other] if other else ()), *notes]),
    )  # fmt: skip
    if not has_tokenizer(adapter.folder):
        return changed
    with quiet_transformers():
        reading = read(tokenizer_of(adapter, config, trust_remote_code), prompts)
    return dataclasses.replace(
        changed, tokenizer=reading.tokenizer, fingerprint=reading.fingerprint, template=reading.template
    )


def _describe_held(name: str, prompts: Mapping[str, str] | None) -> Description:
    model, tokenizer = held(name)
    reading, weights = read(tokenizer, prompts), describe_held(model, name)
    return _description(
        name, ModelFiles(name), model.config, model, reading, weights, model.generation_config
    )


def _description(
    name: str,
    files: ModelFiles,
    config: Any,
    model: Any,
    reading: Reading,
    weights: Weights | None,
    generation: Any,
) -> Description:
    text = config.get_text_config()
    return Description(
        name=name,
        kind=type(model).__name__,
        model_type=text.model_type,
        settings=_settings(config),
        known=_known(text),
        quantization=_plain(config.to_dict().get("quantization_config")),
        generation={key: _plain(value) for key, value in generation.to_dict().items() if value is not None},
        end_tokens=_ends(name, generation.eos_token_id, reading.eos),
        dtype=_dtype(files, config, weights),
        positions=positions_of(text),
        tokenizer=reading.tokenizer,
        fingerprint=reading.fingerprint,
        template=reading.template,
        weights=weights,
        files=small_files(files),
        rewritten=rewritten(files.folder),
    )


def _cached(files: ModelFiles, revision: str | None) -> ModelFiles:
    """The files of a hub repository that are already cached; nothing is downloaded for a comparison."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(files.source, "config.json", revision=revision)
    if not isinstance(config, str):
        return files
    folder = Path(config).parent
    try:
        weights = weight_files(folder)
    except ModelError:
        weights = ()
    return ModelFiles(files.source, None, folder, weights)


def _reading(
    name: str, files: ModelFiles, prompts: Mapping[str, str] | None, options: dict[str, Any]
) -> Reading:
    """Reads the tokenizer; cached for folders with the same files and without their own code."""
    key: Hashable = None
    if files.folder is not None and not options["trust_remote_code"]:
        there = {name: file.sha256 for name, file in small_files(files).items() if name not in _NOT_READ}
        key = (tuple(there.items()), tuple((prompts or {}).items())) if all(there.values()) else None
    found = _READ.get(key)
    if key is None or found is None:
        found = read(read_tokenizer(name, files, **options), prompts)
        if key is not None:
            # A vocabulary takes tens of megabytes.
            while len(_READ) >= _MOST_READ:
                del _READ[next(iter(_READ))]
            _READ[key] = found
    return found


def _generation(name: str, files: ModelFiles, model: Any, revision: str | None) -> Any:
    """The generation settings as after loading: from their file, or else from the configuration."""
    if files.gguf:
        return with_ends(model.generation_config, Path(files.source) / files.gguf)
    options = {"revision": revision}
    try:
        try:
            return transformers.GenerationConfig.from_pretrained(files.source, **options)
        except OSError:
            return transformers.GenerationConfig.from_pretrained(
                files.source, config_file_name="config.json", _from_model_config=True, **options
            )
    # Invalid values, and types that the library's checks fail on.
    except Exception as error:
        raise ModelError(explain(name, error, folder=files.folder)) from None


def _ends(name: str, eos: Any, default: int | None) -> tuple[int, ...]:
    """The end tokens that `LoadedModel.eos_token_ids` would return."""
    if eos is None:
        eos = default
    ends = [] if eos is None else eos if isinstance(eos, list | tuple) else [eos]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ends):
        raise ModelError(
            f"model: {name!r} ends answers at eos_token_id {eos!r}, which holds something other than token ids; "
            "correct it in generation_config.json, or in config.json where there is no such file"
        )
    return tuple(ends)


def _settings(config: Any) -> dict[str, Any]:
    """The settings of the language model, plus those of the whole model that it doesn't have itself."""
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
    """The settings that a configuration class has defaults for; empty if it can't be created without arguments."""
    try:
        return frozenset(type(config)().to_dict())
    except Exception:
        return frozenset()


def _dtype(files: ModelFiles, config: Any, weights: Weights | None) -> str:
    """The dtype of `load_model` with `auto`: the configuration's, else the first stored float's; bfloat16 for GGUF.

    As `modeling_utils.get_state_dict_dtype` of transformers, the first in the order of the files and of their names.
    """
    if files.gguf:
        return "bfloat16"
    dtype_name = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if dtype_name is not None:
        return str(dtype_name).removeprefix("torch.")
    floats = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    stored = (kind for _, kind in weights.tensors.values()) if weights else ()
    return next((floats[kind] for kind in stored if kind in floats), "float32")


def _plain(value: Any) -> Any:
    """Converts a value to JSON types."""
    return plain(
        value, lambda it: _plain(it.to_dict()) if hasattr(it, "to_dict") else str(it).removeprefix("torch.")
    )
