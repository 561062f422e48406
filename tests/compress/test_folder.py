from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress import folder as folder_module
from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.outputs import check_outputs
from anomia.compress.perplexity import perplexity, token_losses
from anomia.compress.spec import parse_arm
from anomia.compress.unfinished import step_folder
from anomia.errors import AnomiaError, CompressionError, DataError, ModelError

from .conftest import FAMILIES, tiny_model

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(96)}, "unk_token": "w0"},
}


def save_model(family: str, out: Path, **changes: Any) -> Any:
    model = tiny_model(family, **changes)
    model.save_pretrained(out)
    save_tokenizer(out)
    return model


def save_tokenizer(out: Path) -> None:
    """Write a tokenizer of 96 words."""
    (out / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (out / "tokenizer_config.json").write_text(json.dumps(settings))


def write_text(path: Path, *, documents: int = 12, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for _ in range(documents):
        length = int(torch.randint(5, 40, (), generator=generator))
        lines.append(" ".join(f"w{i}" for i in torch.randint(0, 96, (length,), generator=generator).tolist()))
    path.write_text("\n\n".join(lines))
    return f"file:{path}"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in path.glob("*.safetensors") for name, value in load_file(file).items()}


def step_of(text: str) -> Any:
    return parse_arm(text).steps[0]


# Qwen2's tokenizer class can't read a vocabulary of whole words; its blocks are tested in test_apply.
@pytest.mark.parametrize("family", [*(name for name in FAMILIES if name != "qwen2"), "mixtral"])
@pytest.mark.parametrize("method", ["wanda:0.5", "sparsegpt:2:4"])
def test_folder_to_folder_gives_the_bits_of_the_in_place_arm(
    family: str, method: str, tmp_path: Path
) -> None:
    save_model(family, tmp_path / "in")
    source = write_text(tmp_path / "text.txt")
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step_of(method)],
        FolderOptions(text=TextOptions(source=source, samples=12)),
    )
    assert report.streamed == (family != "mixtral")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    in_place = compress(
        model,
        step_of(method),
        prepare_windows(step_of(method), tokenizer, TextOptions(source=source, samples=12)),
    )
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(reloaded[name], value), name
    assert report.compression.matrices == in_place.matrices
    assert not (tmp_path / "out" / ".anomia-unfinished").exists()


def test_what_is_written_says_what_was_done(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    source = write_text(tmp_path / "text.txt")
    compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step_of("wanda:0.5")],
        FolderOptions(text=TextOptions(source=source)),
    )
    report = json.loads((tmp_path / "out" / "anomia.json").read_text())
    assert report["compression"]["calibration"]["token_hash"]
    assert report["compression"]["versions"]["torch"] == torch.__version__
    assert {"name", "sparsity", "dead_columns", "damping"} <= report["compression"]["matrices"][0].keys()
    assert "12 passages of the 128 asked for" in report["compression"]["warnings"][0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "neither smaller nor faster" in card
    assert "wanda:0.5" in card
    assert str(tmp_path / "in") not in card.split("---")[1]
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_named_chat_templates_go_along(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    tokenizer.chat_template = {"default": "{{ messages[0]['content'] }}", "tool_use": "tools"}
    tokenizer.save_pretrained(tmp_path / "in")
    compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])
    copied = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert copied.chat_template == tokenizer.chat_template


class StopError(Exception):
    pass


