"""What may distort a comparison: properties of the questions by language, and of the outputs by arm."""

from __future__ import annotations

from anomia.measure.between import BASE
from anomia.measure.hygiene import FIELDS, NO_OPTIONS, RATES, HygieneRow
from anomia.measure.results import Results
from anomia.probes import STANDARD
from anomia.report.tables.table import ARM, LANGUAGE, Cell, Column, Kind, Marked, Note, Table

# Fields of `HygieneRow`, except `excluded`, which is the sum of two.
ASKED = {
    "items": "items", "passages": "passages", "truncated": "cut", "gold_truncated": "gold\ncut",
    "gold_in_question": "gold in\nquestion", "gold_over_limit": "gold over\nthe limit",
    "boundary_mismatch": "moved\nboundary", "no_distinct_token": "no own\ntoken", "excluded": "excluded",
    **{
        # A long name stands alone.
        name: (
            f"no {kind.adjective}".replace("-", "-\n") if "-" in kind.adjective else f"no {kind.adjective}\noptions"
        )
        for name, kind in NO_OPTIONS.items()
        if kind.name != STANDARD
    },
    "fertility": "tokens/\nunit", "noise_items": "asked\nagain", "noise_open": "flips,\nopen (%)",
    "noise_choice": "flips,\nchoice (%)",
}  # fmt: skip
CAME_BACK = {
    "items": "items", "not_finite": "not finite", "degenerate": "empty or one\ntoken repeated",
    "rank_ties": "rank ties", "choice_ties": "choice ties", "unclosed_thinking": "unclosed think",
}  # fmt: skip
_KINDS: dict[str, Kind] = {"fertility": "number", **dict.fromkeys(RATES, "share")}
_UNITS = {"word": " w", "character": " c", None: ""}


def asked(results: Results) -> Table:
    """Properties of the questions, by language, from base's rows."""
    shown = ASKED if results.has_formats else {name: ASKED[name] for name in ("items", "fertility")}
    mine = [row for row in results.hygiene if row.arm == BASE]
    notes: list[Note] = [
        "gold in question: the question contains an accepted answer; gold over the limit: every accepted answer is "
        "longer than the output limit, so it can be picked but not generated; excluded: no gradable answer, or not "
        "three wrong ones; tokens/unit: of the passages, per word (w) or, where words have no spaces, per character "
        "(c); asked again, flips: items that base was asked again at another batch size, and the share of them that "
        "changed between right and wrong"
        if results.has_formats
        else "tokens/unit: of the prompts, per word (w) or, where words have no spaces, per character (c)"
    ]
    overlapping = [
        f"{row.language} {row.overlapping_hard_distractors}"
        for row in mine
        if row.overlapping_hard_distractors
    ]
    if overlapping:
        notes.append(f"hard distractors skipped because they overlap with gold: {', '.join(overlapping)}")
    return Table(
        "asked",
        "Hygiene: what was asked (items)",
        (LANGUAGE, *(Column(name, header, _KINDS.get(name, "count")) for name, header in shown.items())),
        [(row.language, *(_asked(row, name) for name in shown)) for row in mine],
        notes,
    )


def came_back(results: Results) -> Table:
    """Properties of the outputs, by arm, over all languages."""
    shown = CAME_BACK
    if not results.has_formats:
        shown = {name: CAME_BACK[name] for name in ("items", "not_finite", "unclosed_thinking")}
    rows = []
    for arm in dict.fromkeys(row.arm for row in results.hygiene):
        mine = [row for row in results.hygiene if row.arm == arm]
        rows.append((arm, *(sum(getattr(row, name) for row in mine) for name in shown)))
    return Table(
        "came_back",
        "Hygiene: what came back (items of all languages)",
        (ARM, *(Column(name, header, "count") for name, header in shown.items())),
        rows,
    )


def hygiene_file(results: Results) -> Table:
    """All counts, by arm and language."""
    rows = [row.named() for row in results.hygiene]
    names = [name for name in FIELDS if name not in ("arm", "language", "fertility_unit")]
    return Table(
        "hygiene",
        "What may distort a comparison",
        (
            ARM,
            LANGUAGE,
            *(Column(name, name.replace("_", " "), _KINDS.get(name, "count")) for name in names),
            Column("fertility_unit", "tokens per", "text"),
        ),
        [
            (row["arm"], row["language"], *(row[name] for name in names), row["fertility_unit"])
            for row in rows
        ],
        (
            "Counts of items; fertility: tokens per word of the passages, or per character where words have no spaces.",
        ),
        keys=2,
    )


def _asked(row: HygieneRow, name: str) -> Cell:
    if name == "excluded":
        lacking = row.no_options[f"no_{STANDARD}_options"]
        counts = [count for count in (row.ungradable, lacking) if count is not None]
        return sum(counts) if counts else None
    if name == "fertility":
        return None if row.fertility is None else Marked(row.fertility, _UNITS[row.fertility_unit])
    found: Cell = row.named()[name]
    return found
