"""Tiny random models of every architecture under test, and asks that reach every corner of the engines."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import transformers

from anomia.probe.ask import Ask, Decoding, ForcedAnswer, OptionSet, RankTarget

VOCABULARY = 83
WINDOW = 8
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TYPES = ["sliding_attention", "full_attention"] * 2
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 256,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "eos_token_id": 2,
}
NEOX = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}

CONFIGURATIONS: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "qwen2": lambda: transformers.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=WINDOW, layer_types=TYPES
    ),
    "qwen3": lambda: transformers.Qwen3Config(
        **SMALL, head_dim=8, use_sliding_window=True, sliding_window=WINDOW, layer_types=TYPES
    ),
    "mistral": lambda: transformers.MistralConfig(**SMALL, sliding_window=WINDOW),
    "phi3": lambda: transformers.Phi3Config(**SMALL, sliding_window=WINDOW),
    "gemma2": lambda: transformers.Gemma2Config(
        **SMALL,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        layer_types=TYPES,
        final_logit_softcapping=2.0,
        attn_logit_softcapping=1.0,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SMALL, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW, layer_types=TYPES
    ),
    "olmo2": lambda: transformers.Olmo2Config(**SMALL),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**NEOX),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "granite": lambda: transformers.GraniteConfig(**SMALL, logits_scaling=3.0, attention_multiplier=0.2),
    "mixtral": lambda: transformers.MixtralConfig(**SMALL, num_local_experts=4, sliding_window=WINDOW),
}


def tiny_model(name: str) -> transformers.PreTrainedModel:
    """A model whose distributions are neither flat nor certain: its weights are larger than at birth."""
    torch.manual_seed(7)
    config = CONFIGURATIONS[name]()
    # `eager` is what every architecture has; the tree brings its own attention.
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5 if parameter.shape[0] != VOCABULARY else 20)
    return model.float().eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny products are slower on several threads than on one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models() -> Callable[[str], transformers.PreTrainedModel]:
    made: dict[str, transformers.PreTrainedModel] = {}

    def get(name: str) -> transformers.PreTrainedModel:
        if name not in made:
            made[name] = tiny_model(name)
        return made[name]

    return get


def random_asks(count: int, seed: int = 0) -> list[Ask]:
    """Asks of uneven length with branches of every kind, far longer than the window."""
    rng = random.Random(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, VOCABULARY) for _ in range(length))

    exemplar = (1, *tokens(30))
    asks = []
    for number in range(count):
        passage = (1, *tokens(rng.randrange(12, 40)))
        prompt = passage + tokens(5)
        answers = [tokens(rng.randrange(1, 6)) for _ in range(4)]
        # Two options that share their beginning, and one that is nothing but another's beginning.
        answers[1] = answers[0][:1] + tokens(2)
        answers[2] = answers[1][:2]
        cued = prompt + tokens(9)
        # Some longer than one pass through the head; some with references, one empty, some along an option.
        own = random.Random(f"{seed} {number}")
        along = [own.randrange(3, VOCABULARY) for _ in range((70, 3, 9, 0)[number % 4])]
        forced = answers[0] if number % 5 == 2 else tuple(along)
        references = tuple(tuple(own.sample(range(VOCABULARY), 4)) for _ in range(len(forced) + 1))
        one_shot = exemplar + tokens(rng.randrange(6, 20))
        asks.append(
            Ask(
                item_id=f"item-{number}",
                greedy={"open": prompt, "cued": cued, "one_shot": one_shot, "one_shot_zero": one_shot[31:]},
                options={
                    "standard": OptionSet(len(prompt), tuple(prompt + answer for answer in answers)),
                    "no_question": OptionSet(len(passage), tuple(passage + answer for answer in answers)),
                    "backed_off": OptionSet(len(prompt) - 2, (prompt + answers[3], prompt[:-2] + tokens(3))),
                },
                targets={
                    "gold": RankTarget(prompt, answers[0][0]),
                    "control": RankTarget(prompt, answers[3][0]),
                    "distinct": RankTarget(prompt + answers[0][:1], 5),
                },
                distribution=prompt,
                reference_tokens=tuple(rng.sample(range(VOCABULARY), 10)),
                beams={"beams": prompt, "hunted": prompt[:-1]} if number % 2 else {"beams": prompt},
                samples={"samples": prompt, "drawn": prompt[:-1]} if number % 2 else {"samples": prompt},
                forced=ForcedAnswer(prompt, forced, references if number % 2 else ()),
                shared_prefix=exemplar,
            )
        )
    return asks


@pytest.fixture(scope="session")
def asks() -> list[Ask]:
    return random_asks(5)


@pytest.fixture(scope="session")
def decoding() -> Decoding:
    return Decoding(
        eos_token_ids=(2, 11),
        max_new_tokens=10,
        num_samples=6,
        sample_seeds=(42, 43),
        top_tokens=12,
        forced_top_tokens=6,
    )
