"""Read logs of lm-evaluation-harness (`--log_samples`): JSON lines, one file per task, and a results file."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomia.errors import DataError
from anomia.interop.formats import LogFormat
from anomia.interop.pairs import FAMILIES
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
from anomia.text_files import as_text, json_lines

# The characters of a prompt that are kept, enough for the options of the last question.
_PROMPT_END = 4000
# Settings of lm-evaluation-harness whose absence means the same in every version.
_UNSET = (
    "chat_template",
    "system_instruction",
    "fewshot_as_multiturn",
    "apply_chat_template",
    "gen_kwargs",
    "limit",
)
_OF_THE_RUN = (
    "model_dtype", "model_revision", "model_sha", "peft_sha", "delta_sha", "model_num_parameters", "batch_size",
    "device", "use_cache", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed",
)  # fmt: skip
_OF_THE_FILE = (
    "tokenizer_bos_token", "tokenizer_eos_token", "tokenizer_pad_token", "eot_token_id", "max_length",
    "lm_eval_version", "transformers_version",
)  # fmt: skip
_OF_A_TASK = ("generation_kwargs", "repeats", "filter_list", "metric_list")


def read_lm_eval(path: Path, *, filter_name: str | None = None) -> SampleFile | None:
    """Read one sample log; None if its task only scores given texts, as lambada and wikitext do.

    filter_name: the filter to use if the task has several; None uses the first in the file.

    Raises:
        DataError: the file can't be read or isn't a sample log; the message names the line.
    """
    samples: list[Sample | None] = []
    filters: dict[str, None] = {}
    for place, row in _rows(path):
        name = str(row.get("filter", "none"))
        filters.setdefault(name)
        if name == (filter_name or next(iter(filters))):
            try:
                samples.append(_sample(row))
            except (TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError) as fault:
                raise DataError(f"import: {place}: {fault}") from None
    if not filters:
        raise DataError(f"import: {path} holds no samples; run the harness with --log_samples")
    if filter_name is not None and filter_name not in filters:
        if len(filters) == 1:
            # A task with a single filter, like every multiple-choice task, leaves no choice.
            return read_lm_eval(path)
        raise DataError(f"import: {path} has no filter {filter_name!r}; it has {', '.join(filters)}")
    used = filter_name or next(iter(filters))
    return file_of(path, samples, filter_name=used, filters=list(filters))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open("rb") as lines:
            for place, _, row in json_lines(lines, str(path), about="import", mend=True):
                if not isinstance(row, dict) or "resps" not in row or not isinstance(row.get("doc"), dict):
                    raise DataError(
                        f"import: {place} is not a sample of lm-evaluation-harness "
                        "(it has no doc and resps); run the harness with --log_samples"
                    )
                yield place, row
    except OSError as error:
        raise DataError(f"import: {path} can't be read: {error.strerror or error}") from None


def _sample(row: Mapping[str, Any]) -> Sample | None:
    doc = row["doc"]
    question, context = question_of(doc)
    digest = row.get("doc_hash")
    # Logs from before 0.4.4 don't list their metrics.
    named = texts(row["metrics"]) if "metrics" in row else [name for name in row if name not in _OWN]
    metrics = numbers(row, named)
    passage = doc.get("passage_id")
    arguments = _arguments(row.get("arguments"))
    scores = None if _generates(arguments) else _scores(row["resps"])
    if (scores and len(scores) == 1) or _is_perplexity(arguments, row["resps"]):
        return None
    options: tuple[str, ...] = ()
    gold = None
    if scores:
        options = tuple(str(pair[1]).strip() for pair in arguments if len(pair) > 1)
        if len(options) != len(scores):
            raise ValueError(f"{len(options)} options but {len(scores)} scores")
        half = len(options) // 2
        if half > 1 and options[:half] == options[half:]:
            # With mutual information (acc_mutual_info), the log has every option twice: after the prompt, then alone.
            options, scores = options[:half], scores[:half]
        gold = _gold(row.get("target"), options)
        answers: tuple[str, ...] = () if gold is None else (options[gold],)
    else:
        answers = texts(doc.get("answers")) or _answers(row.get("target"))
    return Sample(
        form="choice" if scores else "open",
        keys=keys_of(doc, digest=digest if isinstance(digest, str) else None),
        language=language_of(doc),
        question=question or (str(arguments[0][0]) if arguments and arguments[0] else ""),
        context=context,
        passage=passage if isinstance(passage, str) else None,
        answers=answers,
        text=None if scores else _first_text(row.get("filtered_resps"), row["resps"]),
        options=options,
        scores=tuple(scores or ()),
        gold=gold,
        metrics=metrics,
        sent=_sent(row, arguments),
        asked="" if scores or not arguments or not arguments[0] else str(arguments[0][0])[-_PROMPT_END:],
        sampled=_is_sampled(arguments),
    )


def _sent(row: Mapping[str, Any], arguments: Sequence[Sequence[Any]]) -> str:
    """A hash of the request's texts and generation settings, or else of the log's own prompt hash."""
    parts = [
        part if isinstance(part, str) else json.dumps(part, sort_keys=True, default=str)
        for each in arguments
        for part in each
    ]
    return sent_hash(parts or [str(row.get("prompt_hash") or "")])


_OWN = frozenset(
    ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
     "prompt_hash", "target_hash")
)  # fmt: skip


def _arguments(found: Any) -> list[list[Any]]:
    """Prompt and continuation of each request, from a list or (since 0.4) from `gen_args_N` keys."""
    if isinstance(found, Mapping):
        found = [each for _, each in sorted(found.items(), key=lambda pair: _number(pair[0]))]
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    pairs = []
    for each in found:
        if isinstance(each, Mapping):
            each = [value for _, value in sorted(each.items(), key=lambda pair: _number(pair[0]))]
        pairs.append(list(each) if isinstance(each, Sequence) and not isinstance(each, str) else [each])
    return pairs


def _number(name: str) -> int:
    digits = re.search(r"(\d{1,9})$", str(name))
    return int(digits[1]) if digits else 0


def _generates(arguments: Sequence[Sequence[Any]]) -> bool:
    """Whether the first request has generation settings rather than a continuation to score."""
    return bool(arguments) and any(isinstance(part, Mapping) for part in arguments[0][1:])


def _is_sampled(arguments: Sequence[Sequence[Any]]) -> bool:
    """Whether the first request's generation settings ask for random answers."""
    for part in arguments[0][1:] if arguments else ():
        if isinstance(part, Mapping):
            drawn, temperature = part.get("do_sample"), part.get("temperature")
            warm = temperature is None or (isinstance(temperature, int | float) and temperature > 0)
            return warm and (drawn is True or (drawn is None and temperature is not None))
    return False


