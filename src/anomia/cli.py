"""The command line: thin, every decision is made elsewhere."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from anomia._version import __version__
from anomia.errors import AnomiaError

if TYPE_CHECKING:
    from anomia.run.progress import Progress

app = typer.Typer(
    name="anomia",
    help="Finds out what compression took from a language model: the knowledge, or only the words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Tables need more columns than the 80 that are assumed where there is no terminal.
out_console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=110)
err_console = Console(stderr=True)


def _version(value: bool) -> None:
    if value:
        out_console.print(f"anomia {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Finds out what compression took from a language model: the knowledge, or only the words."""


@app.command()
def run(
    study: Annotated[Path | None, typer.Argument(help="A study file (YAML). Flags win over it.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The uncompressed model: a hub id, a folder or a .gguf file.", metavar="MODEL"),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with base, once for each: magnitude:0.5, wanda:0.5, wanda:2:4, sparsegpt:0.5, "
            "checkpoint:MODEL, or a chain such as wanda:0.5+int8.",
            metavar="SPEC",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The questions: tydiqa, xquad (both from the hub), squad:FILE_OR_FOLDER, jsonl:FILE, or demo.",
            metavar="DATA",
        ),
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Names or codes with commas between them; default: all.", metavar="A,B")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items a language (default 200).", metavar="N")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the subset, the options and the samples.")] = None,
    until_width: Annotated[
        float | None,
        typer.Option(
            help="Stop an arm once the interval of its dissociation rate is this narrow, as 0.2.", metavar="W"
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="A margin of the verdicts, as hold=0.05; once for each.", metavar="NAME=VALUE"),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder of the run; the same folder goes on.", metavar="RUN")
    ] = Path("anomia-run"),
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="auto, or items a batch.", metavar="auto|N")] = None,
    engine: Annotated[
        str | None, typer.Option(help="auto, tree (one shared prefill) or reference (plain generate).")
    ] = None,
    probes: Annotated[
        str | None, typer.Option(help="Which questions to ask, with commas; default: all.", metavar="A,B")
    ] = None,
    sample_seeds: Annotated[
        int | None, typer.Option(help="Seeds that samples are drawn with (default 1).")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Text for pruning: c4, demo, wikipedia:LANGUAGE, balanced, own or file:PATH."),
    ] = None,
    calibration_samples: Annotated[int | None, typer.Option(help="Passages of it (default 128).")] = None,
    calibration_tokens: Annotated[int | None, typer.Option(help="Tokens a passage (default 2048).")] = None,
    calibration_folder: Annotated[
        Path | None,
        typer.Option(
            help="A folder with c4.en.jsonl and wikipedia/LANGUAGE.jsonl, looked through before the hub."
        ),
    ] = None,
    calibration_budget: Annotated[
        int | None, typer.Option(help="Tokens in all, to compare sources fairly.")
    ] = None,
    chat: Annotated[bool | None, typer.Option("--chat", help="Use the tokenizer's chat template.")] = None,
    trust_remote_code: Annotated[
        bool | None, typer.Option("--trust-remote-code", help="Let code from the model's repository run.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of base on the hub.")] = None,
) -> None:
    """Measure base and its compressed versions, and say what was lost.

    Example: anomia run --base google/gemma-3-270m --arm wanda:0.5 --data tydiqa --languages en,sw --limit 40
    """
    from anomia.measure.verdict import read_thresholds
    from anomia.study import read_study

    margins = read_thresholds(threshold) if threshold else None
    flags = {
        "base": base,
        "arms": arm or None,
        "data": data,
        "languages": _list(languages),
        "limit": limit,
        "seed": seed,
        "until_width": until_width,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size if batch_size in (None, "auto") else _whole(batch_size),
        "engine": engine,
        "probes": _list(probes),
        "sample_seeds": sample_seeds,
        "calibration": calibration,
        "calibration_samples": calibration_samples,
        "calibration_tokens": calibration_tokens,
        "calibration_folder": None if calibration_folder is None else str(calibration_folder),
        "calibration_budget": calibration_budget,
        "chat": chat,
        "trust_remote_code": trust_remote_code,
        "revision": revision,
    }
    _run(read_study(study, {key: value for key, value in flags.items() if value is not None}), out, margins)


