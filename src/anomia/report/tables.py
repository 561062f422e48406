"""The tables of one arm in the terminal: fates, ladder, losses, ranks, reach, one example, tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape

from anomia.measure.fates import FATES
from anomia.measure.figures import Diagnosis, LogProbRow, Lookup, RankRow, before
from anomia.measure.frame import MEAN, POOLED, RECOGNITION
from anomia.probes import REACHES
from anomia.report.sheet import (
    MISSING,
    add_column,
    add_row,
    change,
    given,
    interval,
    new_table,
    number,
    probability,
    sheet,
)

LADDER = (
    ("open", "open"),
    ("open_strict", "open,\nstrict"),
    ("cued", "cued"),
    ("distractors_only", "cued,\nno gold"),
    ("unrelated", "cued,\nunrelated"),
    ("choice", "choice"),
    ("choice_hard", "hard\nchoice"),
    ("choice_passage", "same\npassage"),
    ("choice_no_question", "no\nquestion"),
    ("choice_hard_no_question", "hard, no\nquestion"),
    ("choice_passage_no_question", "same passage,\nno question"),
)
LOSSES = (
    ("normalized_drop/open", "open"),
    ("normalized_drop/open_strict", "open,\nstrict"),
    ("normalized_drop/choice", "choice"),
    ("gap/choice", "gap to\nchoice"),
    ("raw_gap/choice", "in raw\npoints"),
    ("gap/choice_hard", "gap to\nhard choice"),
    ("raw_gap/choice_hard", "in raw\npoints"),
    ("gap/choice_passage", "gap to\nsame passage"),
    ("raw_gap/choice_passage", "in raw\npoints"),
    ("gap_strict/choice", "strict gap\nto choice"),
    ("raw_gap_strict/choice", "in raw\npoints"),
    ("gap_strict/choice_passage", "strict gap to\nsame passage"),
    ("raw_gap_strict/choice_passage", "in raw\npoints"),
)
GROUPS = {"all": "all", "base_fails": "base fails"} | {name: name.replace("_", " ") for name in FATES}
KEPT_P = 0.05
MOST_SAMPLES = 10


def fates_table(diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """What became of the items that base answers both ways: counts, and shares with their intervals."""
    table = new_table("Fates of the items that base answers both ways: items · share (%)")
    for column in ("language", "both\ncorrect", "kept", "choice only\n(dissociation)", "open\nonly", "lost"):
        add_column(table, column)
    counts = {f.scope: f.counts for f in diagnosis.fates if (f.arm, f.options) == (arm, "choice")}
    few = False
    for scope in scopes:
        if scope not in counts:
            continue
        cells = [str(counts[scope].both_correct)]
        for fate, count in zip(FATES, counts[scope], strict=True):
            measure = "dissociation/choice" if fate == "choice_only" else f"share/choice/{fate}"
            share = figures.get((arm, measure, scope))
            few |= share is None
            cells.append(f"{count} · {interval(share)}" if share else str(count))
        add_row(table, scope, scopes, cells)
    return sheet(table, "without a share: fewer than 10 such items, or not computed" if few else "")


def ladder_table(
    diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str], *, grader: str
) -> RenderableType:
    """Accuracy of base → arm in every form of the question, and whether three gradings of open agree.

    grader: what the study grades open answers by.
    """
    table = new_table("Accuracy, base → arm (%)")
    add_column(table, "language")
    shown = [(name, label) for name, label in LADDER if given(figures, arm, f"accuracy/{name}", scopes)]
    for _, label in shown:
        add_column(table, label)
    strings = given(figures, "base", "accuracy/string_presence", scopes)
    if strings:
        add_column(table, "string\nfound")
    for scope in scopes:
        cells = [change(figures, arm, f"accuracy/{name}", scope) for name, _ in shown]
        if strings:
            cells.append(interval(figures.get(("base", "accuracy/string_presence", scope))))
        add_row(table, scope, scopes, cells)
    notes = []
    agreement = next((g.agreement for g in diagnosis.gradings if (g.arm, g.scope) == (arm, POOLED)), None)
    if agreement:
        grades = [
            f"{label} {change(figures, arm, f'accuracy/{name}', POOLED)}"
            for name, label in (("open", escape(grader)), ("open_em", "exact match"), ("open_f1", "token F1"))
        ]
        words = {
            "agree": "they agree in direction",
            "differ": "they differ in direction",
            "undecided": "not all of them see a change beyond chance, none contradicts",
        }
        notes.append(f"open graded in three ways: {', '.join(grades)}: {words[agreement]}")
    return sheet(table, *notes)


def gap_table(diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """Normalized drops, the gaps between them, and each gap in raw points."""
    columns = [(measure, label) for measure, label in LOSSES if given(figures, arm, measure, scopes)]
    table = new_table("Share lost of what base had (normalized drop), and gap between the shares (%)")
    add_column(table, "language")
    for _, label in columns:
        add_column(table, label)
    for scope in [*scopes, MEAN]:
        add_row(
            table, scope, scopes, [interval(figures.get((arm, measure, scope))) for measure, _ in columns]
        )
    weak = {
        str(figure.measure): ", ".join(figure.left_out)
        for figure in diagnosis.figures
        if figure.arm == arm and figure.scope == MEAN and figure.left_out
    }
    by_languages: dict[str, list[str]] = {}
    for measure, label in columns:
        if measure in weak and not measure.startswith("raw_gap"):
            by_languages.setdefault(weak[measure], []).append(label.replace("\n", " "))
    notes = [
        f"mean of {', '.join(labels)}: without {escape(names)} (base less than 10 points above guessing)"
        for names, labels in by_languages.items()
    ]
    if any(measure.startswith("raw_gap") for measure, _ in columns):
        notes.insert(0, "in raw points: points that open lost − points that choice lost")
    return sheet(table, *notes)


def ranks_table(diagnosis: Diagnosis, figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """Median ranks of gold and of the foil before → after: by fate, then by language."""
    ranks = {(r.place, r.when, r.group, r.scope): r for r in diagnosis.ranks if r.arm == arm}
    if not ranks:
        return Group()
    table = new_table("Median rank of the answer's token, base → arm (1 is what the model says)")
    for column in (
        "items", "n", "gold", "gold, distinct", "foil, distinct", "within 10\nin arm (%)",
        "logits behind\nthe likeliest", "log-prob,\nchange",
    ):  # fmt: skip
        add_column(table, column)
    probs = {(row.group, row.scope): row for row in diagnosis.log_probs if row.arm == arm}
    places = [(group, label, POOLED) for group, label in GROUPS.items()]
    places += [("all", f"all, {scope}", scope) for scope in scopes if scope != POOLED]
    for group, label, scope in places:
        after = ranks.get(("gold_distinct", "after", group, scope))
        if after is None:
            continue
        cells = [str(after.n)]
        cells += [_ranks(ranks, name, group, scope) for name in ("gold", "gold_distinct", "foil_distinct")]
        cells += [within_10(after), margin(after), _log_prob(probs.get((group, scope)))]
        table.add_row(escape(label), *cells, end_section=group == FATES[-1])
    notes = [
        "distinct: the first token that no other option shares; logits behind: median, in the arm; log-prob: of "
        "the whole answer, mean of arm − base, in nats"
    ]
    if any(row.median_interval is None for row in ranks.values()):
        notes.append("a median without an interval rests on too few items for one")
    unsaid = ranks.get(("gold_distinct", "after", "choice_only", POOLED))
    if unsaid is not None and unsaid.vocabulary_share is not None:
        tokens = round(unsaid.median / unsaid.vocabulary_share)
        notes.append(f"picked and no longer said: median rank {median_rank(unsaid)} of {tokens:,} tokens")
    kl, same = (figures.get((arm, f"divergence/{name}", POOLED)) for name in ("kl", "same_top"))
    if kl and same:
        notes.append(
            f"KL(base ‖ arm) {number(kl)} nats; same likeliest token in {interval(same)} % of the items"
        )
    return sheet(table, *notes)


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
        more = None if way == "greedy" else figures.get((arm, f"contrast/drop_{way}_minus_greedy", POOLED))
        found.append(more)
        if found[0]:
            drops.add_row(way, *map(interval, found))
    parts = (
        ("arm", "all"),
        ("failed_before", "base failed\nthem too"),
        ("newly_broken", "newly\nbroken"),
        ("base", "base's own\nfailures"),
    )
    recovered = new_table("Open failures that broader decoding recovers, and the foil as a control (%)")
    for column in ("decoding", *(label for _, label in parts)):
        add_column(recovered, column)
    foils = {"arm": "foil", "failed_before": "foil_failed_before", "newly_broken": "foil_newly_broken"}
    for way in REACHES:
        for of, names in (("gold", {part: part for part, _ in parts}), ("foil", foils)):
            found = [
                figures.get((arm, f"recovery/{way}/{names[part]}", POOLED)) if part in names else None
                for part, _ in parts
            ]
            if any(found):
                recovered.add_row(f"{way}: {of}", *map(interval, found), end_section=of == "foil")
    curve = new_table("Chance that one of k samples is right, pass@k (%)")
    for column in ("k", "base", "arm"):
        add_column(curve, column)
    for k in range(1, MOST_SAMPLES + 1):
        measure = f"pass_at/{k}"
        found = [before(figures, arm, measure, POOLED), figures.get((arm, measure, POOLED))]
        if any(found):
            curve.add_row(str(k), *map(interval, found))
    return Group(*(sheet(table) for table in (drops, recovered, curve) if table.row_count))


def one_shot_table(figures: Lookup, arm: str, scopes: Sequence[str]) -> RenderableType:
    """Open generation without and with one example, and what the example gives back."""
    if not given(figures, arm, "accuracy/one_shot", scopes):
        return Group()
    table = new_table("One example in the prompt: open accuracy, base → arm, and drops (%)")
    for column in ("language", "0 shot", "1 shot", "drop at 0", "drop at 1", "drop at 0 − at 1"):
        add_column(table, column)
    for scope in scopes:
        cells = [change(figures, arm, f"accuracy/{shot}_shot", scope) for shot in ("zero", "one")]
        for measure in ("drop/zero_shot", "drop/one_shot", "contrast/drop_zero_minus_one_shot"):
            cells.append(interval(figures.get((arm, measure, scope))))
        add_row(table, scope, scopes, cells)
    return sheet(table)


def tests_table(diagnosis: Diagnosis, arm: str) -> RenderableType:
    """Paired tests: pooled, and the languages that remain after Holm's correction."""
    mine = [row for row in diagnosis.tests if row.arm == arm]
    if not mine:
        return Group()
    table = new_table("Paired tests")
    for column in ("hypothesis", "p, pooled", "changed"):
        add_column(table, column)
    add_column(table, "languages with p < 0.05 after Holm", words=True)
    # The other scorings stand beside each other in their own table, and with their tests in the table files.
    other = tuple(name for name, way in RECOGNITION.items() if way.scoring not in ("sum", "pmi"))
    for measure in dict.fromkeys(row.measure for row in mine):
        if measure.removesuffix(" changed").endswith(other):
            continue
        rows = {row.scope: row for row in mine if row.measure == measure}
        found = [
            f"{scope} {probability(row.adjusted)}"
            for scope, row in rows.items()
            if row.adjusted is not None and row.adjusted < KEPT_P
        ]
        pooled = rows[POOLED].test if POOLED in rows else None
        cells = (
            [probability(pooled.p_value), f"{pooled.changed} of {pooled.units}"] if pooled else [MISSING] * 2
        )
        table.add_row(hypothesis(measure), *cells, escape(", ".join(found)) or "none")
    methods = dict.fromkeys(row.test.method for row in mine)
    return sheet(
        table, f"{', '.join(methods)}; Holm's family: the languages within one arm and one hypothesis"
    )


