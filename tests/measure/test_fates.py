from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anomia
from anomia.errors import DataError
from anomia.measure.fates import (
    FATES,
    NO_FATE,
    STATES,
    FateCounts,
    count_fates,
    fate_expr,
    fate_sql,
    fates,
    met,
    states,
    transitions,
)

COLUMNS = ("base_open", "base_choice", "arm_open", "arm_choice")
VERDICTS = st.lists(st.tuples(*[st.sampled_from([True, False, None])] * 4), min_size=1, max_size=30)
DATABASE = duckdb.connect()


def test_the_four_fates_and_none_where_base_fails():
    arm = [(True, True), (False, True), (True, False), (False, False)]
    ones = np.ones(4)
    assert [FATES[n] for n in fates(ones, ones, *np.transpose(arm))] == [
        "kept", "choice_only", "open_only", "lost",
    ]  # fmt: skip
    assert [STATES[n] for n in states(*np.transpose(arm))] == ["both", "choice_only", "open_only", "neither"]
    for base in [(True, False), (False, True), (False, False)]:
        sides = np.array([(*base, *each) for each in arm]).T
        assert (fates(*sides) == NO_FATE).all()


@settings(deadline=None, max_examples=50)
@given(VERDICTS)
def test_arrays_polars_and_sql_agree(items):
    frame = pl.DataFrame(items, schema=dict.fromkeys(COLUMNS, pl.Boolean), orient="row")
    graded = frame.drop_nulls()
    array = fates(*(graded[name].to_numpy() for name in COLUMNS))
    in_polars = frame.select(*COLUMNS, fate=fate_expr(*COLUMNS))
    assert in_polars["fate"].dtype == pl.Int8
    assert in_polars.drop_nulls(COLUMNS)["fate"].to_list() == array.tolist()
    assert (in_polars.filter(pl.any_horizontal(pl.col(COLUMNS).is_null()))["fate"] == NO_FATE).all()
    rows = ", ".join(
        f"({', '.join('NULL' if each is None else str(each) for each in item)})" for item in items
    )
    for no_fate in (NO_FATE, len(FATES)):
        table = f"(VALUES {rows}) AS verdicts ({', '.join(COLUMNS)})"
        typed = f"(SELECT {', '.join(f'{name}::BOOLEAN AS {name}' for name in COLUMNS)} FROM {table})"
        found = DATABASE.execute(f"SELECT {fate_sql(*COLUMNS, no_fate=no_fate)} FROM {typed}").fetchall()
        assert [n for (n,) in found] == in_polars["fate"].replace(NO_FATE, no_fate).to_list()


@given(st.lists(st.tuples(*[st.booleans()] * 4), max_size=60))
def test_counts_follow_from_fates(items):
    columns = np.array(items, dtype=bool).reshape(-1, 4).T
    index = fates(*columns)
    counts = count_fates(*columns)
    assert counts == FateCounts(*(int(met(index, name).sum()) for name in FATES))
    assert counts.both_correct == (index != NO_FATE).sum() == met(index, *FATES).sum()
    assert tuple(transitions(*columns)[STATES.index("both")]) == counts


def test_dissociation_rate():
    assert FateCounts(kept=8, choice_only=26, open_only=0, lost=1).dissociation == 26 / 35
    assert FateCounts(0, 0, 0, 0).dissociation is None


def test_different_items_are_refused():
    with pytest.raises(DataError, match="same items"):
        count_fates([True], [True], [True, False], [True])
    with pytest.raises(DataError, match="same items"):
        transitions([True], [True], [True, False], [True, False])
    with pytest.raises(DataError, match="0 or 1"):
        count_fates([0.5], [True], [True], [True])
    with pytest.raises(DataError, match="0 or 1"):
        count_fates([np.nan], [True], [True], [True])


def test_no_other_module_states_what_a_fate_is():
    source = Path(anomia.__file__).parent
    for file in source.rglob("*.py"):
        text = file.read_text("utf-8")
        own = file.relative_to(source).as_posix() == "measure/fates.py"
        assert own or not any(f'FATES.index("{name}")' in text for name in FATES), file
