"""The tables of one or more runs, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anomia import renamed
from anomia.errors import RunError
from anomia.files import write_text
from anomia.report.figures.cases import NamedRun
from anomia.report.render.csv import csv_text
from anomia.report.render.latex import label, latex
from anomia.report.render.markdown import markdown
from anomia.report.tables.registry import FILES
from anomia.report.tables.table import Cell, Column, Table

RUN = Column("run", "run", "text")


def tables(runs: Sequence[NamedRun]) -> list[Table]:
    """Every table that these runs can fill, in reading order, with a first column for the run."""
    made = (_joined([(run.name, make(run.results)) for run in runs]) for make in FILES)
    return [table for table in made if table.rows]


def write_tables(runs: Sequence[NamedRun], folder: Path) -> list[Path]:
    """Write every table as `NAME.csv`, `NAME.md` and `NAME.tex`, and remove those of the same tables under old names.

    Raises:
        RunError: a file can't be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables(runs):
            read = _of_one_run(table)
            for ending, text in (("csv", csv_text(table)), ("md", markdown(read)), ("tex", latex(read))):
                path = folder / f"{table.name}.{ending}"
                write_text(path, text)
                written.append(path)
            _remove_old(folder, table.name)
    except OSError as error:
        raise RunError(f"tables: {folder} can't be written: {error.strerror or error}") from None
    return written


def _joined(found: Sequence[tuple[str, Table]]) -> Table:
    """The rows of all runs under the union of their columns, without columns that have no values."""
    columns = list(dict.fromkeys(column for _, table in found for column in table.columns))
    rows: list[dict[Column, Cell]] = [
        {RUN: run, **dict(zip(table.columns, row, strict=True))} for run, table in found for row in table.rows
    ]
    kept = [column for column in (RUN, *columns) if any(row.get(column) is not None for row in rows)]
    notes = list(dict.fromkeys(note for _, table in found for note in table.notes))
    first = found[0][1]
    return first._replace(
        columns=kept,
        rows=[[row.get(column) for column in kept] for row in rows],
        notes=notes,
        keys=min(first.keys + 1, len(kept)),
        rules=(),
    )


def _of_one_run(table: Table) -> Table:
    """The table without the run column if there is only one run, which readers know anyway."""
    if len({row[0] for row in table.rows}) > 1:
        return table
    return table._replace(
        columns=table.columns[1:], rows=[row[1:] for row in table.rows], keys=max(table.keys - 1, 1)
    )


def _remove_old(folder: Path, name: str) -> None:
    """Remove what an earlier version wrote of a table under its old name; its label says that the files are ours."""
    for old in (old for old, new in renamed.TABLES.items() if new == name):
        tex = folder / f"{old}.tex"
        if tex.is_file() and label(old) in tex.read_text("utf-8", errors="replace"):
            for ending in ("csv", "md", "tex"):
                (folder / f"{old}.{ending}").unlink(missing_ok=True)
