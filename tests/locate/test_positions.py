"""Demoted positions of long answers: which count, their margins, and the whole way on a run of prompts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers

from anomia.api import open_run
from anomia.cli import main
from anomia.errors import AnomiaError
from anomia.locate.find import locate_arm
from anomia.locate.located import Located, LocateOptions, read_located
from anomia.locate.plan import plan_of
from anomia.locate.positions import find_positions, kept_beside
from anomia.locate.prepare import open_arm
from anomia.locate.restore import MixtureReader
from anomia.report.figures import draw_all
from anomia.report.page.build import named_runs, page_values
from anomia.run_folder import RunFolder

from .conftest import PLANTED, QUIET

OPTIONS = LocateOptions(
    among="positions", items=16, per_answer=2, budgets=(0.2, 0.5), draws=1, leaders=2, points=5
)


def pairs_of(
    own: list[int] | None, ranks: list[int] | None, *, loop: tuple[int, int] | None = None, item: str = "a"
) -> pl.DataFrame:
    """One long answer: base's own ranks and the arm's along it; the tokens count up from 100."""
    length = 0 if ranks is None else len(ranks)
    start, period = loop or (None, None)
    ints = pl.List(pl.Int32)
    row = {
        "language": "english",
        "item_id": item,
        "continuation_ids": list(range(100, 100 + length)),
        "continuation_ranks": own,
        "continuation_ranks_arm": ranks,
        "continuation_loop_start": start,
        "continuation_loop_period": period,
        "continuation_top_tokens": [[100 + n, 7, 8] for n in range(length + 1)],
    }
    schema = {
        "language": pl.String, "item_id": pl.String, "continuation_ids": ints, "continuation_ranks": ints,
        "continuation_ranks_arm": ints, "continuation_loop_start": pl.Int32, "continuation_loop_period": pl.Int32,
        "continuation_top_tokens": pl.List(ints),
    }  # fmt: skip
    return pl.DataFrame([row], schema=schema)


def indices(pairs: pl.DataFrame, group: str, **settings: Any) -> list[int]:
    """The positions of a group in the one answer of a frame."""
    found = find_positions(pairs, **{"per_answer": 9, "seed": 1, **settings})
    (mine,) = found.values()
    return [len(position.before) for name, position in mine if name == group]


def test_demoted_are_ranks_2_to_10_where_base_ranks_its_token_first() -> None:
    ranks = [1, 2, 10, 11, 3, 1]
    assert indices(pairs_of([1] * 6, ranks), "demoted") == [1, 2, 4]
    assert indices(pairs_of([1, 1, 1, 1, 2, 1], ranks), "demoted") == [1, 2]
    assert indices(pairs_of([1] * 6, ranks), "demoted", per_answer=1) == [1]
    assert set(indices(pairs_of([1] * 6, ranks), "kept")) == {0, 5}
    assert indices(pairs_of([1] * 5 + [2], ranks), "kept") == [0]


def test_positions_end_before_base_repeats_itself() -> None:
    ranks = [1, 1, 1, 2, 1, 2, 2, 2]
    pairs = pairs_of([1] * 8, ranks, loop=(2, 3))
    assert indices(pairs, "demoted") == [3]
    assert indices(pairs_of([1] * 8, ranks), "demoted") == [3, 5, 6, 7]


def test_a_position_has_the_answer_up_to_it_its_token_and_what_base_would_say_besides() -> None:
    found = find_positions(pairs_of([1, 1, 1], [1, 1, 4]), per_answer=1, seed=1)
    (demoted, kept) = found["english", "a"]
    assert demoted[1] == ((100, 101), 102, (102, 7, 8))
    assert kept[0] == "kept"
    assert find_positions(pairs_of(None, [1, 2]), per_answer=1, seed=1) == {}
    assert find_positions(pairs_of([1, 1], None), per_answer=1, seed=1) == {}


def test_a_kept_position_is_near_its_demoted_one_by_chance_and_taken_once() -> None:
    draws = {tuple(kept_beside([40], range(200), random.Random(seed))) for seed in range(60)}
    places = [place for (place,) in draws]
    assert len(draws) > 10
    assert min(places) >= 20
    assert max(places) <= 60
    assert kept_beside([3, 4], [5], random.Random(0)) == [5]
    assert kept_beside([3], [30], random.Random(0)) == []
    ranks = [1] * 10 + [2] + [1] * 10
    chosen = {tuple(indices(pairs_of([1] * 21, ranks, item=str(n)), "kept")) for n in range(9)}
    assert len(chosen) > 2
    assert indices(pairs_of([1] * 21, ranks), "kept") == indices(pairs_of([1] * 21, ranks), "kept")


@pytest.fixture(scope="module")
def located(long_run: Path) -> Located:
    return locate_arm(long_run, "spoiled", OPTIONS, QUIET)


def test_the_planted_matrix_brings_the_tokens_back_to_the_first_rank(located: Located) -> None:
    best = located.units.sort("share", descending=True).row(0, named=True)
    assert best["name"] == PLANTED
    demoted = located.readings.filter(pl.col("group") == "demoted")
    right = {
        (kind, place): (float(correct), float(rank))
        for kind, place, correct, rank in demoted.group_by("kind", "place")
        .agg(pl.col("correct").mean(), pl.col("rank").median())
        .iter_rows()
    }
    assert right["nothing", ""][0] == 0.0
    assert 2 <= right["nothing", ""][1] <= 10
    assert right["everything", ""] == (1.0, 1.0)
    assert right["matrix", PLANTED] == (1.0, 1.0)
    assert right["without_block", "1"][0] < 0.3
    kept = located.readings.filter(pl.col("group") == "kept", pl.col("kind").is_in(["nothing", "everything"]))
    assert kept["correct"].all()
    assert ((demoted["rank"] == 1) == demoted["correct"]).all()
    assert located.readings["text"].is_null().all()
    assert located.items.filter(pl.col("half") == "order")["residual"].abs().max() < 0.3  # type: ignore[operator]


def test_margins_are_those_of_base_s_token_against_what_the_compressed_model_says_there(
    long_run: Path, located: Located, model_folder: Path, spoiled: Path
) -> None:
    records = RunFolder(long_run).records()
    rows = {(row["arm"] == "base", row["item_id"]): row for row in records.iter_rows(named=True)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    models = [transformers.AutoModelForCausalLM.from_pretrained(folder) for folder in (spoiled, model_folder)]
    items = located.items.filter(pl.col("half") == "order")
    assert set(items["group"]) == {"demoted", "kept"}
    assert (items["read_at"] == "position").all()
    for item in items.iter_rows(named=True):
        base, arm = rows[True, item["item_id"]], rows[False, item["item_id"]]
        place = item["position"]
        prompt = tokenizer(base["question"]).input_ids
        answer = base["continuation_ids"]
        with torch.no_grad():
            logits = [
                model(input_ids=torch.tensor([prompt + answer[:place]])).logits[0, -1] for model in models
            ]
        token, rank = answer[place], arm["continuation_ranks"][place]
        assert 1 + int((logits[0] > logits[0][token]).sum()) == rank
        assert (2 <= rank <= 10) if item["group"] == "demoted" else rank == 1
        rival = next(n for n in logits[0].topk(2).indices.tolist() if n != token)
        margins = [float(each[token] - each[rival]) for each in logits]
        assert item["margin_compressed"] == pytest.approx(margins[0], abs=1e-3)
        assert item["margin_base"] == pytest.approx(margins[1], abs=1e-3)


def test_the_control_is_another_token_that_base_thinks_of(located: Located) -> None:
    lens = located.lens.filter(pl.col("block") == 1, pl.col("model") == "base")
    assert lens["control_log_prob"].is_not_null().all()
    # Base's own token comes first, and one of its next two choices is the control.
    assert (lens["gold_rank"] == 1).all()
    assert lens["control_rank"].is_in([2, 3]).all()
    assert located.units["control"].is_not_null().all()


def test_positions_of_an_answer_are_in_one_half_and_have_one_reading_each(located: Located) -> None:
    items = located.items
    assert items.group_by("passage").agg(pl.col("half").n_unique())["half"].max() == 1
    # There are more prompts than items are wanted, so none gives a second one.
    assert items.group_by("item_id", "group").len()["len"].max() == 1
    assert not items.select("item_id", "position").is_duplicated().any()
    decide = items.filter(pl.col("half") == "decide").select("item_id", "position", "group", "passage")
    for _, mine in located.readings.group_by("kind", "place", "budget"):
        assert mine.select(decide.columns).sort(decide.columns).equals(decide.sort(decide.columns))


def test_a_second_call_repeats_nothing_and_the_page_says_tokens(
    long_run: Path, located: Located, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("repeated")

    monkeypatch.setattr(MixtureReader, "_ask", refuse)
    monkeypatch.setattr("anomia.locate.store.attribute", refuse)
    again = locate_arm(long_run, "spoiled", OPTIONS, QUIET)
    assert again.sentence == located.sentence
    assert again.readings.equals(located.readings)
    read = read_located(RunFolder(long_run).located(located.arm))
    assert read is not None
    assert read.options == OPTIONS
    runs = named_runs([long_run])
    values = page_values([long_run], runs, draw_all(runs))
    [arm] = values["runs"][0]["arms"]
    text = json.dumps([arm["tables"]["located"], arm["located"]], ensure_ascii=False)
    assert "demoted tokens" in text
    assert "ranked first (%)" in text
    drawn = [figure for figure in values["figures"] if figure["section"] == "located"]
    assert [figure["name"] for figure in drawn] == ["located_map", "located_restoration", "located_lens"]
    text += json.dumps([[figure[name] for name in ("title", "caption", "alt")] for figure in drawn])
    for word in ("gold", "demoted items", "kept items", "free-form"):
        assert word not in text, word


def test_the_api_and_the_plan_know_positions(long_run: Path, located: Located) -> None:
    found = open_run(long_run).locate(
        among="positions", items=16, per_answer=2, budgets=(0.2, 0.5), draws=1, leaders=2, points=5,
        progress=False,
    )  # fmt: skip
    assert found.sentence == located.sentence
    cell, name = open_arm(long_run, "spoiled", QUIET, "positions")
    planned = plan_of(cell, name, OPTIONS)
    assert planned.answers == 16 * planned.readings
    assert "tokens at most" in planned.words
    one = plan_of(cell, name, LocateOptions(among="positions", items=1000))
    demoted = sum(
        any(1 < rank <= 10 for rank in ranks)
        for ranks in RunFolder(long_run).records().filter(pl.col("arm") == name)["continuation_ranks"]
    )
    assert 0.8 * demoted * one.readings <= one.answers <= demoted * one.readings


def stopped(arguments: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as found:
        main(arguments)
    return int(found.value.code or 0)


def test_two_models_are_located_on_prompts(
    model_folder: Path, spoiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Who is Person{n}?"}) + "\n" for n in range(16)))
    asked = ["locate", str(model_folder), str(spoiled), "--data", f"prompts:{data}", "--dtype", "float32"]
    asked += ["--continuation-tokens", "12", "--out", str(tmp_path / "run")]
    assert stopped(asked) == 2
    assert "is only answered at length; add --among positions" in " ".join(capsys.readouterr().err.split())
    assert stopped([*asked, "--among", "positions", "--draws", "1", "--items", "6"]) == 0
    assert PLANTED in capsys.readouterr().out


@pytest.mark.parametrize(
    ("which", "among", "said"),
    [
        (
            "run",
            "positions",
            "doesn't ask continuation, .* run it with this probe, or take --among choice_only",
        ),
        ("long_run", "choice_only", "doesn't ask choice and open and rank, .* or take --among positions"),
    ],
)
def test_a_run_without_the_probes_is_refused(
    request: pytest.FixtureRequest, which: str, among: Any, said: str
) -> None:
    with pytest.raises(AnomiaError, match=said):
        locate_arm(request.getfixturevalue(which), "spoiled", LocateOptions(among=among), QUIET)
