"""What tiny random models can't show: the order of the methods on a trained one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.options import TextOptions
from anomia.compress.perplexity import perplexity
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Pattern
from anomia.demo import demo_model
from anomia.errors import MissingExtraError
from anomia.models.load import load_model

pytestmark = pytest.mark.slow

TOKENS = 3000
# Without instructions for bfloat16 a product takes six times as long as in float32.
DTYPE = "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


@pytest.fixture(autouse=True)
def _all_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder() -> str:
    try:
        return str(demo_model())
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_perplexity_is_in_the_order_of_the_methods(folder: str, data_dir: Path) -> None:
    text = (data_dir / "calibration" / "wikitext2.test.raw").read_text(encoding="utf-8")
    values = {}
    for arm in ("base", "sparsegpt:0.5", "wanda:0.5", "magnitude:0.5"):
        loaded = load_model(folder, dtype=DTYPE, device="cpu")
        for step in parse_arm(arm).steps:
            windows = prepare_windows(
                step, loaded.tokenizer, TextOptions(samples=12, tokens=512, data_dir=data_dir / "calibration")
            )
            compress(loaded.model, step, windows)
        values[arm.partition(":")[0]] = perplexity(
            loaded.model, loaded.tokenizer, text, max_tokens=TOKENS
        ).value
    assert values["base"] < values["sparsegpt"] <= values["wanda"] < values["magnitude"], values


@pytest.mark.parametrize("arm", ["wanda:2:4", "sparsegpt:2:4"])
def test_a_pattern_holds_in_every_matrix(folder: str, arm: str) -> None:
    loaded = load_model(folder, dtype=DTYPE, device="cpu")
    step = parse_arm(f"{arm},calibration=demo,tokens=64").steps[0]
    report = compress(loaded.model, step, prepare_windows(step, loaded.tokenizer))
    for matrix in report.matrices:
        weight = loaded.model.get_parameter(f"{matrix.name}.weight")
        zeros = (weight == 0).reshape(-1, 4).sum(dim=1)
        assert int(zeros.min()) >= Pattern(2, 4).group - Pattern(2, 4).keep
