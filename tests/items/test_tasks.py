"""Tasks: samples whose right answers are right and whose wrong options are wrong, by their own graders; and the whole way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from anomia.cli.app import app
from anomia.errors import DataError, StudyError
from anomia.items import build_items, read_questions
from anomia.items.sandbox import refuse_unsafe
from anomia.items.sets import SETS
from anomia.items.task_rows import WRONG_OPTIONS, is_wrong
from anomia.measure.results import read_results, results_json
from anomia.report.tables.verdicts import decided
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.folder import open_run
from anomia.running.progress import PlainProgress
from anomia.study import Study, read_study

TASKS = {name: each for name, each in SETS.items() if each.task is not None}
VERDICTS = [name for name, each in TASKS.items() if each.task and each.task.right_or_wrong]


@pytest.fixture(autouse=True)
def _can_run(request: pytest.FixtureRequest) -> None:
    """Skip what runs programs where they can't be run safely."""
    if "code" in getattr(getattr(request.node, "callspec", None), "params", {}).values():
        try:
            refuse_unsafe()
        except StudyError as error:
            pytest.skip(str(error))


def sample(name: str) -> list[Any]:
    return [question for found in read_questions(name).values() for question in found]


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_has_right_answers_and_three_wrong_options_each(name: str) -> None:
    source, questions = TASKS[name], sample(name)
    assert source.task is not None
    assert source.wrong is not None
    assert 12 <= len(questions) <= 24
    for question in questions:
        for answer in question.answers:
            graded = source.task.grade(answer, question)
            assert graded.score == 1, (question.id, answer)
            assert graded.correct is (True if source.task.right_or_wrong else None)
            assert len(graded.parts) == len(source.task.parts)
        wrong = question.distractors or source.wrong(question)
        assert len(set(wrong)) == WRONG_OPTIONS, question.id
        for text in wrong:
            graded = source.task.grade(text, question)
            assert is_wrong(graded, source.task), (question.id, text)
            assert 0 <= graded.score < 1
            # A wrong option isn't right in another form, either.
            assert text not in question.answers


@pytest.mark.parametrize("name", TASKS)
def test_made_options_depend_on_the_content_alone(name: str) -> None:
    source = TASKS[name]
    assert source.wrong is not None
    for question in sample(name)[:4]:
        bare = replace(question, distractors=())
        made = source.wrong(bare)
        assert made == source.wrong(replace(bare, id="another"))
        assert source.task is not None
        assert all(is_wrong(source.task.grade(text, question), source.task) for text in made)


@pytest.mark.parametrize("name", TASKS)
def test_graders_take_any_text(name: str) -> None:
    task = TASKS[name].task
    assert task is not None
    question = sample(name)[0]
    for output in (
        "",
        " \n",
        "{" * 3000,
        "(" * 3000,
        "[" * 3000 + "]" * 3000,
        "\ud7ff\u200d",
        "9" * 5000,
        "```json\n{",
        "nan inf 1e999",
    ):
        graded = task.grade(output, question)
        assert 0 <= graded.score <= 1
        assert all(part is None or 0 <= part <= 1 for part in graded.parts)


@pytest.mark.parametrize("name", TASKS)
def test_rows_without_what_a_task_needs_are_one_message(name: str, tmp_path: Path) -> None:
    for number, row in enumerate(({"nothing": 1}, {"question": 5}, {"question": ["a"], "answer": {}})):
        path = tmp_path / f"rows{number}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match="rows"):
            read_questions(f"{name}:{path}")
    with pytest.raises(DataError, match="does not exist"):
        read_questions(f"{name}:{tmp_path}/none.jsonl")


def test_a_file_of_the_sample_is_read_like_the_sample(tmp_path: Path) -> None:
    from importlib import resources

    for name in TASKS:
        content = (resources.files("anomia.items") / "samples" / f"{name}.jsonl").read_bytes()
        lines, rows, table = (tmp_path / f"{name}{ending}" for ending in (".jsonl", ".json", ".parquet"))
        lines.write_bytes(content)
        parsed = [json.loads(line) for line in content.splitlines()]
        rows.write_text(json.dumps(parsed, indent=1))
        assert read_questions(f"{name}:{lines}") == read_questions(name) == read_questions(f"{name}:{rows}")
        if name == "math":
            pl.DataFrame(parsed).write_parquet(table)
            assert read_questions(f"{name}:{table}") == read_questions(name)


def test_a_wrong_option_that_a_row_brings_must_be_wrong(tmp_path: Path) -> None:
    rows = [
        {"question": f"{n} + {n}?", "answer": str(2 * n), "distractors": ["7", "9", wrong]}
        for n, wrong in ((1, "11"), (2, "13"), (4, "15"))
    ]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"math:{path}"
    (built,) = build_items(read_questions(data), dataset=data, limit=None, seed=1).values()
    assert len(built.items) == 2
    source = [
        {"source": f"Satz {n}", "reference": f"Sentence {n}", "distractors": ["a", f"Sentence {n}", "b"]}
        for n in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in source))
    data = f"translation:{path}"
    with pytest.raises(DataError, match="its grader marks the wrong option"):
        build_items(read_questions(data), dataset=data, limit=None, seed=1)


