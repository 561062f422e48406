"""The whole way on a run of tiny models: a planted fault is found, and a stopped call continues."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.errors import AnomiaError
from anomia.locate.find import locate_arm
from anomia.locate.located import FORMAT, OLD, TABLES, Located, LocateOptions, read_located
from anomia.locate.restore import MixtureReader
from anomia.report.figures import draw_all
from anomia.report.page.build import named_runs, page_values, write_report
from anomia.report.tables.located import located_tables, restoration
from anomia.run_folder import RunFolder

from .conftest import PLANTED, QUIET

OPTIONS = LocateOptions(among="lost", items=12, budgets=(0.2, 0.5), draws=2, leaders=3, points=5)


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


def test_a_share_of_a_millionth_has_its_row(located: Located) -> None:
    """As a norm has among the weights of a large model."""
    tiny = located.curve.filter(
        pl.col("order") == "attribution", pl.col("share").is_between(0, 1, closed="none")
    )
    smaller = tiny.head(2).with_columns(pl.Series("share", [1.0e-7, 1.2e-7]))
    found = replace(located, curve=pl.concat([located.curve, smaller]))
    rows = restoration(found).rows
    assert len(rows) == len(restoration(located).rows) + smaller.filter(pl.col("group") == "demoted").height


def test_a_call_that_ends_while_it_writes_leaves_no_result(
    run: Path, tmp_path: Path, located: Located, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the sentence of one call would stand beside the tables of another."""
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run").located(located.arm)
    assert read_located(folder) is not None

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anomia.locate.find.write_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        locate_arm(tmp_path / "run", "spoiled", replace(OPTIONS, draws=1), QUIET)
    assert read_located(folder) is None


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

    monkeypatch.setattr(MixtureReader, "_ask", refuse)
    monkeypatch.setattr("anomia.locate.store.attribute", refuse)
    again = locate_arm(run, "spoiled", OPTIONS, QUIET)
    assert again.sentence == located.sentence
    assert again.units.equals(located.units)
    assert again.readings.equals(located.readings)


def test_the_place_is_what_is_needed_and_was_chosen_without_the_deciding_items(located: Located) -> None:
    assert located.place == (PLANTED,)
    assert located.found
    assert located.leader == "attribution"
    assert located.picked["attribution"] <= 0.15
    assert located.chance is not None
    assert located.chance.low > 0
    tried = located.readings.filter(pl.col("kind") == "place", pl.col("group") == "demoted")
    assert float(tried["correct"].mean()) >= 0.5  # type: ignore[arg-type]
    assert "of the differing weights" in located.sentence
    assert "The change of outputs finds it as well" in located.sentence
    assert all(math.isfinite(each.rank_alone) for each in located.directions)
    shares = set(located.curve["share"].to_list())
    for name, half in located.halves.items():
        # That of random orders is a mean of its draws.
        assert name == "random" or any(half.value == pytest.approx(share) for share in shares)


def test_a_result_of_an_earlier_version_is_read_with_a_note_and_a_newer_one_refused(
    run: Path, located: Located, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path).located(located.arm)
    shutil.copytree(RunFolder(run).located(located.arm).path, folder.path)
    stored = folder.result.read()
    assert stored is not None
    assert stored["format"] == FORMAT
    for each in stored["directions"]:
        del each["rank_alone"], each["rank_lost"]
    folder.result.write({**stored, "format": FORMAT + 1})
    with pytest.raises(AnomiaError, match="newer Anomia"):
        read_located(folder)
    folder.result.write(
        {name: stored[name] for name in stored if name not in ("format", "leader", "picked", "chance")}
    )
    read = read_located(folder)
    assert read is not None
    assert read.notes == (OLD, *located.notes)
    assert read.sentence == located.sentence
    assert len(located_tables(read)) == 4


@pytest.mark.parametrize(
    ("arm", "options", "said"),
    [
        ("spoilt", OPTIONS, "no arm 'spoilt'"),
        ("spoiled", LocateOptions(among="positions"), "doesn't ask continuation"),
    ],
)
def test_what_cannot_be_located_is_refused(run: Path, arm: str, options: LocateOptions, said: str) -> None:
    with pytest.raises(AnomiaError, match=said):
        locate_arm(run, arm, options, QUIET)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(AnomiaError, match="not an Anomia run"):
        locate_arm(tmp_path, "spoiled", OPTIONS, QUIET)


def test_a_stored_result_is_read_back_and_the_page_shows_it(
    run: Path, located: Located, tmp_path: Path
) -> None:
    read = read_located(RunFolder(run).located(located.arm))
    assert read is not None
    assert read.as_json() == {**located.as_json(), "seconds": read.as_json()["seconds"]}
    for name in TABLES:
        assert getattr(read, name).equals(getattr(located, name))
    assert read_located(RunFolder(run).located("another")) is None
    runs = named_runs([run])
    values = page_values([run], runs, draw_all(runs))
    [arm] = values["runs"][0]["arms"]
    tables = arm["tables"]["located"]
    assert arm["located"] == located.sentence.replace(" %", "\u00a0%")
    assert PLANTED in tables[-1]["rows"][0][0]
    alone = [row[0] for row in tables[2]["rows"]]
    assert alone[0] == PLANTED.split(".")[2]
    assert sorted(alone) == [str(each.block) for each in located.directions]
    drawn = [figure["name"] for figure in values["figures"] if figure["section"] == "located"]
    assert drawn == ["located_map", "located_restoration", "located_lens"]
    done = write_report([run], tmp_path / "report", formats=())
    assert "Where in the model the answers were lost" in done.page.read_text()
