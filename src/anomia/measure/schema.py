"""The shape of `RUN/results.json`, from which its JSON Schema is made."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from anomia.measure.figures import GradingRow
from anomia.measure.outcomes import Outcome
from anomia.measure.rates import Estimate

SCHEMA_VERSION = 2
# Fields of rows whose own fields stand in the row.
_SPREAD = ("estimate", "counts", "test")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Value(_Row):
    """A figure with its 95 % interval; all but the value are null where it can't be given."""

    value: float | None = None
    """The figure; null where it can't be given (too few items, base too weak)."""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Items that it rests on."""
    clusters: int | None = None
    """Passages among them."""
    method: str | None = None
    """How the interval was found."""
    checked: bool | None = None
    """Whether its coverage was shown for so many items and events (docs/statistics.md)."""


class FigureRow(Value):
    """One figure of one arm."""

    arm: str
    measure: str
    """Named in docs/results.md."""
    scope: str
    """A language, `pooled` (all items as one) or `mean` (over languages)."""
    left_out: tuple[str, ...]
    """Of a mean: the languages that it leaves out, because the figure can't be given or base is too weak there."""


class FatesRow(_Row):
    """What became of the items that base answers in open and in choice: counts."""

    arm: str
    options: str
    """How recognition was tested: a kind of options and a scoring, as in `choice_passage_pmi`."""
    scope: str
    kept: int
    choice_only: int
    open_only: int
    lost: int


class Transition(_Row):
    """Where the items in one state of base ended up in the arm: counts."""

    arm: str
    options: str
    scope: str
    before: Literal["both", "choice_only", "open_only", "neither"]
    """Their state in base: right in both formats, in one, or in neither."""
    both: int
    choice_only: int
    open_only: int
    neither: int


class ScopeRow(_Row):
    """What pooled figures and overall verdicts cover, and which options decide verdicts."""

    languages: tuple[str, ...]
    left_out: tuple[str, ...]
    """Languages in which base is too weak."""
    decided_by: str
    word: Literal["recognised", "picked"]
    why: str


class Near(_Row):
    """One sign that an answer that is only picked is still near the top."""

    over_control: Value
    """Gold − a wrong option in its place; for one example: the drop at 0 shot − at 1 shot."""
    over_failures: Value | None
    """Those answers − answers that base never gave."""
    stands: bool
    """Both exceed the threshold after Holm's correction over the signs, with validated intervals."""


class VerdictEvidence(_Row):
    """What a verdict rests on, under the options that decide."""

    open_drop: Value | None
    choice_drop: Value | None
    gap: Value | None
    raw_gap: Value | None
    net: Value | None
    """Net dissociation."""
    lost: Value | None
    """Of the both-correct items that open lost, the share that choice lost too; decides *loss*."""
    broken: Value | None
    """Broken outputs, the arm's share − base's."""


class LogProbs(_Row):
    """Log-probability of the whole gold answer, in nats, in one group of items."""

    arm: str
    group: str
    """`all`, `base_fails`, or a fate."""
    scope: str
    n: int
    before: float
    """Median in base."""
    after: float
    """Median in the arm."""
    change: Value | None
    """Mean of after − before."""


class PairedTest(_Row):
    """A paired test."""

    arm: str
    measure: str
    scope: str
    p_value: float
    adjusted: float | None
    """Holm's p-value within the family; null for `pooled`, which stands outside it."""
    family: str
    changed: int
    """Units (items or passages) that changed, on which the test rests."""
    units: int
    method: str


class Between(Value):
    """A figure of `arm` − the same of `other`, on the items that both answered."""

    arm: str
    other: str
    measure: str
    scope: str
    left_out: tuple[str, ...]


