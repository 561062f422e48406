"""A repaired arm in a run: next to the same arm without repair, in results, tables and page."""

from __future__ import annotations

from pathlib import Path

from anomia.measure.frame import POOLED
from anomia.measure.results import read_results, results_json
from anomia.report.page.document import NamedRun, document
from anomia.report.tables.repaired import repaired
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study


def test_a_repaired_arm_is_compared_item_by_item_with_the_arm_without_repair(
    study: Study, tmp_path: Path
) -> None:
    arms = ("magnitude:0.6", "magnitude:0.6+repair", "wanda:0.5")
    study = study.model_copy(update={"arms": arms, "noise_items": 0, "probes": ("open", "choice")})
    run_study(study, tmp_path / "run", progress=PlainProgress(lambda text: None))
    results = read_results(tmp_path / "run")
    rows = {(row.probe, row.scope): row for row in results.repaired}
    assert {row.arm for row in results.repaired} == {arms[1]}
    assert {row.compressed_arm for row in results.repaired} == {arms[0]}
    assert {"open", "choice"} <= {probe for probe, _ in rows}
    records = RunFolder(tmp_path / "run").records()
    right = {
        arm: dict(records.filter(arm=arm).select("item_id", "choice_correct").iter_rows())
        for arm in ("base", *arms[:2])
    }
    row = rows["choice", POOLED]
    base, before, after = (right[name] for name in ("base", *arms[:2]))
    assert row.returned == sum(base[item] and not before[item] and after[item] for item in base)
    assert row.spoiled == sum(base[item] and before[item] and not after[item] for item in base)
    assert row.compressed == sum(before.values()) / len(before)
    assert row.repaired == sum(after.values()) / len(after)
    assert row.n == len(base) == 12
    (stored,) = [
        each
        for each in results_json(results)["repaired"]
        if (each["probe"], each["scope"]) == ("choice", POOLED)
    ]
    assert (stored["returned"], stored["spoiled"], stored["n"]) == (row.returned, row.spoiled, 12)
    table = repaired(results)
    assert len(table.rows) == len(results.repaired)
    assert any(str(note).startswith(f"{arms[1]}, against {arms[0]}: ") for note in table.notes)
    assert not any("were compared" in str(note) for note in table.notes)
    two = [*results.repaired, *(each._replace(arm="another+repair") for each in results.repaired)]
    notes = repaired(results._replace(repaired=two)).notes
    assert any(f"2 repairs of {arms[0]} were compared" in str(note) for note in notes)
    (run,) = document([NamedRun("run", results)], [{}])["runs"]
    assert run["tables"]["repaired"]
