"""How another harness ran the models: what its results files say of it stands in the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomia.cli import main
from anomia.errors import DataError
from anomia.interop.as_run import Imported, import_run
from anomia.measure.results import read_results
from anomia.notes import read_differences
from anomia.run_folder import RunFolder
from tests.interop.logs import write_details, write_model

EVERY = set(range(24))
DATE = "2026-01-31T12-00-00.123456"


def write(folder: Path, held: dict[str, Any] | None, *, name: str = f"results_{DATE}.json") -> None:
    """A model's logs with a results file beside them."""
    write_model(folder, said=EVERY, picked=EVERY)
    if held is not None:
        (folder / name).write_text(json.dumps(held))


def results(arguments: Any = "pretrained=a", config: Any = None, **more: Any) -> dict[str, Any]:
    """The results file of lm-evaluation-harness, as far as it tells settings."""
    return {"config": {"model": "hf", "model_args": arguments, **(config or {})}, **more}


def imported(tmp_path: Path, base: dict[str, Any] | None, arm: dict[str, Any] | None) -> Imported:
    write(tmp_path / "base", base)
    write(tmp_path / "arm", arm)
    return import_run("lm-eval", {n: [tmp_path / n] for n in ("base", "arm")}, tmp_path / "run")


def found(tmp_path: Path, base: dict[str, Any], arm: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """Kind and both values of each difference, by what it is."""
    rows = imported(tmp_path, base, arm).differences["arm"]
    return {row.what: (row.kind, row.base, row.other) for row in rows}


def test_what_changes_answers_stands_in_the_run_and_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = results("pretrained=a,dtype=float32", {"batch_size": 1})
    arm = results("pretrained=b,add_bos_token=False,max_length=128", {"batch_size": 4})
    write(tmp_path / "base", base)
    write(tmp_path / "arm", arm)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["import", "lm-eval", str(tmp_path / "base"), str(tmp_path / "arm"), "--out", str(run)])
    assert not stopped.value.code
    said = capsys.readouterr().out
    assert "arm: different add_bos_token: – in base, False here" in said
    assert "arm: also differs from base in dtype" in said
    assert "batch_size" not in said
    rows = {row.what: row for row in read_differences(RunFolder(run))["arm"]}
    assert {what: row.kind for what, row in rows.items()} == {
        "add_bos_token": "confounding", "max_length": "confounding", "dtype": "noted", "pretrained": "harmless",
        "batch_size": "harmless",
    }  # fmt: skip
    assert next(iter(rows.values())).kind == "confounding"
    (besides,) = read_results(run).besides.values()
    assert "add_bos_token, max_length" in besides
    assert "dtype" not in besides
    source = yaml.safe_load((run / "study.yaml").read_text())["provenance"]["imported"]["files"]["arm"][0]
    assert source["results"] == str(tmp_path / "arm" / f"results_{DATE}.json")


@pytest.mark.parametrize(
    ("base", "arm", "what", "kind"),
    [
        (results(), results(config={"model": "vllm"}), "backend", "confounding"),
        (results(), results(config={"gen_kwargs": {"temperature": 1.0}}), "gen_kwargs", "confounding"),
        (results(), results(config={"gen_kwargs": "temperature=1"}), "gen_kwargs", "confounding"),
        (results(), results(chat_template="{{ x }}", chat_template_sha="1f"), "chat_template", "confounding"),
        (results(chat_template="a"), results(chat_template="b"), "chat_template", "confounding"),
        (results(), results(system_instruction="Be brief."), "system_instruction", "confounding"),
        (results(), results(fewshot_as_multiturn=True), "fewshot_as_multiturn", "confounding"),
        (results(**{"n-shot": {"towns_gen": 0}}), results(**{"n-shot": {"towns_gen": 5}}), "n-shot", "confounding"),
        (results(versions={"towns_mc": 1}), results(versions={"towns_mc": 2.0}), "task version", "confounding"),
        (results(max_length=4096), results(max_length=512), "max_length", "confounding"),
        (results(tokenizer_bos_token=["<s>", 1]), results(tokenizer_bos_token=["", -1]), "tokenizer_bos_token",
         "confounding"),
        (results(configs={"towns_gen": {"filter_list": [{"name": "none", "filter": ["a"]}]}}),
         results(configs={"towns_gen": {"filter_list": [{"name": "none", "filter": ["b"]}]}}), "filter_list", "confounding"),
        (results(), results("pretrained=a,tokenizer=c"), "tokenizer", "confounding"),
        (results(), results("pretrained=a,something_new=1"), "something_new", "confounding"),
        (results(), results("pretrained=a,load_in_4bit=True"), "load_in_4bit", "noted"),
        (results(), results("pretrained=a,gptqmodel=True"), "gptqmodel", "noted"),
        (results(), results("pretrained=a,peft=lora"), "peft", "noted"),
        (results(), results(config={"limit": 12.0}), "limit", "noted"),
        (results(lm_eval_version="0.4.9"), results(lm_eval_version="0.4.13"), "lm_eval_version", "noted"),
        (results(config={"model_dtype": "torch.float32"}), results(config={"model_dtype": "bfloat16"}), "model_dtype", "noted"),
        (results(config={"device": "cpu"}), results(config={"device": "cuda:0"}), "device", "harmless"),
        (results(), results("pretrained=a,parallelize=True"), "parallelize", "harmless"),
    ],
)  # fmt: skip
def test_each_setting_has_its_kind(
    tmp_path: Path, base: dict[str, Any], arm: dict[str, Any], what: str, kind: str
) -> None:
    rows = found(tmp_path, base, arm)
    assert {name: row[0] for name, row in rows.items()} == {what: kind}
    assert rows[what][1] != rows[what][2]


