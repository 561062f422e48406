"""Tables of what became of the answers, of tests, and of what may spoil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

from anomia.measure.evidence import OVERALL
from anomia.measure.fates import FATES
from anomia.measure.figures import RankRow, before, lookup
from anomia.measure.frame import POOLED
from anomia.measure.hygiene import RATES, HygieneRow
from anomia.measure.rates import Estimate
from anomia.report.figures.cases import Run
from anomia.report.page.facts import model_name
from anomia.report.table_files.table import ARM, LANGUAGE, RUN, Cell, Column, Kind, N, Table, filled
from anomia.report.verdict_words import decided_with

OPTIONS = {"choice": "dissociation", "choice_hard": "hard options", "choice_passage": "same-passage options"}
STATES = ("both", "choice_only", "open_only", "neither")
TOKENS = {"gold": "foil", "gold_distinct": "foil_distinct"}


def settings(runs: Sequence[Run]) -> Table:
    """What was compared, one row an arm, with its outcome: runs side by side."""
    columns = [
        RUN, ARM, Column("base", "base", "text"), Column("data", "data", "text"),
        Column("languages", "languages", "count"), N,
        Column("open_base", "open, base"), Column("open_arm", "open, arm"),
        Column("choice_base", "choice, base"), Column("choice_arm", "choice, arm"),
        Column("gap_choice", "gap to choice"), Column("raw_gap_choice", "raw gap"),
        Column("dissociation", "dissociation"), Column("net_dissociation", "net"),
        Column("outcome", "outcome", "text"), Column("same_passage_outcome", "with same-passage options", "text"),
    ]  # fmt: skip
    rows = []
    for run in runs:
        study, figures = run.results.study, lookup(run.results.diagnosis.figures)
        for arm in run.results.arms:
            found = [
                figure
                for measure in ("accuracy/open", "accuracy/choice")
                for figure in (before(figures, arm, measure, POOLED), figures.get((arm, measure, POOLED)))
            ]
            found += [
                figures.get((arm, measure, POOLED))
                for measure in (
                    "gap/choice",
                    "raw_gap/choice",
                    "dissociation/choice",
                    "net_dissociation/choice",
                )
            ]
            verdict = next((v for v in run.results.verdicts if (v.arm, v.scope) == (arm, OVERALL)), None)
            rows.append(
                (
                    run.name, arm, model_name(study.get("base", "?")), str(study.get("data", "?")),
                    len(run.results.languages), found[1].n if found[1] else None, *found,
                    verdict.decision.outcome if verdict else None,
                    verdict.same_passage.outcome if verdict and verdict.same_passage else None,
                )
            )  # fmt: skip
    return _table(
        "runs",
        "What was compared, and its outcome (%)",
        "Pooled over languages, with 95 % intervals. Gap: share lost in open − share lost in choice, in points.",
        columns,
        rows,
    )


def verdicts(runs: Sequence[Run]) -> Table:
    """The outcome of each arm in each language and overall, in words."""
    columns = [
        RUN, ARM, Column("scope", "scope", "text"), Column("outcome", "outcome", "text"),
        Column("decided_by", "decided with", "text"), Column("word", "word", "text"),
        Column("standard_outcome", "with standard options", "text"),
        Column("same_passage_outcome", "with same-passage options", "text"), Column("text", "in words", "words"),
    ]  # fmt: skip
    rows = [
        (
            run.name, verdict.arm, verdict.scope, verdict.decision.outcome, decided_with(verdict), verdict.word,
            verdict.standard.outcome if verdict.standard else None,
            verdict.same_passage.outcome if verdict.same_passage else None, verdict.text,
        )
        for run in runs
        for verdict in run.results.verdicts
    ]  # fmt: skip
    return _table("verdicts", "Verdicts", "overall: over all languages.", columns, rows, keys=3)


def fates(runs: Sequence[Run]) -> Table:
    """What became of the items that base answers in both ways."""
    columns = [RUN, ARM, LANGUAGE, Column("both_correct", "both correct", "count")]
    columns += [Column(name, name.replace("_", " "), "count") for name in FATES]
    measures = {
        f"share/choice/{name}": f"{name.replace('_', ' ')} (%)" for name in FATES if name != "choice_only"
    }
    for options, words in OPTIONS.items():
        measures[f"dissociation/{options}"] = words
        measures[f"net_dissociation/{options}"] = "net" if options == "choice" else f"net, {words}"
    measures["expected_dissociation/choice"] = "expected from the drops"
    columns += [Column(measure.replace("/", "_"), words) for measure, words in measures.items()]
    rows = []
    for run in runs:
        figures = lookup(run.results.diagnosis.figures)
        for row in run.results.diagnosis.fates:
            if row.options == "choice":
                rates = [figures.get((row.arm, measure, row.scope)) for measure in measures]
                rows.append((run.name, row.arm, row.scope, row.counts.both_correct, *row.counts, *rates))
    return _table(
        "fates",
        "Fates of the items that base answers both ways, and dissociation rates (%)",
        "Dissociation: choice only / both correct, not given below 10 such items. Net: less the reverse flow.",
        columns,
        rows,
        keys=3,
    )


def transitions(runs: Sequence[Run]) -> Table:
    """From each state of base to each of the arm, as counts."""
    columns = [
        RUN,
        ARM,
        LANGUAGE,
        Column("options", "options", "text"),
        Column("base", "base answers", "text"),
    ]
    columns += [Column(state, state.replace("_", " "), "count") for state in STATES]
    rows = [
        (
            run.name,
            row.arm,
            row.scope,
            row.options,
            row.before.replace("_", " "),
            *(getattr(row, s) for s in STATES),
        )
        for run in runs
        for row in run.results.diagnosis.transitions
    ]
    note = "Items by what base answers (rows) and what the arm answers (columns): both in open and in choice, one, neither."
    return _table("transitions", "From base to arm", note, columns, rows, keys=5)


def noise(runs: Sequence[Run]) -> Table:
    """What differs between base and an arm, null arms among them, and what the choice-only items also pass."""
    measures = {
        "net_dissociation/choice": "net dissociation",
        "net_dissociation/choice_passage": "net, same passage",
        "flips/open": "open verdicts that differ",
        "flips/choice": "choice verdicts that differ",
        "outputs/loop": "outputs that loop",
        "outputs/loop_more": "more than base's (points)",
        "outputs/degenerate": "empty or one token",
        "control/no_question": "choice only: picked without the question",
        "control/string": "choice only: string found",
        "control/passage": "choice only: picked in same passage",
        "control/pmi": "choice only: picked by PMI",
    }
    columns = [
        RUN,
        ARM,
        LANGUAGE,
        *(Column(name.replace("/", "_"), words) for name, words in measures.items()),
    ]
    rows = []
    for run in runs:
        figures = lookup(run.results.diagnosis.figures)
        for arm in ("base", *run.results.arms):
            for scope in [*run.results.languages, POOLED]:
                found = [figures.get((arm, measure, scope)) for measure in measures]
                if any(found):
                    rows.append((run.name, arm, scope, *found))
    note = "null: base again under harmless noise, the reference. Choice only: items that the arm picks and no longer says."
    return _table("noise_and_controls", "Noise, loops and controls (%)", note, columns, rows, keys=3)


def ranks(runs: Sequence[Run]) -> Table:
    """Ranks of gold's token and of the foil's, before and after."""
    columns = [
        RUN, ARM, LANGUAGE, Column("token", "token", "text"), Column("items", "items", "text"), N,
        Column("rank_base", "rank, base", "rank"), Column("rank_arm", "rank, arm", "rank"),
        Column("lower_quartile_arm", "lower quartile, arm", "number"),
        Column("upper_quartile_arm", "upper quartile, arm", "number"),
        Column("within_10_arm", "within 10, arm"),
        Column("foil_rank_base", "foil, base", "rank"), Column("foil_rank_arm", "foil, arm", "rank"),
        Column("log_prob_base", "log-prob, base", "number"), Column("log_prob_arm", "log-prob, arm", "number"),
    ]  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        diagnosis = run.results.diagnosis
        known = {(r.arm, r.place, r.when, r.group, r.scope): r for r in diagnosis.ranks}
        probs = {(row.arm, row.group, row.scope): row for row in diagnosis.log_probs}
        for (arm, place, when, group, scope), after in known.items():
            if place not in TOKENS or when != "after":
                continue
            at_base = known.get((arm, place, "before", group, scope))
            foils = [known.get((arm, TOKENS[place], at, group, scope)) for at in ("before", "after")]
            prob = probs.get((arm, group, scope))
            rows.append(
                (
                    run.name, arm, scope, "first" if place == "gold" else "first of its own",
                    group.replace("_", " "), after.n, _median(at_base), _median(after), after.lower_quartile,
                    after.upper_quartile, after.within_10_interval or after.within_10, *map(_median, foils),
                    prob.before if prob else None, prob.after if prob else None,
                )
            )  # fmt: skip
    return _table(
        "ranks",
        "Median ranks of the answer's token after the open prompt",
        "Rank: 1 + tokens with a larger logit; 1 is what the model says. foil: a wrong option in gold's place. "
        "log-prob: median of the whole answer's, in nats.",
        columns,
        rows,
        keys=5,
    )


def paired_tests(runs: Sequence[Run]) -> Table:
    """Paired tests with Holm's p-values."""
    columns = [
        RUN, ARM, Column("hypothesis", "hypothesis", "text"), LANGUAGE,
        Column("p_value", "p", "probability"), Column("p_value_holm", "p, Holm", "probability"),
        Column("changed", "changed", "count"), Column("units", "units", "count"),
        Column("method", "method", "text"), Column("family", "Holm's family", "text"),
    ]  # fmt: skip
    rows = [
        (
            run.name, row.arm, row.measure, row.scope, row.test.p_value, row.adjusted, row.test.changed,
            row.test.units, row.test.method, row.family,
        )
        for run in runs
        for row in run.results.diagnosis.tests
    ]  # fmt: skip
    note = "changed: items (or passages) on which the test rests, of all units. pooled stands outside Holm's family."
    return _table("tests", "Paired tests", note, columns, rows, keys=4)


