"""The rows of a run for `anomia view`: DuckDB filters them, and single items are read from the Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anomia import renamed
from anomia.errors import RunError
from anomia.measure.fates import FATES, fate_sql
from anomia.measure.results import order_of
from anomia.probes import ORACLES
from anomia.report.page.explorer import LINE, PROBES, item_whole, verdict_column
from anomia.report.reference import to_read
from anomia.run_folder import RunFolder

# Limits on client input (characters of a filter, rows per request, words searched for); the rest is ignored.
LONGEST_FILTER, MOST_ROWS, MOST_WORDS = 4_000, 500, 12

_KEY = "dataset, language, item_id"
_HIT = {name: f"list_contains({verdict_column(name)}, true)" for name in ORACLES}


class Filter(BaseModel):
    """Which rows are wanted, as in the page. probes: verdicts of base and arm, 1 for wrong and 2 for right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    search: Annotated[str, Field(max_length=500)] = ""
    arm: str | None = None
    language: str | None = None
    fate: Annotated[int, Field(ge=0, le=len(FATES))] | None = None
    rank_from: Annotated[int | None, Field(alias="from", ge=0)] = None
    rank_to: Annotated[int | None, Field(alias="to", ge=0)] = None
    loops: bool = False
    probes: dict[str, Literal["11", "12", "21", "22"]] = {}


def read_filter(text: str) -> Filter:
    """Parse a filter as the page sends it.

    Raises:
        ValueError: it is not a valid filter.
    """
    try:
        found = Filter.model_validate_json(text[:LONGEST_FILTER])
    except ValidationError:
        raise ValueError("this is not a filter") from None
    if not found.probes.keys() <= set(PROBES):
        raise ValueError("there is no such probe")
    return found


