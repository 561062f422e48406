"""Pairs of lm-evaluation-harness tasks that ask the same documents in both formats, recognised by task name.

A pair is what a comparison of formats needs, and many harness logs already have one: `truthfulqa_gen` and
`truthfulqa_mc1`, `arc_challenge_chat` and `arc_challenge`. The families and their names are those of version 0.4.13.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from anomia.interop.samples import SampleFile
from anomia.probes import FORMATS, AnswerFormat

_FORM_NAMES: Mapping[AnswerFormat, str] = {"open": "generation", "choice": "multiple-choice"}
_MASS = "its acc is the probability of all true options together, not right or wrong"


class TaskFamily(NamedTuple):
    """Tasks over the same documents.

    choice, generation: task names, preferred first. `{key}` is a part that both names share, such as a subject or a
    language; tasks that differ only in `{any}` are taken together.
    metrics: the metrics of 0 or 1 that grade the generated answers, best first.
    language: of the questions; "" if the task's name or the documents give it.
    unusable: multiple-choice tasks whose log doesn't say which answers are right.
    others: names of other tasks that begin alike.
    hint: how to make two runs ask the same, if the task itself draws something.
    """

    name: str
    choice: tuple[str, ...]
    generation: tuple[str, ...]
    metrics: tuple[str, ...] = ("exact_match",)
    language: str = ""
    unusable: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    hint: str = ""

    def templates(self, form: AnswerFormat) -> tuple[str, ...]:
        """The task names of one form."""
        return self.generation if form == "open" else self.choice


# ROUGE-1 before BLEU: BLEU counts runs of four tokens, so a true answer of three is no closer than a false one.
_SIMILARITY = ("rouge1_acc", "bleu_acc")

FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily(
        "truthfulqa", ("truthfulqa_mc1",), ("truthfulqa_gen",), _SIMILARITY, "english", ("truthfulqa_mc2",),
    ),
    TaskFamily(
        "truthfulqa-multi", ("truthfulqa-multi_mc1_{key}",), ("truthfulqa-multi_gen_{key}",), _SIMILARITY,
        unusable=("truthfulqa-multi_mc2_{key}",),
    ),
    TaskFamily(
        "truthfulqa_gl", ("truthfulqa_gl_mc1",), ("truthfulqa_gl_gen",), _SIMILARITY, "galician",
        ("truthfulqa_gl_mc2",),
    ),
    TaskFamily("arc_challenge", ("arc_challenge",), ("arc_challenge_chat", "arc_challenge_llama"), language="english"),
    TaskFamily(
        "mmlu",
        ("mmlu_{key}", "mmlu_flan_n_shot_loglikelihood_{key}", "mmlu_{key}_continuation"),
        ("mmlu_{key}_generative", "mmlu_flan_n_shot_generative_{key}", "mmlu_flan_cot_fewshot_{key}"),
        language="english",
    ),
    TaskFamily(
        "mmlu_pro", ("leaderboard_mmlu_pro",), ("mmlu_pro_{any}", "mmlu_pro_llama_{any}"), language="english",
        others=("mmlu_pro_plus_{any}",),
    ),
    TaskFamily(
        "gpqa",
        ("gpqa_{key}_zeroshot", "gpqa_{key}_n_shot", "leaderboard_gpqa_{key}"),
        ("gpqa_{key}_generative_n_shot", "gpqa_{key}_cot_zeroshot", "gpqa_{key}_cot_n_shot"),
        language="english",
        hint="these tasks shuffle the options when they load: run every model with the same --tasks in the same order, "
            "the same "
        "--seed and one cache of data sets",
    ),
    TaskFamily("global_piqa", ("global_piqa_parallel_cloze_{key}",), ("global_piqa_parallel_generation_{key}",)),
    TaskFamily("global_piqa", ("global_piqa_nonparallel_cloze_{key}",), ("global_piqa_nonparallel_generation_{key}",)),
    TaskFamily("kmmlu", ("kmmlu_{key}",), ("kmmlu_direct_{key}",), language="korean"),
    TaskFamily(
        "kmmlu_hard", ("kmmlu_hard_{key}",), ("kmmlu_direct_hard_{key}", "kmmlu_cot_hard_{key}"), language="korean",
    ),
    TaskFamily("turkishmmlu", ("turkishmmlu_{key}",), ("turkishmmlu_cot_{key}",), language="turkish"),
    TaskFamily(
        "bbh",
        ("leaderboard_bbh_{key}",),
        ("bbh_fewshot_{key}", "bbh_zeroshot_{key}", "bbh_cot_fewshot_{key}", "bbh_cot_zeroshot_{key}"),
        language="english",
    ),
    TaskFamily("bigbench", ("bigbench_{key}_multiple_choice",), ("bigbench_{key}_generate_until",)),
    TaskFamily("boolq", ("boolq",), ("boolq-seq2seq", "super_glue-boolq-t5-prompt"), language="english"),
    *(
        TaskFamily(name, (name,), (f"super_glue-{name}-t5-prompt",), language="english")
        for name in ("cb", "copa", "wic")
    ),
    TaskFamily("rte", ("sglue_rte",), ("super_glue-rte-t5-prompt",), language="english"),
)  # fmt: skip


class TaskPlace(NamedTuple):
    """Where a task belongs: a family (its index in `FAMILIES`), the index of its template, and the shared key."""

    family: int
    variant: int
    key: str


class TaskPair(NamedTuple):
    """The logs of every model of one generation and one multiple-choice task.

    family: None for tasks that are in no family; they are taken together.
    """

    family: TaskFamily | None
    files: Mapping[str, Sequence[SampleFile]]

    def tasks(self, form: AnswerFormat) -> list[str]:
        """The tasks of one form, as base's logs name them."""
        base = next(iter(self.files.values()))
        return list(dict.fromkeys(file.task for file in base if file.form == form))


