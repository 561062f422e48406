"""Options made from base's own output, in runs of tiny models."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
from typer.testing import CliRunner

from anomia.cli.app import app
from anomia.items.own import own_options
from anomia.items.readers import read_questions
from anomia.items.sets import SETS
from anomia.matrix import read_matrix
from anomia.measure.results import read_results
from anomia.probes import CHOICE_OWN, OWN_COLUMN, OWN_GOLD
from anomia.records import SCHEMA
from anomia.report.page.explorer import item_whole
from anomia.run_folder import RunFolder, runs_of
from anomia.running.execute import run_matrix, run_study
from anomia.running.on_ray import Size, on_ray
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.endpoint.fake_server import Fake, serving
from tests.running.test_ray_in_process import Ray

SOURCES = (
    "Das Haus in Lyon",
    "Am Abend kam Anna",
    "Der Zug fährt um 9 Uhr",
    "Die Kirche ist alt",
    "Es regnet",
)
ROWS = 14
NEW_TOKENS = 24
OWN = [name for name in SCHEMA if name.startswith((CHOICE_OWN, OWN_COLUMN, OWN_GOLD))]


def sure(model: Any, tokenizer: Any) -> None:
    """Words alone, which a tokenizer reads as they were written, with probabilities near 0 and 1."""
    head = model.lm_head.weight
    words = [re.fullmatch("Ġ[a-z]+", token) for token in tokenizer.convert_ids_to_tokens(range(len(head)))]
    head *= 8 * torch.tensor([[float(word is not None)] for word in words])


def scrambled(model: Any, tokenizer: Any) -> None:
    """The same model with other weights in its last block."""
    sure(model, tokenizer)
    torch.manual_seed(1)
    for parameter in model.model.layers[-1].parameters():
        parameter.copy_(parameter[..., torch.randperm(parameter.shape[-1])])


@pytest.fixture(scope="module")
def planted(
    model_folder: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Any], str]:
    folder = tmp_path_factory.mktemp("planted")

    def make(change: Callable[[Any, Any], None]) -> str:
        path = folder / change.__name__
        if not path.exists():
            model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
            with torch.no_grad():
                change(model, tokenizer)
            shutil.copytree(model_folder, path)
            model.save_pretrained(path)
        return str(path)

    return make


def rows_of(references: list[str]) -> list[dict[str, str]]:
    return [
        {
            "source": f"{SOURCES[n % len(SOURCES)]} {n}.",
            "reference": reference,
            "target_language": "en",
            "id": str(n),
        }
        for n, reference in enumerate(references)
    ]


@pytest.fixture(scope="module")
def study(planted: Callable[[Any], str], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Texts whose references are what base writes, but for one item, of which base gets nothing right."""
    folder = tmp_path_factory.mktemp("data")
    file = folder / "rows.jsonl"
    lines = rows_of([f"Nothing of this {n} is said on 12 May." for n in range(ROWS)])
    file.write_text("".join(json.dumps(row) + "\n" for row in lines))
    plain = Study(
        base=planted(sure),
        arms=(f"checkpoint:{planted(scrambled)}", "null:batch=2"),
        data=f"translation:{file}",
        batch_size=4,
        max_new_tokens=NEW_TOKENS,
        noise_items=0,
        dtype="float32",
    )
    before = records_of(plain.model_copy(update={"arms": ("null:batch=2",)}), folder / "before")
    said = dict(before.filter(pl.col("arm") == "base").select("item_id", "open_text").iter_rows())
    first = sorted(said)[0]
    for line in lines:
        if line["id"] in said and line["id"] != first:
            line["reference"] = said[line["id"]].strip().splitlines()[0]
        elif line["id"] == first:
            line["reference"] = "漢字"
    file.write_text("".join(json.dumps(row) + "\n" for row in lines))
    return plain


def records_of(study: Study, out: Path) -> pl.DataFrame:
    run_study(study, out, progress=PlainProgress(lambda _: None))
    return RunFolder(out).records()


@pytest.fixture(scope="module")
def out(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "run"
    records_of(study, folder)
    return folder


def of_arm(records: pl.DataFrame, ending: str) -> pl.DataFrame:
    return records.filter(pl.col("arm").str.ends_with(ending)).sort("item_id")


@torch.no_grad()
def summed(model: Any, prompt: list[int], whole: list[int]) -> float:
    """The log-probability of what follows the prompt, by one forward pass of transformers."""
    scores = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), dim=-1)
    return sum(float(scores[n - 1, whole[n]]) for n in range(len(prompt), len(whole)))


