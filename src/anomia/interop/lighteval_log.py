"""Read the details that lighteval saves (`--save-details`): Parquet, one file per task, and a results file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomia.errors import DataError
from anomia.files import parse_parquet
from anomia.interop.formats import LogFormat
from anomia.interop.samples import (
    Sample,
    SampleFile,
    file_of,
    keys_of,
    language_of,
    numbers,
    question_of,
    sent_hash,
    texts,
)
from anomia.interop.settings import Settings, as_setting, by_task, mapping
from anomia.probes import AnswerFormat
from anomia.text_files import parse_json, read_bytes, refuse_other_kinds

_COLUMNS = ("doc", "model_response", "metric")
_NO_SETTING = ("job_id", "start_time", "end_time", "total_evaluation_time_secondes", "config")
# lighteval's sampling methods, and the form of each.
_FORMS: Mapping[str, AnswerFormat | None] = {"GENERATIVE": "open", "LOGPROBS": "choice", "PERPLEXITY": None}


def read_lighteval(path: Path, *, filter_name: str | None = None) -> SampleFile | None:
    """Read the details of one task; None if it only scores given texts.

    filter_name: must be None, since lighteval has no filters.

    Raises:
        DataError: the file can't be read or has no such details; the message names the row.
    """
    if filter_name is not None:
        raise DataError("import: lighteval has no filters; leave out --filter")
    content = read_bytes(path, about="import")
    refuse_other_kinds(content, str(path), about="import", text=False)
    try:
        frame = parse_parquet(content)
    except ValueError as error:
        raise DataError(f"import: {path} can't be read: {error}") from None
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(
            f"import: {path} holds no details of lighteval (no column {', '.join(missing)}); "
            "save them with lighteval 0.11 or later and --save-details"
        )
    samples = []
    for number, row in enumerate(frame.select(_COLUMNS).iter_rows(named=True), start=1):
        try:
            samples.append(_sample(row))
        except (TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError) as fault:
            raise DataError(f"import: {path}, row {number}: {fault}") from None
    if not samples:
        raise DataError(f"import: {path} holds no samples")
    return file_of(path, samples)


def _sample(row: Mapping[str, Any]) -> Sample | None:
    doc, reply, metric = (_record(row[name], name) for name in _COLUMNS)
    specific = _record(doc.get("specific") or {}, "specific")
    choices = doc.get("choices") or []
    options = texts(choices)
    if isinstance(choices, list) and len(options) != len(choices):
        # Dropping a choice would shift the gold index.
        raise ValueError("a choice is not text")
    gold = _gold(doc.get("gold_index"), options)
    outputs = texts(reply.get("text_post_processed") or reply.get("text") or [])
    form = _form(doc.get("sampling_methods") or [], outputs, reply)
    scores = [_total(each) for each in reply.get("logprobs") or []] if form == "choice" else []
    if form is None or (form == "choice" and len(scores) == len(options) < 2):
        return None
    if form == "choice" and len(scores) != len(options):
        raise ValueError(f"{len(options)} options but {len(scores)} scores")
    if form == "open" and not outputs:
        raise ValueError("there is neither a generated text nor a log-probability of each choice")
    # The question from the data set's fields, or else the query that the model got.
    known = {name: value for name, value in specific.items() if value is not None}
    question, context = question_of(known)
    query = doc.get("original_query") or doc.get("query") or ""
    if not isinstance(query, str):
        raise ValueError("the query is not text")
    named = {**known, "question": question or query, "id": doc.get("id")}
    return Sample(
        form=form,
        keys=keys_of(named),
        language=language_of(known),
        question=question or query,
        context=context,
        passage=None,
        answers=tuple(options[index].strip() for index in gold),
        text=outputs[0] if form == "open" else None,
        options=tuple(option.strip() for option in options) if scores else (),
        scores=tuple(scores),
        gold=gold[0] if scores and gold else None,
        metrics=numbers(metric, metric),
        sent=sent_hash([sent] if isinstance(sent := reply.get("input"), str) else []),
        asked=sent if isinstance(sent, str) and form == "open" else "",
    )


def _form(methods: Sequence[str], outputs: Sequence[str], reply: Mapping[str, Any]) -> AnswerFormat | None:
    """The form of a sample; None for perplexity.

    methods: sampling methods of the document's task. Servers also log the log probabilities of generated text, so if
        a task has several methods or the log has none, a non-empty text marks a generation.
    """
    if len(methods) == 1 and methods[0] in _FORMS:
        return _FORMS[methods[0]]
    return "open" if any(text.strip() for text in outputs) or not reply.get("logprobs") else "choice"


def _total(score: Any) -> float:
    """The log probability (nats) of a choice; some lighteval backends log it per token, and it is summed here."""
    total = math.fsum(map(_total, score)) if isinstance(score, list) else float(score)
    if math.isnan(total):
        raise ValueError("a log-probability is not a number")
    return total


def _record(value: Any, name: str) -> Mapping[str, Any]:
    """The value of a struct column, or of a column written as JSON."""
    if isinstance(value, str):
        try:
            value = parse_json(value, name, mend=True)
        except DataError:
            raise ValueError(f"{name} is not JSON") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is not a record")
    return value


def _gold(index: Any, options: Sequence[str]) -> list[int]:
    wanted = index if isinstance(index, (list, tuple)) else [index]
    return [each for each in wanted if isinstance(each, int) and 0 <= each < len(options)]


def _settings(path: Path, held: Mapping[str, Any], task: str) -> Settings:
    general = mapping(held.get("config_general"))
    others = dict(_flat({name: value for name, value in general.items() if name not in _NO_SETTING}))
    others |= {name: as_setting(value) for name, value in by_task(held, task, ("versions",))}
    return Settings(path, {}, others)


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Settings by name, with the nested ones of the model and of generation."""
    for name, value in values.items():
        if name in ("model_config", "generation_parameters"):
            # A text here is a Python repr that contains model names, so `mapping` drops it.
            yield from _flat(mapping(value))
        else:
            yield name, as_setting(value)


def _results(log: Path) -> list[Path]:
    """OUT/results/MODEL, which has the results of OUT/details/MODEL/DATE/LOG."""
    parts = log.parent.absolute().parts
    return [
        Path(*parts[:at], "results", *parts[at + 1 : -1])
        for at, name in enumerate(parts)
        if name == "details"
    ]


FORMAT = LogFormat("details_*.parquet", read_lighteval, _settings, _results)
