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
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema

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
from anomia.measure.measures import Measure
from anomia.measure.outcomes import Outcome
from anomia.measure.packaging import PackagingRow
from anomia.measure.rates import Estimate
from anomia.measure.scope import Scope
from anomia.measure.scores import ScoreRow
from anomia.measure.significance import PairedTest

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


@dataclass(frozen=True)
class Row:
    """How a row is written: figures as objects, nested tuples spread out into the row. name: in the schema.

    first: the fields that come first.
    """

    name: str
    first: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, row: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of the model for rows of a type."""
        return handler.generate_schema(_model(row, self.name, self.first))


@functools.cache
def _model(row: type, name: str, first: tuple[str, ...]) -> type[BaseModel]:
    """A model with the fields of a named tuple or a dataclass, each described by the docstring below it."""
    if issubclass(row, BaseModel):
        return create_model(name, __base__=row, __doc__=inspect.getdoc(row))
    spread = [part for field, part in _SPREAD.items() if field in get_type_hints(row)]
    fields: dict[str, Any] = {}
    for part in (row, *(each for each in spread if each is not Estimate)):
        told = _docstrings(part)
        for field, kind in get_type_hints(part).items():
            if field == "no_options":
                fields |= {name: (int | None, Field(description=told[field])) for name in NO_OPTIONS}
            elif field not in _SPREAD:
                shown = {Estimate: Value, Estimate | None: Value | None, Measure: str}.get(kind, kind)
                fields[field] = (shown, Field(description=told.get(field)))
    order = [*first, *(field for field in fields if field not in first)]
    base = Value if Estimate in spread else _Row
    described = {field: fields[field] for field in order}
    return create_model(name, __base__=base, __doc__=inspect.getdoc(row), **described)


def _docstrings(row: type) -> dict[str, str]:
    """The docstrings below the fields of a class, by field."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(row))).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(str(told.value.value))
        for field, told in itertools.pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(told, ast.Expr) and isinstance(told.value, ast.Constant)
    }


class Near(_Row):
    """One sign that an answer that is only picked is still near the top."""

    over_control: Value
    """Gold − a wrong option in its place; for one example, the drop at 0 shot − at 1 shot."""
    over_failures: Value | None
    """The share among those answers − the share among answers that base never gave."""
    stands: bool
    """Both exceed the threshold after Holm's correction over the signs, with validated intervals."""


class VerdictEvidence(_Row):
    """The evidence for a verdict, under the options that decide."""

    open_drop: Value | None
    choice_drop: Value | None
    gap: Value | None
    raw_gap: Value | None
    net: Value | None
    """Net dissociation."""
    lost: Value | None
    """Share of the both-correct items lost in open that choice lost too; decides *loss*."""
    broken: Value | None
    """Share of the outputs that are sound in base and broken in the arm."""


class VerdictRow(_Row):
    """The outcome of one arm in one scope (a language, or `overall`)."""

    arm: str
    scope: str
    outcome: Outcome
    decided_by: str
    """The options that decide the outcome."""
    word: Literal["recognised", "picked"]
    """Whether an answer that is picked with these options counts as recognised."""
    why: str
    """Which options decided, and why none before them did."""
    standard_outcome: Outcome | None
    """With standard options."""
    same_passage_outcome: Outcome | None
    """With options from the same passage; null where the run lacks them."""
    text: str
    possible: tuple[Outcome, ...]
    """What an inconclusive outcome may still turn out to be."""
    near: dict[str, Near]
    """Signs that lost answers are still near the top, by name."""
    evidence: VerdictEvidence
    stands: tuple[str, ...]
    """Which of open, choice and gap differ from 0 after Holm's correction over languages."""
    items_needed: int | None
    """Items that would decide an inconclusive outcome with 80 % power; null if no number would."""


class DifferenceRow(_Row):
    """Something that differs between base and an arm besides the weights."""

    what: str
    kind: Literal["harmless", "noted", "confounding"]
    """`confounding`: it changes answers but is not compression."""
    base: str
    other: str
    why: str
    part: Literal["asked", "model"] = "model"
    """`asked`: the prompts and where answers end, which a checkpoint takes from base."""


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
    """How many verdicts of base flip at another batch size."""
    stopping: dict[str, Any] | None
    """With `--until-width`: when and why each arm stopped."""
    notes: dict[str, list[str]]
    """What a reader should know about an arm: another tokenizer, probes that a server can't answer."""
    thresholds: dict[str, float]
    """Margins of the verdicts."""
    scope: Annotated[Scope, Row("ScopeRow")] | None
    exclude: tuple[str, ...]
    """Kinds of items that were left out on request."""
    excluded: dict[str, int | None]
    """The number of items of each of these kinds."""
    verdicts: tuple[Annotated[VerdictRow, Row("Verdict")], ...]
    figures: tuple[Annotated[Figure, Row("FigureRow")], ...]
    fates: tuple[Annotated[Fates, Row("FatesRow")], ...]
    transitions: tuple[Annotated[TransitionRow, Row("Transition")], ...]
    ranks: tuple[Annotated[RankRow, Row("Ranks")], ...]
    log_probs: tuple[Annotated[LogProbRow, Row("LogProbs")], ...]
    tests: tuple[Annotated[PairedTestRow, Row("PairedTest", first=_TESTS)], ...]
    divergence: tuple[Annotated[DivergenceRow, Row("Divergence")], ...]
    gradings: tuple[GradingRow, ...]
    between: tuple[Annotated[BetweenRow, Row("Between")], ...]
    frontier: tuple[Annotated[FrontierRow, Row("Frontier")], ...]
    hygiene: tuple[Annotated[HygieneRow, Row("Hygiene")], ...]
    damage: tuple[Annotated[DamageRow, Row("Damage")], ...]
    """Damage by position in long answers."""
    differences: dict[str, tuple[Annotated[DifferenceRow, Row("Difference")], ...]]
    """What differs from base besides the weights, for each arm that is a checkpoint."""
    packaging: tuple[Annotated[PackagingRow, Row("Packaging")], ...]
    scores: tuple[Annotated[ScoreRow, Row("Score")], ...]
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
