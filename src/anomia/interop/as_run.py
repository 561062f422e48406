"""Write another harness's samples as a run folder, so that show, gate, report, items and export work on them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from anomia._version import __version__
from anomia.errors import RunError
from anomia.files import write_text
from anomia.grade import containment, is_degenerate, normalize, strict
from anomia.interop.arms import BASE
from anomia.interop.caveats import notes_of
from anomia.interop.formats import log_format
from anomia.interop.grading import Graded, Marks, grade
from anomia.interop.groups import pairs_of
from anomia.interop.join import Joined, join
from anomia.interop.pairs import TaskPair
from anomia.interop.run_differences import run_differences
from anomia.interop.samples import UNKNOWN_LANGUAGE, Sample, SampleFile, has_letters, options_shown, picked
from anomia.interop.settings import settings_of
from anomia.interop.sides import refuse_two_models
from anomia.interop.sources import read_logs
from anomia.items.item import Question
from anomia.loops import is_text_loop
from anomia.models.difference import Difference
from anomia.notes import write_differences, write_notes
from anomia.probes import FORMATS
from anomia.records import ITEM_SCHEMA, SCHEMA, write_rows
from anomia.run_folder import RunFolder


class Imported(NamedTuple):
    """The result of an import.

    questions: number of questions in the run. by: the kinds of keys that joined them (`samples.KEYS`), most used first.
    graded_by: how each form was graded. excluded: number of unused questions, by reason.
    named: language by task, for tasks whose language comes from their name.
    unused: files with neither answers nor choices. older: logs replaced by newer ones of the same task.
    filters: by task, the tool's filter that graded it and all filters of the log.
    differences: by arm, differences from base in how the harness ran it, if results files exist.
    pairs: the generation and the multiple-choice tasks of each pair. unpaired: why logs were excluded.
    notes: what may mislead about the figures, alike for all arms.
    """

    questions: int
    languages: tuple[str, ...]
    arms: tuple[str, ...]
    by: str
    graded_by: Mapping[str, str]
    excluded: Mapping[str, int]
    named: Mapping[str, str]
    unused: Sequence[Path]
    older: Sequence[Path] = ()
    filters: Mapping[str, tuple[str, Sequence[str]]] = {}
    differences: Mapping[str, Sequence[Difference]] = {}
    pairs: Sequence[tuple[str, str]] = ()
    unpaired: Sequence[str] = ()
    notes: Sequence[str] = ()


class _Asked(NamedTuple):
    """The joined and graded questions of one pair of tasks."""

    pair: TaskPair
    joined: Joined
    graded: Graded


def import_run(
    tool: str,
    models: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    filter_name: str | None = None,
    language: str | None = None,
    metric: str | None = None,
    tasks: Sequence[str] = (),
) -> Imported:
    """Read the samples of base and of compressed models, and write a run folder.

    models: files and folders by name; base's come first, as `base`. metric: the metric that grades generated answers;
    None for the task's own. The other arguments are those of `read_logs`.

    Raises:
        DataError: the samples can't be read or don't belong together.
        RunError: the folder is not empty or can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"import: {out} exists and is not empty; give another --out")
    files, unused, older = read_logs(tool, models, filter_name=filter_name, language=language, tasks=tasks)
    pairs, unpaired = pairs_of(files, log_format(tool).families)
    used = {name: [file for pair in pairs for file in pair.files[name]] for name in files}
    for name, each in used.items():
        refuse_two_models(tool, name, each)
    asked = [_ask(pair, metric) for pair in pairs]
    rows, items = _rows(tool, asked)
    compared = {
        name: found
        for name, each in used.items()
        if name != BASE and (found := run_differences(tool, used[BASE], each)) is not None
    }
    languages = tuple(sorted({row["language"] for row in items}))
    arms = tuple(name for name in models if name != BASE)
    named = {file.task: file.named for each in used.values() for file in each if file.named}
    graded_by: dict[str, str] = {form: _listed(each.graded.by[form] for each in asked) for form in FORMATS}
    excluded = dict(sum((Counter(each.joined.excluded) for each in asked), Counter()))
    by = ", ".join(name for name, _ in Counter(each.joined.by for each in asked).most_common())
    notes = notes_of(tool, [(each.pair, each.joined, each.graded) for each in asked])
    run = RunFolder(out)
    write_rows(items, run.items_file, ITEM_SCHEMA)
    for name, mine in rows.items():
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        write_rows(mine, run.record_file(f"imported.{digest}"), SCHEMA)
    study = {
        "base": str(next(iter(models[BASE]))),
        "arms": list(arms),
        "data": f"{tool}: {', '.join(dict.fromkeys(file.task for file in used[BASE]))}",
        "languages": list(languages),
        "provenance": {
            "anomia": __version__,
            "imported": {
                "tool": tool,
                "joined_by": by,
                "graded_by": graded_by,
                "excluded": excluded,
                "languages_from_names": named,
                "pairs": [_provenance(each) for each in asked],
                "unpaired": list(unpaired),
                "notes": list(notes),
                "unused": [str(path) for path in unused],
                "older": [str(path) for path in older],
                "files": {name: [_source(tool, file) for file in each] for name, each in used.items()},
            },
            "items": dict(Counter(row["language"] for row in items)),
        },
    }
    for name, found in compared.items():
        write_differences(run, name, found)
    for name in arms:
        write_notes(run, name, notes)
    # The study file makes the folder a run, so it is written last.
    write_text(run.study_file, yaml.safe_dump(study, sort_keys=False, allow_unicode=True))
    filters = {file.task: (file.filter, file.filters) for file in used[BASE] if file.filter}
    return Imported(
        len(items),
        languages,
        arms,
        by,
        graded_by,
        excluded,
        named,
        unused,
        older,
        filters,
        compared,
        [(_listed(each.pair.tasks("open")), _listed(each.pair.tasks("choice"))) for each in asked],
        unpaired,
        notes,
    )


