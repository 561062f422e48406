"""A table as data: columns, rows of typed cells, rules and notes. `anomia.report.render` turns it into text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from anomia.measure.figures import Lookup
from anomia.measure.measures import parse
from anomia.measure.rates import Estimate

# share: a fraction, shown in per cent. number: as is. bytes: shown in MB. words: sentences, which may wrap.
Kind = Literal["text", "words", "count", "share", "number", "rank", "probability", "bytes"]
TEXTS = ("text", "words")
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
    """A figure followed by a unit or a mark."""

    value: Number
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
    broken. digits: decimals in the terminal and on the page; None for the kind's default.
    """

    name: str
    header: str
    kind: Kind = "share"
    digits: int | None = None


class Table(NamedTuple):
    """One table.

    name: of its files. keys: how many leading columns identify a row. rules: rows followed by a line.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[Note] = ()
    keys: int = 1
    rules: Sequence[int] = ()


class Of(NamedTuple):
    """The column or row of one measure, wherever it is shown.

    brief: its header next to related columns, in the terminal and on the page. full: its header in the table files;
    defaults to `brief`.
    """

    measure: str
    brief: str
    full: str = ""
    kind: Kind = "share"

    @property
    def name(self) -> str:
        """The column's name in CSV."""
        return self.measure.removeprefix("accuracy/").replace("/", "_")

    def column(self, *, full: bool = False) -> Column:
        """Its column, with the brief header or, if `full`, the one that is clear without its neighbours."""
        return Column(self.name, (self.full if full else "") or self.brief, self.kind)


def named(measure: str, brief: str = "") -> Of:
    """A measure under its own label, or under a brief header if its neighbours say the rest."""
    label = parse(measure).label
    return Of(measure, brief or broken(label), label)


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
