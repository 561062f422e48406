"""The model card of a pruned model: what was done, and what it is not."""

from __future__ import annotations

from pathlib import Path

from anomia.compress.perplexity import Perplexity
from anomia.compress.report import CompressionReport, megabytes
from anomia.files import write_text


def write_card(
    out: Path, model: str, report: CompressionReport, dense: Perplexity | None, pruned: Perplexity | None
) -> None:
    """Write `README.md` beside the weights. model: what was pruned, as the user named it."""
    name = Path(model).name if Path(model).exists() else model
    lines = [
        "---",
        "library_name: transformers",
        "tags: [anomia, pruned, sparse]",
        *([f"base_model: {model}"] if not Path(model).exists() else []),
        "---",
        "",
        f"# {name}, pruned with {report.step}",
        "",
        f"{report.sparsity:.1%} of the weights in the decoder blocks' matrices are zero. Embeddings, norms, biases"
        " and the output head are as they were.",
        "",
        "**These are zeros in dense tensors: they make the model neither smaller nor faster by themselves.**"
        " A runtime that uses the sparsity has to do that.",
        "",
        "Before you ship it: multiple-choice benchmarks can look fine where the model no longer says the answer."
        " Measure that with Anomia (`anomia run`).",
        "",
        "| | |",
        "|---|---|",
        f"| method | `{report.step}` |",
    ]
    if report.calibration is not None:
        record = report.calibration
        lines.append(
            f"| calibration | {record.source}: {record.passages} passages, {record.tokens} tokens,"
            f" SHA-256 `{record.token_hash[:16]}…` |"
        )
    if report.size_bytes is not None:
        lines.append(f"| size of the weights | {megabytes(report.size_bytes)} |")
    lines.append(f"| matrices | {len(report.matrices)} |")
    dead = sum(matrix.dead_columns for matrix in report.matrices)
    raised = sum(1 for matrix in report.matrices if matrix.note.startswith("damping raised"))
    lines.append(f"| dead inputs, raised dampings | {dead}, {raised} |")
    if dense is not None and pruned is not None:
        lines.append(
            f"| perplexity, dense → pruned | {dense.value:.2f} → {pruned.value:.2f} on {pruned.tokens} tokens |"
        )
    lines += [f"| {package} | {version} |" for package, version in (report.versions or {}).items()]
    if report.reconstruction:
        lines += ["", "This method is a reconstruction from its published description. Choices made:", ""]
        lines += [f"- {choice}" for choice in report.reconstruction]
    if report.warnings:
        lines += ["", "Warnings:", "", *(f"- {warning}" for warning in report.warnings)]
    lines += ["", "Sparsity, dead inputs and damping of every matrix are in `anomia.json`.", ""]
    write_text(out / "README.md", "\n".join(lines))