class Paired(NamedTuple):
    """The pairs in the logs of all models.

    rest: the logs in no pair, by model. spare: tasks in place of which another of the same documents is in a pair.
    lacking: what tasks of a family are without, as clauses of a sentence.
    unusable: why logs in `rest` can't count, by task.
    """

    pairs: Sequence[TaskPair]
    rest: Mapping[str, Sequence[SampleFile]]
    spare: Sequence[str]
    lacking: Sequence[str]
    unusable: Mapping[str, str]


def place_of(task: str, form: AnswerFormat, families: Sequence[TaskFamily] = FAMILIES) -> TaskPlace | None:
    """The place of a task, by its most specific template; None if it is in no family.

    >>> place_of("gpqa_main_cot_zeroshot", "open").key, place_of("hellaswag", "choice")
    ('main', None)
    """
    found = [
        (len(re.sub("{.*?}", "", template)), TaskPlace(number, variant, match.groupdict().get("key") or ""))
        for number, family in enumerate(families)
        for variant, template in enumerate(family.templates(form))
        if (match := _pattern(template).fullmatch(task))
        and not any(_pattern(other).fullmatch(task) for other in family.others)
    ]
    return max(found, key=lambda each: each[0])[1] if found else None


def is_known(file: SampleFile, families: Sequence[TaskFamily] = FAMILIES) -> bool:
    """Whether a log is of a task of a family, also of one that can't be used."""
    return place_of(file.task, file.form, families) is not None or bool(_why_unusable(file, families))


