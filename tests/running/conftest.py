"""A small study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anomia.study import Study
from tests.conftest import entry


@pytest.fixture
def study(write_jsonl: Callable[..., Path], model_folder: Path) -> Study:
    entries = [entry(n, language) for language in ("english", "swahili") for n in range(12)]
    return Study(
        base=str(model_folder),
        arms=("magnitude:0.5", "wanda:0.5"),
        data=f"jsonl:{write_jsonl(entries)}",
        limit=6,
        calibration="demo",
        calibration_samples=4,
        calibration_tokens=48,
        max_new_tokens=4,
        num_samples=2,
        oracle_limit=4,
        noise_items=4,
    )
