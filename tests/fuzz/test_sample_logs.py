"""Sample logs of other harnesses: a run that can be shown, or one message and no folder."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.conftest import call, fuzz, refused
from tests.fuzz.mutations import as_json, damaged, mutated
from tests.interop.logs import choice_sample, detail, open_sample

LOGS = [
    [open_sample(n, f" Founder{n}", n % 2 == 0) for n in range(4)],
    [choice_sample(n, n != 1) for n in range(4)],
]
DETAILS = [[detail(n, choice=choice, right=n % 2 == 0) for n in range(3)] for choice in (False, True)]


def lines(rows: Any) -> bytes:
    return b"\n".join(as_json(row) for row in rows) if isinstance(rows, list) else as_json(rows)


# Measuring takes far longer than reading, so it is tried on some of what was read.
SOME = st.integers(0, 9).map(lambda number: number == 0)


def check(place: Path, tool: str, names: tuple[str, str], *, measured: bool) -> None:
    out = place / "run"
    shutil.rmtree(out, ignore_errors=True)
    files = [argument for name in names for argument in ("--base", place / name)]
    files += [argument for name in names for argument in ("--arm", f"arm={place / name}")]
    seen = call("import", tool, *files, "--out", out)
    if seen.code:
        refused(seen)
        assert not out.exists()
        return
    if not measured:
        return
    assert call("items", out).code == 0
    shown = call("gate", out)
    assert shown.code in (0, 1, 3), shown


@given(content=damaged(lines(LOGS[0])), measured=SOME)
@example(content=b"1" * 5000, measured=True)
@example(content=b"[" * 100_000, measured=True)
@example(content=b"", measured=True)
@fuzz()
def test_lm_eval_logs_of_any_bytes(content: bytes, measured: bool, place: Path) -> None:
    (place / "open.jsonl").write_bytes(content)
    (place / "choice.jsonl").write_bytes(lines(LOGS[1]))
    check(place, "lm-eval", ("open.jsonl", "choice.jsonl"), measured=measured)


@given(logs=mutated(LOGS), measured=SOME)
@fuzz()
def test_lm_eval_logs_with_faults(logs: Any, measured: bool, place: Path) -> None:
    logs = logs if isinstance(logs, list) and len(logs) > 1 else [logs, logs]
    for name, rows in zip(("open", "choice"), logs, strict=False):
        (place / f"{name}.jsonl").write_bytes(lines(rows))
    check(place, "lm-eval", ("open.jsonl", "choice.jsonl"), measured=measured)


@given(details=mutated(DETAILS), measured=SOME)
@fuzz()
def test_lighteval_details_with_faults(details: Any, measured: bool, place: Path) -> None:
    details = details if isinstance(details, list) and len(details) > 1 else [details, details]
    for name, rows in zip(("open", "choice"), details, strict=False):
        try:
            frame = pl.DataFrame(rows, strict=False)
            frame.write_parquet(place / f"{name}.parquet")
        # What no Parquet file can hold.
        except Exception:
            return
    check(place, "lighteval", ("open.parquet", "choice.parquet"), measured=measured)


def _parquet(rows: Any) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer)
    return buffer.getvalue()


@given(content=damaged(_parquet(DETAILS[0])), measured=SOME)
@fuzz()
def test_lighteval_details_of_any_bytes(content: bytes, measured: bool, place: Path) -> None:
    for name in ("open", "choice"):
        (place / f"{name}.parquet").write_bytes(content)
    check(place, "lighteval", ("open.parquet", "choice.parquet"), measured=measured)
