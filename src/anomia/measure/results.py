"""`RUN/results.json`: every figure of a run, and what it was measured on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl

from anomia.arms import find_arm
from anomia.compress.spec import parse_arm
from anomia.errors import AnomiaError, RunError, StudyError, nearest
from anomia.items.languages import UNKNOWN, language_name
from anomia.items.sets import set_of
from anomia.measure.between import BASE, frontier_rows
from anomia.measure.diagnosis import diagnose
from anomia.measure.evidence import OVERALL
from anomia.measure.fallbacks import FallbackRow, fallbacks
from anomia.measure.figures import Diagnosis, FrontierRow, find, lookup
from anomia.measure.frame import KEY, MEAN, POOLED, arms_of, pair, prepare
from anomia.measure.hygiene import HygieneRow, hygiene
from anomia.measure.judge import ScopeVerdict, judge
from anomia.measure.long_answers import long_words
from anomia.measure.older import with_scorings
from anomia.measure.packaging import PackagingRow, packaging
from anomia.measure.rates import Estimate
from anomia.measure.repaired import RepairedRow, repaired_rows
from anomia.measure.schema import SCHEMA_VERSION, ResultsFile, written
from anomia.measure.scope import Scope, has_formats, scope_of
from anomia.measure.scores import SCORE, ScoreRow, score_words, scores
from anomia.measure.verdict import Thresholds
from anomia.models.difference import Difference
from anomia.notes import ASKED, CONFOUNDING, read_differences, read_notes, read_unlike
from anomia.records import upgrade
from anomia.run_folder import RunFolder

# Items that a reader may exclude: the column that marks them, and why.
EXCLUDABLE: Mapping[str, str] = {
    "gold_in_question": "the question contains an accepted answer, so that repeating the question is graded as right",
    "gold_over_limit": "every accepted answer is longer than the most tokens that are generated",
}


class Results(NamedTuple):
    """A run's figures and what they were measured on.

    scope: the languages that pooled figures and overall verdicts cover, and the options that decide verdicts.
    exclude: kinds of items excluded on request. excluded: how many items of each kind were excluded; None if no item
    was checked for it.

    failed: why an arm could not be made, by arm. broken: the number of items with NaN or infinite logits, by arm that
    has any. stopping: with `--until-width`, when and why each arm stopped.
    notes: what a reader should know about an arm: another tokenizer, probes that a server can't answer.
    differences: what differs from base besides the weights, by arm. packaging: how much of a loss that explains.
    repaired: how much of a loss each repaired arm gives back. fallbacks: how much other decoding does.
    scores: of tasks with graded answers, the drop of each score against a margin.
    besides: by arm, a sentence on what besides its weights may have cost it answers.
    """

    study: Mapping[str, Any]
    records: pl.DataFrame
    diagnosis: Diagnosis
    verdicts: Sequence[ScopeVerdict]
    thresholds: Thresholds
    frontier: Sequence[FrontierRow]
    hygiene: Sequence[HygieneRow]
    failed: Mapping[str, str]
    broken: Mapping[str, int]
    noise: Mapping[str, Any] | None
    stopping: Mapping[str, Any] | None
    notes: Mapping[str, Sequence[str]] = {}
    scope: Scope | None = None
    exclude: tuple[str, ...] = ()
    excluded: Mapping[str, int | None] = {}
    differences: Mapping[str, Sequence[Difference]] = {}
    packaging: Sequence[PackagingRow] = ()
    repaired: Sequence[RepairedRow] = ()
    fallbacks: Sequence[FallbackRow] = ()
    besides: Mapping[str, str] = {}
    scores: Sequence[ScoreRow] = ()

    def estimate(self, measure: str, arm: str, scope: str = POOLED) -> Estimate | None:
        """A figure with its interval; None if it was not asked or can't be given.

        scope: a language, `pooled` or `mean`.

        Raises:
            RunError: there is no such measure, or the run has no such arm or scope.
        """
        arm = find_arm(
            arm, dict.fromkeys([BASE, *self.arms, *self.named, *self.failed]), where="results: the run"
        )
        scopes = [*self.languages, POOLED, MEAN]
        if scope not in scopes:
            raise RunError(f"results: the run has no scope {scope!r}; {nearest(scope, scopes)}")
        return find(self.diagnosis.figures, arm, measure, scope)

    def verdicts_of(self, arm: str) -> list[ScopeVerdict]:
        """An arm's verdicts in each language, and last overall."""
        return [verdict for verdict in self.verdicts if verdict.arm == arm]

    def overall(self, arm: str) -> ScopeVerdict:
        """A measured arm's verdict over all languages."""
        return next(verdict for verdict in self.verdicts_of(arm) if verdict.scope == OVERALL)

    @property
    def excluded_languages(self) -> tuple[str, ...]:
        """Languages that pooled figures and overall verdicts exclude because base is too weak there."""
        return () if self.scope is None else self.scope.excluded

    @property
    def has_formats(self) -> bool:
        """Whether open or choice was asked, not only long answers."""
        return has_formats(self.records)

    @property
    def arms(self) -> list[str]:
        """The measured arms, without base, in the order of the study."""
        return arms_of(self.records)

    @property
    def named(self) -> list[str]:
        """The arms that the study names, measured or not."""
        return _named(self.study)

    @property
    def languages(self) -> list[str]:
        """All languages of the run."""
        return sorted(self.records["language"].unique())


