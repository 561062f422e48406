"""The plain engine against nothing but a model's own forward pass, written out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from anomia.errors import ModelError
from anomia.probe import reference
from anomia.probe.ask import Ask, Decoding, OptionSet, RankTarget

PROMPT = (0, 5, 9, 200, 31, 7)
DECODING = Decoding(eos_token_ids=(1,), max_new_tokens=6, num_beams=3, num_samples=4, top_tokens=8)


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any]) -> Any:
    return make_model()


def next_logits(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, -1]


def only(model: Any, **asked: Any) -> Any:
    return next(reference.answer(model, [Ask("item", **asked)], DECODING, batch_size=4))


def test_greedy_takes_the_likeliest_token_until_the_end_token(model: Any) -> None:
    tokens: tuple[int, ...] = ()
    while len(tokens) < DECODING.max_new_tokens:
        token = int(next_logits(model, PROMPT + tokens).argmax())
        if token == 1:
            break
        tokens += (token,)
    assert only(model, greedy={"open": PROMPT}).greedy["open"] == tokens


def test_what_a_model_brings_along_does_not_change_what_is_greedy(make_model: Callable[..., Any]) -> None:
    plain, opinionated = make_model(), make_model()
    for name, value in {
        "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 5, "do_sample": True, "top_k": 3,
        "temperature": 0.3, "bad_words_ids": [[t] for t in range(40, 400)],
    }.items():  # fmt: skip
        setattr(opinionated.generation_config, name, value)
    asked = {"greedy": {"open": PROMPT}, "beams": {"beams": PROMPT}, "samples": {"samples": PROMPT}}
    one, two = only(plain, **asked), only(opinionated, **asked)
    assert one.greedy == two.greedy
    assert [beam.tokens for beam in one.beams["beams"]] == [beam.tokens for beam in two.beams["beams"]]
    assert one.samples == two.samples


def test_left_padding_changes_no_answer(model: Any) -> None:
    prompts = [PROMPT, PROMPT[:2], PROMPT * 4]
    asks = [Ask(str(n), greedy={"open": prompt, "cued": prompt[:1]}) for n, prompt in enumerate(prompts)]
    together = list(reference.answer(model, asks, DECODING, batch_size=3))
    alone = list(reference.answer(model, asks, DECODING, batch_size=1))
    assert [reply.greedy for reply in together] == [reply.greedy for reply in alone]
    assert [reply.item_id for reply in together] == ["0", "1", "2"]


def test_options_are_scored_token_by_token(model: Any) -> None:
    options = OptionSet(5, ((*PROMPT, 40), (*PROMPT, 41, 42)))
    found = only(model, options={"choice": options}).option_log_probs["choice"]
    for sequence, scores in zip(options.sequences, found, strict=True):
        wanted = [
            float(torch.log_softmax(next_logits(model, sequence[:at]), -1)[sequence[at]])
            for at in range(5, len(sequence))
        ]
        assert scores == pytest.approx(wanted, abs=1e-5)


def test_placement(model: Any) -> None:
    logits = next_logits(model, PROMPT)
    order = logits.argsort(descending=True).tolist()
    reply = only(
        model, targets={"gold": RankTarget(PROMPT, order[6]), "control": RankTarget(PROMPT, order[0])}
    )
    assert reply.placements["gold"].rank == 7
    assert reply.placements["gold"].ties == 0
    assert reply.placements["gold"].margin == pytest.approx(float(logits.max() - logits[order[6]]), abs=1e-5)
    assert reply.placements["control"].rank == 1
    assert reply.placements["control"].margin == 0


def test_ties_are_counted(make_model: Callable[..., Any]) -> None:
    tied = make_model()
    with torch.no_grad():
        tied.lm_head.weight[30:33] = tied.lm_head.weight[29]
    assert only(tied, targets={"gold": RankTarget(PROMPT, 31)}).placements["gold"].ties == 3


def test_distribution_and_reference_tokens(model: Any) -> None:
    log_probs = torch.log_softmax(next_logits(model, PROMPT), -1)
    reply = only(model, distribution=PROMPT, reference_tokens=(3, 2))
    assert reply.distribution.tokens == tuple(log_probs.topk(8).indices.tolist())
    assert reply.distribution.tail_mass == pytest.approx(
        1 - float(log_probs.topk(8).values.exp().sum()), abs=1e-5
    )
    assert reply.reference_log_probs == pytest.approx([float(log_probs[3]), float(log_probs[2])], abs=1e-5)


def test_samples_follow_their_numbers_alone(model: Any) -> None:
    one, two = (only(model, samples={"samples": PROMPT}).samples["samples"][42] for _ in range(2))
    assert one == two
    assert len(one) == 4
    assert len(set(one)) > 1
    asks = [Ask("other", samples={"samples": PROMPT})]
    other = next(reference.answer(model, asks, DECODING, batch_size=4)).samples["samples"][42]
    assert one != other


def test_beams_come_in_order(model: Any) -> None:
    beams = only(model, beams={"beams": PROMPT}).beams["beams"]
    assert len(beams) == 3
    assert [beam.score for beam in beams] == sorted((beam.score for beam in beams), reverse=True)
    total, tokens = 0.0, beams[0].tokens + ((1,) if len(beams[0].tokens) < 6 else ())
    for at, token in enumerate(tokens):
        total += float(torch.log_softmax(next_logits(model, PROMPT + tokens[:at]), -1)[token])
    assert beams[0].score == pytest.approx(total / len(tokens), abs=1e-4)


def test_logits_that_are_not_numbers_are_said(make_model: Callable[..., Any]) -> None:
    sick = make_model()
    with torch.no_grad():
        sick.lm_head.weight[3] = float("nan")
    assert not only(sick, greedy={"open": PROMPT}, options={"choice": OptionSet(6, ((*PROMPT, 4),))}).finite


def rwkv() -> Any:
    config = transformers.RwkvConfig(
        vocab_size=600,
        hidden_size=32,
        attention_hidden_size=32,
        num_hidden_layers=2,
        context_length=64,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def test_a_state_that_cannot_be_reordered_gives_beams_without_a_cache() -> None:
    model = rwkv()
    (greedy, *_) = reference._beams(model, PROMPT, DECODING)
    assert len(reference._beams(model, PROMPT, DECODING)) == DECODING.num_beams
    total, tokens = 0.0, list(PROMPT)
    for token in greedy.tokens:
        total += float(torch.log_softmax(next_logits(model, tuple(tokens)), dim=-1)[token])
        tokens.append(token)
    assert greedy.score * len(greedy.tokens) == pytest.approx(total, abs=1e-3)


def test_padding_enters_no_recurrent_state() -> None:
    """RWKV heeds no mask: generated next to a longer prompt, a short one must give what it gives alone."""
    model, short, long = rwkv(), PROMPT, (*range(100, 112),)
    asks = [Ask("a", greedy={"open": short}), Ask("b", greedy={"open": long})]
    together = [reply.greedy["open"] for reply in reference.answer(model, asks, DECODING, batch_size=2)]
    alone = [next(reference.answer(model, [ask], DECODING, batch_size=1)).greedy["open"] for ask in asks]
    assert together == alone


def test_what_transformers_cannot_generate_is_one_message() -> None:
    """Its cache asks for the length that an attention layer has, and here is none."""
    config = transformers.RecurrentGemmaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        lru_width=32,
        block_types=("recurrent", "recurrent"),
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match=r"RecurrentGemmaForCausalLM can't generate .*ValueError: "):
        only(model, greedy={"open": PROMPT})
