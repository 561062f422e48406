"""What machines can do and cost, for plans: published peaks, measured or assumed shares of them, prices to change.

| column | what |
|---|---|
| `flops` | dense matrix products a second at the peak, by dtype |
| `bandwidth` | bytes a second out of the memory that holds the model |
| `memory` | bytes of that memory |
| `dollars` | an hour; rented, in 2026; yours will differ |
| `share` | part of the peak that probing reaches |
| `pass_seconds` | a layer of one forward pass takes at least so long: launching kernels from Python |

Two CPU cores are measured (docs/benchmarks.md). The GPUs' peaks are their makers'; `share` and `pass_seconds`
of GPUs are assumptions, no run on one stands behind them yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from anomia.errors import StudyError, nearest


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of a plan; the columns are explained at the head of this module."""

    name: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: float
    dollars: float
    share: float
    pass_seconds: float
    cores: bool = False

    def rate(self, dtype: str) -> float:
        """Matrix products a second that probing reaches."""
        return self.share * self.flops[dtype]


MACHINES = {
    "cpu": Machine(
        "two CPU cores", {"bfloat16": 850e9, "float16": 250e9, "float32": 250e9},
        bandwidth=20e9, memory=16e9, dollars=0.08, share=0.49, pass_seconds=0.0, cores=True,
    ),
    "A6000": Machine(
        "A6000", {"bfloat16": 154.8e12, "float16": 154.8e12, "float32": 38.7e12},
        bandwidth=768e9, memory=48e9, dollars=0.80, share=0.35, pass_seconds=0.8e-3,
    ),
    "H100": Machine(
        "H100", {"bfloat16": 989e12, "float16": 989e12, "float32": 67e12},
        bandwidth=3.35e12, memory=80e9, dollars=3.00, share=0.35, pass_seconds=0.8e-3,
    ),
}  # fmt: skip


def read_machine(text: str) -> Machine:
    """A machine by its name, with changes: `H100`, or `A6000:dollars=0.5,memory=96e9`.

    Raises:
        StudyError: the name or a column is unknown, or a value is no number above 0.
    """
    name, _, changes = text.partition(":")
    if name not in MACHINES:
        raise StudyError(f"--machine {text}: unknown machine {name!r}; {nearest(name, MACHINES)}")
    machine = MACHINES[name]
    known = [f.name for f in fields(Machine) if f.name not in ("name", "cores")]
    for change in filter(None, changes.split(",")):
        key, _, written = change.partition("=")
        if key not in known:
            raise StudyError(f"--machine {text}: unknown column {key!r}; {nearest(key, known)}")
        try:
            value = float(written)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf") or (value == 0 and key not in ("dollars", "pass_seconds")):
            raise StudyError(f"--machine {text}: {key} must be a number above 0, not {written!r}")
        if key == "flops":
            machine = replace(machine, flops=dict.fromkeys(machine.flops, value))
        else:
            changed: dict[str, Any] = {key: value}
            machine = replace(machine, **changed)
    return replace(machine, name=text if changes else machine.name)
