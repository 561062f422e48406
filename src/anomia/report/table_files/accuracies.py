"""Tables of accuracies: the ladder, drops and gaps, one example, reach and what it recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from anomia.measure.figures import Lookup, before, lookup
from anomia.measure.frame import MEAN, POOLED, RECOGNITION
from anomia.measure.rates import Estimate
from anomia.probes import REACHES
from anomia.report.figures.cases import Run
from anomia.report.table_files.table import ARM, LANGUAGE, MODEL, RUN, Cell, Column, N, Table, filled

BASE = "base"
PROBES = {
    "open": "open",
    "open_strict": "open, strict",
    "cued": "cued",
    "distractors_only": "cued, no gold",
    "unrelated": "cued, unrelated",
    "choice": "choice",
    "choice_hard": "hard choice",
    "choice_passage": "same-passage choice",
    "choice_no_question": "choice, no question",
    "choice_hard_no_question": "hard choice, no question",
    "choice_passage_no_question": "same passage, no question",
    "string_presence": "string presence",
    "open_em": "open, exact match",
    "open_f1": "open, token F1",
}
DROPS = {
    "drop/open": "drop, open",
    "drop/cued": "drop, cued",
    "drop/choice": "drop, choice",
    "normalized_drop/open": "share lost, open",
    "normalized_drop/cued": "share lost, cued",
    "normalized_drop/choice": "share lost, choice",
    "gap/choice": "gap to choice",
    "raw_gap/choice": "raw gap to choice",
    "gap/choice_hard": "gap to hard choice",
    "raw_gap/choice_hard": "raw gap to hard choice",
    "gap/choice_passage": "gap to same-passage choice",
    "raw_gap/choice_passage": "raw gap to same-passage choice",
    "drop/open_strict": "drop, open strict",
    "normalized_drop/open_strict": "share lost, open strict",
    "gap_strict/choice": "strict gap to choice",
    "raw_gap_strict/choice": "raw strict gap to choice",
    "gap_strict/choice_passage": "strict gap to same-passage choice",
    "raw_gap_strict/choice_passage": "raw strict gap to same-passage choice",
}
RECOVERED = {
    "arm": "arm's failures",
    "failed_before": "base failed too",
    "newly_broken": "newly broken",
    "base": "base's own failures",
    "foil": "foil, arm's failures",
    "foil_failed_before": "foil, base failed too",
    "foil_newly_broken": "foil, newly broken",
}
SCORED = {
    "accuracy": ("accuracy_arm", "arm"),
    "drop": ("drop", "drop"),
    "normalized_drop": ("normalized_drop", "share lost"),
    "gap": ("gap", "gap (ΔPR)"),
    "raw_gap": ("raw_gap", "raw gap"),
    "dissociation": ("dissociation", "dissociation"),
    "net_dissociation": ("net_dissociation", "net"),
    "expected_dissociation": ("expected_dissociation", "expected from the drops"),
}
LARGEST_K = 10


def ladder(runs: Sequence[Run]) -> Table:
    """Accuracy of every model in every form of the question."""
    columns = [RUN, MODEL, LANGUAGE, N, *(Column(name, words) for name, words in PROBES.items())]
    rows = [
        (run.name, model, scope, _count(found[0]), *found)
        for run, figures, model, scope in _models(runs)
        for found in [[_present(run, model, figures, f"accuracy/{probe}", scope) for probe in PROBES]]
        if any(found)
    ]
    return _table(
        "accuracy",
        "Accuracy in every form of the question (%)",
        "Share of right answers with 95 % intervals; pooled: all languages as one.",
        columns,
        rows,
        keys=3,
    )


def drops(runs: Sequence[Run]) -> Table:
    """Drops, normalized drops and the gaps between them."""
    return _by_language(
        runs,
        "drops",
        "Drops of accuracy and gaps (points)",
        "Drop: accuracy of base − of the arm. Share lost: the drop over what base had above the floor. Gap: share "
        "lost in open − share lost in choice (ΔPR); raw gap: the same in points lost. mean: over languages.",
        DROPS,
        means=True,
    )


def one_shot(runs: Sequence[Run]) -> Table:
    """The paper's Table 1."""
    columns = [
        RUN, ARM, LANGUAGE, N,
        Column("zero_shot_base", "0 shot, base"), Column("zero_shot_arm", "0 shot, arm"),
        Column("one_shot_base", "1 shot, base"), Column("one_shot_arm", "1 shot, arm"),
        Column("prune_gap_zero_shot", "gap, 0 shot"), Column("prune_gap_one_shot", "gap, 1 shot"),
        Column("given_back", "gap at 0 − at 1"),
    ]  # fmt: skip
    rows = []
    for run, figures, arm, scope in _arms(runs):
        found = [
            figure
            for measure in ("accuracy/zero_shot", "accuracy/one_shot")
            for figure in (before(figures, arm, measure, scope), figures.get((arm, measure, scope)))
        ]
        found += [figures.get((arm, f"drop/{shots}", scope)) for shots in ("zero_shot", "one_shot")]
        found.append(figures.get((arm, "contrast/drop_zero_minus_one_shot", scope)))
        if any(found[:4]):
            rows.append((run.name, arm, scope, _count(found[3]), *found))
    return _table(
        "one_shot",
        "Open accuracy at 0 shot and at 1 shot (%), and prune gaps (points)",
        "Prune gap: accuracy of base − of the arm. The 0-shot columns have the prompt form of the 1-shot ones.",
        columns,
        rows,
        keys=3,
    )


