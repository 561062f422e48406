"""The workflow that the documentation offers works once the settings at its head are made."""

from __future__ import annotations

import shlex
from typing import Any

import typer
import yaml

from anomia.cli.app import app
from tests.docs.commands import ROOT

TEXT = (ROOT / "docs" / "workflows" / "anomia-gate.yml").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(TEXT)
STEPS = WORKFLOW["jobs"]["gate"]["steps"]


def test_its_commands_can_be_parsed() -> None:
    group: Any = typer.main.get_command(app)
    called = []
    for step in STEPS:
        program, *words = shlex.split(step.get("run", "")) or [""]
        if program == "anomia":
            group.get_command(None, words[0]).make_context(words[0], words[1:])
            called.append(words[0])
    assert called == ["run", "gate"]


def test_what_was_measured_is_kept_when_a_job_fails() -> None:
    uses = [step.get("uses", "").partition("@")[0] for step in STEPS]
    measures = next(n for n, step in enumerate(STEPS) if step.get("run", "").startswith("anomia run"))
    restore, save = uses.index("actions/cache/restore"), uses.index("actions/cache/save")
    assert restore < measures < save
    assert STEPS[save]["if"] == "always()"
    assert STEPS[save]["with"]["path"] == STEPS[restore]["with"]["path"]


def test_every_variable_that_it_uses_is_set() -> None:
    used = {
        word
        for step in STEPS
        for word in ("MODEL", "COMPRESSED", "ANOMIA")
        if f"${word}" in step.get("run", "")
    }
    assert used == {"MODEL", "COMPRESSED", "ANOMIA"}
    assert used < WORKFLOW["env"].keys()
    assert "index-url" not in TEXT
