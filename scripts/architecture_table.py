"""Write how each causal architecture of the installed transformers is pruned and run.

Every architecture goes to `docs/data/architectures.csv`, a summary to `docs/architectures.md`.

Builds a tiny random model of each and prunes it. Run this from the repository's root; it takes a few minutes.
"""

from __future__ import annotations

import csv
import logging
import re
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.compress.architectures import kinds, tiny  # noqa: E402
from tests.compress.test_architectures_pruned import Account, check, take_account  # noqa: E402

from anomia.compress.blocks import find_blocks  # noqa: E402
from anomia.compress.left_dense import (  # noqa: E402
    BARE,
    BIAS,
    CONVOLUTION,
    EMBEDDING,
    FEW,
    HEAD,
    LOOSE,
    NORM,
    OTHER_MODEL,
    OUTSIDE,
    ROUTER,
    dense_in_files,
)
from anomia.models.load import quiet_transformers  # noqa: E402
from anomia.models.shrunk import NotBuiltError  # noqa: E402
from anomia.probe.select import supports_tree  # noqa: E402

PAGE, CELLS = ROOT / "docs" / "architectures.md", ROOT / "docs" / "data" / "architectures.csv"
TOP = """# Architectures

Every architecture of `AutoModelForCausalLM` in transformers {version}, built small with random weights and pruned by
`wanda:0.5` on windows of unequal length. Architectures with the same entries share a row.
[A file](data/architectures.csv) has a row for each, with full names and the number of matrices.
`scripts/architecture_table.py` writes both; `tests/compress/test_architectures_pruned.py` tests the architectures of
any installed version.

{counts} The text models of some architectures (`emu3`, `mllama`) are
parts of larger checkpoints, as which transformers loads them; it loads no folder with the part alone.

- **Pruned**: the kinds of matrices. Experts are pruned one by one.
- **Dense**: why something stays dense, and what. *Parameter*: it belongs to no layer (decay, mixing, scale). *Matrix*:
  the same, but states are multiplied by it. *Part*: it has a configuration of its own (vision, audio). *Outside*: it is
  outside the blocks. *Few weights*: a matrix of at most 64, which saves nothing. The test checks that both columns
  cover every parameter of two or more dimensions.
- **Equal**: whether every mask equals one computed from passes of the whole model, with the blocks before it pruned.
  *By passes*: blocks that can't run by themselves (they share states or matrices, or are called several times) are
  observed in such passes too, which takes one pass per block and the whole model in memory.
- **Engine**: the token *tree*, or *reference*, the plain engine, and why. *State*: a layer has a recurrent state or
  another kind of attention. *Attention*: it can't be replaced. *ALiBi*: attention is biased by distance in the cache.
  *Logits*: those on a token tree differ from those of plain passes. *Code*: it fails on a token tree.

| architectures | pruned | dense | equal | engine |
|---|---|---|---|---|
"""
# What the page shortens; names of what stays dense are left out where the reason tells.
SHORT = {
    EMBEDDING: "embedding",
    HEAD: "head",
    ROUTER: "router",
    FEW: "few weights",
    CONVOLUTION: "convolution",
    NORM: "norm",
    BIAS: "bias",
    BARE: "parameter",
    LOOSE: "matrix",
    OTHER_MODEL: "part",
    OUTSIDE: "outside",
}
TOLD = {EMBEDDING, HEAD, ROUTER}
ENGINES = {
    r"reference: has layers with a recurrent state .*": "reference: state",
    r"reference: its attention can't be replaced": "reference: attention",
    r"reference: biases attention by distance .*": "reference: ALiBi",
    r"reference: its logits on a token tree differ .*": "reference: logits",
    r"reference: its code does not run on a token tree .*": "reference: code",
}


class Row(NamedTuple):
    """An architecture in the file. not_built: why it can't be built small; the cells before it are then empty."""

    architecture: str
    pruned: str = ""
    dense: str = ""
    equal: str = ""
    engine: str = ""
    not_built: str = ""
    transformers: str = transformers.__version__


