"""The page's content outside the explorer, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from anomia._version import __version__
from anomia.compress.spec import is_null
from anomia.locate.located import Located
from anomia.measure import measures
from anomia.measure.evidence import OVERALL
from anomia.measure.figures import Lookup, before, lookup
from anomia.measure.frame import POOLED
from anomia.measure.judge import ScopeVerdict
from anomia.measure.measures import long
from anomia.measure.outcomes import OUTCOMES
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.measure.scope import LABELS
from anomia.measure.scores import ScoreOutcome
from anomia.probes import FORMATS, short
from anomia.report.figures.cases import NamedRun
from anomia.report.naming import model_name, shortened
from anomia.report.page.facts import command, facts
from anomia.report.reference import candidates, nulls
from anomia.report.render.page import plain
from anomia.report.render.words import shown
from anomia.report.tables.arm_results import arm_results, unfinished_text
from anomia.report.tables.located import located_tables
from anomia.report.tables.registry import ARMS, RUNS
from anomia.report.tables.verdicts import decided, outcomes, with_options
from anomia.report.terminal import stopping_text

# Maximum lengths, in characters, of names in the page's own sentences, and of a verdict, which names languages.
LONGEST_NAME, LONGEST_TEXT = 120, 4_000

OPEN_FELL = (
    "Don't ship it on the strength of multiple-choice scores: it answers less when asked directly, whether or not "
    "the knowledge survived."
)
NOISE_ADVICE = (
    "Nothing to ship: this is base itself, under harmless noise. What it seems to lose here is noise; compare "
    "compressed models with it."
)
SCORE_ADVICE: Mapping[ScoreOutcome, str] = {
    "non-inferior": "Its score holds within the margin on this task; nothing else was judged.",
    "inferior": "Don't ship it for this task: its score falls by more than the margin.",
    "inconclusive": "Not decided: ask more questions before shipping it on this evidence.",
}


def document(runs: Sequence[NamedRun], sparsity: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What the page shows of each run. sparsity: as measured, by arm; one mapping per run."""
    parts = [_run(run, found) for run, found in zip(runs, sparsity, strict=True)]
    return {"anomia": __version__, "title": _title(parts), "runs": parts}


def _title(parts: Sequence[Mapping[str, Any]]) -> str:
    judged = [(part["base"], arm["name"]) for part in parts for arm in part["arms"]]
    compressed = [(base, arm) for base, arm in judged if not is_null(arm)]
    arms = [arm for _, arm in compressed]
    bases = list(dict.fromkeys(base for base, _ in compressed or judged))
    what = arms[0] if len(arms) == 1 else f"{len(arms)} compressions"
    whose = bases[0] if len(bases) == 1 else f"{len(bases)} models"
    whose = shortened(whose, LONGEST_NAME)
    if not arms:
        return f"What harmless noise does to {whose}"
    return f"What {shortened(what, LONGEST_NAME)} took from {whose}"


def _run(run: NamedRun, sparsity: Mapping[str, float]) -> dict[str, Any]:
    results, located = run.results, {each.arm: each for each in run.located}
    figures = lookup(results.diagnosis.figures)
    tables = _by_section((table.section, plain(table.make(results))) for table in RUNS)
    return {
        "name": run.name,
        "base": model_name(results.study.get("base", "?")),
        "at_length": not results.has_formats,
        "noise": list(_noise(results)),
        "facts": facts(results, sparsity),
        "command": command(results.study),
        "arms": [_arm(results, arm, located.get(arm)) for arm in candidates(results.arms)],
        "reference": _reference(results, figures),
        "tables": {section: found for section, found in tables.items() if found},
        "unfinished": list(_unfinished(results)),
        "failed": [[arm, reason] for arm, reason in results.failed.items()],
        "notes": [[arm, note] for arm, notes in results.notes.items() for note in notes],
        "broken": [[arm, count] for arm, count in results.broken.items()],
    }


def _unfinished(results: Results) -> Iterator[list[str]]:
    """Each arm that may still answer more, and its progress; an arm that was stopped on purpose is done."""
    stopped = (results.stopping or {}).get("arms", {})
    for arm in dict.fromkeys([*results.arms, *results.named]):
        if arm in results.failed or arm in stopped:
            continue
        text = unfinished_text(results, arm) if arm in results.arms else "no items are answered yet"
        if text:
            yield [arm, text]


def _arm(results: Results, arm: str, located: Located | None) -> dict[str, Any]:
    of = arm_results(results, arm)
    looks = (results.stopping or {}).get("arms", {}).get(arm, ())
    unsaid = sum(
        f.counts.choice_only
        for f in results.diagnosis.fates
        if (f.arm, f.options) == (arm, "choice") and f.scope != POOLED
    )
    return {
        "name": arm,
        "null": is_null(arm),
        "verdict": _verdict(results.overall(arm), results.verdicts_of(arm)),
        "unsaid": unsaid,
        "stopping": [stopping_text(look) for look in looks],
        "accuracies": _accuracies(results, of.figures, arm),
        "excluded": _excluded(results),
        "tables": _by_section((table.section, plain(table.make(of))) for table in ARMS)
        | {"located": [] if located is None else _located(located)},
        "located": "" if located is None else _sentences(located.sentence),
    }


