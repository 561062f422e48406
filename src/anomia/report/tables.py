"""The tables of one arm in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anomia.measure.fates import FATES
from anomia.measure.figures import Diagnosis, Lookup, RankRow, before
from anomia.measure.frame import MEAN, POOLED, REACHES
from anomia.measure.rates import Estimate
from anomia.report.whole_table import WholeTable

LADDER = (
    ("open", "open"),
    ("cued", "cued"),
    ("distractors_only", "cued,\nno gold"),
    ("unrelated", "cued,\nunrelated"),
    ("choice", "choice"),
    ("choice_hard", "hard\nchoice"),
    ("choice_passage", "same\npassage"),
    ("choice_no_question", "no\nquestion"),
)
GROUPS = {"all": "all", "base_fails": "base fails"} | {name: name.replace("_", " ") for name in FATES}
KEPT_P = 0.05


def fates_table(diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """What became of the items that base answers in both ways; dissociation under every kind of options."""
    table = new_table("Fates of the items that base answers both ways, and dissociation (%)")
    for column in ("language", "both\ncorrect", "kept", "choice\nonly", "open\nonly", "lost"):
        add_column(table, column)
    kinds = [
        (options, label)
        for options, label in (
            ("choice", "dissociation"),
            ("choice_hard", "hard options"),
            ("choice_passage", "same passage"),
        )
        if any((f.arm, f.options) == (arm, options) for f in diagnosis.fates)
    ]
    for _, label in kinds:
        add_column(table, label)
    counts = {f.scope: f.counts for f in diagnosis.fates if (f.arm, f.options) == (arm, "choice")}
    for scope in scopes:
        if scope not in counts:
            continue
        rates = [figures.get((arm, f"dissociation/{options}", scope)) for options, _ in kinds]
        shown = [interval(rate) if rate else "too few" for rate in rates]
        numbers = (counts[scope].both_correct, *counts[scope])
        _row(table, scope, scopes, [*map(str, numbers), *shown])
    lines: list[RenderableType] = [table]
    for name, label in (("hard", "hard"), ("passage", "same-passage")):
        contrast = figures.get((arm, f"contrast/dissociation_{name}_minus_standard", POOLED))
        if contrast:
            lines.append(note(f"dissociation, {label} − standard options: {interval(contrast)} points"))
    return Group(*lines)


def ladder_table(
    diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str], *, grader: str
) -> RenderableType:
    """Accuracy of base → arm in every form of the question, and whether three gradings of open agree.

    grader: what the study grades open answers by.
    """
    table = new_table("Accuracy, base → arm (%)")
    add_column(table, "language")
    shown = [(name, label) for name, label in LADDER if (arm, f"accuracy/{name}", POOLED) in figures]
    for _, label in shown:
        add_column(table, label)
    strings = ("base", "accuracy/string_presence", POOLED) in figures
    if strings:
        add_column(table, "string\nfound")
    for scope in scopes:
        cells = [_change(figures, arm, f"accuracy/{name}", scope) for name, _ in shown]
        if strings:
            cells.append(percent(figures.get(("base", "accuracy/string_presence", scope))))
        _row(table, scope, scopes, cells)
    lines: list[RenderableType] = [table]
    agreement = next((g.agreement for g in diagnosis.gradings if (g.arm, g.scope) == (arm, POOLED)), None)
    if agreement:
        grades = [
            f"{label} {_change(figures, arm, f'accuracy/{name}', POOLED)}"
            for name, label in (("open", escape(grader)), ("open_em", "exact match"), ("open_f1", "token F1"))
        ]
        words = {
            "agree": "they agree in direction",
            "differ": "they differ in direction",
            "undecided": "not all of them see a change beyond chance, none contradicts",
        }
        lines.append(note(f"open graded in three ways: {', '.join(grades)}: {words[agreement]}"))
    return Group(*lines)


def gap_table(diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """Normalized drops and the gaps between them."""
    columns = [
        (measure, label)
        for measure, label in (
            ("normalized_drop/open", "open"),
            ("normalized_drop/choice", "choice"),
            ("gap/choice", "gap to\nchoice"),
            ("gap/choice_hard", "gap to\nhard choice"),
            ("gap/choice_passage", "gap to\nsame passage"),
        )
        if (arm, measure, POOLED) in figures
    ]
    table = new_table("Share lost of what base had (normalized drop) and gap between the shares (%)")
    add_column(table, "language")
    for _, label in columns:
        add_column(table, label)
    for scope in [*scopes, MEAN]:
        cells = [figures.get((arm, measure, scope)) for measure, _ in columns]
        _row(table, scope, scopes, [interval(cell) if cell else "–" for cell in cells])
    weak = {
        figure.measure: ", ".join(figure.left_out)
        for figure in diagnosis.figures
        if figure.arm == arm and figure.scope == MEAN and figure.left_out
    }
    by_languages: dict[str, list[str]] = {}
    for measure, label in columns:
        if measure in weak:
            by_languages.setdefault(weak[measure], []).append(label.replace("\n", " "))
    return Group(
        table,
        *(
            note(
                f"mean of {', '.join(labels)}: without {escape(names)} (base less than 10 points above guessing)"
            )
            for names, labels in by_languages.items()
        ),
    )


def ranks_table(diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """Median ranks of gold and of the foil before → after: by fate, then by language."""
    ranks = {(r.place, r.when, r.group, r.scope): r for r in diagnosis.ranks if r.arm == arm}
    if not ranks:
        return Group()
    table = new_table("Median rank of the answer's token, base → arm (1 is what the model says)")
    for column in ("items", "n", "gold", "gold, distinct", "quartiles in arm", "foil, distinct", "log-prob"):
        add_column(table, column)
    probs = {(row.group, row.scope): row for row in diagnosis.log_probs if row.arm == arm}
    places = [(group, label, POOLED) for group, label in GROUPS.items()]
    places += [("all", f"all, {scope}", scope) for scope in scopes if scope != POOLED]
    for group, label, scope in places:
        after = ranks.get(("gold_distinct", "after", group, scope))
        if after is None:
            continue
        cells = [str(after.n)]
        cells.append(_ranks(ranks, "gold", group, scope))
        cells.append(_ranks(ranks, "gold_distinct", group, scope))
        cells.append(f"{_rank(after.lower_quartile)}–{_rank(after.upper_quartile)}")
        cells.append(_ranks(ranks, "foil_distinct", group, scope))
        prob = probs.get((group, scope))
        change = f"{prob.before:.1f} → {prob.after:.1f}" if prob else "–"
        cells.append(change.replace("-", "−"))
        table.add_row(escape(label), *cells, end_section=group == FATES[-1])
    lines: list[RenderableType] = [
        table,
        note("distinct: the first token that no other option shares; log-prob: of the whole answer, in nats"),
    ]
    unsaid = ranks.get(("gold_distinct", "after", "choice_only", POOLED))
    if unsaid is not None and unsaid.vocabulary_share is not None:
        share = f"{100 * unsaid.vocabulary_share:.2g} % of the vocabulary"
        lines.append(
            note(
                f"recognised and no longer said: median rank {_rank(unsaid.median)}, {share}; "
                f"{100 * unsaid.within_10:.0f} % within 10"
            )
        )
    kl, same = (figures.get((arm, f"divergence/{name}", POOLED)) for name in ("kl", "same_top"))
    if kl and same:
        text = f"KL(base ‖ arm) {kl.value:.2f} nats [{kl.low:.2f}, {kl.high:.2f}]"
        lines.append(note(f"{text}; same likeliest token in {interval(same)} % of the items"))
    return Group(*lines)


def reach_table(figures: Lookup, arm: str) -> RenderableType:
    """What broader decoding finds: accuracies, recovery of open failures with its placebo, pass@k."""
    if (arm, "accuracy/reach_greedy", POOLED) not in figures:
        return Group()
    drops = new_table("Reach over the items asked with beams and samples (%)")
    for column in ("decoding", "base", "arm", "drop", "drop − greedy's"):
        add_column(drops, column)
    for way in ("greedy", *REACHES):
        measure = f"accuracy/reach_{way}"
        found = [before(figures, arm, measure, POOLED), figures.get((arm, measure, POOLED))]
        found.append(figures.get((arm, f"drop/reach_{way}", POOLED)))
        found.append(figures.get((arm, f"contrast/drop_{way}_minus_greedy", POOLED)))
        if found[0]:
            drops.add_row(way, *(interval(cell) if cell else "–" for cell in found))
    parts = (
        ("arm", "all"),
        ("failed_before", "base failed\nthem too"),
        ("newly_broken", "newly\nbroken"),
        ("base", "base's own\nfailures"),
    )
    recovered = new_table("Open failures that broader decoding recovers: gold (foil) (%)")
    for column in ("decoding", *(label for _, label in parts)):
        add_column(recovered, column)
    foils = {"arm": "foil", "failed_before": "foil_failed_before", "newly_broken": "foil_newly_broken"}
    for way in REACHES:
        cells = []
        for part, _ in parts:
            gold = figures.get((arm, f"recovery/{way}/{part}", POOLED))
            foil = figures.get((arm, f"recovery/{way}/{foils[part]}", POOLED)) if part in foils else None
            text = interval(gold) if gold else "–"
            cells.append(f"{text} ({percent(foil)})" if foil else text)
        recovered.add_row(way, *cells)
    curves = []
    measures = [f"pass_at/{k}" for k in range(1, 11)]
    sides = {
        "base": [before(figures, arm, measure, POOLED) for measure in measures],
        arm: [figures.get((arm, measure, POOLED)) for measure in measures],
    }
    for name, points in sides.items():
        values = " ".join(percent(point) for point in points if point)
        if values:
            curves.append(note(f"pass@1…10 (%), {escape(name)}: {values}"))
    return Group(drops, recovered, *curves)


def one_shot_table(figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """Open generation without and with one example, and what the example gives back."""
    if (arm, "accuracy/one_shot", POOLED) not in figures:
        return Group()
    table = new_table("One example in the prompt: open accuracy, base → arm, and drops (%)")
    for column in ("language", "0 shot", "1 shot", "drop at 0", "drop at 1", "drop at 0 − at 1"):
        add_column(table, column)
    for scope in scopes:
        cells = [_change(figures, arm, f"accuracy/{shot}_shot", scope) for shot in ("zero", "one")]
        for measure in ("drop/zero_shot", "drop/one_shot", "contrast/drop_zero_minus_one_shot"):
            found = figures.get((arm, measure, scope))
            cells.append(interval(found) if found else "–")
        _row(table, scope, scopes, cells)
    return table


def tests_table(diagnosis: Diagnosis, arm: str) -> RenderableType:
    """Paired tests: pooled, and the languages that remain after Holm's correction."""
    mine = [row for row in diagnosis.tests if row.arm == arm]
    if not mine:
        return Group()
    table = new_table("Paired tests")
    for column in ("hypothesis", "p, pooled", "changed"):
        add_column(table, column)
    add_column(table, "languages with p < 0.05 after Holm", words=True)
    for measure in dict.fromkeys(row.measure for row in mine):
        rows = {row.scope: row for row in mine if row.measure == measure}
        found = [
            f"{scope} {probability(row.adjusted)}"
            for scope, row in rows.items()
            if row.adjusted is not None and row.adjusted < KEPT_P
        ]
        pooled = rows[POOLED].test
        name = measure.replace("choice_hard", "hard choice").replace("choice_passage", "same-passage choice")
        name = name.replace("zero_shot", "open, 0 shot,").replace("one_shot", "open, 1 shot,")
        changed = f"{pooled.changed} of {pooled.units}"
        table.add_row(name, probability(pooled.p_value), changed, escape(", ".join(found)) or "none")
    methods = dict.fromkeys(row.test.method for row in mine)
    methods_used = f"{', '.join(methods)}; Holm's family: the languages within one arm and one hypothesis"
    return Group(table, note(methods_used))


