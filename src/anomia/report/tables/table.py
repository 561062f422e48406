"""A table as data: columns, rows of typed cells, rules and notes. `anomia.report.render` makes text of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from anomia.measure.figures import Lookup
from anomia.measure.measures import parse
from anomia.measure.rates import Estimate

# share: a fraction, shown in per cent. number: as it is. bytes: shown in MB. words: sentences, which may wrap.
Kind = Literal["text", "words", "count", "share", "number", "rank", "probability", "bytes"]
TEXTS = ("text", "words")
Number = Estimate | int | float | None


class Change(NamedTuple):
    """A figure of base, over the items that the arm has answered, and the arm's."""

    before: Number
    after: Number


class CountAndShare(NamedTuple):
    """A count, and the share that it is where that can be given."""

    items: int
    share: Estimate | None


class Marked(NamedTuple):
    """A figure with a unit or a sign after it."""

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

    name: in CSV, where an estimate makes four columns of it. header: for people; a line break shows where it may be
    broken. digits: decimals in the terminal and on the page, where the kind's own are not meant.
    """

    name: str
    header: str
    kind: Kind = "share"
    digits: int | None = None


class Table(NamedTuple):
    """One table.

    name: of its files. keys: how many first columns say what a row is about. rules: rows that a line is drawn after.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[Note] = ()
    keys: int = 1
    rules: Sequence[int] = ()


class Of(NamedTuple):
    """The column, or the row, of one measure, wherever it is shown.

    brief: its header between its neighbours in the terminal and on the page. full: its header in the table files;
    the same if it isn't given.
    """

    measure: str
    brief: str
    full: str = ""
    kind: Kind = "share"

    @property
    def name(self) -> str:
        """In CSV."""
        return self.measure.removeprefix("accuracy/").replace("/", "_")

    def column(self, *, full: bool = False) -> Column:
        """Its column, with the header for a place among others or with the one that needs no others."""
        return Column(self.name, (self.full if full else "") or self.brief, self.kind)


def named(measure: str, brief: str = "") -> Of:
    """A measure under its own label, or under a brief header where its neighbours say the rest."""
    label = parse(measure).label
    return Of(measure, brief or broken(label), label)


def broken(label: str) -> str:
    """A label with a line break for a header: at its last comma, else where its lines are most alike.

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
    """The measures that are there in any of the scopes, if only to say that they can't be given."""
    return [of for of in measures if any((arm, of.measure, scope) in figures for scope in scopes)]


def values(measures: Sequence[Of], figures: Lookup, arm: str, scope: str) -> list[Estimate | None]:
    """The figures of an arm in one scope, None where one can't be given."""
    return [figures.get((arm, of.measure, scope)) for of in measures]


def n_of(estimate: Estimate | None) -> int | None:
    """The items that a figure rests on."""
    return None if estimate is None else estimate.n


def by_scope(
    scopes: Sequence[str], cells: Callable[[str], Sequence[Cell] | None], *, means: Sequence[str] = ()
) -> tuple[list[Sequence[Cell]], list[int]]:
    """Rows that begin with their scope, and the rule between languages and what is taken over them.

    scopes: the languages, and last what pools them. means: scopes that follow. cells: None where there is no row.
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
