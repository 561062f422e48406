"""Pairs of tasks in logs of lm-evaluation-harness, written by the harness's own tasks: right for every item, or refused.

`tests/data/harness_pairs.zip` has the logs of `tests/interop/scripted_harness.py` for two models; of the results files,
what says nothing about the tasks was removed. `test_pairs_harness.py` writes them anew.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from anomia.cli import main
from anomia.errors import DataError
from anomia.interop.as_run import Imported, import_run
from anomia.interop.pairs import place_of
from anomia.measure.figures import find
from anomia.measure.frame import POOLED
from anomia.measure.recognition import with_fates
from anomia.measure.results import read_results
from anomia.notes import read_notes
from anomia.run_folder import RunFolder
from tests.interop.logs import write_lines

FIXTURE = Path(__file__).resolve().parents[1] / "data" / "harness_pairs.zip"
MODELS = ("base", "arm")
# The metric and the filter of each generation; those of multiple choice are acc and none.
GRADED = {
    "truthfulqa_gen": ("rouge1_acc", "none"),
    "arc_challenge_chat": ("exact_match", "remove_whitespace"),
    "mmlu": ("exact_match", "get_response"),
    "gpqa": ("exact_match", "strict-match"),
    "global_piqa": ("exact_match", "strict_match"),
}
EVERY = {
    "arc_challenge_chat": "arc_challenge",
    "truthfulqa_gen": "truthfulqa_mc1",
    "mmlu_anatomy_generative": "mmlu_anatomy",
    "mmlu_virology_generative": "mmlu_virology",
    "gpqa_main_generative_n_shot": "gpqa_main_zeroshot",
    **{
        f"global_piqa_{kind}_generation_{language}": f"global_piqa_{kind}_cloze_{language}"
        for kind in ("parallel", "nonparallel")
        for language in ("eng_latn", "swh_latn", "por_latn_braz")
    },
}


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    with zipfile.ZipFile(FIXTURE) as packed:
        packed.extractall(folder)
    return folder


@pytest.fixture
def copied(logs: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the logs of some tasks, or all, with a change in the rows of one."""

    def copy(*tasks: str) -> Path:
        for file in logs.glob("*/*/*"):
            task = file.name.removeprefix("samples_").rpartition("_")[0]
            if file.suffix == ".json" or not tasks or task in tasks:
                target = tmp_path / "logs" / file.relative_to(logs)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        return tmp_path / "logs"

    return copy


def imported(folder: Path, **options: Any) -> Imported:
    return import_run("lm-eval", {name: [folder / name] for name in MODELS}, folder.parent / "run", **options)


def log_of(folder: Path, model: str, task: str) -> Path:
    return next((folder / model / model).glob(f"samples_{task}_2*"))


def rows_of(folder: Path, model: str, task: str, filter_name: str | None = None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in log_of(folder, model, task).read_text().splitlines()]
    return [row for row in rows if filter_name in (None, row["filter"])]