class Rows:
    """A run opened for reading: one row per compressed arm and item.

    Every request uses its own cursor, so requests may run concurrently.
    """

    def __init__(self, run: Path, scratch: Path) -> None:
        """Number the rows of a run. The table is stored in `scratch`, a folder that may be removed afterwards."""
        folder = RunFolder(run)
        self._items = str(folder.items_file)
        files = [str(file) for file in folder.record_files()]
        try:
            self._database = duckdb.connect(scratch / "rows.duckdb")
            # From here on only the run can be read, whatever a query contains.
            self._database.execute(
                "SET allowed_directories = $folders", {"folders": [str(run), str(scratch)]}
            )
            self._database.execute("SET enable_external_access = false")
            self._database.execute("SET lock_configuration = true")
            self._database.execute(_FILES, {"files": files})
            answers = f"SELECT *{self._absent(files)} FROM read_parquet($files, union_by_name = true)"
            found = self._database.execute(
                f"SELECT DISTINCT arm FROM ({answers}) ORDER BY arm", {"files": files}
            )
            self._arms = to_read(order_of([arm for (arm,) in found.fetchall()], folder.study()))
            self._database.execute(
                _NUMBERED.replace("{answers}", answers), {"files": files, "line": LINE, "arms": self._arms}
            )
        except duckdb.Error as error:
            raise RunError(
                f"view: the records of {run} can't be read: {' '.join(str(error).split())}"
            ) from None

    def _absent(self, files: Sequence[str]) -> str:
        """The columns that a run of an older version lacks, as nulls."""
        found = self._database.execute(
            "DESCRIBE SELECT * FROM read_parquet($files, union_by_name = true)", {"files": list(files)}
        )
        known = {row[0] for row in found.fetchall()}
        at_length = {
            "continuation_text": "VARCHAR",
            "continuation_loop_start": "INTEGER",
        }
        missing = "".join(
            f", NULL::{kind} AS {name}" for name, kind in at_length.items() if name not in known
        )
        wanted = ["open_loop", *(verdict_column(name) for name in PROBES if name not in _HIT)]
        return missing + "".join(f", NULL::BOOLEAN AS {name}" for name in wanted if name not in known)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def index(self) -> dict[str, Any]:
        """Arms (with the index of their run, 0), languages and the number of rows."""
        cursor = self._database.cursor()
        arms = {arm for (arm,) in cursor.execute("SELECT DISTINCT arm FROM rows").fetchall()}
        languages = cursor.execute("SELECT language FROM rows GROUP BY language ORDER BY language").fetchall()
        return {
            "arms": [[0, arm] for arm in self._arms if arm in arms],
            "languages": [language for (language,) in languages],
            "size": self._one("SELECT count(*) FROM rows", {})[0],
            "loops": bool(self._one("SELECT coalesce(bool_or(loops IS NOT NULL), false) FROM rows", {})[0]),
        }

    def count(self, wanted: Filter) -> dict[str, Any]:
        """The number of rows that pass, and the number of rows per fate that pass all filters but that of fates."""
        where, values = _where(wanted.model_copy(update={"fate": None}))
        found = self._database.cursor().execute(
            f"SELECT fate, count(*) FROM rows WHERE {where} GROUP BY fate", values
        )
        counts = dict(found.fetchall())
        each = [counts.get(number, 0) for number in range(len(FATES) + 1)]
        return {"counts": each, "total": sum(each) if wanted.fate is None else each[wanted.fate]}

    def page(self, wanted: Filter, offset: int, limit: int) -> list[dict[str, Any]]:
        """A page of the rows that pass."""
        where, values = _where(wanted)
        values |= {"limit": max(0, min(limit, MOST_ROWS)), "offset": max(0, offset)}
        return self._rows(f"WHERE {where} ORDER BY number LIMIT $limit OFFSET $offset", values)

    def find(self, arm: str, language: str, item_id: str) -> dict[str, Any] | None:
        """The row of one item in one arm."""
        values = {"arm": arm, "language": language, "item_id": item_id}
        found = self._rows("WHERE arm = $arm AND language = $language AND item_id = $item_id LIMIT 1", values)
        return found[0] if found else None

    def alike(self, number: int) -> dict[str, Any] | None:
        """Another row of the same arm and fate with the same open and choice verdicts, preferably in its language."""
        found = self._rows(
            """WHERE number = (
                SELECT other.number FROM rows AS this JOIN rows AS other USING (arm, fate, open, choice)
                WHERE this.number = $number AND other.number <> $number
                ORDER BY other.language = this.language DESC, random() LIMIT 1
            )""",
            {"number": number},
        )
        return found[0] if found else None

    def item(self, number: int) -> dict[str, Any] | None:
        """One whole item, as the page shows it, with base's answer first."""
        key = self._database.cursor().execute(
            f"SELECT {_KEY} FROM rows WHERE number = $number", {"number": number}
        )
        row = key.fetchone()
        if row is None:
            return None
        same = " AND ".join(f"{name} = ${name}" for name in _KEY.split(", "))
        values = dict(zip(_KEY.split(", "), row, strict=True))
        files = (
            self._database.cursor()
            .execute(f"SELECT DISTINCT file FROM files WHERE {same}", values)
            .fetchall()
        )
        items = self._dicts("SELECT * FROM read_parquet($file)", same, values | {"file": self._items})
        answers = self._dicts(
            "SELECT * FROM read_parquet($files, union_by_name = true)", same,
            values | {"files": [file for (file,) in files]},
        )  # fmt: skip
        answers.sort(key=lambda answer: self._arms.index(answer["arm"]))
        return item_whole(items[0], answers) if items else None

    def _dicts(self, source: str, same: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = self._database.cursor().execute(f"{source} WHERE {same}", values)
        names = [column[0] for column in found.description]
        return [_under_new_names(zip(names, row, strict=True)) for row in found.fetchall()]

    def _rows(self, which: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = self._database.cursor().execute(f"SELECT {_SHOWN} FROM rows {which}", values)
        return [_row(row) for row in found.fetchall()]

    def _one(self, query: str, values: Mapping[str, Any]) -> tuple[Any, ...]:
        found = self._database.cursor().execute(query, values).fetchone()
        assert found is not None
        return tuple(found)


def _under_new_names(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A row by column. Where an older version wrote a part of the records, one of two names has no value."""
    found: dict[str, Any] = {}
    for stored, value in values:
        name = renamed.column(stored)
        if value is not None or name not in found:
            found[name] = value
    return found


def _verdict(name: str, side: str) -> str:
    column = f"{side}.{verdict_column(name)}"
    right = f"list_contains({column}, true)" if name in _HIT else column
    return f"CASE WHEN {column} IS NULL THEN 0 WHEN {right} THEN 2 ELSE 1 END"


def _line(side: str) -> str:
    """An open answer, or else a long one, on one line, as SQL."""
    said = f"coalesce({side}.open_text, {side}.continuation_text)"
    return f"left(regexp_replace(trim({said}, ' \n\t\r'), '\\s*\\n\\s*', ' ⏎ ', 'g'), $line)"


_VERDICTS = ",\n".join(
    f"10 * {_verdict(name, 'base')} + {_verdict(name, 'answer')} AS {name}" for name in PROBES
)
_FATE = fate_sql(
    "base.open_correct",
    "base.choice_correct",
    "answer.open_correct",
    "answer.choice_correct",
    no_fate=len(FATES),
)
_FILES = f"""
CREATE TABLE files AS
    SELECT {_KEY}, filename AS file FROM read_parquet($files, union_by_name = true, filename = true)
"""
_NUMBERED = f"""
CREATE TABLE rows AS
WITH answers AS ({{answers}})
SELECT
    row_number() OVER (
        ORDER BY list_position($arms, answer.arm), answer.dataset, answer.language, answer.index
    ) - 1 AS number,
    answer.arm, answer.dataset, answer.language, answer.item_id,
    left(answer.question, 4 * $line) AS question, left(answer.gold, $line) AS gold,
    {_line("answer")} AS said, {_line("base")} AS base_said,
    coalesce(answer.gold_distinct_rank, answer.gold_rank, 0) AS rank,
    coalesce(base.gold_distinct_rank, base.gold_rank, 0) AS base_rank,
    {_FATE} AS fate,
    coalesce(answer.open_loop, CASE WHEN answer.continuation_text IS NOT NULL
        THEN answer.continuation_loop_start IS NOT NULL END) AS loops,
    {_VERDICTS},
    lower(nfc_normalize(concat_ws(chr(10), answer.item_id, answer.question, answer.gold, answer.open_text,
        base.open_text, answer.continuation_text, base.continuation_text)))
        AS texts
FROM answers AS answer JOIN answers AS base USING ({_KEY})
WHERE answer.arm <> 'base' AND base.arm = 'base'
"""
_COLUMNS = (
    "number",
    "arm",
    "language",
    "item_id",
    "question",
    "gold",
    "said",
    "base_said",
    "rank",
    "base_rank",
    "fate",
    "loops",
)
_NAMES = (
    "number",
    "arm",
    "language",
    "id",
    "question",
    "gold",
    "said",
    "baseSaid",
    "rank",
    "baseRank",
    "fate",
    "loops",
)
_SHOWN = ", ".join((*_COLUMNS, *PROBES))


def _row(values: tuple[Any, ...]) -> dict[str, Any]:
    shown = dict(zip(_NAMES, values, strict=False))
    verdicts = values[len(_NAMES) :]
    return shown | {"verdicts": {name: divmod(pair, 10) for name, pair in zip(PROBES, verdicts, strict=True)}}


def _where(wanted: Filter) -> tuple[str, dict[str, Any]]:
    """Conditions made of constant SQL, and the values bound to their parameters."""
    conditions, values = ["true"], dict[str, Any]()
    for name in ("arm", "language", "fate"):
        if (value := getattr(wanted, name)) is not None:
            conditions.append(f"{name} = ${name}")
            values[name] = value
    if wanted.rank_from is not None:
        conditions.append("rank > 0 AND rank >= $rank_from")
        values["rank_from"] = wanted.rank_from
    if wanted.rank_to is not None:
        conditions.append("rank > 0 AND rank <= $rank_to")
        values["rank_to"] = wanted.rank_to
    if wanted.loops:
        conditions.append("loops")
    for name, pair in wanted.probes.items():
        conditions.append(f"{name} = $probe_{name}")
        values[f"probe_{name}"] = int(pair)
    for number, word in enumerate(wanted.search.lower().split()[:MOST_WORDS]):
        conditions.append(f"contains(texts, nfc_normalize($word_{number}))")
        values[f"word_{number}"] = word
    return " AND ".join(conditions), values


def plain_json(values: Any) -> bytes:
    """JSON in UTF-8 without NaN."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