def row(kind: str) -> Row:
    """Build and prune an architecture, recompute its masks, and describe the result."""
    try:
        account = take_account(kind)
        model = tiny(kind)
    except NotBuiltError as error:
        return Row(kind, not_built=plain(str(error)))
    support = supports_tree(model)
    engine = "tree" if support.ok else f"reference: {plain(support.reason)}"
    if account.report is None:
        return Row(kind, "—", "—", f"refused: {plain(account.refusal)}", engine)
    try:
        check(kind, account)
        equal = (
            "yes, by passes"
            if any("passes of the whole model" in w for w in account.report.warnings)
            else "yes"
        )
    except AssertionError as error:
        equal = f"**no**: {plain(str(error))[:200]}"
    return Row(kind, pruned(account), dense(account), equal, engine)


def pruned(account: Account) -> str:
    """The pruned matrices: their number, the number of blocks, and their names without block and expert numbers."""
    assert account.report is not None
    paths = [*find_blocks(account.model).modules]
    names = Counter(re.sub(r"\[\d+\]$", "", matrix.name) for matrix in account.report.matrices)
    kinds: Counter[str] = Counter()
    for name, count in names.items():
        kinds[name.rpartition(".")[2].replace("weight", name.split(".")[-2])] += count
    return f"{sum(kinds.values())} in {len(paths)} blocks: " + ", ".join(f"{name}" for name in kinds)


def dense(account: Account) -> str:
    """Parameters that stay dense, by reason, with names without block numbers."""
    by_reason: dict[str, dict[str, None]] = {}
    for name, reason in dense_in_files(account.model, find_blocks(account.model)).items():
        short = ".".join(part for part in name.removesuffix(".weight").split(".") if not part.isdigit())
        by_reason.setdefault(reason, {})[".".join(short.split(".")[-2:])] = None
    return "; ".join(
        f"{reason}: {', '.join(list(names)[:4])}{', …' if len(names) > 4 else ''}"
        for reason, names in by_reason.items()
    )


def plain(text: str) -> str:
    """A text on one line, without the name of the model's class."""
    text = re.sub(r"^\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration|Model|Decoder\w*)(: | )", "", text)
    return " ".join(text.split())


def shortened(found: Row) -> tuple[str, str, str, str]:
    """The cells of an architecture on the page."""
    kinds = found.pruned.rpartition(" blocks: ")[2]
    reasons = []
    for part in found.dense.split("; "):
        reason, _, names = part.partition(": ")
        kept = dict.fromkeys(name.rpartition(".")[2] for name in names.split(", "))
        told = reason in TOLD or not names
        reasons.append(SHORT.get(reason, reason) + ("" if told else f": {', '.join(kept)}"))
    engine = found.engine
    for pattern, short in ENGINES.items():
        engine = re.sub(f"^{pattern}$", short, engine)
    return kinds, "; ".join(reasons), found.equal.removeprefix("yes, "), engine


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    built = [each for each in rows if not each.not_built]
    equal = sum(each.equal.startswith("yes") for each in built)
    refused = sum(each.equal.startswith("refused") for each in built)
    trees = sum(each.engine == "tree" for each in built)
    counts = (
        f"Of {len(rows)} architectures, {len(built)} can be built small: {equal} are pruned with equal masks and "
        f"{refused} refused. {trees} run on the tree engine."
    )
    groups: dict[tuple[object, ...], list[Row]] = {}
    for each in built:
        kinds, reasons, *others = shortened(each)
        same = frozenset(kinds.split(", ")), frozenset(reasons.split("; ")), *others
        groups.setdefault(same, []).append(each)
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in (_names(group), *shortened(group[0]))) + " |"
        for group in sorted(groups.values(), key=lambda group: -len(group))
    ]
    unbuilt = textwrap.fill(_names([each for each in rows if each.not_built]), 120, break_on_hyphens=False)
    return (
        TOP.format(version=rows[0].transformers, counts=counts)
        + "\n".join(lines)
        + "\n\n## Not built small\n\nA package is missing, or the default configuration can't be shrunk (the file says "
        f"which):\n\n{unbuilt}\n"
    )


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(each.architecture for each in rows)


def read() -> list[Row]:
    """The rows of the file."""
    with CELLS.open(encoding="utf-8", newline="") as file:
        return [Row(**each) for each in csv.DictReader(file)]


def main() -> None:
    """Write the file and the page."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with quiet_transformers():
        rows = [row(kind) for kind in kinds()]
    CELLS.parent.mkdir(exist_ok=True)
    with CELLS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([Row._fields, *rows])
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
