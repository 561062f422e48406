"""The structure of `RUN/results.json`, from which its JSON Schema is generated.

Rows are written as their own types define them (`Row`); whatever the file stores differently has a model here.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema

from anomia.measure.fallbacks import FallbackRow
from anomia.measure.fates import FateCounts
from anomia.measure.figures import (
    BetweenRow,
    DamageRow,
    DivergenceRow,
    Fates,
    Figure,
    FrontierRow,
    GradingRow,
    LogProbRow,
    PairedTestRow,
    RankRow,
    TransitionRow,
)
from anomia.measure.hygiene import NO_OPTIONS, HygieneRow
from anomia.measure.judge import ScopeVerdict
from anomia.measure.measures import Measure
from anomia.measure.packaging import PackagingRow
from anomia.measure.rates import Estimate
from anomia.measure.repaired import RepairedRow
from anomia.measure.scope import Scope
from anomia.measure.scores import ScoreRow
from anomia.measure.significance import PairedTest
from anomia.measure.verdict import Evidence, Nearness
from anomia.models.difference import Difference

SCHEMA_VERSION = 3
# Fields of rows whose own fields become fields of the row in the file.
_SPREAD: Mapping[str, type] = {"estimate": Estimate, "counts": FateCounts, "test": PairedTest}


_TESTS = ("arm", "measure", "scope", "p_value", "adjusted", "family")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Value(_Row):
    """A figure with its 95 % interval; everything but the value is null if it can't be given."""

    value: float | None = None
    """The figure; null if it can't be given (too few items, base too weak)."""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Number of items."""
    clusters: int | None = None
    """Number of passages."""
    method: str | None = None
    """How the interval was computed."""
    checked: bool | None = None
    """Whether its coverage was validated for this many items and events (docs/statistics.md)."""


# pydantic looks for the source of models made of other types in every loaded module: seconds, to find nothing.
_MADE = ConfigDict(use_attribute_docstrings=False)


class _Made(_Row):
    model_config = _MADE


class _MadeValue(Value):
    model_config = _MADE


@dataclass(frozen=True)
class Row:
    """How a row is written: figures as objects, nested tuples spread out into the row.

    first: the fields that come first. only: the fields and properties that are written; empty for all fields.
    """

    first: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, row: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of the model for rows of a type."""
        return handler.generate_schema(_model(row, self.first, self.only))


# What is written of a type, where that isn't its plain form.
_WRITTEN: Mapping[Any, Any] = {
    Estimate: Value,
    Estimate | None: Value | None,
    Measure: str,
    Evidence: Annotated[
        Evidence, Row(only=("open_drop", "choice_drop", "gap", "raw_gap", "net", "lost", "broken"))
    ],
    Mapping[str, Nearness]: dict[str, Annotated[Nearness, Row()]],
}


@functools.cache
def _model(row: type, first: tuple[str, ...], only: tuple[str, ...]) -> type[BaseModel]:
    """A model with the fields of a named tuple or a dataclass, each described by the docstring below it."""
    spread = [part for field, part in _SPREAD.items() if field in get_type_hints(row)]
    fields: dict[str, Any] = {}
    for part in (row, *(each for each in spread if each is not Estimate)):
        texts = _docstrings(part)
        for field, kind in (_types(part) if only else get_type_hints(part)).items():
            if field == "no_options":
                fields |= {name: (int | None, Field(description=texts[field])) for name in NO_OPTIONS}
            elif field not in _SPREAD:
                fields[field] = (_WRITTEN.get(kind, kind), Field(description=texts.get(field)))
    order = only or (*first, *(field for field in fields if field not in first))
    base = _MadeValue if Estimate in spread else _Made
    described = {field: fields[field] for field in order}
    return create_model(row.__name__, __base__=base, __doc__=inspect.getdoc(row), **described)


def _types(row: type) -> dict[str, Any]:
    """The types of the fields of a class, and of its properties."""
    getters = {name: part.fget for name, part in vars(row).items() if isinstance(part, property)}
    return get_type_hints(row) | {name: get_type_hints(fget)["return"] for name, fget in getters.items()}


