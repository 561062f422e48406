"""Tables and items in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from anomia.measure.evidence import OVERALL
from anomia.measure.figures import Diagnosis, Fates, find
from anomia.measure.frame import MEAN, POOLED
from anomia.measure.judge import Verdict
from anomia.measure.rates import Estimate
from anomia.measure.results import Results

LADDER = (
    ("open", "open generation"),
    ("cued", "candidates shown"),
    ("choice", "multiple choice"),
    ("choice_hard", "… hard distractors"),
    ("choice_passage", "… same-passage distractors"),
    ("choice_no_question", "… without the question"),
)


def ladder_table(diagnosis: Diagnosis, arm: str, scopes: Sequence[str]) -> Table:
    """Accuracy of base → arm in every form of the question, by language and pooled."""
    table = Table(title=f"{arm}: accuracy, base → arm (%)", title_justify="left")
    table.add_column("language")
    shown = [
        (name, label) for name, label in LADDER if find(diagnosis.figures, arm, f"accuracy/{name}", POOLED) is not None
    ]  # fmt: skip
    for _, label in shown:
        table.add_column(label, justify="right")
    table.add_column("option found\nin passage", justify="right")
    for scope in scopes:
        cells = []
        for name, _ in shown:
            before = find(diagnosis.figures, "base", f"accuracy/{name}", scope)
            after = find(diagnosis.figures, arm, f"accuracy/{name}", scope)
            cells.append(f"{_percent(before)} → {_percent(after)}")
        cells.append(_percent(find(diagnosis.figures, "base", "accuracy/string_presence", scope)))
        table.add_row(scope, *cells, end_section=scope == scopes[-2] if len(scopes) > 1 else False)
    return table


def fates_table(diagnosis: Diagnosis, arm: str, options: str, scopes: Sequence[str]) -> Table:
    """What became of the items that base answers in both ways."""
    label = dict(LADDER)[options].removeprefix("… ")
    table = Table(title=f"{arm}: fates of items that base answers both ways ({label})", title_justify="left")
    for column in ("language", "both correct", "kept", "choice only", "open only", "lost", "dissociation"):
        table.add_column(column, justify="left" if column == "language" else "right")
    for scope in scopes:
        entry = _fates(diagnosis.fates, arm, options, scope)
        if entry is None:
            continue
        rate = find(diagnosis.figures, arm, f"dissociation/{options}", scope)
        shown = interval(rate) if rate else "too few"
        table.add_row(scope, str(entry.counts.both_correct), *map(str, entry.counts), shown)
    return table


def gap_table(diagnosis: Diagnosis, arm: str, scopes: Sequence[str]) -> Table:
    """Normalized drops and the gaps between them."""
    table = Table(
        title=f"{arm}: share lost (normalized drop) and gap, with 95 % intervals", title_justify="left"
    )
    columns = (
        ("open", "normalized_drop/open"),
        ("choice", "normalized_drop/choice"),
        ("gap to choice", "gap/choice"),
        ("gap to same-passage choice", "gap/choice_passage"),
    )
    table.add_column("language")
    for label, _ in columns:
        table.add_column(label, justify="right")
    for scope in [*scopes, MEAN]:
        cells = [find(diagnosis.figures, arm, measure, scope) for _, measure in columns]
        table.add_row(scope, *(interval(cell) if cell else "–" for cell in cells))
    return table


def interval(estimate: Estimate) -> str:
    """`27 % [18, 39]`; a star where coverage is not shown for so few items."""
    value, low, high = (round(100 * x) for x in estimate[:3])
    return f"{value} % [{low}, {high}]" + ("" if estimate.checked else "*")


def item_view(item: Mapping[str, Any], base: Mapping[str, Any], arm: Mapping[str, Any]) -> RenderableType:
    """One item: what was asked, what base said, what the arm said."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("question", _plain(item["question"]))
    grid.add_row("gold", _plain(" | ".join(item["answers"])))
    for name, row in (("base", base), (str(arm["arm"]), arm)):
        verdict = "right" if row["open_correct"] else "wrong"
        grid.add_row(
            f"{name} said", Text.assemble(_plain(_one_line(row["open_text"])), (f"  ({verdict})", "bold"))
        )
        picked = _plain(str(row["choice_pick"]))
        mark = "right" if row["choice_correct"] else "wrong"
        grid.add_row(f"{name} picked", Text.assemble(picked, (f"  ({mark})", "bold")))
        if row["gold_rank"] is not None:
            grid.add_row(f"{name} ranks", _plain(_ranks(row)))
    title = _plain(
        f"{item['language']} · {item['item_id']} · {arm['fate'] or 'not answered both ways by base'}"
    )
    return Panel(grid, title=title, title_align="left")


