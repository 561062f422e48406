"""One field of a folder changed at a time: the comparison never calls equal or harmless what behaves differently.

What really differs is found out with transformers alone, on texts that are no probe texts. Where ids, end tokens, the
texts of answers or rendered prompts differ, the comparison says confounding; where logits do, at least that it is told.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from anomia.errors import ModelError
from anomia.models.describe import Description, describe
from anomia.models.diff import Difference, differences, worst
from tests.models.folders import Oracle, ask, copied, edit, edit_tensors

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def base(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(model_folder, tmp_path_factory.mktemp("fuzz") / "base")
    edit(
        folder, "generation_config.json", lambda values: values.update(eos_token_id=[1, 10], temperature=0.7)
    )
    return folder


@pytest.fixture(scope="module")
def described(base: Path) -> Description:
    return describe(str(base))


@pytest.fixture(scope="module")
def expected(base: Path) -> Oracle:
    found = ask(base)
    assert found is not None
    return found


def others(value: Any) -> list[Any]:
    """Values of the same kind, and of others, that a field could have instead."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, 0, None]
    if isinstance(value, float):
        return [value * 1.5 + 0.1, 0.0]
    if isinstance(value, str):
        return [f"{value}x", ""]
    if isinstance(value, list):
        return [value[:-1], [*value, 5]]
    if isinstance(value, dict):
        return [{}, None]
    return [1, True, "x"]


def paths(values: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """The way to every field of a JSON object, but not into long tables such as vocabularies."""
    if depth == 0 or not isinstance(values, dict | list) or len(values) > 40:
        return
    for key in values if isinstance(values, dict) else range(len(values)):
        yield (key,)
        yield from ((key, *rest) for rest in paths(values[key], depth - 1))


def at(values: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    for key in path[:-1]:
        values = values[key]
    return values, path[-1]


def put(file: str, path: tuple[Any, ...], value: Any) -> Change:
    def change(values: dict[str, Any]) -> None:
        place, key = at(values, path)
        place[key] = value

    return lambda folder: edit(folder, file, change)


def drop(file: str, path: tuple[Any, ...]) -> Change:
    def change(values: dict[str, Any]) -> None:
        place, key = at(values, path)
        del place[key]

    return lambda folder: edit(folder, file, change)


def field_changes(folder: Path, file: str) -> Iterator[tuple[str, Change]]:
    """Every field of a JSON file with other values, and without it."""
    values = json.loads((folder / file).read_text(encoding="utf-8"))
    for path in paths(values):
        place, key = at(values, path)
        name = f"{file}: {'.'.join(map(str, path))}"
        yield f"{name} removed", drop(file, path)
        for value in others(place[key]):
            if key == "continuing_subword_prefix" and isinstance(value, str):
                # The tokenizers library ends the whole process on this one (an abort in its error path).
                continue
            yield f"{name} = {value!r}", put(file, path, value)


def check(
    name: str, folder: Path, described: Description, expected: Oracle
) -> tuple[str, tuple[Difference, ...]]:
    """What the comparison says of a changed folder, held against what transformers does with it."""
    actual = ask(folder)
    try:
        found = differences(described, describe(str(folder)))
    except ModelError:
        return "refused", ()
    said = worst(found) or "equal"
    if actual is None:
        # It can't be loaded whole; then the table says so, and doesn't call it a small thing.
        assert said == "confounding", (name, found)
        return said, found
    differs = {
        "ids": actual.ids != expected.ids,
        "ends": actual.ends != expected.ends,
        "texts": actual.texts != expected.texts,
        "chat": actual.chat != expected.chat and actual.chat is not None,
        "logits": actual.logits.shape != expected.logits.shape
        or not torch.equal(actual.logits, expected.logits),
    }
    if differs["logits"]:
        assert said in ("noted", "confounding"), (name, found)
    for what in ("ids", "ends", "texts", "chat"):
        if differs[what]:
            assert said == "confounding", (name, what, found)
    # And not the other way round: what is called equal or harmless is.
    if said in ("equal", "harmless"):
        assert not any(differs.values()), (name, differs)
    return said, found


def run(
    changes: list[tuple[str, Change]], base: Path, described: Description, expected: Oracle, tmp_path: Path
) -> dict[str, str]:
    said = {}
    for number, (name, change) in enumerate(changes):
        folder = copied(base, tmp_path / str(number))
        change(folder)
        said[name], _ = check(name, folder, described, expected)
    return said


def drawn(changes: list[tuple[str, Change]], count: int) -> list[tuple[str, Change]]:
    return random.Random(0).sample(changes, min(count, len(changes)))


FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.mark.parametrize("file", FILES)
def test_some_fields_of_each_file(
    base: Path, described: Description, expected: Oracle, tmp_path: Path, file: str
) -> None:
    said = run(drawn(list(field_changes(base, file)), 14), base, described, expected, tmp_path)
    assert len(set(said.values())) > 1, said


@pytest.mark.longest
@pytest.mark.parametrize("file", FILES)
def test_all_fields_of_each_file(
    base: Path, described: Description, expected: Oracle, tmp_path: Path, file: str
) -> None:
    run(list(field_changes(base, file)), base, described, expected, tmp_path)


BACKEND: dict[str, tuple[tuple[Any, ...], Any]] = {
    "NFC": (("normalizer",), {"type": "NFC"}),
    "NFKC": (("normalizer",), {"type": "NFKC"}),
    "accents stripped": (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}),
    "lower case": (("normalizer",), {"type": "Lowercase"}),
    "space stripped": (("normalizer",), {"type": "Strip", "strip_left": True, "strip_right": True}),
    "prepended": (("normalizer",), {"type": "Prepend", "prepend": " "}),
    "dummy prefix": (("pre_tokenizer", "add_prefix_space"), True),
    "no regex": (("pre_tokenizer", "use_regex"), False),
    "digits apart": (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}),
    "no pre-tokenizer": (("pre_tokenizer",), None),
    "no start token": (("post_processor",), None),
    "two start tokens": (("post_processor", "single"), [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 2 + [{"Sequence": {"id": "A", "type_id": 0}}]),
    "an end token": (("post_processor", "single"), [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}]),
    "no decoder": (("decoder",), None),
    "another decoder": (("decoder",), {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}),
    "no merges": (("model", "merges"), []),
    "dropout": (("model", "dropout"), 0.5),
    "ignore_merges": (("model", "ignore_merges"), True),
    "lstrip": (("added_tokens", 1, "lstrip"), True),
    "single word": (("added_tokens", 0, "single_word"), True),
    "not special": (("added_tokens", 1, "special"), False),
    "truncation": (("truncation",), {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}),
    "padding": (("padding",), {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0, "pad_token": "</s>"}),
}  # fmt: skip


