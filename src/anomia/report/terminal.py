"""Tables and items in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anomia.compress.spec import is_null
from anomia.grade import CONTAINMENT
from anomia.measure.evidence import OVERALL
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.judge import Verdict
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.report.evidence_tables import (
    controls_table,
    dissociation_table,
    reference_table,
    scorings_table,
    transitions_table,
)
from anomia.report.packaging_tables import differences_table, packaging_table
from anomia.report.page.facts import left_out
from anomia.report.reference import candidates
from anomia.report.run_tables import between_table, frontier_table, hygiene_table
from anomia.report.sheet import interval, note
from anomia.report.tables import (
    fates_table,
    gap_table,
    ladder_table,
    one_shot_table,
    ranks_table,
    reach_table,
    tests_table,
)
from anomia.report.verdict_words import one_format, outcomes_of
from anomia.report.whole_table import Titled

# What an item's own answer may spoil.
FLAGS = {
    "gold_in_question": "an accepted answer stands in the question",
    "gold_over_limit": "every accepted answer is longer than what may be written",
}


def item_view(item: Mapping[str, Any], base: Mapping[str, Any], arm: Mapping[str, Any]) -> RenderableType:
    """One item: what was asked, what base said, what the arm said."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row("question", _plain(item["question"]))
    grid.add_row("gold", _plain(" | ".join(item["answers"])))
    flags = [words for name, words in FLAGS.items() if base.get(name)]
    if flags:
        grid.add_row("note", Text("; ".join(flags)))
    for name, row in (("base", base), (str(arm["arm"]), arm)):
        if not row["finite"]:
            grid.add_row(name, Text("logits that are NaN or infinite", style="bold"))
            continue
        said = _plain(_one_line(row["open_text"] or ""))
        grid.add_row(f"{name} said", Text.assemble(said, (f"  ({open_verdict(row)})", "bold")))
        picked = _plain(str(row["choice_pick"]))
        mark = "right" if row["choice_correct"] else "wrong"
        grid.add_row(f"{name} picked", Text.assemble(picked, (f"  ({mark})", "bold")))
        if row["gold_rank"] is not None:
            grid.add_row(f"{name} ranks", _plain(_ranks(row)))
    title = _plain(
        f"{item['language']} · {item['item_id']} · {arm['fate'] or 'not answered both ways by base'}"
    )
    return Titled(grid, title)


def open_verdict(row: Mapping[str, Any]) -> str:
    """`right`, and what a careful reader would add: `right, wrong by the strict grade, loops`."""
    words = ["right" if row["open_correct"] else "wrong"]
    strict = row.get("open_strict")
    if strict is not None and strict != row["open_correct"]:
        words.append(f"{'right' if strict else 'wrong'} by the strict grade")
    if row.get("open_loop"):
        words.append("loops")
    return ", ".join(words)


def verdict_view(verdicts: Sequence[Verdict], arm: str) -> RenderableType:
    """The overall verdict in words, and the outcome in each language."""
    mine = [verdict for verdict in verdicts if verdict.arm == arm]
    overall = next(verdict for verdict in mine if verdict.scope == OVERALL)
    lines: list[RenderableType] = [Text(overall.text)]
    if overall.why and overall.why not in overall.text:
        lines += [Text(), Text(overall.why)]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
    for column in ("language", "outcome", "with standard options", "with same-passage options"):
        table.add_column(column, overflow="fold")
    for verdict in mine:
        table.add_row(escape(verdict.scope), *outcomes_of(verdict))
    lines += [Text(), table]
    # A language that can't be judged may still have lost something in the one format that can be tested.
    told = [(verdict.scope, one_format(verdict)) for verdict in mine if verdict.scope != OVERALL]
    said = [_plain(f"{scope}: {text}") for scope, text in told if text]
    lines += [Text(), *said] if said else []
    named = f"{arm} (base itself, under harmless noise)" if is_null(arm) else arm
    return Titled(Group(*lines), _plain(f"{named}: {overall.decision.outcome}"), padding=(1, 2))