def between(runs: Sequence[Run]) -> Table:
    """Arm against arm."""
    columns = [
        RUN, ARM, Column("other", "other", "text"), Column("measure", "measure", "text"), LANGUAGE,
        Column("difference", "arm − other"),
    ]  # fmt: skip
    rows = [
        (run.name, row.arm, row.other, row.measure, row.scope, row.estimate)
        for run in runs
        for row in run.results.diagnosis.between
    ]
    note = "On the items that both arms answered, in points, with 95 % intervals."
    return _table("arm_against_arm", "Arm against arm (points)", note, columns, rows, keys=5)


def divergence(runs: Sequence[Run]) -> Table:
    """How far the next-token distributions moved."""
    columns = [
        RUN, ARM, LANGUAGE, N, Column("kl_mean", "KL, mean", "number"), Column("kl_median", "KL, median", "number"),
        Column("kl_upper_decile", "KL, 90 % quantile", "number"), Column("same_top_token", "same likeliest token (%)"),
    ]  # fmt: skip
    rows = []
    for run in runs:
        figures = lookup(run.results.diagnosis.figures)
        for row in run.results.diagnosis.divergence:
            kl, same = (
                figures.get((row.arm, f"divergence/{name}", row.scope)) for name in ("kl", "same_top")
            )
            median = row.median_interval or row.median
            upper = row.upper_decile_interval or row.upper_decile
            rows.append((run.name, row.arm, row.scope, row.n, kl, median, upper, same))
    note = "KL(base ‖ arm) of the next token after the open prompt, in nats: a lower bound."
    return _table("divergence", "Divergence of the next-token distributions", note, columns, rows, keys=3)


