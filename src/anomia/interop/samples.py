"""The common types of all harnesses' sample logs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomia.errors import DataError
from anomia.grade import normalize
from anomia.items.languages import language_name
from anomia.items.sets.belebele import CODES
from anomia.probes import AnswerFormat
from anomia.text_files import as_text

# Kinds of keys that identify the question of a sample across tasks, best first.
KEYS = ("hash", "text", "id")
UNKNOWN_LANGUAGE = "unknown"
# The date in the file names of harnesses.
DATE = r"\d{4}-\d\d-\d\dT[\d.\-]+"

# Language names by code and script, `swh_Latn`.
WITH_SCRIPT = {code: name for name, code in CODES.items()}
_QUESTIONS = ("question", "Question", "query", "problem", "goal", "input", "sentence", "prompt")
_CONTEXTS = ("context", "passage", "article", "story", "support", "paragraph")
_LANGUAGES = ("language", "lang")
_IDS = ("id", "qid", "question_id", "idx")
# The metrics that can mark an answer right or wrong, best first.
METRICS: Mapping[str, tuple[str, ...]] = {
    "open": ("contains", "exact_match", "em", "acc"),
    "choice": ("acc", "acc_norm", "exact_match", "em"),
}


def sent_hash(texts: Sequence[str]) -> str:
    """The hash of the sent texts, for `Sample.sent`; "" if all are empty."""
    return (
        hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if any(texts)
        else ""
    )


class Sample(NamedTuple):
    """One model's answer to one question in one task.

    keys: keys of the question by kind (`KEYS`); unknown kinds are absent. passage: the passage's id, if the document
    has one. answers: gold answers. text: the generated text. options, scores: of multiple choice, in the order shown;
    scores are summed log probabilities (nats). gold: index of the right option. metrics: as logged.
    sent: a hash of the texts that the model got; "" if the log doesn't have them. asked: the end of a generation's
    prompt, "" if unknown. sampled: whether the answer was drawn at random.
    """

    form: AnswerFormat
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
    asked: str = ""
    sampled: bool = False


class SampleFile(NamedTuple):
    """A file of samples of one task and one form.

    filter: the tool's filter that extracts the graded answers. filters: all filters of the log.
    named: the language, if it comes from the task's name.
    """

    path: Path
    task: str
    form: AnswerFormat
    samples: tuple[Sample, ...]
    filter: str | None = None
    named: str | None = None
    filters: tuple[str, ...] = ()

    def in_language(self, name: str) -> SampleFile:
        """The file with this language where samples don't have one."""
        samples = tuple(
            sample._replace(language=name) if sample.language == UNKNOWN_LANGUAGE else sample
            for sample in self.samples
        )
        return self if samples == self.samples else self._replace(samples=samples, named=name)


def task_of(path: Path) -> str:
    """The task in a log's file name: `samples_TASK_2026-01-31T12-00-00.123456.jsonl`."""
    stem = re.sub(f"_{DATE}$", "", path.stem)
    return re.sub("^(samples|details)_", "", stem)


def file_of(
    path: Path,
    samples: Sequence[Sample | None],
    *,
    filter_name: str | None = None,
    filters: Sequence[str] = (),
) -> SampleFile | None:
    """The samples of a log; None if the task neither generates nor chooses.

    Raises:
        DataError: the samples have several forms.
    """
    forms = {sample and sample.form for sample in samples}
    if len(forms) > 1:
        kinds = "generation, multiple choice or scored texts"
        raise DataError(f"import: {path} mixes {kinds}; give one task per file")
    form = forms.pop()
    kept = tuple(sample for sample in samples if sample is not None)
    return form and SampleFile(path, task_of(path), form, kept, filter_name, filters=tuple(filters))


def right(sample: Sample, way: str | None = None) -> tuple[bool | None, str]:
    """Whether an answer is right, and the metric that decided; (None, "") if undecidable.

    A metric of the task decides if it is 0 or 1; otherwise containment of a gold answer, or the option with the
    largest score. Most texts contain the letter of an option, so containment doesn't decide on letters.

    way: the deciding metric, "" for the gold answers; None takes the first metric that the sample has.
    """
    for name in METRICS[sample.form] if way is None else (way,) if way else ():
        if sample.metrics.get(name) in (0.0, 1.0):
            return bool(sample.metrics[name]), name
    if way:
        return None, ""
    if sample.form == "open":
        known = any(normalize(answer) for answer in sample.answers)
        if sample.text is None or not known or has_letters(sample):
            return None, ""
        output = normalize(sample.text)
        return any(normalize(a) and normalize(a) in output for a in sample.answers), "containment"
    if sample.gold is None or not sample.scores:
        return None, ""
    return picked(sample) == sample.gold, "largest log-probability"


def has_letters(sample: Sample) -> bool:
    """Whether the gold answers are the letters of options."""
    return bool(sample.answers) and all(
        re.fullmatch(r"\(?[A-Z]\)?\.?", answer.strip()) for answer in sample.answers
    )


def options_shown(opened: Sample, chosen: Sample) -> int | None:
    """The number of options that a generation's prompt lists; None if it lists none.

    It does if the answer is a letter, or if the prompt has every option outside the passage.
    """
    options = [name for option in chosen.options if (name := normalize(option))]
    if len(options) < 2:
        return None
    if has_letters(opened):
        return len(chosen.options)
    context = opened.context.strip()
    prompt = f" {normalize(opened.asked.replace(context, ' ') if context else opened.asked)} "
    return len(chosen.options) if opened.asked and all(f" {name} " in prompt for name in options) else None


def picked(sample: Sample) -> int:
    """The index of the option with the largest score."""
    return max(range(len(sample.scores)), key=sample.scores.__getitem__)


def question_of(doc: Mapping[str, Any]) -> tuple[str, str]:
    """Question and passage of a document, from the usual field names; "" if not found."""
    question = next((doc[name] for name in _QUESTIONS if isinstance(doc.get(name), str) and doc[name]), "")
    context = next((doc[name] for name in _CONTEXTS if isinstance(doc.get(name), str)), "")
    return question, context


def keys_of(doc: Mapping[str, Any], *, digest: str | None = None) -> dict[str, str]:
    """The keys of a document's question. digest: the harness's hash of the document."""
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
    """The language in a document's fields, or `UNKNOWN_LANGUAGE`."""
    named = next((doc[name] for name in _LANGUAGES if isinstance(doc.get(name), str) and doc[name]), None)
    if named is None:
        return UNKNOWN_LANGUAGE
    with_script = re.fullmatch("([A-Za-z]{3})_([A-Za-z]{4})", named.strip())
    code = f"{with_script[1].lower()}_{with_script[2].capitalize()}" if with_script else ""
    return WITH_SCRIPT.get(code, language_name(named))


def numbers(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """The metrics that are plain numbers, without NaN."""
    found = {}
    for name in names:
        value = values.get(name)
        if isinstance(value, (bool, int, float)) and value == value:
            found[str(name)] = float(value)
    return found


def texts(values: Any) -> tuple[str, ...]:
    """The texts of a list or of a single text; also of SQuAD's `{"text": […]}` and TriviaQA's `{"value", "aliases"}`.

    Numbers become texts; other values are left out.
    """
    if isinstance(values, Mapping):
        found = values.get("text", [values.get("value"), *(values.get("aliases") or ())])
        return () if isinstance(found, Mapping) else texts(found)
    listed = values if isinstance(values, list | tuple) else [values]
    found = [each.get("text") if isinstance(each, Mapping) else each for each in listed]
    return tuple(text for text in map(as_text, found) if text is not None)
