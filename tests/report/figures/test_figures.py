"""Every figure draws, says what the results say, and can't be broken by a name."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.errors import RunError
from anomia.measure.figures import lookup
from anomia.measure.frame import MEAN, POOLED
from anomia.measure.results import read_results
from anomia.records import write_rows
from anomia.report.figures import COLORS, FIGURES, Drawn, NamedRun, draw, draw_all, theme, write_figures
from anomia.report.figures.style import DARK, LIGHT
from tests.measure.planted import Damage
from tests.report.figures.made import ARMS, LANGUAGES, make_run, svg, walk

OF_ONE_RUN = [
    "fates_flow", "figure1", "figure8", "ladder", "figure2", "figure3", "figure4", "table1", "frontier", "figure5",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> NamedRun:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def drawn(run: NamedRun) -> dict[str, Drawn]:
    return {figure.name: figure for figure in draw_all([run])}


def test_a_full_run_fills_its_figures_in_reading_order(drawn: dict[str, Drawn]) -> None:
    assert list(drawn) == OF_ONE_RUN
    assert list(FIGURES) == [*OF_ONE_RUN, "figure6", "figure7"]


@pytest.mark.parametrize("name", OF_ONE_RUN)
def test_a_figure_is_drawn_with_its_words_and_counts(drawn: dict[str, Drawn], name: str) -> None:
    figure = drawn[name]
    # Altair validates against the schema of Vega-Lite here.
    figure.chart.to_dict()
    for dark in (False, True):
        text = svg(figure, dark=dark)
        assert re.search(r"\bn \d", text), "no number of items"
        assert figure.title in text
        # A name or a number that is missing would be drawn as one of these.
        assert not re.search(r">[^<]*\b(undefined|null|NaN)\b", text)
    assert len(figure.caption) > 60
    assert re.search(r"\d", figure.alt)
    assert len(figure.table) > 0


def test_base_stands_over_the_items_that_an_unfinished_arm_has_answered(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder)
    file = folder / "records" / "all.parquet"
    rows = pl.read_parquet(file)
    # Of the second arm what base answers wrong is missing.
    failed = rows.filter(pl.col("arm") == "base", ~pl.col("open_correct"))["item_id"]
    answered = rows.filter((pl.col("arm") != "wanda:0.5") | ~pl.col("item_id").is_in(failed.implode()))
    file.unlink()
    write_rows(answered.to_dicts(), file)
    table = draw("ladder", [NamedRun("run", read_results(folder))]).table
    base = table.filter(rung="open", who="base", scope=POOLED)
    assert base.filter(case="wanda:0.5")["value"].item() == 1
    assert base.filter(case="wanda:0.3")["value"].item() < 1


def test_a_run_of_open_and_choice_alone_skips_what_it_lacks(tmp_path: Path) -> None:
    bare = make_run(tmp_path / "bare", bare=True)
    found = {figure.name: figure for figure in draw_all([bare])}
    assert list(found) == ["fates_flow", "figure1", "figure8", "ladder", "figure2", "frontier", "figure5"]
    assert set(found["ladder"].table.filter(rung="string presence")["who"]) == {"no model"}
    assert set(found["ladder"].table["rung"]) == {"open", "choice", "string presence"}
    for figure in found.values():
        svg(figure)


def test_numbers_drawn_are_those_of_the_results(run: NamedRun, drawn: dict[str, Drawn]) -> None:
    figures = lookup(run.results.diagnosis.figures)
    words = {"open": "open", "cued": "cued", "choice": "choice", "same-passage choice": "choice_passage"}
    checked = 0
    for row in drawn["ladder"].table.to_dicts():
        if row["rung"] in words:
            arm = "base" if row["who"] == "base" else row["case"]
            expected = figures[(arm, f"accuracy/{words[row['rung']]}", row["scope"])]
            assert expected is not None
            assert (row["value"], row["low"], row["high"], row["n"]) == expected[:4]
            checked += 1
    assert checked == 2 * 2 * 4 * (len(LANGUAGES) + 1)
    for name, measure in (("figure1", "dissociation/choice"), ("figure2", "drop/{rung}")):
        for row in drawn[name].table.to_dicts():
            scope = MEAN if name == "figure2" and row["scope"] == POOLED else row["scope"]
            expected = figures[(row["case"], measure.format(**row), scope)]
            assert expected is not None
            assert (row["value"], row["low"], row["high"]) == expected[:3]
    counts = {(f.arm, f.scope): f.counts for f in run.results.diagnosis.fates if f.options == "choice"}
    for row in drawn["figure8"].table.to_dicts():
        assert row["count"] == getattr(counts[row["case"], row["scope"]], row["fate"].replace(" ", "_"))
    flows = drawn["fates_flow"].table.filter(before="both", scope=POOLED)
    names = {"both": "kept", "choice only": "choice_only", "open only": "open_only", "neither": "lost"}
    for row in flows.to_dicts():
        assert row["count"] == getattr(counts[row["case"], POOLED], names[row["state"]])
    ranks = {(r.arm, r.place, r.when, r.group, r.scope): r for r in run.results.diagnosis.ranks}
    for row in drawn["figure3"].table.filter(place="first token", group="choice only").to_dicts():
        found = ranks[row["case"], "gold", "after", "choice_only", row["scope"]]
        assert (row["after"], row["n"]) == (found.median, found.n)


def test_what_is_embedded_is_what_is_tabled(drawn: dict[str, Drawn]) -> None:
    (embedded,) = drawn["figure1"].chart.to_dict()["datasets"].values()
    assert [row["value"] for row in embedded] == pytest.approx(
        list(drawn["figure1"].table["value"]), abs=1e-6
    )


def test_a_language_can_be_chosen(drawn: dict[str, Drawn]) -> None:
    every, one = svg(drawn["figure1"]), svg(drawn["figure1"], language="swahili")
    assert "thai" in every
    assert "thai" not in re.sub(r"<desc>.*?</desc>", "", one)
    assert "swahili" in one
    ladder = drawn["ladder"]
    row = ladder.table.filter(scope="swahili", rung="open", who="arm", case="wanda:0.5").row(0, named=True)
    assert row["note"] in svg(ladder, language="swahili")
    for name in OF_ONE_RUN:
        parameters = drawn[name].chart.to_dict().get("params", [])
        options = [p["bind"]["options"] for p in parameters if "bind" in p]
        expected = [] if name in ("frontier", "figure5") else [[POOLED, *LANGUAGES]]
        assert options == expected, name


def test_small_counts_are_said_and_not_drawn(tmp_path: Path) -> None:
    tiny = make_run(tmp_path / "tiny", items=12)
    figure = draw("figure1", [tiny])
    few = [row for row in figure.table.to_dicts() if row["n"] < 10]
    assert few
    assert all(
        row["value"] is None and row["note"] == f"too few: {row['choice_only']} of {row['n']}" for row in few
    )
    assert few[0]["note"] in svg(figure)
    shares = draw("figure8", [tiny]).table.filter(where=few[0]["where"], case=few[0]["case"])
    assert shares["share"].null_count() == len(shares)
    few_ranked = [row for row in draw("figure3", [tiny]).table.to_dicts() if row["n"] < 5]
    assert few_ranked
    assert all(row["after_low"] is None for row in few_ranked)


def test_the_same_color_for_the_same_thing(drawn: dict[str, Drawn]) -> None:
    known: dict[str, str] = {}
    for figure in drawn.values():
        for key, scale in walk(figure.chart.to_dict()):
            if key == "scale" and isinstance(scale, dict) and "range" in scale:
                for thing, color in zip(scale["domain"], scale["range"], strict=True):
                    assert known.setdefault(thing, color) == color, (figure.name, thing)
    assert known["open"] == COLORS["open"]
    assert known["choice"] == COLORS["choice"]
    fates = [known[name] for name in ("kept", "choice only", "open only", "lost")]
    assert len(set(fates)) == 4
    literal = {
        node["value"]
        for figure in drawn.values()
        for key, node in walk(figure.chart.to_dict())
        if key == "color" and isinstance(node, dict) and isinstance(node.get("value"), str)
    }
    assert literal <= set(COLORS.values())


def test_colors_stand_off_both_grounds_and_from_each_other() -> None:
    for ink in (LIGHT, DARK):
        for color in COLORS.values():
            assert contrast(color, ink["ground"]) >= 3
        assert contrast(ink["ink"], ink["ground"]) >= 7
        assert contrast(ink["soft"], ink["ground"]) >= 4.5
    # What stands in one figure must be told apart without red-green sight (Viénot 1999, deuteranopia).
    for group in (("open", "cued", "choice", "control"), ("kept", "choice_only", "open_only", "lost"),
                  ("open", "beams", "samples"), ("gap", "open", "choice")):  # fmt: skip
        seen = [deuteranope(COLORS[name]) for name in group]
        for place, one in enumerate(seen):
            for other in seen[place + 1 :]:
                assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.1, group


def channels(color: str) -> list[float]:
    values = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def contrast(one: str, other: str) -> float:
    light = sorted(
        sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), channels(color), strict=True))
        for color in (one, other)
    )
    return (light[1] + 0.05) / (light[0] + 0.05)


def deuteranope(color: str) -> tuple[float, ...]:
    red, green, blue = channels(color)
    mixed = 0.29275 * red + 0.70725 * green
    return tuple(v ** (1 / 2.2) for v in (mixed, mixed, max(0.0, -0.02234 * red + 0.02234 * green + blue)))


HOSTILE = "x'+alert(1)+'\"</script><b>\x00\u202e]=datum.n{{"


def test_names_can_not_break_a_figure(tmp_path: Path) -> None:
    arms = {HOSTILE + "y" * 300: Damage(open=0.5), HOSTILE + "😀" * 300: Damage(open=0.3)}
    bad = make_run(
        tmp_path / "bad", arms=arms, languages=(HOSTILE, "english"), items=30, base=f"a/{HOSTILE}", data=f"jsonl:{HOSTILE}"
    )  # fmt: skip
    twice = [bad, NamedRun(HOSTILE, bad.results)]
    for figure in draw_all([bad]):
        spec = figure.chart.to_dict()
        for key, value in walk(spec):
            if key in ("filter", "calculate", "expr", "labelExpr", "test", "field", "as", "groupby", "name"):
                assert "alert" not in str(value), (figure.name, key)
        text = svg(figure)
        ET.fromstring(text)
        assert "<script" not in text
        assert "\u202e" not in text
    labels = draw("ladder", twice).table["case"].unique()
    assert len(labels) == 2 * len(arms)
    assert all(len(label) < 60 for label in labels)


def test_themes_differ_in_ink_alone() -> None:
    light, dark = theme(), theme(dark=True)

    def keys(node: Any) -> Any:
        return {name: keys(child) for name, child in node.items()} if isinstance(node, dict) else None

    assert keys(light) == keys(dark)
    assert light["text"] != dark["text"]
    assert light["background"] == dark["background"] == "transparent"


def test_files(drawn: dict[str, Drawn], tmp_path: Path) -> None:
    paths = write_figures([drawn["figure1"]], tmp_path / "figures")
    starts = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert {path.suffix for path in paths} == set(starts)
    for path in paths:
        assert path.read_bytes().startswith(starts[path.suffix])
    dark = write_figures([drawn["figure1"]], tmp_path / "dark", ("svg",), dark=True)
    assert DARK["ground"] in dark[0].read_text(encoding="utf-8")


def test_what_can_not_be_drawn_is_said(run: NamedRun, drawn: dict[str, Drawn], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="did you mean 'figure1'"):
        draw("figur1", [run])
    with pytest.raises(RunError, match="calibration= alone"):
        draw("figure7", [run])
    with pytest.raises(RunError, match="did you mean 'svg'"):
        write_figures([drawn["figure1"]], tmp_path, ("svgg",))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        write_figures([drawn["figure1"]], tmp_path / "file" / "figures", ("svg",))


def test_one_language_stands_in_one_panel(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", languages=("english",))
    spec = draw("figure8", [one]).chart.to_dict()
    assert "facet" not in spec
    text = svg(draw("figure8", [one]))
    assert all(arm in text for arm in ARMS)