def _ask(pair: TaskPair, metric: str | None) -> _Asked:
    joined = join(pair.files, hint=pair.family.hint if pair.family else "")
    own = pair.family.metrics if pair.family else ()
    metrics = (metric,) if metric else own
    return _Asked(pair, joined, grade(joined.answers, metrics=metrics, task=_listed(pair.tasks("open"))))


def _provenance(asked: _Asked) -> dict[str, Any]:
    return {
        "generation": asked.pair.tasks("open"),
        "choice": asked.pair.tasks("choice"),
        "questions": len(asked.joined.answers[BASE]),
        "joined_by": asked.joined.by,
        "graded_by": dict(asked.graded.by),
        "excluded": {reason: count for reason, count in asked.joined.excluded.items() if count},
    }


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _rows(tool: str, asked: Sequence[_Asked]) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Record rows by model, and item rows."""
    items: list[dict[str, Any]] = []
    rows: dict[str, list[dict[str, Any]]] = {model: [] for model in asked[0].joined.answers}
    taken: set[tuple[str, str]] = set()
    for pair, joined, graded in asked:
        mine = [
            _item(tool, len(items) + number, opened, chosen, joined.by)
            for number, (opened, chosen) in enumerate(joined.answers[BASE])
        ]
        for item in mine:
            if (item["language"], item["item_id"]) in taken:
                # Another pair of tasks has the same document.
                item["item_id"] = f"{item['item_id']}-{_listed(pair.tasks('choice'))}"
            taken.add((item["language"], item["item_id"]))
        items += mine
        for model, answers in joined.answers.items():
            rows[model] += [
                _record(model, item, opened, chosen, marks)
                for item, (opened, chosen), marks in zip(mine, answers, graded.right[model], strict=True)
            ]
    return rows, items


def _item(tool: str, number: int, opened: Sample, chosen: Sample, by: str) -> dict[str, Any]:
    language = chosen.language if opened.language == UNKNOWN_LANGUAGE else opened.language
    context, question = opened.context or chosen.context, opened.question or chosen.question
    name = opened.keys.get("id") or opened.keys[by]
    answers = opened.answers or chosen.answers or ("",)
    if has_letters(opened) and chosen.answers:
        # The option's text says more than its letter.
        answers = chosen.answers
    # Ids may be numbers that restart in every task; the key that joined the samples is unique.
    identity = f"{name}-{opened.keys[by][:8]}" if name != opened.keys[by] else name
    question_asked = Question(identity, language, context, question, answers)
    return dict.fromkeys(ITEM_SCHEMA) | {
        "dataset": tool,
        "language": language,
        "item_id": identity,
        "index": number,
        "passage_id": opened.passage or chosen.passage or question_asked.passage_id,
        "context": context,
        "question": question,
        "answers": list(answers),
        "options_standard": list(chosen.options),
        "unrelated": [],
        "control": "",
    }


def _record(
    model: str, item: Mapping[str, Any], opened: Sample, chosen: Sample, marks: Marks
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SCHEMA)
    text = opened.text or ""
    finite = all(math.isfinite(score) for score in chosen.scores)
    row |= {
        name: item[name] for name in ("dataset", "language", "item_id", "index", "passage_id", "question")
    }
    row |= {
        "arm": model,
        "gold": item["answers"][0],
        "finite": finite,
        "open_options": options_shown(opened, chosen),
        "open_text": text,
        "open_correct": marks[0],
        "open_degenerate": is_degenerate((), text),
        "open_loop": is_text_loop(text),
        "choice_correct": marks[1],
    }
    answers = [answer for answer in item["answers"] if normalize(answer)]
    # A letter is in most texts, and the option's text is not what was asked for.
    if answers and not has_letters(opened):
        row["open_strict"] = None if opened.text is None else strict(text, answers)
        row["gold_in_question"] = containment(item["question"], answers)
    exact = opened.metrics.get("exact_match", opened.metrics.get("em"))
    row["open_em"] = None if exact not in (0.0, 1.0) else bool(exact)
    f1 = opened.metrics.get("f1")
    row["open_f1"] = f1 if f1 is not None and 0 <= f1 <= 1 else None
    if chosen.scores:
        row["choice_scores"] = list(chosen.scores)
        row["choice_pick"] = chosen.options[picked(chosen)]
    return row


def _source(tool: str, file: SampleFile) -> dict[str, Any]:
    """The origin of a file's samples, for later checks."""
    found = {
        "path": str(file.path),
        "task": file.task,
        "form": file.form,
        "samples": len(file.samples),
        "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest(),
    }
    if file.filter:
        found["filter"] = file.filter
    settings = settings_of(tool, file)
    return found if settings is None else found | {"results": str(settings.path)}
