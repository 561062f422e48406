"""Prompts without right answers, from a file to a run, its tables, its page and the gate; and chats of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia import api
from anomia.cli import main
from anomia.errors import ModelError, StudyError
from anomia.items.item import Item, Question
from anomia.items.readers import read_questions
from anomia.matrix import read_matrix
from anomia.models.chat import render, with_template
from anomia.plan.cost import CellForecast, forecast
from anomia.probe.encode import PromptEncoding, encode_item
from anomia.run_folder import RunFolder
from anomia.study import read_study
from tests.conftest import CHAT_TEMPLATE
from tests.models import chat_templates

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who founded Rome?"},
    {"role": "assistant", "content": "Romulus."},
    {"role": "user", "content": "And  when?"},
]


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"prompt": f"Tell me about number {n}.", "kind": "story", "language": "sw" if n % 2 else "en"}
        for n in range(12)
    ]
    rows[3]["reference"] = "three"
    return lines(tmp_path / "own.jsonl", rows)


def anomia(*words: str) -> int:
    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "run", "--base", str(model), "--arm", "magnitude:0.5", "--data", f"prompts:{data}", "--out", str(out),
        "--continuation-tokens", "12", "--dtype", "float32", *more,
    ]  # fmt: skip


def test_from_a_file_to_figures_page_and_gate(
    model_folder: Path, tokenizer: Any, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = tmp_path / "run", run(model_folder, prompts, tmp_path / "run")
    assert anomia(*command) == 0
    shown = capsys.readouterr().out
    assert "Only long answers were asked" in shown
    assert "untestable" not in shown
    assert "choice" not in shown
    records, items = RunFolder(out).records(), RunFolder(out).items()
    assert records.shape[0] == 24
    assert records["open_text"].is_null().all()
    assert records["choice_scores"].is_null().all()
    assert records["gold_first_token"].is_null().all()
    assert records["string_presence"].is_null().all()
    assert items["kind"].unique().to_list() == ["story"]
    graded = records.filter(pl.col("continuation_correct").is_not_null())
    assert graded["question"].unique().to_list() == ["Tell me about number 3."]
    # What is sent is the prompt alone.
    first = records.row(0, named=True)
    assert first["prompt_tokens"] == len(tokenizer(first["question"]).input_ids)
    assert records.group_by("item_id").agg(pl.col("prompt_hash").n_unique())["prompt_hash"].max() == 1
    results = json.loads((out / "results.json").read_text())
    assert results["scope"] is None
    assert results["fates"] == []
    assert results["damage"]
    assert {row["outcome"] for row in results["verdicts"]} == {"unjudged"}
    assert {row["measure"].partition("/")[0] for row in results["figures"]} == {"long", "along"}

    assert anomia("show", str(out)) == 0
    shown = capsys.readouterr().out
    assert "Long answers by position" in shown
    assert "of the prompts, per word" in shown
    assert "gold" not in shown
    assert "Accuracy" not in shown
    assert "flips" not in shown
    assert anomia("items", str(out)) == 0
    shown = capsys.readouterr().out
    assert "at length" in shown
    assert "12 tokens" in shown
    assert "picked" not in shown
    assert anomia("gate", str(out)) == 3
    shown = capsys.readouterr()
    assert "only long answers were asked" in shown.out + shown.err
    assert anomia("export", str(out), str(tmp_path / "rows.csv")) == 0
    assert pl.read_csv(tmp_path / "rows.csv").shape[0] == 24
    page = (out / "report" / "index.html").read_text()
    assert "Long answers that never end" in page
    assert "two in base" not in page
    assert "| unjudged |" in (out / "report" / "tables" / "verdicts.md").read_text()

    # A resumed run measures what is missing, with the same records.
    (shard,) = out.rglob("magnitude*swahili*.parquet")
    shard.unlink()
    assert anomia(*command) == 0
    assert RunFolder(out).records().equals(records, null_equal=True)
    prompts.write_text(prompts.read_text().replace("number 1.", "number one."))
    capsys.readouterr()
    assert anomia(*command) == 2
    assert "different questions" in capsys.readouterr().err


def test_prompts_through_the_api(model_folder: Path, prompts: Path, tmp_path: Path) -> None:
    settings = {"continuation_tokens": 12, "dtype": "float32", "progress": False}
    found = api.run(
        base=str(model_folder),
        arms=["magnitude:0.5"],
        data=f"prompts:{prompts}",
        out=tmp_path / "run",
        **settings,
    )
    assert found.languages == ["english", "swahili"]
    assert found.verdict.outcome == "unjudged"
    assert "long answers" in found.verdict.text
    rows = found.records
    assert rows.filter(pl.col("arm") == "magnitude:0.5")["continuation_kl"].null_count() == 0
    # Those of the command are the same.
    assert anomia(*run(model_folder, prompts, tmp_path / "command")) == 0
    by_command = RunFolder(tmp_path / "command").records()
    names = [name for name in by_command.columns if name.startswith("continuation_")]
    assert (
        RunFolder(tmp_path / "run").records().select(names).equals(by_command.select(names), null_equal=True)
    )
    for measure in ("long/unended", "along/top", "along/kl"):
        estimate = found.estimate(measure, "magnitude:0.5")
        assert estimate is not None
        assert estimate.low <= estimate.value <= estimate.high
    assert api.open_run(tmp_path / "run").estimate("along/top", "magnitude:0.5") == found.estimate(
        "along/top", "magnitude:0.5"
    )
    assert "magnitude" in found._repr_html_()
    assert found.report(tmp_path / "page").is_file()


def test_a_plan_counts_the_long_answers(model_folder: Path, prompts: Path, tmp_path: Path) -> None:
    def planned(tokens: int) -> CellForecast:
        values = {
            "base": str(model_folder),
            "arms": ["magnitude:0.5"],
            "data": f"prompts:{prompts}",
            "continuation_tokens": tokens,
        }
        (cell,) = forecast(read_matrix(None, values))
        return cell

    short, long = planned(16), planned(64)
    assert short.items == 12
    # Each token is generated once and read once along base's answer.
    assert long.work["magnitude:0.5"].tokens - short.work["magnitude:0.5"].tokens == 12 * 2 * 48
    assert long.size.need.item > short.size.need.item


def encoded(tokenizer: Any, question: Question, **more: Any) -> list[int]:
    found = encode_item(
        Item(question), tokenizer, PromptEncoding(**more), ("continuation",), exemplar=None, oracle=False
    )
    assert found.long is not None
    return list(found.long.prompt)


def of_transformers(tokenizer: Any, messages: list[dict[str, str]], template: str | None = None) -> list[int]:
    ids = tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        add_generation_prompt=True,
        return_dict=False,
        enable_thinking=False,
    )
    return list(ids)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, chat_templates.LLAMA_3, chat_templates.QWEN_3])
def test_messages_are_written_as_by_apply_chat_template(
    tokenizer: Any, template: str, tmp_path: Path
) -> None:
    tokenizer = with_template(tokenizer, template)
    rows = [{"messages": CHAT}, {"messages": CHAT[1:]}, {"prompt": "Alone?"}]
    (questions,) = read_questions(f"prompts:{lines(tmp_path / 'chat.jsonl', rows)}").values()
    for question, row in zip(questions, rows, strict=True):
        messages = row.get("messages", [{"role": "user", "content": "Alone?"}])
        assert encoded(tokenizer, question, chat=True) == of_transformers(tokenizer, messages)
        # A conversation's own system message comes before the study's.
        own = messages[0]["role"] == "system"
        system = [] if own else [{"role": "system", "content": "Say little."}]
        expected = of_transformers(tokenizer, [*system, *messages])
        assert encoded(tokenizer, question, chat=True, system="Say little.") == expected
    with pytest.raises(ModelError, match=r"conversation of 4 messages.*--chat"):
        encoded(tokenizer, questions[0])
    assert encoded(tokenizer, questions[2]) == tokenizer("Alone?").input_ids


def test_a_template_without_system_messages_is_told(tokenizer: Any) -> None:
    silent = with_template(tokenizer, TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"))  # fmt: skip
    with pytest.raises(ModelError, match="leaves out the system message that begins with 'Be brief"):
        render(silent, "Who?", system="Be brief.")
    refusing = with_template(tokenizer, "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE)  # fmt: skip
    with pytest.raises(ModelError, match=r"System role not supported.*may take no system message"):
        render(refusing, "Who?", system="Be brief.")


def test_an_own_template_and_a_system_message_are_used_and_kept(
    model_folder: Path, tokenizer: Any, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(TEMPLATE)
    (tmp_path / "system.txt").write_text("You are kind.\n")
    more = [
        "--chat",
        "--system-file",
        str(tmp_path / "system.txt"),
        "--chat-template",
        str(template),
        "--limit",
        "2",
    ]
    command = run(model_folder, prompts, tmp_path / "run", *more)
    assert anomia(*command) == 0
    study = RunFolder(tmp_path / "run").study()
    assert (study["system"], study["chat_template"]) == ("You are kind.", TEMPLATE)
    assert len(study["provenance"]["chat_template"]) == 16
    records = RunFolder(tmp_path / "run").records()
    for row in records.iter_rows(named=True):
        messages = [
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": row["question"]},
        ]
        assert row["prompt_tokens"] == len(of_transformers(tokenizer, messages, TEMPLATE))
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "You are kind." in page
    assert "the study's own" in page.replace("\\u0027", "'")
    template.write_text(TEMPLATE.replace("<assistant>", "<model>"))
    capsys.readouterr()
    assert anomia(*command) == 2
    assert "differs in chat_template" in capsys.readouterr().err


def test_what_cannot_be_asked_is_said_at_once(prompts: Path, tmp_path: Path) -> None:
    given = {"base": "m", "arms": ["magnitude:0.5"], "data": f"prompts:{prompts}"}

    def refusal(**more: Any) -> str:
        with pytest.raises(StudyError) as error:
            read_study(None, given | more)
        return str(error.value)

    assert read_study(None, given).probes == ("continuation",)
    assert read_study(None, given | {"data": "demo"}).probes[:1] == ("open",)
    assert "can't be asked open, rank" in refusal(probes=["rank", "open"])
    assert "no dissociation rate" in refusal(until_width=0.2)
    assert "chat: true" in refusal(system="Be brief.")
    assert "give one of them" in refusal(chat=True, system="a", system_file="b")
    assert "can't be read" in refusal(chat=True, system_file=str(tmp_path / "none"))
    assert "can't be read" in refusal(chat=True, system_file="\ud800")
    assert "can't be read" in refusal(chat=True, chat_template=str(tmp_path / "none.jinja"))
    (tmp_path / "plain.jinja").write_text("no braces")
    assert "not a Jinja template" in refusal(chat=True, chat_template=str(tmp_path / "plain.jinja"))


def test_a_conversation_without_a_template_is_refused_before_anything_is_loaded(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [("user", "Who?"), ("assistant", "Ann."), ("user", "Where?")]
    talk = [{"role": role, "content": text} for role, text in turns]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"id": "one", "messages": talk}) + "\n")
    monkeypatch.setattr("anomia.running.model.load_model", pytest.fail)
    assert anomia(*run(model_folder, tmp_path / "talk.jsonl", tmp_path / "run")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "item 'one' is a conversation of 3 messages, which only a chat template can write; give --chat"
        in said
    )