def frontier(runs: Sequence[Run]) -> Table:
    """Accuracy against what compression saves."""
    columns = [
        RUN, ARM, Column("sparsity", "sparsity (%)"), Column("size_bytes", "bytes on disk", "count"),
        Column("open", "open (%)"), Column("choice", "choice (%)"), Column("frontier", "on the frontier of", "text"),
    ]  # fmt: skip
    rows = []
    for run in runs:
        for row in run.results.frontier:
            flags = {
                "open by sparsity": row.open_frontier,
                "choice by sparsity": row.choice_frontier,
                "open by size": row.open_size_frontier,
                "choice by size": row.choice_size_frontier,
            }
            on = ", ".join(name for name, is_on in flags.items() if is_on)
            rows.append((run.name, row.arm, row.sparsity, row.size_bytes, row.open, row.choice, on or "none"))
    note = "On the frontier: no arm saves as much and is better, or is as good and saves more. Pooled over languages."
    return _table("frontier", "Accuracy against sparsity and size on disk", note, columns, rows)


def hygiene(runs: Sequence[Run]) -> Table:
    """What may spoil a comparison, by arm and language."""
    counts = [
        field.name for field in fields(HygieneRow) if field.name not in ("arm", "language", "fertility_unit")
    ]
    columns = [RUN, ARM, LANGUAGE]
    kinds: dict[str, Kind] = {"fertility": "number", **dict.fromkeys(RATES, "share")}
    columns += [Column(name, name.replace("_", " "), kinds.get(name, "count")) for name in counts]
    columns.append(Column("fertility_unit", "tokens per", "text"))
    rows = [
        (
            run.name,
            row.arm,
            row.language,
            *(getattr(row, name) for name in counts),
            row.fertility_unit,
        )
        for run in runs
        for row in run.results.hygiene
    ]
    note = "Counts of items; fertility: tokens a word of the passages, or a character where words have no spaces."
    return _table("hygiene", "What may spoil a comparison", note, columns, rows, keys=3)


def _median(row: RankRow | None) -> Estimate | float | None:
    return None if row is None else row.median_interval or row.median


def _table(
    name: str,
    title: str,
    note: str,
    columns: Sequence[Column],
    rows: Sequence[tuple[Cell, ...]],
    *,
    keys: int = 2,
) -> Table:
    kept, cells = filled(columns, rows)
    return Table(name, title, note, kept, cells, min(keys, len(kept)))


OUTCOME_TABLES: tuple[Callable[[Sequence[Run]], Table], ...] = (
    settings, verdicts, fates, transitions, noise, ranks,
)  # fmt: skip
CLOSING_TABLES: tuple[Callable[[Sequence[Run]], Table], ...] = (
    paired_tests, between, divergence, frontier, hygiene,
)  # fmt: skip
