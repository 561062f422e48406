"""Tables and items in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from anomia.compress.spec import is_null
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.probes import CHOICE_OWN, CONTINUATION
from anomia.report.naming import exclusions
from anomia.report.page.explorer import long_ending
from anomia.report.reference import candidates
from anomia.report.render.terminal import note, view
from anomia.report.render.whole_table import Titled
from anomia.report.render.words import shown
from anomia.report.tables.arm_results import arm_results, unfinished_text
from anomia.report.tables.registry import ARMS, RUNS
from anomia.report.tables.runs import compared
from anomia.report.tables.verdicts import decided, outcomes

# How many tokens with their ranks are listed of an item.
_LISTED_RANKS = 12
# Properties of an item's own answer that may spoil the item.
FLAGS = {
    "gold_in_question": "the question contains an accepted answer",
    "gold_over_limit": "every accepted answer is longer than the output limit",
}


def item_view(item: Mapping[str, Any], base: Mapping[str, Any], arm: Mapping[str, Any]) -> RenderableType:
    """One item: the question, base's answers and the arm's."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row("question", _plain(item["question"]))
    if item["answers"]:
        grid.add_row("gold", _plain(" | ".join(item["answers"])))
    flags = [words for name, words in FLAGS.items() if base.get(name)]
    if flags:
        grid.add_row("note", Text("; ".join(flags)))
    for name, row in (("base", base), (str(arm["arm"]), arm)):
        if not row["finite"]:
            grid.add_row(name, Text("logits that are NaN or infinite", style="bold"))
            continue
        if row["open_text"] is not None or row.get("continuation_text") is None:
            answer = _plain(_one_line(row["open_text"] or ""))
            grid.add_row(f"{name} answered", Text.assemble(answer, (f"  ({open_verdict(row)})", "bold")))
            picked = _plain(str(row["choice_pick"]))
            mark = "right" if row["choice_correct"] else "wrong"
            grid.add_row(f"{name} picked", Text.assemble(picked, (f"  ({mark})", "bold")))
        if row.get(f"{CHOICE_OWN}_pick") is not None:
            picked = _plain(_one_line(row[f"{CHOICE_OWN}_pick"]))
            mark = "base's own" if row[f"{CHOICE_OWN}_correct"] else "an edited version"
            grid.add_row(f"{name} picked, of base's output", Text.assemble(picked, (f"  ({mark})", "bold")))
        if row.get("continuation_text") is not None:
            answer = _plain(_one_line(row["continuation_text"]))
            grid.add_row(f"{name}, at length", Text.assemble(answer, (f"  ({long_verdict(row)})", "bold")))
        if row is arm and (places := _ranks_along(base, arm)):
            grid.add_row(f"{name}, along base's answer", _plain(places))
        if row["gold_rank"] is not None:
            grid.add_row(f"{name} ranks", _plain(_ranks(row)))
    fate = arm["fate"] or ("not right in both formats in base" if base["open_text"] is not None else "")
    title = _plain(" · ".join(part for part in (item["language"], item["item_id"], fate) if part))
    return Titled(grid, title)


def open_verdict(row: Mapping[str, Any]) -> str:
    """`right`, with caveats for a careful reader: `right, wrong by the strict grade, loops`."""
    words = ["right" if row["open_correct"] else "wrong"]
    if row["open_correct"] is None and row.get("open_score") is not None:
        words = [f"score {row['open_score']:.2f}"]
    strict = row.get("open_strict")
    if strict is not None and strict != row["open_correct"]:
        words.append(f"{'right' if strict else 'wrong'} by the strict grade")
    if row.get("open_loop"):
        words.append("loops")
    return ", ".join(words)


def long_verdict(row: Mapping[str, Any]) -> str:
    """How a long answer ends, and whether it is right: `512 tokens, loops from token 80, wrong`."""
    right = {True: ", right", False: ", wrong", None: ""}[row["continuation_correct"]]
    return long_ending(row) + right


def verdict_view(results: Results, arm: str) -> RenderableType:
    """The overall verdict in words, and the outcome in each language."""
    overall = results.overall(arm)
    lines: list[RenderableType] = [Text(overall.words.text)]
    if overall.why and not overall.words.reason:
        lines += [Text(), Text(overall.why)]
    named = f"{arm} (base itself, under harmless noise)" if is_null(arm) else arm
    title = _plain(f"{named}: {decided(overall)}")
    if overall.decided_by:
        # Long answers alone have no options, so languages differ only in the figures of their table.
        lines.append(view(outcomes(results.verdicts_of(arm))))
    return Titled(Group(*lines), title, padding=(1, 2))


