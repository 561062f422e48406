"""The beam search alone, against `transformers`, on a model that is nothing but a table of next tokens."""

from __future__ import annotations

import pytest
import torch
import transformers

from anomia.probe.beams import BeamSearch

SIZE = 30


class TableConfig(transformers.PretrainedConfig):
    model_type = "table"
    vocab_size = SIZE


class Table(transformers.PreTrainedModel, transformers.GenerationMixin):
    """Next-token logits that depend on the last two tokens."""

    config_class = TableConfig

    def __init__(self, table):
        super().__init__(TableConfig(use_cache=False))
        self.table = torch.nn.Parameter(table)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}

    def forward(self, input_ids, **_):
        logits = self.table[input_ids[:, -2], input_ids[:, -1]][:, None]
        return transformers.modeling_outputs.CausalLMOutputWithPast(logits=logits)


@pytest.mark.parametrize("eos", [(), (3,), (3, 4, 5)])
@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_beams_scores_and_order_are_those_of_transformers(seed, num_beams, eos):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(SIZE, SIZE, SIZE, generator=generator) * 2
    table[:, :, list(eos)] += 2.5  # so that many beams end, some of them early
    prompt = [1, 2]
    expected = Table(table).generate(
        torch.tensor([prompt]),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=9,
        eos_token_id=list(eos) or None,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        use_cache=False,
    )
    search = BeamSearch(num_beams=num_beams, eos_token_ids=eos, max_new_tokens=9)
    while search.running:
        continuations = []
        for beam in search.running:
            before, last = [*prompt, *beam.tokens][-2:]
            top = table[before, last].log_softmax(-1).topk(search.candidates)
            continuations.append((top.indices.tolist(), top.values.tolist()))
        parents = search.advance(continuations)
        assert len(parents) == len(search.running)
    found = search.finished()
    assert len(found) == num_beams
    for beam, row, score in zip(found, expected.sequences, expected.sequences_scores, strict=True):
        tokens = row[2:].tolist()
        end = next((i for i, token in enumerate(tokens) if token in eos), len(tokens))
        assert beam.tokens == tuple(tokens[:end])
        assert beam.score == pytest.approx(float(score), abs=1e-5)
