"""A table as data: columns, rows of typed cells, rules and notes. `anomia.report.render` turns it into text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Literal, NamedTuple

from anomia.measure.figures import Lookup
from anomia.measure.measures import Measure
from anomia.measure.rates import Estimate

# share: a fraction, shown in per cent. number: as is. bytes: shown in MB. words: sentences, which may wrap.
Kind = Literal["text", "words", "count", "share", "number", "rank", "probability", "bytes"]
TEXTS = ("text", "words")
Place = Literal["both", "screen", "files"]
Number = Estimate | int | float | None


class Change(NamedTuple):
    """Base's figure, over the items that the arm has answered, and the arm's."""

    before: Number
    after: Number


class CountAndShare(NamedTuple):
    """A count, and its share if that can be given."""

    items: int
    share: Estimate | None


class Marked(NamedTuple):
    """A figure followed by a unit or a mark, or a word followed by what it leaves open."""

    value: Number | str
    mark: str


Cell = str | Number | Change | CountAndShare | Marked


class NoteValue(NamedTuple):
    """A figure in a note."""

    cell: Cell
    kind: Kind = "share"
    digits: int | None = None


Note = str | tuple[str | NoteValue, ...]


class Column(NamedTuple):
    """One column.

    name: in CSV, where an estimate takes four columns. header: for people; a line break shows where it may be
    broken. digits: decimals in the terminal and on the page; None for the kind's default. place: where it is shown;
    `screen` is the terminal and the page. full: the header in the table files; defaults to `header`.
    """

    name: str
    header: str
    kind: Kind = "share"
    digits: int | None = None
    place: Place = "both"
    full: str = ""


class Table(NamedTuple):
    """One table.

    name: of its files. keys: how many leading columns identify a row. rules: rows on screen followed by a line.
    on_screen: the rows that the terminal and the page show; None for all.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[Note] = ()
    keys: int = 1
    rules: Sequence[int] = ()
    on_screen: Sequence[int] | None = None


class Filed(NamedTuple):
    """What a table of one arm, or of one run, is called in the table files, where all arms are in one table."""

    name: str
    title: str
    note: str
    keys: int


class Of(NamedTuple):
    """The column or row of one measure, wherever it is shown.

    brief: its header next to related columns, in the terminal and on the page. full: its header in the table files;
    defaults to `brief`. place: where it is shown. own_name: the column's name in CSV, if not that of the measure.
    """

    measure: Measure
    brief: str
    full: str = ""
    kind: Kind = "share"
    place: Place = "both"
    own_name: str = ""

    @property
    def name(self) -> str:
        """The column's name in CSV."""
        return self.own_name or self.measure.removeprefix("accuracy/").replace("/", "_")

    def column(self, *, full: bool = False) -> Column:
        """Its column, with the brief header or, if `full`, the one that is clear without its neighbours."""
        return Column(
            self.name, (self.full if full else "") or self.brief, self.kind, place=self.place, full=self.full
        )


def named(measure: Measure, brief: str = "") -> Of:
    """A measure under its own label, or under a brief header if its neighbours say the rest."""
    return Of(measure, brief or broken(measure.label), measure.label)


def broken(label: str) -> str:
    """A label with a line break for a header: at its last comma, else where the two lines are most similar in length.

    >>> broken("same-passage choice, no question"), broken("gap to hard choice")
    ('same-passage choice,\\nno question', 'gap to\\nhard choice')
    """
    if ", " in label:
        head, _, tail = label.rpartition(", ")
        return f"{head},\n{tail}"
    places = [place for place, char in enumerate(label) if char == " "]
    if not places:
        return label
    place = min(places, key=lambda place: max(place, len(label) - place - 1))
    return f"{label[:place]}\n{label[place + 1 :]}"


def on_screen(table: Table) -> Table:
    """The table as the terminal and the page show it."""
    if table.on_screen is not None:
        table = table._replace(rows=[table.rows[place] for place in table.on_screen], on_screen=None)
    return _only(table, [column.place != "files" for column in table.columns])


