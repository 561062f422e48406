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
        nodes = ast.walk(ast.parse(file.read_text("utf-8")))
        named = {
            node.value for node in nodes if isinstance(node, ast.Constant) and str(node.value) in OUTCOMES
        }
        assert len(named) < 4 or file.relative_to(SOURCE).as_posix() in HOMES, (file, named)
