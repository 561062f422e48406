"""Steps that go through the files give what the loaded model gives, hold little in memory, and can be interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress import folder as folder_module
from anomia.compress import shards
from anomia.compress.apply import compress, prepare_windows
from anomia.compress.calls import text_limit
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.reshape import width
from anomia.compress.reshape.rebuild import CannotExpressError
from anomia.compress.reshape_in_files import InFolder
from anomia.compress.shards import StoredTensors
from anomia.compress.unfinished import UNFINISHED, step_folder
from anomia.compress.visit import AtBlock
from anomia.compress.written import Written
from anomia.errors import CompressionError
from tests.compress.reshaped import IDS, logits, with_noise
from tests.compress.test_folder import StopError, save_model, step_of, weights, write_text

EMBEDDINGS = ["embeddings:q8_0", "embeddings:q4_k"]


def in_memory(source: Path, step: str, out: Path, options: FolderOptions = FolderOptions()) -> Any:
    """The report of the step on the loaded model, which is saved."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    windows = prepare_windows(step_of(step), tokenizer, options.text, positions=text_limit(model))
    report = compress(model, step_of(step), windows)
    model.save_pretrained(out)
    return report


def plain(report: Any) -> dict[str, Any]:
    """What a report says, apart from times and what only a written folder tells."""
    values: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    values["warnings"] = [text for text in values["warnings"] if not text.startswith("the result wasn't run")]
    return {key: value for key, value in values.items() if key not in ("seconds", "size_bytes", "versions")}


def config_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


def equal_folders(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name
    assert config_of(one) == config_of(other)
    models = [transformers.AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (one, other)]
    assert torch.equal(*(logits(model, IDS % 90) for model in models))


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Ends a call after so many shards."""
    real, written = Written.write, []

    def write(self: Written, name: str, tensors: Any) -> None:
        if len(written) == count:
            raise StopError
        written.append(name)
        real(self, name, tensors)

    monkeypatch.setattr(Written, "write", write)


@pytest.mark.parametrize("step", EMBEDDINGS)
@pytest.mark.parametrize("family", ["llama", "llama_biases_tied", "gemma3", "gpt2", "mixtral"])
def test_rounded_tables_equal_those_of_the_loaded_model(family: str, step: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "in")
    expected = in_memory(tmp_path / "in", step, tmp_path / "loaded")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(step)])
    assert report.streamed
    equal_folders(tmp_path / "loaded", tmp_path / "out")
    assert plain(report.compression) | {"dense_why": None} == plain(expected)
    assert not (tmp_path / "out" / UNFINISHED).exists()


def test_a_tied_table_that_is_stored_twice_is_rounded_in_both_places(tmp_path: Path) -> None:
    save_model("llama_biases_tied", tmp_path / "in")
    stored = load_file(tmp_path / "in" / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("embeddings:q4_0")])
    found = weights(tmp_path / "out")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert [m.name for m in report.compression.matrices] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert not torch.equal(found["lm_head.weight"], stored["lm_head.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tables_are_rounded_in_the_type_that_was_asked_for(dtype: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    compress_folder(
        str(tmp_path / "in"), tmp_path / "out", [step_of("embeddings:q4_0")], FolderOptions(dtype=dtype)
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=dtype)
    compress(model, step_of("embeddings:q4_0"))
    model.save_pretrained(tmp_path / "loaded")
    equal_folders(tmp_path / "loaded", tmp_path / "out")


def test_rounding_tables_holds_one_shard_and_continues_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    monkeypatch.setattr(shards, "_WHOLE_SHARD", 6200)
    step = [step_of("embeddings:q8_0")]
    held: list[int] = []
    real = StoredTensors.read

    def read(self: StoredTensors, names: Any, **options: Any) -> dict[str, torch.Tensor]:
        found = real(self, names, **options)
        held.append(sum(value.nbytes for value in found.values()))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(StoredTensors, "read", read)
        # The pass over the result has one block in memory, whatever the size of shards.
        patch.setattr(folder_module, "check_folder", lambda *given, **options: "")
        compress_folder(str(tmp_path / "in"), tmp_path / "whole", step)
    files = sorted(file.name for file in (tmp_path / "whole").glob("*.safetensors"))
    assert len(files) > 5
    assert max(held) <= 6200
    for count in (0, 1, 4):
        with monkeypatch.context() as patch:
            stop_after(patch, count)
            with pytest.raises(StopError):
                compress_folder(str(tmp_path / "in"), tmp_path / f"out{count}", step)
        report = compress_folder(str(tmp_path / "in"), tmp_path / f"out{count}", step)
        assert report.resumed_at == count
        for name in files:
            assert (tmp_path / f"out{count}" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_tables_of_another_model_are_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model("llama", tmp_path / "in")
    monkeypatch.setattr(shards, "_WHOLE_SHARD", 6200)
    step = [step_of("embeddings:q8_0")]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", step)
    save_model("llama", tmp_path / "in", seed=1)
    with pytest.raises(CompressionError, match="an unfinished compression with another model"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", step)


def test_a_damaged_table_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    stored = load_file(tmp_path / "in" / "model.safetensors")
    stored["lm_head.weight"][3, 3] = torch.nan
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompressionError, match=r"lm_head\.weight has 1 of .* values that are NaN"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("embeddings:q8_0")])
    assert not (tmp_path / "out").exists()


def save_deep(family: str, out: Path, **changes: Any) -> None:
    """A model of six blocks whose norms and biases aren't the constants that they start from."""
    layers = {"n_layer": 6} if family == "gpt2" else {}
    save_model(family, out, num_hidden_layers=6, **layers, **changes)
    model = with_noise(transformers.AutoModelForCausalLM.from_pretrained(out))
    model.save_pretrained(out)


def save_mixture(out: Path) -> None:
    """A mixture whose experts are stored as the model holds them."""
    save_model("llama", out)
    for file in out.glob("*.safetensors"):
        file.unlink()
    config = transformers.GptOssConfig(
        vocab_size=96, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, num_local_experts=8,
        num_experts_per_tok=2, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out)


RESHAPED = [
    ("llama", "shortgpt:0.34"),
    ("llama_biases_tied", "shortgpt:0.5"),
    ("gemma3", "shortgpt:0.34"),
    ("gpt2", "shortgpt:0.34"),
    ("phi3", "shortgpt:0.34"),
    ("llama", "flap:0.5"),
    ("llama_biases_tied", "flap:0.3"),
    ("gemma3", "flap:0.5"),
    ("qwen3", "flap:0.5"),
    ("gpt2", "flap:0.3"),
    ("mixture", "dropexperts:0.25"),
    ("mixture", "mergeexperts:0.5"),
    ("mixture", "shortgpt:0.25"),
]


def save_any(family: str, out: Path) -> None:
    if family == "mixture":
        save_mixture(out)
    else:
        save_deep(family, out)


@pytest.mark.parametrize(("family", "step"), RESHAPED)
def test_reshaped_folders_equal_the_loaded_model(family: str, step: str, tmp_path: Path) -> None:
    save_any(family, tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    expected = in_memory(tmp_path / "in", step, tmp_path / "loaded", options)
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(step)], options)
    assert report.streamed
    equal_folders(tmp_path / "loaded", tmp_path / "out")
    assert plain(report.compression) == plain(expected)
    assert report.compression.size_bytes
    assert not (tmp_path / "out" / UNFINISHED).exists()