def test_a_study_has_a_task_s_defaults_unless_it_says_otherwise() -> None:
    given = {"base": "m", "arms": ["wanda:0.5"]}
    plain = Study.model_validate({**given, "data": "demo"})
    assert (plain.max_new_tokens, plain.grading.task) == (32, None)
    task = Study.model_validate({**given, "data": "math"})
    assert task.max_new_tokens == 256
    assert task.grading.task is SETS["math"].task
    assert task.templates["open"].startswith("Question:")
    with pytest.raises(ValueError, match="allow it with --run-code"):
        Study.model_validate({**given, "data": "code"})
    Study.model_validate({**given, "data": "code", "run_code": True})
    Study.model_validate({**given, "data": "code", "grader": "f1"})
    own = Study.model_validate(
        {
            **given,
            "data": "math:x.jsonl",
            "max_new_tokens": 8,
            "prompts": {"open": "{question}"},
            "grader": "f1",
        }
    )
    assert (own.max_new_tokens, own.templates["open"], own.grading.task) == (8, "{question}", None)
    assert own.templates["cued"] == task.templates["cued"]
    # A written study is the same study.
    assert Study.model_validate(task.model_dump(mode="json")) == task


@pytest.fixture(scope="module")
def run_of(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "run"
            study = Study(
                base=str(model_folder),
                arms=("magnitude:0.5",),
                data=name,
                limit=3,
                max_new_tokens=6,
                noise_items=2,
                run_code=TASKS[name].runs_code,
            )
            run_study(study, made[name], progress=PlainProgress(lambda text: None))
        return made[name]

    return run


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_asked_open_and_as_choice_and_graded(name: str, run_of: Callable[[str], Path]) -> None:
    task = TASKS[name].task
    assert task is not None
    records = RunFolder(run_of(name)).records()
    asked = 6 * len(read_questions(name))
    assert len(records) == asked
    assert records["open_score"].is_between(0, 1).all()
    assert records["choice_correct"].null_count() == 0
    assert set(records["choice_scores"].list.len()) == {WRONG_OPTIONS + 1}
    assert set(records["open_parts"].list.len()) == {len(task.parts)}
    assert records["open_correct"].null_count() == (0 if task.right_or_wrong else asked)
    questions = {question.id: question for question in sample(name)}
    for row in records.select("item_id", "open_text", "open_score", "open_correct").iter_rows(named=True):
        graded = task.grade(row["open_text"], questions[row["item_id"]])
        assert (graded.score, graded.correct) == (row["open_score"], row["open_correct"])


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_in_results_tables_and_page(
    name: str, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    task = TASKS[name].task
    assert task is not None
    folder = run_of(name)
    results = read_results(folder)
    rows = results_json(results)["scores"]
    # A part that applies to none of the items drawn has no row.
    assert {row["part"] for row in rows} <= {"score", *task.parts}
    assert {row["scope"] for row in rows} == {*results.languages, "pooled"}
    for row in rows:
        assert row["drop"]["low"] <= row["drop"]["value"] <= row["drop"]["high"]
        assert row["margin"] == 0.05
        assert row["base"]["value"] - row["after"]["value"] == pytest.approx(row["drop"]["value"])
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (table,) = (tmp_path / "out").rglob("scores.csv")
    assert f"score,{results.languages[0]}" in table.read_text()
    shown = CliRunner().invoke(app, ["show", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "Scores of the task" in shown.output
    (overall,) = (verdict for verdict in results.verdicts if verdict.scope == "overall")
    assert ("not right or wrong" in overall.words.text) != task.right_or_wrong
    assert task.right_or_wrong or "too weak" not in overall.words.text
    # A language has the score's outcome where there is no other.
    outcomes = {verdict.scope: decided(verdict) for verdict in results.verdicts}
    rows_of = {row["scope"]: row["outcome"] for row in rows if row["part"] == "score"}
    if not task.right_or_wrong:
        assert outcomes == {
            "overall": f"score {rows_of['pooled']}",
            **{name: f"score {rows_of[name]}" for name in results.languages},
        }
        assert "untestable" not in shown.output
        assert f"score {rows_of['pooled']}" in (tmp_path / "out" / "index.html").read_text()
    else:
        assert not any(text.startswith("score") for text in outcomes.values())
    held = CliRunner().invoke(app, ["gate", str(folder)])
    assert held.exit_code in (0, 1, 3), held.output
    listed = CliRunner().invoke(app, ["items", str(folder)])
    assert listed.exit_code == 0, listed.output


def test_a_run_of_an_earlier_version_is_resumed(run_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Keys of studies that are newer than a run had their defaults."""
    import shutil

    shutil.copytree(run_of("math"), tmp_path / "run")
    file = RunFolder(tmp_path / "run").study_file
    text = file.read_text()
    assert "\nrun_code: false\n" in text
    file.write_text(text.replace("\nrun_code: false\n", "\n"))
    assert open_run(tmp_path / "run", read_study(run_of("math") / "study.yaml", {})) is not None