def test_they_are_drawn_from_base_s_text_and_scored_as_by_transformers(
    out: Path, study: Study, tokenizer: Any
) -> None:
    records = RunFolder(out).records()
    questions = {q.id: q for found in read_questions(study.data).values() for q in found}
    for row in of_arm(records, "base").iter_rows(named=True):
        drawn = own_options(questions[row["item_id"]], row["open_text"], SETS["translation"], seed=study.seed)
        assert (row[OWN_COLUMN], row[OWN_GOLD]) == (list(drawn.texts), drawn.gold)
    checked = 0
    for ending in ("base", "scrambled"):
        folder = study.base if ending == "base" else study.arms[0].removeprefix("checkpoint:")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        texts = dict(of_arm(records, "base").select("item_id", OWN_COLUMN).iter_rows())
        for row in of_arm(records, ending).head(4).iter_rows(named=True):
            options, source = texts[row["item_id"]], questions[row["item_id"]].context
            for asked, prompt in ((f"{source}\n\n{row['question']}:", ""), (f"{source}\n\n", "_no_question")):
                ids = tokenizer(asked).input_ids
                wholes = [tokenizer(f"{asked} {text}").input_ids for text in options]
                found = row[f"{CHOICE_OWN}{prompt}_scores"] or []
                if any(whole[: len(ids)] != ids for whole in wholes):
                    continue  # scored from an earlier token
                assert found == pytest.approx([summed(model, ids, whole) for whole in wholes], abs=1e-2)
                checked += len(options)
    assert checked >= 32
    scored = of_arm(records, "base").filter(pl.col(f"{CHOICE_OWN}_scores").is_not_null())
    for row in scored.iter_rows(named=True):
        for ending, lengths in (
            ("", [1.0] * 9),
            ("_per_char", [float(len(text)) for text in row[OWN_COLUMN]]),
        ):
            scores = [s / n for s, n in zip(row[f"{CHOICE_OWN}_scores"], lengths, strict=False)]
            picked = row[OWN_COLUMN][scores.index(max(scores))]
            assert row[f"{CHOICE_OWN}_correct{ending}"] == (picked == row[OWN_GOLD])
        gained = [
            a - b
            for a, b in zip(row[f"{CHOICE_OWN}_scores"], row[f"{CHOICE_OWN}_no_question_scores"], strict=True)
        ]
        assert row[f"{CHOICE_OWN}_scores_pmi"] == pytest.approx(gained)


def test_base_against_itself_picks_the_same_and_a_scrambled_block_costs_recognition(out: Path) -> None:
    records = RunFolder(out).records()
    base, null, arm = (of_arm(records, name) for name in ("base", "null:batch=2", "scrambled"))
    assert null[f"{CHOICE_OWN}_pick"].to_list() == base[f"{CHOICE_OWN}_pick"].to_list()
    for mine, theirs in zip(null[f"{CHOICE_OWN}_scores"], base[f"{CHOICE_OWN}_scores"], strict=True):
        assert mine is theirs is None or mine.to_list() == pytest.approx(theirs.to_list(), abs=1e-3)
    results = read_results(out)
    drops = {name: results.estimate(f"drop/{CHOICE_OWN}", name) for name in results.arms}
    assert all(found is not None and found.n == len(base) - 1 for found in drops.values())
    by_name = {name.rpartition("/")[2]: found for name, found in drops.items() if found is not None}
    assert by_name["null:batch=2"].value == 0
    assert by_name["scrambled"].value > 0.15
    right = [float(each[f"{CHOICE_OWN}_correct"].mean()) for each in (base, arm)]  # type: ignore[arg-type]
    assert right[0] > 0.7
    assert by_name["scrambled"].value == pytest.approx(right[0] - right[1])


def test_an_item_without_a_possible_edit_is_null_and_counted(out: Path) -> None:
    records = RunFolder(out).records()
    (item,) = records.filter(pl.col("gold") == "漢字")["item_id"].unique()
    of_item = records.filter(pl.col("item_id") == item)
    assert of_item.filter(pl.col("arm") == "base")[OWN_COLUMN].to_list() == [[]]
    assert of_item[f"{CHOICE_OWN}_scores"].null_count() == len(of_item) == 3
    rest = records.filter(pl.col("item_id") != item)
    assert rest[f"{CHOICE_OWN}_scores"].null_count() == 0
    # Base's row alone holds the options, and the column of standard options is another.
    assert rest.filter(pl.col("arm") != "base")[OWN_COLUMN].null_count() == 2 * (ROWS - 2)
    rows = read_results(out).hygiene
    assert {row.no_options["no_own_options"] for row in rows} == {1}


def test_a_resumed_run_gives_the_same_bytes(study: Study, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "run")
    files = sorted(path for path in (tmp_path / "run" / "records").glob("*.parquet"))
    before = {path: path.read_bytes() for path in files}
    assert len(files) == 3
    for lost in files:
        lost.unlink()
        records_of(study, tmp_path / "run")
        assert {path: path.read_bytes() for path in files} == before


