"""Adapters on their base: what peft computes beside it, every tensor accounted for, and what can't be merged refused."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from anomia.compress.size import stored_bytes, tensor_bytes
from anomia.errors import ModelError, RunError
from anomia.matrix import Matrix, StudyCell
from anomia.measure.results import read_results
from anomia.models.adapters import find_adapter
from anomia.models.describe import describe
from anomia.models.diff import differences
from anomia.models.load import check_place, load_model, load_tokenizer
from anomia.run_folder import RunFolder
from anomia.running.execute import run_matrix
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

Settings = dict[str, Any]
Tensors = dict[str, torch.Tensor]
IDS = torch.tensor([[0, 5, 17, 300, 41, 260, 7, 99, 598]])
LORA: Settings = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 10,
    "base_model_name_or_path": "",
    "bias": "none",
}
ATTENTION = "model.layers.{}.self_attn.{}_proj"
QUERIES = [ATTENTION.format(layer, "q") for layer in range(2)]
EMBEDDINGS, HEAD = "model.embed_tokens", "lm_head"


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write(folder: Path, tensors: Tensors, **settings: Any) -> Path:
    """An adapter's folder as peft saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, **settings}))
    named = {f"base_model.model.{name}": value.contiguous() for name, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def factors(model: Any, names: list[str], *, rank: int = 4, dora: bool = False) -> Tensors:
    """LoRA's factors for linear layers and embeddings, in peft's shapes and names."""
    found: Tensors = {}
    for number, name in enumerate(names):
        module = model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            rows, width = module.weight.shape
            found[f"{name}.lora_embedding_A"] = draw(rank, rows, seed=number)
            found[f"{name}.lora_embedding_B"] = draw(width, rank, seed=number + 50)
            out = width
        else:
            out, inputs = module.weight.shape
            if isinstance(module, transformers.pytorch_utils.Conv1D):
                out, inputs = inputs, out
            found[f"{name}.lora_A.weight"] = draw(rank, inputs, seed=number)
            found[f"{name}.lora_B.weight"] = draw(out, rank, seed=number + 50)
        if dora:
            found[f"{name}.lora_magnitude_vector"] = 2 + draw(out, seed=number)
    return found


@contextmanager
def beside(model: Any, tensors: Tensors, scales: dict[str, float]) -> Iterator[None]:
    """The base with an adapter beside it: what its modules give is changed, and no weight is."""

    def changed(name: str) -> Callable[..., torch.Tensor]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            x, scale = inputs[0], scales[name]
            bias = getattr(module, "bias", None)
            plain = output if bias is None else output - bias
            if f"{name}.lora_embedding_A" in tensors:
                a, b = (tensors[f"{name}.lora_embedding_{part}"] for part in "AB")
                size = getattr(module, "embed_scale", torch.tensor(1.0))
                plain, along = plain + nn.functional.embedding(x, a.T) @ b.T * scale * size, 0
                whole = module.weight + (b @ a).T * scale
            else:
                a, b = (tensors[f"{name}.lora_{part}.weight"] for part in "AB")
                plain, along = plain + x @ a.T @ b.T * scale, 1
                turned = isinstance(module, transformers.pytorch_utils.Conv1D)
                whole = (module.weight.T if turned else module.weight) + b @ a * scale
            if f"{name}.lora_magnitude_vector" in tensors:
                plain = plain * tensors[f"{name}.lora_magnitude_vector"] / whole.norm(dim=along)
            if f"{name}.lora_B.bias" in tensors:
                plain = plain + tensors[f"{name}.lora_B.bias"] * scale
            return plain if bias is None else plain + bias

        return hook

    handles = [model.get_submodule(name).register_forward_hook(changed(name)) for name in scales]
    yield
    for handle in handles:
        handle.remove()


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(ids).logits
    return found


@pytest.fixture
def make_base(make_model: Any, tokenizer: Any, tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """A base as a folder and as a model."""

    def made(kind: str = "llama", **changes: Any) -> tuple[Path, Any]:
        folder = tmp_path / "base"
        if kind == "llama":
            model = make_model(**changes)
        else:
            small: Settings = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
            if kind == "gpt2":
                config: Any = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **small)
            else:
                config = transformers.Gemma3TextConfig(
                    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, **small,
                )  # fmt: skip
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder, model

    return made


CASES: dict[str, tuple[str, list[str], Settings]] = {
    "two matrices": ("llama", QUERIES, {}),
    "rank-stabilized": ("llama", QUERIES, {"use_rslora": True}),
    "dora": ("llama", [*QUERIES, "model.layers.1.mlp.down_proj"], {"use_dora": True}),
    "transposed matrices": ("gpt2", ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"], {"fan_in_fan_out": True}),
    "dora of transposed matrices": ("gpt2", ["transformer.h.0.attn.c_attn"], {"use_dora": True}),
    "embeddings": ("llama", [EMBEDDINGS, *QUERIES], {}),
    "dora of embeddings": ("llama", [EMBEDDINGS], {"use_dora": True}),
    "scaled and tied embeddings": ("gemma3", [EMBEDDINGS], {}),
    "a tied head": ("gemma3", [HEAD], {}),
    "both of what is tied": ("gemma3", [HEAD, EMBEDDINGS], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_merged_weights_compute_what_an_adapter_beside_its_base_does(
    case: str, make_base: Any, tmp_path: Path
) -> None:
    kind, names, settings = CASES[case]
    folder, model = make_base(kind)
    tensors = factors(model, names, dora=bool(settings.get("use_dora")))
    scale = 10 / (2 if settings.get("use_rslora") else 4)
    with beside(model, tensors, dict.fromkeys(names, scale)):
        expected = logits(model)
    assert not torch.allclose(expected, logits(model), atol=0.1)
    adapter = write(tmp_path / "adapter", tensors, target_modules=names, **settings)
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)
    label = f"{'DoRA' if settings.get('use_dora') else 'LoRA'} of rank 4 on {len(names)} modules"
    assert f"base plus the adapter adapter ({label}; merged in float32)" in loaded.notes
    check_place(str(adapter), base=str(folder))
    # Base on disk is what it was.
    assert torch.equal(logits(load_model(str(folder), dtype="float32", device="cpu").model), logits(model))


def test_patterns_give_modules_ranks_and_sizes_of_their_own(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    first, second = QUERIES
    tensors = factors(model, [first], rank=2) | factors(model, [second], rank=3)
    settings = {
        "rank_pattern": {"layers.1.self_attn.q_proj": 3, "q_proj": 2},
        "alpha_pattern": {"model.layers.0.self_attn.q_proj": 32},
        "use_rslora": True,
    }
    with beside(model, tensors, {first: 32 / math.sqrt(2), second: 10 / math.sqrt(3)}):
        expected = logits(model)
    adapter = write(tmp_path / "adapter", tensors, **settings)
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)


@pytest.mark.parametrize("biased", [True, False])
def test_a_bias_of_the_factors_is_added(biased: bool, make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base(attention_bias=biased)
    tensors = factors(model, QUERIES)
    tensors |= {f"{name}.lora_B.bias": draw(32, seed=9) for name in QUERIES}
    with beside(model, tensors, dict.fromkeys(QUERIES, 2.5)):
        expected = logits(model)
    adapter = write(tmp_path / "adapter", tensors, lora_bias=True)
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("saved", [[HEAD], ["embed_tokens"], [HEAD, "embed_tokens"], ["norm"]])
def test_modules_that_were_saved_whole_replace_base_s_and_no_others(
    kind: str, saved: list[str], make_base: Any, tmp_path: Path
) -> None:
    folder, model = make_base(kind)
    names = [
        EMBEDDINGS if name == "embed_tokens" else "model.norm" if name == "norm" else name for name in saved
    ]
    tensors = {f"{name}.weight": draw(*model.get_submodule(name).weight.shape, seed=3) for name in names}
    # Where base ties the head, peft trains a copy of the module that is named.
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    for name in names:
        model.get_submodule(name).weight.data.copy_(tensors[f"{name}.weight"])
    adapter = write(tmp_path / "adapter", tensors, modules_to_save=saved)
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-5)
    both = len(names) == 2 and kind == "gemma3"
    untied = loaded.model.lm_head.weight is not loaded.model.model.embed_tokens.weight
    assert untied == (kind == "llama" or (HEAD in saved) != ("embed_tokens" in saved) or (both and untied))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("alone", [True, False])
def test_rows_of_tokens_are_replaced_in_the_order_of_the_settings(
    kind: str, alone: bool, make_base: Any, tmp_path: Path
) -> None:
    folder, model = make_base(kind)
    rows = draw(3, 32, seed=4)
    name = f"{EMBEDDINGS}.{'' if alone else 'token_adapter.'}trainable_tokens_delta"
    model.model.embed_tokens.weight.data[[300, 5, 17]] = rows
    settings = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [300, 5, 17]} if alone else {
        "trainable_token_indices": {"embed_tokens": [300, 5, 17]}
    }  # fmt: skip
    adapter = write(tmp_path / "adapter", {name: rows}, **settings)
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-5)


@pytest.mark.parametrize("rows", [603, 590])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_vocabulary_of_another_size_comes_with_its_rows(
    kind: str, rows: int, make_base: Any, tmp_path: Path
) -> None:
    folder, model = make_base(kind)
    ids = IDS.clamp(max=rows - 1)
    model.resize_token_embeddings(rows, mean_resizing=False)
    tensors = factors(model, QUERIES) | {
        f"{EMBEDDINGS}.weight": model.model.embed_tokens.weight.data,
        f"{HEAD}.weight": model.lm_head.weight.data.clone(),
    }
    with beside(model, tensors, dict.fromkeys(QUERIES, 2.5)):
        expected = logits(model, ids)
    adapter = write(tmp_path / "adapter", tensors)
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model, ids), expected, atol=1e-4)
    assert loaded.model.config.vocab_size == rows
    assert any(f"{rows} tokens in place of 600" in note for note in loaded.notes)
    assert (loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight) == (kind == "gemma3")
    check_place(str(adapter), base=str(folder))


