"""Join each model's generation and multiple-choice samples of the same questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from anomia.errors import DataError
from anomia.grade import normalize
from anomia.interop.samples import KEYS, Sample, SampleFile, has_letters
from anomia.probes import FORMATS, AnswerFormat

# The share of questions joined by id alone that must have the same gold answer in both tasks.
_SAME_GOLD = 0.5
# The same if the answers are letters, which are the same in half of unrelated questions with two options.
_SAME_LETTER = 0.9


Named = Mapping[tuple[str, str], Sample]


class Joined(NamedTuple):
    """The questions that every model answered in both forms.

    by: the kind of key that joined them (`samples.KEYS`). answers: by model, the open and the choice sample of each
    question, in the same order for all models. excluded: number of samples or questions not used, by reason.
    """

    by: str
    answers: Mapping[str, tuple[tuple[Sample, Sample], ...]]
    excluded: Mapping[str, int]


def join(models: Mapping[str, Sequence[SampleFile]], *, hint: str = "") -> Joined:
    """Join the samples of all models by question; base comes first.

    hint: how to make the models' prompts equal, if they differ.

    Raises:
        DataError: no question was answered by all models in both forms, or a model had other
            prompts or gold answers than base.
    """
    by = best_key(next(iter(models.values())))
    if not by:
        _refuse_repeated("base", next(iter(models.values())))
        tasks = " and ".join(dict.fromkeys(file.task for file in next(iter(models.values()))))
        raise DataError(
            f"import: the generation and the multiple-choice samples of base share no question (by document hash, by "
            f"question and passage, or by id with the same answer), in {tasks}; give two tasks over the same documents"
        )
    found = {model: {form: _named(files, form, by) for form in FORMATS} for model, files in models.items()}
    base = next(iter(found.values()))
    asked = [key for key in base["open"] if key in base["choice"]]
    kept = [key for key in asked if all(key in part for forms in found.values() for part in forms.values())]
    if not kept:
        for model, files in models.items():
            _refuse_repeated(model, files)
        raise DataError(
            "import: no question was answered by all models in both forms; give samples of the same tasks, "
            "and two tasks over the same documents"
        )
    for model, mine in list(found.items())[1:]:
        _refuse_other_prompts(model, base, mine, kept, hint)
        _refuse_other_gold(model, base, mine, kept)
    answers = {
        model: tuple((forms["open"][key], forms["choice"][key]) for key in kept)
        for model, forms in found.items()
    }
    logged = sum(len(file.samples) for file in next(iter(models.values())))
    excluded = {
        "asked more than once": logged - sum(len(base[form]) for form in FORMATS),
        "one form only": len(base["open"].keys() ^ base["choice"].keys()),
        "not answered by every model": len(asked) - len(kept),
        "not asked of base": len(
            {key for forms in found.values() for key in forms["open"] if key in forms["choice"]}
            - {key for part in base.values() for key in part}
        ),
    }
    return Joined(by, answers, excluded)


def best_key(files: Sequence[SampleFile]) -> str:
    """The kind of key that joins the most questions of one model's two forms; "" if none joins any."""
    most, best = 0, ""
    for kind in KEYS:
        opened, chosen = (_named(files, form, kind) for form in FORMATS)
        shared = [key for key in opened if key in chosen]
        if kind == "id" and shared:
            # Two tasks may use the same numbers for unrelated questions.
            same = sum(_same_gold(opened[key], chosen[key]) for key in shared)
            least = _SAME_LETTER if has_letters(opened[shared[0]]) else _SAME_GOLD
            shared = shared if same >= least * len(shared) else []
        if len(shared) > most:
            most, best = len(shared), kind
    return best


def _refuse_repeated(model: str, files: Sequence[SampleFile]) -> None:
    """Refuse a form in which every question is repeated, as when two logs of one task are given."""
    for form in FORMATS:
        mine = [file for file in files if file.form == form]
        keys = [sample.keys for file in mine for sample in file.samples]
        uses = Counter(name for key in keys if (name := key.get("hash") or key.get("text")))
        if uses and min(uses.values()) > 1:
            raise DataError(
                f"import: {model} has every question of its {form} samples more than once, in "
                f"{', '.join(str(file.path) for file in mine)}; give one log per task"
            )


def _refuse_other_prompts(
    model: str,
    base: Mapping[AnswerFormat, Named],
    mine: Mapping[AnswerFormat, Named],
    kept: Sequence[tuple[str, str]],
    hint: str,
) -> None:
    """Refuse a model that was sent different texts from base: its losses could come from the prompt."""
    for form in FORMATS:
        pairs = [(base[form][key], mine[form][key]) for key in kept]
        sent = [(one, other) for one, other in pairs if one.sent and other.sent]
        differing = [one for one, other in sent if one.sent != other.sent]
        if differing:
            raise DataError(
                f"import: {model} was sent different texts from base's in {len(differing)} of {len(sent)} {form} "
                f"questions (first: {differing[0].question[:80]!r}), so its losses may come from the prompt; give "
                "logs of the same task with the same examples and the same chat "
                f"template{f' ({hint})' if hint else ''}"
            )


def _refuse_other_gold(
    model: str,
    base: Mapping[AnswerFormat, Named],
    mine: Mapping[AnswerFormat, Named],
    kept: Sequence[tuple[str, str]],
) -> None:
    """Refuse a model that was graded against different answers from base: its losses could come from the grading."""
    for form in FORMATS:
        pairs = [(base[form][key], mine[form][key]) for key in kept]
        graded = [(one, _golds(one), _golds(other)) for one, other in pairs if _golds(one) and _golds(other)]
        differing = [one for one, ours, theirs in graded if not ours & theirs]
        if differing:
            raise DataError(
                f"import: {model} was graded against different gold answers from base's in {len(differing)} of "
                f"{len(graded)} {form} questions (first: {differing[0].question[:80]!r}), so its losses may come from "
                "the grading; give logs of the same task over the same documents"
            )


def _golds(sample: Sample) -> set[str]:
    return {name for answer in sample.answers if (name := normalize(answer))}


def _same_gold(opened: Sample, chosen: Sample) -> bool:
    if has_letters(opened):
        return (
            chosen.gold is not None
            and normalize(opened.answers[0]) == "abcdefghijklmnopqrstuvwxyz"[chosen.gold : chosen.gold + 1]
        )
    if not chosen.answers:
        return False
    gold = normalize(chosen.answers[0])
    return any(gold in normalize(answer) or normalize(answer) in gold for answer in opened.answers)


def _named(files: Sequence[SampleFile], form: AnswerFormat, kind: str) -> dict[tuple[str, str], Sample]:
    """Samples by (language, key), with a language only for ids; keys used more than once are left out."""
    samples = [
        sample for file in files if file.form == form for sample in file.samples if kind in sample.keys
    ]
    names = [(sample.language if kind == "id" else "", sample.keys[kind]) for sample in samples]
    uses = Counter(names)
    return {name: sample for name, sample in zip(names, samples, strict=True) if uses[name] == 1}
