"""Every column of the records and of the items: name, type, and computation.

A row of the records belongs to one arm and one item. Columns of probes that were not asked are null; if any logit read
was not finite, so are all columns of the reply. A new column takes one entry here; `docs/results.md` explains the
columns that users need first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from anomia.grade import containment, grade, is_degenerate, strict
from anomia.items.item import Item, ItemSet, Message
from anomia.loops import is_loop, is_text_loop
from anomia.probe.asked import prompt_hash
from anomia.probes import (
    BY_NAME,
    CHOICES,
    CONTINUATION,
    GENERATED,
    NO_QUESTION,
    NO_QUESTION_ENDING,
    OPTION_KINDS,
    ORACLES,
    OWN_COLUMN,
    OWN_GOLD,
    Probe,
)
from anomia.records.long_answers import LONG
from anomia.records.replied import ANSWERS, Replied, Scored, kl_divergence, string_presence

_TEXTS = pl.List(pl.String)
_FLOATS = pl.List(pl.Float64)
_BOOLS = pl.List(pl.Boolean)
PLACES = ("gold", "gold_distinct", "control", "control_distinct")
TOP_TOKENS_SHOWN = 10

ColumnValue = Callable[[Replied], Any]
TextVerdict = Callable[[Replied, str], bool | None]


class RecordColumn(NamedTuple):
    """A column of the records. given: it is never null."""

    dtype: Any
    value: ColumnValue
    given: bool = False


def _answer(probe: str, value: Callable[[Replied, str], Any]) -> ColumnValue:
    """A value computed from the text of the greedy answer to a probe."""

    def of(replied: Replied) -> Any:
        decoded = replied.reply_texts.greedy.get(probe)
        return None if decoded is None else value(replied, decoded.text)

    return of


def _scored(probe: str, value: Callable[[Scored], Any]) -> ColumnValue:
    """A value computed from the scored options of a probe."""

    def of(replied: Replied) -> Any:
        scored = replied.scored.get(probe)
        return None if scored is None else value(scored)

    return of


def _item_columns() -> dict[str, RecordColumn]:
    return {
        "arm": RecordColumn(pl.String, lambda r: r.arm, given=True),
        "dataset": RecordColumn(pl.String, lambda r: r.dataset, given=True),
        "language": RecordColumn(pl.String, lambda r: r.encoded.item.question.language, given=True),
        "item_id": RecordColumn(pl.String, lambda r: r.encoded.item.question.id, given=True),
        "index": RecordColumn(pl.Int32, lambda r: r.index, given=True),
        "passage_id": RecordColumn(pl.String, lambda r: r.encoded.item.question.passage_id, given=True),
        "question": RecordColumn(pl.String, lambda r: r.encoded.item.question.question, given=True),
        "gold": RecordColumn(pl.String, lambda r: r.encoded.item.question.gold, given=True),
        "finite": RecordColumn(pl.Boolean, lambda r: r.reply.finite, given=True),
        "prompt_tokens": RecordColumn(pl.Int32, lambda r: r.encoded.prompt_tokens),
        "prompt_hash": RecordColumn(pl.String, lambda r: prompt_hash(r.encoded.asked)),
        "truncated": RecordColumn(pl.Boolean, lambda r: r.encoded.truncated),
        "context_characters": RecordColumn(pl.Int32, lambda r: len(r.encoded.context)),
        "gold_truncated": RecordColumn(pl.Boolean, lambda r: r.encoded.gold_truncated),
        "boundary_mismatch": RecordColumn(pl.Boolean, lambda r: r.encoded.boundary_mismatch),
        "gold_in_question": RecordColumn(pl.Boolean, _gold_in_question),
        "gold_over_limit": RecordColumn(pl.Boolean, lambda r: r.encoded.gold_over_limit),
        "unclosed_thinking": RecordColumn(pl.Boolean, _unclosed_thinking),
        "string_presence": RecordColumn(pl.Float64, _string_presence),
        # Anomia's own open prompt lists no options; those of imported runs may.
        "open_options": RecordColumn(pl.Int32, lambda r: None),
    }


def _gold_in_question(replied: Replied) -> bool | None:
    question = replied.encoded.item.question
    if question.as_is:
        # Some answers repeat a part of a prompt, such as a translation of names.
        return None
    return containment(question.question, question.answers)


def _unclosed_thinking(replied: Replied) -> bool | None:
    return (
        any(decoded.unclosed for decoded in replied.reply_texts.greedy.values())
        if replied.reply.finite
        else None
    )


def _string_presence(replied: Replied) -> float | None:
    encoded = replied.encoded
    if "standard" not in encoded.item.options:
        return None
    return string_presence(encoded.item.options["standard"], encoded.item.question.gold, encoded.context)


def _generated(probe: Probe) -> dict[str, RecordColumn]:
    """Columns for the greedy answer to a probe, and whether it is right."""
    named = probe.candidates == "options"
    columns = {
        f"{probe.name}_text": RecordColumn(pl.String, _answer(probe.name, lambda _, text: text)),
        probe.column: RecordColumn(pl.Boolean, _answer(probe.name, _named_alone if named else _is_right)),
    }
    if named:
        columns[f"{probe.name}_contains"] = RecordColumn(pl.Boolean, _answer(probe.name, _is_right))
    return columns | (_cost_columns(probe) if probe.baseline else {})


def _cost_columns(probe: Probe) -> dict[str, RecordColumn]:
    """Columns for the tokens of another prompt than the open one, and of its answer; a server gives only texts."""

    def written(replied: Replied, _: str) -> int | None:
        tokens = replied.reply.greedy.get(probe.name)
        return None if tokens is None else len(tokens)

    return {
        f"{probe.name}_prompt_tokens": RecordColumn(
            pl.Int32, _answer(probe.name, lambda r, _: len(r.encoded.ask.greedy[probe.name]))
        ),
        f"{probe.name}_answer_tokens": RecordColumn(pl.Int32, _answer(probe.name, written)),
    }


def _is_right(replied: Replied, text: str) -> bool | None:
    return replied.encoded.grading.verdict(text, replied.encoded.item.question)


def _gives_control(replied: Replied, text: str) -> bool | None:
    """Whether a text would be right if the control were the answer."""
    item = replied.encoded.item
    return replied.encoded.grading.gives(text, item.question, item.control)


def _named_alone(replied: Replied, text: str) -> bool | None:
    """Whether the gold answer is the only candidate that a text names."""
    options = replied.encoded.item.options["standard"]
    gold = options.index(replied.encoded.item.question.gold)
    # Another alias of the answer is right too, if no wrong candidate is named with it.
    named = set(replied.encoded.grading.shown(text, replied.encoded.item.question, options))
    return named == {gold} or (False if named else _is_right(replied, text))


def _open_columns() -> dict[str, RecordColumn]:
    def answers(replied: Replied) -> Sequence[str]:
        return replied.encoded.item.question.answers

    def of(value: Callable[[Replied, str], Any]) -> ColumnValue:
        return _answer("open", value)

    return {
        "open_text": RecordColumn(pl.String, of(lambda _, text: text)),
        "open_tokens": RecordColumn(pl.Int32, of(lambda r, _: len(r.reply_texts.open_tokens))),
        "open_correct": RecordColumn(pl.Boolean, of(_is_right)),
        "open_em": RecordColumn(pl.Boolean, of(lambda r, text: grade(text, answers(r)).exact_match)),
        "open_f1": RecordColumn(pl.Float64, of(lambda r, text: grade(text, answers(r)).f1)),
        "open_degenerate": RecordColumn(
            pl.Boolean, of(lambda r, text: is_degenerate(r.reply_texts.open_tokens, text))
        ),
        "open_strict": RecordColumn(pl.Boolean, of(_strict)),
        "open_loop": RecordColumn(pl.Boolean, of(_loops)),
    }


def _strict(replied: Replied, text: str) -> bool | None:
    """The strict grade; tasks have no grade but their own."""
    grading, question = replied.encoded.grading, replied.encoded.item.question
    return strict(text, question.answers) if grading.task is None else grading.verdict(text, question)


def _task_columns() -> dict[str, RecordColumn]:
    """Columns for the grade that a task gives: null for questions with a short answer."""
    return {
        "open_score": RecordColumn(
            pl.Float64, _answer("open", lambda r, text: _task_grade(r, text, "score"))
        ),
        "open_parts": RecordColumn(_FLOATS, _answer("open", lambda r, text: _task_grade(r, text, "parts"))),
    }


def _task_grade(replied: Replied, text: str, field: str) -> Any:
    found = replied.encoded.grading.graded(text, replied.encoded.item.question)
    return None if found is None else getattr(found, field)


def _loops(replied: Replied, text: str) -> bool:
    # Text after a stop string is not part of the answer, and it is unknown which tokens it was.
    if replied.encoded.grading.stop:
        return is_text_loop(text)
    # Padding after the end would count as a loop.
    return is_loop([token for token in replied.reply_texts.open_tokens if token not in replied.special])


def _choice_columns(name: str) -> dict[str, RecordColumn]:
    """Columns for the scores of one kind of options, and whether gold is picked, by each scoring.

    `per_char` is `acc_norm` of lm-evaluation-harness.
    """
    ways: dict[str, Callable[[Scored], list[float]]] = {
        "": lambda scored: scored.sums,
        "_per_token": lambda scored: scored.over("tokens"),
        "_per_byte": lambda scored: scored.over("bytes"),
        "_per_char": lambda scored: scored.over("characters"),
    }

    def scores(way: str) -> dict[str, RecordColumn]:
        return {f"{name}_scores{way}": RecordColumn(_FLOATS, _scored(name, ways[way]))}

    def right(way: str) -> dict[str, RecordColumn]:
        value = _scored(name, lambda scored: scored.right(ways[way](scored)))
        return {f"{name}_correct{way}": RecordColumn(pl.Boolean, value)}

    return {
        **scores(""), **scores("_per_token"), **scores("_per_byte"),
        f"{name}_pick": RecordColumn(pl.String, _scored(name, lambda scored: scored.pick(scored.sums))),
        **right(""), **right("_per_token"), **right("_per_byte"),
        **scores("_per_char"), **right("_per_char"),
    }  # fmt: skip


def _pmi_columns(name: str) -> dict[str, RecordColumn]:
    """Columns for PMI scores: log-probability after the prompt − after the prompt without its question, in nats.

    Source: Holtzman et al. (2021).
    """

    def gained(replied: Replied) -> list[float] | None:
        asked, without = (replied.scored.get(f"{name}{ending}") for ending in ("", NO_QUESTION_ENDING))
        if asked is None or without is None:
            return None
        return [one - other for one, other in zip(asked.sums, without.sums, strict=True)]

    def right(replied: Replied) -> bool | None:
        scores = gained(replied)
        return None if scores is None else replied.scored[name].right(scores)

    return {
        f"{name}_scores_pmi": RecordColumn(_FLOATS, gained),
        f"{name}_correct_pmi": RecordColumn(pl.Boolean, right),
    }


def _own_columns() -> dict[str, RecordColumn]:
    """Columns of base's rows with the options made from its answer, and that answer; filled after it was recorded.

    An empty list says that they were wanted and none can be made; null, that they were not asked for.
    """
    return {
        OWN_COLUMN: RecordColumn(_TEXTS, lambda r: None),
        OWN_GOLD: RecordColumn(pl.String, lambda r: None),
    }


def _correct_any(replied: Replied) -> bool | None:
    options, answers = (replied.scored.get(name) for name in ("choice", ANSWERS))
    if options is None or answers is None:
        return None
    wrong = [score for text, score in zip(options.texts, options.sums, strict=True) if text != options.gold]
    return max(answers.sums) > max(wrong)


def _place_columns(name: str) -> dict[str, RecordColumn]:
    def of(field: str) -> ColumnValue:
        def value(replied: Replied) -> Any:
            place = replied.reply.placements.get(name)
            return None if place is None else getattr(place, field)

        return value

    return {
        f"{name}_rank": RecordColumn(pl.Int32, of("rank")),
        f"{name}_rank_ties": RecordColumn(pl.Int32, of("ties")),
        f"{name}_token_log_prob": RecordColumn(pl.Float64, of("log_prob")),
        f"{name}_margin": RecordColumn(pl.Float64, of("margin")),
    }


def _rank_best(replied: Replied) -> int | None:
    places = replied.reply.placements.items()
    return min(
        (place.rank for name, place in places if name == "gold" or name.startswith("answer_")), default=None
    )


def _gold_columns() -> dict[str, RecordColumn]:
    def scored(value: Callable[[Scored], Any]) -> ColumnValue:
        return _scored(ANSWERS, value)

    def first(replied: Replied) -> str | None:
        token = replied.encoded.gold_token
        return None if token is None else replied.decoded([token])[0]

    def distinct(replied: Replied) -> str | None:
        token = replied.encoded.gold_distinct_token
        return None if token is None else replied.decoded([token])[0]

    return {
        "gold_rank_best": RecordColumn(pl.Int32, _rank_best),
        "gold_first_token": RecordColumn(pl.String, first),
        "gold_distinct_token": RecordColumn(pl.String, distinct),
        "control": RecordColumn(pl.String, lambda r: r.encoded.item.control),
        "gold_log_prob": RecordColumn(pl.Float64, scored(lambda s: s.sums[0])),
        "gold_log_prob_per_token": RecordColumn(pl.Float64, scored(lambda s: s.over("tokens")[0])),
        "gold_log_prob_per_byte": RecordColumn(pl.Float64, scored(lambda s: s.over("bytes")[0])),
        "gold_log_prob_best": RecordColumn(pl.Float64, scored(lambda s: max(s.sums))),
        "answer_log_probs": RecordColumn(_FLOATS, scored(lambda s: s.sums)),
    }


def _distribution_columns() -> dict[str, RecordColumn]:
    def of(value: Callable[[Replied, Any], Any]) -> ColumnValue:
        return lambda r: None if r.reply.distribution is None else value(r, r.reply.distribution)

    def of_base(value: Callable[[Any], Any]) -> ColumnValue:
        return of(lambda r, found: value(found) if r.base_distribution is None else None)

    def of_arm(value: Callable[[Replied, Any, Any], Any]) -> ColumnValue:
        return of(
            lambda r, found: (
                value(r, r.base_distribution, found)
                if r.base_distribution is not None and r.reply.reference_log_probs
                else None
            )
        )

    return {
        "top_tokens": RecordColumn(_TEXTS, of(lambda r, found: r.decoded(found.tokens[:TOP_TOKENS_SHOWN]))),
        "top_log_probs": RecordColumn(_FLOATS, of(lambda _, found: list(found.log_probs[:TOP_TOKENS_SHOWN]))),
        "distribution_tokens": RecordColumn(pl.List(pl.Int32), of_base(lambda found: list(found.tokens))),
        "distribution_log_probs": RecordColumn(_FLOATS, of_base(lambda found: list(found.log_probs))),
        "tail_mass": RecordColumn(pl.Float64, of(lambda _, found: found.tail_mass)),
        "kl_from_base": RecordColumn(
            pl.Float64, of_arm(lambda r, base, _: kl_divergence(base, r.reply.reference_log_probs))
        ),
        "top1_agrees": RecordColumn(
            pl.Boolean, of_arm(lambda _, base, found: base.tokens[0] == found.tokens[0])
        ),
    }


def _search_columns(probe: Probe) -> dict[str, RecordColumn]:
    """Columns for the beams of a search, best first."""

    def of(value: Callable[[Replied, list[str]], Any]) -> ColumnValue:
        return _each(lambda r: [text for text, _ in r.reply_texts.beams.get(probe.name, ())], value)

    def scores(replied: Replied, _: Sequence[str]) -> list[float]:
        return [score for _, score in replied.reply_texts.beams[probe.name]]

    return {
        probe.text_column: RecordColumn(_TEXTS, of(lambda _, texts: texts)),
        probe.each("scores"): RecordColumn(_FLOATS, of(scores)),
        probe.each("tokens"): _lengths(lambda r: [beam.tokens for beam in r.reply.beams.get(probe.name, ())]),
        **_hit_columns(probe, of),
    }


def _sample_columns(probe: Probe) -> dict[str, RecordColumn]:
    """Columns for samples, by seed and then in the order in which they were drawn."""

    def drawn(replied: Replied) -> list[tuple[int, str]]:
        by_seed = replied.reply_texts.samples.get(probe.name, {})
        return [(seed, text) for seed, texts in by_seed.items() for text in texts]

    def of(value: Callable[[Replied, list[str]], Any]) -> ColumnValue:
        return _each(lambda r: [text for _, text in drawn(r)], value)

    return {
        probe.each("seeds"): RecordColumn(pl.List(pl.Int32), of(lambda r, _: [seed for seed, _ in drawn(r)])),
        probe.text_column: RecordColumn(_TEXTS, of(lambda _, texts: texts)),
        probe.each("tokens"): _lengths(
            lambda r: [tokens for drawn in r.reply.samples.get(probe.name, {}).values() for tokens in drawn]
        ),
        **_hit_columns(probe, of),
    }


def _lengths(tokens_of: Callable[[Replied], Sequence[Sequence[int]]]) -> RecordColumn:
    """The number of tokens of each beam or sample; null where a server gave only texts."""
    return RecordColumn(pl.List(pl.Int32), lambda r: [len(tokens) for tokens in tokens_of(r)] or None)


def _each(
    texts_of: Callable[[Replied], list[str]], value: Callable[[Replied, list[str]], Any]
) -> ColumnValue:
    """A value of the texts of beams or samples; null if there are none."""

    def of(replied: Replied) -> Any:
        texts = texts_of(replied)
        return value(replied, texts) if texts else None

    return of


def _hit_columns(
    probe: Probe, of: Callable[[Callable[[Replied, list[str]], Any]], ColumnValue]
) -> dict[str, RecordColumn]:
    """Whether each text is right, and whether each would be if the control were the answer."""
    right = _named_alone if probe.candidates == "options" else _is_right
    return {
        probe.column: RecordColumn(_BOOLS, of(lambda r, texts: _hits(r, texts, right))),
        f"{probe.name}_control": RecordColumn(_BOOLS, of(lambda r, texts: _hits(r, texts, _gives_control))),
    }


def _hits(replied: Replied, texts: Sequence[str], grade: TextVerdict) -> list[bool] | None:
    hits = [grade(replied, text) for text in texts]
    # A task without right and wrong has no verdict on any text.
    return None if None in hits else [bool(hit) for hit in hits]


def _columns() -> dict[str, RecordColumn]:
    columns = _item_columns() | _open_columns() | _task_columns()
    for name in GENERATED:
        if name != "open":
            columns |= _generated(BY_NAME[name])
    for name in (*CHOICES, *NO_QUESTION):
        columns |= _choice_columns(name)
    for name in CHOICES:
        columns |= _pmi_columns(name)
    columns |= _own_columns()
    columns["choice_correct_any"] = RecordColumn(pl.Boolean, _correct_any)
    for place in PLACES:
        columns |= _place_columns(place)
    columns |= _gold_columns() | _distribution_columns()
    for probe in (BY_NAME[name] for name in ORACLES):
        columns |= _search_columns(probe) if probe.kind == "search" else _sample_columns(probe)
    return columns | {
        f"{CONTINUATION}_{name}": RecordColumn(column.dtype, column.value) for name, column in LONG.items()
    }


COLUMNS: Mapping[str, RecordColumn] = _columns()
SCHEMA: dict[str, Any] = {name: column.dtype for name, column in COLUMNS.items()}


class ItemColumn(NamedTuple):
    """A column of the items. value: computes it from the item set, the item's position in it, and the item."""

    dtype: Any
    value: Callable[[ItemSet, int, Item], Any]


