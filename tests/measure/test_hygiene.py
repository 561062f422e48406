import polars as pl
import pytest

from anomia.measure.hygiene import RATES, hygiene, sensitivities
from anomia.measure.rates import rate
from anomia.records import SCHEMA


def records(loops, items=12):
    """Base and one arm in one language; nothing is recorded but whether outputs loop."""
    lines = [
        {
            **dict.fromkeys(SCHEMA),
            "arm": arm,
            "language": "english",
            "passage_id": f"p{n}",
            "finite": True,
            "open_loop": loops[items * place + n],
        }
        for place, arm in enumerate(("base", "a"))
        for n in range(items)
    ]
    return pl.DataFrame(lines, schema=SCHEMA)


def test_loops_are_counted_among_the_outputs_that_were_looked_at():
    base, arm = hygiene(records([True] * 3 + [False] * 9 + [True] * 5 + [None] * 7))
    assert (base.loops, arm.loops) == (3, 5)
    assert base.loop_rate.value == 0.25
    assert base.loop_rate[:3] == pytest.approx(rate([1] * 3 + [0] * 9)[:3])
    assert (arm.loop_rate.value, arm.loop_rate.n) == (1.0, 5)


def test_what_older_runs_did_not_record_is_not_given():
    for row in hygiene(records([None] * 24)):
        assert {getattr(row, name) for name in RATES} == {None}
        assert (row.loops, row.gold_in_question, row.gold_over_limit) == (None, None, None)


def test_flips_are_shares_of_base_by_probe():
    noise = {
        "items": 12,
        "languages": {"english": {"items": 12, "open": 2, "choice": 1, "open_text": 5}},
        "dtype": {"languages": {"english": {"items": 10, "open": 5, "choice": 0, "open_text": 9}}},
    }
    base, arm = hygiene(records([False] * 24), {}, noise)
    assert (base.noise_items, base.noise_flips) == (12, 3)
    assert base.noise_open == rate([1] * 2 + [0] * 10)
    assert base.noise_choice.value == pytest.approx(1 / 12)
    assert (base.dtype_open.value, base.dtype_open.n) == (0.5, 10)
    assert base.dtype_choice.value == 0 < base.dtype_choice.high
    assert arm.noise_open is None


def test_batch_size_sensitivity_of_all_languages_has_intervals():
    flips = {"open": 2, "choice": 1, "open_text": 5}
    noise = {"items": 32, "batch_size": 4, "flips": flips, "languages": {}}
    assert sensitivities(None) == []
    (batch,) = sensitivities(noise)
    assert batch.change == "batch size 4"
    assert batch.open == rate([1] * 2 + [0] * 30)
    assert batch.texts.value == pytest.approx(5 / 32)
    dtype = {"dtype": "float32", "items": 16, "flips": {"open": 3, "choice": 0}, "languages": {}}
    other = sensitivities(noise | {"dtype": dtype})[1]
    assert (other.change, other.open.value, other.choice.value, other.texts) == ("float32", 3 / 16, 0, None)
