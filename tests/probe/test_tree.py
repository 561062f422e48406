"""The tree engine against `model.generate` and full forward passes, and against itself in other batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from anomia.errors import ModelError
from anomia.probe import reference, tree
from anomia.probe.ask import Ask, Followed, Reply
from anomia.probe.generate import TreeDecodeState
from anomia.probe.head import Head

from .conftest import CONFIGURATIONS, random_asks, tiny_model


def assert_same_along(found: Followed | None, expected: Followed | None, tolerance: float) -> None:
    """The same along a forced answer."""
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    assert found.best == expected.best
    assert [(p.rank, p.ties) for p in found.placements] == [(p.rank, p.ties) for p in expected.placements]
    for mine, theirs in zip(found.placements, expected.placements, strict=True):
        assert mine[2:] == pytest.approx(theirs[2:], abs=tolerance)
    assert found.end_log_probs == pytest.approx(expected.end_log_probs, abs=tolerance)
    assert len(found.reference_log_probs) == len(expected.reference_log_probs)
    for one, other in zip(found.reference_log_probs, expected.reference_log_probs, strict=True):
        assert one == pytest.approx(other, abs=tolerance)
    for mine, theirs in zip(found.distributions, expected.distributions, strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.log_probs == pytest.approx(theirs.log_probs, abs=tolerance)
        assert mine.tail_mass == pytest.approx(theirs.tail_mass, abs=tolerance)


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
        # Far down, tokens may be closer together than rounding: what changed places must be a tie within it.
        theirs = dict(zip(expected.distribution.tokens, expected.distribution.log_probs, strict=True))
        for token, log_prob in zip(found.distribution.tokens, found.distribution.log_probs, strict=True):
            assert log_prob == pytest.approx(theirs.get(token, min(theirs.values())), abs=tolerance)
        assert found.distribution.tokens[:10] == expected.distribution.tokens[:10]
        assert found.distribution.log_probs == pytest.approx(expected.distribution.log_probs, abs=tolerance)
        assert found.distribution.tail_mass == pytest.approx(expected.distribution.tail_mass, abs=tolerance)
    assert found.reference_log_probs == pytest.approx(expected.reference_log_probs, abs=tolerance)
    assert found.beams.keys() == expected.beams.keys()
    for name, beams in expected.beams.items():
        assert [beam.tokens for beam in found.beams[name]] == [beam.tokens for beam in beams]
        scores = [beam.score for beam in beams]
        assert [beam.score for beam in found.beams[name]] == pytest.approx(scores, abs=tolerance)
    assert found.samples == expected.samples
    assert_same_along(found.forced, expected.forced, tolerance)


def with_ends(model, asks, decoding):
    """The decoding with end tokens that this model does generate, so that some answers end early."""
    endless = replace(decoding, eos_token_ids=(), sample_seeds=())
    bare = [
        replace(ask, options={}, targets={}, distribution=None, samples={}, forced=None) for ask in asks[:2]
    ]
    first, second = reference.answer(model, bare, endless, batch_size=1)
    return replace(decoding, eos_token_ids=(2, first.greedy["open"][4], second.beams["beams"][0].tokens[6]))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_answers_are_those_of_generate_and_of_full_passes(name, models, asks, decoding):
    model = models(name)
    decoding = with_ends(model, asks, decoding)
    expected = list(reference.answer(model, asks, decoding, batch_size=1))
    found = list(tree.answer(model, asks, decoding, batch_size=3))
    assert len(found) == len(asks)
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(mine, theirs)
    lengths = {len(beam.tokens) for reply in expected for beam in reply.beams["beams"]}
    assert len(lengths) > 1, "no beam ended early, so ends were not tested"


@pytest.fixture(scope="module")
def many():
    return random_asks(17, seed=3)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_nothing_depends_on_batch_size_order_or_sharding(name, models, many, decoding):
    model = models(name)
    alone = {reply.item_id: reply for reply in tree.answer(model, many, decoding, batch_size=1)}
    runs = [
        tree.answer(model, many, decoding, batch_size=3),
        tree.answer(model, many, decoding, batch_size=16),
        tree.answer(model, sorted(many, key=lambda ask: ask.item_id[::-1]), decoding, batch_size=16),
        [
            *tree.answer(model, many[::2], decoding, batch_size=4),
            *tree.answer(model, many[1::2], decoding, batch_size=5),
        ],
    ]
    for run in runs:
        replies = list(run)
        assert len(replies) == len(many)
        for reply in replies:
            assert_same(reply, alone[reply.item_id], tolerance=2e-5)


def test_replies_come_in_order_and_as_soon_as_their_batch_is_done(models, many, decoding, monkeypatch):
    batches = []
    answer_batch = tree._answer_batch
    monkeypatch.setattr(
        tree, "_answer_batch", lambda *given: batches.append(len(given[1])) or answer_batch(*given)
    )
    replies = tree.answer(models("llama"), many[:5], decoding, batch_size=2)
    assert next(replies).item_id == many[0].item_id
    assert batches == [2]
    assert [reply.item_id for reply in replies] == [ask.item_id for ask in many[1:5]]
    assert batches == [2, 2, 1]


def test_a_batch_that_does_not_fit_is_halved_and_loses_nothing(models, many, decoding, monkeypatch):
    model = models("llama")
    expected = list(tree.answer(model, many[:5], decoding, batch_size=5))
    answer_batch = tree._answer_batch
    tried = []

    def cramped(*given):
        tried.append(len(given[1]))
        if len(given[1]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_batch(*given)

    monkeypatch.setattr(tree, "_answer_batch", cramped)
    halved = []
    replies = tree.answer(model, many[:5], decoding, batch_size=5, on_split=halved.append)
    for found, wanted in zip(replies, expected, strict=True):
        assert_same(found, wanted)
    assert tried == [5, 3, 2, 1, 2]
    ids = tuple(ask.item_id for ask in many)
    assert halved == [ids[:5], ids[:3]]

    def hopeless(*_):
        raise MemoryError

    monkeypatch.setattr(tree, "_answer_batch", hopeless)
    with pytest.raises(ModelError, match="'item-0' does not fit into memory"):
        list(tree.answer(model, many[:2], decoding, batch_size=2))


def test_broken_weights_are_a_flag_and_not_an_exception(asks, decoding):
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5, 3] = torch.nan
    replies = list(tree.answer(model, asks, decoding, batch_size=3))
    assert [reply.finite for reply in replies] == [False] * len(asks)


def test_one_item_whose_states_break_leaves_its_neighbours_alone(asks, decoding):
    model = tiny_model("llama")
    poison = 80
    neighbours = [
        Ask(
            f"n{size}",
            greedy={"open": tuple(range(3, 3 + size))},
            samples={"samples": (5, 6, 7)},
            beams={"beams": (5, 6, 7, 8)},
        )
        for size in (6, 11)
    ]
    with torch.no_grad():
        model.lm_head.weight[poison] = 0  # so that no neighbour generates it
    expected = list(tree.answer(model, neighbours, decoding, batch_size=2))
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = torch.nan
    broken = Ask(
        "broken",
        greedy={"open": (3, poison, 4)},
        samples={"samples": (3, poison, 4)},
        beams={"beams": (3, poison, 4)},
    )
    replies = list(tree.answer(model, [neighbours[0], broken, neighbours[1]], decoding, batch_size=3))
    assert [reply.finite for reply in replies] == [True, False, True]
    assert_same(replies[0], expected[0])
    assert_same(replies[2], expected[1])


def test_the_shared_prefix_is_computed_once(models, many, decoding, monkeypatch):
    model = models("llama")
    computed = []
    decode = Head.decode
    monkeypatch.setattr(
        Head,
        "decode",
        lambda self, **inputs: computed.append(inputs["input_ids"].shape[1]) or decode(self, **inputs),
    )
    short = replace(decoding, max_new_tokens=1, sample_seeds=())
    together = list(tree.answer(model, many, short, batch_size=4))
    passed = sum(computed)
    computed.clear()
    apart = list(tree.answer(model, [replace(ask, shared_prefix=()) for ask in many], short, batch_size=4))
    assert sum(computed) - passed == len(many[0].shared_prefix) * (len(many) - 1)
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


def test_answers_that_agree_are_computed_once(models, asks, decoding, monkeypatch):
    """Samples from a nucleus of one token all follow the greedy path: one leaf a step."""
    widths = []
    decode = Head.decode
    monkeypatch.setattr(
        Head,
        "decode",
        lambda self, **inputs: widths.append(inputs["input_ids"].shape[1]) or decode(self, **inputs),
    )
    ask = replace(
        asks[0],
        greedy={"open": asks[0].samples["samples"]},
        options={},
        targets={},
        distribution=None,
        beams={},
    )
    [reply] = tree.answer(
        models("llama"), [ask], replace(decoding, top_p=1e-6, eos_token_ids=()), batch_size=1
    )
    assert widths[1:] == [1] * (decoding.max_new_tokens - 1)
    assert {sample for samples in reply.samples["samples"].values() for sample in samples} == {
        reply.greedy["open"]
    }


def test_what_has_ended_costs_nothing(models, many, decoding, monkeypatch):
    """Every row of every pass is a leaf that some answer goes on from: none for paths and items that ended."""
    widths, heads = [], []
    decode, logits = Head.decode, Head.logits
    monkeypatch.setattr(
        Head,
        "decode",
        lambda self, **inputs: widths.append(inputs["input_ids"].shape[1]) or decode(self, **inputs),
    )
    monkeypatch.setattr(
        Head,
        "logits",
        lambda self, states, **given: heads.append(len(states)) or logits(self, states, **given),
    )
    model = models("llama")
    asks = [Ask(ask.item_id, greedy={"open": ask.beams["beams"]}, samples=ask.samples) for ask in many[:6]]
    # End tokens that come soon, and at different steps in different items.
    endless = replace(decoding, eos_token_ids=(), max_new_tokens=16)
    ends = {
        reply.greedy["open"][place]
        for place, reply in enumerate(tree.answer(model, asks, endless, batch_size=6))
    }
    ending = replace(endless, eos_token_ids=tuple(sorted(ends)))
    widths.clear()
    heads.clear()
    replies = list(tree.answer(model, asks, ending, batch_size=6))
    answers = [
        [
            *reply.greedy.values(),
            *(tokens for drawn in reply.samples.values() for found in drawn.values() for tokens in found),
        ]
        for reply in replies
    ]
    lengths = [max(map(len, paths)) for paths in answers]
    assert min(lengths) < max(lengths), "all items ended at once, so nothing was tested"
    leaves = [
        sum(len({tokens[:step] for tokens in paths if len(tokens) >= step}) for paths in answers)
        for step in range(1, max(lengths) + 1)
    ]
    if len(leaves) == ending.max_new_tokens:
        leaves.pop()  # the last token of an answer at the limit is never computed
    assert widths[1:] == leaves
    # An ask may send another prompt to its samples than to the rest.
    sent = sum(len({*ask.greedy.values(), *ask.samples.values()}) for ask in asks)
    assert heads == [sent, *leaves]


def test_slots_of_beams_that_died_out_are_used_again(models, many, decoding, monkeypatch):
    taken = []
    occupy = TreeDecodeState.occupy
    monkeypatch.setattr(
        TreeDecodeState, "occupy", lambda self, node: occupy(self, node) or taken.append(node.slot)
    )
    long = replace(decoding, max_new_tokens=30, eos_token_ids=())
    ask = Ask("a", beams={"beams": many[0].beams["beams"]})
    list(tree.answer(models("qwen3"), [ask], long, batch_size=1))
    assert len(taken) > len(set(taken)), "no slot was taken twice"
    assert max(taken) < len(ask.beams["beams"]) + len(taken) - 1


def test_an_empty_ask_is_answered_with_an_empty_reply(models, decoding):
    assert list(tree.answer(models("llama"), [Ask("a"), Ask("b")], decoding, batch_size=2)) == [
        Reply("a"),
        Reply("b"),
    ]


def test_a_prompt_without_a_token_is_refused_by_name(models, decoding):
    with pytest.raises(ModelError, match="'a'"):
        list(tree.answer(models("llama"), [Ask("a", greedy={"open": ()})], decoding, batch_size=1))


@pytest.mark.parametrize("answer", [tree.answer, reference.answer])
def test_steps_are_reported_in_tokens(answer, models, many, decoding):
    asks = [Ask(ask.item_id, greedy=dict(list(ask.greedy.items())[:1])) for ask in many]
    counts = []
    replies = list(answer(models("llama"), asks, decoding, batch_size=4, on_tokens=counts.append))
    assert sum(counts) == sum(len(tokens) for reply in replies for tokens in reply.greedy.values())
    assert max(counts) <= 4
