"""Loading a model and its tokenizer from a hub id, a folder or a GGUF file.

Weights come from safetensors or GGUF, never from pickle; remote code runs only where it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

from anomia.errors import ModelError
from anomia.models.chat import chat_notes, check_chat
from anomia.models.memory import PREFIX, held

MAPPED = "map"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in evaluation mode, and its tokenizer.

    name: what the user called it. notes: what loading has to tell a reader. end_tokens: the tokens that end
    an answer where another model's are to be used; None for its own.
    """

    name: str
    model: Any
    tokenizer: Any
    notes: tuple[str, ...] = ()
    end_tokens: tuple[int, ...] | None = None

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        device: torch.device = self.model.device
        return device

    @property
    def positions(self) -> int | None:
        """The longest sequence that the model takes, in tokens; None where it has no limit."""
        positions: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return positions

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer, as `generate` takes them."""
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
) -> LoadedModel:
    """Loads a model for probing.

    Args:
        name: a hub id, a folder, or a `.gguf` file (dequantized).
        dtype: `auto` (as stored; bfloat16 for GGUF), `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda`, `mps`, or `map`: layers spread over all GPUs that this process sees.
        revision: of a hub repository.
        trust_remote_code: whether code that the repository brings along may run.
        chat: whether the tokenizer must have a chat template that works.

    Raises:
        ModelError: it can't be found, has no usable weights, or is no causal language model.
    """
    if name.startswith(PREFIX):
        return _from_memory(name, dtype=dtype, device=device, chat=chat)
    source, gguf_file = _locate(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if gguf_file:
        options["gguf_file"] = gguf_file
    weights: dict[str, Any] = {"dtype": DTYPES.get(dtype, "auto"), "use_safetensors": True}
    if gguf_file:
        weights = {
            "dtype": DTYPES.get(dtype, torch.bfloat16),
            "quantization_config": transformers.GgufConfig(dequantize=True),
        }
    if device == MAPPED:
        weights["device_map"] = "auto"
    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                source, **options, **weights, output_loading_info=True
            )
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            raise ModelError(_explain(name, error)) from None
        except Exception as error:
            if gguf_file:
                # A truncated GGUF file ends in whatever its parser stumbles over.
                raise ModelError(
                    f"model: {name!r} can't be loaded: the GGUF file is damaged, or of a kind that transformers"
                    f" can't read ({error})"
                ) from None
            # safetensors and the hub client raise types of their own that share no base class.
            if not type(error).__module__.startswith(("safetensors", "huggingface_hub", "httpx")):
                raise
            raise ModelError(_explain(name, error)) from None
    # What a file lacks would be filled with random numbers.
    absent = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if absent:
        raise ModelError(
            f"model: {name!r} lacks {len(absent)} of its weights or has them in another shape ({absent[0]}, …); "
            "it is damaged, or stored in a format that this version of transformers can't read"
        )
    placed = model if device == MAPPED else model.to(resolve_device(device))
    return _ready(name, placed, tokenizer, chat=chat)


def check_place(name: str) -> None:
    """Sees that a model which is named as a folder or a file is there, with weights in a form that is loaded.

    Raises:
        ModelError: it is not.
    """
    if not name.startswith(PREFIX):
        _locate(name)


def load_tokenizer(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """A model's tokenizer and configuration, without its weights.

    Raises:
        ModelError: they can't be found.
    """
    if name.startswith(PREFIX):
        model, tokenizer = held(name)
        return tokenizer, model.config
    source, gguf_file = _locate(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if gguf_file:
        options["gguf_file"] = gguf_file
    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            config = transformers.AutoConfig.from_pretrained(source, **options)
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            raise ModelError(_explain(name, error)) from None
    return tokenizer, config


def _from_memory(name: str, *, dtype: str, device: str, chat: bool) -> LoadedModel:
    """A copy of a model that this process holds; `auto` leaves it on its device and in its type."""
    model, tokenizer = held(name)
    if dtype in DTYPES and model.dtype != DTYPES[dtype]:
        model = _cast(model, DTYPES[dtype])
    return _ready(name, model if device == "auto" else model.to(resolve_device(device)), tokenizer, chat=chat)


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """A model in another type; what is computed in float32 and not stored, such as rotary frequencies, stays."""
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


def _ready(name: str, model: Any, tokenizer: Any, *, chat: bool) -> LoadedModel:
    if chat:
        check_chat(name, tokenizer)
    model = model.eval()
    model.requires_grad_(False)
    return LoadedModel(name, model, tokenizer, notes=chat_notes(tokenizer) if chat else ())


def resolve_device(device: str) -> str:
    """`auto` is CUDA, then MPS, then the CPU; a device that is not there is an error."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in available.items() if there)
    if not available.get(device.partition(":")[0], False):
        raise ModelError(f"device: {device!r} is not available on this machine; use --device auto or cpu")
    return device


def _locate(name: str) -> tuple[str, str | None]:
    """The folder or hub id to load from, and the GGUF file inside it."""
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"model: the GGUF file {name} does not exist")
        return str(path.parent), path.name
    if path.is_dir():
        _check_folder(path)
        return str(path), None
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or (path.parent.is_dir() and "/" in name):
        raise ModelError(
            f"model: there is no folder {name!r}; give a hub id (owner/name), a folder or a .gguf file"
        )
    return name, None


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"model: the folder {path} has no config.json; it is not a Hugging Face model folder"
        )
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"model: {path} has its weights as pickle only ({pickles[0]}), which can run code when loaded. "
            "Convert it with save_pretrained(..., safe_serialization=True) where you trust it"
        )
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if ggufs:
        raise ModelError(f"model: {path} holds GGUF weights; give the file itself: {path / ggufs[0]}")
    raise ModelError(f"model: the folder {path} has no weights (*.safetensors)")


def _explain(name: str, error: Exception) -> str:
    """One message out of the many that loading can end in."""
    text = str(error).strip()
    lowered = text.lower()
    first = text.splitlines()[0] if text else type(error).__name__
    if "trust_remote_code" in lowered:
        remedy = "it brings code of its own; add --trust-remote-code if you trust it"
    elif "gated" in lowered:
        remedy = "it is gated: accept its terms on the hub and log in with `hf auth login`"
    elif any(sign in lowered for sign in ("offline", "connect", "couldn't reach", "cached files", "resolve")):
        remedy = "the hub can't be reached and it is not in the local cache; check the connection, or give a folder"
    elif any(sign in lowered for sign in ("not a valid model identifier", "not a local folder", "404")):
        remedy = "no folder and no hub repository has this name; check the spelling"
    elif "safetensors" in lowered and "no file named" in lowered:
        remedy = "it has no safetensors weights; pickle is not loaded"
    else:
        remedy = first
    return f"model: {name!r} can't be loaded: {remedy}"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps the progress bars and the advice of `transformers` out of ours."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    # The bar of GGUF files heeds no setting of the library.
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
