"""Make the table of methods: perplexity, errors, answers and size after compression, and the cost of each method.

    python benchmarks/methods.py --out FOLDER --write docs/methods/table.md [ARM ...]

`anomia compress` makes each arm in its own process, on one thread, whose processor seconds (which other work on the
machine hardly changes) and peak memory are reported. One `anomia run` then asks all arms. Finished parts in the folder
are reused, and so are the cells of a page that this call doesn't measure, so arms can be added one by one.

With --peer-python (see `quantize_peers.py`), llm-compressor does the same on the same windows where it has the method.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared" / "data"
ARMS = (
    *("magnitude:0.5", "wanda:0.5", "wanda:0.5,allocation=owl", "mwanda:0.5", "prunerzero:0.5", "ria:0.5"),
    *(
        "wandapp:0.5",
        "wanda:0.5+dsnot",
        "wanda:0.5+update",
        "wanda:0.5+update,solver=admm",
        "sparsegpt:0.5",
        "alps:0.5",
    ),
    *("wanda:2:4", "ria:2:4", "sparsegpt:2:4"),
    *("int8", "llm.int8", "gptq:8", "awq:8", "int4", "nf4", "gptq:4", "awq:4", "int3", "gptq:3", "awq:3"),
    *("int2", "gptq:2", "awq:2"),
    *("embeddings:q8_0", "embeddings:q4_0", "shortgpt:0.06", "flap:0.1", "wanda:0.5+gptq:4"),
)
PACKED = ("gptq", "awq")
PEER = ("wanda", "sparsegpt", "gptq", "awq", "int8", "int4", "int3", "int2")
ANSWERS = ("open %", "choice %", "gap", "both right: choice only, lost")
COLUMNS = (
    *("arm", "perplexity", "layer error %", "block error %", *ANSWERS, "MB", "processor seconds", "peak GB"),
    *("peer's perplexity", "its layer error %", "its processor seconds"),
)
PAGE = """# Table of methods

Each method on Gemma 3 270M in bfloat16, on a CPU: 32 windows of at most 512 tokens of English C4 as calibration text,
perplexity of the first 3,000 tokens of WikiText-2's test text.

- **Layer error**: ‖(Ŵ−W)X‖²/‖WX‖², with X a matrix's inputs in base; mean over the matrices of the blocks, on the first
  1,000 tokens of the same test text. Empty where a method moves scales or channels between matrices or drops them.
- **Block error**: ‖f̂(h)−f(h)‖²/‖f(h)−h‖², with f a block and h its input in base; mean over the blocks, 1 for one that
  is gone. It can be compared across all methods.
- **Open, choice**: accuracy on 40 TyDiQA items each in English, Russian and Swahili. **Gap**: normalized drop of open
  minus that of choice, with its 95 % interval. Last, of the items that base gets right in both formats, how many are now
  choice only, and lost. The rows are of several runs: base has 35 such items in some and 36 in the others.
- **MB**: sparse and rounded models are stored dense, so only steps that pack or drop weights make the files smaller.
- **Processor seconds, peak GB**: of the whole `anomia compress` command on one thread. In base's row, the memory of
  Python with the libraries loaded and no model. 1.3 GB is the floor of the command: libraries, tokenizer, mapped files.
