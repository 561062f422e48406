"""Beam search as in `transformers` 5, on lists of candidates instead of whole-vocabulary tensors.

Source: `GenerationMixin._beam_search` with `length_penalty=1.0`, `early_stopping=False` and
`num_return_sequences=num_beams`. Scores are summed in float32, as they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anomia.probe.ask import Beam, TokenIds


class Running(NamedTuple):
    """An unfinished beam; `score` is the summed log-probability of its tokens."""

    tokens: TokenIds
    score: np.float32


class BeamSearch:
    """The state of one item's search, which starts from one empty beam and advances a token at a time.

    `running` holds the beams that `advance` needs next tokens for. When it is empty the search is over and
    `finished()` returns the result.
    """

    def __init__(self, *, num_beams: int, eos_token_ids: Sequence[int], max_new_tokens: int) -> None:
        self.num_beams = num_beams
        self.candidates = candidate_count(num_beams, eos_token_ids)
        self.max_new_tokens = max_new_tokens
        self.running: list[Running] = [Running((), np.float32(0))]
        self._eos = frozenset(eos_token_ids)
        self._ended: list[tuple[np.float32, TokenIds]] = []

    def advance(self, continuations: Sequence[tuple[Sequence[int], Sequence[float]]]) -> list[int]:
        """Takes the top next tokens of every running beam with their log-probabilities.

        continuations: for each of the [running] beams its tokens [candidates] and their log-probabilities, in nats
        [candidates]; at least `candidates` (fewer only if the vocabulary is smaller). Returns, for each beam now
        running, the index of the beam that it continues.
        """
        ranked = sorted(
            (
                (-(np.float32(log_prob) + beam.score), parent, token)
                for parent, (beam, (tokens, log_probs)) in enumerate(
                    zip(self.running, continuations, strict=True)
                )
                for token, log_prob in zip(tokens, log_probs, strict=True)
            ),
        )[: self.candidates]
        length = len(self.running[0].tokens) + 1
        at_limit = length >= self.max_new_tokens
        ended = list(self._ended)
        going: list[tuple[int, Running]] = []
        for place, (negative, parent, token) in enumerate(ranked):
            tokens = (*self.running[parent].tokens, token)
            if not at_limit and token not in self._eos:
                going.append((parent, Running(tokens, -negative)))
            elif place < self.num_beams:
                ended.append((-negative / np.float32(length), tokens))
        self._ended = sorted(ended, key=lambda beam: -beam[0])[: self.num_beams]
        going = going[: self.num_beams]
        if going and self._is_settled(going[0][1].score / np.float32(length)):
            going = []
        self.running = [beam for _, beam in going]
        return [parent for parent, _ in going]

    def finished(self) -> tuple[Beam, ...]:
        """The best finished beams in descending order of score, without end tokens."""
        return tuple(
            Beam(tokens[:-1] if tokens[-1] in self._eos else tokens, float(score))
            for score, tokens in self._ended
        )

    def _is_settled(self, best_possible: np.float32) -> bool:
        """Whether no running beam can still replace a finished one, by the estimate of `transformers`."""
        return len(self._ended) == self.num_beams and bool(best_possible <= self._ended[-1][0])


def candidate_count(num_beams: int, eos_token_ids: Sequence[int]) -> int:
    """How many candidates to rank per step, so that `num_beams` remain even if all end tokens are among them."""
    return max(2, 1 + len(eos_token_ids)) * num_beams