def _docstrings(row: type) -> dict[str, str]:
    """The docstrings below the fields of a class, and those of its properties."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(row))).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(str(text.value.value))
        for field, text in itertools.pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    } | {name: inspect.getdoc(part) or "" for name, part in vars(row).items() if isinstance(part, property)}


class ResultsFile(_Row):
    """`RUN/results.json`: every figure of a run, and what it was measured on."""

    schema_version: int
    study: dict[str, Any]
    """The resolved study, with `provenance`: versions, machine, batch size, fingerprints, items."""
    failed: dict[str, str]
    """Arms that could not be made, and why."""
    broken: dict[str, int]
    """The number of items with non-finite logits, by arm that has any."""
    noise: dict[str, Any] | None
    """How many of base's answers flip at another batch size."""
    stopping: dict[str, Any] | None
    """With `--until-width`: when and why each arm stopped."""
    notes: dict[str, list[str]]
    """What a reader should know about an arm: another tokenizer, probes that a server can't answer."""
    thresholds: dict[str, float]
    """Margins of the verdicts."""
    scope: Annotated[Scope, Row()] | None
    exclude: tuple[str, ...]
    """Kinds of items that were excluded on request."""
    excluded: dict[str, int | None]
    """The number of items of each of these kinds."""
    verdicts: tuple[
        Annotated[
            ScopeVerdict,
            Row(
                only=(
                    "arm", "scope", "outcome", "decided_by", "word", "why", "standard_outcome", "same_passage_outcome",
                    "text", "possible", "near", "evidence", "stands", "items_needed",
                )
            ),
        ],
        ...,
    ]  # fmt: skip
    figures: tuple[Annotated[Figure, Row()], ...]
    fates: tuple[Annotated[Fates, Row()], ...]
    transitions: tuple[Annotated[TransitionRow, Row()], ...]
    ranks: tuple[Annotated[RankRow, Row()], ...]
    log_probs: tuple[Annotated[LogProbRow, Row()], ...]
    tests: tuple[Annotated[PairedTestRow, Row(first=_TESTS)], ...]
    divergence: tuple[Annotated[DivergenceRow, Row()], ...]
    gradings: tuple[GradingRow, ...]
    between: tuple[Annotated[BetweenRow, Row()], ...]
    frontier: tuple[Annotated[FrontierRow, Row()], ...]
    hygiene: tuple[Annotated[HygieneRow, Row()], ...]
    damage: tuple[Annotated[DamageRow, Row()], ...]
    """Damage by position in long answers."""
    differences: dict[str, tuple[Annotated[Difference, Row()], ...]]
    """What differs from base besides the weights, for each arm that is a checkpoint."""
    packaging: tuple[Annotated[PackagingRow, Row()], ...]
    repaired: tuple[Annotated[RepairedRow, Row()], ...]
    """How much of a loss each repaired arm gives back: rho = (repaired − compressed)/(base − compressed)."""
    fallbacks: tuple[Annotated[FallbackRow, Row()], ...]
    """What one example or a vote of beams or samples gives back, as accuracy, and the tokens that it costs."""
    scores: tuple[Annotated[ScoreRow, Row()], ...]
    """Of tasks with graded answers: the paired drop of each score against the margin `score`."""


def written(row: Any) -> dict[str, Any]:
    """A row (named tuple or dataclass) as written to the file: nested tuples spread out, other figures as objects."""
    fields = (
        row._asdict()
        if hasattr(row, "_asdict")
        else row.named()
        if isinstance(row, HygieneRow)
        else {name: getattr(row, name) for name in row.__slots__}
    )
    plain: dict[str, Any] = {}
    for name, field in fields.items():
        if name in _SPREAD:
            plain |= {} if field is None else field._asdict()
        else:
            plain[name] = field._asdict() if isinstance(field, Estimate) else field
    return plain


def json_schema() -> dict[str, Any]:
    """JSON Schema of `results.json`; `docs/results.schema.json` is its published copy."""
    schema = ResultsFile.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    print(json.dumps(json_schema(), ensure_ascii=False, indent=2))
