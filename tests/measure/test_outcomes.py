"""What an outcome means is said in one place; a new one is a row there, and the rule that decides it."""

import ast
from pathlib import Path
from typing import get_args

import anomia
from anomia.measure.outcomes import OUTCOMES, Outcome

SOURCE = Path(anomia.__file__).parent
HOMES = {"measure/outcomes.py", "measure/verdict.py"}


def test_every_outcome_has_its_meaning():
    assert tuple(OUTCOMES) == get_args(Outcome)
    assert all(meaning.headline and meaning.advice for meaning in OUTCOMES.values())


def test_no_other_file_lists_the_outcomes():
    for file in SOURCE.rglob("*.py"):
        if file.relative_to(SOURCE).as_posix() in HOMES:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            listed = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
            named = [
                each for each in listed if isinstance(each, ast.Constant) and str(each.value) in OUTCOMES
            ]
            assert len(named) < 4, (file, node.lineno)
