"""Write another harness's samples as a run folder, so that show, gate, report, items and export work on them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from anomia._version import __version__
from anomia.errors import RunError
from anomia.files import write_text
from anomia.grade import containment, is_degenerate, normalize, strict
from anomia.interop.arms import BASE
from anomia.interop.grading import Marks, grade
from anomia.interop.join import Joined, join
from anomia.interop.samples import UNKNOWN_LANGUAGE, Sample, SampleFile, picked
from anomia.interop.settings import settings_of
from anomia.interop.sources import read_logs
from anomia.interop.told_apart import run_differences
from anomia.items.item import Question
from anomia.loops import is_text_loop
from anomia.models.difference import Difference
from anomia.notes import write_differences
from anomia.records import ITEM_SCHEMA, SCHEMA, write_rows
from anomia.run_folder import RunFolder


class Imported(NamedTuple):
    """The result of an import.

    questions: number of questions in the run. by: the kind of key that joined them (`samples.KEYS`).
    graded_by: how each form was graded. left_out: number of unused questions, by reason.
    named: language by task, for tasks whose language comes from their name.
    unused: files with neither answers nor choices. older: logs replaced by newer ones of the same task.
    filters: by task, the tool's filter that graded it and all filters of the log.
    differences: by arm, differences from base in how the harness ran it, if results files exist.
    """

    questions: int
    languages: tuple[str, ...]
    arms: tuple[str, ...]
    by: str
    graded_by: Mapping[str, str]
    left_out: Mapping[str, int]
    named: Mapping[str, str]
    unused: Sequence[Path]
    older: Sequence[Path] = ()
    filters: Mapping[str, tuple[str, Sequence[str]]] = {}
    differences: Mapping[str, Sequence[Difference]] = {}


def import_run(
    tool: str,
    models: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    filter_name: str | None = None,
    language: str | None = None,
) -> Imported:
    """Read the samples of base and of compressed models, and write a run folder.

    models: files and folders by name; base's come first, as `base`. The other arguments are those of `read_logs`.

    Raises:
        DataError: the samples can't be read or don't belong together.
        RunError: the folder is not empty or can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"import: {out} exists and is not empty; give another --out")
    files, unused, older = read_logs(tool, models, filter_name=filter_name, language=language)
    joined = join(files)
    rows, items, graded_by = _rows(tool, joined)
    compared = {
        name: found
        for name, each in files.items()
        if name != BASE and (found := run_differences(tool, files[BASE], each)) is not None
    }
    languages = tuple(sorted({row["language"] for row in items}))
    arms = tuple(name for name in models if name != BASE)
    named = {file.task: file.named for each in files.values() for file in each if file.named}
    run = RunFolder(out)
    write_rows(items, run.items_file, ITEM_SCHEMA)
    for name, mine in rows.items():
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        write_rows(mine, run.record_file(f"imported.{digest}"), SCHEMA)
    study = {
        "base": str(next(iter(models[BASE]))),
        "arms": list(arms),
        "data": f"{tool}: {', '.join(dict.fromkeys(file.task for file in files[BASE]))}",
        "languages": list(languages),
        "provenance": {
            "anomia": __version__,
            "imported": {
                "tool": tool,
                "joined_by": joined.by,
                "graded_by": dict(graded_by),
                "left_out": dict(joined.left_out),
                "languages_from_names": named,
                "unused": [str(path) for path in unused],
                "older": [str(path) for path in older],
                "files": {name: [_source(tool, file) for file in each] for name, each in files.items()},
            },
            "items": dict(Counter(row["language"] for row in items)),
        },
    }
    for name, found in compared.items():
        write_differences(run, name, [row._asdict() for row in found])
    # The study file makes the folder a run, so it is written last.
    write_text(run.study_file, yaml.safe_dump(study, sort_keys=False, allow_unicode=True))
    filters = {file.task: (file.filter, file.filters) for file in files[BASE] if file.filter}
    return Imported(
        len(items),
        languages,
        arms,
        joined.by,
        graded_by,
        joined.left_out,
        named,
        unused,
        older,
        filters,
        compared,
    )


def _rows(
    tool: str, joined: Joined
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]], dict[str, str]]:
    """Record rows by model, item rows, and how each form was graded."""
    items: list[dict[str, Any]] = []
    for number, (opened, chosen) in enumerate(joined.answers[BASE]):
        items.append(_item(tool, number, opened, chosen, joined.by))
    graded = grade(joined.answers)
    rows = {
        model: [
            _record(model, item, opened, chosen, marks)
            for item, (opened, chosen), marks in zip(items, answers, graded.right[model], strict=True)
        ]
        for model, answers in joined.answers.items()
    }
    return rows, items, dict(graded.by)


def _item(tool: str, number: int, opened: Sample, chosen: Sample, by: str) -> dict[str, Any]:
    language = chosen.language if opened.language == UNKNOWN_LANGUAGE else opened.language
    context, question = opened.context or chosen.context, opened.question or chosen.question
    name = opened.keys.get("id") or opened.keys[by]
    answers = opened.answers or chosen.answers or ("",)
    # Ids may be numbers that restart in every task; the key that joined the samples is unique.
    identity = f"{name}-{opened.keys[by][:8]}" if name != opened.keys[by] else name
    told = Question(identity, language, context, question, answers)
    return dict.fromkeys(ITEM_SCHEMA) | {
        "dataset": tool,
        "language": language,
        "item_id": identity,
        "index": number,
        "passage_id": opened.passage or chosen.passage or told.passage_id,
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
        "open_text": text,
        "open_correct": marks[0],
        "open_degenerate": is_degenerate((), text),
        "open_loop": is_text_loop(text),
        "choice_correct": marks[1],
    }
    answers = [answer for answer in item["answers"] if normalize(answer)]
    if answers:
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
