"""Check that a refactoring changed no figure, table, exported row or page.

    python scripts/frozen.py record FOLDER [--run RUN ...] [--no-study]   # with the old code, then with the new code
    python scripts/frozen.py compare FOLDER OTHER

`record` runs a small study on tiny random models with the `anomia` that Python imports (set PYTHONPATH to choose), and
saves everything that users read: records, results.json, exported rows, all tables, the page's payload, and the output
of the commands. `--run` does the same for existing runs, without measuring again; with `--no-study`, for these alone,
which takes seconds. `compare` lists the files that differ, with the first differences, and exits with 1 if there are
any.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "show": ["show", "{run}"],
    "items": ["items", "{run}", "--json", "--limit", "200"],
    "items-text": ["items", "{run}", "--limit", "5"],
    "gate": ["gate", "{run}", "--json", "--by-language"],
    "gate-text": ["gate", "{run}"],
    "export": ["export", "{run}", "{out}/rows.jsonl"],
    "export-csv": ["export", "{run}", "{out}/rows.csv"],
    "report": ["report", "{run}", "--out", "{out}/report"],
}
ARMS = ("wanda:0.5", "int8", "null:batch=3", "checkpoint:other", "packaged:other")
# Values that depend on time or place.
VOLATILE = re.compile(
    r'("(?:seconds|created|started|finished|date|time|wall|peak_bytes|git|anomia)": )("[^"]*"|[-+.\deE]+)'
)


def main() -> None:
    """Parse the command line and run its command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("record")
    one.add_argument("folder", type=Path)
    one.add_argument("--run", type=Path, action="append", default=[], help="a run that is already there")
    one.add_argument("--no-study", action="store_true", help="leave the small study out")
    one.set_defaults(
        do=lambda options: record(
            options.folder.resolve(), [run.resolve() for run in options.run], study=not options.no_study
        )
    )
    two = commands.add_parser("compare")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.set_defaults(do=lambda options: sys.exit(compare(options.before, options.after)))
    options = parser.parse_args()
    options.do(options)


def record(folder: Path, runs: list[Path], *, study: bool) -> None:
    """Save everything that users read of a small study and of other runs as text files in `folder/frozen`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "frozen", ignore_errors=True)
    if study:
        ask_tiny_models(folder)
        freeze(folder, Path("run"), folder / "frozen" / "tiny")
    for number, run in enumerate(runs):
        copy = folder / f"copy-{number}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        freeze(folder, Path(copy.name), folder / "frozen" / run.name)


def ask_tiny_models(folder: Path) -> None:
    """Run all probes on two random models, pruned, quantized, and under noise."""
    for name, seed in (("model", 0), ("other", 1)):
        if not (folder / name / "config.json").exists():
            tiny_model(folder / name, seed)
    shutil.rmtree(folder / "run", ignore_errors=True)
    arms = [word for arm in ARMS for word in ("--arm", arm)]
    anomia(
        folder,
        ["run", "--base", "model", *arms, "--data", "demo", "--languages", "english,russian,swahili", "--limit",
         "8", "--calibration", "demo", "--calibration-samples", "4", "--calibration-tokens", "64", "--dtype",
         "float32", "--device", "cpu", "--out", "run"],
    )  # fmt: skip


def freeze(folder: Path, run: Path, out: Path) -> None:
    """Save the commands' output on one run as text files."""
    out.mkdir(parents=True)
    for name, words in COMMANDS.items():
        said = anomia(folder, [word.format(run=run, out=out) for word in words])
        (out / f"{name}.txt").write_text(said.replace(str(out), "OUT"), encoding="utf-8")
    (out / "results.json").write_text(steady((folder / run / "results.json").read_text("utf-8")), "utf-8")
    page = (out / "report" / "index.html").read_text("utf-8")
    for kind, name, body in re.findall(
        r'<script type="application/(json|gzip)" id="([^"]+)">(.*?)</script>', page, re.S
    ):
        if name == "vega-code":
            continue
        text = body if kind == "json" else gzip.decompress(base64.b64decode(body)).decode()
        (out / f"page-{name}.json").write_text(steady(pretty(text)), "utf-8")
    for file in [
        *out.glob("report/index.html"),
        *out.glob("report/figures/*.pdf"),
        *out.glob("report/figures/*.png"),
    ]:
        file.unlink()


def pretty(text: str) -> str:
    """JSON with one value per line, for line-based comparison."""
    return json.dumps(json.loads(text), ensure_ascii=False, indent=1)


def steady(text: str) -> str:
    """The text with `VOLATILE` values replaced by null."""
    return VOLATILE.sub(r"\1null", text)


def anomia(folder: Path, words: list[str]) -> str:
    """Run a command; return what it prints on a terminal of 200 columns."""
    code = "import sys; from anomia.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"anomia {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def tiny_model(folder: Path, seed: int) -> None:
    """Save a random Llama with a byte-level tokenizer trained on the shipped questions."""
    import tokenizers
    import torch
    import transformers

    from anomia.items.readers import read_questions

    texts = [
        q.context + q.question for qs in read_questions("demo", ["english", "russian"]).values() for q in qs
    ]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compare(before: Path, after: Path) -> int:
    """Print which files differ and where; return 1 if any does."""
    roots = (before / "frozen", after / "frozen")
    names = sorted({file.relative_to(root) for root in roots for file in root.rglob("*") if file.is_file()})
    differ = 0
    for name in names:
        one, other = (read(root / name) for root in roots)
        if one != other:
            differ += 1
            print(f"{name}: {first_difference(one, other)}")
    print(f"{len(names)} files compared, {differ} differ")
    return int(bool(differ))


def read(file: Path) -> str | None:
    """A file as text; None if it doesn't exist."""
    return file.read_bytes().decode("utf-8", "replace") if file.is_file() else None


def first_difference(one: str | None, other: str | None) -> str:
    """The number of changed lines, and the first of them, before and after."""
    if one is None or other is None:
        return "only before" if other is None else "only after"
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), n=0, lineterm="")
    changed = [line[:300] for line in lines if not line.startswith(("---", "+++", "@@"))]
    return f"{len(changed)} lines\n    " + "\n    ".join(changed[:6])


if __name__ == "__main__":
    main()