def _is_perplexity(arguments: Sequence[Sequence[Any]], resps: Any) -> bool:
    """Whether a text was scored without a prompt: one argument, and a number as the response."""
    if [len(each) for each in arguments] != [1]:
        return False
    try:
        float(_first(resps))
    except (TypeError, ValueError):
        return False
    return True


def _scores(resps: Any) -> list[float] | None:
    """Summed log probabilities (nats), from one (sum, is greedy) pair per request; None if responses are texts."""
    found = []
    for each in resps if isinstance(resps, list) else []:
        while isinstance(each, list) and each and isinstance(each[0], list):
            each = each[0]
        if not isinstance(each, list) or len(each) != 2 or str(each[1]) not in ("True", "False"):
            return None
        score = float(each[0])
        if math.isnan(score):
            raise ValueError("a log-probability is not a number")
        found.append(score)
    return found or None


def _first_text(filtered: Any, resps: Any) -> str:
    """The generated text; the first one of several repeats."""
    for found in (_first(resps), _first(filtered)):
        if isinstance(found, str):
            return found
    raise ValueError("there is no generated text")


def _first(found: Any) -> Any:
    while isinstance(found, list) and found:
        found = found[0]
    return found


def _gold(target: Any, options: Sequence[str]) -> int | None:
    """The index of the right option, from an index, its text, or a list of these (the first counts)."""
    if isinstance(target, list):
        target = target[0] if target else None
    text = (as_text(target) or str(target)).strip()
    index = re.fullmatch(r"([0-9]{1,4})(?:\.0+)?", text)
    if index and int(index[1]) < len(options):
        return int(index[1])
    return options.index(text) if text in options else None


def _answers(target: Any) -> tuple[str, ...]:
    """Gold answers of a generation task; the harness may write a list as its Python text."""
    if isinstance(target, str) and target.startswith("[") and target.endswith("]"):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            target = ast.literal_eval(target)
    return tuple(answer.strip() for answer in texts(target) if answer.strip())


def _settings(path: Path, held: Mapping[str, Any], task: str) -> Settings:
    config = mapping(held.get("config"))
    arguments = {
        name: as_setting(value) for name, value in _model_arguments(config.get("model_args")).items()
    }
    others = {name: as_setting(config[name]) for name in _OF_THE_RUN if name in config}
    others |= {
        name: as_setting(held[name]) for name in _OF_THE_FILE if name in held and name not in arguments
    }
    if "model" in config:
        others["backend"] = as_setting(config["model"])
    for name in _UNSET:
        value = config.get(name, held.get(name))
        if name == "chat_template":
            value = held.get("chat_template_sha") or (_digest(value) if value else None)
        others[name] = None if value is False else as_setting(value)
    others |= {name: as_setting(value) for name, value in by_task(held, task, ("n-shot", "versions"))}
    for key, each in mapping(held.get("configs")).items():
        if re.sub(r"\W", "_", key) == task:
            others |= {name: as_setting(value) for name, value in mapping(each).items() if name in _OF_A_TASK}
    return Settings(path, arguments, others)


def _model_arguments(given: Any) -> dict[str, Any]:
    """Model arguments from `a=1,b=2`, JSON or an object."""
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            try:
                return dict(mapping(json.loads(given)))
            except (ValueError, RecursionError):
                return {"model_args": given}
        pairs: dict[str, Any] = {}
        last = ""
        for part in given.split(","):
            name, sign, value = part.partition("=")
            if sign:
                last = name.strip()
                pairs[last] = value.strip()
            elif last:
                # The comma belongs to the value.
                pairs[last] += f",{part}"
        return pairs
    return dict(mapping(given))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


FORMAT = LogFormat("samples_*.jsonl", read_lm_eval, _settings, families=FAMILIES)
