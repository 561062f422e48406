"""The reference engine: `model.generate`, and one full forward pass for every option and prefix.

Slow on purpose. The token tree is tested against it, and it serves architectures that a tree mask doesn't fit.
It shares no code with the tree except the random numbers of samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch.nn import functional

from anomia.errors import ModelError
from anomia.loops import LoopWatch, settled_loop
from anomia.probe.ask import (
    Ask,
    Beam,
    Decoding,
    Distribution,
    Followed,
    ForcedAnswer,
    OnSplit,
    OnTokens,
    OptionSet,
    Placement,
    RankTarget,
    Reply,
    TokenIds,
)
from anomia.probe.sampling import Stream, uniform


def answer(
    model: Any,
    asks: Sequence[Ask],
    decoding: Decoding,
    *,
    batch_size: int,
    on_split: OnSplit | None = None,
    on_tokens: OnTokens | None = None,
) -> Iterator[Reply]:
    """Answers asks without a tree; an `Engine`. It never halves a batch, so it never calls `on_split`.

    Greedy prompts of up to `batch_size` items are generated together with left padding, except for models with a
    recurrent state, which would read the padding. Everything else runs item by item.
    """
    for first in range(0, len(asks), batch_size):
        batch = asks[first : first + batch_size]
        prompts = [(n, name, prompt) for n, ask in enumerate(batch) for name, prompt in ask.greedy.items()]
        greedy: list[dict[str, TokenIds]] = [{} for _ in batch]
        for chunk in range(0, len(prompts), batch_size):
            part = prompts[chunk : chunk + batch_size]
            for together in _generated_together(model, part):
                for (n, name, _), tokens in zip(
                    together,
                    _greedy(model, [p for *_, p in together], decoding, on_tokens),
                    strict=True,
                ):
                    greedy[n][name] = tokens
        for ask, generated in zip(batch, greedy, strict=True):
            yield _reply(model, ask, generated, decoding)


def _generated_together(
    model: Any, prompts: Sequence[tuple[int, str, TokenIds]]
) -> list[list[tuple[int, str, TokenIds]]]:
    """Groups prompts that can share a batch: all, or those of equal length if a state would read the padding."""
    if not getattr(model, "_is_stateful", False):
        return [list(prompts)]
    by_length: dict[int, list[tuple[int, str, TokenIds]]] = {}
    for prompt in prompts:
        by_length.setdefault(len(prompt[2]), []).append(prompt)
    return list(by_length.values())


@torch.inference_mode()
def _reply(model: Any, ask: Ask, greedy: dict[str, TokenIds], decoding: Decoding) -> Reply:
    """One item's reply, with a full forward pass per prefix, whose next-token logits are [V], and per option."""
    prefixes = {target.prefix for target in ask.targets.values()}
    if ask.distribution is not None:
        prefixes.add(ask.distribution)
    logits = {prefix: _float32_logits(model, prefix) for prefix in prefixes}
    option_log_probs = {name: _score(model, options) for name, options in ask.options.items()}
    forced = None if ask.forced is None else _along(model, ask.forced, decoding)
    finite = all(bool(torch.isfinite(values).all()) for values in logits.values()) and all(
        bool(torch.isfinite(torch.tensor(scores)).all())
        for scored in option_log_probs.values()
        for scores in scored
    )
    if not finite or (ask.forced is not None and forced is None):
        return Reply(ask.item_id, finite=False)
    distribution, reference = None, ()
    if ask.distribution is not None:
        log_probs = torch.log_softmax(logits[ask.distribution], dim=-1)
        distribution = _likeliest(log_probs, decoding.top_tokens)
        reference = tuple(log_probs[list(ask.reference_tokens)].tolist())
    return Reply(
        ask.item_id,
        greedy=greedy,
        option_log_probs=option_log_probs,
        placements={name: _place(logits[target.prefix], target) for name, target in ask.targets.items()},
        distribution=distribution,
        reference_log_probs=reference,
        beams={name: _beams(model, prompt, decoding) for name, prompt in ask.beams.items()},
        samples={
            name: _samples(model, ask.item_id, prompt, decoding) for name, prompt in ask.samples.items()
        },
        forced=forced,
    )


