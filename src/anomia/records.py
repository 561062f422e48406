"""What probing one item yields, as one row; Parquet in and out.

A row belongs to one arm and one item. Columns of probes that were not asked are null.
`SCHEMA` is the list of all; `docs/results.md` explains those that users read first.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from anomia.errors import RunError
from anomia.files import parse_parquet, sha256, write_bytes, write_text
from anomia.grade import Stripped, containment, grade, is_degenerate, normalize, strict, strip_thinking
from anomia.items.item import ItemSet
from anomia.loops import is_loop, is_text_loop
from anomia.probe.ask import Distribution, Reply
from anomia.probe.asked import prompt_hash
from anomia.probe.encode import NO_QUESTION, OPTION_KINDS, EncodedItem

_TEXTS = pl.List(pl.String)
_FLOATS = pl.List(pl.Float64)
_GENERATIONS = ("distractors_only", "unrelated", "one_shot", "zero_shot")
_CHOICES = (*OPTION_KINDS, *NO_QUESTION)
_PLACES = ("gold", "gold_distinct", "foil", "foil_distinct")
_NEVER_NULL = (
    "arm", "dataset", "language", "item_id", "index", "passage_id", "question", "gold", "finite",
)  # fmt: skip
TOP_TOKENS_SHOWN = 10


def _schema() -> dict[str, Any]:
    columns: dict[str, Any] = {
        "arm": pl.String,
        "dataset": pl.String,
        "language": pl.String,
        "item_id": pl.String,
        "index": pl.Int32,
        "passage_id": pl.String,
        "question": pl.String,
        "gold": pl.String,
        "finite": pl.Boolean,
        "prompt_tokens": pl.Int32,
        "prompt_hash": pl.String,
        "truncated": pl.Boolean,
        "context_characters": pl.Int32,
        "gold_truncated": pl.Boolean,
        "boundary_mismatch": pl.Boolean,
        "gold_in_question": pl.Boolean,
        "gold_over_limit": pl.Boolean,
        "unclosed_thinking": pl.Boolean,
        "string_presence": pl.Float64,
        "open_text": pl.String,
        "open_tokens": pl.Int32,
        "open_correct": pl.Boolean,
        "open_em": pl.Boolean,
        "open_f1": pl.Float64,
        "open_degenerate": pl.Boolean,
        "open_strict": pl.Boolean,
        "open_loop": pl.Boolean,
        "cued_text": pl.String,
        "cued_correct": pl.Boolean,
        "cued_contains": pl.Boolean,
    }
    for name in _GENERATIONS:
        columns |= {f"{name}_text": pl.String, f"{name}_correct": pl.Boolean}
    for name in _CHOICES:
        columns |= {
            f"{name}_scores": _FLOATS,
            f"{name}_scores_per_token": _FLOATS,
            f"{name}_scores_per_byte": _FLOATS,
            f"{name}_pick": pl.String,
            f"{name}_correct": pl.Boolean,
            f"{name}_correct_per_token": pl.Boolean,
            f"{name}_correct_per_byte": pl.Boolean,
            f"{name}_scores_per_char": _FLOATS,
            f"{name}_correct_per_char": pl.Boolean,
        }
    for name in OPTION_KINDS:
        columns |= {f"{name}_scores_pmi": _FLOATS, f"{name}_correct_pmi": pl.Boolean}
    columns["choice_correct_any"] = pl.Boolean
    for name in _PLACES:
        columns |= {
            f"{name}_rank": pl.Int32,
            f"{name}_rank_ties": pl.Int32,
            f"{name}_token_log_prob": pl.Float64,
            f"{name}_margin": pl.Float64,
        }
    columns |= {
        "gold_rank_best": pl.Int32,
        "gold_first_token": pl.String,
        "gold_distinct_token": pl.String,
        "foil": pl.String,
        "gold_log_prob": pl.Float64,
        "gold_log_prob_per_token": pl.Float64,
        "gold_log_prob_per_byte": pl.Float64,
        "gold_log_prob_best": pl.Float64,
        "answer_log_probs": _FLOATS,
        "top_tokens": _TEXTS,
        "top_log_probs": _FLOATS,
        "distribution_tokens": pl.List(pl.Int32),
        "distribution_log_probs": _FLOATS,
        "tail_mass": pl.Float64,
        "kl_from_base": pl.Float64,
        "top1_agrees": pl.Boolean,
        "beam_texts": _TEXTS,
        "beam_scores": _FLOATS,
        "beams_correct": pl.List(pl.Boolean),
        "beams_foil": pl.List(pl.Boolean),
        "sample_seeds": pl.List(pl.Int32),
        "sample_texts": _TEXTS,
        "samples_correct": pl.List(pl.Boolean),
        "samples_foil": pl.List(pl.Boolean),
    }
    return columns


SCHEMA = _schema()

ITEM_SCHEMA: dict[str, Any] = {
    "dataset": pl.String,
    "language": pl.String,
    "item_id": pl.String,
    "index": pl.Int32,
    "passage_id": pl.String,
    "context": pl.String,
    "question": pl.String,
    "answers": _TEXTS,
    "options_standard": _TEXTS,
    "options_hard": _TEXTS,
    "options_passage": _TEXTS,
    "unrelated": _TEXTS,
    "foil": pl.String,
}


class Said(NamedTuple):
    """What a model generated, as texts: without special tokens, what was only thought, and what stands
    behind a stop string.

    greedy: by probe. open_tokens: of the open answer. beams: in falling order of their score.
    samples: by seed, in the order of the sample index. refused: a server's reason, by probe.
    """

    greedy: Mapping[str, Stripped]
    open_tokens: Sequence[int] = ()
    beams: Sequence[tuple[str, float]] = ()
    samples: Mapping[int, Sequence[str]] = {}
    refused: Mapping[str, str] = {}


def record(
    encoded: EncodedItem,
    reply: Reply,
    tokenizer: Any,
    *,
    arm: str,
    dataset: str,
    index: int,
    base_distribution: Distribution | None = None,
    said: Said | None = None,
) -> dict[str, Any]:
    """One row of `SCHEMA`: the graded reply of one arm to one item.

    Args:
        encoded: the item as it was asked.
        reply: what the engine answered.
        tokenizer: turns tokens back into text.
        arm, dataset, index: where the row belongs; index is the item's place in the fixed order.
        base_distribution: base's at the same position, for the KL divergence; None for base itself.
        said: the texts of a model that answers in text; None decodes the tokens of the reply.
    """
    item, question = encoded.item, encoded.item.question
    row: dict[str, Any] = dict.fromkeys(SCHEMA)
    row |= {
        "arm": arm,
        "dataset": dataset,
        "language": question.language,
        "item_id": question.id,
        "index": index,
        "passage_id": question.passage_id,
        "question": question.question,
        "gold": question.gold,
        "foil": item.foil,
        "finite": reply.finite,
        "prompt_tokens": encoded.prompt_tokens,
        "prompt_hash": prompt_hash(encoded.ask),
        "truncated": encoded.truncated,
        "context_characters": len(encoded.context),
        "gold_truncated": encoded.gold_truncated,
        "gold_in_question": containment(question.question, question.answers),
        "gold_over_limit": encoded.gold_over_limit,
        "boundary_mismatch": encoded.boundary_mismatch,
        "string_presence": string_presence(item.options["standard"], question.gold, encoded.context),
        "gold_first_token": tokenizer.decode([encoded.gold_token]),
    }
    if encoded.gold_distinct_token is not None:
        row["gold_distinct_token"] = tokenizer.decode([encoded.gold_distinct_token])
    if not reply.finite:
        return row
    texts = said or spoken(encoded, reply, tokenizer)
    row |= _generated(encoded, texts, set(tokenizer.all_special_ids))
    row |= _chosen(encoded, reply)
    row |= _placed(encoded, reply, tokenizer, base_distribution)
    row |= _reached(encoded, texts)
    return row


def spoken(encoded: EncodedItem, reply: Reply, tokenizer: Any) -> Said:
    """The texts of the generated tokens of a reply."""

    def text(tokens: Sequence[int]) -> Stripped:
        return _answer(encoded, tokenizer, tokens)

    return Said(
        greedy={name: text(tokens) for name, tokens in reply.greedy.items()},
        open_tokens=reply.greedy.get("open", ()),
        beams=[(text(beam.tokens).text, beam.score) for beam in reply.beams],
        samples={seed: [text(tokens).text for tokens in samples] for seed, samples in reply.samples.items()},
    )


def string_presence(options: Sequence[str], gold: str, context: str) -> float:
    """The chance that picking an option that stands in the passage is right: a control without a model."""
    passage = normalize(context)
    present = [option for option in options if normalize(option) in passage]
    if not present:
        return 1.0 / len(options)
    return (gold in present) / len(present)


def _generated(encoded: EncodedItem, said: Said, special: Set[int]) -> dict[str, Any]:
    item, answers, grading = encoded.item, encoded.item.question.answers, encoded.grading
    row: dict[str, Any] = {"unclosed_thinking": False}
    for name, (text, unclosed) in said.greedy.items():
        row["unclosed_thinking"] |= unclosed
        row[f"{name}_text"] = text
        correct = grading.is_right(text, answers)
        if name == "open":
            graded = grade(text, answers)
            row |= {
                "open_tokens": len(said.open_tokens),
                "open_correct": correct,
                "open_em": graded.exact_match,
                "open_f1": graded.f1,
                "open_degenerate": is_degenerate(said.open_tokens, text),
                "open_strict": strict(text, answers),
                "open_loop": _loops(encoded, said.open_tokens, text, special),
            }
        elif name == "cued":
            options = item.options["standard"]
            gold = options.index(item.question.gold)
            # Another alias of the answer is right too, as long as no wrong candidate is named with it.
            named = set(grading.named(text, options))
            row["cued_contains"] = correct
            row["cued_correct"] = named == {gold} or (not named and correct)
        else:
            row[f"{name}_correct"] = correct
    return row


def _loops(encoded: EncodedItem, tokens: Sequence[int], text: str, special: Set[int]) -> bool:
    # Padding after the end would be a loop of its own.
    plain = [token for token in tokens if token not in special]
    # What follows a stop string is no part of the answer, and nobody knows which tokens that was.
    return is_text_loop(text) if encoded.grading.stop else is_loop(plain)


def _chosen(encoded: EncodedItem, reply: Reply) -> dict[str, Any]:
    """Scores and picks of every kind of options, under every scoring.

    per_char is `acc_norm` of lm-evaluation-harness. pmi: the log-probability after the prompt − after the prompt
    without its question (Holtzman et al. 2021), for options that were asked both ways.
    """
    gold, row = encoded.item.question.gold, dict[str, Any]()
    kinds = OPTION_KINDS | NO_QUESTION
    for name, log_probs in reply.option_log_probs.items():
        if name == "answers":
            continue
        texts = encoded.item.options[kinds[name]]
        sums = [math.fsum(scores) for scores in log_probs]
        scored = {
            "": sums,
            "_per_token": [total / len(scores) for total, scores in zip(sums, log_probs, strict=True)],
            "_per_byte": [total / len(text.encode()) for total, text in zip(sums, texts, strict=True)],
            "_per_char": [total / len(text) for total, text in zip(sums, texts, strict=True)],
        }
        row[f"{name}_pick"] = texts[_argmax(sums)]
        for scoring, scores in scored.items():
            row |= {
                f"{name}_scores{scoring}": scores,
                f"{name}_correct{scoring}": texts[_argmax(scores)] == gold,
            }
    for name in OPTION_KINDS:
        with_question, without = (row.get(f"{name}{part}_scores") for part in ("", "_no_question"))
        if with_question is not None and without is not None:
            gained = [one - other for one, other in zip(with_question, without, strict=True)]
            texts = encoded.item.options[kinds[name]]
            row |= {f"{name}_scores_pmi": gained, f"{name}_correct_pmi": texts[_argmax(gained)] == gold}
    if "choice" in reply.option_log_probs and "answers" in reply.option_log_probs:
        best = max(math.fsum(scores) for scores in reply.option_log_probs["answers"])
        options = encoded.item.options["standard"]
        wrong = [score for text, score in zip(options, row["choice_scores"], strict=True) if text != gold]
        row["choice_correct_any"] = best > max(wrong)
    return row


def _placed(
    encoded: EncodedItem, reply: Reply, tokenizer: Any, base_distribution: Distribution | None
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in _PLACES:
        if name in reply.placements:
            place = reply.placements[name]
            row |= {
                f"{name}_rank": place.rank,
                f"{name}_rank_ties": place.ties,
                f"{name}_token_log_prob": place.log_prob,
                f"{name}_margin": place.margin,
            }
    ranks = [
        place.rank for name, place in reply.placements.items() if name == "gold" or name.startswith("answer_")
    ]
    if ranks:
        row["gold_rank_best"] = min(ranks)
    if "answers" in reply.option_log_probs:
        scores = reply.option_log_probs["answers"]
        sums = [math.fsum(score) for score in scores]
        row |= {
            "gold_log_prob": sums[0],
            "gold_log_prob_per_token": sums[0] / len(scores[0]),
            "gold_log_prob_per_byte": sums[0] / len(encoded.item.question.gold.encode()),
            "gold_log_prob_best": max(sums),
            "answer_log_probs": sums,
        }
    if reply.distribution is not None:
        shown = reply.distribution.tokens[:TOP_TOKENS_SHOWN]
        row |= {
            "top_tokens": [tokenizer.decode([token]) for token in shown],
            "top_log_probs": list(reply.distribution.log_probs[:TOP_TOKENS_SHOWN]),
            "tail_mass": reply.distribution.tail_mass,
        }
        if base_distribution is None:
            row["distribution_tokens"] = list(reply.distribution.tokens)
            row["distribution_log_probs"] = list(reply.distribution.log_probs)
        elif reply.reference_log_probs:
            row["kl_from_base"] = kl_divergence(base_distribution, reply.reference_log_probs)
            row["top1_agrees"] = base_distribution.tokens[0] == reply.distribution.tokens[0]
    return row


def kl_divergence(base: Distribution, arm_log_probs: Sequence[float]) -> float:
    """KL(base ‖ arm) in nats over base's likeliest tokens, all others taken as one outcome.

    Merging outcomes can only lower a divergence, so this is a lower bound, tight where the tail is small.
    """
    inside = math.fsum(math.exp(p) * (p - q) for p, q in zip(base.log_probs, arm_log_probs, strict=True))
    # Sums of hundreds of rounded probabilities pass 1 by a few units in the last place of float32.
    arm_tail = max(1e-6, 1.0 - math.fsum(math.exp(q) for q in arm_log_probs))
    tail = base.tail_mass * math.log(base.tail_mass / arm_tail) if base.tail_mass > 0 else 0.0
    return max(0.0, inside + tail)


def _reached(encoded: EncodedItem, said: Said) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if encoded.ask.beams is not None and said.beams:
        texts = [text for text, _ in said.beams]
        row |= {"beam_texts": texts, "beam_scores": [score for _, score in said.beams]}
        row |= _hits("beams", encoded, texts)
    if encoded.ask.samples is not None and said.samples:
        texts = [text for samples in said.samples.values() for text in samples]
        row["sample_seeds"] = [seed for seed, samples in said.samples.items() for _ in samples]
        row["sample_texts"] = texts
        row |= _hits("samples", encoded, texts)
    return row


def _hits(name: str, encoded: EncodedItem, texts: Sequence[str]) -> dict[str, Any]:
    answers, right = encoded.item.question.answers, encoded.grading.is_right
    return {
        f"{name}_correct": [right(text, answers) for text in texts],
        f"{name}_foil": [right(text, [encoded.item.foil]) for text in texts],
    }


def item_rows(items: ItemSet) -> list[dict[str, Any]]:
    """The rows of `ITEM_SCHEMA` of one language."""
    return [
        {
            "dataset": items.dataset,
            "language": items.language,
            "item_id": item.question.id,
            "index": index,
            "passage_id": item.question.passage_id,
            "context": item.question.context,
            "question": item.question.question,
            "answers": list(item.question.answers),
            **{f"options_{kind}": _texts(item.options.get(kind)) for kind in OPTION_KINDS.values()},
            "unrelated": list(item.unrelated),
            "foil": item.foil,
        }
        for index, item in enumerate(items.items)
    ]


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path, schema: Mapping[str, Any] = SCHEMA) -> None:
    """Writes rows as Parquet, whole or not at all, and beside it the file's checksum (`sha256sum -c` reads it).

    Raises:
        RunError: the place can't be written, or the disk is full.
    """
    buffer = io.BytesIO()
    pl.DataFrame(list(rows), schema=dict(schema), orient="row").write_parquet(buffer, compression="zstd")
    content = buffer.getvalue()
    # The checksum first: so no moment shows a finished file without one.
    write_text(_sum_file(path), f"{sha256(content)}  {path.name}\n")
    write_bytes(path, content)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Rows as `write_rows` wrote them.

    Raises:
        RunError: the file can't be read, or its content is not what was written.
    """
    try:
        content = path.read_bytes()
        if _checksum(path) not in (None, sha256(content)):
            raise RunError(
                f"run: {path} is damaged (its checksum is another); the `anomia run` that wrote it sets it "
                "aside and does its part again"
            )
        return parse_parquet(content, columns)
    except (OSError, ValueError) as error:
        raise RunError(f"run: {path} can't be read: {error}") from None