@pytest.mark.parametrize("method", ["wanda:0.5", "wanda:0.5,allocation=owl", "magnitude:0.5"])
@pytest.mark.parametrize("finished", [0, 1, 2])
def test_an_interrupted_run_continues_at_the_last_finished_block(
    method: str, finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("gemma3", tmp_path / "in")
    source = write_text(tmp_path / "text.txt")
    options = FolderOptions(text=TextOptions(source=source, samples=12))
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", [step_of(method)], options)

    written: list[int] = []

    def write_then_stop(blocks: Any, index: int, packed: Any) -> None:
        real(blocks, index, packed)
        written.append(index)
        if index == finished and len(written) == finished + 1:
            raise StopError

    real = InFiles.store
    monkeypatch.setattr(InFiles, "store", write_then_stop)
    with pytest.raises(StopError):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(method)], options)
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(method)], options)
    assert report.resumed_at == finished
    assert written == [*range(finished + 1), *range(finished, 3)]
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("step", ["wanda:0.5", "wanda:0.5,allocation=owl", "magnitude:0.5", "gptq:4,group=4"])
def test_a_run_interrupted_after_its_last_block_writes_the_rest(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("gemma3", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", [step_of(step)], options)

    def stop(*_: Any) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(InFiles, "write_rest", stop)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(step)], options)
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(step)], options)
    assert report.resumed_at == 3
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_unfinished_folder_is_not_continued_with_a_model_that_is_loaded_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixture in the place of a plain model: its folder also held the first block of the other one."""
    save_model("llama", tmp_path / "in")
    real = InFiles.store

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if index == 1:
            raise StopError
        real(blocks, index, packed)

    with monkeypatch.context() as patch:
        patch.setattr(InFiles, "store", stop)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])
    shutil.rmtree(tmp_path / "in")
    save_model("mixtral", tmp_path / "in")
    with pytest.raises(CompressionError, match="unfinished compression with another model"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])


@pytest.mark.parametrize("what", ["calibration text", "model", "weights"])
def test_an_unfinished_folder_is_not_continued_with_other_inputs_under_the_same_path(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if index == 1:
            raise StopError
        real(blocks, index, packed)

    real = InFiles.store
    with monkeypatch.context() as patch:
        patch.setattr(InFiles, "store", stop)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("wanda:0.5")], options)
    if what == "calibration text":
        text = (tmp_path / "text.txt").read_text(encoding="utf-8")
        (tmp_path / "text.txt").write_text(text[::-1], encoding="utf-8")
    elif what == "model":
        config = json.loads((tmp_path / "in" / "config.json").read_text())
        (tmp_path / "in" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    else:
        stored = load_file(tmp_path / "in" / "model.safetensors")
        stored["model.layers.2.mlp.up_proj.weight"] += 1
        save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    named = "calibration text" if what == "calibration text" else "model"
    with pytest.raises(
        CompressionError, match=f"an unfinished compression with another {named}: the files at"
    ):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("wanda:0.5")], options)


def test_an_unfinished_folder_is_not_continued_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    monkeypatch.setattr(InFiles, "write_rest", lambda *_: (_ for _ in ()).throw(StopError))
    with pytest.raises(StopError):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])
    with pytest.raises(CompressionError, match="other settings"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.6")])


def test_shards_and_untied_heads_and_other_dtypes(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "in", tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "in", max_shard_size="8KB")
    (tmp_path / "in" / "model.safetensors").unlink(missing_ok=True)
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    report = compress_folder(
        str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")], FolderOptions(dtype="bfloat16")
    )
    assert report.streamed
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert reloaded.dtype == torch.bfloat16
    assert torch.equal(reloaded.lm_head.weight, model.lm_head.weight.bfloat16())
    assert all(matrix.sparsity == pytest.approx(0.5, abs=0.01) for matrix in report.compression.matrices)


def test_stored_names_without_the_models_prefix(tmp_path: Path) -> None:
    model = save_model("gpt2", tmp_path / "in")
    stored = {name.removeprefix("transformer."): value for name, value in weights(tmp_path / "in").items()}
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:2:4")])
    assert report.streamed
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    pruned = reloaded.transformer.h[0].mlp.c_fc.weight
    assert (pruned == 0).float().mean() == 0.5
    assert torch.equal(pruned[pruned != 0], model.transformer.h[0].mlp.c_fc.weight[pruned != 0])


def test_bad_input_gives_one_clear_message(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    step = step_of("magnitude:0.5")
    good = str(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "file").write_text("x")
    cases: list[tuple[type[AnomiaError], str, str, Path, FolderOptions]] = [
        (CompressionError, "is not empty", good, tmp_path / "full", FolderOptions()),
        (CompressionError, "is a file", good, tmp_path / "file", FolderOptions()),
        (CompressionError, "can't be written", good, tmp_path / "file" / "below", FolderOptions()),
        (ModelError, "there is no folder", str(tmp_path / "no" / "such"), tmp_path / "a", FolderOptions()),
        (ModelError, "can't be loaded", "nobody/nothing-of-this-name", tmp_path / "a", FolderOptions()),
        (AnomiaError, "did you mean 'bfloat16'", good, tmp_path / "b", FolderOptions(dtype="bfloat")),
        (
            DataError,
            "can't be read",
            good,
            tmp_path / "c",
            FolderOptions(perplexity_text=tmp_path / "none.txt"),
        ),
    ]
    for kind, says, model, out, options in cases:
        with pytest.raises(kind, match=says):
            compress_folder(model, out, [step], options)
    with pytest.raises(DataError, match="doesn't exist"):
        compress_folder(
            good,
            tmp_path / "d",
            [step_of("wanda:0.5")],
            FolderOptions(text=TextOptions(source="file:none.txt")),
        )


def test_missing_and_truncated_shards_are_named(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "in", max_shard_size="8KB")
    shard = sorted((tmp_path / "in").glob("*.safetensors"))[1]
    shutil.copytree(tmp_path / "in", tmp_path / "cut")
    shard.unlink()
    with pytest.raises(ModelError, match=f"{shard.name} is missing"):
        compress_folder(str(tmp_path / "in"), tmp_path / "a", [step_of("magnitude:0.5")])
    half = tmp_path / "cut" / shard.name
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    with pytest.raises(ModelError, match=f"{shard.name} is truncated"):
        compress_folder(str(tmp_path / "cut"), tmp_path / "b", [step_of("magnitude:0.5")])


def test_a_full_disk_is_found_before_the_work_and_survived_during_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(CompressionError, match="are needed"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def after_one(blocks: Any, index: int, packed: Any) -> None:
        if index == 1:
            monkeypatch.setattr("anomia.compress.shards.save_file", full)
        real(blocks, index, packed)

    real = InFiles.store
    monkeypatch.setattr(InFiles, "store", after_one)
    with pytest.raises(CompressionError, match=r"No space left .* continues after the last finished block"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])
    monkeypatch.undo()
    assert compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")]).resumed_at == 1


MEASURE = """
import sys
from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.unfinished import step_folder
import torch
torch.set_num_threads(1)
options = FolderOptions(text=TextOptions(source=sys.argv[3], samples=24))
compress_folder(sys.argv[1], __import__("pathlib").Path(sys.argv[2]), parse_arm("wanda:0.5").steps, options)
# Not ru_maxrss: a child process inherits that of its parent.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measure_peak(model: Path, out: Path, source: str) -> int:
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "500000"}
    command = [sys.executable, "-c", MEASURE, str(model), str(out), source]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(run.stdout.strip().splitlines()[-1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_does_not_grow_with_the_number_of_blocks(tmp_path: Path) -> None:
    source = write_text(tmp_path / "text.txt", documents=24)
    peaks, sizes = [], []
    for blocks in (8, 40):
        wide = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": blocks}
        save_model("llama", tmp_path / f"in{blocks}", **wide)
        sizes.append(sum(file.stat().st_size for file in (tmp_path / f"in{blocks}").glob("*.safetensors")))
        # What an allocator keeps for later only adds to a peak, and not always the same.
        peaks.append(
            min(
                measure_peak(tmp_path / f"in{blocks}", tmp_path / f"out{blocks}-{attempt}", source)
                for attempt in range(2)
            )
        )
    assert sizes[1] - sizes[0] > 100e6
    assert peaks[1] - peaks[0] < 0.12 * (sizes[1] - sizes[0])


def test_perplexity_is_the_mean_loss_of_every_token_but_the_first(tmp_path: Path) -> None:
    model = save_model("gemma2", tmp_path / "in")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    write_text(tmp_path / "text.txt")
    text = (tmp_path / "text.txt").read_text()
    ids = tokenizer(text)["input_ids"][:100]
    result = perplexity(model, tokenizer, text, window=40, max_tokens=100)
    losses = []
    with torch.no_grad():
        for start in (0, 40, 80):
            row = torch.tensor([ids[start : start + 40]])
            losses.append(model(input_ids=row, labels=row).loss * (row.shape[1] - 1))
    assert result.tokens == 97
    assert torch.tensor(result.value).log() == pytest.approx(float(sum(losses)) / 97, rel=1e-4)


def test_logits_that_the_model_changes_are_taken_as_they_come() -> None:
    model = tiny_model("llama")
    row = torch.tensor([[3, 4, 5, 6, 7]])
    plain = token_losses(model, row)
    original = model.forward

    def halved(*args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    model.forward = halved
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            model(input_ids=row).logits[0, :-1], row[0, 1:], reduction="none"
        )
    torch.testing.assert_close(token_losses(model, row), expected)
    assert not torch.allclose(plain, expected)


def test_perplexities_of_both_models_are_reported(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    write_text(tmp_path / "text.txt")
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step_of("magnitude:0.9")],
        FolderOptions(perplexity_text=tmp_path / "text.txt"),
    )
    assert report.dense is not None
    assert report.compressed is not None
    assert report.dense.tokens == report.compressed.tokens
    assert "perplexity, dense → compressed" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("zeros", [True, False])
def test_what_was_written_is_read_back(
    family: str, zeros: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that changes between memory and disk is found, on both ways of writing."""
    save_model(family, tmp_path / "in")

    def damage(out: Path) -> None:
        file = sorted(out.glob("*.safetensors"))[0]
        stored = load_file(file)
        name = next(name for name in stored if "o_proj" in name)
        if zeros:
            stored[name][0, stored[name][0] == 0] = 1.0
        else:
            stored[name] *= 2
        save_file(stored, file, {"format": "pt"})

    rest, whole = InFiles.write_rest, folder_module._save_whole
    monkeypatch.setattr(InFiles, "write_rest", lambda blocks, step: (rest(blocks, step), damage(blocks._out)))
    monkeypatch.setattr(folder_module, "_save_whole", lambda *a: (whole(*a), damage(a[-1])))
    with pytest.raises(
        CompressionError,
        match=r"layers\.0\.self_attn\.o_proj(\.weight)? (has \d+ zeros in its file, not|is not what was written)",
    ):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])


def test_sizes_say_that_zeros_save_nothing(tmp_path: Path) -> None:
    save_model("gemma3", tmp_path / "in")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])
    written = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert report.compression.size_bytes == written
    assert json.loads((tmp_path / "out" / "anomia.json").read_text())["compression"]["size_bytes"] == written


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    with pytest.raises(ModelError, match="'cuda' is not available"):
        compress_folder(
            str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")], FolderOptions(device="cuda")
        )
    assert not (tmp_path / "out").exists()


def with_positions(out: Path, positions: int) -> None:
    save_model("gpt2", out, max_position_embeddings=positions)


def test_texts_are_cut_to_the_positions_of_the_model(tmp_path: Path) -> None:
    with_positions(tmp_path / "in", 20)
    source = write_text(tmp_path / "text.txt")
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step_of("wanda:0.5")],
        FolderOptions(text=TextOptions(source=source, samples=12)),
    )
    record = report.compression.calibration
    assert record is not None
    assert (record.token_limit, record.longest_window) == (20, 20)
    passages = (tmp_path / "text.txt").read_text().split("\n\n")
    long = sum(len(passage.split()) > 20 for passage in passages)
    assert f"{long} passages were cut to 20 tokens, the model's positions; 2,048 were asked for" in " ".join(
        report.compression.warnings
    )


def test_a_text_without_two_tokens_is_refused_before_the_work(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    (tmp_path / "one.txt").write_text("w1")
    with pytest.raises(DataError, match="fewer than two tokens"):
        compress_folder(
            str(tmp_path / "in"),
            tmp_path / "out",
            [step_of("magnitude:0.5")],
            FolderOptions(perplexity_text=tmp_path / "one.txt"),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["replaced", "gone"])
@pytest.mark.parametrize("chain", ["magnitude:0.5", "magnitude:0.3+magnitude:0.5"])
def test_finished_work_that_is_not_what_was_written_is_refused(
    what: str, chain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    steps = parse_arm(chain).steps

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if index == 2 and blocks._out == step_folder(tmp_path / "out", len(steps)):
            raise StopError
        real(blocks, index, packed)

    real = InFiles.store
    with monkeypatch.context() as patch:
        patch.setattr(InFiles, "store", stop)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", steps)
    shard = step_folder(tmp_path / "out", 1) / "model-00001.safetensors"
    stored = load_file(shard)
    shard.unlink()
    if what == "replaced":
        # The same zeros, so that counting them shows nothing.
        save_file({name: 2 * value for name, value in stored.items()}, shard, {"format": "pt"})
    said = "is not what an earlier call wrote" if what == "replaced" else "missing"
    with pytest.raises(AnomiaError, match=said):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps)


HOLD = """
import sys, time
from pathlib import Path
from anomia.compress.lock import only_writer
out = Path(sys.argv[1])
with only_writer(out, out / ".anomia-unfinished"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_writes_a_folder_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CompressionError, match=rf"process {holder.pid}\) is writing .*out; wait until"):
            compress_folder(str(tmp_path / "in"), out, [step_of("magnitude:0.5")])
        assert (out / ".anomia-unfinished").is_dir()
    finally:
        holder.kill()
        holder.communicate()
    assert (out / ".anomia-unfinished" / "writer.lock").exists()
    compress_folder(str(tmp_path / "in"), out, [step_of("magnitude:0.5")])
    assert not (out / ".anomia-unfinished").exists()


def save_adapter(model: Any, out: Path, base: Path | str) -> Any:
    """An adapter on one matrix of a block, and its base with it merged."""
    generator = torch.Generator().manual_seed(1)
    name = "model.layers.1.self_attn.o_proj"
    rows, columns = model.get_submodule(name).weight.shape
    first, second = (torch.randn(*shape, generator=generator) for shape in ((2, columns), (rows, 2)))
    out.mkdir()
    settings = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 2, "bias": "none", "base_model_name_or_path": str(base),
        "target_modules": ["o_proj"], "layers_to_transform": [1],
    }  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(settings))
    factors = {"lora_A.weight": first, "lora_B.weight": second}
    stored = {f"base_model.model.{name}.{part}": value for part, value in factors.items()}
    save_file(stored, out / "adapter_model.safetensors", {"format": "pt"})
    model.get_submodule(name).weight.data += second @ first
    return model


