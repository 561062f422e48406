"""Run lm-evaluation-harness on the benchmark's items: choice and the greedy answer, through local tasks.

`probes.py` calls this with the Python of an environment that has `lm_eval`, and the arguments MODEL DTYPE FOLDER.
Prints the measurements as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

CHOICE = """
task: anomia_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{options.index(gold)}}}}"
metric_list: [{{metric: acc}}]
"""
OPEN = """
task: anomia_open
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{gold}}}}"
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: 32}}
metric_list: [{{metric: exact_match}}]
"""


def main() -> None:
    model, dtype, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from prune import peak_memory

    data = folder / "items.jsonl"
    texts = json.loads((folder / "asks.json").read_text())["texts"]
    data.write_text("".join(json.dumps(text) + "\n" for text in texts))
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, text in (("choice", CHOICE), ("open", OPEN)):
        (tasks / f"{name}.yaml").write_text(text.format(data=data))
    harness = HFLM(pretrained=model, dtype=dtype, device="cpu", batch_size=16)
    manager = TaskManager(include_path=str(tasks))
    begun, busy = time.perf_counter(), time.process_time()
    lm_eval.simple_evaluate(
        harness, tasks=["anomia_choice", "anomia_open"], task_manager=manager, bootstrap_iters=0
    )
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    peak = peak_memory()
    print(json.dumps({"seconds": seconds, "processor_seconds": busy, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