def verdict_view(verdicts: Sequence[Verdict], arm: str) -> RenderableType:
    """The overall verdict in words, and the outcome in each language."""
    mine = [verdict for verdict in verdicts if verdict.arm == arm]
    overall = next(verdict for verdict in mine if verdict.scope == OVERALL)
    lines: list[RenderableType] = [Text(overall.text)]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
    for column in ("language", "outcome", "with same-passage options"):
        table.add_column(column)
    for verdict in mine:
        beside = verdict.same_passage.outcome if verdict.same_passage else "–"
        table.add_row(verdict.scope, verdict.decision.outcome, beside)
    lines += [Text(), table]
    return Panel(
        Group(*lines), title=f"{arm}: {overall.decision.outcome}", title_align="left", padding=(1, 2)
    )


def run_view(results: Results, arm: str) -> RenderableType:
    """All tables of one arm, and its verdict."""
    diagnosis, scopes = results.diagnosis, [*results.languages, POOLED]
    tables: list[RenderableType] = [ladder_table(diagnosis, arm, scopes)]
    for options in ("choice", "choice_passage"):
        if _fates(diagnosis.fates, arm, options, POOLED):
            tables.append(fates_table(diagnosis, arm, options, scopes))
    tables.append(gap_table(diagnosis, arm, scopes))
    if any(f.estimate and not f.estimate.checked for f in diagnosis.figures if f.arm == arm):
        tables.append(Text("* too few items for an interval whose coverage is shown", style="dim"))
    if results.noise:
        flips, items = results.noise["flips"], results.noise["items"]
        tables.append(
            Text(
                f"noise floor: base asked again at batch size {results.noise['batch_size']} flips "
                f"{flips['open']} open and {flips['choice']} choice verdicts of {items}",
                style="dim",
            )
        )
    tables.append(verdict_view(results.verdicts, arm))
    return Group(*tables)


def _fates(all_fates: Sequence[Fates], arm: str, options: str, scope: str) -> Fates | None:
    return next((f for f in all_fates if (f.arm, f.options, f.scope) == (arm, options, scope)), None)


def _percent(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{100 * estimate.value:.0f}"


def _plain(text: str) -> Text:
    """Text of models and data sets, without its control characters: a terminal obeys those."""
    return Text("".join(char if char.isprintable() else " " for char in text))


def _ranks(row: Mapping[str, Any]) -> str:
    """Where gold's first token stands and, where another option shares that, its first telling one."""
    text = f"{row['gold_first_token']!r} at {row['gold_rank']}"
    if row["gold_distinct_rank"] is None:
        return text
    telling = f"{row['gold_distinct_token']!r} at {row['gold_distinct_rank']}"
    return text if telling == text else f"{text}; the first token of its own, {telling}"


def _one_line(text: str) -> str:
    return " ⏎ ".join(line.strip() for line in text.splitlines() if line.strip())


def selected_items(
    records: pl.DataFrame, *, arm: str, fate: str | None, language: str | None
) -> pl.DataFrame:
    """The rows of one arm, with fates, that a user asked to see."""
    rows = records.filter(pl.col("arm") == arm)
    if fate is not None:
        rows = rows.filter(pl.col("fate") == fate)
    if language is not None:
        rows = rows.filter(pl.col("language") == language)
    return rows
