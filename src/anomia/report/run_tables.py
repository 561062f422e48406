"""The tables of a whole run in the terminal: arm against arm, sparsity and size, hygiene."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape

from anomia.measure.between import BASE
from anomia.measure.figures import Diagnosis, FrontierRow, Lookup
from anomia.measure.frame import POOLED
from anomia.measure.hygiene import HygieneRow
from anomia.report.reference import nulls
from anomia.report.sheet import MISSING, add_column, interval, new_table, sheet


def between_table(diagnosis: Diagnosis) -> RenderableType:
    """Differences of gaps, in raw points too, and of dissociation rates between arms; not of null arms with each other."""
    table = new_table("Arm against arm, first − second (points)", names=2)
    for column in ("first", "second", "gap to\nchoice", "in raw\npoints", "dissociation"):
        add_column(table, column, words=column == "second")
    rows = [row for row in diagnosis.between if row.scope == POOLED and len(nulls((row.arm, row.other))) < 2]
    for one, other in dict.fromkeys((row.arm, row.other) for row in rows):
        found = {str(row.measure): row.estimate for row in rows if (row.arm, row.other) == (one, other)}
        cells = [found.get(measure) for measure in ("gap/choice", "raw_gap/choice", "dissociation/choice")]
        table.add_row(escape(one), escape(other), *map(interval, cells))
    return sheet(table)


def frontier_table(rows: Sequence[FrontierRow]) -> RenderableType:
    """Accuracy against measured sparsity and size on disk, as far as they are known; null arms save nothing."""
    rows = [row for row in rows if row.arm not in nulls([row.arm])]
    sparse = any(row.sparsity for row in rows)
    sized = any(row.size_bytes is not None for row in rows)
    costs = [name for name, shown in (("sparsity", sparse), ("size", sized)) if shown]
    table = new_table(f"Accuracy against {' and '.join(costs)} (%)")
    for column in ("arm", *costs, "open", "choice"):
        add_column(table, column)
    for row in rows:
        known = {
            "sparsity": "–" if row.sparsity is None else f"{100 * row.sparsity:.1f}",
            "size": "–" if row.size_bytes is None else f"{row.size_bytes / 1e6:,.0f} MB",
        }
        opened = interval(row.open) + _marks(row.open_frontier and sparse, row.open_size_frontier)
        chosen = interval(row.choice) + _marks(row.choice_frontier and sparse, row.choice_size_frontier)
        table.add_row(escape(row.arm), *(known[name] for name in costs), opened, chosen)
    notes = []
    if sparse:
        notes.append("◆ no arm is as sparse and better, or as good and sparser")
    if sized:
        notes.append("● no arm is as small and better, or as good and smaller")
    if sparse:
        notes.append("sparsity: of the pruned matrices, as measured")
    return sheet(table, "; ".join(notes))


def _marks(sparse: bool | None, small: bool | None) -> str:
    return " " + ("◆" if sparse else " ") + ("●" if small else " ")


def hygiene_table(rows: Sequence[HygieneRow], figures: Lookup) -> RenderableType:
    """What may spoil a comparison: by language what was asked, by arm what came back, and loops by both."""
    asked = new_table("Hygiene: what was asked (items)")
    for header in (
        "language", "items", "passages", "cut", "gold\ncut", "gold in\nquestion", "gold over\nthe limit",
        "moved\nboundary", "no own\ntoken", "left\nout", "no hard\noptions", "no same-\npassage", "tokens/\nunit",
        "asked\nagain", "flips,\nopen (%)", "flips,\nchoice (%)",
    ):  # fmt: skip
        add_column(asked, header)
    for row in rows:
        if row.arm == BASE:
            numbers = (
                row.items, row.passages, row.truncated, row.gold_truncated, row.gold_in_question,
                row.gold_over_limit, row.boundary_mismatch, row.no_distinct_token, _left_out(row),
                row.no_hard_options, row.no_passage_options,
            )  # fmt: skip
            unit = {"word": " w", "character": " c", None: ""}[row.fertility_unit]
            fertility = MISSING if row.fertility is None else f"{row.fertility:.2f}{unit}"
            counts = [MISSING if n is None else str(n) for n in (*numbers, row.noise_items)]
            counts.insert(-1, fertility)
            asked.add_row(escape(row.language), *counts, interval(row.noise_open), interval(row.noise_choice))
    notes = [
        "gold in question: an accepted answer stands in the question; gold over the limit: every accepted answer is "
        "longer than what may be written, so it can be picked and not said; left out: no gradable answer, or not "
        "three wrong ones; tokens/unit: of the passages, per word (w) or, where words have no spaces, per character "
        "(c); asked again, flips: items of base at another batch size, and the share of their verdicts that this changes"
    ]
    overlapping = [
        f"{escape(row.language)} {row.overlapping_hard_distractors}"
        for row in rows
        if row.arm == BASE and row.overlapping_hard_distractors
    ]
    if overlapping:
        notes.append(f"hard distractors passed over because they overlap with gold: {', '.join(overlapping)}")
    came_back = new_table("Hygiene: what came back (items of all languages)")
    for header in (
        "arm",
        "items",
        "not finite",
        "empty or one\ntoken repeated",
        "rank ties",
        "choice ties",
        "unclosed think",
    ):
        add_column(came_back, header)
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        columns = ("items", "not_finite", "degenerate", "rank_ties", "choice_ties", "unclosed_thinking")
        came_back.add_row(escape(arm), *(str(sum(getattr(row, name) for row in mine)) for name in columns))
    return Group(sheet(asked, *notes), sheet(came_back), loops_table(rows, figures))


def loops_table(rows: Sequence[HygieneRow], figures: Lookup) -> RenderableType:
    """Open outputs that go round in circles, by arm and language, and how many more than base's."""
    table = new_table("Open outputs that loop (%)", names=2)
    for column in ("arm", "language", "loops", "more than base\n(points)", "empty or one\ntoken repeated"):
        add_column(table, column, words=column == "language")
    for arm in dict.fromkeys(row.arm for row in rows):
        scopes = [*dict.fromkeys(row.language for row in rows if row.arm == arm), POOLED]
        for scope in scopes if len(scopes) > 2 else [POOLED]:
            measures = ("outputs/loop", "outputs/loop_more", "outputs/degenerate")
            found = [figures.get((arm, measure, scope)) for measure in measures]
            if found[0]:
                table.add_row(escape(arm), escape(scope), *map(interval, found), end_section=scope == POOLED)
    if not table.row_count:
        return Group()
    return sheet(
        table, "loops: a piece of at most 16 tokens that is repeated fills at least half of the output"
    )


def _left_out(row: HygieneRow) -> int | None:
    known = [count for count in (row.ungradable, row.no_standard_options) if count is not None]
    return sum(known) if known else None
