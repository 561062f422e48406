"""The share of a loss that a repair gives back: against SciPy, a grid search and simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anomia.compress.spec import uncalibrated, unrepaired
from anomia.measure.repaired import RepairedRow, _without_repair, share_repaired


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(40, 120),
    lost=st.floats(0.3, 0.9),
    back=st.floats(0.0, 1.0),
    size=st.integers(1, 4),
)
def test_the_interval_is_all_shares_that_a_t_test_does_not_refuse(
    seed: int, items: int, lost: float, back: float, size: int
) -> None:
    draw = np.random.default_rng(seed)
    base = draw.random(items) < 0.7
    compressed = base & (draw.random(items) >= lost)
    repaired = compressed | (base & (draw.random(items) < back))
    passages = np.arange(items) // size
    found = share_repaired(base, compressed, repaired, passages)
    if found is None:
        return
    count = int(passages.max()) + 1
    gained, taken = (
        np.append(np.bincount(passages, weights=each.astype(float), minlength=count), more)
        for each, more in ((repaired ^ compressed, [1.0, -1.0]), (base ^ compressed, [0.0, 0.0]))
    )

    def p(share: float) -> float:
        return float(stats.ttest_1samp(gained - share * taken, 0.0).pvalue)

    assert found.value == pytest.approx((repaired.sum() - compressed.sum()) / (base.sum() - compressed.sum()))
    assert p(found.low) == pytest.approx(0.05, abs=1e-6) or found.low == found.value
    assert p(found.high) == pytest.approx(0.05, abs=1e-6) or found.high == found.value
    assert p(found.low - 1e-3) < 0.05
    assert p(found.high + 1e-3) < 0.05


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("items", [60, 150])
def test_intervals_cover_the_true_share(share: float, items: int) -> None:
    """Compression takes half of what base answers; passages have two items that tend to go together."""
    draw = np.random.default_rng(7)
    hits = given_ = 0
    for _ in range(600):
        ease = np.repeat(draw.random(items // 2), 2)
        base = ease < 0.7
        compressed = base & (np.repeat(draw.random(items // 2), 2) < 0.5)
        repaired = np.where(base & ~compressed, draw.random(items) < share, compressed)
        found = share_repaired(base, compressed, repaired, np.repeat(np.arange(items // 2), 2))
        if found is not None:
            given_ += 1
            hits += found.low <= share <= found.high
    assert given_ > 500
    assert hits / given_ >= 0.93


def test_nothing_is_said_where_compression_took_nothing_for_certain() -> None:
    base = np.array([True] * 40 + [False] * 20)
    compressed = base.copy()
    compressed[:2] = False
    assert share_repaired(base, compressed, base) is None
    assert share_repaired(base, base, base) is None
    assert share_repaired(~base, base, base) is None


def test_few_items_given_back_are_not_certain() -> None:
    """All of few lost answers, or none of them, return: the interval isn't a point."""
    base = np.ones(40, dtype=bool)
    compressed = np.arange(40) >= 12
    for repaired, value in ((base, 1.0), (compressed, 0.0)):
        found = share_repaired(base, compressed, repaired)
        assert found is not None
        assert found.value == value
        assert found.high - found.low > 0.1
        assert not found.checked


