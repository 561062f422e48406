"""Several runs side by side, and the plan of a next one, as the command line prints them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from anomia.cli.app import out_console
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.power import NeededItems, Transition
from anomia.measure.results import read_results
from anomia.plan.sample_size import ItemPlan, PlanTarget
from anomia.report.render.terminal import view
from anomia.report.render.words import shown
from anomia.report.tables.plan import needed
from anomia.report.terminal import side_by_side
from tests.command import anomia
from tests.measure.planted import study_records
from tests.measure.test_results import ARMS, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for name, languages in (("small", ("english",)), ("large", ("english", "thai"))):
        run = write_run(folder / name, study_records(ARMS, languages=languages, items=60, seed=len(made)))
        study = run / "study.yaml"
        study.write_text(study.read_text().replace("base: x", f"base: makers/{name}-model\ndata: xquad"))
        made.append(run)
    return made


def test_several_runs_are_put_side_by_side(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Its width is settled when the program is imported.
    monkeypatch.setattr(out_console, "_width", 220)
    done = anomia("show", *runs)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "wanda:0." in line and "→" in line]
    assert len(lines) == 4
    assert done.stdout.index("small: small-model on xquad") < done.stdout.index(lines[0])
    assert done.stdout.index(lines[1]) < done.stdout.index("large: large-model on xquad")
    assert "…" not in done.stdout
    base_open = study_records(ARMS, items=60).filter(arm="base")["open_correct"].mean()
    assert re.search(rf"{100 * base_open:.0f} \[\d+, \d+\] → ", lines[0])


@pytest.mark.parametrize("width", ["60", "80", "110"])
def test_runs_side_by_side_lose_nothing_in_a_narrow_terminal(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    found = [(run, read_results(run)) for run in runs]
    out = io.StringIO()
    Console(file=out, width=int(width)).print(side_by_side(found))
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= int(width)
    for _, results in found:
        figures = lookup(results.diagnosis.figures)
        for arm in results.arms:
            for measure in ("gap/choice", "dissociation/choice"):
                estimate = figures[arm, measure, POOLED]
                assert estimate is not None
                assert shown(estimate._replace(checked=True)) in text


def test_a_pilots_need_is_rounded_or_out_of_reach() -> None:
    part, need = Transition(0.5, 0.4), NeededItems(718_461, None, "")
    plan = ItemPlan("a", "pooled", part, part, 0.4, 0.1, need, need._replace(items=1_345), pilot_items=32)
    out = io.StringIO()
    Console(file=out, width=110).print(view(needed([plan], PlanTarget())))
    assert "1,400" in out.getvalue()
    assert "718" not in out.getvalue()
    assert "out of reach: more than 50 times" in out.getvalue()


def test_thresholds_change_the_outcome(runs: list[Path]) -> None:
    usual = anomia("show", runs[1])
    none_left = anomia("show", runs[1], "--threshold", "fewest_both_correct=1000")
    assert none_left.returncode == 0, none_left.stderr
    assert "wanda:0.5: untestable" in none_left.stdout
    assert "wanda:0.5: untestable" not in usual.stdout
    wrong = anomia("show", runs[1], "--threshold", "hodl=1")
    assert (wrong.returncode, "did you mean 'hold'" in wrong.stderr) == (2, True)


def test_a_plan_from_a_pilot_and_from_accuracies(runs: list[Path]) -> None:
    pilot = anomia("plan", "--items-needed", runs[0])
    assert pilot.returncode == 0, pilot.stderr
    assert pilot.stdout.count("wanda:0.5") >= 2
    study = runs[0].parent / "study"
    study.mkdir()
    (study / "cells").symlink_to(runs[0].parent)
    (study / "matrix.yaml").write_text("cells: [small, large]")
    cells = anomia("plan", "--items-needed", study)
    assert cells.returncode == 0, cells.stderr
    assert cells.stdout.index("small\n") < cells.stdout.index("large\n")
    wrong = anomia("plan", "--items-needed", runs[0], "--target-power", "2")
    assert (wrong.returncode, wrong.stderr) == (2, "error: power is a share from 0 to 1, got 2\n")
    assumed = anomia("plan", "--items-needed", "--open", "0.45,0.35", "--choice", "0.90,0.87")
    assert assumed.returncode == 0, assumed.stderr
    assert "45 → 35" in assumed.stdout
    assert "202" in assumed.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--items-needed"),
        (["--items-needed"], "give the folder of a pilot run"),
        (["--items-needed", "--open", "0.4", "--choice", "0.9,0.9"], "two accuracies"),
        (["--items-needed", "--open", "0.4,0.3", "--choice", "0.2,0.2"], "above the floor"),
        (["--items-needed", "--open", "0.4,0.3", "--choice", "0.9,0.9", "--target-power", "2"], "power"),
    ],
)
def test_a_plan_without_what_it_needs(arguments: list[str], says: str) -> None:
    done = anomia("plan", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
