"""What the page says in its head is what its tables say: it reads figures and computes none."""

from __future__ import annotations

import ast
import html
import re
from importlib import resources
from pathlib import Path

import polars as pl
import pytest

import anomia.api
from anomia.measure.figures import before, lookup
from anomia.measure.frame import POOLED
from anomia.measure.measures import parse
from anomia.measure.results import Results, read_results
from anomia.report.figures.cases import NamedRun, cases
from anomia.report.figures.fate_bars import draw_dissociation
from anomia.report.page.document import document
from anomia.report.terminal import closing_view, side_by_side, verdict_view
from tests.measure.planted import Damage, study_records
from tests.measure.test_results import write_run
from tests.report.test_terminal import printed

ARMS = {"wanda:0.5": Damage(open=0.4, choice=0.05), "null:float32": Damage(open=0.02, seed=1)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """An arm with 20 answers that nobody graded, and a null arm."""
    records = study_records(ARMS, languages=("english", "swahili"), items=60)
    mine = (pl.col("arm") == "wanda:0.5") & (pl.col("index") < 10)
    ungraded = records.with_columns(
        open_correct=pl.when(mine).then(None).otherwise(pl.col("open_correct")),
        choice_correct=pl.when(mine).then(None).otherwise(pl.col("choice_correct")),
    )
    return read_results(write_run(tmp_path_factory.mktemp("run") / "r", ungraded))


def test_head_and_ladder_say_the_same_of_an_arm_with_ungraded_answers(results: Results) -> None:
    arm = document([NamedRun("r", results)], [{}])["runs"][0]["arms"][0]
    figures = lookup(results.diagnosis.figures)
    (ladder,) = arm["tables"]["ladder"]
    row = dict(zip(ladder["columns"], ladder["rows"][-1], strict=True))
    assert row["language"] == POOLED
    for probe, _, was, after in arm["accuracies"][:2]:
        measure = parse(f"accuracy/{probe}")
        for shown, estimate in zip(
            (was, after), (before(figures, "wanda:0.5", measure, POOLED), figures["wanda:0.5", measure, POOLED]), strict=True
        ):  # fmt: skip
            assert estimate is not None
            assert shown["value"] == estimate.value
        assert row[probe].replace("*", "") == f"{was['shown']} → {after['shown']}"
    assert arm["accuracies"][0][3]["n"] == 100


def test_no_module_of_the_page_computes_a_rate() -> None:
    for file in resources.files("anomia.report.page").iterdir():
        if not file.name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            assert name not in {"mean", "rate", "wilson"}, f"{file.name}: {name}"
            if isinstance(node, ast.ImportFrom) and node.module == "anomia.measure.rates":
                assert {alias.name for alias in node.names} <= {"Estimate"}


def test_a_null_arm_is_the_reference_and_no_candidate(results: Results) -> None:
    run = document([NamedRun("r", results)], [{}])["runs"][0]
    assert [arm["name"] for arm in run["arms"]] == ["wanda:0.5"]
    assert [arm["name"] for arm in run["reference"]] == ["null:float32"]
    assert run["noise"][0] == "net dissociation (%)"
    assert run["reference"][0]["changes"][0].startswith(("0 [", "−", "1 [", "2 [", "3 ["))
    (noise,) = run["arms"][0]["tables"]["noise"]
    assert [row[0] for row in noise["rows"]][:2] == ["wanda:0.5", "null:float32"]
    assert not any("--arm null" in note for note in noise["notes"])
    assert ["Reference", "null:float32: base again, under harmless noise"] in run["facts"]
    found = cases([NamedRun("r", results)])
    assert [case.arm for case in found] == ["wanda:0.5"]
    drawn = draw_dissociation(found)
    assert drawn is not None
    assert "Grey: the net rate of null arms" in drawn.caption
    assert drawn.table["null_low"].null_count() == 0
    assert "null:float32 (reference)" in " ".join(
        printed(side_by_side([(Path("r"), results)]), width=300).split()
    )


def test_a_run_of_null_arms_alone_is_judged(results: Results) -> None:
    alone = results._replace(records=results.records.filter(pl.col("arm") != "wanda:0.5"))
    run = document([NamedRun("r", alone)], [{}])["runs"][0]
    assert [arm["name"] for arm in run["arms"]] == ["null:float32"]
    assert run["reference"] == []


def test_a_page_of_noise_alone_says_so(results: Results) -> None:
    alone = results._replace(records=results.records.filter(pl.col("arm") != "wanda:0.5"))
    noise, both = (document([NamedRun("r", found)], [{}]) for found in (alone, results))
    assert noise["title"] == "What harmless noise does to x"
    (arm,) = noise["runs"][0]["arms"]
    assert arm["null"]
    assert "base itself" in arm["verdict"]["advice"]
    assert not any(words in arm["verdict"]["advice"] for words in ("speaks against", "Don't ship"))
    assert both["title"] == "What wanda:0.5 took from x"
    assert not both["runs"][0]["arms"][0]["null"]
    # Beside a run with a compressed model, one of noise alone adds nothing to what took something.
    several = document([NamedRun("r", results), NamedRun("n", alone)], [{}, {}])
    assert several["title"] == "What wanda:0.5 took from x"
    assert "null:float32 (base itself, under harmless noise): " in printed(
        verdict_view(results, "null:float32")
    )


def test_terminal_page_and_notebook_show_the_same_outcomes(results: Results) -> None:
    *languages, overall = results.verdicts_of("wanda:0.5")
    (table,) = document([NamedRun("r", results)], [{}])["runs"][0]["arms"][0]["verdict"]["outcomes"]
    assert [row[0] for row in table["rows"]] == ["english", "swahili", "overall"]
    text = printed(verdict_view(results, "wanda:0.5"), width=200)
    page = anomia.api.Verdict(overall, tuple(languages))._repr_html_()
    for row in table["rows"]:
        assert any([cell for cell in row if cell not in line] == [] for line in text.splitlines()), row
        assert "".join(f"<t?>{html.escape(cell)}</t?>" for cell in row) in re.sub(
            "(?<=<t)[hd]|(?<=</t)[hd]", "?", page
        )


def test_every_language_has_its_verdict_in_words(results: Results) -> None:
    verdict = document([NamedRun("r", results)], [{}])["runs"][0]["arms"][0]["verdict"]
    mine = {v.scope: v for v in results.verdicts if v.arm == "wanda:0.5"}
    assert [scope for scope, _ in verdict["texts"]] == ["english", "swahili"]
    for scope, text in verdict["texts"]:
        words = mine[scope].words
        assert words.reason == mine[scope].why
        parts = (words.headline, *words.figures, *words.remarks, *words.others, *words.notes)
        assert text == " ".join(parts).replace(" %", "\u00a0%")


def test_what_was_not_asked_is_not_among_the_decoding(results: Results) -> None:
    decoding = {
        "max_new_tokens": 32, "num_beams": 5, "num_samples": 10, "top_p": 0.9, "temperature": 1.0, "seed": 42,
    }  # fmt: skip
    asked = results._replace(study={**results.study, **decoding})
    without = results.records.with_columns(
        pl.lit(None).cast(results.records.schema[name]).alias(name)
        for name in ("beams_correct", "samples_correct")
    )

    def told(found: Results) -> str:
        return dict(document([NamedRun("r", found)], [{}])["runs"][0]["facts"])["Decoding"]

    assert "5 beams; 10 samples" in told(asked)
    assert told(asked._replace(records=without)) == "open answers: greedy, at most 32 tokens; seed 42"


def test_without_a_null_arm_the_page_says_how_to_add_one(results: Results) -> None:
    alone = results._replace(records=results.records.filter(pl.col("arm") != "null:float32"))
    run = document([NamedRun("r", alone)], [{}])["runs"][0]
    (noise,) = run["arms"][0]["tables"]["noise"]
    assert any("--arm null:float32" in note for note in noise["notes"])


def test_what_decided_stands_in_the_head(results: Results) -> None:
    verdict = document([NamedRun("r", results)], [{}])["runs"][0]["arms"][0]["verdict"]
    overall = next(v for v in results.verdicts if (v.arm, v.scope) == ("wanda:0.5", "overall"))
    assert verdict["word"] == overall.word
    assert verdict["why"] == overall.why.replace(" %", "\u00a0%")
    assert overall.standard is None or verdict["standard"].startswith(overall.standard.outcome)


def test_every_table_of_the_page_has_an_interval_for_every_rate(results: Results) -> None:
    tables = document([NamedRun("r", results)], [{}])["runs"][0]["arms"][0]["tables"]
    named = {"ladder", "drops", "noise", "one-shot", "checks"}
    for name in named & tables.keys():
        for table in tables[name]:
            for row in table["rows"]:
                for header, cell in zip(table["columns"][1:], row[1:], strict=True):
                    counts = header == "items"
                    assert counts or "[" in cell or cell in ("–", "too few"), (table["title"], header, cell)


def test_the_terminal_names_the_outcome_of_a_null_arm_as_a_reference(results: Results) -> None:
    outcome = next(
        v.decision.outcome for v in results.verdicts if (v.arm, v.scope) == ("null:float32", "overall")
    )
    assert f"reference null:float32, base under harmless noise: {outcome}" in printed(
        closing_view(results), width=200
    )
