"""`anomia locate`, and the lists of matrices to keep dense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomia.cli import main
from anomia.locate.keep import forms, gguf_name, kept_modules
from anomia.run_folder import RunFolder

from .conftest import PLANTED


def stopped(arguments: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as found:
        main(arguments)
    return int(found.value.code or 0)


def test_a_run_is_located_from_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dense.json"
    asked = ["locate", str(run), "--arm", "spoiled", "--among", "lost", "--items", "12", "--draws", "1"]
    assert stopped([*asked, "--keep", str(file)]) == 0
    shown = capsys.readouterr()
    assert "locating needs up to" in shown.err
    assert PLANTED in shown.out
    (arm,) = (run / "locate").iterdir()
    sentence = json.loads((arm / "located.json").read_text())["sentence"]
    assert sentence in " ".join(shown.out.split())
    assert PLANTED in json.loads(file.read_text())["dense"]
    for name in ("located_map", "located_restoration", "located_lens"):
        assert (arm / "figures" / f"{name}.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a run and --arm"),
        (["--arm", "x", "--points", "4"], "give 5"),
        (["--arm", "x", "--among", "chosen"], "choice_only"),
        (["--arm", "spoiled", "--data", "demo"], "already measured"),
        (["--arm", "spoilt"], "has no arm 'spoilt'"),
    ],
)
def test_bad_input_is_refused_in_one_message(
    run: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped(["locate", str(run), *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_model_that_does_not_fit_is_refused_with_the_memory_it_needs(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomia.locate.plan.free_bytes", lambda device: 1000)
    assert stopped(["locate", str(run), "--arm", "spoiled", "--among", "lost"]) == 2
    assert "GB with gradients" in " ".join(capsys.readouterr().err.split())


def test_the_forms_of_a_list() -> None:
    modules = ["model.layers.3.mlp.down_proj", "lm_head", "model.layers.0.mlp.experts.down_proj"]
    found = forms(modules)
    assert found["llm-compressor"] == {"ignore": modules}
    assert found["torchao"] == {"modules_to_not_convert": modules}
    assert next(iter(found["gptqmodel"]["dynamic"])) == r"-:^model\.layers\.3\.mlp\.down_proj$"
    assert found["llama.cpp"] == {
        "arguments": [
            "--tensor-type",
            r"^blk\.3\.ffn_down\.weight$=q8_0",
            "--tensor-type",
            r"^output\.weight$=q8_0",
        ],
        "without_a_name": ["model.layers.0.mlp.experts.down_proj"],
    }
    assert gguf_name("transformer.h.0.attn.c_attn") is None


def test_only_matrices_are_kept_and_experts_as_their_stack() -> None:
    kinds = {
        "a.norm": "norm",
        "a.experts.down_proj[0]": "matrix",
        "a.experts.down_proj[2]": "matrix",
        "b": "matrix",
    }
    assert kept_modules(list(kinds)[:3], kinds) == ["a.experts.down_proj"]


def test_the_folder_of_an_arm_is_named_like_its_other_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.located("wanda:0.5").path.name == folder.notes.of_arm("wanda:0.5").path.stem