@pytest.mark.parametrize(
    ("base", "arm"),
    [
        # As other versions write the same.
        (results("pretrained=a,add_bos_token=true,x=1"), results({"x": 1, "add_bos_token": True, "pretrained": "a"})),
        (results('{"pretrained": "a", "x": null}'), results("pretrained=a")),
        (results("pretrained=a,dtype=auto"), results()),
        (results("pretrained=a"), results("pretrained=a,tokenizer=a")),
        (results(fewshot_as_multiturn=None, chat_template=None), results(fewshot_as_multiturn=False)),
        (results(config={"model_dtype": "torch.float16"}), results(config={"model_dtype": "float16"})),
        # What an older version didn't write is unknown and no difference.
        (results(), results(max_length=128, tokenizer_bos_token=["<s>", 1], config={"random_seed": 0})),
        # Another task's.
        (results(**{"n-shot": {"x": 0}}), results(**{"n-shot": {"x": 5}})),
        (results(configs={"towns_gen": {"metric_list": ["<function f at 0x7fa7>"]}}),
         results(configs={"towns_gen": {"metric_list": ["<function f at 0x12ab>"]}})),
    ],
)  # fmt: skip
def test_the_same_written_otherwise_is_no_difference(
    tmp_path: Path, base: dict[str, Any], arm: dict[str, Any]
) -> None:
    assert found(tmp_path, base, arm) == {}


def test_the_tokenizer_of_base_is_no_other_tokenizer(tmp_path: Path) -> None:
    assert set(found(tmp_path, results(), results("pretrained=b,tokenizer=a"))) == {"pretrained"}


def test_long_values_are_shown_from_where_they_differ(tmp_path: Path) -> None:
    one, other = (results(f"pretrained=a,y={'x' * 100}{end},z=1") for end in ("1", "2"))
    kind, mine, its = found(tmp_path, one, other)["y"]
    assert (kind, mine.endswith("x1"), its.endswith("x2")) == ("confounding", True, True)


def test_without_results_of_the_same_run_nothing_is_said(tmp_path: Path) -> None:
    told = imported(tmp_path, results("pretrained=a,max_length=8"), None)
    assert not told.differences
    assert not (tmp_path / "run" / "differences").exists()
    # Of another day, and so of another run.
    write(tmp_path / "other", results(), name="results_2026-02-01T00-00-00.1.json")
    models = {"base": [tmp_path / "base"], "other": [tmp_path / "other"]}
    assert not import_run("lm-eval", models, tmp_path / "again").differences


@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_results_that_cannot_be_read_are_one_message(tmp_path: Path, content: str) -> None:
    write(tmp_path / "base", results())
    write(tmp_path / "arm", None)
    (tmp_path / "arm" / f"results_{DATE}.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="says how the harness ran the model, can't be read"):
        import_run("lm-eval", {n: [tmp_path / n] for n in ("base", "arm")}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "odd", [[], "x", 3, None, {"model_args": 3}, {"model_args": "{", "gen_kwargs": [[]]}]
)
def test_odd_values_are_no_crash(tmp_path: Path, odd: Any) -> None:
    held = {"config": odd, "configs": odd, "versions": odd, "n-shot": odd}
    assert found(tmp_path, held, held) == {}


def test_the_results_of_lighteval(tmp_path: Path) -> None:
    def one(name: str, **config: Any) -> dict[str, Any]:
        generation = {"temperature": 0, "max_new_tokens": None}
        model = {
            "model_name": f"org/{name}",
            "batch_size": 1,
            "max_length": 4096,
            "generation_parameters": generation,
        }
        general = {
            "lighteval_sha": "?", "start_time": 1.5, "end_time": len(name), "job_id": name, "max_samples": None,
            "model_config": model | config, "model_name": f"org/{name}",
        }  # fmt: skip
        return {"config_general": general, "versions": {"community|towns_gen|0": 0}}

    held = {
        "base": one("base"),
        "arm": one(
            "arm", batch_size=8, max_length=512, generation_parameters={"temperature": 1.0}, dtype="x"
        ),
    }
    for name, each in held.items():
        write_details(tmp_path / "out" / "details" / "org" / name / DATE, said=EVERY, picked=EVERY)
        folder = tmp_path / "out" / "results" / "org" / name
        folder.mkdir(parents=True)
        (folder / f"results_{DATE}.json").write_text(json.dumps(each))
    models = {name: [tmp_path / "out" / "details" / "org" / name] for name in held}
    rows = import_run("lighteval", models, tmp_path / "run").differences["arm"]
    assert {row.what: row.kind for row in rows} == {
        "max_length": "confounding", "temperature": "confounding", "batch_size": "harmless", "model_name": "harmless",
    }  # fmt: skip
