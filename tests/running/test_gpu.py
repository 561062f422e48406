"""A whole study on CUDA: the answers of the CPU, and the defaults of a machine with a GPU."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture
def study(study: Study) -> Study:
    arms = ("magnitude:0.5", "wanda:0.5", "gptq:4,group=8", "int8", "null:bfloat16")
    return study.model_copy(update={"arms": arms})


def records(study: Study, out: Path) -> pl.DataFrame:
    run_study(study, out, progress=PlainProgress(lambda text: None))
    return RunFolder(out).records().sort("arm", "language", "index")


def test_the_answers_are_those_of_the_cpu(study: Study, tmp_path: Path) -> None:
    study = study.model_copy(update={"dtype": "float32"})
    on_cpu = records(study.model_copy(update={"device": "cpu"}), tmp_path / "cpu").filter(
        pl.col("arm").is_in(["base", "magnitude:0.5", "int8"])
    )
    on_gpu = records(study.model_copy(update={"device": "cuda"}), tmp_path / "cuda").filter(
        pl.col("arm").is_in(["base", "magnitude:0.5", "int8"])
    )
    same = (on_cpu["open_text"] == on_gpu["open_text"]).mean()
    assert same > 0.95
    scores = [pl.Series(rows["choice_scores"].explode()).to_torch() for rows in (on_cpu, on_gpu)]
    assert torch.isclose(scores[0], scores[1], rtol=1e-3, atol=1e-3).float().mean() > 0.98


def test_with_the_defaults_of_a_machine_with_a_gpu(study: Study, tmp_path: Path) -> None:
    rows = records(study, tmp_path / "run")
    assert rows["arm"].n_unique() == len(study.arms) + 1
    assert rows["open_text"].null_count() == 0
    told = RunFolder(tmp_path / "run").provenance()["machine"]
    assert "NVIDIA" in told
