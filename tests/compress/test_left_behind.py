"""A call deletes only what it wrote, and leaves nothing behind if it is refused."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anomia.compress
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.unfinished import UNFINISHED
from anomia.errors import AnomiaError, CompressionError, RefusedError

from .test_folder import save_adapter, save_model, write_text

MINE = {"notes.txt": "mine", "model.bin": "mine", "state.json": "mine", "deep/er/x.partial": "mine"}
ENDINGS: dict[str, Callable[[], BaseException]] = {
    "refused": lambda: RefusedError("no number"),
    "failed": lambda: CompressionError("no room"),
    "stopped": KeyboardInterrupt,
}


def put(folder: Path) -> None:
    """Files that a user puts into a folder."""
    for name, text in MINE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    """The texts of the files in a folder besides the unfinished work, by name."""
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.rglob("*")
        if file.is_file() and UNFINISHED not in file.parts
    }


def ending_at(monkeypatch: pytest.MonkeyPatch, block: int, act: Callable[[], Any]) -> None:
    """Call something before a block is stored."""
    store = InFiles.store

    def ending(self: InFiles, index: int, packed: Any) -> None:
        if index == block:
            act()
        store(self, index, packed)

    monkeypatch.setattr(InFiles, "store", ending)


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("block", [0, 2])
@pytest.mark.parametrize("existed", [True, False])
def test_files_that_come_in_while_it_works_stay(
    how: str, block: int, existed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    out = tmp_path / "new" / "out"
    if existed:
        out.mkdir(parents=True)

    def act() -> None:
        put(out)
        raise ENDINGS[how]()

    ending_at(monkeypatch, block, act)
    with pytest.raises((CompressionError, KeyboardInterrupt)):
        compress_folder(str(tmp_path / "in"), out, parse_arm("magnitude:0.5").steps)
    assert contents(out) == MINE
    assert (out / UNFINISHED).exists() == (how == "stopped" or (how == "failed" and block == 2))


def test_files_beside_unfinished_work_stay_when_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        ending_at(patch, 1, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compress_folder(str(tmp_path / "in"), out, parse_arm("magnitude:0.5").steps)
    put(out)
    with monkeypatch.context() as patch:
        ending_at(patch, 2, lambda: (_ for _ in ()).throw(RefusedError("no number")))
        with pytest.raises(RefusedError):
            compress_folder(str(tmp_path / "in"), out, parse_arm("magnitude:0.5").steps)
    assert contents(out) == MINE
    assert not (out / UNFINISHED).exists()


@pytest.mark.parametrize("arm", ["magnitude:0.5", "shortgpt:0.34", "embeddings:q8_0", "slicegpt:0.25"])
def test_a_file_in_the_way_is_kept_and_so_is_the_result(arm: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in", hidden_size=32)
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=2))
    out, steps = tmp_path / "out", parse_arm(arm).steps
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", steps, options)

    def put_one(done: int, _: int) -> None:
        (out / "README.md").write_text("mine")

    with pytest.raises(CompressionError, match=r"README\.md, .*move it away and run the same command again"):
        compress_folder(str(tmp_path / "in"), out, steps, options, progress=put_one)
    assert contents(out) == {"README.md": "mine"}
    (out / "README.md").rename(tmp_path / "README.md")
    report = compress_folder(
        str(tmp_path / "in"), out, steps, options, progress=lambda *_: pytest.fail("it worked again")
    )
    assert report.compression.step == arm
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole"))


def test_a_call_that_was_stopped_while_the_result_was_moved_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    out, steps, replace = tmp_path / "out", parse_arm("magnitude:0.5").steps, os.replace

    def stop(source: Any, target: Any) -> None:
        if Path(target).parent == out and Path(target).name.startswith("model"):
            raise KeyboardInterrupt
        replace(source, target)

    (tmp_path / "text.txt").write_text("w1 w2 w3 w4")
    options = FolderOptions(perplexity_text=tmp_path / "text.txt")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            compress_folder(str(tmp_path / "in"), out, steps, options)
    assert (out / "config.json").exists()
    assert not (out / "anomia.json").exists()
    report = compress_folder(str(tmp_path / "in"), out, steps, options)
    whole = compress_folder(str(tmp_path / "in"), tmp_path / "whole", steps, options)
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole"))
    assert report.compression.matrices == whole.compression.matrices
    assert (report.dense, report.compressed, report.streamed) == (
        whole.dense, whole.compressed, whole.streamed,
    )  # fmt: skip


def test_model_files_beside_unfinished_work_are_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    out, steps = tmp_path / "out", parse_arm("magnitude:0.5").steps
    with monkeypatch.context() as patch:
        ending_at(patch, 1, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compress_folder(str(tmp_path / "in"), out, steps)
    (out / "model-00001.safetensors").write_text("mine")
    with pytest.raises(CompressionError, match=r"model-00001\.safetensors"):
        compress_folder(str(tmp_path / "in"), out, steps, progress=lambda *_: pytest.fail("it worked again"))
    assert contents(out) == {"model-00001.safetensors": "mine"}


CHAINS = [
    ("magnitude:0.3+wanda:5:9", "can't divide"),
    ("flap:0.3+gptq:4,group=16", "can't divide"),
    ("flap:0.3+shortgpt:0.01", "would remove 0 of"),
    ("shortgpt:0.34+slicegpt:0.0001", "choose a larger share"),
    ("magnitude:0.3+wanda:0.5,calibration=file:/nope.txt", "nope.txt"),
    ("shortgpt:0.34+dropexperts:0.5", "experts"),
]


@pytest.mark.parametrize("model", ["in", "lora"])
@pytest.mark.parametrize(("arm", "says"), CHAINS)
def test_a_chain_that_a_later_step_refuses_leaves_nothing(
    model: str, arm: str, says: str, tmp_path: Path
) -> None:
    """An adapter's tensors aren't known before it is merged."""
    base = save_model("llama", tmp_path / "in")
    save_adapter(base, tmp_path / "lora", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=4))
    with pytest.raises(AnomiaError, match=says):
        compress_folder(str(tmp_path / model), tmp_path / "new" / "out", parse_arm(arm).steps, options)
    assert not (tmp_path / "new").exists()


GOES_ON = ("same command", "that command", "another folder", "choose a folder", "PRUNE_AGAIN")
"""What a message advises that doesn't refuse the model or the settings."""


def test_what_would_happen_again_is_raised_as_refused() -> None:
    """After any other `CompressionError`, finished blocks are kept for the next call."""
    folder = Path(anomia.compress.__file__).parent
    wrong = []
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CompressionError":
                told = re.sub(r'"\s*f?"', "", ast.get_source_segment(text, node) or "")
                if not any(words in told for words in GOES_ON):
                    wrong.append(f"{file.name}:{node.lineno}: {told[:80]}")
    assert not wrong
