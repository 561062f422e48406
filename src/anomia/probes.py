"""The table of probes: what each asks, what it needs, and its names.

The probes of a study, the columns of the records, the encoded prompts, the comparisons, and the wording of tables,
figures and page follow from it. To add a probe, add a row to `PROBES` and, if it has its own, its prompt in
`anomia.items.prompts`; to add a kind of options, a row to `OPTION_KINDS` and how they are drawn in
`anomia.items.distractors`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

ProbeKind = Literal["generation", "scoring", "placement", "search", "samples", "continuation"]
ProbeGroup = Literal["open", "cued", "choice", "control", "rank", "oracle", "example", "long"]
CandidatesShown = Literal["", "options", "wrong options", "unrelated"]
ProbeNeeds = Literal["", "passage", "example"]
AnswerFormat = Literal["open", "choice"]

NO_QUESTION_ENDING = "_no_question"
# The options that every item has.
STANDARD = "standard"
# The options that are made from base's free answer, after base was asked.
OWN = "own"


@dataclass(frozen=True, slots=True)
class Probe:
    """One way to ask an item.

    name: in studies, record columns (`cued_correct`) and measure names (`drop/cued`).
    kind: generation (a graded greedy answer), scoring (options by log probability), placement (the rank of the
    answer's tokens), search (beams), samples, or continuation (a long answer, and base's answer token by token).
    group: the probes that it is shown with. In the group `control`, a right answer needs no recall.
    prompt: name of its prompt in `anomia.items.prompts`.
    short, long: its names in tables and figures, and in prose and on the page. description: what it asks.
    options: the kind of options that are scored. candidates: what the prompt lists.
    needs: something that not every item or study has; without it the probe is left out.
    asked_by: the probe in a study that includes this one, if not itself.
    baseline: the probe that it is compared with, and listed after.
    by_default: studies ask it unless they list their probes. found_by: what a search or samples are called where they
    are a sign that an answer is near.
    """

    name: str
    kind: ProbeKind
    group: ProbeGroup
    prompt: str
    short: str
    long: str
    description: str
    options: str = ""
    candidates: CandidatesShown = ""
    needs: ProbeNeeds = ""
    asked_by: str = ""
    baseline: str = ""
    by_default: bool = True
    found_by: str = ""

    @property
    def column(self) -> str:
        """The record column for right or wrong; a list for search and samples."""
        return f"{self.name}_correct"

    @property
    def text_column(self) -> str:
        """The record column of the generated text; a list for search and samples, such as `beam_texts`."""
        single = self.kind in ("generation", "continuation")
        return f"{self.name}_text" if single else self.each("texts")

    def each(self, what: str) -> str:
        """The record column with a list of something of each beam or sample: `beam_scores`, `sample_seeds`."""
        return f"{self.name.removesuffix('s')}_{what}"


@dataclass(frozen=True, slots=True)
class GradeKind:
    """Another grade of a probe's replies, or, without a probe, a grade that needs no model.

    name: in the records and in measure names. rung: it is shown among the probes, after its own. of_task: only tasks
    have it.
    """

    name: str
    probe: str
    group: ProbeGroup
    short: str
    long: str
    description: str
    rung: bool = False
    of_task: bool = False

    @property
    def column(self) -> str:
        """The record column: right or wrong, or a grade from 0 to 1."""
        return self.name


@dataclass(frozen=True, slots=True)
class OptionKind:
    """A kind of options, with the probe that scores them.

    name: in `Item.options` and in the item column `options_…`. short, long: names of the options.
    decides: base's answers may make them the options that verdicts rest on (`anomia.measure.scope`).
    of_base: they are made from base's free answer, which is gold among them (`anomia.items.own`); base's records hold
    them instead of the items. Only some tasks have them, and ask them by default.
    """

    name: str
    short: str
    long: str
    description: str
    needs: ProbeNeeds = ""
    decides: bool = False
    of_base: bool = False

    @property
    def column(self) -> str:
        """The item column with the options, or the column of base's records."""
        return f"options_{self.name}"

    @property
    def probe(self) -> str:
        """The name of the probe that scores them."""
        return "choice" if self.name == STANDARD else f"choice_{self.name}"

    @property
    def adjective(self) -> str:
        """The short name before a noun: `same-passage options`."""
        return self.short.replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Scoring:
    """One way to score options. ending: of its record columns. label: its name in tables."""

    name: str
    ending: str
    label: str
    description: str


OPTION_KINDS = (
    OptionKind(
        name=STANDARD, short="standard", long="standard options",
        description="the question's own wrong options, else answers to other questions in the same language",
        decides=True,
    ),
    OptionKind(
        name="hard", short="hard", long="hard options",
        description="wrong options whose letters are most like the answer's",
    ),
    OptionKind(
        name="passage", short="same passage", long="options from the same passage",
        description="wrong options of the answer's kind from the same passage", needs="passage", decides=True,
    ),
    OptionKind(
        name=OWN, short="own output", long="options made from base's own output",
        description="base's own free answer, and versions of it with one error each", of_base=True,
    ),
)  # fmt: skip