def reach(runs: Sequence[Run]) -> Table:
    """Accuracy by greedy decoding, in any beam, in any sample, on the items asked that way."""
    ways = {f"reach_{way}": way for way in ("greedy", *REACHES)}
    columns = [RUN, MODEL, LANGUAGE, N, *(Column(name, words) for name, words in ways.items())]
    columns += [Column(f"pass_at_{k}", f"pass@{k}") for k in range(1, LARGEST_K + 1)]
    rows = []
    for run, figures, model, scope in _models(runs):
        found = [figures.get((model, f"accuracy/{way}", scope)) for way in ways]
        curve = [figures.get((model, f"pass_at/{k}", scope)) for k in range(1, LARGEST_K + 1)]
        if any(found):
            rows.append((run.name, model, scope, _count(found[0]), *found, *curve))
    return _table(
        "reach",
        "What broader decoding reaches (%)",
        "Share of items with a right answer in greedy decoding, in any beam, in any sample; an upper bound. "
        "pass@k: the chance that one of k samples is right.",
        columns,
        rows,
        keys=3,
    )


def recovery(runs: Sequence[Run]) -> Table:
    """Open failures that broader decoding recovers, with the placebo."""
    columns = [RUN, ARM, LANGUAGE, Column("decoding", "decoding", "text"), N]
    columns += [Column(name, words) for name, words in RECOVERED.items()]
    rows = []
    for run, figures, arm, scope in _arms(runs):
        for way in REACHES:
            found = [figures.get((arm, f"recovery/{way}/{part}", scope)) for part in RECOVERED]
            if any(found):
                rows.append((run.name, arm, scope, way, _count(found[0]), *found))
    return _table(
        "recovery",
        "Open failures that broader decoding recovers (%)",
        "foil: how often a wrong option is found in gold's place. n: the arm's open failures.",
        columns,
        rows,
        keys=4,
    )


def scorings(runs: Sequence[Run]) -> Table:
    """Recognition under every kind of options and every way to score them."""
    columns = [
        RUN,
        ARM,
        LANGUAGE,
        Column("options", "options", "text"),
        Column("scoring", "scored by", "text"),
        N,
    ]
    columns += [Column("accuracy_base", "base"), *(Column(name, words) for name, words in SCORED.values())]
    rows = []
    for run, figures, arm, scope in _arms(runs):
        for way in RECOGNITION.values():
            found = [figures.get((arm, f"{measure}/{way.name}", scope)) for measure in SCORED]
            was = before(figures, arm, f"accuracy/{way.name}", scope)
            if any(found):
                kind = way.kind.removeprefix("choice").removeprefix("_") or "standard"
                named = (run.name, arm, scope, kind, way.scoring, _count(found[0]))
                rows.append((*named, was, *found))
    return _table(
        "scorings",
        "Picking the answer, by options and scoring (%)",
        "sum: log-probability of the option; token, byte, char: divided by its length; pmi: minus the same without "
        "the question. Net: choice only − the reverse flow.",
        columns,
        rows,
        keys=5,
    )


def _by_language(
    runs: Sequence[Run], name: str, title: str, note: str, measures: dict[str, str], *, means: bool
) -> Table:
    columns = [RUN, ARM, LANGUAGE, N]
    columns += [Column(measure.replace("/", "_"), words) for measure, words in measures.items()]
    rows = [
        (run.name, arm, scope, _count(next(filter(None, found))), *found)
        for run, figures, arm, scope in _arms(runs, means=means)
        for found in [[figures.get((arm, measure, scope)) for measure in measures]]
        if any(found)
    ]
    return _table(name, title, note, columns, rows, keys=3)


def _arms(runs: Sequence[Run], *, means: bool = False) -> Iterator[tuple[Run, Lookup, str, str]]:
    for run in runs:
        figures = lookup(run.results.diagnosis.figures)
        for arm in run.results.arms:
            for scope in [*run.results.languages, POOLED, *([MEAN] if means else [])]:
                yield run, figures, arm, scope


def _models(runs: Sequence[Run]) -> Iterator[tuple[Run, Lookup, str, str]]:
    for run in runs:
        figures = lookup(run.results.diagnosis.figures)
        for model in (BASE, *run.results.arms):
            for scope in [*run.results.languages, POOLED]:
                yield run, figures, model, scope


def _present(run: Run, model: str, figures: Lookup, measure: str, scope: str) -> Estimate | None:
    """String presence needs no model: it stands in base's rows alone."""
    if measure == "accuracy/string_presence" and model != BASE:
        return None
    return figures.get((model, measure, scope))


def _count(estimate: Estimate | None) -> int | None:
    return None if estimate is None else estimate.n


def _table(
    name: str,
    title: str,
    note: str,
    columns: Sequence[Column],
    rows: Sequence[tuple[Cell, ...]],
    *,
    keys: int,
) -> Table:
    kept, cells = filled(columns, rows)
    return Table(name, title, note, kept, cells, min(keys, len(kept)))


ACCURACY_TABLES: tuple[Callable[[Sequence[Run]], Table], ...] = (
    ladder, drops, scorings, one_shot, reach, recovery,
)  # fmt: skip
