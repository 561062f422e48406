"""What every reshaping must hold to, whatever it removed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.blocks import find_blocks
from anomia.compress.reshape.report import ReshapeReport
from anomia.compress.reshape.subject import Loaded
from anomia.errors import CompressionError
from tests.compress.architectures import NotBuiltError, tiny
from tests.compress.conftest import make_test_windows

IDS = (torch.arange(40)[None] * 7) % 90


def in_memory(apply: Callable[..., ReshapeReport]) -> Callable[..., ReshapeReport]:
    """What reshapes a subject, for a loaded model and its blocks."""

    def reshape(model: Any, decoder: Any, *args: Any) -> ReshapeReport:
        return apply(Loaded(model, decoder), *args)

    return reshape


def with_noise(model: Any, seed: int = 3) -> Any:
    """Vectors (norms, biases) away from the constants that they start from, so that a wrong slice shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    torch.manual_seed(0)  # Reformer's attention draws its hash functions.
    return model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]


def loads_back(model: Any, folder: Path) -> Any:
    """The saved and loaded model, which must compute exactly what the one in memory does."""
    model.save_pretrained(folder)
    loaded = type(model).from_pretrained(folder, dtype="auto").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    assert {n: p.shape for n, p in loaded.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    return loaded


def generates_alike(model: Any) -> None:
    """Text with a cache and without one is the same: layers find their own place in it."""
    first, second = (
        model.generate(IDS[:, :12], max_new_tokens=6, do_sample=False, use_cache=cache, pad_token_id=0)
        for cache in (True, False)
    )
    assert torch.equal(first, second)


def refused(model: Any, apply: Callable[..., ReshapeReport], *args: Any, match: str) -> None:
    """One message, and a model with every value that it had."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = copy.deepcopy(model.config.to_dict())
    modules = list(model.modules())
    with pytest.raises(CompressionError, match=match):
        apply(model, find_blocks(model), *args)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.allclose(after[name], value, 0, 0, equal_nan=True) for name, value in before.items())
    assert model.config.to_dict() == config
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))


def every_architecture(kind: str, apply: Callable[..., ReshapeReport], *args: Any, folder: Path) -> None:
    """The result loads back and computes the same, or one message says why not and nothing was changed."""
    try:
        model = with_noise(tiny(kind))
    except NotBuiltError as error:
        pytest.skip(str(error))
    if model.config.model_type.startswith("emu3"):
        pytest.skip("transformers doesn't load its own text model back")
    before = logits(model)
    report, message = None, ""
    try:
        report = apply(model, find_blocks(model), *args, make_test_windows([24, 17, 24]))
    except CompressionError as error:
        message = str(error)
    if report is None:
        assert message
        assert "\n" not in message
        assert torch.equal(logits(model), before)
        return
    assert report.parameters_after < report.parameters_before or report.notes
    transformers.utils.logging.disable_progress_bar()
    loads_back(model, folder)