_KIND_WORDS = {"choice": "choice", "choice_hard": "hard choice", "choice_passage": "same-passage choice"}
_SCORING_WORDS = {"token": "per token", "byte": "per byte", "char": "per character", "pmi": "PMI"}
_FORM_WORDS = {
    "zero_shot": "open, 0 shot,",
    "one_shot": "open, 1 shot,",
    "open_strict": "open, strict grade,",
}


def form_words(name: str) -> str:
    """What a form of the question, or a way to test recognition, is called: `same-passage choice (PMI)`."""
    way = RECOGNITION.get(name)
    if way is None:
        return _FORM_WORDS.get(name, name)
    scored = _SCORING_WORDS.get(way.scoring)
    return _KIND_WORDS[way.kind] + (f" ({scored})" if scored else "")


def hypothesis(measure: str) -> str:
    """A hypothesis in words: what is tested is items, not shares."""
    lost = "open lost more items than "
    if measure.startswith(lost):
        return f"{lost}{form_words(measure.removeprefix(lost))} (raw points)"
    return f"{form_words(measure.removesuffix(' changed'))} changed"


def median_rank(row: RankRow) -> str:
    """`17 [5, 40]`, or the median alone."""
    found = row.median_interval
    if found is None:
        return rank(row.median)
    return f"{rank(row.median)} \\[{rank(found.low)}, {rank(found.high)}]" + ("" if found.checked else "*")


def within_10(row: RankRow) -> str:
    """Share of items whose rank is at most 10, in per cent."""
    found = row.within_10_interval
    return interval(found) if found else f"{100 * row.within_10:.0f}"


def margin(row: RankRow) -> str:
    """How many logits the token stands behind the likeliest: the median."""
    found = row.margin_interval
    return number(found, 1) if found else f"{row.median_margin:.1f}".replace("-", "−")


def _ranks(ranks: Mapping[tuple[str, str, str, str], RankRow], place: str, group: str, scope: str) -> str:
    was, after = (ranks.get((place, when, group, scope)) for when in ("before", "after"))
    if was is None or after is None:
        return MISSING
    return f"{median_rank(was)} → {median_rank(after)}"


def _log_prob(row: LogProbRow | None) -> str:
    return number(row.change, 1) if row else MISSING


def rank(value: float) -> str:
    """`3.5`, `17`, `1,204`."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
