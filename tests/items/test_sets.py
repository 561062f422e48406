"""A data set is one record in one file, and everything else that names data sets follows from the records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.data_sets import PAGE, page

from anomia.errors import DataError
from anomia.items import sets
from anomia.items.languages import language_name
from anomia.items.readers import check_data
from anomia.items.sets import SETS, only_languages
from anomia.study import FLAGS

SOURCE = Path(sets.__file__).parents[2]


def test_every_file_is_a_data_set_of_its_name() -> None:
    files = {file.stem for file in Path(sets.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(SETS)
    assert {"tydiqa", "xquad", "mlqa", "squad", "belebele", "demo", "jsonl", "mc"} <= files


@pytest.mark.parametrize("name", SETS)
def test_a_record_is_whole(name: str) -> None:
    found = SETS[name]
    if found.repository:
        assert found.split
        assert found.languages
        assert found.licence
        assert found.citation
        assert set(found.questions) <= set(found.languages)
    for language in found.languages or ():
        assert language == language_name(language), "a study names languages so"
    assert (found.path == "no") == (not found.endings)
    assert bool(found.endings) == bool(found.holds)


def sources() -> Iterator[Path]:
    return (file for file in SOURCE.rglob("*.py") if file.parent.name != "sets")


def test_no_other_module_lists_the_data_sets() -> None:
    for file in sources():
        if file.name == "task_language.py":  # families of other harnesses' tasks
            continue
        text = re.sub(r'""".*?"""', "", file.read_text("utf-8"), flags=re.DOTALL)
        lists = [
            line for line in text.splitlines() if len(re.findall("tydiqa|xquad|mlqa|belebele", line)) > 1
        ]
        assert not lists, (file, lists)


def test_help_and_errors_name_every_data_set() -> None:
    for name, found in SETS.items():
        assert re.search(rf"\b{name}\b", FLAGS["data"].help) or name == "demo"
        for folder in found.folders[:1]:
            assert folder in FLAGS["data_folder"].help
        if found.path == "needed":
            with pytest.raises(DataError, match="needs a path"):
                check_data(name)


def test_languages_are_known_without_reading_where_there_are_no_others() -> None:
    assert only_languages("xquad") == tuple(SETS["xquad"].languages or ())
    assert only_languages("squad") == ("english",)
    for data in ("squad:folder", "belebele", "mc:x.csv", "no such"):
        assert only_languages(data) is None


def test_the_table_in_the_docs_is_of_these_records() -> None:
    text = PAGE.read_text("utf-8")
    assert page(text) == text, "run scripts/data_sets.py"
