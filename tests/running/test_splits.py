"""A batch that doesn't fit into memory is halved, and the run says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anomia.probe import tree
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry


def test_a_run_stores_which_batches_were_halved(
    write_jsonl: Any, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    study = Study(
        base=str(model_folder),
        arms=("magnitude:0.5",),
        data=f"jsonl:{write_jsonl([entry(n) for n in range(12)])}",
        limit=5,
        dtype="float32",
        batch_size=5,
        max_new_tokens=3,
        num_samples=2,
        noise_items=0,
    )
    run_study(study, tmp_path / "whole", progress=PlainProgress(lambda text: None))
    assert not (tmp_path / "whole" / "splits").exists()

    answer_batch = tree._answer_batch

    def cramped(*given: Any) -> Any:
        if len(given[1]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_batch(*given)

    monkeypatch.setattr(tree, "_answer_batch", cramped)
    run_study(study, tmp_path / "halved", progress=PlainProgress(lambda text: None))
    notes = [json.loads(file.read_text()) for file in sorted((tmp_path / "halved" / "splits").iterdir())]
    assert [note["arm"] for note in notes] == ["base", "magnitude:0.5"]
    whole, halved = (
        RunFolder(tmp_path / name).records().sort("arm", "index") for name in ("whole", "halved")
    )
    for note in notes:
        assert note["language"] == "english"
        [ids] = note["halved"]
        assert sorted(ids) == sorted(whole.filter(arm=note["arm"])["item_id"])
    for column in ("open_text", "cued_text", "choice_pick", "beam_texts", "sample_texts", "gold_rank"):
        assert whole[column].to_list() == halved[column].to_list()
