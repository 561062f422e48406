"""Measure how much faster two workers finish the shards of a study than one, on a local Ray with one thread each.

    python benchmarks/scaling.py [--model FOLDER] [--limit 32]

The rate counts only time in which workers measure shards. The printed total also includes starting processes and
loading the model, which a long study does once. The target is 1.8 times on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from anomia.demo import demo_model
from anomia.matrix import read_matrix
from anomia.running.execute import run_matrix
from anomia.running.on_ray import Size, on_ray
from anomia.running.progress import PlainProgress

LANGUAGES = ["english", "russian", "swahili", "indonesian"]
TARGET = 1.8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a folder; default: the demo's model")
    parser.add_argument("--limit", type=int, default=32, help="items a language, of four")
    asked = parser.parse_args()
    model = asked.model or demo_model()
    rates = []
    for workers in (1, 2):
        rate, busy, wall = measure(model, asked.limit, workers)
        rates.append(rate)
        print(f"{workers} worker(s): {rate:.3f} items/s while at work ({busy:.0f} s), {wall:.0f} s in all")
    ratio = rates[1] / rates[0]
    print(f"two workers against one: {ratio:.2f} times (target {TARGET})")


def measure(model: Path, limit: int, workers: int) -> tuple[float, float, float]:
    """Items per second of all workers together, working seconds of the busiest worker, and total seconds."""
    import ray

    settings = {
        "base": str(model),
        "arms": ["magnitude:0.5"],
        "data": "demo",
        "languages": LANGUAGES,
        "limit": limit,
        "noise_items": 0,
        "batch_size": 16,
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            progress = PlainProgress(lambda text: None)
            with on_ray(None, Size(1, 0), progress) as on_workers:
                run_matrix(read_matrix(None, settings), out, progress=progress, measure=on_workers)
        finally:
            ray.shutdown()
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    shards = [line for line in lines if line["event"] == "shard" and line["arm"] == "base"]
    items: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for shard in shards:
        items[shard["where"]] += shard["last"] - shard["first"]
        seconds[shard["where"]] += shard["seconds"]
    rate = sum(items[where] / seconds[where] for where in items)
    return rate, max(seconds.values()), time.monotonic() - began


if __name__ == "__main__":
    main()