def _options(kind: str) -> ItemColumn:
    return ItemColumn(
        _TEXTS,
        lambda _, __, item: list(item.options[kind]) if item.options.get(kind) is not None else None,
    )


def _as_json(messages: Sequence[Message]) -> str | None:
    """A conversation as JSON, a list of objects with role and content."""
    if not messages:
        return None
    return json.dumps([message._asdict() for message in messages], ensure_ascii=False)


ITEM_COLUMNS: Mapping[str, ItemColumn] = {
    "dataset": ItemColumn(pl.String, lambda items, _, __: items.dataset),
    "language": ItemColumn(pl.String, lambda items, _, __: items.language),
    "item_id": ItemColumn(pl.String, lambda _, __, item: item.question.id),
    "index": ItemColumn(pl.Int32, lambda _, index, __: index),
    "passage_id": ItemColumn(pl.String, lambda _, __, item: item.question.passage_id),
    "context": ItemColumn(pl.String, lambda _, __, item: item.question.context),
    "question": ItemColumn(pl.String, lambda _, __, item: item.question.question),
    "answers": ItemColumn(_TEXTS, lambda _, __, item: list(item.question.answers)),
    **{kind.column: _options(kind.name) for kind in OPTION_KINDS if not kind.of_base},
    "target": ItemColumn(pl.String, lambda _, __, item: item.question.target or None),
    "unrelated": ItemColumn(_TEXTS, lambda _, __, item: list(item.unrelated)),
    "control": ItemColumn(pl.String, lambda _, __, item: item.control),
    # Null where there is none, so that items stored by earlier versions are still the same.
    "messages": ItemColumn(pl.String, lambda _, __, item: _as_json(item.question.messages)),
    "kind": ItemColumn(pl.String, lambda _, __, item: item.question.kind or None),
}
ITEM_SCHEMA: dict[str, Any] = {name: column.dtype for name, column in ITEM_COLUMNS.items()}
