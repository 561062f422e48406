"""Loads a model and its tokenizer from a hub id, a folder or a GGUF file.

Weights come from safetensors or GGUF, never from pickle; remote code runs only on request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

from anomia.errors import ModelError
from anomia.models import adapter_merge, adapter_plan
from anomia.models.adapter_settings import needs_peft
from anomia.models.adapters import Adapter, check_base, find_adapter, own_base
from anomia.models.after import (
    check_method,
    quantization_note,
    rotary_note,
    untied_note,
    was_unpacked,
    with_gguf,
)
from anomia.models.chat import chat_notes, check_chat, with_template
from anomia.models.examine import examine, look_up, options_of, own_code, read_config, read_tokenizer
from anomia.models.explain import explain, has_tokenizer, heard
from anomia.models.files import ModelFiles, check_hub_id, locate
from anomia.models.gguf_header import gguf_read_once
from anomia.models.gguf_rules import refuse_settings, with_ends
from anomia.models.gptq import gptq_readable
from anomia.models.memory import PREFIX, held
from anomia.models.refuse import refuse
from anomia.models.sizes import positions_of
from anomia.models.tensors import NOTHING, from_loading, ignored_notes, skeleton

MAPPED = "map"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in evaluation mode, and its tokenizer.

    name: as given by the user. notes: notes from loading for the reader. end_tokens: end tokens of another model to
    use; None for its own. adapter: a hash of the adapter merged into a base, "" if none.
    """

    name: str
    model: Any
    tokenizer: Any
    notes: tuple[str, ...] = ()
    end_tokens: tuple[int, ...] | None = None
    adapter: str = ""

    @property
    def device(self) -> torch.device:
        """The device for inputs."""
        device: torch.device = self.model.device
        return device

    @property
    def positions(self) -> int | None:
        """The longest sequence that the model takes, in tokens; None if there is no limit."""
        return positions_of(self.model.config)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer, as in `generate`."""
        if self.end_tokens is not None:
            return self.end_tokens
        eos = self.model.generation_config.eos_token_id
        if eos is None:
            eos = self.tokenizer.eos_token_id
        if eos is None:
            return ()
        return tuple(eos) if isinstance(eos, list | tuple) else (int(eos),)


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    chat: bool = False,
    chat_template: str | None = None,
    base: str | None = None,
    base_revision: str | None = None,
) -> LoadedModel:
    """Loads a model for probing.

    Args:
        name: a hub id, a folder or a `.gguf` file (dequantized); or a folder or hub id with an adapter.
        dtype: `auto` (as stored; bfloat16 for GGUF), `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda`, `mps`, or `map` to spread layers over all GPUs visible to this process.
        revision: the revision of a hub repository.
        trust_remote_code: whether code from the repository may run.
        chat: whether the tokenizer must have a usable chat template.
        chat_template: a template in place of the tokenizer's own.
        base: the base to put an adapter on; None for the one that it names.
        base_revision: the revision of the base.

    Raises:
        ModelError: it can't be found, has no usable weights, or is not a causal language model.
    """
    if name.startswith(PREFIX):
        return _from_memory(name, dtype=dtype, device=device, chat=chat, chat_template=chat_template)
    adapter = find_adapter(name, revision=revision)
    if adapter is not None:
        on = base or own_base(adapter)
        loaded = load_model(
            on, dtype=dtype, device=device, revision=base_revision, trust_remote_code=trust_remote_code
        )
        return _with_adapter(
            adapter, on, loaded, chat=chat, chat_template=chat_template, trust_remote_code=trust_remote_code
        )
    with quiet_transformers(), gguf_read_once():
        found = examine(name, revision=revision, trust_remote_code=trust_remote_code)
        options = options_of(found.files, revision=revision, trust_remote_code=trust_remote_code)
        tokenizer = read_tokenizer(name, found.files, revision=revision, trust_remote_code=trust_remote_code)
        unread: tuple[str, ...] = ()
        file = Path(found.files.source) / found.files.gguf if found.files.gguf else None
        if file is not None:
            unread = refuse_settings(name, file, found.config)
            empty = skeleton(found.config)
            refuse(name, empty, with_gguf(NOTHING, empty, file), {})
        model, info = _read_weights(name, found.files, {**options, **_placing(found.files, dtype, device)})
    differs = from_loading(model, info, found.stored, quantized=was_unpacked(found.config, model))
    if file is not None:
        differs = with_gguf(differs, model, file)
        with_ends(model.generation_config, file)
    refuse(name, model, differs, found.stored)
    notes = (
        *found.notes,
        *unread,
        *quantization_note(found.config, model),
        *untied_note(model, found.stored),
        *rotary_note(model, found.stored),
    )
    if found.account is None:
        notes += ignored_notes(differs.ignored)
    placed = model if device == MAPPED else model.to(resolve_device(device))
    _decompress(placed)
    return _ready(name, placed, with_template(tokenizer, chat_template), chat=chat, notes=notes)


def _with_adapter(
    adapter: Adapter,
    base: str,
    loaded: LoadedModel,
    *,
    chat: bool,
    chat_template: str | None,
    trust_remote_code: bool,
) -> LoadedModel:
    """Merges an adapter into a base, with the tokenizer from the adapter's folder if there is one."""
    model, before = loaded.model, int(loaded.model.get_input_embeddings().weight.shape[0])
    other = check_base(adapter, base, model.config)
    found = None if needs_peft(adapter) else adapter_plan.plan(adapter, model)
    if found is None:
        model, changed = adapter_merge.merge_with_peft(adapter, model)
    else:
        changed = adapter_merge.merge(adapter, model, found)
    tokenizer = loaded.tokenizer
    if has_tokenizer(adapter.folder):
        with quiet_transformers():
            tokenizer = tokenizer_of(adapter, model.config, trust_remote_code)
        rows, last = int(model.get_input_embeddings().weight.shape[0]), max(tokenizer.get_vocab().values())
        # The tokenizers of some bases have ids without an embedding, such as those of images.
        if last >= rows and last > max(loaded.tokenizer.get_vocab().values()):
            raise ModelError(
                f"model: the tokenizer of the adapter {adapter.name!r} has {last + 1:,} tokens and the embeddings "
                f"have {rows:,} rows: its vocabulary was enlarged and the new rows are not stored; save it again with "
                "save_embedding_layers=True"
            )
    notes = [adapter_plan.describe(adapter, found, before), *([other] if other else ())]
    notes += [*adapter_plan.notes(found), *changed]
    tokenizer = with_template(tokenizer, chat_template)
    ready = _ready(adapter.name, model, tokenizer, chat=chat, notes=(*loaded.notes, *notes))
    return replace(ready, adapter=adapter.identity)


