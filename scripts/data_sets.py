"""Writes the table of data sets in `docs/questions.md` from their records.

python scripts/data_sets.py
"""

from __future__ import annotations

import re
from pathlib import Path

from anomia.items.sets import SETS

PAGE = Path(__file__).parents[1] / "docs" / "questions.md"
_BETWEEN = re.compile(r"(<!-- data sets: [^\n]*-->\n\n).*?(\n<!-- end of data sets -->)", re.DOTALL)


def table() -> str:
    """The data sets that are read by name, in Markdown."""
    lines = [
        "| `--data` | data set | split | languages | wrong options | licence | please cite |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in SETS.items():
        if not each.repository:
            continue
        parallel = ", questions shared between them" if each.parallel else ""
        more = ", others by code" if each.more_languages else ""
        languages = f"{len(each.languages)}{more}{parallel}" if len(each.languages or ()) > 1 else "English"
        hub = f"[{each.title}](https://huggingface.co/datasets/{each.repository})"
        lines.append(
            f"| `{name}` | {hub} | {each.split} | {languages} | {each.options} | {each.licence} | {each.citation} |"
        )
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the table as it is now."""
    return _BETWEEN.sub(lambda found: found[1] + table() + found[2], text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