def pair_up(models: Mapping[str, Sequence[SampleFile]], families: Sequence[TaskFamily] = FAMILIES) -> Paired:
    """Find the pairs that every model logged; base comes first.

    Of several tasks of one family and form, the first in `families` that makes a pair counts.
    """
    placed = {model: _placed(files, families) for model, files in models.items()}
    pairs: list[TaskPair] = []
    lacking: list[str] = []
    spare: dict[str, None] = {}
    used: set[int] = set()
    for number, key in dict.fromkeys((number, key) for number, _, _, key in next(iter(placed.values()))):
        family = families[number]
        chosen = next(
            (
                sides
                for sides in _sides(family)
                if all(
                    (number, form, variant, key) in its for its in placed.values() for form, variant in sides
                )
            ),
            None,
        )
        if chosen is None:
            lacking += _lacking(number, family, key, placed)
            continue
        files = {
            model: [file for form, variant in chosen for file in its[number, form, variant, key]]
            for model, its in placed.items()
        }
        used |= {id(file) for each in files.values() for file in each}
        # They would count their questions a second time.
        others = [
            file
            for its in placed.values()
            for (family_number, _, _, name), each in its.items()
            if (family_number, name) == (number, key)
            for file in each
            if id(file) not in used
        ]
        used |= {id(file) for file in others}
        spare.update(dict.fromkeys(file.task for file in others))
        pairs.append(TaskPair(family, {model: _in_language(each, family) for model, each in files.items()}))
    rest = {model: [file for file in files if id(file) not in used] for model, files in models.items()}
    unusable = {
        file.task: reason
        for files in rest.values()
        for file in files
        if (reason := _why_unusable(file, families))
    }
    return Paired(pairs, rest, list(spare), lacking, unusable)


def _why_unusable(file: SampleFile, families: Sequence[TaskFamily]) -> str:
    """Why a log can't say which answers are right, and what can; "" if it can."""
    for family in families:
        for template in family.unusable:
            match = _pattern(template).fullmatch(file.task)
            if match and file.form == "choice":
                return f"{_MASS}; use {_filled(family.choice[0], match.groupdict().get('key') or '')}"
    return ""


_Placed = dict[tuple[int, AnswerFormat, int, str], list[SampleFile]]


def _placed(files: Sequence[SampleFile], families: Sequence[TaskFamily]) -> _Placed:
    found: _Placed = {}
    for file in files:
        place = place_of(file.task, file.form, families)
        if place is not None:
            found.setdefault((place.family, file.form, place.variant, place.key), []).append(file)
    return found


def _sides(family: TaskFamily) -> Iterator[tuple[tuple[AnswerFormat, int], tuple[AnswerFormat, int]]]:
    for chosen in range(len(family.choice)):
        for opened in range(len(family.generation)):
            yield ("open", opened), ("choice", chosen)


def _lacking(number: int, family: TaskFamily, key: str, placed: Mapping[str, _Placed]) -> Iterator[str]:
    """What each model is without for a pair of one family."""
    complete = {}
    for model, its in placed.items():
        opened, chosen = (_names(its, number, form, key) for form in FORMATS)
        if opened and chosen:
            complete[model] = ", ".join([*opened, *chosen])
        elif opened or chosen:
            templates = family.choice if opened else family.generation
            wanted = " or ".join(_filled(template, key) for template in templates)
            yield f"{model} has {', '.join(opened or chosen)} but not {wanted}"
        else:
            yield f"{model} has neither {_filled(family.generation[0], key)} nor {_filled(family.choice[0], key)}"
    if len(complete) == len(placed):
        yield f"the models have different tasks: {'; '.join(f'{model} {tasks}' for model, tasks in complete.items())}"


def _names(its: _Placed, number: int, form: AnswerFormat, key: str) -> list[str]:
    return [
        file.task
        for (family, mine, _, name), files in its.items()
        if (family, mine, name) == (number, form, key)
        for file in files
    ]


def _in_language(files: Sequence[SampleFile], family: TaskFamily) -> list[SampleFile]:
    return [file.in_language(family.language) if family.language else file for file in files]


def _filled(template: str, key: str) -> str:
    return template.replace("{key}", key).replace("{any}", "…")


@lru_cache(maxsize=256)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{key\}|\{any\})", template)
    wild = {"{key}": r"(?P<key>[A-Za-z0-9_]+)", "{any}": r"[A-Za-z0-9_]+"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts))
