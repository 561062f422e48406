"""A study: the models to compare, the data and all settings, as one validated object that YAML can store."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from anomia import renamed
from anomia.compress.kept import read_kept
from anomia.compress.options import (
    ANSWER_WEIGHT,
    BUDGET,
    FOLDER,
    KEPT,
    MIX,
    SAMPLES,
    SOURCE,
    TOKENS,
    WINDOW_TOKENS,
)
from anomia.compress.sources import check_source, read_mix
from anomia.compress.spec import parse_arm
from anomia.compress.steps import needs_calibration
from anomia.errors import AnomiaError, StudyError, nearest
from anomia.faults import faults_of, in_one_message
from anomia.files import parse_yaml, write_text
from anomia.flags import Flag, whole
from anomia.grade import CONTAINMENT, GRADERS, Grading, grader_named
from anomia.items.languages import language_name
from anomia.items.prompts import Templates, read_templates
from anomia.items.readers import check_data
from anomia.items.sets import SETS, local_folders, named, only_languages, only_probes, set_of
from anomia.probes import ALIASES, CHOICE_OWN, CONTINUATION, DEFAULT_PROBES, FORMATS, probe_named
from anomia.probes import STUDY_PROBES as PROBES

BASE = "base"
# What the files of a run and of a matrix hold besides settings.
WRITTEN = ("provenance", "cells")
Given = TypeVar("Given")
Parsed = TypeVar("Parsed")


class Study(BaseModel):
    """All settings of a run. A field with a `Flag` can be set on the command line; the `Flag` is all that it needs."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    base: Annotated[
        str,
        Field(min_length=1),
        Flag(
            section="models",
            help="The uncompressed model: a hub id, a folder or a .gguf file; repeatable.",
            metavar="MODEL",
            several=True,
            commands=("run", "plan"),
            help_on={"plan": "Replaces the study's base; a folder needs only config.json."},
        ),
    ]
    arms: Annotated[
        tuple[str, ...],
        Field(min_length=1, examples=["[wanda:0.5]"]),
        Flag(
            section="models",
            help="A compressed version to compare with base (an arm); repeatable. A method, or a chain of them: "
            "wanda:0.5, "
            "wanda:2:4, sparsegpt:0.5+int8. A compressed model: checkpoint:MODEL, packaged:MODEL (with its own "
            "tokenizer, chat template and end tokens), endpoint:URL#MODEL. Base again under harmless noise: "
            "null:float32, null:batch=4, null:int8.",
            metavar="SPEC",
            name="--arm",
            several=True,
        ),
    ]
    data: Annotated[
        str,
        Flag(
            section="questions",
            help=f"The questions; repeatable. {named()}. Default: {{default}}.",
            metavar="DATA",
            several=True,
            commands=("run", "compare", "locate", "answers"),
        ),
    ] = "demo"
    data_folder: Annotated[
        str | None,
        Flag(
            section="questions",
            help=f"A folder with {local_folders()} (SQuAD JSON), searched before the hub.",
            type=Path,
            commands=("run", "plan", "locate", "answers"),
        ),
    ] = None
    languages: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1)] | None,
        Field(examples=["[english, swahili]"]),
        Flag(
            section="questions",
            help="Comma-separated names or codes; default: all.",
            metavar="A,B",
            commands=("run", "compare", "locate", "answers"),
            help_on={
                "compare": "Comma-separated names or codes; default: all; for the shipped questions, four of nine."
            },
        ),
    ] = None
    limit: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Flag(
            section="questions",
            help="Items per language (default {default}).",
            metavar="N",
            commands=("run", "compare", "plan", "locate", "answers"),
        ),
    ] = 200
    not_in: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(description="runs and files of passages", examples=["[anomia-run]"]),
        Flag(
            section="questions",
            help="Leave out questions that share text with this run's, with the answers that it calibrated on, or with "
            "a file of calibration text; repeatable.",
            metavar="RUN|FILE",
            several=True,
            commands=("run", "compare", "answers"),
        ),
    ] = ()
    seed: Annotated[
        int,
        Flag(
            section="draw",
            help="Seed for the subset, the options and the samples (default {default}).",
            commands=("run", "compare", "locate", "answers"),
        ),
    ] = 42
    probes: Annotated[
        tuple[str, ...],
        Field(examples=["[open, choice, rank]"]),
        Flag(
            section="asking",
            help="Comma-separated probes (open or free_form, choice or multiple_choice, cued, rank, …); default: all "
            "but "
            f"{CONTINUATION}, the long answers.",
            metavar="A,B",
        ),
    ] = DEFAULT_PROBES

    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Flag(
            section="machine",
            help="Type of the weights: auto, float32, bfloat16 or float16.",
            metavar="DTYPE",
            commands=("run", "compare", "locate", "answers"),
        ),
    ] = "auto"
    device: Annotated[
        str,
        Flag(
            section="machine",
            help="Where models run: auto, cpu, cuda, cuda:1, mps, or map (layers spread over all GPUs).",
            metavar="DEVICE",
            commands=("run", "compare", "locate", "answers"),
        ),
    ] = "auto"
    batch_size: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(description="auto or a whole number from 1"),
        Flag(
            section="machine",
            help="Items per batch: auto or a number.",
            metavar="auto|N",
            type=str,
            read=whole,
            commands=("run", "compare", "locate", "answers"),
        ),
    ] = "auto"
    engine: Annotated[
        Literal["auto", "tree", "reference"],
        Flag(
            section="machine",
            help="auto, tree (one shared prefill) or reference (plain generate).",
            metavar="ENGINE",
        ),
    ] = "auto"
    trust_remote_code: Annotated[
        bool,
        Flag(
            section="code",
            help="Run code from the models' repositories.",
            commands=("run", "compare", "diff", "answers"),
        ),
    ] = False
    run_code: Annotated[
        bool,
        Flag(
            section="code",
            help="Run the programs that models write, in a sandbox without network (for --data code).",
            commands=("run", "compare", "answers"),
            help_on={
                "answers": "Run the programs that the model writes, in a sandbox without network (for --data code with "
                "--control)."
            },
        ),
    ] = False
    revision: Annotated[
        str | None,
        Flag(
            section="code",
            help="Revision of base on the hub.",
            metavar="REVISION",
            commands=("run", "diff", "answers"),
        ),
    ] = None
    chat: Annotated[
        bool,
        Flag(
            section="chat", help="Use the tokenizer's chat template.", commands=("run", "compare", "answers")
        ),
    ] = False

    system: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        Flag(
            section="chat",
            help="A system message before every prompt, with --chat.",
            metavar="TEXT",
            commands=("run", "compare", "answers"),
        ),
    ] = None
    system_file: Annotated[
        str | None,
        Flag(
            section="chat",
            help="Read the system message from a file.",
            metavar="FILE",
            commands=("run", "compare", "answers"),
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        Field(description="a file with a Jinja template, or the template itself"),
        Flag(
            section="chat",
            help="A Jinja file to use in place of base's own chat template, with --chat.",
            metavar="FILE",
            commands=("run", "compare", "answers"),
        ),
    ] = None

    dense: Annotated[tuple[str, ...], KEPT] = ()
    calibration: Annotated[str, SOURCE] = "c4"
    calibration_samples: Annotated[Annotated[int, Field(ge=1)] | None, SAMPLES] = None
    calibration_tokens: Annotated[int, Field(ge=1), TOKENS] = WINDOW_TOKENS
    calibration_folder: Annotated[str | None, FOLDER] = None
    calibration_budget: Annotated[Annotated[int, Field(ge=1)] | None, BUDGET] = None
    calibration_answer_weight: Annotated[float, Field(gt=0), ANSWER_WEIGHT] = 1.0
    calibration_mix: Annotated[str | None, MIX] = None

    prompts: Annotated[
        dict[str, str] | None,
        Field(
            description="templates with {context}, {question} and {options}, by form",
            examples=['{open: "{context} {question}"}'],
        ),
    ] = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...] | None,
        Field(description="an answer ends where one of these begins", examples=[r'["\n"]']),
    ] = None
    grader: Annotated[
        str | None,
        Field(description=f"{', '.join(GRADERS)}, or an installed one; default {CONTAINMENT.grader}"),
    ] = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    continuation_tokens: Annotated[
        Annotated[int, Field(ge=1)],
        Flag(
            section="asking",
            help="Maximum length of a long answer in tokens, with the probe continuation (default {default}).",
            metavar="N",
            commands=("run", "locate", "answers"),
        ),
    ] = 512
    stop_at_loops: Annotated[
        bool,
        Flag(
            section="asking",
            help="Stop a long answer once it loops.",
        ),
    ] = False
    num_beams: Annotated[int, Field(ge=2)] = 5
    num_samples: Annotated[int, Field(ge=1)] = 10
    sample_seeds: Annotated[
        int,
        Field(ge=1),
        Flag(section="asking", help="Number of sampling seeds (default {default})."),
    ] = 1
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    temperature: Annotated[float, Field(gt=0)] = 1.0
    oracle_limit: Annotated[
        int, Field(ge=0, description="items per language that are asked with beams and samples")
    ] = 100
    prompt_tokens: Annotated[int, Field(ge=16)] = 512
    one_shot_tokens: Annotated[int, Field(ge=16)] = 1024
    one_shot_characters: Annotated[int, Field(ge=1)] = 500
    exemplar_characters: Annotated[int, Field(ge=1)] = 300
    top_tokens: Annotated[int, Field(ge=10, description="of base's next-token distribution")] = 256
    until_width: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Flag(
            section="draw",
            help="Stop an arm once the interval of its dissociation rate (answers only picked, no longer given) is "
            "no wider than W, such as 0.2.",
            metavar="W",
        ),
    ] = None
    noise_items: Annotated[int, Field(ge=0, description="items asked again at another batch size")] = 32

    @property
    def templates(self) -> Templates:
        """The study's own prompt templates."""
        return read_templates(self.prompts or {})

    @property
    def grading(self) -> Grading:
        """How outputs are graded: by the study's grader, or else by the data set's own if it is a task."""
        source = set_of(self.data)
        task = source.task if source is not None and self.grader is None else None
        return Grading(self.grader or CONTAINMENT.grader, self.stop or (), task)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = _for_data_set(renamed.settings(values, with_notes=True))
        only = only_probes(str(given.get("data", "")))
        if only and given.get("probes") is None:
            given = {**given, "probes": only}
        if given.get("system_file") is not None:
            if given.get("system") is not None:
                raise ValueError("'system' and 'system_file' are the same setting; give one of them")
            text = _text_of(given["system_file"], "system_file")
            given = {**given, "system": text.strip(), "system_file": None}
        return given

    @field_validator("data")
    @classmethod
    def _data(cls, value: str) -> str:
        return _worded(check_data, value)

    @model_validator(mode="after")
    def _may_run(self) -> Study:
        source = set_of(self.data)
        if source is not None and source.runs_code and self.grader is None and not self.run_code:
            raise ValueError(
                f"data: {source.name} is graded by running the programs that models write; allow it with --run-code "
                "(run_code: true in a study file), which runs them in a sandbox"
            )
        return self

    @field_validator("languages")
    @classmethod
    def _names(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if value is None:
            return None
        known = only_languages(info.data.get("data", ""))
        names = tuple(dict.fromkeys(language_name(name) for name in value))
        for name in names:
            if known is not None and name not in known:
                raise ValueError(f"{info.data['data']} has no language {name!r}; {nearest(name, known)}")
        return names

    @field_validator("dense", mode="before")
    @classmethod
    def _kept(cls, value: Any) -> Any:
        return _worded(read_kept, value) if isinstance(value, str) else value

    @field_validator("calibration_mix")
    @classmethod
    def _mix(cls, value: str | None) -> str | None:
        if value is not None:
            _worded(read_mix, value)
        return value

    @field_validator("calibration")
    @classmethod
    def _calibration(cls, value: str) -> str:
        return _worded(check_source, value)

    @field_validator("prompts")
    @classmethod
    def _prompts(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        _worded(read_templates, value or {})
        return value

    @field_validator("grader")
    @classmethod
    def _grader(cls, value: str | None) -> str | None:
        if value is not None:
            _worded(grader_named, value)
            # Try the grader now, because its first real output may come hours later.
            _worded(lambda name: Grading(name).is_right("Rome", ["Rome"]), value)
        return value

    @field_validator("system", "chat_template")
    @classmethod
    def _needs_chat(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if not info.data.get("chat", True):
            raise ValueError("only a chat has one; add chat: true (--chat)")
        if info.field_name == "chat_template" and not re.search(r"\{[{%]", value):
            text = _text_of(value, "chat_template")
            if not re.search(r"\{[{%]", text):
                raise ValueError(f"{value} is not a Jinja template: nothing in it is in braces")
            return text
        return value

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|map|cuda(:\d+)?", value):
            raise ValueError(f"unknown device {value!r}; known: auto, cpu, cuda, mps, map")
        return value

    @field_validator("until_width")
    @classmethod
    def _has_fates(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and only_probes(info.data.get("data", "")):
            raise ValueError(f"{info.data['data']} has no dissociation rate to stop by; leave it out")
        return value

    @field_validator("arms")
    @classmethod
    def _arms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = []
        for text in value:
            arm = _worded(parse_arm, text)
            names.append(arm.name)
            for step in arm.steps:
                if needs_calibration(step) and step.calibration.source:
                    _worded(check_source, step.calibration.source)
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the arm {name!r} is given twice")
        if BASE in names:
            raise ValueError("the base model is measured in every study; leave it out of the arms")
        return value

    @field_validator("probes")
    @classmethod
    def _probes(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        asked = {name: probe_named(name) for name in value}
        for name, probe in asked.items():
            if probe not in PROBES:
                raise ValueError(f"unknown probe {name!r}; {nearest(name, [*PROBES, *ALIASES])}")
        data = info.data.get("data", "")
        only = only_probes(data)
        if not only:
            source = set_of(data)
            if CHOICE_OWN in asked.values() and (source is None or source.own is None):
                raise ValueError(
                    f"{data} has no options made from base's own output, so it can't be asked {CHOICE_OWN}; "
                    "leave it out, or ask one of "
                    f"{', '.join(name for name, each in SETS.items() if each.own is not None)}"
                )
            return tuple(name for name in PROBES if name in {*asked.values(), *FORMATS})
        others = [name for name in PROBES if name in asked.values() and name not in only]
        if others:
            raise ValueError(
                f"{info.data['data']} has neither options nor needs right answers, so it can't be asked "
                f"{', '.join(others)}; leave out the probes, or give {', '.join(only)} alone"
            )
        return only


FLAGS: Mapping[str, Flag] = {
    name: flag
    for name, field in Study.model_fields.items()
    for flag in field.metadata
    if isinstance(flag, Flag)
}
"""The study's flags, by field."""


def read_study(path: Path | None, overrides: Mapping[str, Any]) -> Study:
    """Read one study from a file, from flags, or from both (flags win).

    Raises:
        StudyError: the file can't be read, or values are wrong; the message lists all faults.
    """
    place, values = read_settings(path)
    values.pop("provenance", None)
    try:
        return Study.model_validate(values | renamed.settings(overrides, with_notes=True))
    except ValidationError as error:
        raise StudyError(in_one_message(faults_of(error, Study.model_fields), place)) from None


def _for_data_set(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with a data set's own defaults for what isn't given: a task needs more than 32 tokens."""
    data = values.get("data")
    source = set_of(data) if isinstance(data, str) else None
    if source is None:
        return dict(values)
    found = {**source.settings, **values}
    own, given = source.settings.get("prompts"), values.get("prompts")
    if own and (given is None or isinstance(given, Mapping)):
        found["prompts"] = {**own, **(given or {})}
    return found


def read_settings(path: Path | None) -> tuple[str, dict[str, Any]]:
    """The name of the settings' source, for messages, and a file's unchecked settings; empty if `path` is None.

    A file of an earlier version is read under the names of this one, with a note unless a run wrote it.

    Raises:
        StudyError: the file can't be read, or has no settings.
    """
    if path is None:
        return "the command", {}
    try:
        loaded = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"study: {path} does not exist") from None
    except IsADirectoryError:
        # The command line imports this module for its flags, and polars would double the import time.
        from anomia.run_folder import RunFolder

        raise StudyError(
            f"study: {path} is a folder; give its study file: {RunFolder(path).study_file}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"study: {path} can't be read: {error}") from None
    except ValueError as error:
        raise StudyError(f"study: {path} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise StudyError(f"study: {path} holds no settings; it needs lines such as 'base: MODEL'")
    values = {str(key): value for key, value in loaded.items()}
    return str(path), renamed.settings(values, with_notes=values.keys().isdisjoint(WRITTEN))


def write_study(study: Study, path: Path, provenance: Mapping[str, Any]) -> None:
    """Write the resolved study; `provenance` (versions, fingerprints) is ignored when the file is run again."""
    values = {**study.model_dump(mode="json"), "provenance": dict(provenance)}
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _text_of(path: Any, key: str) -> str:
    """The text of a file that a setting names."""
    try:
        return Path(str(path)).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        # Pydantic can't take a message with half of a surrogate pair.
        shown = str(path)[:200].encode("utf-8", "backslashreplace").decode()
        raise ValueError(f"{key}: {shown} can't be read: {reason}; give a text file") from None


def _worded(check: Callable[[Given], Parsed], value: Given) -> Parsed:
    """Turn an `AnomiaError` into a ValueError, so that Pydantic collects it with the other faults."""
    try:
        return check(value)
    except AnomiaError as error:
        raise ValueError(str(error)) from None
