"""One row per arm and item, as CSV, Parquet or JSON lines; one item as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from anomia.errors import RunError, nearest
from anomia.measure.frame import KEY
from anomia.measure.recognition import with_fates
from anomia.probes import BY_NAME, CHOICE_OWN, DECIDING, GRADINGS, OPTION_KINDS, OWN_COLUMN, OWN_GOLD, SAID
from anomia.run_folder import RunFolder, runs_of

FIRST_COLUMNS = (
    "arm", "dataset", "language", "item_id", "question", "gold", "fate", "open_text", "open_correct", *GRADINGS,
    *(column for name in SAID[1:] for column in (BY_NAME[name].text_column, BY_NAME[name].column)),
    "choice_pick", "choice_correct", "choice_scores", *(BY_NAME[name].column for name in DECIDING[1:]),
    "choice_no_question_correct", "gold_rank", "gold_rank_ties", "gold_first_token", "gold_log_prob", "prompt_tokens",
    "truncated", "gold_truncated", "boundary_mismatch",
)  # fmt: skip
FORMATS = (".csv", ".parquet", ".jsonl")


def export_run(run: Path, file: Path) -> int:
    """Write a run's records with their fates and return the number of rows.

    The columns of `FIRST_COLUMNS` come first, all others after them. In CSV, lists are JSON texts.
    Base's rows have an empty fate. For a study with several cells, the first column names the cell.

    Raises:
        RunError: the run can't be read, or the file extension is unknown.
    """
    if file.suffix not in FORMATS:
        raise RunError(f"export: {file} has no known ending; {nearest(file.suffix, FORMATS)}")
    runs = runs_of(run)
    first = FIRST_COLUMNS if runs == [run] else ("cell", *FIRST_COLUMNS)
    rows = pl.concat(
        [
            _with_options(with_fates(RunFolder(part).records()), part).with_columns(cell=pl.lit(part.name))
            for part in runs
        ]
    ).select(*first, pl.exclude("cell", *FIRST_COLUMNS))
    try:
        if file.suffix == ".parquet":
            rows.write_parquet(file)
        elif file.suffix == ".jsonl":
            with file.open("w", encoding="utf-8") as lines:
                lines.writelines(
                    json.dumps(row, ensure_ascii=False) + "\n" for row in rows.iter_rows(named=True)
                )
        else:
            _flat(rows).write_csv(file)
    except OSError as error:
        raise RunError(f"export: {file} can't be written: {error.strerror or error}") from None
    return len(rows)


def _with_options(records: pl.DataFrame, run: Path) -> pl.DataFrame:
    """The records with the scored options, in the order of their scores, in `choice_options` and similar columns."""
    folder = RunFolder(run)
    if not folder.has_items:
        return records
    options = {f"{kind.probe}_options": pl.col(kind.column) for kind in OPTION_KINDS if not kind.of_base}
    items = folder.items().select(*KEY, **options)
    joined = records.join(items, on=KEY, how="left", maintain_order="left")
    # Those made from base's answer are in base's rows alone.
    own = records.filter(pl.col("arm") == "base").select(
        *KEY, OWN_GOLD, **{f"{CHOICE_OWN}_options": OWN_COLUMN}
    )
    return joined.drop(OWN_GOLD, OWN_COLUMN).join(own, on=KEY, how="left", maintain_order="left")


def item_json(item: Mapping[str, Any], base: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """One item as a line of JSON: `item`, `arm`, `fate`, and the rows of both models as `base` and `compressed`.

    Numbers that JSON lacks (NaN, infinity) become null; next-token distributions are left out.
    """
    line = {
        "item": dict(item),
        "arm": arm["arm"],
        "fate": arm["fate"],
        "base": _answers(base),
        "compressed": _answers(arm),
    }
    return json.dumps(_numbers(line), ensure_ascii=False, allow_nan=False)


def _answers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in row.items()
        if name not in ("arm", "fate") and not name.startswith("distribution_")
    }


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with lists as JSON texts, and a quote before texts that a spreadsheet would run as formulas."""
    columns = []
    for name, kind in rows.schema.items():
        if isinstance(kind, pl.List):
            values = [
                None if value is None else json.dumps(value.to_list(), ensure_ascii=False)
                for value in rows[name]
            ]
            columns.append(pl.Series(name, values, dtype=pl.String))
        elif kind == pl.String:
            columns.append(rows[name].str.replace(r"^([=+\-@\t\r])", "'$1"))
        else:
            columns.append(rows[name])
    return pl.DataFrame(columns)
