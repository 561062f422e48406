"""Details that lighteval saves (`--save-details`): Parquet, one file a task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomia.errors import DataError
from anomia.files import parse_parquet
from anomia.interop.samples import (
    Sample,
    SampleFile,
    keys_of,
    language_of,
    numbers,
    question_of,
    task_of,
    texts,
)

_COLUMNS = ("doc", "model_response", "metric")


def read_lighteval(path: Path, *, filter_name: str | None = None) -> SampleFile:
    """Reads the details of one task.

    filter_name: lighteval has no filters; only there to be refused.

    Raises:
        DataError: the file can't be read or holds no such details; the row is named.
    """
    if filter_name is not None:
        raise DataError("import: lighteval has no filters; leave out --filter")
    try:
        frame = parse_parquet(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"import: {path} can't be read: {error}") from None
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(
            f"import: {path} holds no details of lighteval (no column {', '.join(missing)}); "
            "save them with lighteval 0.11 or later and --save-details"
        )
    task = task_of(path)
    samples = []
    for number, row in enumerate(frame.select(_COLUMNS).iter_rows(named=True), start=1):
        try:
            samples.append(_sample(row, task))
        except (TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError) as fault:
            raise DataError(f"import: {path}, row {number}: {fault}") from None
    if not samples:
        raise DataError(f"import: {path} holds no samples")
    forms = {sample.form for sample in samples}
    if len(forms) > 1:
        raise DataError(f"import: {path} mixes generation and multiple choice; give one task a file")
    return SampleFile(path, task, forms.pop(), tuple(samples))


def _sample(row: Mapping[str, Any], task: str) -> Sample:
    doc, reply, metric = (_mapping(row[name], name) for name in _COLUMNS)
    specific = _mapping(doc.get("specific") or {}, "specific")
    options = texts(doc.get("choices") or [])
    gold = _gold(doc.get("gold_index"), options)
    scores = [float(score) for score in reply.get("logprobs") or []]
    if any(math.isnan(score) for score in scores):
        raise ValueError("a log-probability is not a number")
    choice = len(scores) > 1 and len(scores) == len(options)
    # What the data set said of the question, else what the model was asked.
    known = {name: value for name, value in specific.items() if value is not None}
    question, context = question_of(known)
    query = doc.get("original_query") or doc.get("query") or ""
    if not isinstance(query, str):
        raise ValueError("the query is no text")
    named = {**known, "question": question or query, "id": doc.get("id")}
    said = texts(reply.get("text_post_processed") or reply.get("text") or [])
    if not choice and not said:
        raise ValueError("there is neither a generated text nor a log-probability of each choice")
    return Sample(
        form="choice" if choice else "open",
        keys=keys_of(named),
        language=language_of(known, str(doc.get("task_name") or task).split("|")[-1]),
        question=question or query,
        context=context,
        passage=None,
        answers=tuple(options[index].strip() for index in gold),
        text=None if choice else said[0],
        options=tuple(option.strip() for option in options) if choice else (),
        scores=tuple(scores) if choice else (),
        gold=gold[0] if choice and gold else None,
        metrics=numbers(metric, metric),
    )


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    """A struct column, or one that was written as JSON."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is no record")
    return value


def _gold(index: Any, options: Sequence[str]) -> list[int]:
    wanted = index if isinstance(index, (list, tuple)) else [index]
    return [each for each in wanted if isinstance(each, int) and 0 <= each < len(options)]
