"""The whole way on a run of tiny models: a planted fault is found, and a stopped call continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers

from anomia.errors import AnomiaError
from anomia.items.prompts import write_prompt
from anomia.locate.find import Located, LocateOptions, locate_arm
from anomia.locate.restore import Reader
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study

from ..conftest import entry

QUIET = PlainProgress(lambda text: None)
TOKENS = 6
PLANTED = "model.layers.1.mlp.down_proj"
OPTIONS = LocateOptions(among="lost", items=12, budgets=(0.2, 0.5), draws=2, leaders=3, points=5)


def greedy(folder: Path, prompts: list[str]) -> list[str]:
    """What a model answers to each prompt."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
        )
        found.append(str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)))
    return found


@pytest.fixture(scope="module")
def run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which base is right by construction (gold is what it says), and one matrix of the arm is spoiled."""
    place = tmp_path_factory.mktemp("located")
    rows = [entry(n, context=f"Place{n} lies by the river Person{n}.") for n in range(60)]
    said = greedy(model_folder, [write_prompt("open", row["context"], row["question"]) for row in rows])
    entries = [
        {**row, "answers": [text.strip()]}
        for row, text in zip(rows, said, strict=True)
        if sum(letter.isalnum() for letter in text) >= 3
    ]
    data = place / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in entries), encoding="utf-8")
    spoiled = place / "spoiled"
    shutil.copytree(model_folder, spoiled)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    weight = model.get_parameter(f"{PLANTED}.weight").data
    torch.manual_seed(3)
    weight += 0.12 * torch.randn_like(weight)
    for name, parameter in model.named_parameters():
        if "layers" in name and parameter.dim() == 2 and not name.startswith(PLANTED):
            parameter.data += 5e-5 * torch.randn_like(parameter)
    model.save_pretrained(spoiled)
    study = Study(
        base=str(model_folder),
        arms=(f"checkpoint:{spoiled}",),
        data=f"jsonl:{data}",
        probes=("open", "choice", "rank"),
        max_new_tokens=TOKENS,
        dtype="float32",
        device="cpu",
        batch_size=8,
    )
    folder = place / "run"
    run_study(study, folder, progress=QUIET)
    return folder


@pytest.fixture(scope="module")
def located(run: Path) -> Located:
    return locate_arm(run, "spoiled", OPTIONS, QUIET)


def test_the_planted_matrix_is_first_and_restoring_it_alone_brings_the_answers_back(located: Located) -> None:
    best = located.units.sort("share", descending=True).row(0, named=True)
    assert (best["name"], best["block"], best["kind"]) == (PLANTED, 1, "matrix")
    right = {
        (kind, place): correct
        for kind, place, correct in located.readings.filter(pl.col("group") == "demoted")
        .group_by("kind", "place")
        .agg(pl.col("correct").mean())
        .iter_rows()
    }
    assert right["nothing", ""] == 0.0
    assert right["everything", ""] == 1.0
    assert right["matrix", PLANTED] > 0.8
    assert right["block", "1"] > 0.8
    assert right["block", "0"] < 0.2
    assert right["without_block", "1"] < 0.2
    assert right["without_block", "0"] > 0.8


def test_kept_items_stay_right_and_the_curve_has_every_order(located: Located) -> None:
    curve = located.curve
    assert set(curve["order"]) == {"attribution", "output_change", "depth", "random"}
    ends = curve.filter(pl.col("group") == "kept", pl.col("share").is_in([0.0, 1.0]))
    assert (ends["right"] == 1.0).all()
    first = curve.filter(pl.col("group") == "demoted", pl.col("order") == "attribution").sort("share")
    assert first["right"].to_list()[0] == 0.0
    assert first["right"].to_list()[1] > 0.8
    assert (first["low"] <= first["right"]).all()
    assert located.halves["attribution"].value < 0.2


def test_only_items_of_the_other_half_decide(located: Located) -> None:
    order = located.items.filter(pl.col("half") == "order")
    decide = located.items.filter(pl.col("half") == "decide")
    assert set(located.readings["item_id"]) == set(decide["item_id"])
    assert not set(order["passage"]) & set(decide["passage"])
    assert order["residual"].abs().max() < 0.3  # type: ignore[operator]
    assert decide["residual"].is_null().all()


def test_the_lens_ends_with_what_the_model_says(located: Located) -> None:
    last = located.lens.filter(pl.col("block") == 1, pl.col("group") == "demoted")
    ends = located.items.filter(pl.col("half") == "order").select(
        "item_id", "margin_base", "margin_compressed"
    )
    joined = last.join(ends, on="item_id")
    assert len(joined)
    for row in joined.iter_rows(named=True):
        seen = row["gold_log_prob"] - row["rival_log_prob"]
        assert seen == pytest.approx(row[f"margin_{row['model']}"], abs=1e-3)


def test_everything_is_stored_and_a_second_call_repeats_nothing(
    run: Path, located: Located, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(run).located(located.arm)
    stored = folder.result.read()
    assert stored is not None
    assert stored["sentence"] == located.sentence
    for name in ("units", "items", "readings", "curve", "lens"):
        assert folder.table(name).is_file()

    def refuse(*_: Any) -> Any:
        raise AssertionError("repeated")

    monkeypatch.setattr(Reader, "_ask", refuse)
    monkeypatch.setattr("anomia.locate.find.attribute", refuse)
    again = locate_arm(run, "spoiled", OPTIONS, QUIET)
    assert again.sentence == located.sentence
    assert again.units.equals(located.units)
    assert again.readings.equals(located.readings)


@pytest.mark.parametrize(
    ("arm", "options", "said"),
    [
        ("spoilt", OPTIONS, "no arm 'spoilt'"),
        ("spoiled", LocateOptions(among="choice_only", items=1), "at least 4 passages"),
    ],
)
def test_what_cannot_be_located_is_refused(run: Path, arm: str, options: LocateOptions, said: str) -> None:
    with pytest.raises(AnomiaError, match=said):
        locate_arm(run, arm, options, QUIET)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(AnomiaError, match="not an Anomia run"):
        locate_arm(tmp_path, "spoiled", OPTIONS, QUIET)
