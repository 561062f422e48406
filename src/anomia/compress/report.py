"""The report of a compression: plain values for the run, `anomia.json` and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from anomia.compress.calibration import CalibrationRecord
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Prune
from anomia.words import counted


class MatrixReport(NamedTuple):
    """One matrix after compression.

    name: full path in the model. shape: (out, in). zeros: number of zero weights.
    dead_columns: number of inputs that are zero, or too small to be squared, for all calibration tokens.
    damping: of SparseGPT and GPTQ, relative to the mean diagonal of the Hessian. note: anything unusual.
    error: ‖(Ŵ−W)X‖²/‖WX‖² on the calibration tokens; None if the method gathers no Hessian.
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    dead_columns: int = 0
    damping: float | None = None
    note: str = ""
    error: float | None = None

    @property
    def sparsity(self) -> float:
        """The fraction of zero weights."""
        return self.zeros / (self.shape[0] * self.shape[1])


@dataclass(frozen=True, slots=True)
class CompressionReport:
    """One applied step.

    seconds: wall-clock time. block_sparsity: the target of each block, if they differ.
    left_dense: names, in safetensors files, of the weights that the step doesn't change.
    dense_why: the same, by reason.
    reconstruction: decisions of a method that was rebuilt from its published description, empty for other methods.
    size_bytes: of the whole model's weights as they would be stored: dense after pruning, packed after quantization.
    reshaped: the removed parts, and the configuration before and after.
    kept_weights: number of weights in matrices that the step would change and that stay dense on request.
    """

    step: str
    matrices: tuple[MatrixReport, ...]
    seconds: float
    calibration: CalibrationRecord | None = None
    block_sparsity: tuple[float, ...] = ()
    left_dense: tuple[str, ...] = ()
    reconstruction: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] | None = None
    size_bytes: int | None = None
    reshaped: Mapping[str, Any] | None = None
    dense_why: Mapping[str, tuple[str, ...]] | None = None
    kept_weights: int = 0

    @property
    def sparsity(self) -> float:
        """The fraction of zero weights in all reported matrices and those kept dense together; 0 if there are none."""
        weights = sum(matrix.shape[0] * matrix.shape[1] for matrix in self.matrices) + self.kept_weights
        return sum(matrix.zeros for matrix in self.matrices) / weights if weights else 0.0

    @property
    def mean_error(self) -> float | None:
        """The mean of the matrices' errors; None if no matrix has one."""
        errors = [matrix.error for matrix in self.matrices if matrix.error is not None]
        return sum(errors) / len(errors) if errors else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = asdict(self)
        plain["sparsity"] = self.sparsity
        plain["matrices"] = [{**m._asdict(), "sparsity": m.sparsity} for m in self.matrices]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> CompressionReport:
        """Read a report that `to_dict` wrote."""
        values = {key: value for key, value in plain.items() if key != "sparsity"}
        values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        known = MatrixReport._fields
        matrices = [{k: v for k, v in entry.items() if k in known} for entry in plain["matrices"]]
        values["matrices"] = tuple(MatrixReport(**{**m, "shape": tuple(m["shape"])}) for m in matrices)
        if values.get("calibration"):
            values["calibration"] = CalibrationRecord(**values["calibration"])
        return cls(**values)


def by_reason(why: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Group names by their reason."""
    return {
        reason: tuple(n for n, its in why.items() if its == reason) for reason in dict.fromkeys(why.values())
    }


def summary(report: CompressionReport) -> str:
    """Summarize a step in one line."""
    (step,) = parse_arm(report.step).steps
    count = counted(len(report.matrices), "matrix", "matrices")
    if report.reshaped is not None:
        share = report.reshaped.get("share")
        went = "" if share is None else f" ({share:.1%})"
        return "; ".join(f"removed: {line}" for line in report.reshaped["removed"]) + went
    if isinstance(step, Prune):
        return (
            f"{report.sparsity:.1%} of the weights of {count} are zero{told_kept(report)}{told_error(report)}"
        )
    return f"{count} {'is' if len(report.matrices) == 1 else 'are'} rounded{told_kept(report)}{told_error(report)}"


def told_kept(report: CompressionReport) -> str:
    """Return how much stays dense on request as part of a sentence, "" if nothing does."""
    weights = sum(matrix.shape[0] * matrix.shape[1] for matrix in report.matrices) + report.kept_weights
    return (
        f", with {report.kept_weights / weights:.1%} of the weights kept dense" if report.kept_weights else ""
    )


def told_error(report: CompressionReport) -> str:
    """Return the mean error of the matrices' outputs as part of a sentence, "" if no matrix has one."""
    mean = report.mean_error
    return "" if mean is None else f"; mean error of a matrix's output {mean:.2%}"


def megabytes(count: int) -> str:
    """Format a number of bytes, as in `536 MB`."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"
