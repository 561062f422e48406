"""Export the questions of a run as lm-evaluation-harness tasks: the same prompts, in open and in choice form."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shlex
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from anomia import grade, text
from anomia.errors import RunError
from anomia.files import check_own, write_text
from anomia.items.prompts import read_templates, write_prompt
from anomia.run_folder import RunFolder

# The functions that the harness calls. They don't import Anomia, which may not be installed there.
_HEADER = '''"""Written by Anomia: loads the questions next to this file and grades answers as Anomia does."""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


def load(language, **_):
    """The questions of one language."""
    import datasets

    file = Path(__file__).parent / f"{language}.jsonl"
    lines = file.read_text(encoding="utf-8").split("\\n")
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines if line])}


def process_results(doc, results):
    """Whether the output contains a gold answer, and whether its first line is one."""
    return {
        "contains": float(any(contains(results[0], answer) for answer in doc["answers"])),
        "em": float(exact_match(results[0], doc["answers"])),
    }
'''


# Options are bare letters if, as in MMLU, the prompt held the option texts; an imported log doesn't separate those.
_GROUP = "anomia.yaml"
_LETTERS = list(string.ascii_uppercase)


class Exported(NamedTuple):
    """The task files written.

    names: task names, one open and one choice task per language. command: the command that runs them.
    excluded: number of items without options that can be scored. graded_by: the run's grader.
    """

    names: Sequence[str]
    command: str
    excluded: int
    graded_by: str


def export_tasks(run: Path, folder: Path) -> Exported:
    """Write the questions of a run as tasks.

    The prompts are those that base saw, including truncated passages. Options keep the order in which they were
    scored.

    Raises:
        RunError: the run has no items that can be asked, the folder has files of the user, or it can't be written.
    """
    opened = RunFolder(run)
    study = opened.study() if opened.is_run else {}
    templates = read_templates(study.get("prompts") or {})
    cut = _cut_passages(opened)
    languages: dict[str, list[dict[str, Any]]] = {}
    excluded = 0
    for row in opened.items().sort("language", "index").iter_rows(named=True):
        options = row["options_standard"]
        if options is None:
            continue
        gold = next((options.index(answer) for answer in row["answers"] if answer in options), None)
        if gold is None or options == _LETTERS[: len(options)]:
            excluded += 1
            continue
        context = row["context"][: cut.get((row["language"], row["item_id"]))]
        languages.setdefault(row["language"], []).append(
            {
                "id": row["item_id"],
                "language": row["language"],
                "passage_id": row["passage_id"],
                "context": row["context"],
                "question": row["question"],
                "answers": row["answers"],
                "options": options,
                "gold": gold,
                "prompt": write_prompt("open", context, row["question"], templates=templates),
            }
        )
    if not languages:
        why = (
            "their gold answer is not an option, or the options are bare letters"
            if excluded
            else "none has options"
        )
        raise RunError(f"export: {run} has no items that can be asked as choice: {why}")
    generation = {
        "until": list(study.get("stop") or ()),
        "max_gen_toks": int(study.get("max_new_tokens") or 32),
        "do_sample": False,
    }
    names: list[str] = []
    slugs = {language: _slug(language) for language in languages}
    written = [f"{slug}.jsonl" for slug in slugs.values()]
    written += [f"{name}.yaml" for slug in slugs.values() for name, _ in _tasks(slug, generation)]
    check_own(folder, [*written, _GROUP, "utils.py"], mark=(_GROUP, "group: anomia"), about="export")
    for language, docs in languages.items():
        slug = slugs[language]
        write_text(
            folder / f"{slug}.jsonl", "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs)
        )
        for name, task in _tasks(slug, generation):
            _write_yaml(folder / f"{name}.yaml", task)
            names.append(name)
    _write_yaml(folder / _GROUP, {"group": "anomia", "task": names})
    write_text(folder / "utils.py", _helpers())
    command = _command(folder, chat=bool(study.get("chat")), system=str(study.get("system") or ""))
    return Exported(names, command, excluded, str(study.get("grader") or grade.CONTAINMENT.grader))


def _command(folder: Path, *, chat: bool, system: str = "") -> str:
    # The settings of Anomia's chat prompts: only the template's BOS, and thinking switched off.
    model = "pretrained=MODEL,add_bos_token=False,enable_thinking=False" if chat else "pretrained=MODEL"
    template = "--apply_chat_template " if chat else ""
    template += f"--system_instruction {shlex.quote(system)} " if system else ""
    return (
        f"lm-eval run --model hf --model_args {model} {template}--include_path {shlex.quote(str(folder))} --tasks "
        "anomia --log_samples --output_path OUT"
    )


def _slug(language: str) -> str:
    """A language as used in file and task names, with a hash added if characters are lost."""
    kept = re.sub(r"[^a-z0-9]+", "_", language.lower())[:40].strip("_")
    return kept if kept == language else f"{kept or 'x'}_{hashlib.sha256(language.encode()).hexdigest()[:8]}"


def _cut_passages(run: RunFolder) -> dict[tuple[str, str], int]:
    """The number of characters of each passage that base saw, if the run has records."""
    if not run.record_files():
        return {}
    records = run.records()
    if "context_characters" not in records.columns:
        return {}
    seen = records.filter((records["arm"] == "base") & records["context_characters"].is_not_null())
    columns = seen.select("language", "item_id", "context_characters")
    return {(language, item): int(count) for language, item, count in columns.iter_rows()}


def _tasks(language: str, generation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    common = {
        "custom_dataset": "!function utils.load",
        "dataset_kwargs": {"language": language},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "num_fewshot": 0,
    }
    name = f"anomia_open_{language}"
    yield (
        name,
        {
            "task": name,
            **common,
            "output_type": "generate_until",
            "doc_to_target": "{{answers[0]}}",
            "generation_kwargs": dict(generation),
            "process_results": "!function utils.process_results",
            "metric_list": [_mean(metric) for metric in ("contains", "em")],
            "metadata": {"version": 1},
        },
    )
    name = f"anomia_choice_{language}"
    yield (
        name,
        {
            "task": name,
            **common,
            "output_type": "multiple_choice",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "{{gold}}",
            "target_delimiter": " ",
            "metric_list": [_mean("acc")],
            "metadata": {"version": 1},
        },
    )


def _mean(metric: str) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}


def _write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    # Unquote the harness's own YAML tag, which safe_dump writes as a text.
    write_text(path, re.sub(r"'(!function [\w.]+)'", r"\1", text))


def _helpers() -> str:
    constants = f"SEEN = re.compile({text.SEEN.pattern!a})\nJOINED = {text.JOINED!a}\n"
    functions = (
        text.visible,
        text.normalize,
        text.seen_lines,
        text.first_lines,
        grade.contains,
        grade.exact_match,
    )
    return "\n\n".join([_HEADER, constants, *(inspect.getsource(function) for function in functions)])
