"""Pairs of tiny models that differ in some of their weights."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.items.prompts import write_prompt
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study

from ..compress.conftest import tiny_model
from ..conftest import entry

QUIET = PlainProgress(lambda text: None)
TOKENS = 6
PLANTED = "model.layers.1.mlp.down_proj"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def damaged(
    model: Any, *, size: float = 0.02, seed: int = 1, where: Callable[[str], bool] = lambda name: True
) -> Any:
    """A copy of a model with noise on the parameters whose name `where` accepts, in parts of each one's spread."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in other.named_parameters():
        if where(name):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            spread = float(parameter.data.std()) if parameter.numel() > 1 else 0.0
            parameter.data += (size * max(spread, 0.1) * noise).to(parameter.dtype)
    return other


def pair_of(
    family: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any
) -> tuple[Any, Any]:
    """A tiny model and a slightly damaged copy, every parameter included."""
    base = tiny_model(family, seed=seed).to(dtype)
    return base, damaged(base, **changes)


def greedy(folder: Path, prompts: list[str]) -> list[str]:
    """What a model answers to each prompt."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
        )
        found.append(str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)))
    return found


@pytest.fixture(scope="session")
def spoiled(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model with one matrix spoiled, and little noise on the others."""
    spoiled = tmp_path_factory.mktemp("arm") / "spoiled"
    shutil.copytree(model_folder, spoiled)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    weight = model.get_parameter(f"{PLANTED}.weight").data
    torch.manual_seed(3)
    weight += 0.12 * torch.randn_like(weight)
    for name, parameter in model.named_parameters():
        if "layers" in name and parameter.dim() == 2 and not name.startswith(PLANTED):
            parameter.data += 5e-5 * torch.randn_like(parameter)
    model.save_pretrained(spoiled)
    return spoiled


@pytest.fixture(scope="session")
def spoiled_norm(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model with its last norm spoiled, and little noise on all matrices, embeddings included."""
    spoiled = tmp_path_factory.mktemp("arm") / "spoiled_norm"
    shutil.copytree(model_folder, spoiled)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data += 2e-4 * torch.randn_like(parameter)
    norm = model.get_parameter("model.norm.weight").data
    norm *= 1 + 0.9 * torch.randn_like(norm)
    model.save_pretrained(spoiled)
    return spoiled


@pytest.fixture(scope="session")
def questions(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that base answers by construction: gold is what it says."""
    rows = [entry(n, context=f"Place{n} lies by the river Person{n}.") for n in range(60)]
    said = greedy(model_folder, [write_prompt("open", row["context"], row["question"]) for row in rows])
    entries = [
        {**row, "answers": [text.strip()]}
        for row, text in zip(rows, said, strict=True)
        if sum(letter.isalnum() for letter in text) >= 3
    ]
    data = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in entries), encoding="utf-8")
    return data


@pytest.fixture(scope="session")
def run(model_folder: Path, spoiled: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which base is right by construction (gold is what it says), and one matrix of the arm is spoiled."""
    place = tmp_path_factory.mktemp("located")
    study = Study(
        base=str(model_folder),
        arms=(f"checkpoint:{spoiled}",),
        data=f"jsonl:{questions}",
        probes=("open", "choice", "rank"),
        max_new_tokens=TOKENS,
        dtype="float32",
        device="cpu",
        batch_size=8,
    )
    folder = place / "run"
    run_study(study, folder, progress=QUIET)
    return folder


@pytest.fixture(scope="session")
def long_run(model_folder: Path, spoiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same two models that asks for long answers to prompts alone."""
    place = tmp_path_factory.mktemp("long")
    data = place / "own.jsonl"
    rows = [{"prompt": f"Tell me about Place{n} by the river."} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    study = Study(
        base=str(model_folder),
        arms=(f"checkpoint:{spoiled}",),
        data=f"prompts:{data}",
        continuation_tokens=24,
        dtype="float32",
        device="cpu",
        batch_size=8,
    )
    run_study(study, place / "run", progress=QUIET)
    return place / "run"
