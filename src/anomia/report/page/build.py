"""From the folders of runs to the folder of a report: page, figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from anomia.errors import RunError
from anomia.files import check_own, write_text
from anomia.locate.located import read_located
from anomia.measure.results import Results, read_results, read_sparsity
from anomia.probes import BY_NAME, GRADE, LADDER, ORACLES, short
from anomia.records.long_answers import UNSHOWN
from anomia.report.figures import Drawn, NamedRun, draw_all, section_of, theme, write_figures
from anomia.report.page.document import document
from anomia.report.page.explorer import (
    PARTS,
    index,
    item_whole,
    language_codes,
    probe_words,
    prompt_templates,
    templates_of,
)
from anomia.report.page.package import DATA_ELEMENT, compressed, embedded_bytes, page
from anomia.report.render.files import write_tables
from anomia.run_folder import ReportFolder, RunFolder

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
# In bytes; a page this large can still be mailed, and opens quickly.
LARGEST_PAGE = 4_990_000
BLOCK_ITEMS = 24
# Longer tables are in tables/ only.
LONGEST_TABLE = 300


class Report(NamedTuple):
    """The files written. omitted: parts of the items that did not fit into the page."""

    page: Path
    bytes: int
    omitted: tuple[str, ...]


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    results: Sequence[Results] | None = None,
    formats: Sequence[str] = ("svg", "png", "pdf"),
) -> Report:
    """Write `index.html`, `figures/` and `tables/` for one or more runs.

    Args:
        folders: the folders of the runs; for a study with several cells, those of its cells.
        out: where to write.
        results: of the runs, if they have been read already.
        formats: of the figure files; empty for no files.

    Raises:
        RunError: a run can't be read, the report can't be written, or it would overwrite files of the user.
    """
    files = ReportFolder(out)
    check_own(
        out,
        (files.page.name, files.figures.name, files.tables.name),
        mark=(files.page.name, DATA_ELEMENT),
        about="report",
    )
    runs = named_runs(folders, results)
    drawn = draw_all(runs)
    items = [(folder, run.results.records) for folder, run in zip(folders, runs, strict=True)]
    tables = [(records, RunFolder(folder).items()) for folder, records in items]
    values, specs = page_values(folders, runs, drawn), figure_specs(drawn)
    bare = page(values | {"explorer": explorer_values(runs, omitted=PARTS)}, specs=specs)
    rows, blocks, omitted = _embedded(tables, LARGEST_PAGE - len(bare.encode()))
    explorer = {"explorer": explorer_values(runs, omitted=omitted)}
    text = page(values | explorer, specs=specs, index=rows, blocks=blocks)
    write_text(files.page, text)
    try:
        if formats:
            write_figures(drawn, files.figures, formats)
        write_tables(runs, files.tables)
    except OSError as error:
        raise RunError(f"report: {out} can't be written: {error.strerror or error}") from None
    return Report(files.page, len(text.encode()), omitted)


def named_runs(folders: Sequence[Path], results: Sequence[Results] | None = None) -> list[NamedRun]:
    """The runs under the names of their folders; duplicate names get a number."""
    found: list[NamedRun] = []
    for number, folder in enumerate(folders):
        name = folder.resolve().name or str(folder)
        taken = [run.name for run in found]
        unlike = name if name not in taken else f"{name} ({number + 1})"
        of = read_results(folder) if results is None else results[number]
        located = (read_located(RunFolder(folder).located(arm)) for arm in of.arms)
        found.append(NamedRun(unlike, of, tuple(each for each in located if each is not None)))
    if not any(run.results.arms for run in found):
        raise RunError(f"report: {folders[0]} has no finished arm yet; let `anomia run` go on first")
    return found


def page_values(folders: Sequence[Path], runs: Sequence[NamedRun], drawn: Sequence[Drawn]) -> dict[str, Any]:
    """The page's content outside the explorer: verdicts, tables, and the text around the figures."""
    shown = document(runs, [read_sparsity(folder) for folder in folders])
    chance = chance_of([run.results.records for run in runs])
    figures = [_figure(figure) for figure in drawn]
    return shown | {
        "chance": chance,
        "ways": " or ".join(map(short, ORACLES)),
        "forms": forms(),
        "figures": figures,
    }


