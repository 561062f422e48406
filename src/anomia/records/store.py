"""Records and items as Parquet files: written atomically, with checksums, and readable from older versions."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from anomia import renamed
from anomia.errors import RunError
from anomia.files import parse_parquet, sha256, write_bytes, write_text
from anomia.grade import containment, strict
from anomia.loops import is_text_loop
from anomia.probes import BY_NAME, CONTINUATION
from anomia.records.schema import COLUMNS, SCHEMA

# The columns that each long answer has with its text.
_OF_TEXT = [f"{CONTINUATION}_{name}" for name in ("ids", "pieces")]
_GIVEN = [name for name, column in COLUMNS.items() if column.given]


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path, schema: Mapping[str, Any] = SCHEMA) -> None:
    """Writes rows as Parquet, atomically, with a checksum file next to it (readable by `sha256sum -c`).

    Raises:
        RunError: the path isn't writable, or the disk is full.
    """
    buffer = io.BytesIO()
    pl.DataFrame(list(rows), schema=dict(schema), orient="row").write_parquet(buffer, compression="zstd")
    content = buffer.getvalue()
    # The checksum first, so that a finished file never lacks one.
    write_text(_sum_file(path), f"{sha256(content)}  {path.name}\n")
    write_bytes(path, content)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Reads rows that `write_rows` wrote, under the names that columns have now.

    Raises:
        RunError: the file can't be read, or its content has changed since it was written.
    """
    try:
        content = path.read_bytes()
        if _checksum(path) not in (None, sha256(content)):
            raise RunError(
                f"run: {path} is damaged (its checksum differs); repeat the `anomia run` that wrote it, which sets it "
                "aside and measures that part again"
            )
        # A file of an earlier version has a renamed column under its old name.
        stored = None if set(columns or ()) & set(renamed.COLUMNS.values()) else columns
        rows = parse_parquet(content, stored)
        old = {name: new for name, new in renamed.COLUMNS.items() if name in rows.columns}
        rows = rows.rename({name: new for name, new in old.items() if new not in rows.columns})
        return rows if columns is None else rows.select(columns)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise RunError(f"run: {path} can't be read: {error}") from None


def is_sound(path: Path) -> bool:
    """Whether a file of rows has a checksum and matches it."""
    try:
        return _checksum(path) == sha256(path.read_bytes())
    except OSError:
        return False


def checked(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Checks column types, and that columns that are never null, or never without another, are whole.

    Drops columns unknown to the schema.

    Raises:
        RunError: the rows aren't records of a run.
    """
    retyped = [name for name, kind in frame.schema.items() if kind not in (SCHEMA.get(name, kind), pl.Null)]
    lacking = [name for name in _GIVEN if name not in frame.columns or frame[name].has_nulls()]
    wrong = [*retyped, *lacking] or [name for name in _OF_TEXT if _lacks(frame, name)]
    if wrong:
        raise RunError(
            f"run: {file} does not hold records of a run: its column {wrong[0]!r} is missing, has gaps "
            "or is of another type; restore the file, or remove it and repeat the run's command"
        )
    return frame.select(name for name in frame.columns if name in SCHEMA)


def _lacks(frame: pl.DataFrame, name: str) -> bool:
    """Whether a row has the text of a long answer and not this column, which each such answer has."""
    text = BY_NAME[CONTINUATION].text_column
    if text not in frame.columns:
        return False
    without = pl.col(name).is_null() if name in frame.columns else pl.lit(True)
    return bool(frame.select((pl.col(text).is_not_null() & without).any()).item())


def upgrade(records: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Fills null columns that an older version did not record and that follow from the texts.

    These are `open_strict`, `open_loop` (from the text alone) and `gold_in_question`. `gold_over_limit` would need the
    tokenizer.

    Args:
        records: rows of `SCHEMA`.
        items: rows of `ITEM_SCHEMA`, with all accepted answers.
    """
    key = ["dataset", "language", "item_id"]
    # A task's answers have its own grade alone.
    of_task = records["open_score"].is_not_null() if "open_score" in records.columns else pl.lit(False)
    texts = records.select(*key, "question", "open_text", of_task=of_task)
    rows = texts.join(items.select(*key, "answers"), on=key, how="left", maintain_order="left")
    found = [
        {
            "open_strict": None if text is None or answers is None or of_task else strict(text, answers),
            "open_loop": None if text is None else is_text_loop(text),
            "gold_in_question": None if answers is None else containment(question, answers),
        }
        for question, text, answers, of_task in rows.select(
            "question", "open_text", "answers", "of_task"
        ).iter_rows()
    ]
    completed = pl.DataFrame(
        found, schema=dict.fromkeys(("open_strict", "open_loop", "gold_in_question"), pl.Boolean)
    )
    return records.with_columns(pl.coalesce(name, completed[name]).alias(name) for name in completed.columns)


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _checksum(path: Path) -> str | None:
    file = _sum_file(path)
    return file.read_text(encoding="utf-8").partition(" ")[0] if file.is_file() else None