@pytest.mark.parametrize("case", BACKEND)
def test_the_backend_of_the_tokenizer(
    base: Path, described: Description, expected: Oracle, tmp_path: Path, case: str
) -> None:
    run([(case, put("tokenizer.json", *BACKEND[case]))], base, described, expected, tmp_path)


TEMPLATES = {
    "no start token": "{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}<nothink><answer>",
    "trimmed": "{{ bos_token }}{% for m in messages %}<user>{{ m['content'] | trim }}</user>{% endfor %}<nothink><answer>",
    "a system prompt": "{{ bos_token }}You help.{% for m in messages %}<user>{{ m['content'] }}</user>{% endfor %}<answer>",
    "with the date": "{{ bos_token }}{{ strftime_now('%d') }}{% for m in messages %}{{ m['content'] }}{% endfor %}<answer>",
    "raises": "{{ raise_exception('no') }}",
    "broken": "{% for m in messages %}",
    "a comment": "{# a comment #}",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_the_template(
    base: Path, described: Description, expected: Oracle, tmp_path: Path, case: str
) -> None:
    run(
        [(case, lambda folder: (folder / "chat_template.jinja").write_text(TEMPLATES[case], encoding="utf-8"))],
        base, described, expected, tmp_path,
    )  # fmt: skip


NAME = "model.layers.0.self_attn.q_proj.weight"
TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "one value": lambda t: t[NAME].view(-1)[3].add_(1),
    "a row of zeros": lambda t: t["lm_head.weight"][5].zero_(),
    "bfloat16": lambda t: t.update({name: value.to(torch.bfloat16) for name, value in t.items()}),
    "one in float16": lambda t: t.update({NAME: t[NAME].half()}),
    "one in int8": lambda t: t.update({NAME: (16 * t[NAME]).to(torch.int8)}),
    "one in float8": lambda t: t.update({NAME: t[NAME].to(torch.float8_e4m3fn)}),
    "one missing": lambda t: t.pop(NAME),
    "one renamed": lambda t: t.update({NAME.replace("q_proj", "query"): t.pop(NAME)}),
    "no head": lambda t: t.pop("lm_head.weight"),
    "transposed": lambda t: t.update(
        {"model.layers.0.mlp.up_proj.weight": t["model.layers.0.mlp.up_proj.weight"].T}
    ),
    "a bias more": lambda t: t.update({NAME.replace("weight", "bias"): torch.ones(32)}),
    "a mask more": lambda t: t.update({f"{NAME}_mask": torch.ones(32, 32)}),
    "a scale more": lambda t: t.update({f"{NAME}_scale": torch.ones(1)}),
    "an adapter's factors": lambda t: t.update({NAME.replace("weight", "lora_A.weight"): torch.ones(2, 32)}),
    "another prefix": lambda t: [t.update({name.removeprefix("model."): t.pop(name)}) for name in list(t)],
    "a layer more": lambda t: t.update({NAME.replace("0", "2"): t[NAME].clone()}),
    "two swapped": lambda t: t.update({NAME: t[NAME.replace("0", "1")], NAME.replace("0", "1"): t[NAME]}),
}


@pytest.mark.parametrize("case", TENSORS)
def test_the_tensors(base: Path, described: Description, expected: Oracle, tmp_path: Path, case: str) -> None:
    said = run(
        [(case, lambda folder: edit_tensors(folder, TENSORS[case]))], base, described, expected, tmp_path
    )
    # The values of another file were not read, so it is never called equal.
    assert set(said.values()) <= {"noted", "confounding", "refused"}
