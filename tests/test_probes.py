"""The table of probes: every probe has a name of its own and all its words, and nothing else restates the list."""

from __future__ import annotations

import pytest

from anomia import probes
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
