"""The Python API: a study in one call, its results as data frames and charts.

    run = anomia.run(base="Qwen/Qwen3-8B", arms=["wanda:0.5"], data="tydiqa", languages=["swahili"])
    run.verdict
    run.items(fate="choice_only")

Slow imports happen on first use.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomia.arms import find_arm
from anomia.errors import AnomiaError, RunError, nearest

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

    from anomia.locate.located import Located
    from anomia.measure.judge import ScopeVerdict
    from anomia.measure.rates import Estimate
    from anomia.measure.results import Results
    from anomia.running.progress import PlainProgress, RichProgress


@dataclass(frozen=True, slots=True)
class InMemory:
    """A model already in memory, and its tokenizer. name: its name in tables."""

    model: Any
    tokenizer: Any
    name: str = "model"


Model = str | Path | InMemory | tuple[Any, Any]
"""A hub id, a folder or a GGUF file; or a `transformers` model and its tokenizer."""


class ByArm(dict[str, "Verdict"]):
    """Verdicts by arm. A checkpoint's arm is also found by its model alone, or by its given name."""

    def __missing__(self, name: str) -> Verdict:
        return self[find_arm(name, self, where="run: this one")]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one arm, overall and in each language."""

    overall: ScopeVerdict
    languages: tuple[ScopeVerdict, ...]

    @property
    def arm(self) -> str:
        """The arm's name."""
        return self.overall.arm

    @property
    def outcome(self) -> str:
        """A name in `anomia.measure.outcomes.OUTCOMES`: intact, illusion, loss, …"""
        return self.overall.outcome

    @property
    def same_passage(self) -> str | None:
        """The outcome with options from the same passage; None without such options."""
        return self.overall.same_passage_outcome

    @property
    def text(self) -> str:
        """The verdict in words."""
        return self.overall.text

    @property
    def by_language(self) -> dict[str, str]:
        """The outcome in each language."""
        return {verdict.scope: verdict.outcome for verdict in self.languages}

    def __repr__(self) -> str:
        return f"{self.arm}: {self.outcome}. {self.text}"

    def _repr_html_(self) -> str:
        from anomia.report.render.html import html
        from anomia.report.tables.verdicts import outcomes

        head = f"<b>{escape(self.arm)}: {escape(self.outcome)}</b><p>{escape(self.text)}</p>"
        return f"<div>{head}{html(outcomes([*self.languages, self.overall]))}</div>"


