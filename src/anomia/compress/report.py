"""What a compression did: plain values for the run, `anomia.json` and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from anomia.compress.calibration import CalibrationRecord
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Prune
from anomia.words import counted


class MatrixReport(NamedTuple):
    """One matrix after pruning.

    name: full path in the model. shape: [out, in]. zeros: weights that are zero now, of all.
    dead_columns: inputs that no calibration token ever excited. damping: SparseGPT's, relative to the mean
    diagonal of the Hessian. note: what was not as usual. error: ‖(Ŵ−W)X‖²/‖WX‖² on the calibration tokens, of what a
    method with a Hessian left; None where none was gathered.
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
        """Zeros over weights."""
        return self.zeros / (self.shape[0] * self.shape[1])


@dataclass(frozen=True, slots=True)
class CompressionReport:
    """One applied step. left_dense: names of the weights that it doesn't touch. dense_why: the same by reason.

    block_sparsity: the target of each block, where they differ. reconstruction: choices that a method built
    from its published description made, empty for the others. seconds: wall-clock time. size_bytes: the whole
    model's weights as they would be stored: dense after pruning, packed after quantization. reshaped: which parts are
    gone, and the configuration before and after.
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

    @property
    def sparsity(self) -> float:
        """Zeros over weights, in all pruned matrices together; 0 where nothing was pruned."""
        weights = sum(matrix.shape[0] * matrix.shape[1] for matrix in self.matrices)
        return sum(matrix.zeros for matrix in self.matrices) / weights if weights else 0.0

    @property
    def mean_error(self) -> float | None:
        """Mean of the matrices' errors; None where no matrix has one."""
        errors = [matrix.error for matrix in self.matrices if matrix.error is not None]
        return sum(errors) / len(errors) if errors else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self)
        plain["sparsity"] = self.sparsity
        plain["matrices"] = [{**m._asdict(), "sparsity": m.sparsity} for m in self.matrices]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> CompressionReport:
        """A report as `to_dict` wrote it."""
        values = {key: value for key, value in plain.items() if key != "sparsity"}
        values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        known = MatrixReport._fields
        matrices = [{k: v for k, v in entry.items() if k in known} for entry in plain["matrices"]]
        values["matrices"] = tuple(MatrixReport(**{**m, "shape": tuple(m["shape"])}) for m in matrices)
        if values.get("calibration"):
            values["calibration"] = CalibrationRecord(**values["calibration"])
        return cls(**values)


def by_reason(why: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Names by their reason."""
    return {
        reason: tuple(n for n, its in why.items() if its == reason) for reason in dict.fromkeys(why.values())
    }


def summary(report: CompressionReport) -> str:
    """What a step did, in a line."""
    (step,) = parse_arm(report.step).steps
    count = counted(len(report.matrices), "matrix", "matrices")
    if report.reshaped is not None:
        share = report.reshaped.get("share")
        went = "" if share is None else f" ({share:.1%})"
        return "; ".join(f"removed: {line}" for line in report.reshaped["removed"]) + went
    if isinstance(step, Prune):
        return f"{report.sparsity:.1%} of the weights of {count} are zero{told_error(report)}"
    return f"{count} {'is' if len(report.matrices) == 1 else 'are'} rounded{told_error(report)}"


def told_error(report: CompressionReport) -> str:
    """The mean error of the matrices' outputs as a part of a sentence, "" where no matrix has one."""
    mean = report.mean_error
    return "" if mean is None else f"; mean error of a matrix's output {mean:.2%}"


def megabytes(count: int) -> str:
    """A number of bytes as people read it, `536 MB`."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"
