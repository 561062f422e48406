"""Writes `docs/architectures.md`: what happens to every causal architecture of the installed transformers.

Each is built tiny and at random and pruned; run it from the repository's root, in a few minutes.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.compress.architectures import kinds, tiny  # noqa: E402
from tests.compress.test_architectures_pruned import Account, check, take_account  # noqa: E402

from anomia.compress.blocks import find_blocks, why_dense  # noqa: E402
from anomia.models.load import quiet_transformers  # noqa: E402
from anomia.models.shrunk import NotBuiltError  # noqa: E402
from anomia.probe.select import supports_tree  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
HEAD = """# Architectures

Written by `scripts/architecture_table.py` with transformers {version}: every architecture that its
`AutoModelForCausalLM` knows and that can be built small from its default configuration, with random weights, pruned by
`wanda:0.5` on windows of unequal length. `tests/compress/test_architectures_pruned.py` does the same, without a list of
architectures, so those of a later transformers are covered as they come.

- **Pruned**: matrices by kind. `experts` are counted one by one.
- **Dense**: what stays as it is, and why. Nothing of two or more dimensions is left out: the test compares both columns
  with the model's parameters.
- **Equal**: whether every mask is the one that passes of the whole model give, with the blocks before it pruned. *by
  passes*: blocks that can't be run by themselves (they share states or matrices, or are called several times) are
  observed in such passes too, which takes one pass a block, and the whole model in memory.
- **Engine**: which one answers questions: the token `tree`, or the plain `reference` engine, and why not the tree.

{counts}

| architecture | pruned | dense and why | equal | engine |
|---|---|---|---|---|
"""


class Row(NamedTuple):
    """One line of the table; unbuilt: why there is none."""

    kind: str
    cells: tuple[str, ...] = ()
    unbuilt: str = ""
    refusal: str = ""


def row(kind: str) -> Row:
    """Build, prune, recompute."""
    try:
        account = take_account(kind)
        model = tiny(kind)
    except NotBuiltError as error:
        return Row(kind, unbuilt=str(error))
    support = supports_tree(model)
    engine = "tree" if support.ok else f"reference: {plain(support.reason)}"
    if account.report is None:
        return Row(kind, ("—", "—", f"refused: {plain(account.refusal)}", engine), refusal=account.refusal)
    try:
        check(kind, account)
        equal = (
            "yes, by passes"
            if any("passes of the whole model" in w for w in account.report.warnings)
            else "yes"
        )
    except AssertionError as error:
        equal = f"**no**: {plain(str(error))[:200]}"
    return Row(kind, (pruned(account), dense(account), equal, engine))


def pruned(account: Account) -> str:
    """`2 × self_attn.q_proj`, the same layer of all blocks together."""
    assert account.report is not None
    paths = [*find_blocks(account.model).modules]
    names = Counter(re.sub(r"\[\d+\]$", "", matrix.name) for matrix in account.report.matrices)
    kinds: Counter[str] = Counter()
    for name, count in names.items():
        kinds[name.rpartition(".")[2].replace("weight", name.split(".")[-2])] += count
    return f"{sum(kinds.values())} in {len(paths)} blocks: " + ", ".join(f"{name}" for name in kinds)


def dense(account: Account) -> str:
    """Names by reason, layers of all blocks together."""
    by_reason: dict[str, dict[str, None]] = {}
    for name, reason in why_dense(account.model, find_blocks(account.model)).items():
        short = ".".join(part for part in name.removesuffix(".weight").split(".") if not part.isdigit())
        by_reason.setdefault(reason, {})[".".join(short.split(".")[-2:])] = None
    return "; ".join(
        f"{reason}: {', '.join(list(names)[:4])}{', …' if len(names) > 4 else ''}"
        for reason, names in by_reason.items()
    )


def plain(text: str) -> str:
    """A text that fits a cell."""
    text = re.sub(r"^\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration|Model|Decoder\w*)(: | )", "", text)
    return " ".join(text.replace("|", "\\|").split())


def page() -> str:
    """The whole page."""
    rows = [row(kind) for kind in kinds()]
    built = [each for each in rows if not each.unbuilt]
    equal = sum("yes" in each.cells[2] for each in built)
    trees = sum(each.cells[3] == "tree" for each in built)
    counts = (
        f"Of {len(rows)} architectures, {len(built)} can be built small; {equal} are pruned with masks equal to the "
        f"recomputation, {sum(bool(each.refusal) for each in built)} refused; {trees} are answered by the tree."
    )
    lines = [f"| {each.kind} | {' | '.join(each.cells)} |" for each in built]
    unbuilt = [f"- {each.kind}: {plain(each.unbuilt)}" for each in rows if each.unbuilt]
    return (
        HEAD.format(version=transformers.__version__, counts=counts)
        + "\n".join(lines)
        + "\n\n## Not built small\n\nTheir default configuration can't be shrunk by the names of its fields, or needs a "
        "package that isn't installed.\n\n" + "\n".join(unbuilt) + "\n"
    )


def main() -> None:
    """Write the page."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with quiet_transformers():
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
