"""Make the table of methods: perplexity, answers and size after compression, and the cost of each method.

    python benchmarks/methods.py --out FOLDER --write docs/methods/table.md

`anomia compress` makes each arm in its own process, whose processor seconds (which other work on the machine hardly
changes) and peak memory are reported. One `anomia run` then asks all arms. Finished parts in the folder are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared" / "data"
ARMS = (
    *("magnitude:0.5", "wanda:0.5", "ria:0.5", "wandapp:0.5", "wanda:0.5+dsnot", "wanda:0.5+update"),
    *("sparsegpt:0.5", "alps:0.5", "wanda:2:4", "ria:2:4", "sparsegpt:2:4"),
    *("int8", "int4", "gptq:4", "awq:4", "int3", "gptq:3", "awq:3", "gptq:2"),
    *("embeddings:q8_0", "embeddings:q4_0", "shortgpt:0.06", "flap:0.1", "wanda:0.5+gptq:4"),
)
PACKED = ("gptq", "awq")
ANSWERS = ("open %", "choice %", "gap", "both right: choice only, lost")
PAGE = """# Table of methods

Each method on Gemma 3 270M in bfloat16, on a CPU: 32 windows of at most 512 tokens of English C4 as calibration text,
perplexity of the first 3,000 tokens of WikiText-2's test text. Processor seconds and peak memory are of the whole
`anomia compress` command. Sparse and rounded models are stored dense, so only steps that pack or drop weights make the
files smaller. `python benchmarks/methods.py --out FOLDER --write docs/methods/table.md` writes this page;
`--no-answers` leaves the columns of answers out. Open and choice: accuracy on 40 TyDiQA items each in English, Russian
and Swahili; gap: normalized drop of open minus that of choice, with its 95 % interval; last, of the items that base gets
right both ways, how many are now choice only, and lost. The figures of other programs are under
[Benchmarks](../benchmarks.md#quantization).
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
    parser.add_argument("arms", nargs="*", help=f"{len(ARMS)} arms if left out")
    options = parser.parse_args()
    if options.model is None:
        from anomia.demo import demo_model

        options.model = str(demo_model())
    options.out.mkdir(parents=True, exist_ok=True)
    arms = options.arms or ARMS
    made = {arm: made_once(arm, options) for arm in arms}
    sound = {arm: one for arm, one in made.items() if "failed" not in one}
    answers = None if options.no_answers else asked(options, sound)
    text = table(options, made, answers)
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


def folder_of(arm: str, options: Any) -> Path:
    """The folder of an arm's model."""
    return Path(options.out) / "models" / "".join(c if c.isalnum() or c in ".-" else "_" for c in arm)


def made_once(arm: str, options: Any) -> dict[str, Any]:
    """Compress a model, unless done before; return its cost in seconds and bytes, its size and its perplexity."""
    folder = folder_of(arm, options)
    file = folder.with_suffix(folder.suffix + ".json")
    if file.exists():
        return dict(json.loads(file.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    packed = arm.rpartition("+")[2].partition(":")[0] in PACKED
    calibration = SHARED / "calibration"
    command = [
        sys.executable, "-c", "from anomia.cli import main; main()", "compress", options.model, str(folder), arm, "--dtype", options.dtype,
        "--calibration", f"file:{calibration / 'c4.en.jsonl'}", "--calibration-samples", str(options.windows),
        "--calibration-tokens", str(options.tokens), *(["--save-as", "compressed-tensors"] if packed else []),
    ]  # fmt: skip
    log = folder.with_suffix(folder.suffix + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
    said = log.read_text()
    found: dict[str, Any] = {
        "seconds": usage.ru_utime + usage.ru_stime,
        "wall": time.perf_counter() - started,
        "peak": usage.ru_maxrss * 1024,
    }
    if status:
        return {"failed": said.strip().splitlines()[-1] if said.strip() else f"status {status}"}
    report = json.loads((folder / "anomia.json").read_text())
    found["bytes"] = report["compression"]["size_bytes"]
    found["perplexity"] = perplexity_of(str(folder), options)
    file.write_text(json.dumps(found))
    print(f"{arm}: {found}", file=sys.stderr, flush=True)
    return found


def perplexity_of(model: str, options: Any) -> float:
    """A model's perplexity on the first tokens of WikiText-2's test text."""
    from anomia.compress.perplexity import perplexity
    from anomia.models import load_model

    text = (SHARED / "calibration" / "wikitext2.test.raw").read_text(encoding="utf-8")
    loaded = load_model(model, dtype=options.dtype, device="cpu")
    return perplexity(loaded.model, loaded.tokenizer, text, max_tokens=options.scored).value


def asked(options: Any, made: dict[str, Any]) -> dict[str, Any]:
    """Ask base and all arms the open and choice probes in one run; return its results.json."""
    run = Path(options.out) / "run"
    command = [
        sys.executable, "-c", "from anomia.cli import main; main()", "run", "--base", options.model, "--out", str(run), "--data", "tydiqa",
        "--data-folder", str(SHARED), "--languages", options.languages, "--limit", str(options.items),
        "--dtype", options.dtype, "--probes", "open,choice",
    ]  # fmt: skip
    for arm in made:
        command += ["--arm", f"checkpoint:{folder_of(arm, options)}"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return dict(json.loads((run / "results.json").read_text()))


def table(options: Any, made: dict[str, Any], results: dict[str, Any] | None) -> str:
    """The Markdown page, one row per arm, with the gap's interval in brackets. results: None leaves answers out."""
    base = {"perplexity": perplexity_of(options.model, options), "bytes": size_of(options.model)}
    columns = ["arm", "perplexity", *(ANSWERS if results else ()), "MB", "processor seconds", "peak GB"]
    lines = [PAGE, f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm, one in {"base": base, **made}.items():
        if "failed" in one:
            lines.append(f"| `{arm}` | {one['failed']} " + "| " * (len(columns) - 2) + "|")
            continue
        name = "base" if arm == "base" else f"checkpoint:{folder_of(arm, options)}"
        cells = [
            f"`{arm}`",
            f"{one['perplexity']:,.1f}",
            *(answers_of(results, name) if results else ()),
            f"{one['bytes'] / 1e6:,.0f}",
            f"{one['seconds']:,.0f}" if "seconds" in one else "",
            f"{one['peak'] / 1e9:.1f}" if "peak" in one else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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


def size_of(model: str) -> int:
    """The size of a folder's weights, in bytes."""
    return sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))


if __name__ == "__main__":
    main()
