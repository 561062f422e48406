"""Control answers: the same prompts with the answers of others, never right and never their own."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from anomia.compress.answers import AnswerTokens, answer_row
from anomia.compress.apply import prepare_windows
from anomia.compress.options import TextOptions
from anomia.compress.spec import parse_arm
from anomia.errors import AnomiaError, DataError, StudyError
from anomia.grade import Grading, normalize
from anomia.items.item import Question
from anomia.items.sets import set_of
from anomia.models.load import load_tokenizer
from anomia.plan.cost import forecast
from anomia.run_folder import RunFolder
from anomia.running.answerer import LocalModel
from anomia.running.control import control_rows, derange
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.command import anomia
from tests.conftest import entry
from tests.plan.test_cost import matrix_of

QUIET = PlainProgress(lambda text: None)
STEP = parse_arm("wanda:0.5").steps[0]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def prompt_of(row: dict[str, Any]) -> list[int]:
    return row["token_ids"][: row["answer_start"]]


def answer_of(row: dict[str, Any]) -> list[int]:
    return row["token_ids"][row["answer_start"] :]


def question(name: str, gold: str, language: str = "english") -> Question:
    return Question(name, language, f"About {name}.", f"What is {name}?", (gold,))


def row(name: str, answer: str, number: int, language: str = "english") -> dict[str, Any]:
    """The row of a prompt of `number` tokens and its answer, whose tokens are its characters."""
    ids = (*range(1, number + 1), *map(ord, answer), 0)
    return answer_row(name, language, f"{name}? {answer}", answer, AnswerTokens(ids, number, "t"))


@given(
    edges=st.integers(1, 7).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=n, max_size=n)
    ),
    seed=st.integers(0, 100),
)
def test_pairs_are_found_where_there_are_any(edges: list[list[bool]], seed: int) -> None:
    found = derange(len(edges), lambda prompt, answer: edges[prompt][answer], random.Random(seed))
    exists = (maximum_bipartite_matching(csr_matrix(np.array(edges, dtype=int)), "column") >= 0).all()
    assert (found is not None) == exists
    if found is not None:
        assert sorted(found) == list(range(len(edges)))
        assert all(edges[prompt][answer] for prompt, answer in enumerate(found))


@given(
    answers=st.lists(st.sampled_from(["Rome", "rome.", "Oslo", "Bonn", "in Bonn", "?"]), max_size=9),
    golds=st.lists(st.sampled_from(["Rome", "Oslo", "Bonn"]), min_size=9, max_size=9),
    languages=st.lists(st.sampled_from(["english", "swahili"]), min_size=9, max_size=9),
    seed=st.integers(0, 9),
)
def test_borrowed_answers_are_wrong_others_and_all_used(
    answers: list[str], golds: list[str], languages: list[str], seed: int
) -> None:
    rows = [row(f"q{n}", text, n + 1, languages[n]) for n, text in enumerate(answers)]
    questions = {(languages[n], f"q{n}"): question(f"q{n}", golds[n], languages[n]) for n in range(len(rows))}
    try:
        found = control_rows(rows, questions, Grading(), seed)
    except DataError:
        # `test_pairs_are_found_where_there_are_any` shows that there are none.
        return
    assert found == control_rows(rows, questions, Grading(), seed)
    own = {each["id"]: each for each in rows}
    assert [each["id"] for each in found] == [each["id"] for each in rows]
    assert sum(len(each["token_ids"]) for each in found) == sum(len(each["token_ids"]) for each in rows)
    assert sorted(each["answer_of"] for each in found) == sorted(own)
    for each in found:
        mine, other = own[each["id"]], own[each["answer_of"]]
        assert mine["language"] == other["language"]
        assert prompt_of(each) == prompt_of(mine)
        assert answer_of(each) == answer_of(other)
        assert each["text"] == f"{each['id']}? {other['answer']}"
        assert normalize(each["answer"]) != normalize(mine["answer"])
        gold = questions[each["language"], each["id"]].gold
        assert normalize(gold) not in normalize(each["answer"])


def test_another_seed_draws_other_pairs() -> None:
    rows = [row(f"q{n}", f"Place{n:02}", 3) for n in range(20)]
    questions = {("english", f"q{n}"): question(f"q{n}", f"Place{n:02}") for n in range(20)}
    drawn = {
        seed: [each["answer_of"] for each in control_rows(rows, questions, Grading(), seed)]
        for seed in (1, 2)
    }
    assert drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (["Rome"], "only one prompt"),
        (["Rome", "rome", "Rome!"], r"3 prompts can't.*1 of|3 prompts can't"),
        (["Rome", "Rome", "Oslo"], "2 of base's answers are 'Rome'"),
    ],
)
def test_where_no_pairs_exist_it_is_said(answers: list[str], says: str) -> None:
    rows = [row(f"q{n}", text, 3) for n, text in enumerate(answers)]
    questions = {("english", f"q{n}"): question(f"q{n}", "gold") for n in range(len(rows))}
    with pytest.raises(DataError, match=f"in english.*{says}|{says} in english"):
        control_rows(rows, questions, Grading(), 1)


def test_a_task_grades_borrowed_answers_itself() -> None:
    """Answers with the same number are right for each other, in whatever words; without right and wrong, scores tell."""
    math, translation = set_of("math"), set_of("translation")
    assert math is not None
    assert translation is not None
    said = ["So it is 12.", "The answer: 12", "It is 7.", "I get 7"]
    rows = [row(f"q{n}", text, 3) for n, text in enumerate(said)]
    questions = {
        ("english", f"q{n}"): question(f"q{n}", gold) for n, gold in enumerate(("12", "12", "7", "7"))
    }
    found = control_rows(rows, questions, Grading(task=math.task), 1)
    assert [("12" in each["answer"]) for each in found] == [False, False, True, True]
    golds = ["Das Haus ist alt.", "Das Haus ist alt", "Der Baum ist hoch.", "Es regnet."]
    rows = [row(f"q{n}", text, 3) for n, text in enumerate(["a house", golds[0], "a tree", "rain"])]
    questions = {("english", f"q{n}"): question(f"q{n}", gold) for n, gold in enumerate(golds)}
    for seed in range(8):
        found = control_rows(rows, questions, Grading(task=translation.task), seed)
        assert found[0]["answer"] != golds[0]


def test_a_run_with_both_sources_answers_once(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study.model_copy(
        update={
            "arms": (
                "wanda:0.5,calibration=answers",
                "wanda:0.5,calibration=control-answers",
                "wanda:0.5,calibration=demo",
            ),
            "calibration_tokens": 96,
            "noise_items": 0,
            "probes": ("open",),
        }
    )
    said: list[str] = []
    outcomes = run_study(study, tmp_path / "run", progress=PlainProgress(said.append))
    assert not [each for each in outcomes if each.failed]
    assert sum("answered 8 prompts for calibration, none of which is measured" in text for text in said) == 1
    assert sum("each of 8 prompts is followed by another one's answer" in text for text in said) == 1
    first, second = sorted((tmp_path / "run" / "calibration").iterdir(), key=lambda each: len(each.name))
    own, control = rows_of(first), rows_of(second)
    assert [prompt_of(each) for each in control] == [prompt_of(each) for each in own]
    for language in ("english", "swahili"):
        counts = [
            Counter(tuple(answer_of(each)) for each in rows if each["language"] == language)
            for rows in (own, control)
        ]
        assert counts[0] == counts[1]
    assert not {each["id"] for each in control} & set(RunFolder(tmp_path / "run").items()["item_id"])
    reports = {
        found["arm"]: found["steps"][0]["calibration"]
        for file in RunFolder(tmp_path / "run").compression.files()
        if (found := file.read()) is not None
    }
    mine, its, demo = (reports[arm] for arm in study.arms)
    assert (mine["source"], its["source"]) == ("answers", "control-answers")
    assert mine["tokens"] == its["tokens"]
    assert mine["token_hash"] != its["token_hash"]
    assert [each["controls"] for each in (mine, its, demo)] == [0, 8, 0]
    before = second.read_bytes()

    def refuse(*args: Any, **more: Any) -> Any:
        raise AssertionError

    # What is written isn't answered or drawn again.
    monkeypatch.setattr(LocalModel, "answer", refuse)
    monkeypatch.setattr("anomia.running.control.control_rows", refuse)
    run_study(study, tmp_path / "run", progress=QUIET)
    assert second.read_bytes() == before


def test_one_prompt_is_refused_before_base_is_measured(
    study: Study, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    other = write_jsonl([entry(90)], "one.jsonl")
    study = study.model_copy(update={"calibration": f"control-answers:jsonl:{other}", "arms": ("wanda:0.5",)})
    with pytest.raises(AnomiaError, match="english has a single prompt"):
        run_study(study, tmp_path / "run", progress=QUIET)
    assert not (tmp_path / "run" / "records").exists()


def test_the_command_writes_both_files_and_folders_say_which_they_were_made_from(
    study: Study, tmp_path: Path
) -> None:
    own, control = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    call = ["answers", study.base, str(own), "--data", study.data, "--limit", "5", "--dtype", "float32"]
    done = anomia(*call, "--control", control)
    assert done.returncode == 0, done.stderr
    assert "b.jsonl has the control answers" in " ".join(done.stdout.split())
    rows = rows_of(control)
    assert len(rows) == 10
    assert all(each["answer_of"] != each["id"] for each in rows)
    assert not any("answer_of" in each for each in rows_of(own))
    text = TextOptions(source=f"file:{control}")
    windows = prepare_windows(STEP, load_tokenizer(study.base)[0], text)
    assert windows is not None
    assert windows.record.controls == 10
    assert any("10 prompts are followed by a control answer" in each for each in windows.record.warnings)
    mixed = prepare_windows(
        STEP, load_tokenizer(study.base)[0], replace(text, source=f"file:{own}", mix=f"file:{control}=0.5")
    )
    assert mixed is not None
    assert 0 < mixed.record.controls <= 10
    done = anomia("prune", study.base, tmp_path / "out", "--calibration", f"file:{control}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "anomia.json").read_text())
    assert report["compression"]["calibration"]["controls"] == 10
    assert "control answer" in (tmp_path / "out" / "README.md").read_text()
    done = anomia(*call, "--control", own)
    assert done.returncode == 2
    assert "is the file of the answers" in " ".join(done.stderr.split())


def test_folders_are_calibrated_on_control_answers_to_data(study: Study, tmp_path: Path) -> None:
    for source in ("answers", "control-answers"):
        done = anomia("compress", study.base, tmp_path / "out", "wanda:0.5", "--calibration", f"{source}:{study.data}", "--calibration-samples", "4")  # fmt: skip
        assert done.returncode == 0, done.stderr
        # The same name, so that the second call finds the answers of the first.
        (tmp_path / "out").rename(tmp_path / source)
    assert len(list(tmp_path.glob("out-answers-*.jsonl"))) == 2
    records = [
        json.loads((tmp_path / source / "anomia.json").read_text())["compression"]["calibration"]
        for source in ("answers", "control-answers")
    ]
    assert [each["controls"] for each in records] == [0, 8]
    assert records[0]["tokens"] == records[1]["tokens"]


def test_programs_are_run_only_if_that_is_allowed(study: Study, tmp_path: Path) -> None:
    calls = (
        [
            "answers",
            study.base,
            str(tmp_path / "a.jsonl"),
            "--data",
            "code",
            "--control",
            str(tmp_path / "b"),
        ],
        ["compress", study.base, str(tmp_path / "out"), "wanda:0.5", "--calibration", "control-answers:code"],
    )
    for call in calls:
        done = anomia(*call)
        assert done.returncode == 2
        assert "--run-code" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_bad_control_row_is_one_message(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = {"text": "a b", "token_ids": [1, 2, 3], "answer_start": 1, "tokenizer": "2-x"}
    path.write_text(json.dumps(good | {"answer_of": 3}) + "\n")
    with pytest.raises(DataError, match=r'line 1.*"answer_of"'):
        prepare_windows(STEP, load_tokenizer(study.base)[0], TextOptions(source=f"file:{path}"))


def test_models_alone_say_how_to_get_them(study: Study) -> None:
    with pytest.raises(StudyError, match="anomia answers"):
        prepare_windows(STEP, load_tokenizer(study.base)[0], TextOptions(source="control-answers"))


def test_a_plan_counts_the_answering_of_both_sources_once(model_folder: Path) -> None:
    def tokens(*sources: str) -> float:
        arms = [f"wanda:0.5,calibration={source}" for source in sources]
        settings = {"languages": ["english"], "limit": 4, "arms": arms, "calibration_samples": 8}
        (cell,) = forecast(matrix_of(model_folder, **settings))
        return cell.total.reads

    plain, other = tokens("demo"), tokens("demo", "c4")
    one, both = tokens("answers"), tokens("answers", "control-answers")
    assert one > plain
    assert both - other == one - plain
    assert tokens("control-answers") == one
