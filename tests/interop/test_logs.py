"""The readers of sample logs: every way in which the harnesses write the same thing, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.errors import DataError
from anomia.interop.lighteval_log import read_lighteval
from anomia.interop.lm_eval_log import read_lm_eval
from anomia.interop.samples import UNKNOWN_LANGUAGE, language_of, right, task_of
from tests.interop.logs import choice_sample, open_sample, write_details, write_lines


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


def test_languages_come_from_documents_and_from_names_of_tasks() -> None:
    assert language_of({"language": "sw"}, "x") == "swahili"
    assert language_of({}, "xquad_sw") == "swahili"
    assert language_of({}, "anomia_open_thai") == "thai"
    assert language_of({}, "hellaswag") == UNKNOWN_LANGUAGE


def test_tasks_are_named_by_their_files() -> None:
    assert task_of(Path("samples_a_b_2026-01-31T12-00-00.123456.jsonl")) == "a_b"
    assert task_of(Path("samples_a_b.jsonl")) == "a_b"
    assert task_of(Path("details_x|y|0_2026-01-31T12-00-00.123456.parquet")) == "x|y|0"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no samples"),
        ("[1]\n", "line 1 is no sample"),
        ('{"doc": {}, "resps": []}\n', "line 1: there is no generated text"),
        ("{\n", "can't be read"),
        ('{"doc": {}, "resps": [[["nan", "False"]], [["1", "False"]]], "arguments": []}\n', "not a number"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "samples_x.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=says):
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