SCORINGS = (
    Scoring("sum", "", "sum", "the log-probability of the whole option"),
    Scoring("token", "_per_token", "per token", "divided by its number of tokens"),
    Scoring("byte", "_per_byte", "per byte", "divided by its length in bytes of UTF-8"),
    Scoring("char", "_per_char", "per character", "divided by its length in characters"),
    Scoring("pmi", "_pmi", "PMI", "minus the log-probability without the question"),
)


def _choices() -> Iterator[Probe]:
    """The probes that score each kind of options after the open prompt, then after the prompt without a question."""
    asked = [
        Probe(
            name=kind.probe, kind="scoring", group="choice", prompt="open",
            short="choice" if kind.name == STANDARD else f"{kind.adjective} choice",
            long="multiple choice" if kind.name == STANDARD else f"multiple choice among {kind.long}",
            description=f"{kind.long}, scored after the open prompt: {kind.description}",
            options=kind.name, needs=kind.needs, by_default=not kind.of_base,
        )
        for kind in OPTION_KINDS
    ]  # fmt: skip
    yield from asked
    for probe in asked:
        yield replace(
            probe,
            name=f"{probe.name}{NO_QUESTION_ENDING}",
            group="control",
            prompt="no_question",
            short=f"{probe.short}, no question",
            long=f"{probe.long} without the question",
            description="the same options scored after the passage alone",
            asked_by=f"choice{NO_QUESTION_ENDING}",
        )


# In the order of columns, tables and the page.
PROBES: tuple[Probe, ...] = (
    Probe(
        name="open", kind="generation", group="open", prompt="open", short="open", long="free-form answer",
        description="passage and question; the model writes the answer",
    ),
    Probe(
        name="cued", kind="generation", group="cued", prompt="cued", short="cued", long="cued",
        description="the standard options are listed in the prompt; right if the answer is the one that is named",
        candidates="options",
    ),
    Probe(
        name="distractors_only", kind="generation", group="control", prompt="cued",
        short="cued, no gold", long="cued without the answer",
        description="the wrong options are listed in the prompt, the answer is not", candidates="wrong options",
    ),
    Probe(
        name="unrelated", kind="generation", group="control", prompt="cued",
        short="cued, unrelated", long="cued with unrelated candidates",
        description="answers to other questions are listed in the prompt", candidates="unrelated",
    ),
    *_choices(),
    Probe(
        name="rank", kind="placement", group="rank", prompt="open", short="rank", long="rank of the answer",
        description="where the answer's tokens are in the next-token distribution after the open prompt",
    ),
    Probe(
        name="beams", kind="search", group="oracle", prompt="open", short="beams", long="any of the beams",
        description="beam search from the open prompt", found_by="beam search",
    ),
    Probe(
        name="samples", kind="samples", group="oracle", prompt="open", short="samples", long="any of the samples",
        description="answers sampled from the open prompt", found_by="samples",
    ),
    Probe(
        name="one_shot", kind="generation", group="example", prompt="one_shot", short="1 shot", long="with one example",
        description="one solved example before the question", needs="example", baseline="zero_shot",
    ),
    Probe(
        name="zero_shot", kind="generation", group="example", prompt="zero_shot",
        short="0 shot", long="without an example",
        description="the prompt of `one_shot` without its example", needs="example", asked_by="one_shot",
    ),
    Probe(
        name="continuation", kind="continuation", group="long", prompt="open", short="long answer", long="long answer",
        description="a long free answer, and what the model says along base's long answer; needs no right answer",
        by_default=False,
    ),
)  # fmt: skip

GRADES: tuple[GradeKind, ...] = (
    GradeKind(
        "open_em", "open", "open", "open, exact match", "free-form answer, exact match", "the answer and nothing else",
    ),
    GradeKind(
        "open_f1", "open", "open", "open, token F1", "free-form answer, token F1",
        "words in common with the answer, as F1",
    ),
    GradeKind(
        "open_strict", "open", "open", "open, strict", "free-form answer, strict grade", "as a careful reader grades",
        rung=True,
    ),
    GradeKind(
        "open_score", "open", "open", "open, score", "free-form answer, score of the task",
        "the score that the task's own grader gives, from 0 to 1", of_task=True,
    ),
    *(
        GradeKind(
            f"{probe.name}_contains", probe.name, probe.group, f"{probe.short}, contained",
            f"{probe.long}, answer contained", "an answer is in the output, whatever else it names",
        )
        for probe in PROBES
        if probe.kind == "generation" and probe.candidates == "options"
    ),
    GradeKind(
        "choice_correct_any", "choice", "choice", "choice, any answer", "multiple choice, any accepted answer",
        "any accepted answer scores above every wrong option",
    ),
    GradeKind(
        "string_presence", "", "control", "string presence", "string presence",
        "a reader who picks an option that is in the passage, without a model", rung=True,
    ),
)  # fmt: skip

