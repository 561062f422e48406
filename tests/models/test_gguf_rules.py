"""What a GGUF file holds beside what transformers' reader takes is refused or told, never dropped in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import RopeScalingType

from anomia.errors import ModelError
from anomia.models.describe import describe
from anomia.models.diff import differences
from anomia.models.gguf_header import read_gguf_header, read_gguf_settings
from anomia.models.load import load_model
from tests.compress.test_gguf import write_tiny_gguf


def written(path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> Path:
    """A tiny GGUF file into whose writer a change is made."""
    real = gguf.GGUFWriter.write_header_to_file

    def changed(writer: Any, *args: Any) -> None:
        change(writer)
        real(writer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_header_to_file", changed)
        write_tiny_gguf(path)
    return path


def scaled(kind: RopeScalingType) -> Callable[[Any], None]:
    def change(writer: Any) -> None:
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(4.0)

    return change


def test_settings_are_those_of_the_package_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.gguf", monkeypatch, scaled(RopeScalingType.YARN))
    found = read_gguf_settings(path)
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith("llama."):
            assert found[key.removeprefix("llama.")] == field.contents()
    assert found["rope.scaling.factor"] == 4.0
    assert read_gguf_header(path)["token_embd.weight"][0] == (259, 32)


@pytest.mark.parametrize("kind", [RopeScalingType.LINEAR, RopeScalingType.YARN])
def test_scaled_rotary_positions_are_refused(
    kind: RopeScalingType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.gguf", monkeypatch, scaled(kind))
    with pytest.raises(ModelError, match=rf"scales rotary positions \(.*type={kind.value}") as error:
        load_model(str(path), device="cpu")
    assert "\n" not in str(error.value)
    weights = describe(str(path)).weights
    assert weights is not None
    assert "scales rotary positions" in weights.refused


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.add_float32("llama.rope.scale_linear", 4.0),
        lambda w: w.add_rope_scaling_factor(4.0),
    ],
)
def test_scaling_is_linear_where_a_file_does_not_say(
    change: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.gguf", monkeypatch, change)
    with pytest.raises(ModelError, match="scales rotary positions"):
        load_model(str(path), device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.add_float32("llama.rope.scale_linear", 1.0),
        lambda w: w.add_rope_scaling_factor(1.0),
        lambda w: w.add_rope_scaling_factor(0.0),
    ],
)
def test_a_factor_of_one_scales_nothing(
    change: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.gguf", monkeypatch, change)
    assert load_model(str(path), device="cpu").notes == ()


def test_answers_end_at_every_end_that_a_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_gguf(tmp_path / "base.gguf")
    path = written(tmp_path / "x.gguf", monkeypatch, lambda w: w.add_eot_token_id(7))
    assert load_model(str(tmp_path / "base.gguf"), device="cpu").eos_token_ids == (258,)
    assert load_model(str(path), device="cpu").eos_token_ids == (258, 7)
    found = {d.what: d for d in differences(describe(str(tmp_path / "base.gguf")), describe(str(path)))}
    assert found["end tokens"].kind == "confounding"


def test_no_scaling_is_no_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.gguf", monkeypatch, lambda w: w.add_rope_scaling_type(RopeScalingType.NONE))
    assert load_model(str(path), device="cpu").notes == ()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda w: w.add_attention_scale(0.01), "attention.scale=0.01"),
        (lambda w: w.add_logit_scale(0.1), "logit_scale=0.1"),
        (lambda w: w.add_clamp_kqv(0.1), "attention.clamp_kqv=0.1"),
        (lambda w: w.add_final_logit_softcapping(1.0), "final_logit_softcapping=1"),
        (lambda w: w.add_sliding_window(4), "attention.sliding_window=4"),
    ],
)
def test_a_setting_that_the_reader_passes_over_is_told(
    change: Callable[[Any], None], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_gguf(tmp_path / "base.gguf")
    path = written(tmp_path / "x.gguf", monkeypatch, change)
    (note,) = load_model(str(path), device="cpu").notes
    assert note.startswith(f"the file sets {key}")
    found = {d.what: d for d in differences(describe(str(tmp_path / "base.gguf")), describe(str(path)))}
    row = found["settings of a GGUF file without a reader"]
    assert (row.kind, row.base) == ("confounding", "none")
    assert row.other.startswith(key)


def test_a_block_more_than_the_settings_say_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gguf.GGUFWriter.add_block_count
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_block_count", lambda writer, count: real(writer, count - 1))
        write_tiny_gguf(tmp_path / "x.gguf", blocks=3)
    with pytest.raises(ModelError, match=r"9 tensors \(blk\.2\.attn_k\.weight, .*no place.*llama\.cpp"):
        load_model(str(tmp_path / "x.gguf"), device="cpu")
    weights = describe(str(tmp_path / "x.gguf")).weights
    assert weights is not None
    assert "blk.2.attn_k.weight" in weights.refused


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.0.attn_q_norm.weight", (8,)),
        ("blk.0.post_attention_norm.weight", (32,)),
        ("blk.0.attn_q.scale", (1,)),
        ("blk.0.attn_q.weight.lora_a", (4, 32)),
    ],
)
def test_a_tensor_without_a_place_is_refused_by_name(
    name: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(
        tmp_path / "x.gguf", monkeypatch, lambda w: w.add_tensor(name, np.full(shape, 2, np.float32))
    )
    with pytest.raises(ModelError, match=rf"1 tensor \({name}\).*no place"):
        load_model(str(path), device="cpu")


def test_frequencies_that_follow_from_the_settings_are_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(
        tmp_path / "x.gguf",
        monkeypatch,
        lambda w: w.add_tensor("blk.0.attn_rot_embd.freqs", np.full((4,), 2, np.float32)),
    )
    assert load_model(str(path), device="cpu").notes == ()
