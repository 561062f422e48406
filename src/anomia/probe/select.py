"""The choice of engine: the token tree if it fits the model, else the reference engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from anomia.errors import ModelError
from anomia.models.sizes import positions_of, text_part, types_of, whole
from anomia.probe import reference, tree
from anomia.probe.ask import Ask, Decoding, Engine, OnSplit, OnTokens, Reply
from anomia.probe.prefill import read_positions
from anomia.probe.selftest import tree_fault


class Support(NamedTuple):
    """Whether a tree fits a model, and the reason if it doesn't or has limits.

    longest: the most tokens that prompt and answer may have together; None for the model's own limit.
    """

    ok: bool
    reason: str
    longest: int | None = None


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine, its name, and the reason if it isn't the tree or has limits."""

    name: str
    reason: str
    answer: Engine


def choose_engine(model: Any, wanted: str = "auto", *, tried: bool = False) -> ChosenEngine:
    """Chooses the engine for a model.

    Args:
        model: a causal language model of `transformers` in evaluation mode.
        wanted: `tree`, `reference`, or `auto` (the tree if it fits).
        tried: a model of the same architecture has passed the self-test. With damaged weights, rounding can grow
            until the self-test can't tell it from a fault, so compressed models rely on their base's result.

    Raises:
        ModelError: the tree was asked for and doesn't fit.
    """
    if wanted == "reference":
        return ChosenEngine("reference", "", reference.answer)
    support = supports_tree(model, tried=tried)
    if not support.ok:
        if wanted == "tree":
            raise ModelError(
                f"the tree engine does not fit this model: {support.reason}; use --engine reference or auto"
            )
        return ChosenEngine("reference", support.reason, reference.answer)
    if support.longest is not None:
        return ChosenEngine("tree", support.reason, _limited(support.longest))
    return ChosenEngine("tree", "", tree.answer)


def supports_tree(model: Any, *, tried: bool = False) -> Support:
    """Checks whether a token tree fits a model, with a self-test (`selftest`) unless its architecture was `tried`."""
    config = text_part(model.config)
    if model.training:
        return Support(False, "the model is in training mode, so dropout would make its answers random")
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return Support(False, f"{_name(model)} biases attention by distance in the cache (ALiBi)")
    types = set(types_of(config) or ())
    if getattr(model, "_is_stateful", False) or not types <= {"full_attention", "sliding_attention"}:
        return Support(
            False, f"{_name(model)} has layers with a recurrent state or attention of another kind"
        )
    if model.base_model is model or model.get_output_embeddings() is None:
        return Support(False, f"{_name(model)} has no decoder and output head that can be run apart")
    fault = None if tried else tree_fault(model)
    if fault is not None:
        return Support(False, f"{_name(model)}: {fault}")
    longest = _one_sided_length(config)
    reason = f"items beyond {longest} tokens take the reference engine, as rotary scaling changes there"
    return Support(True, "" if longest is None else reason, longest)


def _name(model: Any) -> str:
    return type(model).__name__


def _one_sided_length(config: Any) -> int | None:
    """The sequence length up to which rotary frequencies don't depend on the longest sequence of a batch."""
    parameters = getattr(config, "rope_parameters", None)
    parts = parameters if isinstance(parameters, dict) else {}
    kinds = [p for p in (parts, *parts.values()) if isinstance(p, dict)]
    limits = [
        whole(kind.get("original_max_position_embeddings")) or positions_of(config)
        for kind in kinds
        if kind.get("rope_type") in ("longrope", "dynamic")
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def _limited(longest: int) -> Engine:
    """An engine that answers asks of at most `longest` tokens by tree and the others by reference, in order."""

    def fits(ask: Ask, decoding: Decoding) -> bool:
        deepest = max((len(sequence) for sequence, _ in read_positions(ask)), default=0)
        return deepest + decoding.max_new_tokens <= longest

    def answer(
        model: Any,
        asks: Sequence[Ask],
        decoding: Decoding,
        *,
        batch_size: int,
        on_split: OnSplit | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Iterator[Reply]:
        for by_tree, run in itertools.groupby(asks, lambda ask: fits(ask, decoding)):
            engine: Engine = tree.answer if by_tree else reference.answer
            yield from engine(
                model,
                list(run),
                decoding,
                batch_size=batch_size,
                on_split=on_split,
                on_tokens=on_tokens,
            )

    return answer