def is_sound(path: Path) -> bool:
    """Whether a file of rows has a checksum and agrees with it."""
    try:
        return _checksum(path) == sha256(path.read_bytes())
    except OSError:
        return False


def checked(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Rows with columns of the schema's types, and without gaps in those that say what a row is about.

    Raises:
        RunError: they are no records of a run.
    """
    retyped = [name for name, kind in frame.schema.items() if kind not in (SCHEMA.get(name, kind), pl.Null)]
    lacking = [name for name in _NEVER_NULL if name not in frame.columns or frame[name].has_nulls()]
    if retyped or lacking:
        raise RunError(
            f"run: {file} holds no records of a run: its column {[*retyped, *lacking][0]!r} is missing, has gaps "
            "or is of another type; restore the file, or remove it and give the run's command again"
        )
    return frame.select(name for name in frame.columns if name in SCHEMA)


def upgrade(records: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Records with what an older version did not record and texts still tell; what is known already stays.

    Fills `open_strict`, `open_loop` (from the text alone) and `gold_in_question`. `gold_over_limit` needs the tokenizer.

    Args:
        records: rows of `SCHEMA`.
        items: rows of `ITEM_SCHEMA`, which hold all accepted answers.
    """
    key = ["dataset", "language", "item_id"]
    rows = records.select(*key, "question", "open_text").join(
        items.select(*key, "answers"), on=key, how="left", maintain_order="left"
    )
    found = [
        {
            "open_strict": None if text is None or answers is None else strict(text, answers),
            "open_loop": None if text is None else is_text_loop(text),
            "gold_in_question": None if answers is None else containment(question, answers),
        }
        for question, text, answers in rows.select("question", "open_text", "answers").iter_rows()
    ]
    told = pl.DataFrame(
        found, schema=dict.fromkeys(("open_strict", "open_loop", "gold_in_question"), pl.Boolean)
    )
    return records.with_columns(pl.coalesce(name, told[name]).alias(name) for name in told.columns)


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _checksum(path: Path) -> str | None:
    file = _sum_file(path)
    return file.read_text(encoding="utf-8").partition(" ")[0] if file.is_file() else None


def _answer(encoded: EncodedItem, tokenizer: Any, tokens: Sequence[int]) -> Stripped:
    """The text of generated tokens without special tokens and without what was only thought."""
    thought = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>")}
    hidden = set(tokenizer.all_special_ids) - thought
    text = tokenizer.decode([token for token in tokens if token not in hidden], skip_special_tokens=False)
    return answer_of(encoded, text)


def answer_of(encoded: EncodedItem, text: str) -> Stripped:
    """What of a generated text is the answer: not what was thought, nor what follows a stop string."""
    answer, unclosed = strip_thinking(f"<think>{text}" if encoded.thinking else text)
    return Stripped(encoded.grading.cut(answer), unclosed)


def _texts(options: Sequence[str] | None) -> list[str] | None:
    return None if options is None else list(options)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
