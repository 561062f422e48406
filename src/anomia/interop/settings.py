"""Read how another harness ran a model, from the results file next to its samples."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anomia.errors import DataError
from anomia.interop.samples import DATE, SampleFile

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
    "model_dtype", "model_revision", "model_sha", "peft_sha", "delta_sha", "model_num_parameters", "batch_size", "device",
    "use_cache", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed",
)  # fmt: skip
_OF_THE_FILE = (
    "tokenizer_bos_token", "tokenizer_eos_token", "tokenizer_pad_token", "eot_token_id", "max_length", "lm_eval_version",
    "transformers_version",
)  # fmt: skip
_OF_A_TASK = ("generation_kwargs", "repeats", "filter_list", "metric_list")
_NO_SETTING = ("job_id", "start_time", "end_time", "total_evaluation_time_secondes", "config")
# The harnesses' argument names for a model's path.
MODEL_PATHS = ("pretrained", "model", "path", "engine", "model_name")


class Settings(NamedTuple):
    """How a model was run for one log.

    path: the results file. arguments: model arguments; an absent one has its default. others: other settings; an
    absent one may just be unknown to the harness's version. A value of None means that the setting is empty.
    """

    path: Path
    arguments: Mapping[str, str | None]
    others: Mapping[str, str | None]


def settings_of(tool: str, file: SampleFile) -> Settings | None:
    """The settings of the run that wrote a log; None if its results file is not found.

    Raises:
        DataError: the results file can't be read.
    """
    path = _results_of(file.path)
    if path is None:
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"import: {path}, which says how the harness ran the model, can't be read: {error}; fix it or move it away"
        ) from None
    task = re.sub(r"\W", "_", file.task)
    return _lighteval(path, held, task) if tool == "lighteval" else _lm_eval(path, held, task)


def _results_of(log: Path) -> Path | None:
    """The results file of the same run, found by its date.

    lm-eval writes both into one folder, lighteval OUT/details/MODEL/DATE/LOG and OUT/results/MODEL/results_DATE.json.
    """
    dated = re.search(f"_({DATE})$", log.stem)
    if dated is None:
        alone = list(log.parent.glob("results*.json"))
        return alone[0] if len(alone) == 1 else None
    places = [log.parent, log.parent.parent]
    parts = log.parent.absolute().parts
    for at, name in enumerate(parts):
        if name == "details":
            places.append(Path(*parts[:at], "results", *parts[at + 1 : -1]))
    found = [file for place in places for file in sorted(place.glob(f"*_{dated[1]}.json"))]
    return next((file for file in found if not file.name.startswith("samples_")), None)


def _lm_eval(path: Path, held: Mapping[str, Any], task: str) -> Settings:
    config = _mapping(held.get("config"))
    arguments = {name: _text(value) for name, value in _arguments(config.get("model_args")).items()}
    others = {name: _text(config[name]) for name in _OF_THE_RUN if name in config}
    others |= {name: _text(held[name]) for name in _OF_THE_FILE if name in held and name not in arguments}
    if "model" in config:
        others["backend"] = _text(config["model"])
    for name in _UNSET:
        value = config.get(name, held.get(name))
        if name == "chat_template":
            value = held.get("chat_template_sha") or (_digest(value) if value else None)
        others[name] = None if value is False else _text(value)
    others |= {name: _text(value) for name, value in _by_task(held, task, ("n-shot", "versions"))}
    for key, each in _mapping(held.get("configs")).items():
        if re.sub(r"\W", "_", key) == task:
            others |= {name: _text(value) for name, value in _mapping(each).items() if name in _OF_A_TASK}
    return Settings(path, arguments, others)


def _lighteval(path: Path, held: Mapping[str, Any], task: str) -> Settings:
    general = _mapping(held.get("config_general"))
    others = dict(_flat({name: value for name, value in general.items() if name not in _NO_SETTING}))
    others |= {name: _text(value) for name, value in _by_task(held, task, ("versions",))}
    return Settings(path, {}, others)


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Settings by name, with the nested ones of the model and of generation."""
    for name, value in values.items():
        if name in ("model_config", "generation_parameters"):
            # A text here is a Python repr that contains model names, so `_mapping` drops it.
            yield from _flat(_mapping(value))
        else:
            yield name, _text(value)


def _by_task(held: Mapping[str, Any], task: str, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        for key, value in _mapping(held.get(name)).items():
            if re.sub(r"\W", "_", key) == task:
                yield ("task version" if name == "versions" else name), value


def _arguments(given: Any) -> dict[str, Any]:
    """Model arguments from `a=1,b=2`, JSON or an object."""
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            try:
                return dict(_mapping(json.loads(given)))
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
    return dict(_mapping(given))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    """A value as normalized text, so that versions that write it differently agree; None if it is empty."""
    if value is None or value == "" or value == {} or value == []:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        value = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(value).strip().removeprefix("torch."))
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    return None if text == "None" else text


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