@app.command()
def demo(
    languages: Annotated[
        str, typer.Option(help="Names or codes with commas between them, or all.", metavar="A,B")
    ] = "english,russian,swahili,indonesian",
    limit: Annotated[int, typer.Option(help="Items a language, up to 32.", metavar="N")] = 24,
    out: Annotated[Path, typer.Option(help="The folder of the run.", metavar="RUN")] = Path("anomia-demo"),
) -> None:
    """The main job on a small real model: Gemma 3 270M, the shipped questions, Wanda at half the weights."""
    from anomia.demo import ARM, demo_model
    from anomia.study import read_study

    text = "preparing Gemma 3 270M (a minute, once)"
    if not err_console.is_terminal:
        err_console.print(text)
    with err_console.status(text):
        folder = demo_model()
    study = {
        "base": str(folder),
        "arms": [ARM],
        "data": "demo",
        "languages": None if languages == "all" else _list(languages),
        "limit": limit,
        "calibration": "demo",
    }
    _run(read_study(None, {key: value for key, value in study.items() if value is not None}), out)


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="A hub id, a folder or a .gguf file.", metavar="MODEL")],
    out: Annotated[
        Path, typer.Argument(help="The new folder; an unfinished one is gone on with.", metavar="OUT")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="magnitude, wanda, sparsegpt; mwanda and prunerzero are reconstructions from their papers."
        ),
    ] = "wanda",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of weights that become zero (default 0.5).")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="N:M instead of a sparsity: at most N of every M weights stay.", metavar="2:4"),
    ] = None,
    allocation: Annotated[
        str, typer.Option(help="uniform, or owl: more where there are outliers.")
    ] = "uniform",
    calibration: Annotated[
        str, typer.Option(help="c4, demo, wikipedia:LANGUAGE, balanced or file:PATH.")
    ] = "c4",
    calibration_samples: Annotated[int | None, typer.Option(help="Passages of it (default 128).")] = None,
    calibration_tokens: Annotated[int, typer.Option(help="Tokens a passage.")] = 2048,
    calibration_folder: Annotated[
        Path | None,
        typer.Option(
            help="A folder with c4.en.jsonl and wikipedia/LANGUAGE.jsonl, looked through before the hub."
        ),
    ] = None,
    calibration_budget: Annotated[int | None, typer.Option(help="Tokens in all.")] = None,
    languages: Annotated[
        str | None, typer.Option(help="Languages of balanced calibration.", metavar="A,B")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    perplexity: Annotated[
        Path | None,
        typer.Option(help="A text file on which dense and pruned model are compared.", metavar="FILE"),
    ] = None,
) -> None:
    """Prune a model into a new folder, one block in memory at a time.

    What is written is an ordinary dense model with zeros in it: zeros alone make it neither smaller nor faster.
    """
    from anomia.compress.folder import prune_folder
    from anomia.compress.spec import Prune, parse_arm
    from anomia.errors import StudyError
    from anomia.run.progress import stage_counter

    if sparsity is not None and pattern is not None:
        raise StudyError("prune: give --sparsity or --pattern, not both")
    amount = pattern or str(0.5 if sparsity is None else sparsity)
    step = parse_arm(
        f"{method}:{amount}" + (f",allocation={allocation}" if allocation != "uniform" else "")
    ).steps[0]
    if not isinstance(step, Prune):
        raise StudyError(
            f"prune: {method!r} is no pruning method; use magnitude, wanda, sparsegpt, mwanda or prunerzero"
        )
    with _progress() as progress:
        report = prune_folder(
            model,
            out,
            step,
            calibration=calibration,
            samples=calibration_samples,
            tokens=calibration_tokens,
            budget=calibration_budget,
            data_dir=calibration_folder,
            languages=_list(languages) or (),
            dtype=dtype,
            perplexity_text=perplexity,
            progress=stage_counter(progress, f"pruning: {step}"),
        )
        for warning in report.compression.warnings:
            progress.say(warning)
    done = report.compression
    out_console.print(
        f"{out}: {done.sparsity:.1%} of the weights of {len(done.matrices)} matrices are zero ({step}, "
        f"{report.seconds:.0f} s). It is an ordinary dense model: zeros alone make it neither smaller nor faster.",
        highlight=False,
        soft_wrap=True,
    )
    if report.dense and report.pruned:
        out_console.print(
            f"perplexity: {report.dense.value:.2f} dense, {report.pruned.value:.2f} pruned", highlight=False
        )


