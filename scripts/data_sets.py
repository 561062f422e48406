"""Update the table of data sets in `docs/questions.md` from their definitions.

python scripts/data_sets.py
"""

from __future__ import annotations

import re
from pathlib import Path

from anomia.items.sets import SETS

PAGE = Path(__file__).parents[1] / "docs" / "questions.md"
_BETWEEN = re.compile(r"(<!-- data sets: [^\n]*-->\n\n).*?(\n<!-- end of data sets -->)", re.DOTALL)
_OPTIONS = {"brought": "its own", "drawn": "drawn", "either": "its own or drawn"}


def table() -> str:
    """A Markdown table of the data sets on the hub."""
    lines = [
        "| `--data` | data set | split | languages | wrong options | licence | cite |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in SETS.items():
        if not each.repository:
            continue
        parallel = ", parallel questions" if each.parallel else ""
        more = " by name, others by code" if each.more_languages else ""
        languages = f"{len(each.languages)}{more}{parallel}" if len(each.languages or ()) > 1 else "English"
        hub = f"[{each.title}](https://huggingface.co/datasets/{each.repository})"
        lines.append(
            f"| `{name}` | {hub} | {each.split} | {languages} | {_OPTIONS[each.options]} | {each.licence} "
            f"| {each.citation} |"
        )
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with its table replaced."""
    return _BETWEEN.sub(lambda found: found[1] + table() + found[2], text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
