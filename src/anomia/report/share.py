"""A run as a Hugging Face data set: its records as Parquet, its results, its report, and a data set card."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from anomia.errors import RunError
from anomia.files import write_text
from anomia.items.languages import language_code
from anomia.items.sets import SETS
from anomia.measure.results import Results, read_results, results_json
from anomia.report.naming import exclusions
from anomia.run_folder import RunFolder, SharedFolder, runs_of

HUB = "hub:"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def push_run(run: Path, target: str, *, private: bool = False) -> str:
    """Write a run as a data set to a folder or to the hub, and return its location.

    Args:
        run: the folder of a run, or of several cells.
        target: `hub:NAME`, or a folder that does not exist yet.
        private: whether a repository created on the hub is private.

    Raises:
        RunError: the run can't be read, the folder exists already, or the hub refuses.
    """
    if not target.startswith(HUB):
        folder = Path(target)
        if folder.exists():
            raise RunError(f"push: {folder} exists; give a folder that does not")
        with _written(run, folder.name) as made:
            try:
                shutil.copytree(made, folder)
            except OSError as error:
                raise RunError(f"push: {folder} can't be written: {error.strerror or error}") from None
        return str(folder)
    name = target.removeprefix(HUB)
    if not _NAME.fullmatch(name):
        raise RunError(f"push: {name!r} is not a name on the hub; write hub:OWNER/NAME")
    with _written(run, name) as made:
        return _upload(made, name, private=private)


def write_data_set(run: Path, folder: Path, name: str) -> None:
    """Write a run's records, items, results, study, card and report files, if any, to a folder.

    Absolute paths of this machine are cut to their last component; the rest is useless to others.
    """
    found = []
    cells = runs_of(run)
    for cell in cells:
        part = "run" if cells == [run] else cell.name
        results = read_results(cell)
        found.append((part, results))
        here, target = RunFolder(cell), SharedFolder(folder).run(part)
        for mine, theirs in zip(here.published, target.published, strict=True):
            if mine.is_file():
                _copy(mine, theirs)
        # Their file names in a run reveal where its data was stored.
        for number, file in enumerate(here.compression.files()):
            _copy(file.path, target.compression.of(f"{number:03d}").path)
        text = json.dumps(results_json(results), ensure_ascii=False, indent=2)
        write_text(target.results.path, _without_paths(text) + "\n")
        rows = {"records": here.records(), "items": here.items()}
        for kind, shared in SharedFolder(folder).rows(part).items():
            shared.parent.mkdir(parents=True, exist_ok=True)
            named = pl.col("arm", "dataset") if "arm" in rows[kind].columns else pl.col("dataset")
            cut = rows[kind].with_columns(named.map_elements(_without_paths, return_dtype=pl.String))
            cut.write_parquet(shared, compression="zstd")
    here, target = RunFolder(run), SharedFolder(folder).whole
    if here.report_folder.is_dir():
        shutil.copytree(here.report_folder, target.report_folder)
    if here.matrix_file.is_file():
        _copy(here.matrix_file, target.matrix_file)
    write_text(SharedFolder(folder).card, card(name, found))


def card(name: str, runs: Sequence[tuple[str, Results]]) -> str:
    """The data set card: what was compared, the outcomes, and the columns."""
    languages = sorted(
        {code for _, results in runs for code in map(language_code, results.languages) if code}
    )
    shared = SharedFolder(Path())
    header: dict[str, Any] = {
        "tags": ["anomia", "compression", "evaluation"],
        "configs": [
            {"config_name": part, "data_files": pattern} | ({"default": True} if part == "records" else {})
            for part, pattern in shared.patterns.items()
        ],
    }
    if languages:
        header["language"] = languages
    lines = ["---", yaml.safe_dump(header, sort_keys=False).strip(), "---", "", f"# {_plain(name)}", ""]
    lines += [
        "What compression took from a language model: the knowledge, or only the words. Measured with Anomia; one",
        "row for each model and question in `records`, the questions themselves in `items`, every figure with its",
        f"interval in `{shared.run('*').results.path.as_posix()}`.",
        "",
    ]
    for part, results in runs:
        study = results.study
        lines += [f"## {_plain(part)}", ""]
        lines += [
            f"- base: {_plain(_last(str(study['base'])))}",
            f"- data: {_plain(_last(str(study['data'])))}",
        ]
        counts = (
            results.records.filter(results.records["arm"] == "base")
            .group_by("language")
            .len()
            .sort("language")
        )
        lines += [
            "- items: " + ", ".join(f"{language} {count}" for language, count in counts.iter_rows()),
        ]
        lines += [f"- excluded on request: {exclusions(results)}"] if results.exclude else []
        lines.append("")
        for arm in results.arms:
            lines += [f"**{_plain(arm)}**: {_plain(results.overall(arm).text)}", ""]
    lines += [
        "## Licence and origin",
        "",
        *_licences(str(results.study["data"]) for _, results in runs),
        "Model outputs are subject to the terms of those models.",
        "",
    ]
    return "\n".join(lines)


def _licences(data: Iterable[str]) -> list[str]:
    """The source of the questions and its licence, one line per data set."""
    lines = []
    for name in dict.fromkeys(data):
        found = SETS.get(name)
        if found is None or not found.licence:
            lines.append(
                "The questions, passages and answers come from the data set named above and stay under its licence; "
                "check it before you redistribute them."
            )
        else:
            cited = f": {found.citation}" if found.citation else ""
            lines.append(
                f"The questions, passages and answers of {found.title} stay under its licence, {found.licence}{cited}."
            )
    return [*dict.fromkeys(lines)]


@contextmanager
def _written(run: Path, name: str) -> Iterator[Path]:
    """A data set in a temporary folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="anomia-push-") as work:
        made = Path(work) / "data"
        write_data_set(run, made, name)
        yield made


def _upload(made: Path, name: str, *, private: bool) -> str:
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            repo_type="dataset",
            folder_path=str(made),
            commit_message="Records and report of an Anomia run",
        )
    except Exception as error:
        # The hub's client raises its own types and those of httpx and the operating system.
        if not type(error).__module__.startswith(("huggingface_hub", "httpx", "builtins")):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"push: hub:{name} can't be written: {reason}; log in with `hf auth login`, or give a folder"
        ) from None
    return str(url)


def _copy(file: Path, to: Path) -> None:
    write_text(to, _without_paths(file.read_text(encoding="utf-8")))


def _without_paths(text: str) -> str:
    return re.sub(r"(?<![\w/.])(?:/[^\s/'\":,\]}]+)+/(?=[^\s/'\":,\]}]+)", "", text)


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".")) or ":" in name else name


def _plain(text: str) -> str:
    """Text that Markdown shows as is."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)
