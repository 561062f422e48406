"""The tree engine against `model.generate` and full forward passes, and against itself in other batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import CONFIGURATIONS

from anomia.probe import reference, tree
from anomia.probe.ask import Reply


def assert_same(found: Reply, expected: Reply, tolerance: float = 1e-4) -> None:
    """Every answer equal: tokens and ranks exactly, log-probabilities within the tolerance."""
    assert found.item_id == expected.item_id
    assert found.finite
    assert expected.finite
    assert found.greedy == expected.greedy
    assert found.option_log_probs.keys() == expected.option_log_probs.keys()
    for name, scores in expected.option_log_probs.items():
        for mine, theirs in zip(found.option_log_probs[name], scores, strict=True):
            assert mine == pytest.approx(theirs, abs=tolerance)
    assert found.placements.keys() == expected.placements.keys()
    for name, placement in expected.placements.items():
        assert found.placements[name][:2] == placement[:2]
        assert found.placements[name][2:] == pytest.approx(placement[2:], abs=tolerance)
    if expected.distribution is not None:
        assert found.distribution is not None
        assert found.distribution.tokens == expected.distribution.tokens
        assert found.distribution.log_probs == pytest.approx(expected.distribution.log_probs, abs=tolerance)
        assert found.distribution.tail_mass == pytest.approx(expected.distribution.tail_mass, abs=tolerance)
    assert found.reference_log_probs == pytest.approx(expected.reference_log_probs, abs=tolerance)
    assert [beam.tokens for beam in found.beams] == [beam.tokens for beam in expected.beams]
    assert [b.score for b in found.beams] == pytest.approx([b.score for b in expected.beams], abs=tolerance)
    assert found.samples == expected.samples


def with_ends(model, asks, decoding):
    """The decoding with end tokens that this model does generate, so that some answers end early."""
    endless = replace(decoding, eos_token_ids=(), sample_seeds=())
    bare = [replace(ask, options={}, targets={}, distribution=None, samples=None) for ask in asks[:2]]
    first, second = reference.answer(model, bare, endless, batch_size=1)
    return replace(decoding, eos_token_ids=(2, first.greedy["open"][4], second.beams[0].tokens[6]))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_answers_are_those_of_generate_and_of_full_passes(name, models, asks, decoding):
    model = models(name)
    decoding = with_ends(model, asks, decoding)
    expected = list(reference.answer(model, asks, decoding, batch_size=1))
    found = list(tree.answer(model, asks, decoding, batch_size=3))
    assert len(found) == len(asks)
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(mine, theirs)
    lengths = {len(beam.tokens) for reply in expected for beam in reply.beams}
    assert len(lengths) > 1, "no beam ended early, so ends were not tested"