class Run:
    """A run on disk: its verdicts, records and estimates, computed on first access."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def results(self) -> Results:
        """Everything computed from the records."""
        from anomia.measure.results import read_results

        return read_results(self.path)

    @property
    def arms(self) -> list[str]:
        """The measured arms, without base."""
        return self.results.arms

    @property
    def languages(self) -> list[str]:
        """The measured languages."""
        return self.results.languages

    @property
    def failed(self) -> dict[str, str]:
        """By arm, why it could not be made or measured to the end."""
        return dict(self.results.failed)

    @property
    def notes(self) -> dict[str, list[str]]:
        """By arm, caveats for its results: another tokenizer, probes that a server can't answer."""
        return {arm: list(notes) for arm, notes in self.results.notes.items()}

    @property
    def verdicts(self) -> ByArm:
        """The verdict of each arm.

        Raises:
            RunError: when looking up an arm that the run doesn't have.
        """
        found = ByArm()
        for arm in self.arms:
            *languages, overall = self.results.verdicts_of(arm)
            found[arm] = Verdict(overall, tuple(languages))
        return found

    @property
    def verdict(self) -> Verdict:
        """The verdict of the only arm.

        Raises:
            RunError: the run doesn't have exactly one arm; use `verdicts`.
        """
        verdicts = self.verdicts
        if len(verdicts) != 1:
            names = ", ".join(verdicts) or "none was measured"
            raise RunError(f"run: {self.path} has {len(verdicts)} arms ({names}); use run.verdicts[ARM]")
        return next(iter(verdicts.values()))

    @property
    def records(self) -> pl.DataFrame:
        """One row per arm and item, with its `fate`; `docs/results.md` describes the columns."""
        from anomia.measure.recognition import with_fates

        return with_fates(self.results.records)

    def estimate(self, measure: str, arm: str, scope: str = "pooled") -> Estimate | None:
        """One estimate with its 95 % interval; None if it was not measured or can't be computed.

        Args:
            measure: its name, as in `estimates()`.
            arm: `base` or a measured arm.
            scope: a language, `pooled` (all items of the languages in which base is strong enough) or `mean`.

        Raises:
            RunError: the measure doesn't exist, or the run has no such arm or scope.
        """
        return self.results.estimate(measure, arm, scope)

    def estimates(self) -> pl.DataFrame:
        """All estimates with 95 % intervals: arm, measure, scope, value, low, high, n, clusters, method, checked."""
        import polars as pl

        rows = [
            {
                "arm": figure.arm,
                "measure": str(figure.measure),
                "scope": figure.scope,
                **(figure.estimate._asdict() if figure.estimate is not None else {}),
            }
            for figure in self.results.diagnosis.figures
        ]
        schema = {
            "arm": pl.String, "measure": pl.String, "scope": pl.String, "value": pl.Float64, "low": pl.Float64,
            "high": pl.Float64, "n": pl.Int64, "clusters": pl.Int64, "method": pl.String, "checked": pl.Boolean,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema)

    def fates(self) -> pl.DataFrame:
        """Counts of fates by arm, options and scope, with the dissociation rate and its interval."""
        import polars as pl

        from anomia.measure.fates import FATES
        from anomia.measure.figures import lookup
        from anomia.measure.measures import dissociation

        estimates = lookup(self.results.diagnosis.figures)
        rows = []
        for arm, options, scope, counts in self.results.diagnosis.fates:
            rate = estimates.get((arm, dissociation(options), scope))
            rows.append(
                {
                    "arm": arm,
                    "options": options,
                    "scope": scope,
                    "both_correct": counts.both_correct,
                    **counts._asdict(),
                    "dissociation": None if rate is None else rate.value,
                    "low": None if rate is None else rate.low,
                    "high": None if rate is None else rate.high,
                }
            )
        counted = ["both_correct", *FATES]
        return pl.DataFrame(
            rows,
            schema=dict.fromkeys(["arm", "options", "scope"], pl.String)
            | dict.fromkeys(counted, pl.Int64)
            | dict.fromkeys(["dissociation", "low", "high"], pl.Float64),
        )

    def items(
        self, *, fate: str | None = None, arm: str | None = None, language: str | None = None
    ) -> pl.DataFrame:
        """Items by arm: the question, and what base and the arm answered and picked.

        Args:
            fate: kept, choice_only, open_only or lost; None for all items.
            arm: None for all arms.
            language: a name or a code; None for all.

        Raises:
            RunError: the run has no such arm or language, or the fate is unknown.
        """
        import polars as pl

        from anomia.items.languages import language_name
        from anomia.measure.fates import FATES
        from anomia.measure.frame import KEY

        records = self.records
        if fate is not None and fate not in FATES:
            raise RunError(f"items: unknown fate {fate!r}; {nearest(fate, FATES)}")
        arm = None if arm is None else find_arm(arm, self.arms, where=f"items: {self.path}")
        wanted = None if language is None else language_name(language)
        if wanted is not None and wanted not in self.languages:
            raise RunError(
                f"items: {self.path} has no language {wanted!r}; {nearest(wanted, self.languages)}"
            )
        base = records.filter(pl.col("arm") == "base").select(
            *KEY, base_answer=pl.col("open_text"), base_picked=pl.col("choice_pick")
        )
        chosen = records.filter(
            pl.col("arm") != "base",
            pl.lit(True) if fate is None else pl.col("fate") == fate,
            pl.lit(True) if arm is None else pl.col("arm") == arm,
            pl.lit(True) if wanted is None else pl.col("language") == wanted,
        )
        return chosen.join(base, on=KEY, how="left", maintain_order="left").select(
            "arm", "language", "item_id", "fate", "question", "gold", "base_answer", "base_picked",
            answer=pl.col("open_text"), picked=pl.col("choice_pick"),
        )  # fmt: skip

    def chart(self, name: str) -> alt.TopLevelMixin:
        """A figure as an Altair chart: `ladder`, `fates_flow`, `figure1` … (`anomia.report.figures.FIGURES`).

        Raises:
            RunError: the figure doesn't exist, or the run lacks its data.
        """
        from anomia.report.figures import NamedRun, draw

        return draw(name, [NamedRun(self.path.name, self.results)]).chart

    def figures(self) -> pl.DataFrame:
        """The old name of `estimates`; to be removed in the next release."""
        warnings.warn("Run.figures() is now Run.estimates()", DeprecationWarning, stacklevel=2)
        return self.estimates()

    def figure(self, name: str) -> alt.TopLevelMixin:
        """The old name of `chart`; to be removed in the next release."""
        warnings.warn("Run.figure() is now Run.chart()", DeprecationWarning, stacklevel=2)
        return self.chart(name)

    def locate(self, arm: str | None = None, *, progress: bool = True, **settings: Any) -> Located:
        """Locates the damage of an arm: which weights, if restored, recover its answers. Loads both models.

        Args:
            arm: None for the only arm.
            progress: whether to show progress.
            settings: fields of `anomia.locate.located.LocateOptions` (`among`, `items`, `points`, …).

        Raises:
            AnomiaError: the arm can't be located; the message says why.
        """
        from anomia.locate.find import locate_arm
        from anomia.locate.located import LocateOptions
        from anomia.running.progress import PlainProgress

        name = self.verdict.arm if arm is None else arm
        known = {field.name for field in fields(LocateOptions)}
        unknown = [key for key in settings if key not in known]
        if unknown:
            raise RunError(f"locate: unknown setting {unknown[0]!r}; {nearest(unknown[0], known)}")
        with _shown() if progress else PlainProgress(lambda text: None) as shown:
            return locate_arm(self.path, name, LocateOptions(**settings), shown)

    def report(self, out: str | Path | None = None) -> Path:
        """Writes the report and returns the path of its page, which opens offline.

        out: a folder; None means `RUN/report`.
        """
        from anomia.report.page.build import write_report
        from anomia.run_folder import RunFolder

        folder = RunFolder(self.path).report_folder if out is None else Path(out)
        return write_report([self.path], folder, results=[self.results]).page

    def __repr__(self) -> str:
        lines = [f"Run({str(self.path)!r}): {', '.join(self.languages)}"]
        lines += [repr(verdict) for verdict in self.verdicts.values()]
        lines += [f"{arm}: not measured: {reason}" for arm, reason in self.failed.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [f"<p><code>{escape(str(self.path))}</code>: {escape(', '.join(self.languages))}</p>"]
        parts += [verdict._repr_html_() for verdict in self.verdicts.values()]
        for arm, notes in {
            **self.notes,
            **{a: [f"not measured: {r}"] for a, r in self.failed.items()},
        }.items():
            parts += [f"<p>{escape(arm)}: {escape(note)}</p>" for note in notes]
        return "\n".join(parts)


def run(
    *,
    base: Model,
    arms: Sequence[Model] | Mapping[str, InMemory | tuple[Any, Any]],
    data: str | Path = "demo",
    languages: Sequence[str] | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Measures base and every arm, and reports what was lost.

    Args:
        base: the uncompressed model: a hub id, a folder, a GGUF file, or a model with its tokenizer.
        arms: specifications (`wanda:0.5`, `checkpoint:MODEL`, `endpoint:URL#MODEL`), folders as paths, or models
            with their tokenizers; a mapping gives names to models in memory.
        data: the questions: `tydiqa`, `mc:FILE`, `demo`, … as for `anomia run`.
        languages: names or codes; None for all.
        limit: items per language; None for the study's default, 200.
        out: the run folder; an existing run is resumed. None creates a temporary folder.
        progress: whether to show progress.
        settings: any other key of a study file (`seed`, `probes`, `calibration`, `prompts`, …).

    Raises:
        AnomiaError: the study, the data or base can't be used, or no arm could be measured.

    Models in memory are copied for the measurement, so compression and device moves don't affect yours.
    """
    from anomia.measure.results import results_json
    from anomia.models.memory import let_go
    from anomia.run_folder import RunFolder
    from anomia.running.execute import run_study
    from anomia.running.progress import PlainProgress
    from anomia.study import read_study

    if isinstance(languages, str):
        raise AnomiaError(f"study: languages is a list, as in languages=[{languages!r}]")
    given = {"languages": None if languages is None else tuple(languages), "limit": limit, **settings}
    names = [_name(base, "base"), *_arm_names(arms)]
    try:
        study = read_study(
            None,
            {
                "base": names[0],
                "arms": tuple(names[1:]),
                "data": str(data),
                **{key: value for key, value in given.items() if value is not None},
            },
        )
        folder = Path(tempfile.mkdtemp(prefix="anomia-")) if out is None else Path(out)
        with _shown() if progress else PlainProgress(lambda text: None) as shown:
            outcomes = run_study(study, folder, progress=shown)
    finally:
        let_go(name.removeprefix("checkpoint:").removeprefix("packaged:") for name in names)
    failed = [
        f"arm {outcome.arm} was not measured: {outcome.failed}" for outcome in outcomes if outcome.failed
    ]
    found = Run(folder)
    if failed and not found.arms:
        raise AnomiaError("\n".join(failed))
    RunFolder(folder).results.write(results_json(found.results))
    return found


def open_run(path: str | Path) -> Run:
    """Opens a run on disk.

    Raises:
        RunError: the folder is not a run, or has the runs of several cells.
    """
    from anomia.run_folder import RunFolder, runs_of

    runs = runs_of(Path(path))
    if len(runs) > 1:
        raise RunError(f"run: {path} holds {len(runs)} runs; open one: {', '.join(map(str, runs))}")
    found = Run(runs[0])
    RunFolder(found.path).check_is_run()
    return found


def _shown() -> RichProgress | PlainProgress:
    """Progress bars in a terminal or notebook, lines elsewhere."""
    from rich.console import Console

    from anomia.running.progress import PlainProgress, RichProgress

    console = Console(stderr=True)
    return RichProgress(console) if console.is_terminal or console.is_jupyter else PlainProgress()


def _name(model: Model, label: str) -> str:
    return str(model) if isinstance(model, (str, Path)) else _hold(model, label)


def _arm_names(arms: Sequence[Model] | Mapping[str, InMemory | tuple[Any, Any]]) -> list[str]:
    from anomia.compress.steps import Checkpoint

    if isinstance(arms, str):
        raise AnomiaError(f"study: arms is a list, as in arms=[{arms!r}]")
    if isinstance(arms, Mapping):
        for name, arm in arms.items():
            if isinstance(arm, (str, Path)):
                raise AnomiaError(
                    f"study: arms gives names to models in memory; {name!r} is an arm already: {arm}"
                )
        return [str(Checkpoint(_hold(arm, name))) for name, arm in arms.items()]
    return [arm if isinstance(arm, str) else str(Checkpoint(_name(arm, "model"))) for arm in arms]


def _hold(model: InMemory | tuple[Any, Any], name: str) -> str:
    from anomia.models.memory import hold

    if isinstance(model, InMemory):
        return hold(model.model, model.tokenizer, name=model.name)
    try:
        network, tokenizer = model
    except (TypeError, ValueError):
        raise AnomiaError(
            f"study: {type(model).__name__} is not a model: give its name, or (model, tokenizer)"
        ) from None
    if not hasattr(network, "config") or not callable(tokenizer):
        raise AnomiaError("study: a model in memory is given as (model, tokenizer), of `transformers`")
    return hold(network, tokenizer, name=name)
