"""Base's own answers as calibration text: written alone, and by a run for its arms."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

from anomia.cli.app import app
from anomia.compress.apply import prepare_windows
from anomia.compress.calibration import make_batches
from anomia.compress.options import TextOptions
from anomia.compress.spec import parse_arm
from anomia.errors import AnomiaError, DataError, StudyError
from anomia.models.load import load_model, load_tokenizer
from anomia.run_folder import RunFolder
from anomia.running.answerer import LocalModel
from anomia.running.answers import study_of_answers, write_answers
from anomia.running.execute import run_study
from anomia.running.model import make_alone
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

QUIET = PlainProgress(lambda text: None)
STEP = parse_arm("wanda:0.5").steps[0]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def asked(study: Study) -> Study:
    return study_of_answers({"base": study.base, "data": study.data, "limit": 3, "dtype": "float32"})


def test_tokens_are_those_of_generate(asked: Study, tmp_path: Path) -> None:
    write_answers(asked, tmp_path / "a.jsonl", make_alone(asked, QUIET), progress=QUIET)
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.base, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.base)
    rows = rows_of(tmp_path / "a.jsonl")
    assert [row["language"] for row in rows] == ["english", "swahili"] * 3
    for row in rows:
        prompt = row["token_ids"][: row["answer_start"]]
        written = row["text"].removesuffix(row["answer"])
        assert prompt == tokenizer(written)["input_ids"]
        made = model.generate(torch.tensor([prompt]), max_new_tokens=32, do_sample=False)[0].tolist()
        assert row["token_ids"] == made
        assert row["answer"] == tokenizer.decode(made[len(prompt) :], skip_special_tokens=True)


def test_an_interrupted_call_is_continued_with_the_same_batches(
    asked: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked.model_copy(update={"batch_size": 2})
    base = make_alone(asked, QUIET)
    write_answers(asked, tmp_path / "whole.jsonl", base, progress=QUIET)
    batches: list[list[str]] = []
    whole = LocalModel.answer

    def stopping(self: LocalModel, encoded: Any, *args: Any, **more: Any) -> Any:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append([each.item.question.id for each in encoded])
        return whole(self, encoded, *args, **more)

    monkeypatch.setattr(LocalModel, "answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_answers(asked, tmp_path / "a.jsonl", base, progress=QUIET)
    assert not (tmp_path / "a.jsonl").exists()
    done, batches[:] = list(batches), []

    def counting(self: LocalModel, encoded: Any, *args: Any, **more: Any) -> Any:
        batches.append([each.item.question.id for each in encoded])
        return whole(self, encoded, *args, **more)

    monkeypatch.setattr(LocalModel, "answer", counting)
    write_answers(asked, tmp_path / "a.jsonl", base, progress=QUIET)
    assert len(batches) == 1
    assert not {name for batch in done for name in batch} & set(batches[0])
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def test_other_weights_are_not_continued(asked: Study, tmp_path: Path) -> None:
    base = make_alone(asked, QUIET)
    with torch.no_grad():
        base.loaded.model.lm_head.weight.mul_(-1)
    write_answers(asked, tmp_path / "other.jsonl", base, progress=QUIET)
    part = tmp_path / ".a.jsonl.unfinished"
    part.write_text(
        "".join(json.dumps({"key": "x", **row}) + "\n" for row in rows_of(tmp_path / "other.jsonl"))
    )
    write_answers(asked, tmp_path / "a.jsonl", make_alone(asked, QUIET), progress=QUIET)
    assert rows_of(tmp_path / "a.jsonl") != rows_of(tmp_path / "other.jsonl")


def test_windows_are_the_stored_tokens_and_weights_the_positions_that_predict_answers(
    asked: Study, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    base = make_alone(asked, QUIET)
    write_answers(asked, path, base, progress=QUIET)
    text = TextOptions(source=f"file:{path}", answer_weight=3.0)
    windows = prepare_windows(STEP, base.tokenizer, text)
    assert windows is not None
    rows = {tuple(row["token_ids"]): row["answer_start"] for row in rows_of(path)}
    assert set(windows.token_ids) == set(rows)
    for batch in make_batches(windows):
        assert batch.weights is not None
        weights = batch.weights.view(batch.input_ids.shape)
        for ids, mine in zip(batch.input_ids.tolist(), weights.tolist(), strict=True):
            (start,) = (rows[known] for known in rows if tuple(ids[: len(known)]) == known)
            assert mine == [1.0] * (start - 1) + [3.0] * (len(ids) - start + 1)
    plain = prepare_windows(STEP, base.tokenizer, replace(text, answer_weight=1.0))
    assert plain is not None
    assert all(batch.weights is None for batch in make_batches(plain))


def test_answers_of_another_tokenizer_are_refused(asked: Study, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_answers(asked, path, make_alone(asked, QUIET), progress=QUIET)
    tokenizer, _ = load_tokenizer(asked.base)
    tokenizer.add_tokens(["<one more>"])
    with pytest.raises(DataError, match="made with another tokenizer"):
        prepare_windows(STEP, tokenizer, TextOptions(source=f"file:{path}"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token_ids": "1 2"}, "not a list of token ids"),
        ({"token_ids": [1, -2]}, "not a list of token ids"),
        ({"token_ids": [1, True]}, "not a list of token ids"),
        ({"answer_start": 0}, "not a place in its 3 tokens"),
        ({"answer_start": 3}, "not a place in its 3 tokens"),
        ({"tokenizer": None}, "which tokenizer"),
    ],
)
def test_bad_rows_are_one_message(asked: Study, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = tmp_path / "a.jsonl"
    good = {"text": "a b", "token_ids": [1, 2, 3], "answer_start": 1, "tokenizer": "2-x"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | changes) + "\n")
    with pytest.raises(DataError, match=f"line 2.*{says}"):
        prepare_windows(STEP, load_tokenizer(asked.base)[0], TextOptions(source=f"file:{path}"))


def test_answers_longer_than_a_window_are_dropped_and_said(asked: Study, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    base = make_alone(asked, QUIET)
    write_answers(asked, path, base, progress=QUIET)
    lengths = sorted(len(row["token_ids"]) for row in rows_of(path))
    text = TextOptions(source=f"file:{path}", tokens=lengths[0])
    windows = prepare_windows(STEP, base.tokenizer, text)
    assert windows is not None
    kept = lengths.count(lengths[0])
    if kept < len(lengths):
        assert any(f"dropped {len(lengths) - kept} prompt" in warning for warning in windows.record.warnings)
    with pytest.raises(DataError, match="longer than"):
        prepare_windows(STEP, base.tokenizer, replace(text, tokens=lengths[0] - 1))


def test_a_run_calibrates_on_answers_to_questions_that_it_does_not_measure(
    study: Study, tmp_path: Path
) -> None:
    study = study.model_copy(
        update={
            "arms": ("wanda:0.5", "wanda:0.5,calibration=demo"),
            "calibration": "answers",
            "calibration_tokens": 96,
        }
    )
    said: list[str] = []
    assert not [
        each
        for each in run_study(study, tmp_path / "run", progress=PlainProgress(said.append))
        if each.failed
    ]
    (file,) = (tmp_path / "run" / "calibration").iterdir()
    measured = set(RunFolder(tmp_path / "run").items()["item_id"])
    rows = rows_of(file)
    assert len(rows) == 2 * 4
    assert not {row["id"] for row in rows} & measured
    (step,) = json.loads(_report(tmp_path / "run", "wanda:0.5"))["steps"]
    assert step["calibration"]["source"] == "answers"
    assert step["calibration"]["tokens"] == sum(len(row["token_ids"]) for row in rows)
    assert sum("answered 8 prompts for calibration, none of which is measured" in text for text in said) == 1


def _report(run: Path, arm: str) -> str:
    found = [
        file.path.read_text()
        for file in RunFolder(run).compression.files()
        if (file.read() or {})["arm"] == arm
    ]
    (report,) = found
    return report


def test_a_run_without_other_questions_is_refused_before_base_is_measured(
    study: Study, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    # All questions are about one passage, so none is left that shares no text with those that are measured.
    entries = [entry(n, context=entry(1)["context"]) for n in range(12)]
    study = study.model_copy(
        update={
            "data": f"jsonl:{write_jsonl(entries, 'one.jsonl')}",
            "calibration": "answers",
            "arms": ("wanda:0.5",),
        }
    )
    with pytest.raises(AnomiaError, match="share text with the questions to be measured"):
        run_study(study, tmp_path / "run", progress=QUIET)
    assert not (tmp_path / "run" / "records").exists()


def test_models_alone_say_how_to_get_answers(study: Study, tmp_path: Path) -> None:
    tokenizer, _ = load_tokenizer(study.base)
    with pytest.raises(StudyError, match="anomia answers"):
        prepare_windows(STEP, tokenizer, TextOptions(source="answers"))


def test_the_command_leaves_out_what_a_run_measures(study: Study, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_study(study.model_copy(update={"arms": ("magnitude:0.5",)}), run, progress=QUIET)
    call = [
        "answers",
        study.base,
        str(tmp_path / "a.jsonl"),
        "--data",
        study.data,
        "--limit",
        "5",
        "--not-in",
        str(run),
    ]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "10 answers" in done.output
    assert not {row["id"] for row in rows_of(tmp_path / "a.jsonl")} & set(RunFolder(run).items()["item_id"])
    model = load_model(study.base)
    windows = prepare_windows(STEP, model.tokenizer, TextOptions(source=f"file:{tmp_path / 'a.jsonl'}"))
    assert windows is not None
    assert windows.record.tokens_by_language.keys() == {"english", "swahili"}


def test_general_text_is_mixed_in_by_its_share_of_the_tokens(asked: Study, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    base = make_alone(asked, QUIET)
    write_answers(asked, path, base, progress=QUIET)
    plain = tmp_path / "plain.txt"
    plain.write_text(
        "\n\n".join(f"The town of Other{n} lies by the river and has {n} bridges." for n in range(60))
    )
    text = TextOptions(source=f"file:{path}", mix=f"file:{plain}=0.25", answer_weight=2.0)
    windows = prepare_windows(STEP, base.tokenizer, text)
    assert windows is not None
    answers = [
        ids for ids, start in zip(windows.token_ids, windows.answer_starts, strict=True) if start is not None
    ]
    assert len(answers) == len(rows_of(path))
    of_answers = sum(map(len, answers))
    assert windows.record.tokens - of_answers == pytest.approx(of_answers / 3, abs=1)
    assert "(25%)" in windows.record.source
    limited = prepare_windows(STEP, base.tokenizer, replace(text, budget=200))
    assert limited is not None
    assert limited.record.tokens == pytest.approx(200, abs=2)
    for mix in ("c4", "c4=1", "c4=x", "nothing=0.5"):
        with pytest.raises(StudyError):
            prepare_windows(STEP, base.tokenizer, replace(text, mix=mix))


def test_a_run_mixes_answers_into_other_text(study: Study, tmp_path: Path) -> None:
    study = study.model_copy(
        update={
            "arms": ("wanda:0.5",),
            "calibration_mix": "answers=0.5",
            "calibration_tokens": 96,
            "noise_items": 0,
        }
    )
    assert not [each for each in run_study(study, tmp_path / "run", progress=QUIET) if each.failed]
    (step,) = json.loads(_report(tmp_path / "run", "wanda:0.5"))["steps"]
    assert step["calibration"]["source"].startswith("demo and answers (")