- **Peer**: llm-compressor 0.14 with the same windows and settings, on one thread, where it was measured. Its seconds
  include loading its libraries and saving, as ours do. [Benchmarks](../benchmarks.md#pruning) has the other methods next
  to their authors' code.

In the rows with a peer, answers are those of models made on another processor than the rest of the row; perplexity there
was within 4 % of the one here. Perplexity, errors and peak of `wandapp`, `dsnot` and `alps` were measured with float32
products of the bfloat16 values, their seconds and answers in an earlier run; with bfloat16 products perplexity was 44.0
for `wandapp` and 26.8 for `alps`. llm-compressor's OWL ends with an error.
M-Wanda gives every block the same sparsity here, since the calibration text has a single language. SliceGPT refuses
Gemma 3: the weights of the norms after attention and MLP can't be folded. `dropexperts` and `mergeexperts` need a
mixture of experts. At 3 bits and less, perplexity differs by several percent between calibration texts, and even with
the number of threads: see [Benchmarks](../benchmarks.md#quantization).

`python benchmarks/methods.py --out FOLDER --write docs/methods/table.md` writes this page; with names of arms it
replaces only their rows, and `--no-answers` keeps the answers that are there.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; the demo's if left out")
    parser.add_argument("--out", type=Path, required=True, help="where models, figures and the run go")
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512, help="of a window, at most")
    parser.add_argument(
        "--scored", type=int, default=3000, help="tokens of WikiText-2 that perplexity is measured on"
    )
    parser.add_argument("--items", type=int, default=40, help="a language")
    parser.add_argument(
        "--no-answers", action="store_true", help="leave the questions out, which take most of the time"
    )
    parser.add_argument("--languages", default="english,russian,swahili")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--peer-python", help="the Python of an environment with llm-compressor")
    parser.add_argument("arms", nargs="*", help=f"{len(ARMS)} arms if left out")
    options = parser.parse_args()
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    options.out.mkdir(parents=True, exist_ok=True)
    arms = options.arms or ARMS
    made = {arm: made_once(arm, options) for arm in arms}
    sound = {arm: one for arm, one in made.items() if "failed" not in one}
    rows = (
        {} if not options.write or not options.write.exists() else rows_of(options.write.read_text("utf-8"))
    )
    results = None if options.no_answers else asked(options, sound)
    for arm, one in {"base": base_of(options), **made}.items():
        rows[arm] = rows.get(arm, {}) | cells(arm, one, options, results)
    order = {arm: place for place, arm in enumerate(("base", *ARMS))}
    text = page({arm: rows[arm] for arm in sorted(rows, key=lambda arm: order.get(arm, len(order)))})
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


def folder_of(arm: str, options: Any) -> Path:
    """The folder of an arm's model."""
    return Path(options.out) / "models" / "".join(c if c.isalnum() or c in ".-" else "_" for c in arm)


def made_once(arm: str, options: Any) -> dict[str, Any]:
    """Compress a model, unless done before; return its cost in seconds and bytes, its size, perplexity and errors."""
    folder = folder_of(arm, options)
    file = folder.with_suffix(folder.suffix + ".json")
    if file.exists():
        return with_peer(arm, dict(json.loads(file.read_text())), file, options)
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.with_suffix(folder.suffix + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    status, found = timed(
        f"from anomia.cli import main; main({[*compress_words(arm, folder, options)]!r})", log, options
    )
    said = log.read_text().strip().splitlines()
    if status:
        return {"failed": said[-1] if said else f"status {status}"}
    report = json.loads((folder / "anomia.json").read_text())
    found["bytes"] = report["compression"]["size_bytes"]
    loaded = load(str(folder), options)
    found["perplexity"] = perplexity_of(loaded, options)
    found |= errors_once(arm, loaded, folder, options)
    file.write_text(json.dumps(found))
    print(f"{arm}: {found}", file=sys.stderr, flush=True)
    return with_peer(arm, found, file, options)


def compress_words(arm: str, folder: Path, options: Any) -> list[str]:
    """The command line of `anomia` that compresses an arm."""
    packed = arm.rpartition("+")[2].partition(":")[0] in PACKED
    return [
        "compress", options.model, str(folder), arm, "--dtype", options.dtype,
        "--calibration", f"file:{SHARED / 'calibration' / 'c4.en.jsonl'}",
        "--calibration-samples", str(options.windows), "--calibration-tokens", str(options.tokens),
        *(["--save-as", "compressed-tensors"] if packed else []),
    ]  # fmt: skip


def timed(code: str, log: Path, options: Any) -> tuple[int, dict[str, Any]]:
    """Run Python code on one thread; return its status, processor seconds and peak memory in bytes.

    The process reports its own peak, since what the system reports after its end includes this process's.
    """
    peak = log.with_suffix(".peak")
    report = f"import atexit, pathlib, prune; atexit.register(lambda: pathlib.Path({str(peak)!r}).write_text(str(prune.peak_memory())))"
    path = os.pathsep.join(filter(None, (str(HERE), str(HERE.parent / "src"), os.environ.get("PYTHONPATH"))))
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{report}; {code}"],
            stdout=out,
            stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        _, status, usage = os.wait4(process.pid, 0)
    return status, {"seconds": usage.ru_utime + usage.ru_stime, "peak": float(peak.read_text())}


def base_of(options: Any) -> dict[str, Any]:
    """Base's perplexity and size, and the memory that the libraries take."""
    _, found = timed("import anomia.compress.folder", options.out / "base.log", options)
    size = sum(file.stat().st_size for file in Path(options.model).glob("*.safetensors"))
    return {
        "perplexity": perplexity_of(base_model(options.model, options.dtype), options),
        "bytes": size,
        "peak": found["peak"],
    }


def load(model: str, options: Any) -> Any:
    from anomia.models.load import load_model

    return load_model(model, dtype=options.dtype, device="cpu")


@cache
def base_model(model: str, dtype: str) -> Any:
    return load(model, argparse.Namespace(dtype=dtype))


def test_text() -> str:
    return (SHARED / "calibration" / "wikitext2.test.raw").read_text(encoding="utf-8")


def perplexity_of(loaded: Any, options: Any) -> float:
    """A model's perplexity on the first tokens of WikiText-2's test text."""
    from anomia.compress.perplexity import perplexity

    return perplexity(loaded.model, loaded.tokenizer, test_text(), max_tokens=options.scored).value


def errors_once(arm: str, loaded: Any, folder: Path, options: Any) -> dict[str, Any]:
    """The errors of an arm's matrices and blocks on two windows of the test text."""
    from anomia.compress.spec import parse_arm
    from anomia.compress.steps import Pattern, Reshape
    from errors import errors_of, kept_blocks

    moved = any(
        isinstance(step, Reshape)
        or step.method == "awq"
        or (step.method == "ria" and isinstance(step.target, Pattern))
        for step in parse_arm(arm).steps
        if hasattr(step, "method")
    )
    base = base_model(options.model, options.dtype)
    ids = base.tokenizer(test_text()[:20_000])["input_ids"]
    rows = [ids[:500], [*ids[:1], *ids[500:1000]]]
    found = errors_of(base.model, loaded.model, rows, kept=kept_blocks(folder), matrices=not moved)
    return {"layer": found.layer, "block": found.block}


def with_peer(arm: str, found: dict[str, Any], file: Path, options: Any) -> dict[str, Any]:
    """Add llm-compressor's perplexity, layer error and processor seconds, once, if it has the method."""
    known = not {"+", ","} & set(arm) and arm.partition(":")[0] in PEER
    if "peer" in found or not known or not options.peer_python:
        return found
    import transformers

    windows, folder = options.out / "windows.json", options.out / "peer"
    windows.write_text(json.dumps(windows_of(options)))
    shutil.rmtree(folder, ignore_errors=True)
    command = [options.peer_python, str(HERE / "quantize_peers.py"), "--worker", "peer", "--step", arm]
    command += ["--model", options.model, "--text", str(windows), "--out", str(folder)]
    with file.with_suffix(".peer.log").open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        print(f"{arm}: llm-compressor failed; see {out.name}", file=sys.stderr, flush=True)
        return found
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    loaded = argparse.Namespace(model=model, tokenizer=base_model(options.model, options.dtype).tokenizer)
    peer = {"perplexity": perplexity_of(loaded, options), "seconds": usage.ru_utime + usage.ru_stime}
    peer["layer"] = errors_once(arm, loaded, folder, options)["layer"]
    found = {**found, "peer": peer}
    file.write_text(json.dumps(found))
    print(f"{arm}: llm-compressor {peer}", file=sys.stderr, flush=True)
    return found


def windows_of(options: Any) -> list[list[int]]:
    """The token windows that `anomia compress` calibrates on, for the peer; also for steps that need none here."""
    from anomia.compress.apply import prepare_windows
    from anomia.compress.options import TextOptions
    from anomia.compress.spec import parse_arm

    text = TextOptions(
        source=f"file:{SHARED / 'calibration' / 'c4.en.jsonl'}",
        samples=options.windows,
        tokens=options.tokens,
    )
    tokenizer = base_model(options.model, options.dtype).tokenizer
    made = prepare_windows(parse_arm("wanda:0.5").steps[0], tokenizer, text)
    assert made is not None
    return [list(window) for window in made.token_ids]


def asked(options: Any, made: dict[str, Any]) -> dict[str, Any]:
    """Ask base and all arms the open and choice probes in one run; return its results.json."""
    # A run folder holds one study, and other arms are another study.
    run = Path(options.out) / f"run-{hashlib.sha256(' '.join(made).encode()).hexdigest()[:8]}"
    command = [
        sys.executable, "-c", "from anomia.cli import main; main()", "run", "--base", options.model, "--out", str(run), "--data", "tydiqa",
        "--data-folder", str(SHARED), "--languages", options.languages, "--limit", str(options.items),
        "--dtype", options.dtype, "--probes", "open,choice",
    ]  # fmt: skip
    for arm in made:
        command += ["--arm", f"checkpoint:{folder_of(arm, options)}"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return dict(json.loads((run / "results.json").read_text()))


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """The cells of a page's table by arm and column."""
    lines = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    return {row[0].strip("`"): dict(zip(lines[0], row, strict=False)) for row in lines[2:]}


def page(rows: dict[str, dict[str, str]]) -> str:
    """The Markdown page."""
    lines = [PAGE, f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row.get(column, '') for column in COLUMNS)} |" for row in rows.values()]
    return "\n".join(lines) + "\n"


def cells(arm: str, one: dict[str, Any], options: Any, results: dict[str, Any] | None) -> dict[str, str]:
    """The cells of an arm that were measured, by column. results: None if no questions were asked."""
    if "failed" in one:
        return {"arm": f"`{arm}`", "perplexity": one["failed"]}
    formats = {
        "perplexity": ("perplexity", "{:,.1f}" if one["perplexity"] < 1e6 else "{:.1e}", 1),
        "layer error %": ("layer", "{:.2g}", 100),
        "block error %": ("block", "{:.2g}", 100),
        "MB": ("bytes", "{:,.0f}", 1e-6),
        "processor seconds": ("seconds", "{:,.0f}", 1),
        "peak GB": ("peak", "{:.2f}", 1e-9),
        "peer's perplexity": ("peer perplexity", "{:,.1f}", 1),
        "its layer error %": ("peer layer", "{:.2g}", 100),
        "its processor seconds": ("peer seconds", "{:,.0f}", 1),
    }
    values = {**one, **{f"peer {key}": value for key, value in one.get("peer", {}).items()}}
    found = {
        column: form.format(values[key] * factor)
        for column, (key, form, factor) in formats.items()
        if values.get(key) is not None
    }
    if results:
        name = "base" if arm == "base" else f"checkpoint:{folder_of(arm, options)}"
        found |= dict(zip(ANSWERS, answers_of(results, name), strict=True))
    return {"arm": f"`{arm}`", **found}


def answers_of(results: dict[str, Any], name: str) -> list[str]:
    """Table cells: open and choice accuracy, the gap, and the fates of items that base gets right in both formats."""
    figures = {(row["arm"], row["measure"], row["scope"]): row for row in results["figures"]}
    gap = figures.get((name, "gap/choice", "pooled"))
    given = gap is not None and gap["value"] is not None
    return [
        *(percent(figures.get((name, f"accuracy/{kind}", "pooled"))) for kind in ("open", "choice")),
        f"{gap['value']:+.2f} [{gap['low']:.2f}, {gap['high']:.2f}]" if given else "",
        fates_of(results, name),
    ]


def percent(row: Any) -> str:
    """A share as whole percent."""
    return "" if not row or row["value"] is None else f"{100 * row['value']:.0f}"


def fates_of(results: dict[str, Any], arm: str) -> str:
    """The number of items that base gets right in both formats, and how many of these are choice only and lost."""
    for row in results["fates"]:
        if (row["arm"], row["options"], row["scope"]) == (arm, "choice", "pooled"):
            both = sum(row[fate] for fate in ("kept", "choice_only", "open_only", "lost"))
            return f"{both}: {row['choice_only']}, {row['lost']}"
    return ""


if __name__ == "__main__":
    main()