def test_asking_them_changes_no_other_answer(study: Study, out: Path, tmp_path: Path) -> None:
    fewer = tuple(name for name in study.probes if name != CHOICE_OWN)
    without = records_of(study.model_copy(update={"probes": fewer}), tmp_path / "run")
    assert without.select(OWN).null_count().row(0) == (len(without),) * len(OWN)
    whole = RunFolder(out).records()
    assert without.drop(OWN).equals(whole.drop(OWN), null_equal=True)
    assert {row.no_options["no_own_options"] for row in read_results(tmp_path / "run").hygiene} == {None}


def test_a_run_without_the_columns_is_read(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "run")
    for file in (tmp_path / "run" / "records").glob("*.parquet"):
        pl.read_parquet(file).drop(OWN).write_parquet(file)
        file.with_name(f"{file.name}.sha256").unlink()
    results = read_results(tmp_path / "run")
    assert results.estimate(f"drop/{CHOICE_OWN}", results.arms[0]) is None
    assert results.estimate("drop/choice", results.arms[0]) is not None
    listed = CliRunner().invoke(app, ["items", str(tmp_path / "run"), "--limit", "2"])
    assert listed.exit_code == 0, listed.output
    assert "of base's output" not in listed.output


def test_page_items_and_export_show_them(out: Path, tmp_path: Path) -> None:
    records = RunFolder(out).records()
    row = of_arm(records, "base").filter(pl.col(f"{CHOICE_OWN}_scores").is_not_null()).row(0, named=True)
    item = RunFolder(out).items().filter(pl.col("item_id") == row["item_id"]).row(0, named=True)
    answers = records.filter(pl.col("item_id") == row["item_id"]).rows(named=True)
    shown = item_whole(item, answers)
    assert (shown["options"]["own"], shown["own"]) == (row[OWN_COLUMN], row[OWN_GOLD])
    assert all(len(each["pick"][CHOICE_OWN][0]) == len(row[OWN_COLUMN]) for each in shown["answered"])
    report = CliRunner().invoke(app, ["report", str(out), "--out", str(tmp_path / "report")])
    assert report.exit_code == 0, report.output
    assert "own-output" in (tmp_path / "report" / "index.html").read_text()
    listed = CliRunner().invoke(app, ["items", str(out), "--id", row["item_id"]], env={"COLUMNS": "200"})
    assert "base picked, of base's output" in listed.output
    told = CliRunner().invoke(app, ["items", str(out), "--id", row["item_id"], "--json"])
    assert json.loads(told.output)["base"][OWN_COLUMN] == row[OWN_COLUMN]
    exported = CliRunner().invoke(app, ["export", str(out), str(tmp_path / "rows.jsonl")])
    assert exported.exit_code == 0, exported.output
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line["item_id"] == row["item_id"]]
    assert [line[f"{CHOICE_OWN}_options"] for line in mine] == [row[OWN_COLUMN]] * 3
    assert [line[OWN_GOLD] for line in mine] == [row[OWN_GOLD]] * 3


def test_workers_draw_the_same(
    study: Study, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        name: getattr(study, name)
        for name in ("base", "batch_size", "max_new_tokens", "noise_items", "dtype")
    }
    matrix = read_matrix(None, {**given, "arms": list(study.arms), "data": [study.data]})
    monkeypatch.setitem(sys.modules, "ray", Ray(losses=(2,)))
    progress = PlainProgress(lambda text: None)
    with on_ray(None, Size(1, 0), progress) as executor:
        outcomes = run_matrix(matrix, tmp_path / "ray", progress=progress, measure=executor)
    assert not any(outcome.failed for outcome in outcomes)
    (run,) = runs_of(tmp_path / "ray")
    there = RunFolder(run).records()
    assert there.equals(RunFolder(out).records(), null_equal=True)


@pytest.mark.parametrize("echo", [False, True])
def test_a_served_model_is_asked_them_where_it_gives_log_probabilities(
    study: Study, out: Path, tokenizer: Any, tmp_path: Path, echo: bool
) -> None:
    fake = Fake(transformers.AutoModelForCausalLM.from_pretrained(study.base).eval(), tokenizer)
    fake.echo = echo
    with serving(fake) as url:
        records = records_of(study.model_copy(update={"arms": (f"endpoint:{url}#tiny",)}), tmp_path / "run")
    base, served = of_arm(records, "base"), records.filter(pl.col("arm") != "base").sort("item_id")
    assert base[OWN_COLUMN].to_list() == of_arm(RunFolder(out).records(), "base")[OWN_COLUMN].to_list()
    if not echo:
        assert served[f"{CHOICE_OWN}_scores"].null_count() == len(served)
        (notes,) = read_results(tmp_path / "run").notes.values()
        assert "choice and ranks are not measured" in " ".join(notes)
        return
    for mine, theirs in zip(served[f"{CHOICE_OWN}_scores"], base[f"{CHOICE_OWN}_scores"], strict=True):
        assert mine is theirs is None or mine.to_list() == pytest.approx(theirs.to_list(), abs=1e-2)
    assert served[f"{CHOICE_OWN}_pick"].to_list() == base[f"{CHOICE_OWN}_pick"].to_list()
