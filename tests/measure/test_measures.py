"""Every measure is registered, and what is registered is measured."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import anomia
from anomia.errors import AnomiaError
from anomia.measure import measures
from anomia.measure.diagnosis import diagnose
from anomia.measure.figures import before, find, lookup
from anomia.measure.frame import POOLED, RECOGNITION
from anomia.measure.measures import MEASURES, Measure, of_base, oracle_with_seed, parse
from anomia.probes import CHOICE_OWN, GENERATED, NO_QUESTION
from tests.measure.long_records import with_long_answers
from tests.measure.planted import Damage, study_records

SOURCE = Path(anomia.__file__).parent
ARM = "wanda:0.5"


def records_of(**settings: Any) -> pl.DataFrame:
    """Records of base and an arm with all columns of verdicts."""
    records = study_records({ARM: Damage(open=0.4, choice=0.1)}, languages=("english",), **settings)
    # Those made from base's output are asked by tasks alone.
    records = records.with_columns(pl.col("choice_correct").alias(f"{CHOICE_OWN}_correct"))
    # Probes that the simulation doesn't know.
    unknown = [f"{name}_correct" for name in GENERATED if f"{name}_correct" not in records.columns]
    records = records.with_columns(pl.col("open_correct").alias(name) for name in unknown)
    filled = {way.column: f"{way.kind}_correct" for way in RECOGNITION.values()}
    filled |= {f"{name}_correct": "choice_no_question_correct" for name in NO_QUESTION}
    filled |= {"open_strict": "open_correct", "open_loop": "open_degenerate", "open_score": "open_correct"}
    records = records.with_columns(pl.col(source).alias(name) for name, source in filled.items())
    return with_long_answers(records, ARM)


def test_a_run_with_all_probes_has_every_registered_measure_and_no_other() -> None:
    diagnosis = diagnose(records_of(items=60))
    assert all(type(row.measure) is Measure for row in (*diagnosis.figures, *diagnosis.between))
    assert {str(figure.measure) for figure in diagnosis.figures} == set(MEASURES)


def test_what_an_arm_has_not_answered_and_seeds_of_samples_are_measures_too() -> None:
    records = records_of(items=40, sample_seeds=(1, 2))
    records = records.filter((pl.col("arm") == "base") | (pl.col("index") < 30))
    diagnosis = diagnose(records)
    found = {figure.measure for figure in diagnosis.figures}
    assert all(parse(str(measure)) == measure for measure in found)
    of_base_alone = {measure for measure in found if measure.startswith("before/")}
    assert {measure.removeprefix("before/") for measure in of_base_alone} == {
        measure for measure in found - of_base_alone if not measure.against_base
    }
    assert {oracle_with_seed("samples", seed) for seed in (1, 2)} == found - MEASURES.keys() - of_base_alone
    figures, opened = lookup(diagnosis.figures), measures.accuracy("open")
    assert before(figures, ARM, opened, POOLED) == figures[ARM, of_base(opened), POOLED]
    assert before(figures, ARM, opened, POOLED).n == 30


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gap/choise", "did you mean 'gap/choice'"),
        ("normalised_drop/open", "did you mean 'normalized_drop/open'"),
        ("before/gap/choice", "no 'before/gap/choice'"),
        ("zzz", "known: accuracy/…"),
    ],
)
def test_a_misspelt_measure_is_refused_everywhere(name: str, said: str) -> None:
    figures = lookup([])
    for look in (
        lambda: parse(name),
        lambda: figures.get((ARM, name, POOLED)),
        lambda: find([], ARM, name, POOLED),
    ):
        with pytest.raises(AnomiaError, match=re.escape(said)):
            look()


def test_a_measure_that_was_not_asked_is_none() -> None:
    assert find([], ARM, "gap/choice", POOLED) is None
    assert lookup([]).get((ARM, measures.gap("choice"), POOLED)) is None


def test_a_measure_is_its_name_wherever_it_goes() -> None:
    for measure in (*MEASURES.values(), of_base(measures.accuracy("open")), oracle_with_seed("samples", 7)):
        assert parse(str(measure)) == measure
        again = pickle.loads(pickle.dumps(measure))
        assert (again, again.label, again.unit) == (measure, measure.label, measure.unit)
        assert copy.deepcopy(measure) == measure
        assert json.dumps(measure) == f'"{measure}"'
        assert measure.label
        assert measure.prose
        assert "{" not in measure.label + measure.prose


def test_units_and_sides() -> None:
    assert {str(m) for m in MEASURES.values() if m.unit == "nats"} == {"divergence/kl", "along/kl"}
    alone = {m.family for m in MEASURES.values() if not m.against_base}
    assert alone == {"accuracy", "outputs", "pass_at", "long"}
    assert measures.outputs("loop_more").against_base
    assert measures.gap("choice").unit == "points"


def test_no_other_file_spells_a_measure() -> None:
    """A literal can be misspelt; a member of a family can't."""
    families = "|".join({measure.family for measure in MEASURES.values()})
    spelt = re.compile(rf"(before/)?({families})/[a-z_0-9/{{}}]*")
    found = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if not file.is_relative_to(SOURCE / "report") and file.name != "renamed.py"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and spelt.fullmatch(node.value)
    }
    assert not found