@torch.inference_mode()
def _greedy(
    model: Any, prompts: Sequence[TokenIds], decoding: Decoding, on_tokens: OnTokens | None = None
) -> list[TokenIds]:
    length = max(len(prompt) for prompt in prompts)
    rows = [[_pad(decoding)] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = _generate(
        model,
        torch.tensor(rows, device=model.device),  # [B, S]
        attention_mask=torch.tensor(mask, device=model.device),
        stopping_criteria=transformers.StoppingCriteriaList([_Steps(len(prompts), decoding, on_tokens)]),
        generation_config=_generation(decoding),
    )
    answers = [_until_end(row[length:].tolist(), decoding) for row in output]
    return [_until_loop(answer, decoding) for answer in answers] if decoding.end_loops else answers


def _until_loop(tokens: TokenIds, decoding: Decoding) -> TokenIds:
    """An answer up to where it is settled to be a loop."""
    settled = settled_loop(tokens, decoding.max_new_tokens)
    return tokens if settled is None else tokens[: settled.tokens]


class _Steps(transformers.StoppingCriteria):  # type: ignore[misc]
    """Reports each step of `generate`, and ends a row once it is settled to be a loop, if that is asked for."""

    def __init__(self, rows: int, decoding: Decoding, on_tokens: OnTokens | None) -> None:
        self._ends = frozenset(decoding.eos_token_ids)
        self._growing = [True] * rows
        self._on_tokens = on_tokens
        self._watches = (
            [LoopWatch(decoding.max_new_tokens) for _ in range(rows)] if decoding.end_loops else []
        )

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        # input_ids: [B, S], with the newest token at the end.
        looping = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for row, token in enumerate(input_ids[:, -1].tolist()):
            self._growing[row] = self._growing[row] and token not in self._ends
            if self._growing[row] and self._watches and self._watches[row].add(token):
                looping[row] = True
        if self._on_tokens is not None:
            self._on_tokens(sum(self._growing))
        for row in torch.nonzero(looping)[:, 0].tolist():
            self._growing[row] = False
        return looping


def _beams(model: Any, prompt: TokenIds, decoding: Decoding) -> tuple[Beam, ...]:
    """Beam search by `generate` from a prompt [1, S]: `num_beams` beams, with scores in nats per token."""
    inputs = torch.tensor([prompt], device=model.device)  # [1, S]

    def search(**options: Any) -> Any:
        settings = _generation(
            decoding,
            num_beams=decoding.num_beams,
            num_return_sequences=decoding.num_beams,
            length_penalty=1.0,
            early_stopping=False,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        return _generate(model, inputs, attention_mask=torch.ones_like(inputs), generation_config=settings)

    try:
        output = search()
    except _CannotGenerateError as error:
        # RWKV's state can't be reordered with the beams; without a cache each pass reads from the start.
        if "cannot be reordered" not in str(error):
            raise
        output = search(use_cache=False)
    return tuple(
        Beam(_until_end(row[len(prompt) :].tolist(), decoding), score)
        for row, score in zip(output.sequences, output.sequences_scores.tolist(), strict=True)
    )


def _samples(
    model: Any, item_id: str, prompt: TokenIds, decoding: Decoding
) -> dict[int, tuple[TokenIds, ...]]:
    """Nucleus samples by `generate` from a prompt [samples, S], by seed, with each token forced to the one that our own
    random numbers draw.
    """
    found: dict[int, tuple[TokenIds, ...]] = {}
    for seed in decoding.sample_seeds:
        draw = _Draw(decoding, seed=seed, item_id=item_id, prompt_length=len(prompt))
        inputs = torch.tensor([prompt] * decoding.num_samples, device=model.device)  # [samples, S]
        output = _generate(
            model,
            inputs,
            attention_mask=torch.ones_like(inputs),
            logits_processor=transformers.LogitsProcessorList([draw]),
            generation_config=_generation(decoding),
        )
        found[seed] = tuple(_until_end(row[len(prompt) :].tolist(), decoding) for row in output)
    return found


class _Draw(transformers.LogitsProcessor):  # type: ignore[misc]
    """Leaves one token per row, drawn from `transformers`' nucleus with the random numbers of `probe.sampling`."""

    def __init__(self, decoding: Decoding, *, seed: int, item_id: str, prompt_length: int) -> None:
        self._nucleus = transformers.TopPLogitsWarper(decoding.top_p)
        self._temperature = decoding.temperature
        self._seed, self._item_id, self._prompt_length = seed, item_id, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # input_ids: [samples, S]; scores and the result: [samples, V].
        warped = scores.float() / self._temperature
        allowed = self._nucleus(input_ids, warped).isfinite()
        cumulative = torch.softmax(warped.double(), dim=-1).cumsum(-1)
        forced = torch.full_like(scores, -torch.inf)
        step = input_ids.shape[1] - self._prompt_length
        for row in range(len(scores)):
            stream = Stream(self._seed, self._item_id, row, step)
            draws = (uniform(stream, attempt) for attempt in itertools.count())
            tokens = (int(torch.searchsorted(cumulative[row], number, right=True)) for number in draws)
            forced[row, next(token for token in tokens if allowed[row, token])] = 0.0
        return forced


def _score(model: Any, options: OptionSet) -> tuple[tuple[float, ...], ...]:
    """The log-probability of each token from `start` on for each sequence, by full forward passes."""
    scores = []
    for sequence in options.sequences:
        wanted = torch.tensor(sequence[options.start :], device=model.device)  # [T]
        logits = _logits(model, sequence, len(wanted) + 1)[:-1]  # [T, V]
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        scores.append(tuple(log_probs.gather(1, wanted[:, None])[:, 0].tolist()))
    return tuple(scores)


def _logits(model: Any, sequence: Sequence[int], keep: int) -> torch.Tensor:
    """The logits [keep, V] at the last `keep` positions."""
    inputs = torch.tensor([list(sequence)], device=model.device)  # [1, S]
    logits: torch.Tensor = model(inputs, use_cache=False, logits_to_keep=keep).logits
    return logits[0, -keep:]


def _float32_logits(model: Any, prefix: TokenIds) -> torch.Tensor:
    """The next-token logits [V] after a prefix, with the head's product in float32."""
    with _float32_head(model):
        return _logits(model, prefix, 1)[-1].float()


@contextmanager
def _float32_head(model: Any) -> Iterator[None]:
    """Makes the output head multiply in float32 inside the block; later operations on logits still apply."""
    head = model.get_output_embeddings()

    def product(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        bias = None if module.bias is None else module.bias.float()
        return functional.linear(inputs[0].float(), module.weight.float(), bias)

    hook = head.register_forward_hook(product)
    try:
        yield
    finally:
        hook.remove()


def _place(logits: torch.Tensor, target: RankTarget) -> Placement:
    own = logits[target.token]
    return Placement(
        rank=1 + int((logits > own).sum()),
        ties=int((logits == own).sum()) - 1,
        log_prob=float(torch.log_softmax(logits, dim=-1)[target.token]),
        margin=float(logits.max() - own),
    )


def _along(model: Any, forced: ForcedAnswer, decoding: Decoding) -> Followed | None:
    """One forward pass over prompt and answer, read at the answer's T + 1 positions: [T + 1, V].

    None if a logit isn't finite.
    """
    with _float32_head(model):
        logits = _logits(model, forced.sequence, len(forced.tokens) + 1).float()  # [T + 1, V]
    if not torch.isfinite(logits).all():
        return None
    log_probs = [torch.log_softmax(row, dim=-1) for row in logits]
    ends = list(decoding.eos_token_ids)
    return Followed(
        placements=tuple(
            _place(row, RankTarget((), token)) for row, token in zip(logits[:-1], forced.tokens, strict=True)
        ),
        best=tuple(int(row.argmax()) for row in logits),
        end_log_probs=tuple(float(row[ends].logsumexp(-1)) for row in log_probs),
        distributions=()
        if forced.references
        else tuple(_likeliest(row, decoding.forced_top_tokens) for row in log_probs),
        reference_log_probs=tuple(
            tuple(row[list(asked)].tolist())
            for row, asked in zip(log_probs, forced.references, strict=bool(forced.references))
        ),
    )


def _likeliest(log_probs: torch.Tensor, count: int) -> Distribution:
    top = log_probs.topk(min(count, log_probs.numel()))
    tail = 1.0 - float(top.values.double().exp().sum())
    return Distribution(tuple(top.indices.tolist()), tuple(top.values.tolist()), max(0.0, tail))


def _generate(model: Any, inputs: torch.Tensor, **options: Any) -> Any:
    """`model.generate` without the model's own generation config, which would be merged into any other.

    inputs: token ids, [B, S]. Returns what `generate` does: prompts with their continuations, [B, S + new], or an
    output that has them as `sequences`.
    Raises `ModelError` if transformers' code for the architecture fails, as for a model without any attention
    layer in an architecture that usually has some.
    """
    own = model.generation_config
    model.generation_config = transformers.GenerationConfig()
    try:
        return model.generate(inputs, **options)
    except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError) as error:
        if lacks_rows(error):
            raise
        raise _CannotGenerateError(
            f"{type(model).__name__} can't generate a text: transformers' own code for it ends with "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    finally:
        model.generation_config = own


def lacks_rows(error: Exception) -> bool:
    """Whether it is what torch says of a token id beyond an embedding table, such as Gemma 4's tables of each layer."""
    return isinstance(error, IndexError) and "index out of range in self" in str(error)


class _CannotGenerateError(ModelError):
    """`generate` failed; the message has what transformers says."""


def _generation(decoding: Decoding, **options: Any) -> transformers.GenerationConfig:
    return transformers.GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.eos_token_ids) or None,
        pad_token_id=_pad(decoding),
        do_sample=False,
        **options,
    )


def _pad(decoding: Decoding) -> int:
    """The padding token: any would do, because padding is masked. Finished rows are filled with it as well."""
    return decoding.eos_token_ids[0] if decoding.eos_token_ids else 0


def _until_end(tokens: Sequence[int], decoding: Decoding) -> TokenIds:
    end = next((i for i, token in enumerate(tokens) if token in decoding.eos_token_ids), len(tokens))
    return tuple(tokens[:end])
