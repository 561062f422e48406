"""`RUN/results.json`: every figure of a run, with what it was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

from anomia.errors import RunError
from anomia.files import read_json
from anomia.measure.diagnosis import Diagnosis, diagnose, to_json
from anomia.measure.judge import Verdict, judge
from anomia.records import read_records

SCHEMA_VERSION = 1


class Results(NamedTuple):
    """A run's figures and what it was measured on.

    failed: why an arm could not be made, by arm. broken: arms with logits that are NaN or infinite,
    and for how many items.
    """

    study: Mapping[str, Any]
    records: pl.DataFrame
    diagnosis: Diagnosis
    verdicts: Sequence[Verdict]
    failed: Mapping[str, str]
    broken: Mapping[str, int]
    noise: Mapping[str, Any] | None

    @property
    def arms(self) -> list[str]:
        """The arms that were measured, without base, in the study's order."""
        measured = set(self.records["arm"].unique())
        return [
            arm
            for arm in self.records["arm"].unique(maintain_order=True)
            if arm != "base" and arm in measured
        ]

    @property
    def languages(self) -> list[str]:
        """All languages of the run."""
        return sorted(self.records["language"].unique())


def read_results(run: Path) -> Results:
    """Computes a run's figures from its records."""
    study_file = run / "study.yaml"
    if not study_file.is_file():
        raise RunError(f"run: {run} is no run of Anomia (it has no study.yaml)")
    study = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    records = read_records(run)
    broken = records.filter(~pl.col("finite")).group_by("arm").len()
    arms = read_json(run / "arms.json") or {}
    return Results(
        study=study,
        records=records,
        diagnosis=diagnose(records),
        verdicts=judge(records),
        failed={arm: entry["failed"] for arm, entry in arms.items() if entry["failed"]},
        broken=dict(broken.iter_rows()),
        noise=read_json(run / "noise.json"),
    )


def results_json(results: Results) -> dict[str, Any]:
    """Plain values, as `docs/results.md` describes them."""
    return {
        "schema_version": SCHEMA_VERSION,
        "study": results.study,
        "failed": dict(results.failed),
        "broken": dict(results.broken),
        "noise": results.noise,
        "hygiene": hygiene(results.records),
        "verdicts": [_verdict(verdict) for verdict in results.verdicts],
        **to_json(results.diagnosis),
    }


def hygiene(records: pl.DataFrame) -> Sequence[Mapping[str, Any]]:
    """By arm and language: items, passages, and how often prompts were cut or boundaries moved."""
    return (
        records.group_by("arm", "language", maintain_order=True)
        .agg(
            items=pl.len(),
            passages=pl.col("passage_id").n_unique(),
            truncated=pl.col("truncated").sum(),
            gold_truncated=pl.col("gold_truncated").sum(),
            boundary_mismatch=pl.col("boundary_mismatch").sum(),
            unclosed_thinking=pl.col("unclosed_thinking").sum(),
            not_finite=(~pl.col("finite")).sum(),
            rank_ties=(pl.col("gold_rank_ties") > 0).sum(),
            no_distinct_token=pl.col("gold_distinct_rank").is_null().sum(),
        )
        .sort("arm", "language")
        .to_dicts()
    )


def _verdict(verdict: Verdict) -> Mapping[str, Any]:
    return {
        "arm": verdict.arm,
        "scope": verdict.scope,
        "outcome": verdict.decision.outcome,
        "same_passage_outcome": verdict.same_passage.outcome if verdict.same_passage else None,
        "text": verdict.text,
        "possible": list(verdict.decision.possible),
        "near": {name: estimate._asdict() for name, estimate in verdict.evidence.near.items()},
        "items_needed": verdict.decision.items_needed,
    }