class Frontier(_Row):
    """Accuracy over all items against measured sparsity and size on disk."""

    arm: str
    sparsity: float | None
    """Zeros over weights, in all pruned matrices; null where nothing was pruned by the run."""
    size_bytes: int | None
    """Of the weights as they are stored; null where it isn't known."""
    open: Value
    choice: Value
    open_frontier: bool | None
    """No arm is as sparse and better in open, or as good and sparser; null without sparsity."""
    choice_frontier: bool | None
    open_size_frontier: bool | None
    """No arm is as small and better in open, or as good and smaller; null without a size."""
    choice_size_frontier: bool | None


class Verdict(_Row):
    """The outcome of one arm in one scope (a language, or `overall`)."""

    arm: str
    scope: str
    outcome: Outcome
    decided_by: str
    """The options that the outcome rests on."""
    word: Literal["recognised", "picked"]
    """Whether an answer that is picked with these options counts as recognised."""
    why: str
    """Which options decided, and why none before them did."""
    standard_outcome: Outcome | None
    """With standard options."""
    same_passage_outcome: Outcome | None
    """With options from the same passage; null where the run lacks them."""
    text: str
    possible: tuple[Outcome, ...]
    """What an inconclusive outcome may still turn out to be."""
    near: dict[str, Near]
    """What may show a lost answer near."""
    evidence: VerdictEvidence
    stands: tuple[str, ...]
    """Which of open, choice and gap differ from 0 after Holm's correction over languages."""
    items_needed: int | None
    """Items that would decide an inconclusive outcome with 80 % power; null where none would."""


class Hygiene(_Row):
    """What may spoil a comparison, in one arm and language; counts of items but for `fertility`."""

    arm: str
    language: str
    items: int
    passages: int
    truncated: int
    """Passages that were cut."""
    gold_truncated: int
    """… and the gold answer with them."""
    boundary_mismatch: int
    """Options scored from before the prompt's end."""
    unclosed_thinking: int
    not_finite: int
    degenerate: int
    """Open outputs that say nothing."""
    rank_ties: int
    """Gold's first token shares its logit with another."""
    choice_ties: int
    """The two best options have equal scores."""
    no_distinct_token: int
    """Gold is the beginning of another option."""
    ungradable: int | None
    """Questions left out because no answer can be graded."""
    no_standard_options: int | None
    """Questions left out because there are not three wrong answers for them."""
    no_hard_options: int | None
    no_passage_options: int | None
    overlapping_hard_distractors: int | None
    """Wrong answers that can't be hard options because they contain gold or are contained in it."""
    fertility: float | None
    """Tokens a word of the passages, or a character where words have no spaces."""
    fertility_unit: Literal["word", "character"] | None
    noise_items: int | None
    """Items that base was asked again at another batch size: the noise floor."""
    noise_flips: int | None
    """Verdicts of open and choice that came out otherwise."""
    gold_in_question: int | None
    """Items whose answer is contained in the question."""
    gold_over_limit: int | None
    """Items whose answers are all longer than `max_new_tokens`, so that they can't be given in open."""
    loops: int | None
    """Open outputs that repeat a piece of at most 16 tokens over half of their length or more."""
    loop_rate: Value | None
    noise_open: Value | None
    """The share of base's open verdicts that came out otherwise at another batch size."""
    noise_choice: Value | None
    dtype_open: Value | None
    """The same in another dtype."""
    dtype_choice: Value | None


class Ranks(_Row):
    """Ranks of one token among one group of items, in base (`before`) or in the arm (`after`)."""

    arm: str
    place: str
    """`gold`, `gold_distinct`, `foil` or `foil_distinct`."""
    when: str
    group: str
    """A fate, `base_fails` or `all`."""
    scope: str
    n: int
    median: float
    """Of mid-ranks: tied tokens share the middle of their places."""
    lower_quartile: float
    upper_quartile: float
    vocabulary_share: float | None
    """The median over the size of the vocabulary."""
    within_10: float
    within_100: float
    median_margin: float
    """Logit of the likeliest token − the token's."""
    tied: int
    """Items whose token shares its logit."""
    median_interval: Value | None
    """The median with its interval; null for too few items, as are the other medians'."""
    within_10_interval: Value | None
    within_100_interval: Value | None
    margin_interval: Value | None


