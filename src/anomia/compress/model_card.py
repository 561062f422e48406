"""The model card of a compressed model: what was done, and its caveats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anomia.compress.perplexity import Perplexity
from anomia.compress.report import CompressionReport, megabytes
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Embeddings, Prune, Quantize, Reshape
from anomia.files import write_text
from anomia.words import counted


def write_card(
    out: Path,
    model: str,
    steps: Sequence[CompressionReport],
    dense: Perplexity | None,
    compressed: Perplexity | None,
    *,
    base: str | None = None,
) -> None:
    """Write `README.md` next to the weights.

    model: the compressed model, as the user named it. steps: at least one. base: the model that it was merged into, if
    it is an adapter.
    """
    name = Path(model).name if Path(model).exists() else model
    report = steps[-1]
    whole = "+".join(each.step for each in steps)
    pruned = [each for each in steps if is_pruned(each.step)]
    lines = [
        "---",
        "library_name: transformers",
        f"tags: [{', '.join(('anomia', *_tags(whole)))}]",
        *([f"base_model: {origin}"] if not Path(origin := base or model).exists() else []),
        "---",
        "",
        f"# {name}, compressed with {whole}",
        "",
    ]
    if pruned:
        lines += [
            f"{pruned[-1].sparsity:.1%} of the weights in the decoder blocks' matrices are zero.",
            "",
            "**These are zeros in dense tensors: they make the model neither smaller nor faster by themselves.**"
            " A runtime that uses the sparsity has to do that.",
            "",
        ]
    for each in steps:
        if each.reshaped is not None:
            lines += [*(f"- removed: {line}" for line in each.reshaped["removed"]), ""]
    lines += [
        "Before you ship it: multiple-choice benchmarks can look fine where the model no longer gives the answer."
        " Measure that with Anomia (`anomia run`).",
        "",
        "| | |",
        "|---|---|",
        f"| method | `{whole}` |",
    ]
    for record in (each.calibration for each in steps):
        if record is not None:
            lines.append(
                f"| calibration | {record.source}: {counted(record.passages, 'passage')}, "
                f"{counted(record.tokens, 'token')}, SHA-256 `{record.token_hash[:16]}…` |"
            )
    if report.size_bytes is not None:
        lines.append(f"| size of the weights | {megabytes(report.size_bytes)} |")
    matrices = [matrix for each in steps for matrix in each.matrices]
    lines.append(f"| matrices | {len({matrix.name for matrix in matrices})} |")
    dead = sum(matrix.dead_columns for matrix in matrices)
    raised = sum(1 for matrix in matrices if matrix.note.startswith("damping raised"))
    lines.append(f"| dead inputs, raised dampings | {dead}, {raised} |")
    if dense is not None and compressed is not None:
        lines.append(
            f"| perplexity, dense → compressed | {dense.value:.2f} → {compressed.value:.2f} on "
            f"{counted(compressed.tokens, 'token')} |"
        )
    lines += [f"| {package} | {version} |" for package, version in (report.versions or {}).items()]
    if choices := [choice for each in steps for choice in each.reconstruction]:
        lines += ["", "This method is a reconstruction from its published description. Choices made:", ""]
        lines += [f"- {choice}" for choice in choices]
    if warnings := list(dict.fromkeys(warning for each in steps for warning in each.warnings)):
        lines += ["", "Warnings:", "", *(f"- {warning}" for warning in warnings)]
    lines += ["", "Sparsity, dead inputs and damping of every matrix are in `anomia.json`.", ""]
    write_text(out / "README.md", "\n".join(lines))


def is_pruned(steps: str) -> bool:
    """Whether an arm specification has a pruning step."""
    return any(isinstance(step, Prune) for step in parse_arm(steps).steps)


def _tags(steps: str) -> list[str]:
    kinds = {
        Prune: ("pruned", "sparse"),
        Quantize: ("quantized",),
        Reshape: ("pruned",),
        Embeddings: ("quantized",),
    }
    found = [
        tag
        for step in parse_arm(steps).steps
        for kind, tags in kinds.items()
        if isinstance(step, kind)
        for tag in tags
    ]
    return list(dict.fromkeys(found))
