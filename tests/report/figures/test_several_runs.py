"""Figures that need several models, data sets, sizes or calibration texts; labels and layouts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.report.figures import NamedRun, draw, draw_all
from anomia.report.figures.cases import cases, plain
from anomia.report.figures.flow import STATES, _laid_out
from anomia.report.figures.frontier import HEIGHT, LINE, _height, _labelled, _range
from anomia.report.figures.sizes import parameters, size_text
from tests.measure.planted import Damage
from tests.report.figures.made import make_run, svg

WANDA = {"wanda:0.5": Damage(open=0.5, choice=0.1)}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[NamedRun]:
    folder = tmp_path_factory.mktemp("several")
    made = {
        "small": ("Qwen/Qwen3-0.6B", "tydiqa"),
        "large": ("Qwen/Qwen3-8B", "tydiqa"),
        "other": ("Qwen/Qwen3-8B", "xquad"),
        "phi": ("microsoft/Phi-3-mini-4k-instruct", "tydiqa"),
    }
    return [
        make_run(folder / name, arms=WANDA, languages=("english", "thai"), base=base, data=data, bare=True)
        for name, (base, data) in made.items()
    ]


def test_models_and_data_sets_side_by_side(several: list[NamedRun]) -> None:
    figure = draw("figure5", several)
    labels = figure.table["case"].unique(maintain_order=True).to_list()
    assert labels == [
        "Qwen3-0.6B · tydiqa", "Qwen3-8B · tydiqa", "Qwen3-8B · xquad", "Phi-3-mini-4k-instruct · tydiqa",
    ]  # fmt: skip
    assert set(figure.table["measure"]) == {"dissociation/choice", "gap/choice", "raw_gap/choice"}
    assert all(label in svg(figure) for label in labels)


def test_sizes_join_sizes_of_one_model_on_one_data_set(several: list[NamedRun]) -> None:
    figure = draw("figure6", several)
    assert set(figure.table["model"]) == {"Qwen3-0.6B", "Qwen3-8B"}
    assert len(figure.table) == 2 * 4
    assert set(figure.table["measure"]) == {"gap", "open", "choice", "raw gap"}
    assert "Phi-3-mini-4k-instruct · tydiqa; Qwen3-8B · xquad" in figure.caption.replace(
        "Qwen3-8B · xquad; Phi-3-mini-4k-instruct · tydiqa",
        "Phi-3-mini-4k-instruct · tydiqa; Qwen3-8B · xquad",
    )
    text = svg(figure)
    assert ">600M<" in text
    assert ">8B<" in text


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen3-0.6B", 0.6e9), ("gemma-3-270m", 270e6), ("Mistral-7B-Instruct-v0.3", 7e9), ("Phi-3-mini-4k", None),
        ("gemma-3-270m-a5fd3b62230a", 270e6), ("llama_3.2_1b", 1e9), ("model", None), ("0B", None),
    ],
)  # fmt: skip
def test_sizes_are_read_from_names(several: list[NamedRun], name: str, size: float | None) -> None:
    results = several[0].results._replace(study={"base": f"maker/{name}"})
    assert parameters(cases([NamedRun("x", results)])[0]) == size
    if size is not None:
        counted = results._replace(study={"base": name, "provenance": {"parameters": 123_000_000}})
        assert parameters(cases([NamedRun("x", counted)])[0]) == 123e6


def test_size_texts() -> None:
    assert [size_text(count) for count in (6e8, 2.7e8, 1.7e9, 14e9)] == ["600M", "270M", "1.7B", "14B"]


def test_calibrations_of_one_run_and_of_several(tmp_path: Path) -> None:
    arms = {
        "wanda:0.5": Damage(open=0.5),
        "wanda:0.5,calibration=balanced": Damage(open=0.3),
        "magnitude:0.5": Damage(),
    }
    both = make_run(tmp_path / "both", arms=arms, languages=("english",), bare=True)
    figure = draw("figure7", [both])
    assert figure.table["where"].unique(maintain_order=True).to_list() == ["base", "c4", "balanced"]
    apart = []
    for name, calibration in (("one", "c4"), ("two", "wikipedia:thai")):
        run = make_run(tmp_path / name, arms=WANDA, languages=("english",), bare=True)
        apart.append(
            run._replace(
                results=run.results._replace(study={**run.results.study, "calibration": calibration})
            )
        )
    figure = draw("figure7", apart)
    assert figure.table["where"].unique(maintain_order=True).to_list() == ["base", "c4", "wikipedia:thai"]


def test_the_same_run_twice_has_two_labels(several: list[NamedRun]) -> None:
    labels = [case.label for case in cases([several[0], several[0], NamedRun("again", several[0].results)])]
    assert len(set(labels)) == 3
    draw_all([several[0], several[0]])


@given(st.text(max_size=300), st.integers(8, 60))
def test_labels_are_short_and_printable(text: str, longest: int) -> None:
    label = plain(text, longest)
    assert 0 < len(label) <= max(longest, len("(no name)"))
    assert label.isprintable() or all(char.isprintable() or char.isspace() for char in label)
    assert plain(label, longest) == label


@given(st.lists(st.tuples(st.floats(0, 0.9), st.floats(0, 1)), min_size=2, max_size=25))
def test_labels_of_the_frontier_never_meet(points: list[tuple[float, float]]) -> None:
    rows = [{"case": "", "saved": saved, "value": value} for saved, value in points]
    made = _labelled(rows, _range(rows))
    height = _height(rows)
    tops = sorted((1 - row["label_at"]) * height for row in made)
    assert all(after - before > LINE - 1e-6 for before, after in pairwise(tops))
    assert tops[-1] <= height + 1e-6
    assert tops[0] >= -1e-6
    assert height >= HEIGHT


@given(st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=4, max_size=4))
def test_bands_fill_the_states_they_join(counts: list[list[int]]) -> None:
    if not np.sum(counts):
        return
    rows = _laid_out(counts, {})
    flows = [row for row in rows if row["kind"] == "flow"]
    assert sum(row["count"] for row in flows) == np.sum(counts)
    for side, end, state in (("base", "left", "before"), ("arm", "right", "state")):
        for name in STATES:
            bar = next(row for row in rows if (row["kind"], row["state"]) == (side, name))
            mine = [row for row in flows if row[state] == name]
            assert sum(row["count"] for row in mine) == bar["count"]
            edge = bar["low"]
            for row in sorted(mine, key=lambda row: row[end]):
                assert row[end] == pytest.approx(edge)
                edge += row["size"]
            assert edge == pytest.approx(bar["high"])