@pytest.mark.parametrize("chain", ["wanda:0.5", "magnitude:0.3+wanda:0.5"])
def test_an_adapter_is_merged_into_its_base_and_compressed(chain: str, tmp_path: Path) -> None:
    merged = save_adapter(save_model("llama", tmp_path / "base"), tmp_path / "lora", tmp_path / "base")
    merged.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "base" / name, tmp_path / "merged")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm(chain).steps
    (tmp_path / "short.txt").write_text("w1 w2 w3")
    report = compress_folder(
        str(tmp_path / "lora"),
        tmp_path / "out",
        steps,
        replace(options, perplexity_text=tmp_path / "short.txt"),
    )
    assert report.streamed == (len(steps) > 1)
    compress_folder(str(tmp_path / "merged"), tmp_path / "expected", steps, options)
    found, expected = weights(tmp_path / "out"), weights(tmp_path / "expected")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    plain = json.loads((tmp_path / "out" / "anomia.json").read_text())
    assert plain["adapter_of"] == str(tmp_path / "base")
    assert any("base plus the adapter" in warning for warning in report.steps[0].warnings)


def test_an_adapter_that_cannot_be_merged_is_refused_in_one_message(tmp_path: Path) -> None:
    save_adapter(save_model("llama", tmp_path / "base"), tmp_path / "lora", "")
    with pytest.raises(ModelError, match="names no base model, so it can't be merged"):
        compress_folder(str(tmp_path / "lora"), tmp_path / "out", [step_of("magnitude:0.5")])
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    settings["peft_type"] = "PREFIX_TUNING"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="can't be merged into weights: prefix tuning"):
        compress_folder(str(tmp_path / "lora"), tmp_path / "out", [step_of("magnitude:0.5")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "method",
    [
        "wanda:0.5",
        "gptq:4,group=8",
        "magnitude:0.5",
        "int8",
        "embeddings:q8_0",
        "magnitude:0.2+int4:group=8",
    ],
)
def test_a_model_whose_outputs_are_infinite_is_refused(method: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    file = tmp_path / "in" / "model.safetensors"
    tensors = {name: value.half() for name, value in load_file(file).items()}
    # All activations that enter a matrix are finite; what leaves the last block is not.
    tensors["model.layers.2.mlp.down_proj.weight"] *= 3e4
    tensors["model.layers.2.mlp.down_proj.weight"].clamp_(-60000, 60000)
    save_file(tensors, file, {"format": "pt"})
    options = FolderOptions(
        text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12), dtype="float16"
    )
    with pytest.raises(CompressionError, match=r"NaN or infinite.*--dtype bfloat16 or float32"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(method).steps, options)
    assert not (tmp_path / "out").exists()
    wide = replace(options, dtype="float32")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(method).steps, wide)
    assert not any("wasn't run" in warning for warning in report.compression.warnings)


