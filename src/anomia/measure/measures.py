"""Every measure of a run: its name in files, its unit, and its labels.

A measure belongs to a family: `gap("choice_passage")`, `recovery("beams", "control")`. `parse` reads the names that
users and files give. Both refuse unregistered names, so that a typo doesn't pass for a measure that was not asked.
`docs/results.md` defines each measure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from anomia import renamed
from anomia.errors import RunError
from anomia.measure.fates import DISSOCIATED, FATES, Fate
from anomia.measure.frame import CHECKS, RECOGNITION
from anomia.probes import (
    CUED,
    DECIDING,
    FORMATS,
    GENERATED,
    GRADE,
    NO_QUESTION,
    OPTION_KINDS,
    ORACLES,
    SAMPLED,
    STANDARD,
    VARIANTS,
    short,
)
from anomia.probes import long as prose_name

Unit = Literal["share", "points", "nats"]

# The paper's pass@k curve ends here; more samples make its estimates better, not longer.
LARGEST_K = 10


class Measure(str):
    """A measure: its name as written in files, with its unit and labels.

    A `str`, so that files, data frames and user input compare with it without conversion; only this module makes them.

    family: what is computed. of: what it is computed of (`choice_hard`, `beams/control`).
    unit: `share` of items (a normalized drop or a net rate is negative where the arm gained), `points` (a difference of
    two shares) or `nats`.
    against_base: whether it compares an arm with base; base itself then has no value.
    label: its name in tables. prose: its name in sentences.
    """

    __slots__ = ("against_base", "family", "label", "of", "prose", "unit")
    family: str
    of: str
    unit: Unit
    against_base: bool
    label: str
    prose: str

    def __new__(cls, family: str, of: str, *, unit: Unit, against_base: bool, label: str, prose: str) -> Self:
        """Call `parse` or a family instead; this constructor registers nothing."""
        made = super().__new__(cls, f"{family}/{of}")
        made.family, made.of, made.unit, made.against_base = family, of, unit, against_base
        made.label, made.prose = label, prose
        return made

    def __reduce__(self) -> tuple[object, ...]:
        return parse, (str(self),)


@dataclass(frozen=True, slots=True)
class Family:
    """Measures that are computed alike.

    label, prose: templates for the members' labels, with `{}` for what is measured. members: what goes into `{}` in
    tables and in sentences, by name.
    """

    name: str
    unit: Unit
    against_base: bool
    label: str
    prose: str
    members: Mapping[str, tuple[str, str]]

    def __call__(self, *of: str) -> Measure:
        """The member that is computed of these.

        Raises:
            RunError: there is no such member.
        """
        return parse("/".join((self.name, *of)))

    def __iter__(self) -> Iterator[Measure]:
        return (self.member(of) for of in self.members)

    def member(self, of: str) -> Measure:
        """Make the member of this name."""
        table, sentence = self.members[of]
        return Measure(
            self.name,
            of,
            unit=self.unit,
            against_base=self.against_base,
            label=self.label.format(table),
            prose=self.prose.format(sentence),
        )


def _probes(*names: str) -> dict[str, tuple[str, str]]:
    return {name: (short(name), prose_name(name)) for name in names}


def _words(**members: str) -> dict[str, tuple[str, str]]:
    return {name: (words, words) for name, words in members.items()}


_REACHED = _words(
    oracle_greedy="greedy decoding of the items that are also searched",
    **{f"oracle_{way}": prose_name(way) for way in ORACLES},
)
_RECOGNITION = _probes(*RECOGNITION)
_DROPPED = _probes(*GENERATED, *RECOGNITION, *NO_QUESTION)
_CUED_CHANCE = _words(
    **{f"{name}_chance": f"{short(name)} above guessing among the options" for name in CUED}
)
_STRICT = _probes(*DECIDING)
_AMONG = {"": "", "/failed_before": ", which base failed too", "/newly_broken": ", which base answered"}
_PARTS = {
    "arm": "of the arm's failures",
    "failed_before": "of the arm's failures, which base failed too",
    "newly_broken": "of the arm's failures, which base answered",
    "base": "of base's own failures",
    "control": "of a wrong option in the arm's failures",
    "control_failed_before": "of a wrong option in the arm's failures, which base failed too",
    "control_newly_broken": "of a wrong option in the arm's failures, which base answered",
}


def _recovered(*endings: str) -> dict[str, tuple[str, str]]:
    found = {f"{way}{ending}": f"{prose_name(way)}{_AMONG[ending]}" for way in ORACLES for ending in endings}
    return _words(**found)


def _passed(name: str, k: int) -> str:
    """What `pass_at` is computed of; the first probe that samples is not named."""
    return str(k) if name == SAMPLED[0] else f"{name}/{k}"


def _k_samples(name: str, k: int) -> str:
    return str(k) if name == SAMPLED[0] else f"{k} ({short(name)})"


accuracy = Family(
    "accuracy", "share", False, "{}", "accuracy, {}",
    _DROPPED | _probes(*GRADE) | _REACHED,
)  # fmt: skip
_easier = Family("accuracy", "points", False, "{}", "accuracy, {}", _words(choice_minus_open="choice − open"))
outputs = Family(
    "outputs", "share", False, "outputs that {}", "share of open outputs that {}",
    _words(loop="loop", degenerate="are empty or one token"),
)  # fmt: skip
_loop_more = Family(
    "outputs", "points", True, "{}", "{}", _words(loop_more="outputs that loop, more than in base")
)
pass_at = Family(
    "pass_at", "share", False, "pass@{}", "chance that one of {} samples is right",
    _words(**{_passed(name, k): _k_samples(name, k) for name in SAMPLED for k in range(1, LARGEST_K + 1)}),
)  # fmt: skip
drop = Family("drop", "points", True, "drop, {}", "raw drop, {}", _DROPPED | _probes(*VARIANTS) | _REACHED)
normalized_drop = Family(
    "normalized_drop", "share", True, "share lost, {}", "share lost of what base had, {}",
    _DROPPED | _probes("open_em", "open_strict") | _CUED_CHANCE,
)  # fmt: skip
gap = Family(
    "gap", "points", True, "gap to {}", "share lost of the free-form answer − of {}",
    _RECOGNITION | _probes(*CUED) | _CUED_CHANCE,
)  # fmt: skip
raw_gap = Family(
    "raw_gap",
    "points",
    True,
    "raw gap to {}",
    "drop of the free-form answer − of {}, in raw points",
    _RECOGNITION,
)
gap_strict = Family(
    "gap_strict",
    "points",
    True,
    "strict gap to {}",
    "share lost of the free-form answer, graded strictly, − of {}",
    _STRICT,
)
raw_gap_strict = Family(
    "raw_gap_strict", "points", True, "raw strict gap to {}",
    "drop of the free-form answer, graded strictly, − of {}, in raw points", _STRICT,
)  # fmt: skip
dissociation = Family(
    "dissociation", "share", True, "dissociation, {}", "dissociation rate, {}", _RECOGNITION
)
net_dissociation = Family(
    "net_dissociation", "share", True, "net dissociation, {}", "net dissociation rate, {}", _RECOGNITION
)
expected_dissociation = Family(
    "expected_dissociation", "share", True, "expected from the drops, {}",
    "dissociation rate that the drops alone would give, {}", _RECOGNITION,
)  # fmt: skip
share = Family(
    "share", "share", True, "{}", "share of both-correct items: {}",
    {
        f"{name}/{fate}": (f"{fate.replace('_', ' ')}, {words[0]}", f"{fate.replace('_', ' ')}, {words[1]}")
        for name, words in _RECOGNITION.items()
        for fate in FATES
        if fate != DISSOCIATED
    },
)  # fmt: skip
also_picked = Family(
    "also_picked", "share", True, "choice only: picked {}", "share of the choice-only items that are also picked {}",
    _words(**{name: way.words for name, way in CHECKS.items()}),
)  # fmt: skip
flips = Family(
    "flips", "share", True, "flips, {}", "share of items that changed between right and wrong, {}",
    _probes(*FORMATS),
)  # fmt: skip
contrast = Family(
    "contrast", "points", True, "{}", "{}",
    _words(
        **{
            f"dissociation_{kind.name}_minus_standard": f"dissociation, {kind.long} − standard options"
            for kind in OPTION_KINDS
            if kind.name != STANDARD
        },
        drop_zero_minus_one_shot="drop, 0 shot − 1 shot",
        **{f"drop_{way}_minus_greedy": f"drop, {prose_name(way)} − greedy decoding" for way in ORACLES},
    ),
)  # fmt: skip
recovery = Family(
    "recovery", "share", True, "found in {}", "share found in {}",
    _words(**{f"{way}/{part}": f"{prose_name(way)} {words}" for way in ORACLES for part, words in _PARTS.items()}),
)  # fmt: skip
recovery_over_base = Family(
    "recovery_over_base", "points", True, "found in {}: arm − base", "share found in {}: the arm's − base's",
    _recovered("", "/failed_before"),
)  # fmt: skip
recovery_over_control = Family(
    "recovery_over_control", "points", True, "found in {}: gold − control answer",
    "share found in {}: gold − a wrong option", _recovered("", "/failed_before", "/newly_broken"),
)  # fmt: skip
_kl = Family("divergence", "nats", True, "{}", "mean {}", _words(kl="KL(base ‖ arm)"))
divergence = Family("divergence", "share", True, "{}", "{}", _words(top1_agreement="top-1 agreement"))

long = Family(
    "long", "share", False, "{}", "share of long answers that {}",
    {
        "unended": ("don't end", "don't end"),
        "looped": ("end in a loop", "end in a loop"),
        "correct": ("are right", "are right"),
    },
)  # fmt: skip
_long_more = Family(
    "long", "points", True, "{}", "long answers that {}",
    {
        "unended_more": ("don't end, more than base's", "don't end, more than in base"),
        "looped_more": ("end in a loop, more than base's", "end in a loop, more than in base"),
    },
)  # fmt: skip
_long_same = Family(
    "long", "share", True, "{}", "share of long answers with {} as base's",
    {
        "equal": ("same tokens", "the same tokens"),
        "same_final": ("same final answer", "the same final answer"),
        "same_script": ("same script", "the same script"),
        "same_language": ("same language", "the same language"),
        "same_layout": ("same format", "the same format (JSON, code, table, list or prose)"),
    },
)  # fmt: skip
along = Family(
    "along", "share", True, "{}", "along base's long answers, {}",
    {
        "top": ("ranked first", "share of its tokens ranked first"),
        "demoted": ("ranked 2 to 10", "share of its tokens ranked 2 to 10"),
        "lost": ("ranked below 10", "share of its tokens ranked below 10"),
        "top1_agreement": ("top-1 agreement", "top-1 agreement"),
        "end": ("ends with base", "probability of ending where base ends"),
    },
)  # fmt: skip
_along_kl = Family(
    "along", "nats", True, "{}", "along base's long answers, mean {}", _words(kl="KL(base ‖ arm)")
)

FAMILIES: tuple[Family, ...] = (
    accuracy, _easier, outputs, _loop_more, pass_at, drop, normalized_drop, gap, raw_gap, gap_strict, raw_gap_strict,
    dissociation, net_dissociation, expected_dissociation, share, also_picked, flips, contrast, recovery,
    recovery_over_base, recovery_over_control, _kl, divergence, long, _long_more, _long_same, along, _along_kl,
)  # fmt: skip
MEASURES: Mapping[str, Measure] = {str(measure): measure for family in FAMILIES for measure in family}

_SEED = re.compile(rf"accuracy/oracle_({'|'.join(SAMPLED)})_seed_(\d+)")


def parse(name: str) -> Measure:
    """The measure of this name.

    Raises:
        RunError: there is no such measure.

    >>> parse("gap/choice").label
    'gap to choice'
    """
    known_as = renamed.measure(name)
    found = MEASURES.get(known_as)
    if found is None and (seeded := _SEED.fullmatch(known_as)):
        found = oracle_with_seed(seeded[1], int(seeded[2]))
    if found is not None:
        if known_as != name:
            renamed.note(name, known_as)
        return found
    family, _, of = name.partition("/")
    if family == "before" and not (measure := parse(of)).against_base:
        return of_base(measure)
    close = difflib.get_close_matches(name, MEASURES, n=1, cutoff=0.6)
    known = dict.fromkeys(f"{family.name}/…" for family in FAMILIES)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise RunError(f"measure: there is no {name!r}; {hint}")


def fate_share(way: str, fate: Fate) -> Measure:
    """The share of both-correct items with a fate under one way to test recognition: for one, the dissociation rate."""
    return dissociation(way) if fate == DISSOCIATED else share(way, fate)


def of_base(measure: Measure) -> Measure:
    """Base's figure over the items of an arm that answered fewer items than base."""
    return Measure(
        "before",
        str(measure),
        unit=measure.unit,
        against_base=False,
        label=f"{measure.label}, base",
        prose=f"{measure.prose}, base over the arm's items",
    )


def pass_at_k(name: str, k: int) -> Measure:
    """The chance that one of k samples of a probe is right."""
    return pass_at(_passed(name, k))


def oracle_with_seed(name: str, seed: int) -> Measure:
    """Accuracy of any sample of a probe drawn with one of several seeds."""
    return Measure(
        "accuracy",
        f"oracle_{name}_seed_{seed}",
        unit="share",
        against_base=False,
        label=f"{prose_name(name)}, seed {seed}",
        prose=f"accuracy, {prose_name(name)} with seed {seed}",
    )
