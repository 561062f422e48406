"""A quantization method that transformers doesn't know is refused: its weights would be taken for dense ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anomia.errors import ModelError
from anomia.models.load import check_place, load_model


@pytest.mark.parametrize("method", ["exl3", "exl2", "marlin99"])
def test_an_unknown_method_is_refused_by_name(method: str, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    for look in (load_model, check_place):
        with pytest.raises(ModelError, match=rf"{method}.*does not know.*endpoint:URL#MODEL") as caught:
            look(str(folder))
        assert "\n" not in str(caught.value)