def rewrite(folder: Path, model: str, task: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Changes the rows of a log in place, or replaces them by what `change` returns."""
    rows = rows_of(folder, model, task)
    write_lines(log_of(folder, model, task), change(rows) or rows)


def results_of(folder: Path, model: str) -> Path:
    return next((folder / model / model).glob("results_*"))


def grading(task: str) -> tuple[str, str]:
    return next(value for name, value in GRADED.items() if task.startswith(name))


def question(row: dict[str, Any]) -> str:
    doc = row["doc"]
    return str(doc.get("Question") or doc.get("question") or doc["prompt"]).strip()


def truth(folder: Path) -> Iterator[tuple[str, str, bool, bool]]:
    """Model, question, and the harness's own marks in generation and multiple choice, for every pair."""
    for model in MODELS:
        for opened, chosen in EVERY.items():
            metric, filter_name = grading(opened)
            said = {question(row): bool(row[metric]) for row in rows_of(folder, model, opened, filter_name)}
            picked = {question(row): bool(row["acc"]) for row in rows_of(folder, model, chosen)}
            assert said.keys() == picked.keys()
            yield from ((model, name, said[name], picked[name]) for name in said)


@pytest.fixture(scope="module")
def run(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Imported, Path]:
    folder = tmp_path_factory.mktemp("run") / "run"
    return import_run("lm-eval", {name: [logs / name] for name in MODELS}, folder), folder


def test_every_pair_is_found_and_joined(run: tuple[Imported, Path]) -> None:
    found, _ = run
    assert dict(found.pairs) == EVERY
    assert (found.questions, found.excluded) == (6 * len(EVERY), {})
    assert found.graded_by == {"open": "exact_match, rouge1_acc", "choice": "acc"}
    assert found.languages == ("english", "por_latn_braz", "swahili")
    assert [line.partition(":")[0] for line in found.unpaired] == ["truthfulqa_mc2"]


def test_every_item_is_right_where_the_harness_says_so(run: tuple[Imported, Path], logs: Path) -> None:
    expected = sorted(truth(logs))
    assert {(said, picked) for _, _, said, picked in expected} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    records = RunFolder(run[1]).records()
    found = records.select(
        "arm", pl.col("question").str.strip_chars(), "open_correct", "choice_correct"
    ).rows()
    assert sorted(found) == expected


def test_accuracies_are_those_of_the_results_files(run: tuple[Imported, Path], logs: Path) -> None:
    study = yaml.safe_load((run[1] / "study.yaml").read_text())
    assert [pair["questions"] for pair in study["provenance"]["imported"]["pairs"]] == [6] * len(EVERY)
    records = RunFolder(run[1]).records()
    for model in MODELS:
        results = json.loads(results_of(logs, model).read_text())["results"]
        for opened, chosen in EVERY.items():
            metric, filter_name = grading(opened)
            asked = {question(row) for row in rows_of(logs, model, chosen)}
            mine = records.filter(
                (pl.col("arm") == model) & pl.col("question").str.strip_chars().is_in(asked)
            )
            assert mine["open_correct"].mean() == pytest.approx(results[opened][f"{metric},{filter_name}"])
            assert mine["choice_correct"].mean() == pytest.approx(results[chosen]["acc,none"])


def test_fates_and_gap_follow_by_hand(run: tuple[Imported, Path], logs: Path) -> None:
    marks = {(model, name): (said, picked) for model, name, said, picked in truth(logs)}
    names = sorted({name for _, name in marks})
    fates = Counter(
        {(True, True): "kept", (False, True): "choice_only", (True, False): "open_only"}.get(
            marks["arm", name], "lost"
        )
        for name in names
        if marks["base", name] == (True, True)
    )
    records = with_fates(RunFolder(run[1]).records()).filter(pl.col("arm") == "arm")
    assert dict(records["fate"].drop_nulls().value_counts().iter_rows()) == dict(fates)
    assert len(fates) == 4
    # Options: 3 in mc1, whose generation lists none; 2 or 4 elsewhere, where guessing scores in both formats.
    options = {name: 2 if "nonparallel" in name else 3 if "stone" in name else 4 for name in names}
    shown = {name: 0 if "stone" in name else 1 / options[name] for name in names}

    def drop(side: int, floors: dict[str, float]) -> float:
        base, arm = (sum(marks[model, name][side] for name in names) / len(names) for model in MODELS)
        return (base - arm) / (base - sum(floors.values()) / len(names))

    gap = find(read_results(run[1]).diagnosis.figures, "arm", "gap/choice", POOLED)
    assert gap is not None
    assert gap.value == pytest.approx(
        drop(0, shown) - drop(1, {name: 1 / count for name, count in options.items()})
    )


def test_items_keep_the_text_of_the_answer_not_its_letter(run: tuple[Imported, Path]) -> None:
    items = RunFolder(run[1]).items()
    tool = items.filter(pl.col("question") == "Which tool measures thing 1?").row(0, named=True)
    assert tool["answers"] == ["scale 1"]
    records = RunFolder(run[1]).records()
    shown = dict(records.filter(pl.col("arm") == "base")["open_options"].value_counts().iter_rows())
    assert shown == {4: 42, 2: 18, None: 6}
    letters = records.filter(pl.col("open_options").is_not_null())
    # Letters and the texts of options can't be searched for in each other.
    assert letters["gold_in_question"].null_count() == letters["open_strict"].null_count() == len(letters)


def test_what_may_mislead_is_told_and_kept(
    run: tuple[Imported, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    notes = " ".join(run[0].notes)
    assert "lists the options in 60 of 66 questions" in notes
    assert "answers to 36 of 66 questions were sampled at random" in notes
    assert "rouge1_acc counts an answer as right if" in notes
    assert "pool questions of different tasks" in notes
    assert read_notes(RunFolder(run[1]))["arm"] == list(run[0].notes)
    ok("show", run[1])


def ok(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code


def test_one_family_alone(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--base", logs / "base", "--arm", f"int4={logs / 'arm'}"]
    ok("import", "lm-eval", *models, "--task", "truthfulqa_*", "--out", tmp_path / "run")
    told = capsys.readouterr().out
    assert "truthfulqa_gen and truthfulqa_mc1" in told
    assert "truthfulqa_mc2: its acc is the probability of all true options" in told
    assert "pool questions" not in told
    assert RunFolder(tmp_path / "run").records()["open_options"].null_count() == 12
    with pytest.raises(DataError, match=r"is of a task named hellaswag; it has arc_challenge, "):
        import_run("lm-eval", {"base": [logs / "base"]}, tmp_path / "other", tasks=["hellaswag"])


def test_another_metric_of_the_generation(copied: Callable[..., Path]) -> None:
    folder = copied("truthfulqa_gen", "truthfulqa_mc1")
    assert imported(folder, metric="bleu_acc").graded_by["open"] == "bleu_acc"
    shutil.rmtree(folder.parent / "run")
    with pytest.raises(
        DataError, match=r"truthfulqa_gen are right: no metric of 0 or 1 named bleu_max; the log has bleu_acc"
    ):
        imported(folder, metric="bleu_max")


def test_a_log_without_a_mark_is_refused(copied: Callable[..., Path]) -> None:
    folder = copied("truthfulqa_gen", "truthfulqa_mc1")
    for model in MODELS:
        rewrite(
            folder, model, "truthfulqa_gen", lambda rows: [row | {"metrics": ["bleu_max"]} for row in rows]
        )
    with pytest.raises(
        DataError, match=r"named rouge1_acc or bleu_acc; the log has bleu_max. Log the task with such"
    ):
        imported(folder)
    assert not (folder.parent / "run").exists()


def test_letters_are_not_searched_for_in_texts(tmp_path: Path, copied: Callable[..., Path]) -> None:
    """Of a task that no one knows: "A" is in nearly every text."""
    folder = copied("arc_challenge_chat", "arc_challenge")
    for model in MODELS:
        rewrite(folder, model, "arc_challenge_chat", lambda rows: [row | {"metrics": []} for row in rows])
        for name, other in (("arc_challenge_chat", "own_gen"), ("arc_challenge", "own_mc")):
            file = log_of(folder, model, name)
            file.rename(file.with_name(file.name.replace(name, other)))
    with pytest.raises(DataError, match="gold answers that are only the letters of options"):
        imported(folder)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (("truthfulqa_gen",), "base has truthfulqa_gen but not truthfulqa_mc1"),
        (("truthfulqa_mc1",), "base has truthfulqa_mc1 but not truthfulqa_gen"),
        (("truthfulqa_gen", "truthfulqa_mc2"), "truthfulqa_mc2: its acc is the probability .* use truthfulqa_mc1"),
        (("mmlu_anatomy",), "but not mmlu_anatomy_generative or mmlu_flan_n_shot_generative_anatomy"),
        (
            ("global_piqa_parallel_cloze_eng_latn", "global_piqa_parallel_generation_swh_latn"),
            "has global_piqa_parallel_cloze_eng_latn but not global_piqa_parallel_generation_eng_latn",
        ),
    ],
)  # fmt: skip
def test_one_side_alone_names_the_missing_task(
    copied: Callable[..., Path], kept: tuple[str, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        imported(copied(*kept))


def test_a_side_that_the_arm_lacks_is_named(copied: Callable[..., Path]) -> None:
    folder = copied("truthfulqa_gen", "truthfulqa_mc1", "arc_challenge", "arc_challenge_chat")
    log_of(folder, "arm", "truthfulqa_mc1").unlink()
    found = imported(folder)
    assert (dict(found.pairs), found.questions) == ({"arc_challenge_chat": "arc_challenge"}, 6)
    assert found.unpaired == ["arm has truthfulqa_gen but not truthfulqa_mc1"]
    shutil.rmtree(folder.parent / "run")
    log_of(folder, "arm", "arc_challenge").unlink()
    with pytest.raises(DataError, match=r"arm has arc_challenge_chat but not arc_challenge"):
        imported(folder)


def test_documents_of_two_pairs_count_once(copied: Callable[..., Path]) -> None:
    """Both few-shot and zero-shot tasks of one set of documents are in many folders."""
    folder = copied("gpqa_main_zeroshot", "gpqa_main_generative_n_shot")
    for model in MODELS:
        for task, other in (("zeroshot", "n_shot"), ("generative_n_shot", "cot_n_shot")):
            file = log_of(folder, model, f"gpqa_main_{task}")
            shutil.copy(file, file.with_name(file.name.replace(task, other)))
    found = imported(folder)
    assert (dict(found.pairs), found.questions) == ({"gpqa_main_generative_n_shot": "gpqa_main_zeroshot"}, 6)
    assert found.unpaired == ["another task asks the same documents: gpqa_main_cot_n_shot, gpqa_main_n_shot"]
    assert found.excluded == {}


def test_shuffled_and_shifted_documents_are_joined_by_content(copied: Callable[..., Path]) -> None:
    folder = copied()
    expected = sorted(truth(folder))
    for model in MODELS:
        for number, task in enumerate([*EVERY, *EVERY.values()]):
            by = 1 + number % 5

            def shift(rows: list[dict[str, Any]], by: int = by) -> list[dict[str, Any]]:
                moved = [row | {"doc_id": row["doc_id"] + by} for row in rows]
                return [*moved[by:], *moved[:by]]

            rewrite(folder, model, task, shift)
    assert imported(folder).excluded == {}
    records = RunFolder(folder.parent / "run").records()
    found = records.select(
        "arm", pl.col("question").str.strip_chars(), "open_correct", "choice_correct"
    ).rows()
    assert sorted(found) == expected


def test_documents_of_one_side_and_other_limits_are_counted(copied: Callable[..., Path]) -> None:
    folder = copied("arc_challenge", "arc_challenge_chat")
    rewrite(folder, "base", "arc_challenge", lambda rows: rows[:5])
    for task in ("arc_challenge", "arc_challenge_chat"):
        rewrite(folder, "arm", task, lambda rows: rows[1:])
    found = imported(folder)
    assert found.questions == 4
    assert found.excluded == {"one form only": 1, "not answered by every model": 1}
    shutil.rmtree(folder.parent / "run")
    for task in ("arc_challenge", "arc_challenge_chat"):
        rewrite(folder, "base", task, lambda rows: rows[:3])
    assert imported(folder).excluded == {"not answered by every model": 1, "not asked of base": 3}


def test_a_question_that_occurs_twice_is_excluded(copied: Callable[..., Path]) -> None:
    """Which of two equal questions an answer belongs to can't be told."""
    folder = copied("truthfulqa_gen", "truthfulqa_mc1")

    def repeat(rows: list[dict[str, Any]]) -> None:
        rows[1]["doc"]["question"] = rows[0]["doc"]["question"]

    for model in MODELS:
        rewrite(folder, model, "truthfulqa_gen", repeat)
    found = imported(folder)
    assert found.questions == 4
    assert found.excluded == {"asked more than once": 2, "one form only": 2}


def test_runs_appended_to_one_log_are_refused(copied: Callable[..., Path]) -> None:
    folder = copied("truthfulqa_gen", "truthfulqa_mc1")
    rewrite(folder, "base", "truthfulqa_gen", lambda rows: [*rows, *rows])
    with pytest.raises(DataError, match="base has every question of its open samples more than once"):
        imported(folder)


def test_runs_repeated_in_one_folder_give_the_newest(copied: Callable[..., Path]) -> None:
    folder = copied("truthfulqa_gen", "truthfulqa_mc1")
    old = log_of(folder, "arm", "truthfulqa_gen")
    earlier = old.with_name("samples_truthfulqa_gen_2020-01-01T00-00-00.000001.jsonl")
    write_lines(earlier, [row | {"rouge1_acc": 0} for row in rows_of(folder, "arm", "truthfulqa_gen")])
    found = imported(folder)
    assert [path.name for path in found.older] == [earlier.name]
    records = RunFolder(folder.parent / "run").records()
    assert records.filter(pl.col("arm") == "arm")["open_correct"].sum() > 0


def settings(folder: Path, model: str, task: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Gives the log of one task a later date and a results file of its own, as a second run of the harness does."""
    results = results_of(folder, model)
    held = json.loads(results.read_text())
    change(held)
    date = "2027-01-01T00-00-00.000001"
    (results.parent / f"results_{date}.json").write_text(json.dumps(held))
    file = log_of(folder, model, task)
    file.rename(file.with_name(f"samples_{task}_{date}.jsonl"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_args": {"pretrained": "other"}}, "truthfulqa_gen has pretrained base and truthfulqa_mc1 has pretrained other"),
        ({"model_num_parameters": 7}, "model_num_parameters 5 .* model_num_parameters 7"),
        ({"model_args": {"pretrained": "base", "peft": "adapter"}}, "peft None .* peft adapter"),
    ],
)  # fmt: skip
def test_two_models_in_one_folder_are_refused(
    copied: Callable[..., Path], changes: dict[str, Any], says: str
) -> None:
    folder = copied("truthfulqa_gen", "truthfulqa_mc1")
    held = json.loads(results_of(folder, "base").read_text())
    held["config"]["model_num_parameters"] = 5
    results_of(folder, "base").write_text(json.dumps(held))
    settings(folder, "base", "truthfulqa_mc1", lambda held: held["config"].update(changes))
    with pytest.raises(DataError, match=f"the logs of base are of two models: .*{says}"):
        imported(folder)


def test_a_moved_model_is_the_same_model(copied: Callable[..., Path]) -> None:
    folder = copied("truthfulqa_gen", "truthfulqa_mc1")
    for model in MODELS:
        moved = {"model_args": {"pretrained": f"elsewhere/{model}/"}}
        settings(folder, model, "truthfulqa_mc1", lambda held, moved=moved: held["config"].update(moved))
    assert imported(folder).questions == 6


def test_sides_with_other_examples_or_templates_are_told(copied: Callable[..., Path]) -> None:
    folder = copied(
        "arc_challenge", "arc_challenge_chat", "gpqa_main_zeroshot", "gpqa_main_generative_n_shot"
    )

    def change(held: dict[str, Any]) -> None:
        held["n-shot"]["arc_challenge"] = 25
        held["chat_template"] = "{{ messages }}"
        held["chat_template_sha"] = "abc"

    for model in MODELS:
        settings(folder, model, "arc_challenge", change)
    told = [note for note in imported(folder).notes if "different" in note]
    assert any(
        "different n-shot in 1 of 2 pairs of tasks: 25 in multiple choice, 0 in generation" in note
        for note in told
    )
    assert any("different chat_template in 1 of 2 pairs" in note for note in told)


def test_unknown_settings_are_told(copied: Callable[..., Path]) -> None:
    folder = copied("arc_challenge", "arc_challenge_chat")
    results_of(folder, "base").unlink()
    notes = imported(folder).notes
    assert any("No results file is next to the logs of 1 of 1 pairs of tasks" in note for note in notes)


def test_a_template_of_the_arm_alone_is_refused_by_its_prompts(copied: Callable[..., Path]) -> None:
    folder = copied("arc_challenge", "arc_challenge_chat")

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["arguments"]["gen_args_0"]["arg_0"] = (
                f"<user>{row['arguments']['gen_args_0']['arg_0']}</user>"
            )

    rewrite(folder, "arm", "arc_challenge_chat", change)
    with pytest.raises(DataError, match="arm was sent different texts from base's in 6 of 6 open questions"):
        imported(folder)


def test_options_in_another_order_are_refused_with_the_reason(copied: Callable[..., Path]) -> None:
    """The harness shuffles those of GPQA when it loads them."""
    folder = copied("gpqa_main_zeroshot", "gpqa_main_generative_n_shot")

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            prompt = row["arguments"]["gen_args_0"]["arg_0"]
            row["arguments"]["gen_args_0"]["arg_0"] = (
                prompt.replace("(A)", "(X)").replace("(B)", "(A)").replace("(X)", "(B)")
            )

    rewrite(folder, "arm", "gpqa_main_generative_n_shot", change)
    with pytest.raises(DataError, match="these tasks shuffle the options when they load"):
        imported(folder)


def test_plain_files_of_one_family_are_assigned_by_their_tasks(logs: Path, tmp_path: Path) -> None:
    from anomia.interop.arms import models_from

    files = [log_of(logs, model, task) for task in ("truthfulqa_gen", "truthfulqa_mc1") for model in MODELS]
    models = models_from("lm-eval", files, [], [])
    assert {name: [file.parent.name for file in each] for name, each in models.items()} == {
        "base": ["base", "base"], "compressed": ["arm", "arm"],
    }  # fmt: skip
    assert import_run("lm-eval", models, tmp_path / "run").questions == 6
    # MC2 asks the questions of MC1, but isn't its second model.
    wrong = [log_of(logs, "base", task) for task in ("truthfulqa_gen", "truthfulqa_mc1", "truthfulqa_mc2")]
    with pytest.raises(DataError, match="every task needs one file per model"):
        models_from("lm-eval", [*wrong, log_of(logs, "arm", "truthfulqa_gen")], [], [])


def test_the_most_specific_name_counts() -> None:
    for task, form, key in (
        ("mmlu_anatomy", "choice", "anatomy"),
        ("mmlu_anatomy_continuation", "choice", "anatomy"),
        ("mmlu_flan_n_shot_loglikelihood_anatomy", "choice", "anatomy"),
        ("kmmlu_hard_law", "choice", "law"),
        ("bbh_cot_fewshot_snarks", "open", "snarks"),
    ):
        place = place_of(task, form)  # type: ignore[arg-type]
        assert place is not None
        assert place.key == key
    assert place_of("arc_challenge", "open") is None
