"""Run by lm-evaluation-harness's own Python: its command line, with a model whose right and wrong answers are planted.

The tasks are the harness's own. Their data sets are folders of documents written here, under the names that the tasks
ask the hub for, which `datasets` finds in the working folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

LANGUAGES = ("eng_latn", "swh_latn", "por_latn_braz")


def planted(model: str, form: str, doc: dict[str, Any]) -> bool:
    """Whether a model gets a document right in one form: about two in three."""
    text = doc.get("Question") or doc.get("question") or doc["prompt"]
    digest = hashlib.sha256("\0".join((model, form, text.strip())).encode()).digest()
    return digest[0] % 3 > 0


def write_data_sets(folder: Path, count: int = 6) -> None:
    """Documents with the fields of each data set, in another order in the two configurations of TruthfulQA."""
    myths = [
        {
            "question": f"What is said of stone number {n}?",
            "best": f"It is a grey stone from quarry {n}",
            "wrong": [f"It brings luck to owner {n}", f"It melts in water {n}"],
        }
        for n in range(count)
    ]
    _write(folder / "truthfulqa/truthful_qa", {
        "generation": {"validation": [
            {"type": "Adversarial", "category": "Myths", "question": f"{myth['question']} ", "best_answer": myth["best"],
             "correct_answers": [myth["best"], "It is a stone"], "incorrect_answers": myth["wrong"], "source": "none"}
            for myth in myths
        ]},
        "multiple_choice": {"validation": [
            {"question": myth["question"],
             "mc1_targets": {"choices": [myth["best"], *myth["wrong"]], "labels": [1, 0, 0]},
             "mc2_targets": {"choices": [myth["best"], "It is a stone", *myth["wrong"]], "labels": [1, 1, 0, 0]}}
            for myth in myths[::-1]
        ]},
    })  # fmt: skip
    tools = ["ruler", "scale", "clock", "cup"]
    _write(folder / "allenai/ai2_arc", {"ARC-Challenge": {
        split: [
            {"id": f"Test_{n}", "question": f"Which tool measures thing {n}?",
             "choices": {"text": [f"{tool} {n}" for tool in tools], "label": list("ABCD")}, "answerKey": "ABCD"[n % 4]}
            for n in numbers
        ]
        for split, numbers in (("train", range(90, 94)), ("validation", range(80, 84)), ("test", range(count)))
    }})  # fmt: skip
    _write(folder / "cais/mmlu", {
        subject: {
            split: [
                {"question": f"Which part of {subject} has number {n}?", "subject": subject,
                 "choices": [f"part {letter}{n}" for letter in "PQRS"], "answer": n % 4}
                for n in numbers
            ]
            for split, numbers in (("test", range(count)), ("validation", range(80, 84)), ("dev", range(90, 95)))
        }
        for subject in ("anatomy", "virology")
    })  # fmt: skip
    _write(folder / "Idavidrein/gpqa", {"gpqa_main": {"train": [
        {"Record ID": f"rec{n}", "Question": f"What is the yield of reaction {n}?", "Correct Answer": f"{n}1 g",
         **{f"Incorrect Answer {k}": f"{n}{k + 1} g" for k in (1, 2, 3)}}
        for n in range(count)
    ]}})  # fmt: skip
    for name, options in (("parallel", 4), ("nonparallel", 2)):
        _write(folder / f"mrlbenchmarks/global-piqa-{name}", {
            language: {"test": [
                {"prompt": f"{language}: to open jar {n} of the {name} kind,", "label": n % options,
                 "language": language, "example_id": f"{language}_{n}",
                 **{f"solution{k}": f"turn its lid {n + k} times" for k in range(options)}}
                for n in range(count)
            ]}
            for language in LANGUAGES
        })  # fmt: skip


def _write(folder: Path, configurations: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    folder.mkdir(parents=True)
    head = ["---", "configs:"]
    for name, splits in configurations.items():
        head += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            file = f"{name}_{split}.jsonl"
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
            head += [f"  - split: {split}", f"    path: {file}"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]))


def answer(model: str, doc: dict[str, Any]) -> str:
    """What a model writes: the best or a false answer, or the letter of the right or of the next option."""
    right = planted(model, "open", doc)
    if "best_answer" in doc:
        return f" {doc['best_answer'] if right else doc['incorrect_answers'][0]}"
    letters = "ABCD" if "solution2" in doc or "solution0" not in doc else "AB"
    gold = letters.index(_letter(doc))
    letter = letters[gold if right else (gold + 1) % len(letters)]
    if "solution0" in doc:
        return f"Lids turn. The best answer is: {letter}"
    return f"The answer is ({letter})." if "Question" in doc else f" {letter}"


def _letter(doc: dict[str, Any]) -> str:
    if "answerKey" in doc:
        return str(doc["answerKey"])
    if "label" in doc:
        return "ABCD"[doc["label"]]
    return str(doc["answer"]).strip("()") if "Question" in doc else "ABCD"[doc["answer"]]


def true_options(doc: dict[str, Any]) -> list[str]:
    """The options that are right, as any of the tasks writes them."""
    if "mc1_targets" in doc:
        return [doc["mc1_targets"]["choices"][0]]
    if "solution0" in doc:
        return [doc[f"solution{doc['label']}"]]
    letter = _letter(doc)
    text = [doc["choices"]["text"]["ABCD".index(letter)]] if "answerKey" in doc else []
    return [letter, f"({letter})", *text]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    @register_model("scripted")
    class Scripted(LM):  # type: ignore[misc]
        """Answers as `planted` says; `pretrained` is its name."""

        def __init__(self, pretrained: str, **_: Any) -> None:
            super().__init__()
            self.name = pretrained

        def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return [(self._score(request.doc, request.args[1].strip()), False) for request in requests]

        def _score(self, doc: dict[str, Any], option: str) -> float:
            gold = option in true_options(doc)
            return -2.0 - len(option) / 64 + (1.0 if gold == planted(self.name, "choice", doc) else 0.0)

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [answer(self.name, request.doc) for request in requests]

    cli_evaluate()
