"""A probe, and a kind of options, is two files: with these, every table, figure, test, export, page and plan has it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import anomia

SOURCE = Path(anomia.__file__).parent
PROBE = {
    "probes.py": (
        '    Probe(\n        name="distractors_only"',
        """    Probe(
        name="whispered", kind="generation", group="cued", prompt="whispered", short="whispered",
        long="whispered answer", description="the options in small print", candidates="options",
    ),
""",
    ),
    "items/prompts.py": (
        "    # The open prompt without its question, to measure",
        """    "whispered": PromptForm(
        ("context", "question", "options"), ("question",), lambda of: f"psst: {of['question']} {of['options']}"
    ),
""",
    ),
}
SEARCHES = {
    "probes.py": (
        '    Probe(\n        name="one_shot"',
        """    Probe(
        name="hunts", kind="search", group="oracle", prompt="cued", short="hunts", long="any of the hunts",
        description="beam search from the cued prompt", candidates="options", found_by="hunting",
    ),
    Probe(
        name="draws", kind="samples", group="oracle", prompt="cued", short="draws", long="any of the draws",
        description="answers sampled from the cued prompt", candidates="options", found_by="drawing",
    ),
""",
    ),
}
OPTIONS = {
    "probes.py": (
        ")  # fmt: skip\n\nSCORINGS",
        """    OptionKind(
        name="backwards", short="backwards", long="options read backwards", description="spelled from the end",
        decides=True,
    ),
""",
    ),
    "items/distractors.py": (
        "}\n\n\ndef answer_shape",
        """    "backwards": lambda question, of: tuple(
        text[::-1] for text in standard_distractors(question, of.pool, seed=of.seed)
    ),
""",
    ),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Any]:
    """What a copy of the program shows that has both additions, and nothing else changed."""
    folder = tmp_path_factory.mktemp("additions")
    shutil.copytree(SOURCE, folder / "anomia", ignore=shutil.ignore_patterns("__pycache__"))
    for addition in (PROBE, SEARCHES, OPTIONS):
        for name, (before, added) in addition.items():
            file = folder / "anomia" / name
            text = file.read_text(encoding="utf-8")
            assert text.count(before) == 1, name
            file.write_text(text.replace(before, added + before), encoding="utf-8")
    paths = [str(folder), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.additions", str(model_folder), str(folder / "out")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def test_each_addition_is_two_files() -> None:
    assert [len(PROBE), len(SEARCHES), len(OPTIONS)] == [2, 1, 2]


def _with(shown: Mapping[str, str], *names: str) -> set[str]:
    """What shows one of the names, as a word or as a part of the name of a measure or a column."""
    pattern = re.compile("|".join(rf"(?<![a-z]){name}(?![a-z]|, )" for name in names))
    return {place for place, text in shown.items() if pattern.search(text)}


def test_whatever_shows_a_probe_shows_the_invented_one(found: dict[str, Any]) -> None:
    shown = found["shown"]
    places = _with(shown, "whispered")
    assert places == _with(shown, "cued")
    assert {
        "table arm ladder",
        "table file losses",
        "figure figure2",
        "figure ladder",
        "exported",
    } <= places
    assert "whispered changed" in json.loads(shown["tests"])


def test_whatever_shows_beams_or_samples_shows_an_invented_search(found: dict[str, Any]) -> None:
    shown = found["shown"]
    # pass@k names the samples only if they are not the usual ones.
    for new, old, more in (("hunts?", "beams?", set()), ("draws?", "samples?", {"table arm samples"})):
        places = _with(shown, new)
        assert places == _with(shown, old) | more
        assert {"table arm oracle", "table file recovery_file", "figure figure4", "page, probes"} <= places
    page = json.loads(shown["page"])
    assert page["ways"] == "beams or samples or hunts or draws"
    assert "whispered" in dict(page["forms"])


def test_whatever_shows_a_kind_of_options_shows_the_invented_one(found: dict[str, Any]) -> None:
    shown = found["shown"]
    places = _with(shown, "choice_backwards", "backwards choice", "backwards")
    # Some tables name the kind alone, which is a common word for the old one.
    assert places >= _with(shown, "choice_passage", "same-passage choice", "same passage", "options_passage")
    assert {"table arm dissociation", "table arm scorings", "figure ladder"} <= places
    assert {"choice_backwards changed", "open lost more items than choice_backwards"} <= {
        *json.loads(shown["tests"])
    }


def test_they_have_the_measures_of_those_that_they_copy(found: dict[str, Any]) -> None:
    measures = set(json.loads(found["shown"]["figures"]))
    for new, old in (
        ("whispered", "cued"),
        ("choice_backwards", "choice_passage"),
        ("backwards", "passage"),
        ("hunts", "beams"),
    ):
        copies = {name for name in measures if re.search(rf"(?<![a-z_]){old}(?![a-z])", name)}
        assert copies
        for name in copies:
            assert re.sub(rf"(?<![a-z_]){old}(?![a-z])", new, name) in measures


def test_a_study_asks_and_a_plan_counts_them(found: dict[str, Any]) -> None:
    for column in (
        "whispered_text",
        "whispered_contains",
        "choice_backwards_scores",
        "choice_backwards_correct_pmi",
    ):
        assert found["asked"][column] == found["of"]
    for column in ("hunt_texts", "hunts_correct", "hunts_control", "draw_seeds", "draws_correct"):
        assert found["asked"][column] == found["asked"]["beam_texts"] > 0
    more, fewer = found["planned"]
    assert more > fewer
