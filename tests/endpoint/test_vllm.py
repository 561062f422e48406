"""A real vLLM server with the demo's weights in float32 says and scores what the loaded model does."""

from __future__ import annotations

from pathlib import Path

import pytest

import anomia
from anomia.demo import demo_model
from anomia.errors import MissingExtraError
from anomia.notes import read_differences
from anomia.run_folder import RunFolder
from tests.endpoint.servers import serving
from tests.peers import peer

COMMAND = "--dtype float32 --max-model-len 1536 --gpu-memory-utilization 0.3 --enforce-eager --served-model-name gemma"
TEXTS = ("open", "cued", "distractors_only", "unrelated", "one_shot", "zero_shot")
CHOSEN = ("choice", "choice_hard", "choice_passage", "choice_no_question")
PLACES = ("gold", "gold_distinct", "control", "control_distinct")
# Float32 on another order of additions: two engines part where two tokens are that near to each other.
NEAR = 0.005


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_probe_is_answered_as_by_the_loaded_model(tmp_path: Path) -> None:
    python = peer("vllm")
    try:
        model = demo_model()
    except MissingExtraError as error:
        pytest.skip(str(error))
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    start = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *COMMAND.split()]
    with serving(lambda port: [*start, "--port", str(port)], tmp_path / "log", environment=quiet) as url:
        run = anomia.run(
            base=str(model), arms=[f"endpoint:{url}#gemma"], data="demo", languages=["english", "bengali"],
            limit=3, dtype="float32", num_samples=2, noise_items=0, out=tmp_path / "run", progress=False,
        )  # fmt: skip
    (arm,) = run.arms
    assert not run.failed
    # It makes as many tokens of every text; only where it ends isn't known.
    assert [(row.what, row.kind) for row in read_differences(RunFolder(run.path))[arm]] == [
        ("end tokens", "noted")
    ]
    base, served = (run.records.filter(arm=name).sort("language", "index") for name in ("base", arm))
    assert base.height == served.height == 6
    same = [
        one == other
        for name in TEXTS
        for one, other in zip(base[f"{name}_text"], served[f"{name}_text"], strict=True)
    ]
    assert sum(same) >= len(same) - 2, same
    for name in CHOSEN:
        for before, after in zip(base[f"{name}_scores"], served[f"{name}_scores"], strict=True):
            assert (before is None) == (after is None)
            assert before is None or after.to_list() == pytest.approx(before.to_list(), abs=0.02)
        assert served[f"{name}_pick"].to_list() == base[f"{name}_pick"].to_list()
    for name in PLACES:
        ranks = zip(
            base[f"{name}_rank"], served[f"{name}_rank"], base[f"{name}_margin"], served[f"{name}_margin"], strict=True
        )  # fmt: skip
        for before, after, margin, its in ranks:
            assert its == pytest.approx(margin, abs=NEAR)
            assert before == after or (before > 20 and abs(before - after) <= before / 20), (
                name,
                before,
                after,
            )
    assert served["gold_log_prob"].to_list() == pytest.approx(base["gold_log_prob"].to_list(), abs=0.02)
    assert served["sample_texts"].list.len().to_list() == [2] * 6
    assert not [note for note in run.notes[arm] if "not measured" in note or "its own defaults apply" in note]
