"""The questions that one item puts to a model, and the reply.

This is the contract between encoding (`probe.encode`), the engines (`probe.tree`, `probe.reference`) and the
records. Everything is in token ids: an engine never sees a tokenizer and knows no rule about token boundaries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from anomia.probes import ALONG_TOKENS

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OptionSet:
    """Continuations that are scored from the same position.

    `sequences` are whole token sequences (prompt and continuation encoded together). All of them share the tokens
    before `start`, which are not scored.
    """

    start: int
    sequences: tuple[TokenIds, ...]


@dataclass(frozen=True, slots=True)
class RankTarget:
    """A token to rank in the next-token distribution after `prefix`."""

    prefix: TokenIds
    token: int


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """An answer that a model is taken along, token by token, whatever it would have said (teacher forcing).

    tokens: the answer, without an end token. references: for each of the len(tokens) + 1 positions (the last one comes
    after the whole answer), tokens whose log-probabilities are returned; without them the top tokens are.
    """

    prompt: TokenIds
    tokens: TokenIds
    references: tuple[TokenIds, ...] = ()

    @property
    def sequence(self) -> TokenIds:
        """Prompt and answer."""
        return self.prompt + self.tokens


@dataclass(frozen=True, slots=True)
class Ask:
    """All questions about one item, by name. Absent means not asked.

    greedy: prompts to answer by greedy decoding.
    options: sets of continuations to score.
    targets: tokens to rank in a next-token distribution.
    distribution: prefix whose next-token distribution is returned (the top tokens and the tail's mass).
    reference_tokens: tokens whose log-probabilities after `distribution` are returned as well.
    beams, samples: prompts for beam search and for nucleus sampling, by probe.
    forced: an answer to take the model along.
    shared_prefix: leading tokens that some prompts share with the prompts of every other ask in the group (the
        one-shot exemplar). A hint: engines may compute it once or ignore it.
    """

    item_id: str
    greedy: Mapping[str, TokenIds] = field(default_factory=dict)
    options: Mapping[str, OptionSet] = field(default_factory=dict)
    targets: Mapping[str, RankTarget] = field(default_factory=dict)
    distribution: TokenIds | None = None
    reference_tokens: TokenIds = ()
    beams: Mapping[str, TokenIds] = field(default_factory=dict)
    samples: Mapping[str, TokenIds] = field(default_factory=dict)
    forced: ForcedAnswer | None = None
    shared_prefix: TokenIds = ()


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are generated; recorded in every run.

    end_loops: end a greedy answer once it is settled to be a loop (`loops.LoopWatch`); its tokens stay as they are.
    Source: paper, Appendix B (32 new tokens, 5 beams, 10 nucleus samples with p = 0.9).
    """

    eos_token_ids: tuple[int, ...]
    max_new_tokens: int = 32
    num_beams: int = 5
    num_samples: int = 10
    top_p: float = 0.9
    temperature: float = 1.0
    sample_seeds: tuple[int, ...] = (42,)
    top_tokens: int = 256
    forced_top_tokens: int = ALONG_TOKENS
    end_loops: bool = False


class Placement(NamedTuple):
    """The rank of a token in a next-token distribution, from logits whose head product is taken in float32.

    rank: 1 + the number of strictly larger logits. ties: how many other tokens have an equal logit.
    log_prob: natural logarithm. margin: largest logit − the token's logit (0 for the top token).
    """

    rank: int
    ties: int
    log_prob: float
    margin: float


class Distribution(NamedTuple):
    """The top next tokens in descending order, and the total probability of all others."""

    tokens: TokenIds
    log_probs: tuple[float, ...]
    tail_mass: float


class Followed(NamedTuple):
    """What a model says along a forced answer of T tokens, from logits whose head product is taken in float32.

    placements: of each token of the answer, [T]. best: the top token at each position, [T + 1].
    end_log_probs: the log-probability of all end tokens together, [T + 1]. distributions: the top tokens, [T + 1];
    empty if references were given. reference_log_probs: [T + 1], of the references at each position; else empty.
    """

    placements: tuple[Placement, ...]
    best: TokenIds
    end_log_probs: tuple[float, ...]
    distributions: tuple[Distribution, ...] = ()
    reference_log_probs: tuple[tuple[float, ...], ...] = ()


class Beam(NamedTuple):
    """A finished beam; `score` is its log-probability divided by its length, as in `transformers`."""

    tokens: TokenIds
    score: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The answers to one `Ask`, under the same names. Generated tokens exclude the end token.

    option_log_probs: for each sequence of a set, the log-probability of each token from `start` on.
    samples: by probe and seed, ordered by sample index. forced: what the model says along the forced answer.
    finite: False if any logit that was read is NaN or infinite; the other fields are then meaningless.
    """

    item_id: str
    greedy: Mapping[str, TokenIds] = field(default_factory=dict)
    option_log_probs: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    placements: Mapping[str, Placement] = field(default_factory=dict)
    distribution: Distribution | None = None
    reference_log_probs: tuple[float, ...] = ()
    beams: Mapping[str, tuple[Beam, ...]] = field(default_factory=dict)
    samples: Mapping[str, Mapping[int, tuple[TokenIds, ...]]] = field(default_factory=dict)
    forced: Followed | None = None
    finite: bool = True


OnSplit = Callable[[tuple[str, ...]], None]
"""Called with the item ids, in order, of a batch that didn't fit into memory and was halved."""
OnTokens = Callable[[int], None]
"""Called after each decode step with the number of answers that it extended by a token."""


class Engine(Protocol):
    """Answers asks with a model, in batches of at most `batch_size` items.

    Replies come in the order of the asks, as soon as their batch is finished. `on_tokens` reports the steps until then.
    """

    def __call__(
        self,
        model: Any,
        asks: Sequence[Ask],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Iterator[Reply]:
        """Yields a reply for each ask; calls `on_split` when a batch has to be halved."""
        ...