def in_files(filed: Filed, parts: Sequence[tuple[str, Table]]) -> Table:
    """The tables of several arms as one for the files: an arm column first, full headers, base and arm side by side.

    Figures lose their marks, which are for reading. Rows without any value are left out. parts: each arm and its table;
    an empty name adds no column.
    """
    named = any(arm for arm, _ in parts)
    tables = [
        _split(_only(table, [column.place != "screen" for column in table.columns])) for _, table in parts
    ]
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    keys = filed.keys - named
    rows: list[Sequence[Cell]] = []
    for (arm, _), table in zip(parts, tables, strict=True):
        for row in table.rows:
            if any(cell is not None for cell in row[keys:]):
                found = dict(zip(table.columns, row, strict=True))
                rows.append([*([arm] if named else []), *(found.get(column) for column in columns)])
    return Table(
        filed.name, filed.title, [*([ARM] if named else []), *columns], rows, [filed.note], keys=filed.keys
    )


def _only(table: Table, kept: Sequence[bool]) -> Table:
    return table._replace(
        columns=[*compress(table.columns, kept)], rows=[[*compress(row, kept)] for row in table.rows]
    )


def _split(table: Table) -> Table:
    """The table with its full headers, and each change as two columns."""
    columns: list[Column] = []
    cells: list[list[Cell]] = []
    for place, column in enumerate(table.columns):
        found = [row[place] for row in table.rows]
        header = column.full or column.header
        if not any(isinstance(cell, Change) for cell in found):
            columns.append(column._replace(header=header))
            cells.append([cell.value if isinstance(cell, Marked) else cell for cell in found])
            continue
        for side, part in (("base", "before"), ("arm", "after")):
            columns.append(column._replace(name=f"{column.name}_{side}", header=f"{header}, {side}"))
            cells.append([getattr(cell, part, None) for cell in found])
    return table._replace(columns=columns, rows=[*zip(*cells, strict=True)])


ARM = Column("arm", "arm", "text")
MODEL = Column("model", "model", "text")
LANGUAGE = Column("language", "language", "text")
N = Column("n", "n", "count")


def given(measures: Sequence[Of], figures: Lookup, arm: str, scopes: Sequence[str]) -> list[Of]:
    """The measures that occur in any of the scopes, even if only as not given."""
    return [of for of in measures if any((arm, of.measure, scope) in figures for scope in scopes)]


def values(measures: Sequence[Of], figures: Lookup, arm: str, scope: str) -> list[Estimate | None]:
    """The arm's figures in one scope, None if one can't be given."""
    return [figures.get((arm, of.measure, scope)) for of in measures]


def by_model(
    measures: Sequence[Of], figures: Lookup, models: Sequence[str], scopes: Sequence[str]
) -> list[tuple[str, str, list[Estimate | None]]]:
    """Each model's figures in each scope, without rows in which none can be given."""
    found = [(model, scope, values(measures, figures, model, scope)) for model in models for scope in scopes]
    return [row for row in found if any(row[2])]


def n_of(estimate: Estimate | None) -> int | None:
    """The number of items that a figure rests on."""
    return None if estimate is None else estimate.n


def by_scope(
    scopes: Sequence[str], cells: Callable[[str], Sequence[Cell] | None], *, means: Sequence[str] = ()
) -> tuple[list[Sequence[Cell]], list[int]]:
    """Rows that begin with their scope, and the position of the rule between languages and what is taken over them.

    scopes: the languages, and last the pooled scope. means: scopes that follow. cells: None if there is no row.
    """
    rows: list[Sequence[Cell]] = []
    rules = []
    for scope in (*scopes, *means):
        found = cells(scope)
        if found is not None:
            rows.append((scope, *found))
            if [scope] == scopes[-2:-1]:
                rules.append(len(rows) - 1)
    return rows, rules
