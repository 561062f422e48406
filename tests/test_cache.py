"""What is kept on disk is listed with its size; clearing takes converted models, downloads only by name."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from anomia.cache import clear, kept
from anomia.errors import RunError


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = tmp_path / "anomia" / "some-model"
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
        ("converted", "some-model", 3000),
        ("model", "me/tiny", 500),
    ]


def test_clearing_leaves_downloads() -> None:
    assert [entry.name for entry in clear(None)] == ["some-model"]
    assert [entry.name for entry in kept()] == ["me/tiny"]


def test_clearing_one_thing(tmp_path: Path) -> None:
    clear("me/tiny")
    assert not (tmp_path / "hub" / "models--me--tiny").exists()
    with pytest.raises(RunError, match=r"nothing is named 'me/tiny'; found: some-model"):
        clear("me/tiny")


def test_no_cache_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMIA_CACHE", str(tmp_path / "none"))
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: scan(tmp_path / "neither"))
    assert kept() == []