def read_results(
    run: Path, *, thresholds: Thresholds | None = None, exclude: Sequence[str] | None = None
) -> Results:
    """Compute a run's figures from its records.

    thresholds: margins of the verdicts. exclude: kinds of items to exclude, names of `EXCLUDABLE`. If either is None,
    the value from the run's last results is used, or else the default.

    Raises:
        RunError: the folder is not a run, or excluding leaves no items.
        StudyError: a kind of items is unknown.
    """
    folder = RunFolder(run)
    folder.check_is_run()
    study = folder.study()
    provenance = study.get("provenance", {})
    records = in_study_order(folder.records(), study)
    if folder.has_items:
        items = folder.items()
        records = with_scorings(records, items)
        ungraded = pl.col("open_strict").is_null() & pl.col("open_text").is_not_null()
        if not records.filter(ungraded & pl.col("open_score").is_null()).is_empty():
            records = upgrade(records, items)
    noise = folder.noise.read()
    broken = records.filter(~pl.col("finite")).group_by("arm").len()
    arms = folder.arms.read() or {}
    before = folder.results.read() or {}
    margins = thresholds or Thresholds(**before.get("thresholds", {}))
    kinds = read_exclude(before.get("exclude", ()) if exclude is None else exclude)
    records, excluded = _without(records, kinds)
    differences = read_differences(folder)
    besides = besides_weights(records, differences, read_unlike(folder))
    diagnosis = diagnose(
        records, vocabulary=provenance.get("vocabulary"), vocabularies=read_vocabularies(run)
    )
    scored = scores(records, _parts(study), margin=margins.score)
    # Right and wrong answers have an outcome of their own.
    alone = (
        () if records["open_correct"].is_not_null().any() else [row for row in scored if row.part == SCORE]
    )
    return Results(
        study=study,
        records=records,
        diagnosis=diagnosis,
        verdicts=[
            _told(verdict, besides, diagnosis, alone) for verdict in judge(records, thresholds=margins)
        ],
        thresholds=margins,
        frontier=frontier_rows(
            diagnosis.figures, arms_of(records), read_sparsity(run), read_sizes(run, provenance)
        ),
        hygiene=hygiene(records, provenance, noise),
        failed={arm: entry["failed"] for arm, entry in arms.items() if entry["failed"]},
        broken=dict(broken.iter_rows()),
        noise=noise,
        stopping=folder.stopping.read(),
        notes=read_notes(folder),
        scope=scope_of(prepare(records)) if has_formats(records) else None,
        exclude=kinds,
        excluded=excluded,
        differences=differences,
        packaging=packaging(records),
        repaired=repaired_rows(records, read_made(folder, study), read_calibrated(folder)),
        fallbacks=fallbacks(records),
        besides=besides,
        scores=scored,
    )


