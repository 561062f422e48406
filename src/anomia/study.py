"""A study: what is compared, on what, and how. One validated object, YAML in and out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from anomia.compress.sources import check_source
from anomia.compress.spec import parse_arm
from anomia.compress.steps import needs_calibration
from anomia.errors import AnomiaError, StudyError, nearest
from anomia.faults import faults_of, in_one_message
from anomia.files import parse_yaml, write_text
from anomia.grade import CONTAINMENT, Grading, grader_named
from anomia.items.languages import language_name
from anomia.items.prompts import Templates, read_templates
from anomia.items.readers import LANGUAGES_OF, check_data
from anomia.probes import STUDY_PROBES as PROBES
from anomia.run_folder import RunFolder

BASE = "base"
Given = TypeVar("Given")
Parsed = TypeVar("Parsed")


class Study(BaseModel):
    """Every decision of a run. Field names are those of the flags, with `_` for `-`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    base: Annotated[
        str, Field(min_length=1, description="hub id, folder or .gguf file of the uncompressed model")
    ]
    arms: Annotated[tuple[str, ...], Field(min_length=1, description="compressions, as in wanda:0.5")]
    data: Annotated[
        str,
        Field(description="tydiqa, xquad, mlqa, squad, belebele, squad:PATH, mc:PATH, jsonl:FILE or demo"),
    ] = "demo"
    data_folder: Annotated[
        str | None, Field(description="looked through before the hub: tydiqa_goldp/dev, xquad (SQuAD JSON)")
    ] = None
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = 200
    seed: int = 42
    probes: tuple[str, ...] = PROBES
    engine: Literal["auto", "tree", "reference"] = "auto"

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    chat: bool = False

    calibration: str = "c4"
    calibration_samples: Annotated[int, Field(ge=1)] | None = None  # 128, or 64 a language
    calibration_tokens: Annotated[int, Field(ge=1)] = 2048
    calibration_folder: Annotated[
        str | None, Field(description="looked through before the hub: c4.en.jsonl, wikipedia/LANGUAGE.jsonl")
    ] = None
    calibration_budget: Annotated[int, Field(ge=1)] | None = None

    prompts: Annotated[
        dict[str, str] | None,
        Field(description="templates with {context}, {question} and {options}, by form"),
    ] = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...] | None,
        Field(description="an answer ends where one of these begins"),
    ] = None
    grader: Annotated[
        str | None, Field(description="containment (default), exact_match, f1, or an installed one")
    ] = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    num_beams: Annotated[int, Field(ge=2)] = 5
    num_samples: Annotated[int, Field(ge=1)] = 10
    sample_seeds: Annotated[int, Field(ge=1, description="how many seeds the samples are drawn with")] = 1
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    temperature: Annotated[float, Field(gt=0)] = 1.0
    reach_limit: Annotated[int, Field(ge=0, description="items a language asked with beams and samples")] = (
        100
    )
    prompt_tokens: Annotated[int, Field(ge=16)] = 512
    one_shot_tokens: Annotated[int, Field(ge=16)] = 1024
    one_shot_characters: Annotated[int, Field(ge=1)] = 500
    exemplar_characters: Annotated[int, Field(ge=1)] = 300
    top_tokens: Annotated[int, Field(ge=10, description="of base's next-token distribution")] = 256
    until_width: (
        Annotated[float, Field(gt=0, lt=1, description="of the dissociation rate's interval")] | None
    ) = None
    noise_items: Annotated[int, Field(ge=0, description="items asked again at another batch size")] = 32

    @property
    def templates(self) -> Templates:
        """The study's own wording of its prompts."""
        return read_templates(self.prompts or {})

    @property
    def grading(self) -> Grading:
        """How outputs are graded."""
        return Grading(self.grader or CONTAINMENT.grader, self.stop or ())

    @field_validator("data")
    @classmethod
    def _data(cls, value: str) -> str:
        return _worded(check_data, value)

    @field_validator("languages")
    @classmethod
    def _names(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if value is None:
            return None
        known = LANGUAGES_OF.get(info.data.get("data", ""))
        names = tuple(dict.fromkeys(language_name(name) for name in value))
        for name in names:
            if known is not None and name not in known:
                raise ValueError(f"{info.data['data']} has no language {name!r}; {nearest(name, known)}")
        return names

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
            # Hours of asking stand before the first output that it grades.
            _worded(lambda name: Grading(name).is_right("Rome", ["Rome"]), value)
        return value

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|map|cuda(:\d+)?", value):
            raise ValueError(f"unknown device {value!r}; known: auto, cpu, cuda, mps, map")
        return value

    @field_validator("arms")
    @classmethod
    def _arms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = []
        for text in value:
            arm = _worded(parse_arm, text)
            names.append(arm.name)
            for step in arm.steps:
                if needs_calibration(step) and step.calibration:
                    _worded(check_source, step.calibration)
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the arm {name!r} is given twice")
        if BASE in names:
            raise ValueError("the base model is measured in every study; leave it out of the arms")
        return value

    @field_validator("probes")
    @classmethod
    def _probes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PROBES:
                raise ValueError(f"unknown probe {name!r}; {nearest(name, PROBES)}")
        # Without these two nothing can be said about an item, so they are always asked.
        return tuple(name for name in PROBES if name in {*value, "open", "choice"})


def read_study(path: Path | None, overrides: Mapping[str, Any]) -> Study:
    """One study from a file, from flags, or from a file with flags on top.

    Raises:
        StudyError: the file can't be read, or values are wrong: all faults in one message.
    """
    place, values = read_settings(path)
    values.pop("provenance", None)
    try:
        return Study.model_validate(values | dict(overrides))
    except ValidationError as error:
        raise StudyError(in_one_message(faults_of(error, Study.model_fields), place)) from None


def read_settings(path: Path | None) -> tuple[str, dict[str, Any]]:
    """Where settings stand, for messages, and what a file says, unchecked; nothing where there is no file.

    Raises:
        StudyError: the file can't be read, or holds no settings.
    """
    if path is None:
        return "the command", {}
    try:
        loaded = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"study: {path} does not exist") from None
    except IsADirectoryError:
        raise StudyError(
            f"study: {path} is a folder; give its study file: {RunFolder(path).study_file}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"study: {path} can't be read: {error}") from None
    except ValueError as error:
        raise StudyError(f"study: {path} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise StudyError(f"study: {path} holds no settings; it needs lines such as 'base: MODEL'")
    return str(path), {str(key): value for key, value in loaded.items()}


def write_study(study: Study, path: Path, provenance: Mapping[str, Any]) -> None:
    """Writes the resolved study; `provenance` (versions, fingerprints) is ignored when it is run again."""
    values = {**study.model_dump(mode="json"), "provenance": dict(provenance)}
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _worded(check: Callable[[Given], Parsed], value: Given) -> Parsed:
    """Lets a fault that is worded elsewhere stand beside the other faults of the file."""
    try:
        return check(value)
    except AnomiaError as error:
        raise ValueError(str(error)) from None
