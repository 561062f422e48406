"""A method is one file and one entry of the catalogue: with these two, all the rest knows it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from anomia.compress.apply import compress
from anomia.compress.catalogue import CATALOGUE, YES_NO, Entry, MethodKind, Option
from anomia.compress.folder import compress_folder
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.by_mask import by_mask
from anomia.compress.methods.masks import Chosen, cut
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.statistics import InputStatistic, StatisticNeeds
from anomia.compress.steps import Prune, Target, needs_calibration
from anomia.errors import StudyError
from anomia.matrix import read_matrix
from anomia.plan.cost import forecast

from .conftest import make_test_windows, tiny_model
from .test_folder import save_model, weights, write_text

PASSES = 5.0


def quiet_cut(matrix: WeightMatrix, seen: InputStatistic, target: Target) -> Chosen:
    """Goes by the inputs alone: in each row, those that are weakest."""
    return cut(seen.norms.expand_as(matrix.weight), target)


METHOD = by_mask(StatisticNeeds(), quiet_cut)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method `quiet`, as if this file were among the methods."""
    module: Any = ModuleType("anomia.compress.methods.quiet")
    module.METHOD = METHOD
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = Entry(
        "quiet",
        MethodKind.PRUNE,
        "weights of the weakest inputs",
        "methods.quiet:METHOD",
        (Option("loud", YES_NO, default=False),),
        passes=PASSES,
    )
    monkeypatch.setitem(CATALOGUE, "quiet", entry)  # type: ignore[arg-type]


def test_its_specification_is_read_and_written() -> None:
    arm = parse_arm("quiet:0.50,loud=yes,samples=3+int8")
    step = arm.steps[0]
    assert isinstance(step, Prune)
    assert arm.name == "quiet:0.5,samples=3,loud=yes+int8"
    assert step.option("loud") is True
    assert needs_calibration(step)
    with pytest.raises(StudyError, match="did you mean 'quiet'"):
        parse_arm("quite:0.5")


def test_it_compresses_a_loaded_model() -> None:
    model = tiny_model("llama")
    report = compress(model, parse_arm("quiet:0.5").steps[0], make_test_windows((20, 12)))
    assert report.sparsity == 0.5
    q, k = (model.model.layers[0].self_attn.get_submodule(name).weight == 0 for name in ("q_proj", "k_proj"))
    assert torch.equal(q[0], k[0])
    assert torch.equal(q[0].expand_as(q), q)


def test_it_compresses_a_folder_in_a_chain(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    report = compress_folder(
        str(tmp_path / "in"), tmp_path / "out", parse_arm("quiet:0.5+update+int8").steps, options
    )
    assert report.streamed
    assert report.steps[0].step == "quiet:0.5+update"
    zeros = weights(tmp_path / "out")["model.layers.0.self_attn.q_proj.weight"] == 0
    assert zeros.float().mean() >= 0.5


def test_a_plan_counts_its_passes(model_folder: Path) -> None:
    settings = {"base": str(model_folder), "data": "demo", "languages": ["english"], "limit": 2}
    (cell,) = forecast(read_matrix(None, {**settings, "arms": ["quiet:0.5", "wanda:0.5"]}))
    quiet, wanda = (cell.work[name].calibration for name in ("quiet:0.5", "wanda:0.5"))
    assert quiet / wanda == PASSES / CATALOGUE["wanda"].passes
