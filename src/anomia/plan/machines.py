"""Machines for plans: published peak performance, the measured or assumed share of it, and prices to adjust.

| column | meaning |
|---|---|
| `flops` | peak floating-point operations per second in dense matrix products, by dtype |
| `bandwidth` | bytes per second from the memory that holds the model |
| `memory` | bytes of that memory |
| `dollars` | rent per hour in 2026; yours will differ |
| `share` | share of the peak that probing reaches |
| `pass_seconds` | minimum seconds per layer and forward pass, for launching kernels from Python |

The values for two CPU cores are measured (docs/benchmarks.md). The peaks of GPUs are their makers'; `share` and
`pass_seconds` of GPUs are assumptions, not yet backed by a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from anomia.errors import StudyError, nearest


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine for plans; see the module's docstring for the columns. cores: it is a CPU."""

    name: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: float
    dollars: float
    share: float
    pass_seconds: float
    cores: bool = False

    def rate(self, dtype: str) -> float:
        """Floating-point operations per second that probing reaches."""
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
    """Parses the name of a machine with optional changes: `H100`, or `A6000:dollars=0.5,memory=96e9`.

    Raises:
        StudyError: the name or a column is unknown, or a value is not a positive number (`dollars` and `pass_seconds`
            may be 0).
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
