"""The table of pairs against the task files of the installed harness: names, data sets, splits and forms."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from anomia.interop.pairs import FAMILIES, TaskFamily, TaskPlace, place_of
from anomia.probes import FORMATS, AnswerFormat
from tests.peers import peer

FORMS: Mapping[str, AnswerFormat] = {"generate_until": "open", "multiple_choice": "choice"}
# TruthfulQA has a configuration for each format. Their questions are the same; those of two configurations elsewhere aren't.
OTHER_CONFIGURATION = {"truthfulqa", "truthfulqa_gl"}
# Number of tasks that make a pair: 57 subjects of MMLU, 136 and 131 varieties of Global PIQA.
KEYS = {
    "truthfulqa": 1, "truthfulqa-multi": 5, "truthfulqa_gl": 1, "arc_challenge": 1, "mmlu": 57, "mmlu_pro": 1, "gpqa": 3,
    "global_piqa": 267, "kmmlu": 45, "kmmlu_hard": 45, "turkishmmlu": 9, "bbh": 24, "bigbench": 119, "boolq": 1, "cb": 1,
    "copa": 1, "wic": 1, "rte": 1,
}  # fmt: skip


class Harness(yaml.SafeLoader):
    """Reads YAML as the harness does: `!function` is its own tag."""


Harness.add_constructor("!function", lambda loader, node: f"function {node.value}")


class Task(NamedTuple):
    name: str
    form: AnswerFormat
    data: tuple[Any, ...]
    metrics: frozenset[str]


@cache
def loaded(path: Path) -> dict[str, Any]:
    """A task file with what it includes."""
    found = yaml.load(path.read_text(encoding="utf-8"), Harness)
    if not isinstance(found, dict):
        return {}
    included = found.pop("include", None) or []
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        merged |= loaded((path.parent / name).resolve())
    return merged | found


@pytest.fixture(scope="module")
def tasks() -> dict[TaskPlace, list[Task]]:
    """The harness's tasks that are in a family, by their place, under either form."""
    where = "import lm_eval.tasks, os; print(os.path.dirname(lm_eval.tasks.__file__))"
    done = subprocess.run(
        [peer("lm-eval"), "-c", where], capture_output=True, text=True, check=True, timeout=300
    )
    folder = Path(done.stdout.split()[-1])
    found: dict[TaskPlace, list[Task]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        named = re.search(
            r"""^["']?task["']?:[ ]*["']?([\w-]+)["']?[ ]*$""", path.read_text(encoding="utf-8"), re.M
        )
        if named is None or not any(place_of(named[1], form) for form in FORMATS):
            continue
        held = loaded(path.resolve())
        form = FORMS.get(held.get("output_type", "generate_until"))
        place = form and place_of(named[1], form)
        if form is None or place is None or not isinstance(held.get("dataset_path"), str):
            continue
        split = held.get("test_split") or held.get("validation_split")
        names = frozenset(str(each["metric"]) for each in held.get("metric_list") or ())
        task = Task(named[1], form, (held["dataset_path"], held.get("dataset_name"), split), names)
        found.setdefault(place, []).append(task)
    return found


def sides(tasks: dict[TaskPlace, list[Task]], number: int, form: AnswerFormat) -> dict[str, list[list[Task]]]:
    """The tasks of a family and form by key, those of each template."""
    found: dict[str, list[list[Task]]] = {}
    for place, each in sorted(tasks.items()):
        mine = [task for task in each if task.form == form]
        if place.family == number and mine:
            found.setdefault(place.key, []).append(mine)
    return found


@pytest.mark.parametrize(
    ("number", "family"), list(enumerate(FAMILIES)), ids=[family.name for family in FAMILIES]
)
def test_every_task_of_a_family_exists_and_both_sides_ask_the_same_documents(
    tasks: dict[TaskPlace, list[Task]], number: int, family: TaskFamily
) -> None:
    opened, chosen = (sides(tasks, number, form) for form in FORMATS)
    for form in FORMATS:
        variants = {
            place.variant
            for place, each in tasks.items()
            if place.family == number and any(task.form == form for task in each)
        }
        assert variants == set(range(len(family.templates(form)))), form
    paired = opened.keys() & chosen.keys()
    assert paired
    part = [key for key in chosen if key not in opened]
    # Names that are in no pair: only such of other benchmarks that begin alike, which have no counterpart to be joined with.
    assert all(len(each) == 1 for key in part for each in chosen[key])
    for key in paired:
        data = {task.data for each in (*opened[key], *chosen[key]) for task in each}
        if family.name in OTHER_CONFIGURATION:
            data = {(path, None, split) for path, _, split in data}
        assert len(data) == 1, (key, data)
        for each in opened[key]:
            assert all(task.metrics & set(family.metrics) for task in each), each
        for each in chosen[key]:
            # Tasks without a list get the metrics of their form.
            assert all(not task.metrics or task.metrics & {"acc", "acc_norm"} for task in each), each


def test_the_number_of_pairs(tasks: dict[TaskPlace, list[Task]]) -> None:
    counts = dict.fromkeys(KEYS, 0)
    for number, family in enumerate(FAMILIES):
        counts[family.name] += len(
            sides(tasks, number, "open").keys() & sides(tasks, number, "choice").keys()
        )
    assert counts == KEYS
