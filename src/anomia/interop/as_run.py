"""Samples of another harness as a run folder, so that show, gate, report, items and export work on them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from anomia._version import __version__
from anomia.errors import DataError, RunError
from anomia.files import write_text
from anomia.grade import is_degenerate
from anomia.interop.join import Joined, join
from anomia.interop.lighteval_log import read_lighteval
from anomia.interop.lm_eval_log import read_lm_eval
from anomia.interop.samples import UNKNOWN_LANGUAGE, Sample, SampleFile, picked, right, task_of
from anomia.items.item import Question
from anomia.records import ITEM_SCHEMA, SCHEMA, write_rows

BASE = "base"


class Tool(NamedTuple):
    """How a harness names its files, and who reads them."""

    pattern: str
    read: Callable[..., SampleFile]


TOOLS: Mapping[str, Tool] = {
    "lm-eval": Tool("samples_*.jsonl", read_lm_eval),
    "lighteval": Tool("details_*.parquet", read_lighteval),
}


class Imported(NamedTuple):
    """What an import made. by: what joined the questions. left_out: how many were not used, by reason."""

    questions: int
    languages: tuple[str, ...]
    arms: tuple[str, ...]
    by: str
    graded_by: Mapping[str, str]
    left_out: Mapping[str, int]


def import_run(
    tool: str,
    models: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    filter_name: str | None = None,
) -> Imported:
    """Reads the samples of base and of compressed models and writes a run folder.

    models: files and folders by name, base's under `base` and first. Of a folder its newest files count.

    Raises:
        DataError: the samples can't be read or don't belong together.
        RunError: the folder holds something, or can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"import: {out} exists and is not empty; give another --out")
    read = TOOLS[tool].read
    files = {
        name: [read(file, filter_name=filter_name) for file in _files(tool, paths)]
        for name, paths in models.items()
    }
    joined = join(files)
    rows, items, graded_by = _rows(tool, joined)
    languages = tuple(sorted({row["language"] for row in items}))
    arms = tuple(name for name in models if name != BASE)
    write_rows(items, out / "items.parquet", ITEM_SCHEMA)
    for name, mine in rows.items():
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        write_rows(mine, out / "records" / f"imported.{digest}.parquet", SCHEMA)
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
                "files": {name: [_source(file) for file in each] for name, each in files.items()},
            },
            "items": dict(Counter(row["language"] for row in items)),
        },
    }
    # The study makes it a run, so it comes last.
    write_text(out / "study.yaml", yaml.safe_dump(study, sort_keys=False, allow_unicode=True))
    return Imported(len(items), languages, arms, joined.by, graded_by, joined.left_out)


def models_from(
    tool: str,
    paths: Sequence[Path],
    base: Sequence[Path],
    arms: Sequence[str],
    *,
    filter_name: str | None = None,
) -> dict[str, list[Path]]:
    """Which files belong to which model: from flags, from folders, or from the order of plain files.

    paths: folders, one a model, base's first; or files, of which the first of each task is base's, the second
    the first arm's, and so on. base, arms: what the flags gave, arms as `NAME=PATH`.

    Raises:
        DataError: they can't be told apart.
    """
    if base or arms:
        if paths:
            raise DataError("import: give either files, or --base and --arm, not both")
        if not base or not arms:
            raise DataError("import: give --base and at least one --arm NAME=PATH")
        models: dict[str, list[Path]] = {BASE: list(base)}
        for text in arms:
            name, sign, path = text.partition("=")
            if not (sign and name.strip() and path) or name.strip() == BASE:
                raise DataError(
                    f"import: --arm needs NAME=PATH, with a name other than {BASE!r}; got {text!r}"
                )
            models.setdefault(name.strip(), []).append(Path(path))
        return models
    if any(path.is_dir() for path in paths):
        if len(paths) < 2:
            raise DataError("import: give base's folder and at least one of a compressed model")
        names = [BASE, *_distinct([path.resolve().name for path in paths[1:]])]
        return {name: [path] for name, path in zip(names, paths, strict=True)}
    if len(paths) < 4:
        raise DataError(
            "import: a comparison needs a generation and a multiple-choice log of base and of a compressed model: "
            f"four files, got {len(paths)}"
        )
    read = TOOLS[tool].read
    turns: list[tuple[SampleFile, int]] = []
    for each in paths:
        file = read(each, filter_name=filter_name)
        turns.append((file, sum(_same_task(file, other) for other, _ in turns)))
    count = max(turn for _, turn in turns) + 1
    if count < 2:
        raise DataError("import: every file is of another task; give the same tasks of base and of an arm")
    names = [BASE, *(["compressed"] if count == 2 else [f"compressed-{n}" for n in range(1, count)])]
    return {name: [file.path for file, turn in turns if turn == n] for n, name in enumerate(names)}