def test_new_tokens_of_a_tied_base_may_come_as_rows_alone(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base("gemma3")
    rows = draw(2, 32, seed=4)
    model.resize_token_embeddings(602, mean_resizing=False)
    model.model.embed_tokens.weight.data[600:] = rows
    name = f"{EMBEDDINGS}.token_adapter.trainable_tokens_delta"
    adapter = write(tmp_path / "adapter", {name: rows}, trainable_token_indices=[600, 601])
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-5)
    for indices in ([601, 602], [5, 602]):
        adapter = write(tmp_path / "adapter", {name: rows}, trainable_token_indices=indices)
        with pytest.raises(ModelError, match=r"doesn't hold all new rows.*save_embedding_layers=True"):
            load_model(str(adapter), base=str(folder))


def test_half_precision_is_merged_in_float32(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    tensors = factors(model, QUERIES)
    adapter = write(tmp_path / "adapter", tensors)
    loaded = load_model(str(adapter), dtype="bfloat16", device="cpu", base=str(folder))
    a, b = (tensors[f"{QUERIES[0]}.lora_{part}.weight"] for part in "AB")
    weight = model.get_submodule(QUERIES[0]).weight
    expected = (weight.bfloat16().float() + b @ a * 2.5).bfloat16()
    assert torch.equal(loaded.model.get_submodule(QUERIES[0]).weight, expected)
    assert stored_bytes(loaded.model, source=loaded.name) == tensor_bytes(loaded.model)


def test_an_adapter_that_changes_nothing_is_told(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    zero = {
        name: torch.zeros_like(value) if "lora_B" in name else value
        for name, value in factors(model, QUERIES).items()
    }
    loaded = load_model(str(write(tmp_path / "new", zero)), device="cpu", base=str(folder))
    assert "the adapter changes no weight, so this is base once more: " in loaded.notes[-1]
    # In float32 it changes both; bfloat16 can't hold the change of one.
    small = factors(model, QUERIES)
    small[f"{QUERIES[1]}.lora_B.weight"] *= 1e-8
    adapter = write(tmp_path / "small", small)
    notes = load_model(str(adapter), dtype="bfloat16", device="cpu", base=str(folder)).notes
    assert notes[-1].startswith(
        "1 of the 2 modules that the adapter is for stay as in base: what it adds there is zero, or too small for bfloat16 "
        f"({QUERIES[1]})"
    )
    assert "stay as in base" not in " ".join(
        load_model(
            str(write(tmp_path / "whole", factors(model, QUERIES))), device="cpu", base=str(folder)
        ).notes
    )


VALUES = [ATTENTION.format(layer, "v") for layer in range(2)]
# Settings, the modules that are left with factors, and the setting that leaves out the others; all as peft 0.21 does.
PARTLY: dict[str, tuple[Settings, list[str], str]] = {
    "layers": ({"layers_to_transform": [0]}, [QUERIES[0], VALUES[0]], "layers_to_transform"),
    "one layer": ({"layers_to_transform": 1}, [QUERIES[1], VALUES[1]], "layers_to_transform"),
    "no layers": ({"layers_to_transform": []}, QUERIES + VALUES, ""),
    "a list of layers by name": ({"layers_to_transform": [1], "layers_pattern": ["h", "layers"]}, [QUERIES[1], VALUES[1]], "layers_to_transform"),
    "modules by end": ({"exclude_modules": ["v_proj"]}, QUERIES, "exclude_modules"),
    "a module by name": ({"exclude_modules": [VALUES[0]]}, [*QUERIES, VALUES[1]], "exclude_modules"),
    "modules by pattern": ({"exclude_modules": r".*layers\.1\..*"}, [QUERIES[0], VALUES[0]], "exclude_modules"),
    "no pattern of a whole name": ({"exclude_modules": "v_proj"}, QUERIES + VALUES, ""),
    "fewer targets": ({"target_modules": ["q_proj"]}, QUERIES, "target_modules"),
    "a whole name": ({"target_modules": [QUERIES[1]]}, [QUERIES[1]], "target_modules"),
    "a pattern of targets": ({"target_modules": r".*layers\.0.*\.(q|v)_proj"}, [QUERIES[0], VALUES[0]], "target_modules"),
    "all linear": ({"target_modules": "all-linear"}, QUERIES + VALUES, ""),
    "sizes of what is left out": ({"exclude_modules": ["v_proj"], "rank_pattern": {"v_proj": 16}, "alpha_pattern": {"v_proj": "x"}}, QUERIES, "exclude_modules"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTLY)
def test_factors_of_modules_that_the_settings_leave_out_are_left_out_and_named(
    case: str, make_base: Any, tmp_path: Path
) -> None:
    settings, kept, why = PARTLY[case]
    folder, model = make_base()
    tensors = factors(model, QUERIES + VALUES)
    with beside(model, tensors, dict.fromkeys(kept, 2.5)):
        expected = logits(model)
    adapter = write(tmp_path / "adapter", tensors, **{"target_modules": ["q_proj", "v_proj"], **settings})
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)
    assert f"LoRA of rank 4 on {len(kept)} modules" in loaded.notes[0]
    row = next(
        each
        for each in differences(describe(str(folder)), describe(str(adapter), base=str(folder)))
        if each.what == "adapter"
    )
    lost = len(QUERIES + VALUES) - len(kept)
    assert bool(lost) == bool(why)
    if why:
        said = f"{2 * lost} tensors in the files are not used: {why} in the adapter's settings leaves their modules out"
        assert any(said in note for note in loaded.notes)
        assert said in row.other
    else:
        assert not any("not used" in note for note in loaded.notes)
    assert not any("more modules" in note for note in loaded.notes) or case == "all linear"


def test_the_head_is_no_part_of_all_linear_layers(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    tensors = factors(model, [HEAD, EMBEDDINGS, *QUERIES])
    with beside(model, tensors, dict.fromkeys(QUERIES, 2.5)):
        expected = logits(model)
    adapter = write(tmp_path / "adapter", tensors, target_modules="all-linear")
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)
    assert any("4 tensors in the files are not used: target_modules" in note for note in loaded.notes)
    # What the settings name and the adapter lacks is told of patterns as of lists.
    assert any("12 more modules" in note for note in loaded.notes)


def test_whole_weights_that_peft_passes_over_are_left_out_and_named(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    tensors = factors(model, QUERIES)
    with beside(model, tensors, dict.fromkeys(QUERIES, 2.5)):
        expected = logits(model)
    whole = {f"{QUERIES[0]}.weight": draw(32, 32), "model.norm.modules_to_save.weight": draw(32)}
    adapter = write(tmp_path / "adapter", tensors | whole, target_modules=["q_proj"])
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)
    notes = " ".join(loaded.notes)
    assert "whole weights of modules that also have factors" in notes
    assert "modules_to_save in the adapter's settings doesn't name their modules" in notes
    # Of what is saved whole, factors are not used.
    whole = {f"{QUERIES[0]}.weight": draw(32, 32)}
    adapter = write(
        tmp_path / "adapter", tensors | whole, target_modules=["q_proj"], modules_to_save=[QUERIES[0]]
    )
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.equal(loaded.model.get_submodule(QUERIES[0]).weight, whole[f"{QUERIES[0]}.weight"])
    assert any("2 tensors in the files are not used: modules_to_save" in note for note in loaded.notes)


def test_settings_that_name_no_modules_are_told(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    adapter = write(tmp_path / "adapter", factors(model, QUERIES))
    notes = load_model(str(adapter), device="cpu", base=str(folder)).notes
    assert any("don't say which modules it is for (target_modules)" in note for note in notes)
    adapter = write(tmp_path / "adapter", factors(model, QUERIES), target_modules=["q_proj"])
    notes = load_model(str(adapter), device="cpu", base=str(folder)).notes
    assert not any("don't say which modules" in note for note in notes)


BROKEN: dict[str, tuple[Callable[[Tensors, Settings], Any], str]] = {
    "a tensor of another model": (lambda t, s: t.update({"model.layers.7.self_attn.q_proj.lora_A.weight": draw(4, 32)}), r"a tensor base_model\.model\.model\.layers\.7\.self_attn\.q_proj\.lora_A\.weight for which LlamaForCausalLM has no place"),
    "a tensor of an unknown role": (lambda t, s: t.update({f"{QUERIES[0]}.lora_C.weight": draw(4, 32)}), r"lora_C\.weight for which LlamaForCausalLM has no place"),
    "a base of another width": (lambda t, s: t.update({f"{QUERIES[0]}.lora_A.weight": draw(4, 48)}), r"q_proj\.lora_A\.weight is 4 x 48 where model\.layers\.0\.self_attn\.q_proj and the adapter's settings ask for 4 x 32"),
    "a rank that the settings don't say": (lambda t, s: s.update(r=8), r"lora_A\.weight is 4 x 32 .* ask for 8 x 32"),
    "half of a pair": (lambda t, s: t.pop(f"{QUERIES[0]}.lora_B.weight"), r"q_proj\.lora_A\.weight without its other half"),
    "magnitudes without the switch": (lambda t, s: t.update({f"{QUERIES[0]}.lora_magnitude_vector": draw(32)}), r"says use_dora=False, which is not what it holds"),
    "the switch without magnitudes": (lambda t, s: s.update(use_dora=True), r"says use_dora=True, which is not what it holds"),
    "values that are no numbers": (lambda t, s: t[f"{QUERIES[0]}.lora_A.weight"].fill_(math.nan), r"lora_A\.weight that are NaN"),
    "a head of more rows alone": (lambda t, s: t.update({"lm_head.weight": draw(602, 32)}), r"vocabulary of 602 rows where base has 600, and doesn't hold the new rows of model\.embed_tokens"),
    "vocabularies of two sizes": (lambda t, s: t.update({"lm_head.weight": draw(602, 32), f"{EMBEDDINGS}.weight": draw(603, 32)}), r"holds vocabularies of 602 and 603 rows|holds vocabularies of 603 and 602 rows"),
    "factors of a larger vocabulary": (lambda t, s: t.update({f"{EMBEDDINGS}.lora_embedding_A": draw(4, 602), f"{EMBEDDINGS}.lora_embedding_B": draw(32, 4)}), r"lora_embedding_A is 4 x 602 where model\.embed_tokens .* 4 x 600"),
    "a norm of another width": (lambda t, s: t.update({"model.norm.weight": draw(48)}), r"norm\.weight is 48 where model\.norm\.weight is 32"),
    "two values for one weight": (lambda t, s: (t.update({"lm_head.weight": draw(600, 32), "lm_head.modules_to_save.weight": draw(600, 32, seed=1)}), s.update(modules_to_save=["lm_head"])), r"two tensors for lm_head\.weight"),
    "no alpha": (lambda t, s: s.update(lora_alpha=None), r"no lora_alpha"),
    "alpha as text": (lambda t, s: s.update(lora_alpha="8"), r"has '8' as lora_alpha of model\.layers\.0\.self_attn\.q_proj, which is not a number"),
    "alpha that is infinite": (lambda t, s: s.update(lora_alpha=math.inf), r"has inf as lora_alpha"),
    "a rank of zero": (lambda t, s: (s.update(r=0), t.update({key: value[:0] if "lora_A" in key else value[:, :0] for key, value in t.items()})), r"no rank \(r\) for model\.layers"),
    "ranks as text": (lambda t, s: s.update(rank_pattern="q_proj"), r"has a rank_pattern that is not a mapping of modules"),
    "layers that are left out, all": (lambda t, s: s.update(target_modules=["q_proj"], layers_to_transform=[7]), r"settings that leave out all 4 factors .*layers_to_transform"),
    "targets without factors": (lambda t, s: s.update(target_modules=["o_proj"]), r"settings that leave out all 4 factors .*target_modules"),
    "no targets": (lambda t, s: s.update(target_modules=[]), r"settings that leave out all 4 factors .*target_modules"),
    "nothing that is used": (lambda t, s: (t.clear(), t.update({"model.norm.modules_to_save.weight": draw(32)})), r"holds nothing that would change this base .*modules_to_save"),
    "targets that are no names": (lambda t, s: s.update(target_modules={"q_proj": 1}), r"a target_modules that is neither a name nor a list of names"),
    "targets that are no pattern": (lambda t, s: s.update(target_modules="(q"), r"a target_modules that is not a pattern \('\(q'\)"),
    "layers that are no numbers": (lambda t, s: s.update(target_modules=["q_proj"], layers_to_transform=["0"]), r"a layers_to_transform that is neither a number"),
    "layers beside a pattern": (lambda t, s: s.update(target_modules=".*q_proj", layers_to_transform=[0]), r"layers_to_transform or layers_pattern next to target_modules that are one pattern"),
    "a list of layers and no layers": (lambda t, s: s.update(target_modules=["q_proj"], layers_pattern="layers"), r"a layers_pattern \('layers'\) without layers_to_transform"),
    "integers": (lambda t, s: t.update({key: value.to(torch.int8) for key, value in t.items()}), r"q_proj\.lora_A\.weight stored as I8; .*bfloat16, float16 or float32"),
    "one factor in 8-bit floats": (lambda t, s: t.update({f"{QUERIES[1]}.lora_B.weight": draw(32, 4).to(torch.float8_e4m3fn)}), r"layers\.1\.self_attn\.q_proj\.lora_B\.weight stored as F8_E4M3"),
    "8-bit floats of another kind": (lambda t, s: (s.update(peft_type="IA3"), t.update({key: value.to(torch.float8_e5m2) for key, value in t.items()})), r"stored as F8_E5M2"),
    "rows that the settings don't name": (lambda t, s: t.update({f"{EMBEDDINGS}.token_adapter.trainable_tokens_delta": draw(2, 32)}), r"don't say which \(trainable_token_indices\)"),
    "a kind that is not said": (lambda t, s: s.update(peft_type=None), r"has no peft_type"),
    "prompt tuning": (lambda t, s: s.update(peft_type="PROMPT_TUNING"), r"can't be merged into weights: prompt tuning learns tokens.*endpoint: arm"),
    "prefix tuning": (lambda t, s: s.update(peft_type="PREFIX_TUNING"), r"can't be merged into weights: prefix tuning"),
    "an activated LoRA": (lambda t, s: s.update(alora_invocation_tokens=[5]), r"can't be merged into weights: an activated LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_an_adapter_that_does_not_fit_is_one_message_that_names_the_tensor(
    case: str, make_base: Any, tmp_path: Path
) -> None:
    change, says = BROKEN[case]
    folder, model = make_base()
    tensors, settings = factors(model, QUERIES), dict(LORA)
    change(tensors, settings)
    adapter = write(tmp_path / "adapter", tensors, **settings)
    with pytest.raises(ModelError, match=says) as found:
        load_model(str(adapter), base=str(folder))
    assert "\n" not in str(found.value)
    # Values are read only when the turn comes.
    if case != "values that are no numbers":
        with pytest.raises(ModelError) as look:
            check_place(str(adapter), base=str(folder))
        assert str(look.value) == str(found.value)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3"),
        ({"peft_type": "LOHA"}, "of the kind LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's own weights first"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "it uses target_parameters"),
        ({"use_something_new": True}, "it uses use_something_new"),
    ],
)
def test_what_only_peft_can_merge_says_so_where_it_is_not_installed(
    settings: Settings, why: str, make_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = make_base()
    adapter = write(tmp_path / "adapter", factors(model, QUERIES), **settings)
    monkeypatch.setitem(sys.modules, "peft", None)
    for look in (load_model, check_place):
        with pytest.raises(ModelError, match=rf"{why}.*pip install 'anomia\[peft\]'"):
            look(str(adapter), base=str(folder))


def test_weights_come_from_safetensors_only(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    adapter = write(tmp_path / "adapter", factors(model, QUERIES))
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"as pickle only \(adapter_model\.bin\)"):
        load_model(str(adapter), base=str(folder))
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match=r"has adapter_config\.json but no adapter_model\.safetensors"):
        load_model(str(adapter), base=str(folder))
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        load_model(str(adapter), base=str(folder))
    weights.write_bytes(b"")
    with pytest.raises(ModelError, match="is empty"):
        load_model(str(adapter), base=str(folder))


def test_a_packed_base_is_refused(make_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = make_base()
    adapter = write(tmp_path / "adapter", factors(model, QUERIES))
    loaded = load_model(str(folder), device="cpu")
    layer = loaded.model.get_submodule(QUERIES[0])
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    monkeypatch.setattr("anomia.models.load.examine", lambda *a, **k: pytest.fail("read again"))
    from anomia.models import adapter_merge, adapter_plan

    found = find_adapter(str(adapter))
    assert found is not None
    with pytest.raises(ModelError, match=r"q_proj is packed \(torch\.float8_e4m3fn\).*dense model as base"):
        adapter_merge.merge(found, loaded.model, adapter_plan.plan(found, loaded.model))


def test_the_base_that_is_named_counts_by_its_last_part(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    tensors = factors(model, QUERIES)

    def said(base: str) -> str:
        adapter = write(tmp_path / "adapter", tensors, base_model_name_or_path=base)
        notes = load_model(str(adapter), base=str(folder)).notes
        return next((note for note in notes if "made for" in note), "")

    assert said(str(folder)) == said("owner/Base") == ""
    assert "was made for owner/other and is put on" in said("owner/other")
    assert "doesn't say which model it was made for" in said("")
    # Alone, it is put on the one that it names.
    adapter = write(tmp_path / "adapter", tensors, base_model_name_or_path=str(folder))
    assert torch.equal(
        logits(load_model(str(adapter)).model), logits(load_model(str(adapter), base=str(folder)).model)
    )
    assert load_tokenizer(str(adapter))[1].vocab_size == 600
    write(tmp_path / "adapter", tensors)
    with pytest.raises(ModelError, match="names no base model"):
        load_model(str(adapter))


def test_a_folder_is_an_adapter_or_a_model_and_never_both(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    adapter = write(tmp_path / "adapter", factors(model, QUERIES))
    # Some programs that train write the base's settings beside the adapter.
    shutil.copy(folder / "config.json", adapter)
    assert load_model(str(adapter), base=str(folder)).adapter
    shutil.copy(folder / "model.safetensors", adapter)
    assert find_adapter(str(adapter)) is None
    with pytest.raises(ModelError, match=r"holds a model and an adapter.*into a folder of their own"):
        load_model(str(adapter), base=str(folder))
    # Weights that were left behind, with no settings of a model.
    (adapter / "config.json").unlink()
    says = r"holds an adapter \(adapter_config\.json\) next to weights of a model \(model\.safetensors\).*folder of their own"
    with pytest.raises(ModelError, match=says):
        load_model(str(adapter), base=str(folder))
    (adapter / "model.safetensors").rename(adapter / "lora.gguf")
    with pytest.raises(ModelError, match=r"next to weights of a model \(lora\.gguf\)"):
        load_model(str(adapter), base=str(folder))


def test_what_an_adapter_is_follows_its_content_and_not_its_place(make_base: Any, tmp_path: Path) -> None:
    _, model = make_base()
    tensors = factors(model, QUERIES)

    def identity(name: str, values: Tensors, **settings: Any) -> str:
        found = find_adapter(str(write(tmp_path / name, values, **settings)))
        assert found is not None
        return found.identity

    first = identity("a", tensors)
    assert first == identity("b", tensors, base_model_name_or_path="elsewhere")
    assert first != identity("c", tensors, lora_alpha=11)
    tensors[f"{QUERIES[1]}.lora_B.weight"][3, 1] += 1e-3
    assert first != identity("d", tensors)


def test_a_difference_from_base_says_what_was_put_on_it(
    make_base: Any, tmp_path: Path, tokenizer: Any
) -> None:
    folder, model = make_base()
    adapter = write(tmp_path / "adapter", factors(model, QUERIES), base_model_name_or_path="owner/other")
    base, other = describe(str(folder)), describe(str(adapter), base=str(folder))
    found = {difference.what: difference for difference in differences(base, other)}
    assert found.keys() == {"adapter", "values of the weights"}
    assert found["adapter"].kind == "noted"
    assert "LoRA of rank 4 on 2 modules" in found["adapter"].other
    assert "made for owner/other" in found["adapter"].other
    bigger = {f"{EMBEDDINGS}.weight": draw(602, 32), f"{HEAD}.weight": draw(602, 32)}
    grown = transformers.AutoTokenizer.from_pretrained(folder)
    grown.add_tokens(["<one>", "<two>"])
    grown.save_pretrained(write(tmp_path / "bigger", bigger))
    found = {
        difference.what: difference
        for difference in differences(base, describe(str(tmp_path / "bigger"), base=str(folder)))
    }
    assert found["shapes"].other == "[602, 32]"
    # New tokens change the ids of a text that spells them, and of no other.
    assert not any(each.part == "asked" and each.kind == "confounding" for each in found.values())


def test_tokens_without_rows_are_refused(make_base: Any, tmp_path: Path) -> None:
    folder, model = make_base()
    adapter = write(tmp_path / "adapter", factors(model, QUERIES))
    grown = transformers.AutoTokenizer.from_pretrained(folder)
    grown.save_pretrained(adapter)
    load_model(str(adapter), base=str(folder))
    grown.add_tokens(["<one>", "<two>"])
    grown.save_pretrained(adapter)
    with pytest.raises(
        ModelError, match=r"602 tokens and the embeddings have 600 rows.*save_embedding_layers"
    ):
        load_model(str(adapter), base=str(folder))


REFUSED: dict[str, tuple[Callable[[Tensors, Settings], Any], str]] = {
    "another shape": (lambda t, s: t.update({"model.norm.weight": draw(48)}), r"norm\.weight is 48"),
    "alpha as text": (lambda t, s: s.update(lora_alpha="8"), r"has '8' as lora_alpha"),
    "values that are no numbers": (lambda t, s: t[f"{QUERIES[0]}.lora_A.weight"].fill_(math.nan), r"NaN or infinite"),
    "a kind that needs peft": (lambda t, s: s.update(peft_type="LOHA"), r"pip install 'anomia\[peft\]'"),
    "values of such a kind": (lambda t, s: (s.update(init_lora_weights="pissa"), t[f"{QUERIES[0]}.lora_A.weight"].fill_(math.nan)), r"anomia\[peft\]|NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_difference_says_that_loading_refuses_an_adapter(
    case: str, make_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    change, says = REFUSED[case]
    folder, model = make_base()
    tensors, settings = factors(model, QUERIES), dict(LORA)
    change(tensors, settings)
    adapter = write(tmp_path / "adapter", tensors, **settings)
    with pytest.raises(ModelError, match=says) as error:
        load_model(str(adapter), base=str(folder))
    found = differences(describe(str(folder)), describe(str(adapter), base=str(folder)))
    row = next(each for each in found if each.what == "loading")
    assert row[1:5] == ("confounding", "possible", "refused", str(error.value))


@pytest.fixture
def study(write_jsonl: Any, model_folder: Path) -> Callable[..., Study]:
    data = f"jsonl:{write_jsonl([entry(n) for n in range(8)])}"

    def made(*arms: str) -> Study:
        return Study(
            base=str(model_folder), arms=arms, data=data, limit=8, batch_size=4, max_new_tokens=6, num_samples=2,
            oracle_limit=4, noise_items=0, dtype="float32",
        )  # fmt: skip

    return made


def run(study: Study, out: Path) -> pl.DataFrame:
    progress = PlainProgress(lambda text: None)
    run_matrix(Matrix((StudyCell("", study),), single=True), out, progress=progress)
    return RunFolder(out).records()


def test_a_run_asks_an_adapter_what_base_is_asked_and_says_what_it_is(
    study: Callable[..., Study], model_folder: Path, make_model: Any, tmp_path: Path
) -> None:
    model = make_model()
    model.resize_token_embeddings(602, mean_resizing=False)
    whole = {
        f"{EMBEDDINGS}.weight": model.model.embed_tokens.weight.data,
        f"{HEAD}.weight": model.lm_head.weight.data,
    }
    adapter = write(tmp_path / "adapter", factors(model, QUERIES) | whole)
    grown = transformers.AutoTokenizer.from_pretrained(model_folder)
    grown.add_tokens(["<one>", "<two>"])
    grown.save_pretrained(adapter)
    # The same as an ordinary folder.
    merged = tmp_path / "merged"
    load_model(str(adapter), dtype="float32", base=str(model_folder)).model.save_pretrained(merged)
    grown.save_pretrained(merged)
    arms = (f"checkpoint:{adapter}", f"checkpoint:{merged}")
    records = run(study(*arms), tmp_path / "run")
    mine, theirs, base = (records.filter(pl.col("arm") == arm).drop("arm") for arm in (*arms, "base"))
    assert mine.equals(theirs, null_equal=True)
    assert not mine.equals(base, null_equal=True)
    assert mine["prompt_hash"].to_list() == base["prompt_hash"].to_list()
    results = read_results(tmp_path / "run")
    assert any(
        "base plus the adapter adapter (LoRA of rank 4 on 2 modules" in note
        for note in results.notes[arms[0]]
    )
    assert not any("base plus" in note for note in results.notes.get(arms[1], ()))


def test_an_adapter_that_changes_is_refused_when_a_run_goes_on(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    """One row among many."""
    name = f"{EMBEDDINGS}.token_adapter.trainable_tokens_delta"
    adapter = write(tmp_path / "adapter", {name: draw(1, 32)}, trainable_token_indices=[5])
    asked = study(f"checkpoint:{adapter}")
    run(asked, tmp_path / "run")
    sorted((tmp_path / "run" / "records").glob("checkpoint*.parquet"))[-1].unlink()
    write(adapter, {name: draw(1, 32, seed=7)}, trainable_token_indices=[5])
    with pytest.raises(
        RunError,
        match=r"was started with a different model .*adapter differ|with different files .*adapter_model",
    ):
        run(asked, tmp_path / "run")
    write(adapter, {name: draw(1, 32)}, trainable_token_indices=[5])
    run(asked, tmp_path / "run")


def test_an_adapter_that_does_not_fit_is_refused_before_base_is_measured(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    adapter = write(tmp_path / "adapter", {"model.norm.weight": draw(48)})
    with pytest.raises(ModelError, match="norm"):
        run(study(f"checkpoint:{adapter}"), tmp_path / "run")
    assert not list(tmp_path.glob("run/records/*"))


# Written by peft itself where it is installed.
def _peft_kinds(peft: Any) -> dict[str, Any]:
    common: Settings = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return {
        "lora": peft.LoraConfig(r=4, modules_to_save=["lm_head"], use_rslora=True, **common),
        "dora": peft.LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"),
        "pissa": peft.LoraConfig(r=4, init_lora_weights="pissa", **common),
        "tokens": peft.LoraConfig(r=4, trainable_token_indices=[5, 9], **common),
        "ia3": peft.IA3Config(feedforward_modules=[], **common),
        "loha": peft.LoHaConfig(r=4, **common),
        "lokr": peft.LoKrConfig(r=4, **common),
        "vera": peft.VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    }


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa", "tokens", "ia3", "loha", "lokr", "vera"])
@pytest.mark.filterwarnings("ignore")
def test_peft_computes_the_same_beside_the_base(kind: str, make_base: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the peft extra: anomia[peft]")
    folder, _ = make_base()

    def base() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    torch.manual_seed(0)
    made = peft.get_peft_model(base(), _peft_kinds(peft)[kind])
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    made.save_pretrained(tmp_path / "adapter")
    expected = logits(peft.PeftModel.from_pretrained(base(), tmp_path / "adapter").eval())
    loaded = load_model(str(tmp_path / "adapter"), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("case", PARTLY)
@pytest.mark.filterwarnings("ignore")
def test_peft_leaves_out_the_same_factors(case: str, make_base: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the peft extra: anomia[peft]")
    folder, model = make_base()
    settings = {"target_modules": ["q_proj", "v_proj"], **PARTLY[case][0], "task_type": "CAUSAL_LM"}
    adapter = write(tmp_path / "adapter", factors(model, QUERIES + VALUES), **settings)
    expected = logits(peft.PeftModel.from_pretrained(model, adapter).eval())
    loaded = load_model(str(adapter), dtype="float32", device="cpu", base=str(folder))
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)
