"""Tables as CSV for machines, Markdown for pages and LaTeX (booktabs) for papers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from anomia.errors import RunError
from anomia.files import write_text
from anomia.measure.rates import Estimate
from anomia.report.figures.cases import Run
from anomia.report.stars import stars
from anomia.report.table_files.accuracies import ACCURACY_TABLES
from anomia.report.table_files.outcomes import CLOSING_TABLES, OUTCOME_TABLES
from anomia.report.table_files.table import RUN, Cell, Table, clean, shown

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}",
    "−": r"$-$", "–": "--", "…": r"\ldots{}", "Δ": r"$\Delta$", "‖": r"$\|$", "→": r"$\to$",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
TEXTS = ("text", "words")
_LATEX_COLUMNS = {"text": "l", "words": r"p{0.45\linewidth}"}


def tables(runs: Sequence[Run]) -> list[Table]:
    """Every table that these runs can fill, in reading order."""
    made = (make(runs) for make in (*OUTCOME_TABLES, *ACCURACY_TABLES, *CLOSING_TABLES))
    return [table for table in made if table.rows]


def write_tables(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes every table as `NAME.csv`, `NAME.md` and `NAME.tex`.

    Raises:
        RunError: a file can't be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables(runs):
            for ending, text in (("csv", csv_text(table)), ("md", markdown(table)), ("tex", latex(table))):
                path = folder / f"{table.name}.{ending}"
                write_text(path, text)
                written.append(path)
    except OSError as error:
        raise RunError(f"tables: {folder} can't be written: {error.strerror or error}") from None
    return written


def csv_text(table: Table) -> str:
    """Shares as fractions, as in `results.json`; an estimate makes NAME, NAME_low, NAME_high, NAME_n."""
    wide = [
        any(isinstance(row[place], Estimate) for row in table.rows) for place in range(len(table.columns))
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[str] = []
    for column, is_wide in zip(table.columns, wide, strict=True):
        head += [column.name + end for end in ("", "_low", "_high", "_n")] if is_wide else [column.name]
    writer.writerow(head)
    for row in table.rows:
        line: list[str | float | int | None] = []
        for cell, is_wide in zip(row, wide, strict=True):
            line += _wide(cell) if is_wide else [_flat(cell)]
        writer.writerow(line)
    return out.getvalue()


def markdown(table: Table) -> str:
    """A pipe table under a heading, with its note."""
    table = _for_people(table)
    heads = [_escape_markdown(column.header) for column in table.columns]
    rules = ["---" if column.kind in TEXTS else "---:" for column in table.columns]
    lines = [f"# {table.title}", "", table.note.replace("*", r"\*"), ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (heads, rules)]
    for cells in _cells(table):
        # Only texts come from models and data; an interval's brackets stay legible.
        escaped = [
            _escape_markdown(cell) if column.kind in TEXTS else cell.replace("*", r"\*")
            for cell, column in zip(cells, table.columns, strict=True)
        ]
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    r"""A `table` with booktabs rules and a little space between arms. Needs `\usepackage{booktabs}`, and textcomp."""
    table = _for_people(table)
    spec = "".join(_LATEX_COLUMNS.get(column.kind, "r") for column in table.columns)
    lines = [
        "% \\usepackage{booktabs,textcomp}",
        "\\begin{table}",
        "  \\centering",
        "  \\small",
        f"  \\caption{{{escape_latex(table.title)}. {escape_latex(table.note)}}}",
        f"  \\label{{tab:anomia-{table.name.replace('_', '-')}}}",
        f"  \\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        "    \\toprule",
        f"    {' & '.join(escape_latex(column.header) for column in table.columns)} \\\\",
        "    \\midrule",
    ]
    before: list[str] | None = None
    for cells in _cells(table):
        block = cells[: table.keys - 1]
        if before is not None and block != before:
            lines.append("    \\addlinespace")
        lines.append(f"    {' & '.join(map(escape_latex, cells))} \\\\")
        before = block
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> escape_latex("50 % of a_b")
    '50 \\% of a\\_b'
    """
    return "".join(_LATEX.get(char, char) for char in text)


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _for_people(table: Table) -> Table:
    """Without the column of runs where there is one run, and with stars where they tell intervals apart."""
    note, columns, rows, keys = table.note, table.columns, table.rows, table.keys
    intervals = [cell for row in rows for cell in row if isinstance(cell, Estimate)]
    rule = stars(sum(not cell.checked for cell in intervals), len(intervals))
    if rule.note:
        note = f"{note} {rule.note}"
    if not rule.kept:
        rows = [tuple(_unstarred(cell) for cell in row) for row in rows]
    if columns[0] == RUN and len({row[0] for row in rows}) == 1:
        columns, rows, keys = columns[1:], [row[1:] for row in rows], keys - 1
    return table._replace(note=note, columns=columns, rows=rows, keys=max(keys, 1))


def _unstarred(cell: Cell) -> Cell:
    return cell._replace(checked=True) if isinstance(cell, Estimate) else cell


def _cells(table: Table) -> list[list[str]]:
    return [
        [shown(cell, column.kind) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]


def _wide(cell: Cell) -> list[str | float | int | None]:
    if isinstance(cell, Estimate):
        return [_rounded(cell.value), _rounded(cell.low), _rounded(cell.high), cell.n]
    return [_flat(cell), None, None, None]


def _flat(cell: Cell) -> str | float | int | None:
    if isinstance(cell, str):
        text = clean(cell)
        # A spreadsheet takes such a text for a formula.
        return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
    if isinstance(cell, Estimate):
        return _rounded(cell.value)
    return _rounded(cell) if isinstance(cell, float) else cell


def _rounded(value: float) -> float:
    """Ten significant digits: what is left of floating-point noise would differ from machine to machine."""
    return float(f"{value:.10g}")
