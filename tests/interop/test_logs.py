"""The readers of sample logs: every way in which the harnesses write the same thing, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets import Dataset

from anomia.errors import DataError
from anomia.interop.lighteval_log import read_lighteval
from anomia.interop.lm_eval_log import read_lm_eval
from anomia.interop.samples import UNKNOWN_LANGUAGE, language_of, right, task_of
from tests.interop.logs import choice_sample, detail, open_sample, scored_sample, write_details, write_lines


def one(tmp_path: Path, row: dict[str, Any], name: str = "samples_towns.jsonl") -> Any:
    return read_lm_eval(write_lines(tmp_path / name, [row])).samples[0]


def test_a_generation_sample(tmp_path: Path) -> None:
    found = one(tmp_path, open_sample(3, " Founder3\n", True))
    assert (found.form, found.text, found.answers) == ("open", " Founder3\n", ("Founder3", "Mr Founder3"))
    assert right(found) == (True, "exact_match")
    assert found.question == "Who founded Place3?"


def test_a_choice_sample_in_both_layouts(tmp_path: Path) -> None:
    sample = choice_sample(3, True)
    # Before 0.4.3 requests were lists and log-probabilities numbers.
    older = {
        **sample,
        "arguments": [["Q", " Founder3"], ["Q", " Alice"], ["Q", " Bob"], ["Q", " Carol"]],
        "resps": [[[-1.5, False]], [[-2.0, False]], [[-3.0, False]], [[-4.0, True]]],
        "target": 0,
    }
    for row in (sample, older):
        found = one(tmp_path, row)
        assert found.options == ("Founder3", "Alice", "Bob", "Carol")
        assert found.scores == (-1.5, -2.0, -3.0, -4.0)
        assert (found.gold, right(found)) == (0, (True, "acc"))


def test_mutual_information_logs_every_option_twice(tmp_path: Path) -> None:
    sample = choice_sample(3, True)
    twice = {f"gen_args_{n + 4}": {"arg_0": "", "arg_1": each["arg_1"]}
             for n, each in enumerate(sample["arguments"].values())}  # fmt: skip
    found = one(tmp_path, {
        **sample, "arguments": sample["arguments"] | twice, "resps": sample["resps"] + [[["-9", "False"]]] * 4,
    })  # fmt: skip
    assert found.scores == (-1.5, -2.0, -3.0, -4.0)


def test_more_than_ten_options_keep_their_order(tmp_path: Path) -> None:
    options = {f"gen_args_{n}": {"arg_0": "Q", "arg_1": f" o{n}"} for n in range(12)}
    shuffled = dict(sorted(options.items()))
    row = choice_sample(1, True, arguments=shuffled, resps=[[[str(-n - 1.0), "False"]] for n in range(12)])
    assert one(tmp_path, row).options == tuple(f"o{n}" for n in range(12))


def test_without_a_metric_gold_decides(tmp_path: Path) -> None:
    opened = open_sample(3, "It was founder3, I think.", False, metrics=["rouge"], rouge=0.4)
    assert right(one(tmp_path, opened)) == (True, "containment")
    chosen = choice_sample(3, False, metrics=[], target=" Alice")
    assert right(one(tmp_path, chosen)) == (True, "largest log-probability")
    nothing = open_sample(3, "x", False, metrics=[], target="", doc={"n": 1})
    assert right(one(tmp_path, nothing)) == (None, "")


def test_one_of_several_filters_counts(tmp_path: Path) -> None:
    rows = [
        open_sample(n, text, right, filter=name)
        for name, text, right in (("strict", "no", False), ("flexible", "yes", True))
        for n in range(3)
    ]
    path = write_lines(tmp_path / "samples_gsm.jsonl", rows)
    strict, flexible = (read_lm_eval(path, filter_name=name) for name in (None, "flexible"))
    assert (len(strict.samples), strict.filter, right(strict.samples[0])[0]) == (3, "strict", False)
    assert (flexible.filter, right(flexible.samples[0])[0]) == ("flexible", True)
    with pytest.raises(DataError, match="it has strict, flexible"):
        read_lm_eval(path, filter_name="loose")
    # Multiple-choice tasks have one filter, `none`, whatever the generation's are called.
    chosen = write_lines(tmp_path / "samples_mc.jsonl", [choice_sample(n, True) for n in range(3)])
    assert len(read_lm_eval(chosen, filter_name="flexible").samples) == 3


def test_languages_that_documents_name() -> None:
    assert language_of({"language": "sw"}) == "swahili"
    assert language_of({"lang": "Thai"}) == "thai"
    assert language_of({"language": 3}) == UNKNOWN_LANGUAGE


def test_tasks_are_named_by_their_files() -> None:
    assert task_of(Path("samples_a_b_2026-01-31T12-00-00.123456.jsonl")) == "a_b"
    assert task_of(Path("samples_a_b.jsonl")) == "a_b"
    assert task_of(Path("details_x|y|0_2026-01-31T12-00-00.123456.parquet")) == "x|y|0"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arguments": [["Q", " word"]], "resps": [[[-1.5, False]]]},
        {"arguments": {"gen_args_0": {"arg_0": "A text."}}, "resps": [["-1779.77"]]},
        {"arguments": [["A text."]], "resps": [[-1779.77]]},
    ],
)
def test_tasks_that_only_score_a_text_give_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_lines(tmp_path / "samples_lambada.jsonl", [scored_sample(n) | changes for n in range(3)])
    assert read_lm_eval(path) is None
    with pytest.raises(DataError, match="mixes"):
        read_lm_eval(write_lines(path, [scored_sample(0) | changes, open_sample(1, "x", True)]))


def test_generated_texts_that_look_like_scores_are_texts(tmp_path: Path) -> None:
    for texts in (["-1.5"], ["-1.5", "True"]):
        found = one(tmp_path, open_sample(3, "", False, resps=[texts], filtered_resps=texts))
        assert (found.form, found.text) == ("open", "-1.5")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no samples"),
        ("[1]\n", "line 1 is not a sample"),
        ('{"doc": {}, "resps": []}\n', "line 1: there is no generated text"),
        ("{\n", "line 1 is not JSON (column 2: it ends early"),
        ('{"doc": {}, "resps": [[["nan", "False"]], [["1", "False"]]], "arguments": []}\n', "not a number"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "samples_x.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(says)):
        read_lm_eval(path)


def test_details_of_other_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "details_x.parquet"
    pl.DataFrame({"full_prompt": ["x"]}).write_parquet(path)
    with pytest.raises(DataError, match=r"no column doc, model_response, metric.*lighteval 0\.11"):
        read_lighteval(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="can't be read"):
        read_lighteval(path)


def test_details_of_both_forms(tmp_path: Path) -> None:
    write_details(tmp_path / "d", said={0}, picked={1}, count=3)
    chosen, opened = (read_lighteval(next((tmp_path / "d").glob(f"*{n}*"))) for n in ("mc", "gen"))
    assert (chosen.form, opened.form) == ("choice", "open")
    assert [right(sample)[0] for sample in chosen.samples] == [False, True, False]
    assert [right(sample)[0] for sample in opened.samples] == [True, False, False]
    assert opened.samples[1].answers == ("Founder1", "Mr Founder1")


def read_rows(tmp_path: Path, *rows: dict[str, Any]) -> Any:
    path = tmp_path / "details_towns|0.parquet"
    Dataset.from_list(list(rows)).to_parquet(str(path))
    return read_lighteval(path)


def changed(row: dict[str, Any], methods: list[str], **reply: Any) -> dict[str, Any]:
    return row | {
        "doc": row["doc"] | {"sampling_methods": methods},
        "model_response": row["model_response"] | reply,
    }


def test_servers_log_the_log_probabilities_of_generated_tokens_too(tmp_path: Path) -> None:
    opened = detail(3, choice=False, right=True)
    # Two accepted answers, and two tokens.
    for methods in (["GENERATIVE"], [], ["LOGPROBS", "GENERATIVE"]):
        found = read_rows(tmp_path, changed(opened, methods, logprobs=[-0.5, -0.25])).samples[0]
        assert (found.form, found.text, found.scores) == ("open", "Founder3", ())
    silent = changed(opened, ["GENERATIVE"], text=[""], logprobs=[-0.5, -0.25])
    assert read_rows(tmp_path, silent).samples[0].text == ""


def test_choices_are_scored_whole_or_token_by_token(tmp_path: Path) -> None:
    chosen = detail(3, choice=True, right=True)
    for methods in (["LOGPROBS"], []):
        nested = changed(chosen, methods, logprobs=[[-1.0, -0.5], [-2.0], [-1.0, -1.0, -1.0], [-4.0]])
        for row in (changed(chosen, methods), nested):
            found = read_rows(tmp_path, row).samples[0]
            assert (found.form, found.scores) == ("choice", (-1.5, -2.0, -3.0, -4.0))
    with pytest.raises(DataError, match="row 1: 4 options but 3 scores"):
        read_rows(tmp_path, changed(chosen, ["LOGPROBS"], logprobs=[-1.0, -2.0, -3.0]))


def test_details_of_a_perplexity_give_nothing(tmp_path: Path) -> None:
    opened = detail(3, choice=False, right=True)
    assert read_rows(tmp_path, changed(opened, ["PERPLEXITY"], text=[], logprobs=[-9.0])) is None
    alone = changed(
        opened | {"doc": opened["doc"] | {"choices": ["x"]}}, ["LOGPROBS"], text=[], logprobs=[-9.0]
    )
    assert read_rows(tmp_path, alone) is None
