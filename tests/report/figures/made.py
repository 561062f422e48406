"""Runs for figures, and what is asked of specifications."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
import yaml

from anomia.measure.results import read_results
from anomia.records import write_rows
from anomia.report.figures import Drawn, NamedRun, standalone
from tests.measure.planted import VOCABULARY, Damage, study_records

ARMS = {"wanda:0.3": Damage(open=0.2, choice=0.02, seed=1), "wanda:0.5": Damage(open=0.5, choice=0.1, seed=2)}
LANGUAGES = ("english", "swahili", "thai")
OPTIONAL = (
    "beams", "samples", "sample_", "gold_", "control_", "one_", "zero_", "kl", "top1", "cued", "choice_hard",
    "choice_passage", "choice_no", "distractors", "unrelated",
)  # fmt: skip


def make_run(
    folder: Path,
    *,
    arms: Mapping[str, Damage] = ARMS,
    languages: Sequence[str] = LANGUAGES,
    items: int = 40,
    base: str = "makers/Model-1B",
    data: str = "tydiqa",
    sparsity: Mapping[str, float] | None = None,
    bare: bool = False,
) -> NamedRun:
    """A run on disk, read back. bare: open and choice alone."""
    records = study_records(arms, languages=languages, items=items)
    if bare:
        records = records.with_columns(
            pl.lit(None).cast(kind).alias(name)
            for name, kind in records.schema.items()
            if name.startswith(OPTIONAL) and name != "gold_truncated"
        )
    (folder / "compression").mkdir(parents=True)
    study = {"base": base, "data": data, "arms": list(arms), "provenance": {"vocabulary": VOCABULARY}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    write_rows(records.to_dicts(), folder / "records" / "all.parquet")
    zeros = {arm: 0.3 + 0.1 * number for number, arm in enumerate(arms)} if sparsity is None else sparsity
    for number, (arm, share) in enumerate(zeros.items()):
        report = {"arm": arm, "steps": [{"step": arm, "sparsity": share}]}
        (folder / "compression" / f"{number}.json").write_text(json.dumps(report), encoding="utf-8")
    return NamedRun(folder.name, read_results(folder))


def svg(figure: Drawn, *, language: str | None = None, dark: bool = False) -> str:
    """The figure as it is drawn, for one language where one is chosen."""
    spec = standalone(figure, dark=dark)
    if language is not None:
        for parameter in spec["params"]:
            if parameter["name"] == "language":
                parameter["value"] = language
    return str(vl_convert.vegalite_to_svg(spec))


def walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a specification with the key it stands under."""
    yield key, node
    if isinstance(node, dict):
        for name, child in node.items():
            yield from walk(child, name)
    elif isinstance(node, list):
        for child in node:
            yield from walk(child, key)