def test_reshaping_names_tensors_as_the_source_does(tmp_path: Path) -> None:
    save_deep("gpt2", tmp_path / "in")
    stored = {name.removeprefix("transformer."): value for name, value in weights(tmp_path / "in").items()}
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    expected = in_memory(tmp_path / "in", "shortgpt:0.34", tmp_path / "loaded", options)
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("shortgpt:0.34")], options)
    assert report.streamed
    assert weights(tmp_path / "out").keys() < stored.keys()
    # A report names what stays dense as the files do that were read.
    mine, theirs = plain(report.compression), plain(expected)
    for key in ("left_dense", "dense_why"):
        assert json.dumps(mine.pop(key)) == json.dumps(theirs.pop(key)).replace("transformer.", "")
    assert mine == theirs
    found, loaded = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("out", "loaded")
    )
    assert all(torch.equal(value, found[name]) for name, value in loaded.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("step", ["shortgpt:0.34", "flap:0.3"])
def test_reshaping_in_the_type_that_was_asked_for(dtype: str, step: str, tmp_path: Path) -> None:
    save_deep("llama_biases_tied", tmp_path / "in")
    source = write_text(tmp_path / "text.txt")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=dtype).eval()
    windows = prepare_windows(
        step_of(step), tokenizer, TextOptions(source=source, samples=12), positions=text_limit(model)
    )
    expected = compress(model, step_of(step), windows)
    model.save_pretrained(tmp_path / "loaded")
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step_of(step)],
        FolderOptions(text=TextOptions(source=source, samples=12), dtype=dtype),
    )
    equal_folders(tmp_path / "loaded", tmp_path / "out")
    assert plain(report.compression) == plain(expected)


