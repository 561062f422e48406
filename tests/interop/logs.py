"""Sample logs as other harnesses write them, made by hand in their formats."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from datasets import Dataset

PLACES = [f"Place{number}" for number in range(24)]


def open_sample(number: int, text: str, right: bool, **changes: Any) -> dict[str, Any]:
    """One line of lm-evaluation-harness 0.4.13, of a generation task."""
    doc = document(number)
    prompt = f"{doc['context']}\n\nQuestion: {doc['question']}"
    return {
        "doc_id": number, "doc": doc, "target": str(doc["answers"]),
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n"], "do_sample": False}}},
        "resps": [[text]], "filtered_resps": [text], "filter": "none", "metrics": ["exact_match"],
        "doc_hash": digest(doc), "prompt_hash": "p", "target_hash": "t", "exact_match": float(right), **changes,
    }  # fmt: skip


def choice_sample(number: int, right: bool, **changes: Any) -> dict[str, Any]:
    """One line of a multiple-choice task over the same documents."""
    doc = document(number)
    options = [f"Founder{number}", "Alice", "Bob", "Carol"]
    scores = [-1.5, -2.0, -3.0, -4.0] if right else [-2.5, -2.0, -3.0, -4.0]
    return {
        "doc_id": number, "doc": doc, "target": "0",
        "arguments": {f"gen_args_{n}": {"arg_0": "Q", "arg_1": f" {option}"} for n, option in enumerate(options)},
        "resps": [[[str(score), "False"]] for score in scores],
        "filtered_resps": [[str(score), "False"] for score in scores],
        "filter": "none", "metrics": ["acc", "acc_norm"], "doc_hash": digest(doc), "prompt_hash": "p",
        "target_hash": "t", "acc": float(right), "acc_norm": float(right), **changes,
    }  # fmt: skip


def scored_sample(number: int, **changes: Any) -> dict[str, Any]:
    """One line of a task that scores one continuation, as lambada does."""
    return choice_sample(
        number, True, arguments={"gen_args_0": {"arg_0": "Q", "arg_1": " word"}}, resps=[[["-1.5", "False"]]],
        target=" word", metrics=["perplexity", "acc"], perplexity=-1.5, acc=0, **changes,
    )  # fmt: skip


def document(number: int) -> dict[str, Any]:
    place = f"Place{number}"
    return {
        "question": f"Who founded {place}?",
        "context": f"{place} was founded by Founder{number}.",
        "answers": [f"Founder{number}", f"Mr Founder{number}"],
    }


def digest(doc: Any) -> str:
    return hashlib.sha256(json.dumps(doc, sort_keys=True).encode()).hexdigest()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_model(folder: Path, *, said: set[int], picked: set[int], count: int = 24) -> Path:
    """The logs of one model: which questions it answers and which it recognises."""
    date = "2026-01-31T12-00-00.123456"
    write_lines(
        folder / f"samples_towns_gen_{date}.jsonl",
        [open_sample(n, f" Founder{n}" if n in said else " nobody", n in said) for n in range(count)],
    )
    write_lines(
        folder / f"samples_towns_mc_{date}.jsonl", [choice_sample(n, n in picked) for n in range(count)]
    )
    return folder


def detail(number: int, *, choice: bool, right: bool) -> dict[str, Any]:
    """One row of lighteval 0.13: its dataclasses Doc and ModelResponse, as they are saved."""
    doc = document(number)
    options = [f" Founder{number}", " Alice", " Bob", " Carol"] if choice else doc["answers"]
    scores = ([-1.5, -2.0, -3.0, -4.0] if right else [-2.5, -2.0, -3.0, -4.0]) if choice else []
    return {
        "doc": {
            "query": f"{doc['context']} {doc['question']}", "choices": options,
            "gold_index": [0] if choice else [0, 1], "instruction": None, "images": None,
            "specific": {"question": doc["question"], "context": doc["context"]}, "unconditioned_query": None,
            "original_query": None, "id": str(number), "task_name": f"community|towns_{'mc' if choice else 'gen'}|0",
            "fewshot_samples": [], "sampling_methods": [], "generation_size": 32, "num_samples": 1,
        },
        "model_response": {
            "input": "…", "input_tokens": [1], "text": [] if choice else [f"Founder{number}" if right else "nobody"],
            "text_post_processed": None, "output_tokens": [[1]], "logprobs": scores,
            "argmax_logits_eq_gold": [right] if choice else [], "truncated_tokens_count": 0,
        },
        "metric": {"acc": float(right)} if choice else {"em": float(right), "f1": 0.5},
    }  # fmt: skip


def write_details(folder: Path, *, said: set[int], picked: set[int], count: int = 24) -> Path:
    folder.mkdir(parents=True)
    for name, choice, right in (("gen", False, said), ("mc", True, picked)):
        rows = [detail(n, choice=choice, right=n in right) for n in range(count)]
        file = folder / f"details_community|towns_{name}|0_2026-01-31T12-00-00.123456.parquet"
        Dataset.from_list(rows).to_parquet(str(file))
    return folder
