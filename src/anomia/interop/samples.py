"""What another harness logged of one question: the common form of all sample logs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from anomia.errors import DataError
from anomia.grade import normalize
from anomia.items.languages import language_name
from anomia.text_files import as_text

Form = Literal["open", "choice"]
# By what a generation and a choice sample can be known to be of one question, best first.
KEYS = ("hash", "text", "id")
UNKNOWN_LANGUAGE = "unknown"
# When a log was written, as both harnesses put it into names.
DATE = r"\d{4}-\d\d-\d\dT[\d.\-]+"

_QUESTIONS = ("question", "query", "problem", "goal", "input", "sentence", "prompt")
_CONTEXTS = ("context", "passage", "article", "story", "support", "paragraph")
_LANGUAGES = ("language", "lang")
_IDS = ("id", "qid", "question_id", "idx")
# The metrics that say right or wrong, best first.
METRICS: Mapping[str, tuple[str, ...]] = {
    "open": ("contains", "exact_match", "em", "acc"),
    "choice": ("acc", "acc_norm", "exact_match", "em"),
}


def sent_hash(texts: Sequence[str]) -> str:
    """What `Sample.sent` holds of some texts."""
    return (
        hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if any(texts)
        else ""
    )


class Sample(NamedTuple):
    """One model's answer to one question in one task.

    keys: names of the question, by kind (`KEYS`); kinds that can't be told are absent. passage: an id of the
    passage where the document has one. answers: gold answers, the first one first. text: what was generated.
    options, scores: of choice, in the order shown; scores are sums of log-probabilities. metrics: as logged.
    sent: a hash of the texts that the model was given; "" where the log doesn't tell them.
    """

    form: Form
    keys: Mapping[str, str]
    language: str
    question: str
    context: str
    passage: str | None
    answers: tuple[str, ...]
    text: str | None
    options: tuple[str, ...]
    scores: tuple[float, ...]
    gold: int | None
    metrics: Mapping[str, float]
    sent: str = ""


class SampleFile(NamedTuple):
    """A file of samples of one task and one form.

    filter: of lm-evaluation-harness, by which way to read outputs the samples are graded. filters: all that the log
    has. named: the language, where the task's name had to tell it.
    """

    path: Path
    task: str
    form: Form
    samples: tuple[Sample, ...]
    filter: str | None = None
    named: str | None = None
    filters: tuple[str, ...] = ()


def task_of(path: Path) -> str:
    """The task that a log belongs to, by its name: `samples_TASK_2026-01-31T12-00-00.123456.jsonl`."""
    stem = re.sub(f"_{DATE}$", "", path.stem)
    return re.sub("^(samples|details)_", "", stem)


def file_of(
    path: Path,
    samples: Sequence[Sample | None],
    *,
    filter_name: str | None = None,
    filters: Sequence[str] = (),
) -> SampleFile | None:
    """The samples of a log, of one form; None if they are neither an answer nor a choice.

    Raises:
        DataError: they are of several forms.
    """
    forms = {sample and sample.form for sample in samples}
    if len(forms) > 1:
        kinds = "generation, multiple choice or scored texts"
        raise DataError(f"import: {path} mixes {kinds}; give one task per file")
    form = forms.pop()
    told = tuple(sample for sample in samples if sample is not None)
    return form and SampleFile(path, task_of(path), form, told, filter_name, filters=tuple(filters))


def right(sample: Sample, way: str | None = None) -> tuple[bool | None, str]:
    """Whether an answer counted as right, and by which metric; None where nothing says so.

    The task's own metric decides if it is right-or-wrong; else containment of a gold answer, or the option
    with the largest score.

    way: the metric that decides, "" for the gold answers; None: the first that the sample has.
    """
    for name in METRICS[sample.form] if way is None else (way,) if way else ():
        if sample.metrics.get(name) in (0.0, 1.0):
            return bool(sample.metrics[name]), name
    if way:
        return None, ""
    if sample.form == "open":
        if sample.text is None or not any(normalize(answer) for answer in sample.answers):
            return None, ""
        output = normalize(sample.text)
        return any(normalize(a) and normalize(a) in output for a in sample.answers), "containment"
    if sample.gold is None or not sample.scores:
        return None, ""
    return picked(sample) == sample.gold, "largest log-probability"


def picked(sample: Sample) -> int:
    """The option with the largest score."""
    return max(range(len(sample.scores)), key=sample.scores.__getitem__)


def question_of(doc: Mapping[str, Any]) -> tuple[str, str]:
    """Question and passage of a document, as its fields are usually called; empty where they can't be found."""
    question = next((doc[name] for name in _QUESTIONS if isinstance(doc.get(name), str) and doc[name]), "")
    context = next((doc[name] for name in _CONTEXTS if isinstance(doc.get(name), str)), "")
    return question, context


def keys_of(doc: Mapping[str, Any], *, digest: str | None = None) -> dict[str, str]:
    """The names of a document's question. digest: the harness's own hash of the document."""
    question, context = question_of(doc)
    found = {"hash": digest} if digest else {}
    if question:
        text = "\0".join((normalize(context), normalize(question)))
        found["text"] = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
    own = next((text for name in _IDS if (text := (as_text(doc.get(name)) or "").strip())), None)
    if own is not None:
        found["id"] = own
    return found


def language_of(doc: Mapping[str, Any]) -> str:
    """The language that a document names."""
    named = next((doc[name] for name in _LANGUAGES if isinstance(doc.get(name), str) and doc[name]), None)
    return UNKNOWN_LANGUAGE if named is None else language_name(named)


def numbers(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """The metrics that are plain numbers."""
    found = {}
    for name in names:
        value = values.get(name)
        if isinstance(value, (bool, int, float)) and value == value:
            found[str(name)] = float(value)
    return found


def texts(values: Any) -> tuple[str, ...]:
    """The texts in a list, or a text alone; SQuAD's `{"text": […]}` and TriviaQA's `{"value", "aliases"}` too.

    Numbers are texts, and what is neither is left out.
    """
    if isinstance(values, Mapping):
        found = values.get("text", [values.get("value"), *(values.get("aliases") or ())])
        return () if isinstance(found, Mapping) else texts(found)
    listed = values if isinstance(values, list | tuple) else [values]
    found = [each.get("text") if isinstance(each, Mapping) else each for each in listed]
    return tuple(text for text in map(as_text, found) if text is not None)
