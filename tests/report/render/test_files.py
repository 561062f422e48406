"""Every table to the letter, in every format, and names that would mean something to what reads them."""

from __future__ import annotations

import csv
import io
import re
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest

from anomia.errors import RunError
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.results import read_results
from anomia.report.figures import NamedRun
from anomia.report.render.csv import csv_text
from anomia.report.render.files import tables, write_tables
from anomia.report.render.latex import latex
from anomia.report.render.markdown import markdown
from anomia.report.tables.table import Column, Table
from tests.measure.planted import study_records
from tests.measure.test_results import ARMS, write_run
from tests.report.fixed import fixed_run

GOLDEN = Path(__file__).parent / "golden"
NAMES = {
    "fallbacks", "runs", "verdicts", "fates", "ranks", "accuracy", "drops", "one_shot", "oracle", "recovery", "tests", "arm_against_arm",
    "divergence", "frontier", "hygiene", "transitions", "noise_and_checks", "scorings",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables([fixed_run(folder / "run")], folder / "out")
    return folder / "out"


def test_every_table_is_written_and_none_else(written: Path) -> None:
    endings = (".csv", ".md", ".tex")
    assert {path.name for path in written.iterdir()} == {name + end for name in NAMES for end in endings}


@pytest.mark.parametrize("golden", sorted(path.name for path in GOLDEN.iterdir()))
def test_tables_to_the_letter(written: Path, golden: str) -> None:
    found = (written / golden).read_text(encoding="utf-8")
    assert found == (GOLDEN / golden).read_text(encoding="utf-8"), (
        "where the change is meant: python -m tests.report.render.test_files"
    )


def test_numbers_in_csv_are_those_of_the_results(tmp_path: Path) -> None:
    records = study_records(ARMS, languages=("english", "swahili"), items=60)
    results = read_results(write_run(tmp_path / "r", records))
    write_tables([NamedRun("r", results)], tmp_path / "tables")
    figures = lookup(results.diagnosis.figures)
    rows = pl.read_csv(tmp_path / "tables" / "accuracy.csv").to_dicts()
    assert {row["model"] for row in rows} == {"base", *ARMS}
    for row in rows:
        expected = figures[(row["model"], "accuracy/open", row["language"])]
        assert expected is not None
        found = [row[f"open{end}"] for end in ("", "_low", "_high", "_n")]
        assert found == pytest.approx(expected[:4], rel=1e-9)
    fates = pl.read_csv(tmp_path / "tables" / "fates.csv").filter(language=POOLED).to_dicts()
    for row in fates:
        counts = next(
            f.counts
            for f in results.diagnosis.fates
            if (f.arm, f.options, f.scope) == (row["arm"], "choice", POOLED)
        )
        assert [row[name] for name in counts._fields] == list(counts)


def test_a_run_with_open_and_choice_alone_leaves_out_what_it_lacks(tmp_path: Path) -> None:
    records = study_records(ARMS, items=40)
    kept = ("open_", "choice_correct", "choice_scores")
    bare = records.with_columns(
        pl.lit(None).cast(kind).alias(name)
        for name, kind in records.schema.items()
        if name.split("_")[0] in {"cued", "choice", "beams", "samples", "one", "zero", "gold", "control", "kl", "top1"}
        and not name.startswith(kept)
        and name not in ("gold", "control", "gold_truncated")
    )  # fmt: skip
    paths = write_tables([NamedRun("r", read_results(write_run(tmp_path / "r", bare)))], tmp_path / "tables")
    names = {path.stem for path in paths}
    assert {"fates", "accuracy", "drops"} <= names
    assert not {"oracle", "recovery", "one_shot", "ranks"} & names
    assert "choice_hard" not in (tmp_path / "tables" / "accuracy.csv").read_text(encoding="utf-8")


def one_cell(text: str) -> Table:
    return Table("t", "T", (Column("arm", "arm", "text"), Column("n", "n", "count")), [(text, 1)], ["N."], 1)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@cmd", "\t=1", "\x00=1", "‮=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    cell = list(csv.reader(io.StringIO(csv_text(one_cell(text)))))[1][0]
    assert cell[:1] == "'"


@pytest.mark.parametrize("text", ["a|b", "a\nb", "<script>x</script>", "[x](javascript:y)", "`x`", "a\\|b"])
def test_markdown_keeps_text_text(text: str) -> None:
    row = markdown(one_cell(text)).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
    assert "<" not in row
    assert not re.search(r"(?<!\\)[`\[\]]", row)


def test_latex_keeps_text_text() -> None:
    row = latex(one_cell(r"\input{x} 50% a_b ^~ & # $x$ {}")).splitlines()[-4]
    bare = re.sub(r"\\[a-z]+\{\}|\\[%_&#${}]", "", row.strip().removesuffix(r"\\"))
    assert re.fullmatch(r"[\w .]*& 1 ", bare.replace("input", "")), bare


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    run = fixed_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        write_tables([run], tmp_path / "file" / "tables")


def test_tables_under_old_names_are_removed_if_the_program_wrote_them(tmp_path: Path) -> None:
    run = fixed_run(tmp_path / "run")
    old = [tmp_path / "out" / f"reach.{ending}" for ending in ("csv", "md", "tex")]
    write_tables([run], tmp_path / "out")
    for ours in (True, False):
        for path in old:
            written = path.with_stem("oracle").read_text("utf-8") if ours else "mine"
            path.write_text(written.replace("tab:anomia-oracle", "tab:anomia-reach"), "utf-8")
        write_tables([run], tmp_path / "out")
        assert [path.exists() for path in old] == [not ours] * 3


def test_several_runs_keep_their_names(tmp_path: Path) -> None:
    run = fixed_run(tmp_path / "run")
    made = {table.name: table for table in tables([run, run._replace(name="run_2")])}
    assert {row[0] for row in made["accuracy"].rows} == {"run_1", "run_2"}
    for runs, named in ((["run", "run_2"], True), (["run"], False)):
        write_tables([run._replace(name=name) for name in runs], tmp_path / "out")
        assert ("| run |" in (tmp_path / "out" / "accuracy.md").read_text()) is named


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        run = fixed_run(Path(made) / "run")
        sys.stdout.write("\n".join(map(str, write_tables([run], GOLDEN))) + "\n")
