"""The table of probes: every probe has a name of its own and all its words, and nothing else restates the list."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from anomia import probes, report
from anomia.probes import GRADES, LADDER, OPTION_KINDS, PROBES, SCORINGS, STUDY_PROBES


def test_every_probe_and_grade_has_a_name_and_words_of_its_own() -> None:
    rows = (*PROBES, *GRADES)
    for words in ("name", "short", "long"):
        found = [getattr(row, words) for row in rows]
        assert all(found)
        assert len(set(found)) == len(found), words
    assert all(row.description for row in (*rows, *OPTION_KINDS, *SCORINGS))
    assert all(probes.short(row.name) == row.short and probes.long(row.name) == row.long for row in rows)


def test_a_probe_under_another_scoring_is_called_by_both() -> None:
    assert probes.short("choice_passage_pmi") == "same-passage choice (PMI)"
    for name in ("opne", "open_pmi", "choice_"):
        with pytest.raises(KeyError):
            probes.short(name)


def test_every_probe_is_asked_by_one_that_a_study_may_list() -> None:
    assert {probe.asked_by or probe.name for probe in PROBES} == set(STUDY_PROBES)
    assert {grade.probe for grade in GRADES} - {""} <= {probe.name for probe in PROBES}
    assert len(set(LADDER)) == len(LADDER)


def _lists_of_names(module: Path) -> list[tuple[int, set[str]]]:
    """Tuples, lists, sets and keys of dicts with four names of probes or more, by line; names of groups aside."""
    names = {row.name for row in (*PROBES, *GRADES)} - {probe.group for probe in PROBES}
    found = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        # Pairs of a name and a label count, too.
        flat = [part.elts[0] if isinstance(part, ast.Tuple) and part.elts else part for part in parts]
        listed = {part.value for part in flat if isinstance(part, ast.Constant)} & names
        if len(listed) >= 4:
            found.append((node.lineno, listed))
    return found


def test_nothing_else_restates_the_list() -> None:
    source = Path(probes.__file__).parent
    found = {
        str(file.relative_to(source)): listed
        for file in sorted(source.rglob("*.py"))
        if file.name != "probes.py" and (listed := _lists_of_names(file))
    }
    assert found == {}


def test_the_page_has_no_probes_of_its_own() -> None:
    names = "|".join(sorted((probe.name for probe in PROBES), key=len, reverse=True))
    scripts = sorted((Path(report.__file__).parent / "page" / "assets" / "js").glob("*.js"))
    assert scripts
    for script in scripts:
        assert re.findall(rf"""["'`](?:{names})["'`]""", script.read_text(encoding="utf-8")) == [], (
            script.name
        )
