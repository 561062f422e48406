"""An arm has one name in every command and in the API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import anomia
from anomia.arms import find_arm
from anomia.cli import main
from anomia.errors import RunError
from tests.report.synthetic import write_run

ARMS = ["wanda:0.5", "checkpoint:./made/model", "packaged:./made/model", "checkpoint:me/int4", "packaged:alone/awq",
        "checkpoint:a/twin", "checkpoint:b/twin"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("wanda:0.5", ARMS[0]),
        ("wanda:0.50", ARMS[0]),
        ("checkpoint:./made/model", ARMS[1]),
        ("./made/model", ARMS[1]),
        ("made/model/", ARMS[1]),
        ("model", ARMS[1]),
        ("packaged:./made/model", ARMS[2]),
        ("me/int4", ARMS[3]),
        ("int4", ARMS[3]),
        ("alone/awq", ARMS[4]),
        ("awq", ARMS[4]),
    ],
)
def test_a_name_means_one_arm(name: str, meant: str) -> None:
    assert find_arm(name, ARMS, where="test: the run") == meant


def test_a_model_in_memory_is_found_by_the_name_that_it_was_given() -> None:
    assert find_arm("mine", ["checkpoint:memory:mine-00ff"], where="run").endswith("mine-00ff")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wanda:0.6", "test: the run has no arm 'wanda:0.6'; did you mean 'wanda:0.5'"),
        ("me/in4", "did you mean 'me/int4'"),
        ("", "has no arm ''"),
        ("twin", "may be any of checkpoint:a/twin, checkpoint:b/twin; name one of them in full"),
    ],
)
def test_what_is_not_one_arm_is_told_with_the_nearest_name(name: str, told: str) -> None:
    with pytest.raises(RunError, match=told):
        find_arm(name, ARMS, where="test: the run")


@pytest.mark.parametrize("name", ["./made/model", "model", ARMS[1]])
def test_items_gate_and_api_find_the_same_arm(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", languages=("english",), items=6, arms=ARMS)
    for command in (["items", "--limit", "1"], ["gate"]):
        with pytest.raises(SystemExit):
            main([command[0], str(run), *command[1:], "--arm", name, "--json"])
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert json.loads(first)["arm"] == ARMS[1]
    decision = json.dumps(json.loads(rest))
    assert ARMS[1] in decision
    assert ARMS[2] not in decision
    opened = anomia.open_run(run)
    assert set(opened.items(arm=name)["arm"]) == {ARMS[1]}
    assert opened.verdicts[name].arm == ARMS[1]


@pytest.mark.parametrize("command", ["items", "gate"])
def test_every_command_tells_an_unknown_arm_alike(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", languages=("english",), items=2, arms=ARMS)
    with pytest.raises(SystemExit) as stopped:
        main([command, str(run), "--arm", "me/in4"])
    assert stopped.value.code == 2
    told = "has no arm 'me/in4'; did you mean 'me/int4'?"
    assert told in " ".join(capsys.readouterr().err.split())
    with pytest.raises(RunError, match=r"has no arm 'me/in4'; did you mean 'me/int4'\?"):
        anomia.open_run(run).verdicts["me/in4"]
