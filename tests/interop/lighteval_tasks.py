"""Tasks for the real lighteval, over questions as `anomia export --to lm-eval-task` writes them.

Run by lighteval's own interpreter, `python lighteval_tasks.py accelerate … --custom-tasks lighteval_tasks.py`.
The folder of the questions is in ANOMIA_LIGHTEVAL_DATA.
"""

import os

from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc


def _known(line):
    return {name: line[name] for name in ("question", "context", "language")}


def ask_open(line, task_name=None):
    answers = line["answers"]
    gold = list(range(len(answers)))
    return Doc(
        query=line["prompt"], choices=answers, gold_index=gold, task_name=task_name, specific=_known(line)
    )


def ask_choice(line, task_name=None):
    options = [f" {option}" for option in line["options"]]
    return Doc(
        query=line["prompt"],
        choices=options,
        gold_index=line["gold"],
        task_name=task_name,
        specific=_known(line),
    )


def _task(name, ask, metric, **more):
    return LightevalTaskConfig(
        name=name, prompt_function=ask, hf_repo=os.environ["ANOMIA_LIGHTEVAL_DATA"], hf_subset="default",
        hf_avail_splits=["train"], evaluation_splits=["train"], metrics=[metric], **more,
    )  # fmt: skip


TASKS_TABLE = [
    _task("anomia_open", ask_open, Metrics.exact_match, generation_size=32, stop_sequence=[]),
    _task("anomia_choice", ask_choice, Metrics.loglikelihood_acc),
]

if __name__ == "__main__":
    from lighteval.__main__ import app
    from lighteval.tasks.registry import Registry

    # Its built-in tasks ask the hub when they are imported.
    Registry._load_from_files = staticmethod(lambda *_: {})
    Registry._load_from_subdirs = staticmethod(lambda *_: {})
    app()