@app.command()
def plan(
    pilot: Annotated[
        Path | None, typer.Argument(help="The folder of a pilot run; without it, give accuracies.")
    ] = None,
    power: Annotated[
        bool, typer.Option("--power", help="How many items are needed to see a gap or a dissociation.")
    ] = False,
    opened: Annotated[
        str | None, typer.Option("--open", help="Open accuracy of base and arm.", metavar="0.45,0.35")
    ] = None,
    choice: Annotated[
        str | None, typer.Option(help="Choice accuracy of base and arm.", metavar="0.90,0.87")
    ] = None,
    gained: Annotated[float, typer.Option(help="Share of the items that only the arm gets right.")] = 0.02,
    dissociation: Annotated[
        float | None, typer.Option(help="Dissociation rate; default: from the accuracies.")
    ] = None,
    both_correct: Annotated[
        float | None, typer.Option(help="Share that base answers both ways; default: from the accuracies.")
    ] = None,
    dissociation_above: Annotated[float, typer.Option(help="The rate to be exceeded.")] = 0.05,
    gap_from: Annotated[float, typer.Option(help="The gap to be told from.")] = 0.0,
    chance: Annotated[float, typer.Option(help="Of seeing it: the power.")] = 0.8,
) -> None:
    """How large a study must be.

    Example: anomia plan --power --open 0.45,0.35 --choice 0.90,0.87
    """
    from anomia.errors import StudyError
    from anomia.measure.planning import Target, plan_from_assumptions, plan_from_pilot
    from anomia.measure.power import read_transition
    from anomia.records import read_records
    from anomia.report.plan_table import plan_view

    if not power:
        raise StudyError("plan: say what to plan: anomia plan --power")
    target = Target(dissociation_above, gap_from, chance)
    if pilot is not None:
        plans = list(plan_from_pilot(read_records(pilot), target))
    elif opened is not None and choice is not None:
        sides = (read_transition(opened, gained, "--open"), read_transition(choice, gained, "--choice"))
        plans = [
            plan_from_assumptions(*sides, both_correct=both_correct, dissociation=dissociation, target=target)
        ]
    else:
        raise StudyError("plan: give the folder of a pilot run, or --open BASE,ARM and --choice BASE,ARM")
    out_console.print(plan_view(plans, target))


@app.command()
def show(
    runs: Annotated[
        list[Path],
        typer.Argument(help="The folder of a run; several are put side by side.", metavar="RUN..."),
    ],
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="A margin of the verdicts, as hold=0.05; once for each.", metavar="NAME=VALUE"),
    ] = None,
) -> None:
    """All tables of a run, and its verdicts; of several runs, one table."""
    from anomia.measure.results import read_results
    from anomia.measure.verdict import read_thresholds
    from anomia.report.side_by_side import side_by_side

    margins = read_thresholds(threshold) if threshold else None
    found = [(run, read_results(run, thresholds=margins)) for run in runs]
    if len(found) == 1:
        _show(found[0][1])
    else:
        out_console.print(side_by_side(found))


