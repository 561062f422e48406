"""`anomia run` and `anomia demo`: a study from flags or a file, executed and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anomia.cli.app import app, err_console, names, out_console, progress_display, whole
from anomia.cli.show import show_failures
from anomia.errors import AnomiaError


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
        "languages": names(languages),
        "limit": limit,
        "seed": seed,
        "until_width": until_width,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size if batch_size in (None, "auto") else whole(batch_size),
        "engine": engine,
        "probes": names(probes),
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
    execute(
        read_study(study, {key: value for key, value in flags.items() if value is not None}), out, margins
    )


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
        "languages": None if languages == "all" else names(languages),
        "limit": limit,
        "calibration": "demo",
    }
    execute(read_study(None, {key: value for key, value in study.items() if value is not None}), out)


def execute(study: Any, out: Path, thresholds: Any = None) -> None:
    """Executes a study and shows what came out."""
    from anomia.files import write_json
    from anomia.measure.results import read_results, results_json
    from anomia.report.terminal import run_view
    from anomia.run import run_study

    with progress_display() as progress:
        outcomes = run_study(study, out, progress=progress)
    results = read_results(out, thresholds=thresholds)
    write_json(out / "results.json", results_json(results))
    for name in results.arms:
        out_console.print(run_view(results, name, brief=True))
    show_failures(results)
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
