"""Finished work is continued only with the model, text and options that it was begun with, whatever the method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.unfinished import UNFINISHED
from anomia.errors import CompressionError

from .test_folder import StopError, save_model, weights, write_text

WITH_TEXT = [
    *("wanda:0.5", "wanda:2:4", "sparsegpt:2:4", "ria:2:4", "alps:0.5", "wandapp:0.5", "mwanda:2:4"),
    *("wanda:0.5,allocation=owl", "wanda:0.5+dsnot", "wanda:0.5+update", "gptq:4,group=8", "awq:4,group=8"),
    *("flap:0.3", "shortgpt:0.34", "wanda:0.5+gptq:4,group=8", "flap:0.3+wanda:0.5"),
]
# Of embeddings alone nothing is finished before the first file is written: test_streamed has those.
WITHOUT_TEXT = ["magnitude:0.5", "int4:group=8", "magnitude:0.5+embeddings:q8_0"]


def begun(arm: str, tmp_path: Path) -> FolderOptions:
    """Interrupt a call after the first part of its last step."""
    save_model("llama", tmp_path / "in", hidden_size=32)
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm(arm).steps
    calls: list[int] = []

    def stop(done: int, _: int) -> None:
        calls.append(done)
        # Embeddings count rows.
        if calls.count(1) == len(steps) or done > 3:
            raise StopError

    with pytest.raises(StopError):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options, progress=stop)
    assert (tmp_path / "out" / UNFINISHED).is_dir()
    return options


def change(what: str, tmp_path: Path, options: FolderOptions) -> FolderOptions:
    if what == "calibration text":
        text = (tmp_path / "text.txt").read_text(encoding="utf-8")
        (tmp_path / "text.txt").write_text(text.replace("w5 ", "w6 "), encoding="utf-8")
    if what == "weights":
        stored = load_file(tmp_path / "in" / "model.safetensors")
        stored["model.layers.2.mlp.up_proj.weight"][0, 0] += 1
        save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    if what == "configuration":
        config = json.loads((tmp_path / "in" / "config.json").read_text())
        (tmp_path / "in" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    if what == "samples":
        return replace(options, text=replace(options.text, samples=11))
    return replace(options, dtype="bfloat16") if what == "dtype" else options


@pytest.mark.parametrize("arm", [*WITH_TEXT, *WITHOUT_TEXT])
def test_what_changed_in_between_is_recognised(arm: str, tmp_path: Path) -> None:
    options = begun(arm, tmp_path)
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    changes: list[tuple[str, str]] = [
        ("weights", "another model"),
        ("configuration", "another model"),
        ("dtype", r"settings \(dtype"),
    ]
    if arm in WITH_TEXT:
        changes += [("calibration text", "another calibration text"), ("samples", r"settings \(.*samples")]
    for what, named in changes:
        changed = change(what, tmp_path, options)
        with pytest.raises(CompressionError, match=named):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(arm).steps, changed)
        for file, content in kept.items():
            file.write_bytes(content)


@pytest.mark.parametrize("arm", [*WITH_TEXT, *WITHOUT_TEXT])
def test_the_same_command_ends_in_the_same_model(arm: str, tmp_path: Path) -> None:
    options = begun(arm, tmp_path)
    steps: Any = parse_arm(arm).steps
    compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", steps, options)
    mine, whole = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert mine.keys() == whole.keys()
    assert all(mine[name].equal(whole[name]) for name in whole)