@app.command()
def items(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    fate: Annotated[str | None, typer.Option(help="kept, choice_only, open_only or lost.")] = None,
    language: Annotated[str | None, typer.Option(help="A name or a code.")] = None,
    arm: Annotated[str | None, typer.Option(help="Which arm; default: the first.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
) -> None:
    """The items themselves: the question, what base said, what the arm said."""
    from anomia.errors import RunError, nearest
    from anomia.items.languages import language_name
    from anomia.measure.fates import FATES
    from anomia.measure.recognition import with_fates
    from anomia.records import read_items, read_records
    from anomia.report.terminal import item_view, selected_items

    records = with_fates(read_records(run))
    arms = [name for name in records["arm"].unique(maintain_order=True) if name != "base"]
    if not arms:
        raise RunError(f"items: {run} has no finished arm yet")
    if fate is not None and fate not in FATES:
        raise RunError(f"items: unknown fate {fate!r}; {nearest(fate, FATES)}")
    if arm is not None and arm not in arms:
        raise RunError(f"items: {run} has no arm {arm!r}; {nearest(arm, arms)}")
    known = records["language"].unique().to_list()
    wanted = None if language is None else language_name(language)
    if wanted is not None and wanted not in known:
        raise RunError(f"items: {run} has no language {wanted!r}; {nearest(wanted, known)}")
    chosen = selected_items(records, arm=arm or arms[0], fate=fate, language=wanted)
    questions = {(row["language"], row["item_id"]): row for row in read_items(run).iter_rows(named=True)}
    before = {
        (row["language"], row["item_id"]): row
        for row in records.filter(records["arm"] == "base").iter_rows(named=True)
    }
    for row in chosen.head(limit).iter_rows(named=True):
        key = row["language"], row["item_id"]
        out_console.print(item_view(questions[key], before[key], row))
    out_console.print(f"{min(limit, len(chosen))} of {len(chosen)} items", style="dim", highlight=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    file: Annotated[Path, typer.Argument(help="FILE.csv, FILE.parquet or FILE.jsonl")],
) -> None:
    """Write one row for each arm and item."""
    from anomia.report.export import export_run

    out_console.print(f"{export_run(run, file)} rows in {file}", highlight=False, soft_wrap=True)


def _run(study: Any, out: Path, thresholds: Any = None) -> None:
    """Executes a study and shows what came out."""
    from anomia.files import write_json
    from anomia.measure.results import read_results, results_json
    from anomia.report.terminal import run_view
    from anomia.run import run_study

    with _progress() as progress:
        outcomes = run_study(study, out, progress=progress)
    results = read_results(out, thresholds=thresholds)
    write_json(out / "results.json", results_json(results))
    for name in results.arms:
        out_console.print(run_view(results, name, brief=True))
    _show_failures(results)
    out_console.print(f"\nall tables: anomia show {out}", highlight=False, soft_wrap=True)
    out_console.print(
        f"results: {out / 'results.json'}   records: {out / 'records'}", highlight=False, soft_wrap=True
    )
    out_console.print(
        f"look at the items: anomia items {out} --fate choice_only", highlight=False, soft_wrap=True
    )
    failed = [outcome for outcome in outcomes if outcome.failed]
    if failed:
        raise AnomiaError(
            "\n".join(f"arm {outcome.arm} was not measured: {outcome.failed}" for outcome in failed)
        )


@contextmanager
def _progress() -> Iterator[Progress]:
    """Bars in a terminal, lines elsewhere; Ctrl-C ends with a word on how to go on and exit code 130."""
    from anomia.run.progress import PlainProgress, RichProgress

    try:
        with RichProgress(err_console) if err_console.is_terminal else PlainProgress() as progress:
            yield progress
    except KeyboardInterrupt:
        err_console.print("stopped; the same command goes on where it was", highlight=False)
        raise typer.Exit(130) from None


def _show(results: Any) -> None:
    from anomia.report.terminal import closing_view, run_view

    for arm in results.arms:
        out_console.print(run_view(results, arm))
    out_console.print(closing_view(results))
    _show_failures(results)


def _show_failures(results: Any) -> None:
    for arm, count in results.broken.items():
        out_console.print(
            f"{arm}: broken: logits that are NaN or infinite for {count} items", markup=False, highlight=False
        )
    for arm, reason in results.failed.items():
        out_console.print(f"{arm}: not measured: {reason}", markup=False, highlight=False)


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _whole(text: str) -> int | str:
    """A number where it is one; anything else is left for the study to refuse."""
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: deliberate errors become one message and exit code 2."""
    warnings.filterwarnings("ignore", module=r"(?!anomia)")
    for talkative in ("transformers", "torch.utils._pytree", "torchao"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    try:
        app(args=arguments)
    except AnomiaError as error:
        err_console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