@pytest.mark.parametrize("method", ["magnitude:0.5", "int8"])
def test_outputs_are_tried_behind_the_start_token(method: str, tmp_path: Path) -> None:
    """Many models have their largest states there, and no other token overflows."""
    save_model("llama", tmp_path / "in")
    file = tmp_path / "in" / "model.safetensors"
    tensors = {name: value.half() for name, value in load_file(file).items()}
    start = json.loads((tmp_path / "in" / "config.json").read_text())["bos_token_id"]
    tensors["model.embed_tokens.weight"][start] = 65504
    tensors["model.layers.2.mlp.down_proj.weight"] *= 1000
    save_file(tensors, file, {"format": "pt"})
    steps = parse_arm(method).steps
    with pytest.raises(CompressionError, match="NaN or infinite"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, FolderOptions(dtype="float16"))
    assert not (tmp_path / "out").exists()
    compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, FolderOptions(dtype="float32"))


@pytest.mark.parametrize("family", ["mixtral", "llama"])
def test_infinite_logits_of_a_loaded_model_are_refused(family: str) -> None:
    model = tiny_model(family)
    assert check_outputs(model) == ""
    with torch.no_grad():
        model.lm_head.weight[5] = 1e38
        model.model.norm.weight *= 1e6
    with pytest.raises(CompressionError, match="its logits are NaN or infinite"):
        check_outputs(model)


@pytest.mark.parametrize(
    ("arm", "save_as"),
    [("wanda:0.5", "dense"), ("gptq:4,group=8", "dense"), ("gptq:4,group=8", "compressed-tensors")],
)
def test_a_result_that_was_not_tried_says_so(
    arm: str, save_as: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calibration text shows the states, but not the logits: the note was left out for every calibrated step."""
    save_model("llama", tmp_path / "in")
    options = FolderOptions(
        text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=8), save_as=save_as
    )

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no logits here")

    monkeypatch.setattr(InFiles, "logits", fails)
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(arm)], options)
    assert any("no logits here" in warning for warning in report.compression.warnings)