def _parts(study: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the parts of a task's grade; empty if the data set is not a task."""
    source = set_of(str(study.get("data", "")))
    return source.task.parts if source is not None and source.task is not None else ()


def besides_weights(
    records: pl.DataFrame,
    differences: Mapping[str, Sequence[Difference]],
    unlike: Mapping[str, str],
) -> dict[str, str]:
    """What besides its weights may have cost an arm answers: one sentence for each arm that this applies to.

    differences: what differs from base besides the weights, by arm. unlike: how an arm was asked, if not like base.
    """
    found: dict[str, str] = {}
    for arm in arms_of(records):
        confounding = [row for row in differences.get(arm, ()) if row.kind == CONFOUNDING]
        kept = [row.what for row in confounding if row.part != ASKED]
        asked = [row.what for row in confounding if row.part == ASKED]
        reasons = []
        if arm in unlike:
            pairs = pair(records.select("arm", *KEY, "prompt_hash"), arm)
            other = pairs.filter(pl.col("prompt_hash") != pl.col("prompt_hash_arm"))
            if asked or len(other):
                differs = f", and differs from base in {', '.join(asked)}" if asked else ""
                ids = (
                    f" ({len(other)} of {len(pairs)} items were given different token ids)"
                    if len(other)
                    else ""
                )
                reasons.append(f"{unlike[arm]}{differs}{ids}")
        if kept:
            reasons.append(f"its {', '.join(kept)} differ from base's and were measured as they are")
        if reasons:
            found[arm] = f"Its losses are not due to the weights alone: {'; '.join(reasons)}."
    return found


def _told(
    verdict: ScopeVerdict,
    besides: Mapping[str, str],
    diagnosis: Diagnosis,
    scored: Sequence[ScoreRow],
) -> ScopeVerdict:
    """The verdict with what its long answers show and what besides the weights may have cost answers.

    scored: the scores of a task without right and wrong.
    """
    scope = POOLED if verdict.scope == OVERALL else verdict.scope
    row = next((row for row in scored if (row.arm, row.scope) == (verdict.arm, scope)), None)
    if row is not None and (instead := score_words(row)):
        if verdict.outcome == "broken":
            verdict = verdict._replace(words=verdict.words.with_note(instead))
        else:
            words = verdict.words._replace(headline=instead, figures=(), remarks=(), reason="", others=())
            verdict = verdict._replace(words=words, why="", score=row.outcome)
    finding, remark = long_words(verdict.arm, lookup(diagnosis.figures), diagnosis.damage, scope)
    words = verdict.words
    if finding:
        words = words._replace(headline=f"{words.headline} {finding}")
    return verdict._replace(words=words.with_note(remark).with_note(besides.get(verdict.arm, "")))


def read_exclude(names: Sequence[str]) -> tuple[str, ...]:
    """Kinds of items to exclude, without duplicates.

    Raises:
        StudyError: a kind is unknown.
    """
    for name in names:
        if name not in EXCLUDABLE:
            raise StudyError(f"exclude: unknown kind of items {name!r}; {nearest(name, EXCLUDABLE)}")
    return tuple(dict.fromkeys(names))


def _without(records: pl.DataFrame, kinds: Sequence[str]) -> tuple[pl.DataFrame, dict[str, int | None]]:
    """The records without the items marked in base's rows, and how many each kind marks; None if not checked for."""
    base = records.filter(pl.col("arm") == BASE)
    marked = {kind: base.filter(pl.col(kind)).select(KEY) for kind in kinds}
    kept = records
    for keys in marked.values():
        kept = kept.join(keys, on=KEY, how="anti", maintain_order="left")
    if kept.is_empty() and not records.is_empty():
        raise RunError(f"run: excluding {', '.join(kinds)} leaves no item; exclude less")
    looked_at = {kind for kind in kinds if base[kind].is_not_null().any()}
    return kept, {kind: len(keys) if kind in looked_at else None for kind, keys in marked.items()}


def read_vocabularies(run: Path) -> dict[str, int]:
    """Vocabulary size of each arm, in tokens, where the run knows it."""
    return {
        report["arm"]: report["vocabulary"]
        for report in RunFolder(run).compression.all()
        if isinstance(report.get("vocabulary"), int)
    }


def read_made(run: RunFolder, study: Mapping[str, Any]) -> dict[str, str]:
    """The steps with which `anomia compress` or `repair` made checkpoints from the study's base, by arm."""
    base = str(study.get("base", ""))
    found = {}
    for report in run.compression.all():
        made = report.get("made_from")
        if isinstance(made, Mapping) and "arm" in report and _same_place(str(made.get("base")), base):
            found[str(report["arm"])] = str(made.get("arm"))
    return found


def read_calibrated(run: RunFolder) -> dict[str, frozenset[str]]:
    """The languages of each arm's calibration text, where all of it has one; of a chain, those of its last text."""
    found: dict[str, frozenset[str]] = {}
    for report in run.compression.all():
        made = report.get("made_from") or {}
        texts = [list(made.get("languages", ()))]
        texts += [
            list(text.get("tokens_by_language", ()))
            for step in report.get("steps", ())
            if (text := step.get("calibration"))
        ]
        languages = frozenset(map(language_name, next((text for text in reversed(texts) if text), ())))
        if languages and UNKNOWN not in languages and "arm" in report:
            found[str(report["arm"])] = found.get(str(report["arm"]), frozenset()) | languages
    return found


def _same_place(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def in_study_order(records: pl.DataFrame, study: Mapping[str, Any]) -> pl.DataFrame:
    """Base's rows first, then the other arms' in the order of the study."""
    names = order_of(records["arm"].unique(maintain_order=True), study)
    place = pl.col("arm").replace_strict({name: n for n, name in enumerate(names)}, return_dtype=pl.Int32)
    return records.sort(place, maintain_order=True)


def order_of(arms: Iterable[str], study: Mapping[str, Any]) -> list[str]:
    """These arms: base first, then the others in the order of the study, then those that it doesn't name."""
    found = list(arms)
    return [arm for arm in dict.fromkeys([BASE, *_named(study), *found]) if arm in found]


def _named(study: Mapping[str, Any]) -> list[str]:
    return [_arm_name(str(text)) for text in study.get("arms") or ()]


def _arm_name(text: str) -> str:
    """The name in the records of an arm that the study writes like this; arms of other tools keep their text."""
    try:
        return parse_arm(text).name
    except AnomiaError:
        return text


def read_sparsity(run: Path) -> dict[str, float]:
    """Measured sparsity of each pruned arm: zeros over weights in the pruned matrices.

    For a chain, that of the sparsest step; for masks per language, their mean.
    """
    found: dict[str, list[float]] = {}
    for report in RunFolder(run).compression.all():
        sparsest = max((float(step["sparsity"]) for step in report.get("steps", ())), default=0.0)
        if sparsest > 0 and "arm" in report:
            found.setdefault(report["arm"], []).append(sparsest)
    return {arm: fmean(values) for arm, values in found.items()}


def read_sizes(run: Path, provenance: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of the stored weights of base and of each arm, where the run knows them.

    If each language has its own mask, the arm is as large as the largest of its models.
    """
    found: dict[str, int] = {}
    for report in RunFolder(run).compression.all():
        if isinstance(report.get("size_bytes"), int) and "arm" in report:
            found[report["arm"]] = max(report["size_bytes"], found.get(report["arm"], 0))
    if isinstance(provenance.get("size_bytes"), int):
        found["base"] = provenance["size_bytes"]
    return found


def results_json(results: Results) -> dict[str, Any]:
    """Plain values, as described in `docs/results.md`, validated against the schema."""
    found = {
        name: _plain(getattr(results if hasattr(results, name) else results.diagnosis, name))
        for name in ResultsFile.model_fields
        if name != "schema_version"
    }
    # Verdicts are rows already: each of their fields is read from the attribute of that name.
    file = ResultsFile.model_validate({"schema_version": SCHEMA_VERSION, **found}, from_attributes=True)
    return file.model_dump(mode="json")


def _plain(value: Any) -> Any:
    """Rows as they are written, also within tuples and mappings."""
    if isinstance(value, ScopeVerdict):
        return value
    if is_dataclass(value) or hasattr(value, "_asdict"):
        return written(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