def forms() -> list[tuple[str, str]]:
    """Every form of the question on the ladder: its name in tables, and what it asks."""
    return [(short(name), (BY_NAME.get(name) or GRADE[name]).description) for name in LADDER]


def chance_of(records: Sequence[pl.DataFrame]) -> str:
    """How often picking an option is right by chance, with the numbers of options that were actually used."""
    asked = sorted(
        {n for frame in records for n in frame["choice_scores"].drop_nulls().list.len().unique() if n}
    )
    if not asked:
        return "Picking one of the options is sometimes right by chance."
    number = NUMBERS.get(asked[0], str(asked[0])) if len(asked) == 1 else f"{asked[0]} to {asked[-1]}"
    return f"Picking one of {number} options is right one time in {number} by chance."


def figure_specs(drawn: Sequence[Drawn]) -> bytes:
    """The figures' Vega specifications, light and dark, compressed."""
    import vl_convert

    themes = {"light": theme(False), "dark": theme(True)}
    return compressed(
        {
            figure.name: {
                name: vl_convert.vegalite_to_vega(spec | {"config": config})
                for name, config in themes.items()
            }
            for figure in drawn
            # Altair's validation of its own output would take most of a report's time.
            for spec in (figure.chart.to_dict(validate=False),)
        }
    )


def explorer_values(
    runs: Sequence[NamedRun], *, omitted: Sequence[str] = (), served: bool = False
) -> dict[str, Any]:
    """The explorer's data besides the items: names of probes, prompts, languages."""
    languages = {language for run in runs for language in run.results.languages}
    wordings = [templates_of(run.results.study) for run in runs]
    return {
        "served": served,
        **probe_words(),
        "prompts": [None if wording is None else prompt_templates(wording) for wording in wordings],
        "codes": language_codes(sorted(languages)),
        "chat": [bool(run.results.study.get("chat")) for run in runs],
        "atLength": not any(run.results.has_formats for run in runs),
        "block": BLOCK_ITEMS,
        "omitted": list(omitted),
    }


def _figure(drawn: Drawn) -> dict[str, Any]:
    table = drawn.table.head(LONGEST_TABLE)
    return {
        "name": drawn.name,
        "section": section_of(drawn.name),
        "title": drawn.title,
        "caption": drawn.caption,
        "alt": drawn.alt,
        "table": {
            "columns": table.columns,
            "rows": [[_cell(value) for value in row] for row in table.iter_rows()],
            "more": len(drawn.table) - len(table),
        },
    }


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _embedded(
    tables: Sequence[tuple[pl.DataFrame, pl.DataFrame]], room: int
) -> tuple[bytes, list[bytes], tuple[str, ...]]:
    """All rows, the items in compressed groups, and the parts left out to fit everything into `room` bytes."""
    columns, keys = index(tables)
    rows = compressed(columns)
    questions = [
        {(row["dataset"], row["language"], row["item_id"]): row for row in items.iter_rows(named=True)}
        for _, items in tables
    ]
    answers = [_by_item(records) for records, _ in tables]
    blocks: list[bytes] = []
    without: tuple[str, ...] = ()
    for number in range(len(PARTS) + 1):
        without = PARTS[:number]
        whole = [
            item_whole(questions[key.run][key[1:]], answers[key.run][key[1:]], without=without)
            for key in keys
        ]
        blocks = [compressed(whole[n : n + BLOCK_ITEMS]) for n in range(0, len(whole), BLOCK_ITEMS)]
        if sum(map(embedded_bytes, [rows, *blocks])) <= room:
            break
    return rows, blocks, without


def _by_item(records: pl.DataFrame) -> Mapping[tuple[str, str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in _in_order(records):
        found.setdefault((row["dataset"], row["language"], row["item_id"]), []).append(row)
    return found


def _in_order(records: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows with base first, without the columns that only measures need."""
    frame = records.select(pl.exclude("distribution_tokens", "distribution_log_probs", *UNSHOWN))
    for part in (frame.filter(pl.col("arm") == "base"), frame.filter(pl.col("arm") != "base")):
        yield from part.iter_rows(named=True)