def tokenizer_of(adapter: Adapter, config: Any, trust_remote_code: bool) -> Any:
    """Reads the tokenizer in an adapter's folder; the base's configuration determines its class."""
    files = ModelFiles(str(adapter.folder), folder=adapter.folder)
    return read_tokenizer(adapter.name, files, trust_remote_code=trust_remote_code, config=config)


def _placing(files: ModelFiles, dtype: str, device: str) -> dict[str, Any]:
    """Options for reading the weights."""
    weights: dict[str, Any] = {"dtype": DTYPES.get(dtype, "auto"), "use_safetensors": True}
    if files.gguf:
        weights = {
            "dtype": DTYPES.get(dtype, torch.bfloat16),
            "quantization_config": transformers.GgufConfig(dequantize=True),
        }
    if device == MAPPED:
        weights["device_map"] = "auto"
    return weights


def _read_weights(name: str, files: ModelFiles, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Reads the model; returns it with the loading information of transformers.

    Mismatched shapes are in that information and are refused by the caller. Adapters are searched for in a subfolder
    that never exists; otherwise one would be applied whenever peft happens to be installed.
    """
    with heard() as logged_lines, gptq_readable():
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                files.source,
                **options,
                ignore_mismatched_sizes=True,
                adapter_kwargs={"subfolder": "no-adapter"},
                output_loading_info=True,
            )
        except Exception as error:
            if files.gguf and not isinstance(
                error, OSError | ValueError | ImportError | KeyError | RuntimeError
            ):
                # The parser can fail in any way on a truncated GGUF file.
                raise ModelError(
                    f"model: {name!r} can't be loaded: the GGUF file is damaged, or of a kind that transformers"
                    f" can't read ({error})"
                ) from None
            raise ModelError(
                explain(name, error, folder=files.folder, logged="\n".join(logged_lines))
            ) from None
    return model, info


@torch.no_grad()
def _decompress(model: Any) -> None:
    """Calls the whole model once if compressed-tensors needs that to unpack weights; probing only calls its parts."""
    settings = getattr(model.config, "quantization_config", None)
    method = (
        settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", "")
    )
    if str(getattr(method, "value", method)) == "compressed-tensors":
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)


def check_place(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    base: str | None = None,
) -> None:
    """Checks, without reading weights, that a model given as a folder or a file can be loaded.

    Of models on the hub, only their being there is checked. base: the base that an adapter will be put on.

    Raises:
        ModelError: it doesn't exist, or loading would refuse it.
    """
    if name.startswith(PREFIX):
        return
    if Path(name).expanduser().is_dir():
        adapter = find_adapter(name)
        if adapter is not None:
            _check_adapter(adapter, base or own_base(adapter), trust_remote_code)
            return
    source, gguf = locate(name)
    if not gguf and not Path(source).is_dir():
        check_hub_id(source, revision=revision)
    elif not gguf:
        with quiet_transformers():
            found = examine(name, revision=revision, trust_remote_code=trust_remote_code)
        if not own_code(found.config, trust_remote_code):
            check_method(found.config)


def _check_adapter(adapter: Adapter, base: str, trust_remote_code: bool) -> None:
    """Checks that an adapter fits a base, as far as the base's folder tells."""
    if needs_peft(adapter):
        adapter_merge.check_peft(adapter)
        return
    if base.startswith(PREFIX):
        adapter_plan.plan(adapter, held(base)[0])
    elif Path(base).expanduser().is_dir() and find_adapter(base) is None:
        with quiet_transformers():
            found = examine(base, trust_remote_code=trust_remote_code)
        if found.skeleton is not None:
            adapter_plan.plan(adapter, found.skeleton)


def load_tokenizer(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
) -> tuple[Any, Any]:
    """Loads a model's tokenizer and configuration, without its weights.

    chat_template: a template in place of the tokenizer's own.

    Raises:
        ModelError: they can't be found.
    """
    tokenizer, config = _load_tokenizer(name, revision, trust_remote_code)
    return with_template(tokenizer, chat_template), config


def _load_tokenizer(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    if name.startswith(PREFIX):
        model, tokenizer = held(name)
        return tokenizer, model.config
    adapter = find_adapter(name, revision=revision)
    if adapter is not None:
        tokenizer, config = load_tokenizer(own_base(adapter), trust_remote_code=trust_remote_code)
        if has_tokenizer(adapter.folder):
            with quiet_transformers():
                tokenizer = tokenizer_of(adapter, config, trust_remote_code)
        return tokenizer, config
    files = look_up(name, revision=revision, weights=False)
    with quiet_transformers(), gguf_read_once():
        tokenizer = read_tokenizer(name, files, revision=revision, trust_remote_code=trust_remote_code)
        config = read_config(name, files, revision=revision, trust_remote_code=trust_remote_code)
    return tokenizer, config


def _from_memory(name: str, *, dtype: str, device: str, chat: bool, chat_template: str | None) -> LoadedModel:
    """A copy of a model held in this process; `auto` keeps its device and dtype."""
    model, tokenizer = held(name)
    if dtype in DTYPES and model.dtype != DTYPES[dtype]:
        model = _cast(model, DTYPES[dtype])
    placed = model if device == "auto" else model.to(resolve_device(device))
    return _ready(name, placed, with_template(tokenizer, chat_template), chat=chat)


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Casts a model, except for float32 buffers that are computed and not stored, such as rotary frequencies."""
    kept = [
        (module, name, module.get_buffer(name))
        for module in model.modules()
        for name in module._non_persistent_buffers_set
        if module._buffers.get(name) is not None and module._buffers[name].dtype == torch.float32
    ]
    model = model.to(dtype)
    for module, name, buffer in kept:
        module.register_buffer(name, buffer, persistent=False)
    return model


def _ready(name: str, model: Any, tokenizer: Any, *, chat: bool, notes: tuple[str, ...] = ()) -> LoadedModel:
    if chat:
        check_chat(name, tokenizer)
    model = model.eval()
    model.requires_grad_(False)
    return LoadedModel(name, model, tokenizer, (*notes, *(chat_notes(tokenizer) if chat else ())))


def resolve_device(device: str) -> str:
    """Resolves `auto` to CUDA, then MPS, then the CPU.

    Raises:
        ModelError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in available.items() if there)
    if not available.get(device.partition(":")[0], False):
        raise ModelError(f"device: {device!r} is not available on this machine; use --device auto or cpu")
    return device


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the progress bars and warnings of `transformers` inside the block."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    # The progress bar for GGUF files ignores the library's settings.
    gguf_bar = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = partial(gguf_bar, disable=True)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = gguf_bar
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
