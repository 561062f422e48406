"""What the gate's defaults let through. The full table is in docs/statistics.md."""

import pytest

from .uniform_gate import gate, null_arms, plain_rate_fails
from .uniform_studies import Design, Truth

STUDIES = 600
# 95 %, less two standard errors of so many studies.
ENOUGH = 0.932


@pytest.mark.slow
@pytest.mark.parametrize("truth", null_arms(), ids=lambda truth: "-".join(map(str, truth[2:])))
def test_noise_passes(truth):
    assert gate(truth, Design(4), STUDIES).results["pass"] >= ENOUGH


@pytest.mark.parametrize("churn", [(0.0, 0.0), (0.10, 0.10), (0.25, 0.125)], ids=str)
def test_a_lost_fifth_does_not_pass(churn):
    assert gate(Truth(0.20, 0.02, *churn), Design(4), 200).results.get("pass", 0) <= 0.01


@pytest.mark.parametrize("drops", [(0.12, 0.02), (0.10, 0.10)], ids=str)
def test_a_lost_tenth_does_not_pass(drops):
    assert "pass" not in gate(Truth(*drops), Design(4), 200).results
    assert gate(Truth(*drops, 0.10, 0.10), Design(4), 200).results.get("pass", 0) <= 0.12
    assert gate(Truth(*drops, 0.10, 0.10), Design(9), 100).results.get("pass", 0) <= 0.02


def test_the_plain_rate_would_stop_noise():
    """Why the gate takes the net rate: followed are items that base happened to get right."""
    assert 20 <= plain_rate_fails(Truth(0.0, 0.0, 0.17, 0.17), Design(4), 300, 0.15) <= 80
    assert plain_rate_fails(Truth(0.0, 0.0, 0.25, 0.125), Design(4), 300, 0.15) >= 297