def _files(tool: str, paths: Sequence[Path]) -> list[Path]:
    """The sample files of one model: of a folder, the newest of each task, in the folder or just below it."""
    pattern = TOOLS[tool].pattern
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        # The date stands last in a name, so the newest comes last.
        newest: dict[str, Path] = {}
        for file in sorted(path.rglob(pattern), key=lambda each: each.name):
            newest[task_of(file)] = file
        if not newest:
            raise DataError(f"import: {path} holds no {pattern}; give the folder that {tool} wrote")
        found += newest.values()
    return found


def _same_task(one: SampleFile, other: SampleFile) -> bool:
    """Whether two files are of the same task, whatever they are called."""
    if one.form != other.form:
        return False
    mine, others = ({value for s in file.samples for value in s.keys.items()} for file in (one, other))
    return bool(mine & others)


def _rows(
    tool: str, joined: Joined
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]], dict[str, str]]:
    """Rows of records by model, rows of items, and by what each form was graded."""
    items: list[dict[str, Any]] = []
    for number, (opened, chosen) in enumerate(joined.answers[BASE]):
        items.append(_item(tool, number, opened, chosen, joined.by))
    rows: dict[str, list[dict[str, Any]]] = {}
    graded: dict[str, Counter[str]] = {"open": Counter(), "choice": Counter()}
    for model, answers in joined.answers.items():
        rows[model] = []
        for item, (opened, chosen) in zip(items, answers, strict=True):
            for form, sample in (("open", opened), ("choice", chosen)):
                graded[form][right(sample)[1] or "nothing"] += 1
            rows[model].append(_record(model, item, opened, chosen))
    for form, ways in graded.items():
        if ways["nothing"] == ways.total():
            raise DataError(
                f"import: nothing says which {form} answers are right: no metric of 0 or 1 and no gold answer"
            )
    return rows, items, {form: ", ".join(sorted(ways)) for form, ways in graded.items()}


def _item(tool: str, number: int, opened: Sample, chosen: Sample, by: str) -> dict[str, Any]:
    language = chosen.language if opened.language == UNKNOWN_LANGUAGE else opened.language
    context, question = opened.context or chosen.context, opened.question or chosen.question
    name = opened.keys.get("id") or opened.keys[by]
    answers = opened.answers or chosen.answers or ("",)
    # Ids may be numbers that every task starts anew; the name that joined them is theirs alone.
    identity = f"{name}-{opened.keys[by][:8]}" if name != opened.keys[by] else name
    told = Question(identity, language, context, question, answers)
    return {
        "dataset": tool,
        "language": language,
        "item_id": identity,
        "index": number,
        "passage_id": opened.passage or chosen.passage or told.passage_id,
        "context": context,
        "question": question,
        "answers": list(answers),
        "options_standard": list(chosen.options),
        "options_hard": None,
        "options_passage": None,
        "unrelated": [],
        "foil": "",
    }


def _record(model: str, item: Mapping[str, Any], opened: Sample, chosen: Sample) -> dict[str, Any]:
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
        "open_correct": right(opened)[0],
        "open_degenerate": is_degenerate((), text),
        "choice_correct": right(chosen)[0],
    }
    exact = opened.metrics.get("exact_match", opened.metrics.get("em"))
    row["open_em"] = None if exact not in (0.0, 1.0) else bool(exact)
    f1 = opened.metrics.get("f1")
    row["open_f1"] = f1 if f1 is not None and 0 <= f1 <= 1 else None
    if chosen.scores:
        row["choice_scores"] = list(chosen.scores)
        row["choice_pick"] = chosen.options[picked(chosen)]
    return row


def _source(file: SampleFile) -> dict[str, Any]:
    """Where samples came from, so that it can be checked."""
    found = {
        "path": str(file.path),
        "task": file.task,
        "form": file.form,
        "samples": len(file.samples),
        "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest(),
    }
    return found | ({"filter": file.filter} if file.filter else {})


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of arms, told apart where folders are called alike."""
    taken: Counter[str] = Counter()
    found = []
    for given in names:
        name = "compressed" if given in ("", BASE) else given
        taken[name] += 1
        found.append(name if taken[name] == 1 else f"{name}-{taken[name]}")
    return found