def test_half_is_back_only_by_the_lower_bound() -> None:
    base = np.ones(300, dtype=bool)
    compressed = np.arange(300) >= 200
    most = compressed | (np.arange(300) < 180)
    some = compressed | (np.arange(300) < 104)

    def row(repaired: np.ndarray) -> RepairedRow:
        found = share_repaired(base, compressed, repaired)
        return RepairedRow("a", "b", "open", "pooled", 300, 1, 1 / 3, 1, 0, 0, None, found)

    assert row(most).half_is_back
    assert not row(some).half_is_back
    assert row(some).estimate.value > 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arm", "arms", "expected"),
    [
        ("wanda:0.5+repair", ["wanda:0.5", "sparsegpt:0.5"], "wanda:0.5"),
        ("wanda:0.5+update+repair", ["wanda:0.5", "wanda:0.5+update"], "wanda:0.5+update"),
        ("wanda:0.5,calibration=answers+repair", ["wanda:0.5", "wanda:0.5,calibration=answers"],
         "wanda:0.5,calibration=answers"),
        ("wanda:0.5,calibration=answers+repair", ["wanda:0.6", "wanda:0.5"], "wanda:0.5"),
        ("wanda:0.5+repair+int8", ["wanda:0.5", "wanda:0.5+int8"], "wanda:0.5+int8"),
        ("taken:m+repair", ["checkpoint:m"], "checkpoint:m"),
        ("wanda:0.5+repair", ["wanda:0.5,calibration=answers+repair"], None),
        ("wanda:0.5", ["magnitude:0.5"], None),
        ("imported arm!", ["wanda:0.5"], None),
    ],
)  # fmt: skip
def test_an_arm_is_compared_with_itself_unrepaired(arm: str, arms: list[str], expected: str | None) -> None:
    assert unrepaired(arm, [arm, *arms]) == expected


@pytest.mark.parametrize(
    ("arm", "arms", "expected"),
    [
        ("sparsegpt:0.5,calibration=answers", ["wanda:0.5", "sparsegpt:0.5"], "sparsegpt:0.5"),
        ("gptq:4,calibration=control-answers", ["gptq:3", "gptq:4,calibration=c4"], "gptq:4,calibration=c4"),
        ("wanda:0.5,calibration=answers", ["wanda:0.5,calibration=answers:demo"], None),
        ("wanda:0.5,calibration=demo", ["wanda:0.5"], None),
        ("wanda:0.5,calibration=answers+repair", ["wanda:0.5"], None),
    ],
)
def test_calibration_on_answers_is_compared_with_other_text(
    arm: str, arms: list[str], expected: str | None
) -> None:
    assert uncalibrated(arm, [arm, *arms]) == expected


@pytest.mark.parametrize(
    ("arms", "made", "pairs"),
    [
        # A repaired folder and the pruned one, also where the pruned one is written in another way.
        (["checkpoint:p", "checkpoint:r"], {"checkpoint:r": "taken:p+repair"}, {"checkpoint:r": "checkpoint:p"}),
        (["checkpoint:HERE/p", "checkpoint:r"], {"checkpoint:r": "taken:p+train"}, {"checkpoint:r": "checkpoint:HERE/p"}),
        # Made from base in one call, beside the same pruning as an arm or as a folder.
        (["wanda:0.5", "checkpoint:r"], {"checkpoint:r": "wanda:0.5+repair"}, {"checkpoint:r": "wanda:0.5"}),
        (["checkpoint:p", "checkpoint:r"], {"checkpoint:p": "wanda:0.5", "checkpoint:r": "wanda:0.5+repair"},
         {"checkpoint:r": "checkpoint:p"}),
        (["checkpoint:p", "wanda:0.5+repair"], {"checkpoint:p": "wanda:0.5"}, {"wanda:0.5+repair": "checkpoint:p"}),
        # The pruned folder itself repairs nothing, and unknown folders are compared with nothing.
        (["checkpoint:p", "checkpoint:r"], {"checkpoint:p": "wanda:0.5"}, {}),
        (["checkpoint:p", "checkpoint:r"], {"checkpoint:r": "taken:other+repair"}, {}),
    ],
)  # fmt: skip
def test_checkpoints_count_as_what_they_were_made_with(
    arms: list[str],
    made: dict[str, str],
    pairs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    arms, pairs = (
        [arm.replace("HERE", str(tmp_path)) for arm in arms],
        {arm: other.replace("HERE", str(tmp_path)) for arm, other in pairs.items()},
    )
    found = {arm: _without_repair(arm, ["base", *arms], made) for arm in arms}
    assert {arm: other for arm, other in found.items() if other is not None} == pairs
