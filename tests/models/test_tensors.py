"""Every tensor in a model's files is used, ignorable by a known rule, or named in a refusal or a note."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress.folder import compress_folder
from anomia.compress.spec import parse_arm
from anomia.errors import AnomiaError, ModelError
from anomia.models.describe import describe
from anomia.models.diff import differences
from anomia.models.examine import examine
from anomia.models.headers import read_headers
from anomia.models.load import load_model
from anomia.models.refuse import refuse
from anomia.models.tensors import account, ignorable, skeleton

from ..compress.conftest import FAMILIES, MIXTURES, tiny_model
from ..compress.test_gguf import write_tiny_gguf
from .broken import WEIGHTS, change_config, change_tensors, copied, split

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.{}."
STEP: Any = parse_arm("magnitude:0.5").steps[0]


def projections(tensors: Tensors) -> list[str]:
    return [name for name in tensors if name.endswith("_proj.weight")]


def compensated(t: Tensors) -> None:
    for i in range(2):
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            t[f"{LAYER.format(i)}{part}.bias"] = torch.randn(32)


def cast(t: Tensors, kind: torch.dtype, *, scale: str | None = None) -> None:
    for name in projections(t):
        largest = t[name].abs().amax(1, keepdim=True) / 100
        if scale:
            t[name.removesuffix("weight") + scale] = largest
        t[name] = (t[name] / largest).to(kind)


def masked(t: Tensors) -> None:
    for name in projections(t):
        value = t.pop(name)
        t[f"{name}_orig"], t[f"{name}_mask"] = value, (value > 0).float()


def parametrized(t: Tensors) -> None:
    for name in projections(t):
        t[name.removesuffix("weight") + "parametrizations.weight.original"] = t.pop(name)


def wrapped_in(prefix: str) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        for name in list(t):
            t[prefix + name] = t.pop(name)

    return change


def renumbered(t: Tensors, places: dict[int, int]) -> None:
    """Layers under other numbers; those without one are gone."""
    for name in [name for name in t if name.startswith("model.layers.")]:
        value, number = t.pop(name), int(name.split(".")[2])
        for old, new in places.items():
            if old == number:
                t[name.replace(f"layers.{number}.", f"layers.{new}.")] = value


def one_more_layer(t: Tensors) -> None:
    for name in [name for name in t if ".layers.1." in name]:
        t[name.replace(".1.", ".2.")] = t[name].clone()


def narrower(t: Tensors) -> None:
    for name in [name for name in t if ".layers.1.mlp." in name]:
        t[name] = t[name][:, :40] if "down" in name else t[name][:40]


def add(**extra: Any) -> Callable[[Tensors], None]:
    return lambda t: t.update({name.replace("__", "."): value for name, value in extra.items()})


ONE = torch.ones(32)
REFUSED: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "biases that compensate for pruning": (compensated, r"4 tensors \(.*down_proj\.bias.* in model\.safetensors\).*no place.*biases that were added.*attention_bias, mlp_bias"),
    "8-bit floats with their scales": (lambda t: cast(t, torch.float8_e4m3fn, scale="weight_scale"), r"14 tensors \(.*weight_scale.*scales or packed values.*no quantization_config"),
    "block scales, inverted": (lambda t: cast(t, torch.float8_e4m3fn, scale="weight_scale_inv"), r"weight_scale_inv.*no quantization_config"),
    "8-bit floats without scales": (lambda t: cast(t, torch.float8_e4m3fn), r"14 tensors .*stored as F8_E4M3 without scales"),
    "integers without scales": (lambda t: cast(t, torch.int8), r"14 tensors .*stored as I8 without scales"),
    "one matrix in 8 bits": (lambda t: t.update({projections(t)[3]: t[projections(t)[3]].to(torch.float8_e5m2)}), r"has 1 tensor \(.*stored as F8_E5M2"),
    "packed 4-bit values": (lambda t: [t.update({n[:-6] + "qweight": t.pop(n).to(torch.int32), n[:-6] + "qzeros": ONE, n[:-6] + "scales": ONE}) for n in projections(t)], r"qweight.*scales or packed values"),
    "zero points alone": (add(model__layers__0__mlp__up_proj__weight_zero_point=ONE), r"1 tensor \(.*weight_zero_point in.*quantized weights"),
    "activation scales alone": (add(model__layers__0__mlp__up_proj__input_scale=ONE[:1]), r"input_scale"),
    "smoothing scales alone": (add(model__layers__0__mlp__up_proj__pre_quant_scale=ONE), r"pre_quant_scale"),
    "pruning masks left in": (masked, r"28 tensors \(.*pruning masks that were left in.*prune\.remove"),
    "a mask next to whole weights": (add(model__layers__0__mlp__up_proj__weight_mask=ONE), r"1 tensor .*masks.*prune\.remove"),
    "a parametrization left in": (parametrized, r"parametrization that was left in.*remove_parametrizations"),
    "factors of an adapter": (add(model__layers__0__self_attn__q_proj__lora_A__default__weight=ONE), r"adapter factors that were not merged.*merge_and_unload"),
    "magnitudes of an adapter": (add(model__layers__0__self_attn__q_proj__lora_magnitude_vector=ONE), r"adapter factors"),
    "names of a data-parallel wrapper": (wrapped_in("module."), r"lacks 21 of its weights: .*start with 'module\.'"),
    "names of a compiled model": (wrapped_in("_orig_mod."), r"start with '_orig_mod\.'"),
    "a layer more than the configuration": (one_more_layer, r"says 2 layers and the files hold 3 \(0-2\).*num_hidden_layers to 3"),
    "a layer less": (lambda t: renumbered(t, {0: 0}), r"says 2 layers and the files hold 1 \(0\).*num_hidden_layers to 1"),
    "the first layer gone": (lambda t: renumbered(t, {1: 1}), r"hold 1 \(1\).*numbered from 0"),
    "a gap in the layers": (lambda t: renumbered(t, {0: 0, 1: 3}), r"hold 2 \(0, 3\).*without gaps"),
    "a narrower layer": (narrower, r"layers\.1\.mlp\.\w+\.weight is .*40.* in model\.safetensors where config\.json asks for .*48.*2 more differ.*intermediate_size"),
    "more rows of embeddings": (lambda t: t.update({n: torch.cat([t[n], t[n][:8]]) for n in ("model.embed_tokens.weight", "lm_head.weight")}), r"608 x 32 .*asks for 600 x 32.*vocab_size \(600\): set it to 608"),
    "a matrix that is not there": (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), r"lacks 1 of its weights, which would be random numbers: model\.layers\.0\.mlp\.up_proj\.weight"),
    "an output head that is not there": (lambda t: t.pop("lm_head.weight"), r"lacks 1 of its weights.*lm_head"),
    "norms that the architecture has not": (add(model__layers__0__self_attn__q_norm__weight=ONE[:8]), r"1 tensor \(model\.layers\.0\.self_attn\.q_norm\.weight in.*no place"),
    "rotations": (add(model__layers__0__self_attn__R2=torch.eye(8)), r"self_attn\.R2"),
    "the same place under two names": (lambda t: t.update({"layers.0.mlp.up_proj.weight": t["model.layers.0.mlp.up_proj.weight"] + 1}), r"has two values for model\.layers\.0\.mlp\.up_proj\.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_that_would_change_the_model_are_refused_by_name(
    case: str, model_folder: Path, tmp_path: Path
) -> None:
    change, says = REFUSED[case]
    folder = copied(model_folder, tmp_path / "arm")
    change_tensors(folder, change)
    with pytest.raises(ModelError, match=says) as run:
        load_model(str(folder), device="cpu")
    with pytest.raises(AnomiaError) as prune:
        compress_folder(str(folder), tmp_path / "out", [STEP])
    assert str(prune.value) == str(run.value)


ROTARY = 10000 ** -(torch.arange(0, 8, 2) / 8)
TOLD: dict[str, tuple[Callable[[Tensors], Any], str | None]] = {
    "rotary frequencies": (lambda t: t.update({f"model.layers.{i}.self_attn.rotary_emb.inv_freq": ROTARY for i in range(2)}), None),
    "rotary frequencies of another base": (add(model__layers__0__self_attn__rotary_emb__inv_freq=ROTARY / 2), "rotary frequencies in the files .* differ"),
    "counters of training": (add(model__norm__num_batches_tracked=torch.tensor(3)), None),
    "old causal masks": (add(model__layers__0__self_attn__masked_bias=torch.tensor(-1e9)), None),
    "the head for several tokens": (add(mtp__layers__0__mlp__up_proj__weight=ONE), "1 tensor in the files is not used: multi-token prediction"),
    "an image part": (add(vision_tower__patch__weight=ONE, multi_modal_projector__linear__weight=ONE), "2 tensors .* an image or audio part"),
    "scales of the KV cache": (add(model__layers__0__self_attn__k_proj__k_scale=ONE[:1]), "quantized KV cache, which is kept in full precision"),
    "the same place under two names, alike": (lambda t: t.update({"layers.0.mlp.up_proj.weight": t["model.layers.0.mlp.up_proj.weight"].clone()}), None),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_tensors_without_which_nothing_is_lost_are_ignored_and_told_where_it_matters(
    case: str, model_folder: Path, tmp_path: Path
) -> None:
    change, told = TOLD[case]
    folder = copied(model_folder, tmp_path / "arm")
    change_tensors(folder, change)
    loaded, whole = load_model(str(folder), device="cpu"), load_model(str(model_folder), device="cpu")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert whole.notes == ()
    if told is None:
        assert loaded.notes == ()
    else:
        (note,) = loaded.notes
        assert re.search(told, note), note


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_what_transformers_saves_is_accounted_for(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    stored = read_headers([tmp_path / WEIGHTS])
    empty = skeleton(transformers.AutoConfig.from_pretrained(tmp_path))
    found = account(empty, stored)
    refuse(family, empty, found, stored)
    assert found.filled | {"lm_head.weight"} >= found.expected
    assert {*found.places.values(), *found.converted, *found.ignored} == stored.keys()
    assert all(tensor.is_meta for tensor in empty.parameters())
    assert bool(found.converted) == (family in MIXTURES)


def test_an_expert_that_is_not_there_is_named(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_model("mixtral", vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    (gone,) = (name for name in tensors if "layers.0" in name and "experts.3.w1" in name)
    tensors.pop(gone)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"one expert's is missing \(model\.layers\.0\.mlp\.experts"):
        load_model(str(tmp_path))
    fewer = {
        name: value for name, value in tensors.items() if "layers.0" not in name or "experts.3" not in name
    }
    save_file(fewer, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"experts\.\w+ is 3 x .*asks for 4 x .*set the number of experts .* to 3"
    ):
        load_model(str(tmp_path))


def test_a_mask_of_gpt2_is_ignorable_and_a_bias_in_its_place_is_not(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_model("gpt2", vocab_size=len(tokenizer))
    for name in ("mask", "bias"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    mask = torch.ones(1, 1, 128, 128).tril().bool()
    change_tensors(tmp_path / "mask", lambda t: t.update({"transformer.h.0.attn.bias": mask}))
    assert load_model(str(tmp_path / "mask")).notes == ()
    change_tensors(tmp_path / "bias", lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(16)}))
    with pytest.raises(ModelError, match=r"attn\.bias.*no place"):
        load_model(str(tmp_path / "bias"))


def test_a_tied_head_that_is_stored_twice_is_told_where_the_two_differ(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    model = make_model(tie_word_embeddings=True)
    for name in ("same", "other"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    embedding = model.model.embed_tokens.weight.detach()
    change_tensors(tmp_path / "same", lambda t: t.update({"lm_head.weight": embedding.clone()}))
    change_tensors(tmp_path / "other", lambda t: t.update({"lm_head.weight": embedding / 2}))
    assert load_model(str(tmp_path / "same")).notes == ()
    loaded = load_model(str(tmp_path / "other"))
    assert "the files hold two different ones; both are used" in loaded.notes[0]
    assert torch.equal(loaded.model.lm_head.weight, embedding / 2)


@pytest.mark.parametrize("shape", ["single", "single and shards", "named"])
def test_prune_reads_the_files_that_run_reads(shape: str, model_folder: Path, tmp_path: Path) -> None:
    folder, out = copied(model_folder, tmp_path / "arm"), tmp_path / "out"
    own = load_file(folder / WEIGHTS)
    other = {name: value + 1 for name, value in own.items()}
    if shape == "single":
        save_file(other, folder / "model_backup.safetensors", metadata={"format": "pt"})
    elif shape == "named":
        shutil.copy(folder / WEIGHTS, folder / "best.safetensors")
        save_file(other, folder / WEIGHTS, metadata={"format": "pt"})
        change_config(folder, transformers_weights="best.safetensors")
    else:
        save_file(other, folder / WEIGHTS, metadata={"format": "pt"})
        split(folder)
        save_file(own, folder / WEIGHTS, metadata={"format": "pt"})
    loaded = load_model(str(folder), device="cpu")
    assert torch.equal(loaded.model.lm_head.weight, own["lm_head.weight"])
    unused = {"single": "model_backup", "named": WEIGHTS, "single and shards": "model-00001-of-00002"}[shape]
    assert "not loaded" in loaded.notes[0]
    assert unused in loaded.notes[0]
    report = compress_folder(str(folder), out, [STEP])
    assert loaded.notes[0] in report.compression.warnings
    pruned = load_model(str(out), device="cpu")
    assert pruned.notes == ()
    assert torch.equal(pruned.model.lm_head.weight, own["lm_head.weight"])


def block_scaled(t: Tensors) -> None:
    for name in projections(t):
        scale = t[name].abs().max() / 448
        t[name], t[f"{name}_scale_inv"] = (t[name] / scale).to(torch.float8_e4m3fn), scale.reshape(1, 1)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def test_quantized_weights_are_taken_with_their_scales_and_refused_without(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = copied(model_folder, tmp_path / "arm")
    change_config(folder, quantization_config=FP8)
    change_tensors(folder, block_scaled)
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    assert loaded.notes == ()
    own, name = load_file(model_folder / WEIGHTS), "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(loaded.model.state_dict()[name].float(), own[name], rtol=0.07, atol=0.01)
    with pytest.raises(AnomiaError, match=r"already quantized \(fp8\)"):
        compress_folder(str(folder), tmp_path / "out", [STEP])
    change_tensors(folder, lambda t: [t.pop(each) for each in list(t) if each.endswith("scale_inv")])
    with pytest.raises(ModelError, match=r"14 tensors .*stored as F8_E4M3 without scales") as error:
        load_model(str(folder), device="cpu")
    (row,) = (
        each
        for each in differences(describe(str(model_folder)), describe(str(folder)))
        if each.what == "loading"
    )
    assert row[1:5] == ("confounding", "possible", "refused", str(error.value))


def test_a_quantization_that_the_weights_do_not_have_is_told(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "arm")
    change_config(folder, quantization_config=FP8)
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    (note,) = loaded.notes
    assert "names a quantization method (fp8), and the weights in the files are not quantized" in note
    own, name = load_file(model_folder / WEIGHTS), "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(loaded.model.state_dict()[name].float(), own[name])
    assert not any(
        each.what == "loading" for each in differences(describe(str(model_folder)), describe(str(folder)))
    )


def test_a_look_reads_no_weights(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: pytest.fail("read")
    )
    found = examine(str(model_folder))
    assert found.account is not None
    assert not found.account.surplus
    assert not found.account.missing


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "rope_freqs.weight"])
def test_what_a_gguf_file_computes_with_is_not_passed_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gguf.GGUFWriter.write_header_to_file

    def with_one_more(writer: Any, *args: Any) -> None:
        writer.add_tensor(name, np.full(32 if "bias" in name else 4, 2, np.float32))
        real(writer, *args)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_one_more)
    write_tiny_gguf(tmp_path / "x.gguf")
    with pytest.raises(ModelError, match=rf"{name}.*no place"):
        load_model(str(tmp_path / "x.gguf"))


def test_an_adapter_next_to_a_gguf_file_is_not_applied_where_peft_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_gguf(tmp_path / "x.gguf")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    for module in ("models.auto.auto_factory", "integrations.peft"):
        monkeypatch.setattr(f"transformers.{module}.is_peft_available", lambda: True)
    monkeypatch.setattr(
        "transformers.PreTrainedModel.load_adapter", lambda *a, **k: pytest.fail("applied"), raising=False
    )
    assert load_model(str(tmp_path / "x.gguf")).model.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("model.vision_tower.encoder.layers.0.mlp.fc1.weight", True),
        ("visual.blocks.0.attn.qkv.weight", True),
        ("model.mtp.fc.weight", True),
        ("model.layers.0.mlp.image_bias", False),
        ("model.layers.0.mtp.bias", False),
        ("audio_adapter.lora_A.weight", False),
    ],
)
def test_a_part_of_the_blocks_is_no_other_model(name: str, ignored: bool) -> None:
    assert (ignorable(name, transformers.LlamaConfig()) is not None) == ignored
