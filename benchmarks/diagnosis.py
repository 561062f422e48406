"""Time the statistics of a large run: ten arms, nine languages, 200 items each, all measures.

The target is 10 s on two idle cores.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.measure.planted import VOCABULARY, Damage, study_records

from anomia.measure.diagnosis import diagnose
from anomia.measure.judge import judge


def main() -> None:
    arms = {f"arm{n}": Damage(0.1 + 0.03 * n, 0.02 * n, seed=n + 1) for n in range(10)}
    records = study_records(arms, languages=[f"language{n}" for n in range(9)], items=200)
    wall, processor = time.perf_counter(), time.process_time()
    diagnose(records, vocabulary=VOCABULARY)
    judge(records)
    print(
        f"10 arms, 9 languages, 200 items: {time.perf_counter() - wall:.1f} s, "
        f"{time.process_time() - processor:.1f} s of processor time"
    )


if __name__ == "__main__":
    main()