def interval(estimate: Estimate) -> str:
    """`27 [18, 39]` in per cent; a star where coverage is not shown for so few items."""
    value, low, high = (f"{round(100 * x)}".replace("-", "−") for x in estimate[:3])
    return f"{value} \\[{low}, {high}]" + ("" if estimate.checked else "*")


def percent(estimate: Estimate | None) -> str:
    """`27`, in per cent."""
    return "–" if estimate is None else f"{100 * estimate.value:.0f}"


def probability(p_value: float | None) -> str:
    """`0.031`, or `< 0.001`."""
    if p_value is None:
        return "–"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _change(figures: Lookup, arm: str, measure: str, scope: str) -> str:
    was, after = before(figures, arm, measure, scope), figures.get((arm, measure, scope))
    return f"{percent(was)} → {percent(after)}"


def _ranks(ranks: dict[tuple[str, str, str, str], RankRow], place: str, group: str, scope: str) -> str:
    was, after = (ranks.get((place, when, group, scope)) for when in ("before", "after"))
    if was is None or after is None:
        return "–"
    return f"{_rank(was.median)} → {_rank(after.median)}"


def _rank(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def new_table(title: str, *, names: int = 1) -> WholeTable:
    """An empty table in the style of all of them. names: how many of its first columns say what a row is about."""
    return WholeTable(f"\n{title}", names=names)


def add_column(table: Table, header: str, *, words: bool = False) -> None:
    """The first column is for names, all others for numbers or, where it is said, for words that may wrap."""
    first = not table.columns
    left = first or words
    table.add_column(header, justify="left" if left else "right", vertical="bottom", no_wrap=not left)


def _row(table: Table, scope: str, scopes: Sequence[str], cells: Sequence[str]) -> None:
    """A row; languages are set apart from what is taken over them."""
    last = len(scopes) > 1 and scope == scopes[-2]
    table.add_row(escape(scope), *cells, end_section=last)


def note(text: str) -> Text:
    """A line under a table."""
    return Text.from_markup(text, style="dim")