def _located(found: Located) -> list[dict[str, Any]]:
    return [part for table in located_tables(found) for part in plain(table)]


def _by_section(found: Iterable[tuple[str, list[dict[str, Any]]]]) -> dict[str, list[dict[str, Any]]]:
    """Tables by the section that shows them."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for section, tables in found:
        sections.setdefault(section, []).extend(tables)
    return sections


def _verdict(overall: ScopeVerdict, mine: Sequence[ScopeVerdict]) -> dict[str, Any]:
    return {
        "outcome": overall.decision.outcome,
        "label": decided(overall),
        "word": overall.word,
        "headline": overall.words.headline,
        "rest": _sentences(overall.words._replace(headline="", reason="").text),
        "advice": _advice(overall),
        "why": _sentences(overall.why),
        "standard": with_options(overall, overall.standard),
        "same_passage": with_options(overall, overall.same_passage),
        # The notes are parts of the texts.
        "outcomes": plain(outcomes(mine)._replace(notes=())),
        "texts": [
            [shortened(verdict.scope, LONGEST_NAME), _sentences(verdict.words._replace(reason="").text)]
            for verdict in mine
            if verdict.scope != OVERALL
        ],
    }


def _sentences(text: str) -> str:
    return shortened(text, LONGEST_TEXT).replace(" %", "\u00a0%")


def _advice(verdict: ScopeVerdict) -> str:
    """What to do, in one sentence."""
    if is_null(verdict.arm):
        return NOISE_ADVICE
    if verdict.score is not None:
        return SCORE_ADVICE[verdict.score]
    outcome = verdict.decision.outcome
    return (
        OPEN_FELL
        if outcome == "inconclusive" and verdict.decision.open == "falls"
        else OUTCOMES[outcome].advice
    )


def _reference(results: Results, figures: Lookup) -> list[dict[str, Any]]:
    """The null arms of a run that also has others: the effect of noise alone."""
    if candidates(results.arms) == list(results.arms):
        return []
    return [
        {
            "name": arm,
            "outcome": decided(results.overall(arm)),
            "changes": [_shown(figures.get((arm, measure, POOLED))) for measure in _noise(results).values()],
        }
        for arm in nulls(results.arms)
    ]


def _noise(results: Results) -> dict[str, measures.Measure]:
    """The measures of noise, by their header; none if only long answers were asked."""
    if not results.has_formats:
        return {}
    return {
        "net dissociation (%)": measures.net_dissociation("choice"),
        **{f"flips, {short(name)} (%)": measures.flips(name) for name in FORMATS},
    }


def _accuracies(results: Results, figures: Lookup, arm: str) -> list[list[Any]]:
    """Label, base's accuracy and the arm's, for the two formats that the verdict compares.

    Both are figures from the tables: over the items that the arm has answered and that were graded.
    """
    asked = results.records.filter(pl.col("arm") == arm)
    if not results.has_formats:
        shown = (
            ("open", "unended", "Long answers that never end"),
            ("choice", "looped", "Long answers that loop"),
        )
        return [
            [
                color,
                label,
                _value(before(figures, arm, long(name), POOLED)),
                _value(figures.get((arm, long(name), POOLED))),
            ]
            for color, name, label in shown
        ]
    labels: tuple[tuple[str, str], ...] = (
        ("open", "Answers when asked"),
        ("choice", f"Picks it out of {_options(asked)}"),
    )
    decided = results.overall(arm).decided_by
    if decided != "choice":
        labels = (*labels, (decided, f"With {LABELS.get(decided, decided)}"))
    found = []
    for probe, label in labels:
        measure = measures.accuracy(probe)
        pair = before(figures, arm, measure, POOLED), figures.get((arm, measure, POOLED))
        found.append([probe, label, *map(_value, pair)])
    return found


def _value(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "shown": _shown(estimate),
        "n": estimate.n,
    }


def _shown(estimate: Estimate | None) -> str:
    """The figure without a star."""
    return shown(None if estimate is None else estimate._replace(checked=True))


def _excluded(results: Results) -> list[str]:
    """The languages that pooled figures exclude because base is too weak there."""
    return [shortened(name, LONGEST_NAME) for name in results.excluded_languages]


def _options(records: pl.DataFrame) -> str:
    """The number of options, as in `four options`, if all questions have the same number, else `the options`."""
    numbers = records["choice_scores"].drop_nulls().list.len().unique().to_list()
    if len(numbers) != 1:
        return "the options"
    words = {
        2: "two",
        3: "three",
        4: "four",
        5: "five",
        6: "six",
        7: "seven",
        8: "eight",
        9: "nine",
        10: "ten",
    }
    return f"{words.get(numbers[0], numbers[0])} options"