def run_view(results: Results, arm: str, *, brief: bool = False) -> RenderableType:
    """One arm: the verdict first, then what it rests on; `brief` leaves it at fates and ladder."""
    diagnosis, scopes = results.diagnosis, answered_scopes(results, arm)
    figures = lookup(diagnosis.figures)
    parts: list[RenderableType] = [verdict_view(results.verdicts, arm)]
    unfinished = unfinished_text(results, arm)
    if unfinished:
        parts.append(note(unfinished))
    if results.stopping:
        parts += [stopping_note(look) for look in results.stopping["arms"].get(arm, ())]
    parts += [
        fates_table(diagnosis, figures, arm, scopes),
        dissociation_table(diagnosis, figures, arm, scopes),
        reference_table(figures, arm, results.arms, results.noise),
        ladder_table(diagnosis, figures, arm, scopes, grader=grader_of(results)),
    ]
    if brief:
        return Group(*parts)
    parts += [
        gap_table(diagnosis, figures, arm, scopes),
        scorings_table(figures, arm),
        controls_table(figures, arm),
        transitions_table(diagnosis, arm),
        ranks_table(diagnosis, figures, arm, scopes),
        reach_table(figures, arm),
        one_shot_table(figures, arm, scopes),
        tests_table(diagnosis, arm),
    ]
    return Group(*parts)


def answered_scopes(results: Results, arm: str) -> list[str]:
    """The languages in which an arm has answered anything, and all of them pooled."""
    answered = results.records.filter(pl.col("arm") == arm)
    return [*sorted(answered["language"].unique()), POOLED]


def unfinished_text(results: Results, arm: str) -> str:
    """That an arm has answered fewer items than base, and what base's figures are then over; else nothing."""
    answered, asked = (len(results.records.filter(pl.col("arm") == name)) for name in (arm, "base"))
    if answered >= asked:
        return ""
    return f"{answered} of {asked} items are answered: base's figures are over the same items"


def grader_of(results: Results) -> str:
    """What a run's study grades open answers by."""
    return str(results.study.get("grader") or CONTAINMENT.grader)


def closing_view(results: Results) -> RenderableType:
    """What concerns all arms: arm against arm, sparsity, hygiene, and how to read intervals."""
    parts: list[RenderableType] = []
    judged = candidates(results.arms)
    for verdict in results.verdicts:
        if verdict.scope == OVERALL and verdict.arm not in judged:
            outcome = verdict.decision.outcome
            parts.append(note(f"reference {escape(verdict.arm)}, base under harmless noise: {outcome}"))
    if results.diagnosis.between:
        parts.append(between_table(results.diagnosis))
    if results.frontier:
        parts.append(frontier_table(results.frontier))
    parts += [packaging_table(results.packaging), differences_table(results.differences)]
    if results.exclude:
        parts.append(note(f"\nleft out on request: {left_out(results)}"))
    parts.append(hygiene_table(results.hygiene, lookup(results.diagnosis.figures)))
    parts.append(
        note(
            "value \\[low, high]: 95 % intervals, clustered by passage; which were validated by simulation: "
            "docs/statistics.md"
        )
    )
    return Group(*parts)


def stopping_note(look: Mapping[str, Any]) -> RenderableType:
    """That items were taken until the interval was narrow enough, and the interval that allows it."""
    text = f"stopped after {look['items']} of {look['available']} items: {look['reason']}"
    found = look["dissociation"]
    if found:
        estimate = interval(Estimate(**found))
        text += f"; dissociation over passages, valid at every look: {estimate} %"
    return note(text)


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
    records: pl.DataFrame, *, arm: str, fate: str | None, language: str | None, loops: bool = False
) -> pl.DataFrame:
    """The rows of one arm, with fates, that a user asked to see. loops: only those whose open output loops."""
    rows = records.filter(pl.col("arm") == arm)
    if fate is not None:
        rows = rows.filter(pl.col("fate") == fate)
    if language is not None:
        rows = rows.filter(pl.col("language") == language)
    if loops and "open_loop" in rows.columns:
        rows = rows.filter(pl.col("open_loop").fill_null(False))
    return rows
