"""Folders that can't be loaded: run, the look before a run, and prune say the same thing, and nobody is asked."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from anomia.compress.folder import compress_folder
from anomia.compress.spec import parse_arm
from anomia.errors import AnomiaError, ModelError
from anomia.models.load import check_place, load_model, load_tokenizer

from .broken import FOLDERS, copied

# Only the tokenizer is read for it, which the look before a run leaves alone.
TOKENIZERS = {name for name in FOLDERS if "tokenizer" in name or "merges" in name} - {
    "the tokenizer is a Git LFS pointer"
}


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> str:
        pytest.fail("a question on standard input")

    monkeypatch.setattr(builtins, "input", asked)


@pytest.mark.parametrize("case", FOLDERS)
def test_a_broken_folder_is_one_message_that_names_the_cause(
    case: str, model_folder: Path, tmp_path: Path
) -> None:
    change, says = FOLDERS[case]
    folder, out = copied(model_folder, tmp_path / "arm"), tmp_path / "out"
    change(folder)
    with pytest.raises(ModelError, match=says) as run:
        load_model(str(folder), device="cpu")
    assert "\n" not in str(run.value)
    with pytest.raises(AnomiaError, match=says) as prune:
        compress_folder(str(folder), out, [parse_arm("magnitude:0.5").steps[0]])
    assert str(prune.value) == str(run.value)
    assert not out.exists()
    assert not (folder / "ran").exists()
    if case not in TOKENIZERS:
        with pytest.raises(ModelError) as look:
            check_place(str(folder))
        assert str(look.value) == str(run.value)
    with pytest.raises(ModelError) if case in TOKENIZERS else _any_outcome():
        load_tokenizer(str(folder))


class _any_outcome:  # noqa: N801 - stands where `pytest.raises` does
    """A tokenizer may be whole where the weights are not; what it raises must be one message all the same."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> bool:
        return kind is None or issubclass(kind, ModelError)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.gguf", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("x.gguf", b"", "not a GGUF file"),
        ("x.gguf", b"<html>", "not a GGUF file"),
        ("x-00001-of-00003.gguf", b"GGUF" + bytes(60), "one part of a GGUF file.*--merge"),
        ("x.gguf", b"GGUF" + bytes(60), "can't be loaded|can't be read"),
    ],
)
def test_a_broken_gguf_file_is_one_message(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=says):
            load(str(tmp_path / name))
    with pytest.raises(ModelError, match=says):
        compress_folder(str(tmp_path / name), tmp_path / "out", [parse_arm("magnitude:0.5").steps[0]])
