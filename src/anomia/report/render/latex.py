"""Tables as LaTeX, for papers."""

from __future__ import annotations

from anomia.report.render.stars import settled
from anomia.report.render.words import cells, clean, header, paragraph
from anomia.report.tables.table import Table

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}",
    "−": r"$-$", "–": "--", "…": r"\ldots{}", "Δ": r"$\Delta$", "‖": r"$\|$", "→": r"$\to$",
    "·": r"$\cdot$", "◆": r"$\diamond$", "●": r"$\bullet$", "≤": r"$\le$", "≥": r"$\ge$",
}  # fmt: skip
_COLUMNS = {"text": "l", "words": r"p{0.45\linewidth}"}


def latex(table: Table) -> str:
    r"""A `table` with booktabs rules and a little space between arms. Needs `\usepackage{booktabs}` and textcomp."""
    table = settled(table)
    spec = "".join(_COLUMNS.get(column.kind, "r") for column in table.columns)
    lines = [
        "% \\usepackage{booktabs,textcomp}",
        "\\begin{table}",
        "  \\centering",
        "  \\small",
        f"  \\caption{{{escape(f'{table.title}. {paragraph(table)}')}}}",
        f"  {label(table.name)}",
        f"  \\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        "    \\toprule",
        f"    {' & '.join(escape(header(column)) for column in table.columns)} \\\\",
        "    \\midrule",
    ]
    before: list[str] | None = None
    for row in cells(table, precise=True):
        block = row[: table.keys - 1]
        if before is not None and block != before:
            lines.append("    \\addlinespace")
        lines.append(f"    {' & '.join(map(escape, row))} \\\\")
        before = block
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def label(name: str) -> str:
    """The LaTeX label of a table."""
    return f"\\label{{tab:anomia-{name.replace('_', '-')}}}"


def escape(text: str) -> str:
    r"""Text on one line that LaTeX prints as is.

    >>> escape("50 % of a_b")
    '50 \\% of a\\_b'
    """
    return "".join(_LATEX.get(char, char) for char in clean(text))