def run_view(results: Results, arm: str, *, brief: bool = False) -> RenderableType:
    """One arm: the verdict first, then its evidence; `brief` shows only fates and ladder."""
    of = arm_results(results, arm)
    parts: list[RenderableType] = [verdict_view(results, arm)]
    unfinished = unfinished_text(results, arm)
    if unfinished:
        parts.append(note(unfinished))
    if results.stopping:
        parts += [note(stopping_text(look)) for look in results.stopping["arms"].get(arm, ())]
    parts += [view(table.make(of)) for table in ARMS if table.brief or not brief]
    return Group(*parts)


def closing_view(results: Results) -> RenderableType:
    """What concerns all arms: comparisons of arms, sparsity, hygiene, and how to read intervals."""
    judged = candidates(results.arms)
    parts: list[RenderableType] = [
        note(f"reference {arm}, base under harmless noise: {decided(results.overall(arm))}")
        for arm in results.arms
        if arm not in judged
    ]
    parts += [view(table.make(results)) for table in RUNS]
    if results.exclude:
        parts.append(note(f"\nexcluded on request: {exclusions(results)}"))
    parts.append(
        note(
            "value [low, high]: 95 % intervals, clustered by passage; docs/statistics.md says which were validated by "
            "simulation"
        )
    )
    return Group(*parts)


def side_by_side(runs: Sequence[tuple[Path, Results]]) -> RenderableType:
    """Several runs side by side: different models, sizes, data sets or calibration sets (paper, Figures 5 to 7)."""
    return Group(
        note("\nRuns side by side, pooled over languages (%)"),
        *(view(compared(results, path.name)) for path, results in runs),
        note("runs may differ in items and languages"),
    )


def stopping_text(look: Mapping[str, Any]) -> str:
    """A note that items were taken until the interval was narrow enough, with the interval that is valid for this."""
    text = f"stopped after {look['items']} of {look['available']} items: {look['reason']}"
    found = look["dissociation"]
    if found:
        text += f"; dissociation over passages, valid at every look: {shown(Estimate(**found))} %"
    return text


def _plain(text: str) -> Text:
    """Text of models and data sets without control characters, which a terminal would obey."""
    return Text("".join(char if char.isprintable() else " " for char in text))


def _ranks(row: Mapping[str, Any]) -> str:
    """The rank of gold's first token and, if another option shares it, of its first distinct token."""
    text = f"{row['gold_first_token']!r} at {row['gold_rank']}"
    if row["gold_distinct_rank"] is None:
        return text
    telling = f"{row['gold_distinct_token']!r} at {row['gold_distinct_rank']}"
    return text if telling == text else f"{text}; the first token of its own, {telling}"


def _ranks_along(base: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """Which tokens of base's long answer the arm doesn't rank first: position, token and rank of the first ones."""
    ranks, pieces = arm.get(f"{CONTINUATION}_ranks"), base.get(f"{CONTINUATION}_pieces")
    if not ranks or not pieces:
        return ""
    found = [
        f"{place} {piece!r} at {rank:,}"
        for place, (piece, rank) in enumerate(zip(pieces, ranks, strict=False))
        if rank > 1
    ]
    if not found:
        return f"all {len(ranks)} tokens ranked first"
    more = f", and {len(found) - _LISTED_RANKS} more" if len(found) > _LISTED_RANKS else ""
    return (
        f"{len(found)} of {len(ranks)} tokens not ranked first (position, token, rank): "
        f"{', '.join(found[:_LISTED_RANKS])}{more}"
    )


def _one_line(text: str) -> str:
    return " ⏎ ".join(line.strip() for line in text.splitlines() if line.strip())


def selected_items(
    records: pl.DataFrame, *, arm: str, fate: str | None, language: str | None, loops: bool = False
) -> pl.DataFrame:
    """The rows of one arm, with fates, that a user asked for. loops: only those with an answer that loops."""
    rows = records.filter(pl.col("arm") == arm)
    if fate is not None:
        rows = rows.filter(pl.col("fate") == fate)
    if language is not None:
        rows = rows.filter(pl.col("language") == language)
    if loops:
        starts = f"{CONTINUATION}_loop_start"
        looped = [pl.col("open_loop").fill_null(False)] if "open_loop" in rows.columns else []
        looped += [pl.col(starts).is_not_null()] if starts in rows.columns else []
        rows = rows.filter(pl.any_horizontal(looped)) if looped else rows
    return rows