# What the field calls the two formats; a study may name them and the probes that begin like them so.
ALIASES = {"free_form": "open", "multiple_choice": "choice"}
BY_NAME: dict[str, Probe] = {probe.name: probe for probe in PROBES}
GRADE: dict[str, GradeKind] = {grade.name: grade for grade in GRADES}
# Every study asks these two, since an item's fate depends on both.
FORMATS: tuple[AnswerFormat, AnswerFormat] = ("open", "choice")
# The probes that a study can list; the others come with one of these.
STUDY_PROBES: tuple[str, ...] = tuple(p.name for p in PROBES if p.asked_by in ("", p.name))
DEFAULT_PROBES: tuple[str, ...] = tuple(name for name in STUDY_PROBES if BY_NAME[name].by_default)
(CONTINUATION,) = (p.name for p in PROBES if p.kind == "continuation")
# How many of base's likeliest tokens are kept at each position of its long answer; all others are one outcome.
ALONG_TOKENS = 32
# What a server may be unable to say of a long answer it gives.
ALONG = "ranks along base's long answer"
(RANK,) = (p.name for p in PROBES if p.kind == "placement")
GENERATED: tuple[str, ...] = tuple(p.name for p in PROBES if p.kind == "generation")
# The kind of options of each scoring probe, with and without the question.
CHOICES: dict[str, str] = {kind.probe: kind.name for kind in OPTION_KINDS}
NO_QUESTION: dict[str, str] = {f"{probe}{NO_QUESTION_ENDING}": kind for probe, kind in CHOICES.items()}
SEARCHES: tuple[str, ...] = tuple(p.name for p in PROBES if p.kind == "search")
SAMPLED: tuple[str, ...] = tuple(p.name for p in PROBES if p.kind == "samples")
ORACLES: tuple[str, ...] = tuple(p.name for p in PROBES if p.name in (*SEARCHES, *SAMPLED))
# The open prompt without and with a solved example.
ZERO_SHOT, ONE_SHOT = next((p.baseline, p.name) for p in PROBES if p.baseline)
# The grades of replies; the others need no model.
VARIANTS: tuple[str, ...] = tuple(grade.name for grade in GRADES if grade.probe)
# Other grades of the free-form answer, which agree or differ in direction.
GRADINGS: tuple[str, ...] = tuple(
    g.name for g in GRADES if g.probe == "open" and not g.rung and not g.of_task
)
# The generations whose right answer needs recall, each after its baseline.
RECALLED: tuple[str, ...] = tuple(
    dict.fromkeys(
        name
        for p in PROBES
        if p.kind == "generation" and p.group != "control"
        for name in (p.baseline or p.name, p.name)
    )
)
# Those with the prompts of the ladder, and those of them that list the options.
SAID: tuple[str, ...] = tuple(name for name in RECALLED if BY_NAME[name].group != "example")
CUED: tuple[str, ...] = tuple(name for name in SAID if BY_NAME[name].candidates == "options")
# The probe of options made from base's free answer, and the columns of base's records with them and that answer.
CHOICE_OWN, OWN_COLUMN = next((kind.probe, kind.column) for kind in OPTION_KINDS if kind.of_base)
OWN_GOLD = f"gold_{OWN}"
# The probes of options that may decide verdicts.
DECIDING: tuple[str, ...] = tuple(kind.probe for kind in OPTION_KINDS if kind.decides)
# The probes and grades whose accuracies are shown side by side, each probe before its grades.
LADDER: tuple[str, ...] = (
    *(
        name
        for p in PROBES
        if p.group in ("open", "cued", "choice", "control")
        for name in (p.name, *(grade.name for grade in GRADES if grade.rung and grade.probe == p.name))
    ),
    *(grade.name for grade in GRADES if grade.rung and not grade.probe),
)


def probe_named(name: str) -> str:
    """The probe that a study names; a name that is unknown stays as it is.

    >>> probe_named("free_form"), probe_named("multiple_choice_hard"), probe_named("rank")
    ('open', 'choice_hard', 'rank')
    """
    for alias, probe in ALIASES.items():
        if name == alias or name.startswith(f"{alias}_"):
            return probe + name.removeprefix(alias)
    return name


def asked_by(names: Collection[str]) -> frozenset[str]:
    """All probes that a study with these probes asks."""
    return frozenset(probe.name for probe in PROBES if (probe.asked_by or probe.name) in names)


def short(name: str) -> str:
    """The name in tables and figures of a probe, a grade, or a scoring of options: `same-passage choice (PMI)`.

    Raises:
        KeyError: the name is unknown.
    """
    return _label(name, short_label=True)


def long(name: str) -> str:
    """The name in prose and on the page.

    Raises:
        KeyError: the name is unknown.
    """
    return _label(name, short_label=False)


def _label(name: str, *, short_label: bool) -> str:
    found = BY_NAME.get(name) or GRADE.get(name)
    if found is not None:
        return found.short if short_label else found.long
    probe, _, scoring = name.rpartition("_")
    label = next((way.label for way in SCORINGS if way.name == scoring), None)
    if label is None or probe not in CHOICES:
        raise KeyError(name)
    return f"{_label(probe, short_label=short_label)} ({label})"