@pytest.mark.parametrize(
    ("family", "step"),
    [("llama", "shortgpt:0.34"), ("llama_biases_tied", "flap:0.3"), ("mixture", "mergeexperts:0.5")],
)
def test_reshaping_holds_one_block_at_a_time(
    family: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one block has values at any time, outside of them at most what enters the first, and nothing else is read."""
    save_any(family, tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    block = max(
        sum(value.nbytes for name, value in weights(tmp_path / "in").items() if f".{index}." in name)
        for index in range(4)
    )
    outer = sum(value.nbytes for name, value in weights(tmp_path / "in").items() if "layers." not in name)
    models: list[Any] = []
    most: list[int] = []
    made, real = InFiles.__init__, StoredTensors.read

    def count() -> int:
        return sum(p.nbytes for model in models for p in model.parameters() if not p.is_meta)

    def construct(self: InFiles, *args: Any, **given: Any) -> None:
        made(self, *args, **given)
        models.append(self.model)

    def read(self: StoredTensors, names: Any, **given: Any) -> dict[str, torch.Tensor]:
        found = real(self, names, **given)
        most.append(count() + sum(value.nbytes for value in found.values()))
        return found

    monkeypatch.setattr(InFiles, "__init__", construct)
    monkeypatch.setattr(StoredTensors, "read", read)
    monkeypatch.setattr("anomia.compress.folder.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(step)], options)
    assert report.streamed
    assert len(models) == 3  # of the source, of what is written, and of its logits
    assert max(most) <= outer + block
    assert count() == 0


def stop_measuring_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Ends a call in the middle of a block, after so many."""
    real, measured = AtBlock.passes, []

    def passes(at: AtBlock) -> Any:
        if at.index not in measured:
            measured.append(at.index)
        for number, one in enumerate(real(at)):
            if len(measured) == count + 1 and number == 1:
                raise StopError
            yield one

    monkeypatch.setattr(AtBlock, "passes", passes)


@pytest.mark.parametrize(
    ("family", "step"),
    [
        ("llama", "shortgpt:0.34"),
        ("llama_biases_tied", "flap:0.3"),
        ("gemma3", "flap:0.5"),
        ("mixture", "dropexperts:0.25"),
        ("mixture", "mergeexperts:0.5"),
    ],
)
def test_an_interrupted_reshaping_ends_in_the_same_bytes(
    family: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_any(family, tmp_path / "in")
    source = write_text(tmp_path / "text.txt")
    options = FolderOptions(text=TextOptions(source=source, samples=12), batch_tokens=64)
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", [step_of(step)], options)
    for count in (0, 1, 3):
        out = tmp_path / f"measured{count}"
        with monkeypatch.context() as patch:
            stop_measuring_after(patch, count)
            with pytest.raises(StopError):
                compress_folder(str(tmp_path / "in"), out, [step_of(step)], options)
        with monkeypatch.context() as patch:
            stop_after(patch, count)
            with pytest.raises(StopError):
                compress_folder(str(tmp_path / "in"), out, [step_of(step)], options)
        report = compress_folder(str(tmp_path / "in"), out, [step_of(step)], options)
        assert report.resumed_at == (4 if family == "mixture" else 6)
        names = sorted(file.name for file in out.iterdir())
        assert names == sorted(file.name for file in (tmp_path / "whole").iterdir())
        for name in names:
            if name not in ("anomia.json", "README.md"):
                assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("what", ["model", "calibration text", "states", "statistics"])
def test_a_reshaping_is_not_continued_with_something_else(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_deep("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt")), batch_tokens=64)
    with monkeypatch.context() as patch:
        stop_measuring_after(patch, 2)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("shortgpt:0.34")], options)
    says = f"an unfinished compression with another {what}"
    if what == "model":
        stored = load_file(tmp_path / "in" / "model.safetensors")
        stored["model.layers.5.mlp.up_proj.weight"] += 1
        save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    elif what == "calibration text":
        write_text(tmp_path / "text.txt", seed=1)
    elif what == "states":
        says = "does not hold the calibration states"
        (step_folder(tmp_path / "out", 1) / UNFINISHED / "states-0.bin").write_bytes(b"")
    else:
        says = "does not hold the statistics"
        (step_folder(tmp_path / "out", 1) / UNFINISHED / "measured-00001.safetensors").write_bytes(b"x")
    with pytest.raises(CompressionError, match=says):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("shortgpt:0.34")], options)


def test_a_shard_that_was_damaged_in_between_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_deep("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt")))
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", [step_of("shortgpt:0.34")], options)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("shortgpt:0.34")], options)
    (step_folder(tmp_path / "out", 1) / "model-00001.safetensors").write_bytes(b"damaged")
    compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("shortgpt:0.34")], options)
    equal_folders(tmp_path / "whole", tmp_path / "out")


def test_a_refused_reshaping_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before any work, or when the written model is seen to compute something else."""
    save_deep("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt")))
    with pytest.raises(CompressionError, match="would remove 0 of 6 blocks"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("shortgpt:0.1")], options)
    assert not (tmp_path / "out").exists()
    made = InFolder._make
    monkeypatch.setattr(InFolder, "_make", lambda self, part: made(self, part) * 1.5)
    with pytest.raises(CompressionError, match="the remaining blocks don't compute the same"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("shortgpt:0.34")], options)
    assert not (tmp_path / "out").exists()


def test_heads_that_do_not_fit_stay_as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model with fewer heads computes something else, only channels go; what was written before goes too."""
    save_deep("llama", tmp_path / "in", intermediate_size=96)
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    check, seen = width._check, []

    def fails_first(*args: Any) -> None:
        seen.append(1)
        if len(seen) == 1:
            raise CannotExpressError("no such heads")
        check(*args)

    monkeypatch.setattr(width, "_check", fails_first)
    expected = in_memory(tmp_path / "in", "flap:0.5", tmp_path / "loaded", options)
    seen.clear()
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("flap:0.5")], options)
    assert report.streamed
    equal_folders(tmp_path / "loaded", tmp_path / "out")
    assert plain(report.compression) == plain(expected)
    assert any("attention heads stay: no such heads" in note for note in report.compression.warnings)