class Divergence(_Row):
    """KL(base ‖ arm) in nats."""

    arm: str
    scope: str
    n: int
    median: float
    upper_decile: float
    """The 90 % quantile."""
    largest_tail: float
    """Base's largest probability outside what is stored."""
    median_interval: Value | None
    """The median with its interval; null for too few items, as is that of the 90 % quantile."""
    upper_decile_interval: Value | None


class Difference(_Row):
    """Something that differs between base and an arm besides the weights."""

    what: str
    kind: Literal["harmless", "told", "confounding"]
    """`confounding`: it changes answers without being compression."""
    base: str
    other: str
    why: str
    part: Literal["asked", "model"] = "model"
    """`asked`: what a model is asked and where its answers end, which a checkpoint is given from base."""


class Packaging(Value):
    """The answers of base that an arm loses as its folder packages it, and what of that is packaging."""

    arm: str
    weights: str
    """The arm with the same weights, asked as base is."""
    probe: str
    """`open` or `choice`."""
    scope: str
    lost: int
    by_packaging: int
    """Right with these weights, asked as base is."""
    by_weights: int
    made_up: int
    """Wrong with these weights, asked as base is, and right as packaged."""


class ResultsFile(_Row):
    """`RUN/results.json`: every figure of a run, and what it was measured on."""

    schema_version: int
    study: dict[str, Any]
    """The resolved study, with `provenance`: versions, machine, batch size, fingerprints, items."""
    failed: dict[str, str]
    """Arms that could not be made, and why."""
    broken: dict[str, int]
    """Arms with logits that are not finite, and for how many items."""
    noise: dict[str, Any] | None
    """How many verdicts of base flip at another batch size."""
    stopping: dict[str, Any] | None
    """Where `--until-width` was used: for each arm when and why it stopped."""
    notes: dict[str, list[str]]
    """What should be known of an arm: another tokenizer, probes that a server can't answer."""
    thresholds: dict[str, float]
    """Margins of the verdicts."""
    scope: ScopeRow | None
    exclude: tuple[str, ...]
    """Kinds of items that were left out on request."""
    excluded: dict[str, int | None]
    """How many items each of these kinds has."""
    verdicts: tuple[Verdict, ...]
    figures: tuple[FigureRow, ...]
    fates: tuple[FatesRow, ...]
    transitions: tuple[Transition, ...]
    ranks: tuple[Ranks, ...]
    log_probs: tuple[LogProbs, ...]
    tests: tuple[PairedTest, ...]
    divergence: tuple[Divergence, ...]
    gradings: tuple[GradingRow, ...]
    between: tuple[Between, ...]
    frontier: tuple[Frontier, ...]
    hygiene: tuple[Hygiene, ...]
    differences: dict[str, tuple[Difference, ...]]
    """What differs from base besides the weights, for each arm that is a checkpoint."""
    packaging: tuple[Packaging, ...]


def written(row: Any) -> dict[str, Any]:
    """A row (a named tuple or a dataclass) as it is written: what it rests on is spread out, other figures are objects."""
    fields = (
        row._asdict() if hasattr(row, "_asdict") else {name: getattr(row, name) for name in row.__slots__}
    )
    plain: dict[str, Any] = {}
    for name, field in fields.items():
        if name in _SPREAD:
            plain |= {} if field is None else field._asdict()
        else:
            plain[name] = field._asdict() if isinstance(field, Estimate) else field
    return plain


def json_schema() -> dict[str, Any]:
    """JSON Schema of `results.json`; `docs/results.schema.json` is its copy for those who read the file."""
    schema = ResultsFile.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    print(json.dumps(json_schema(), ensure_ascii=False, indent=2))
