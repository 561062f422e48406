"""Building blocks of figures: rows of estimates, panels per case, the language filter, texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import altair as alt

from anomia.measure.fates import FATES
from anomia.measure.frame import POOLED
from anomia.measure.rates import Estimate
from anomia.report.figures.cases import Case, plain
from anomia.report.figures.style import MARK, ROW, WIDTH
from anomia.report.naming import printable
from anomia.report.render.stars import Stars, stars

ChartRow = dict[str, Any]

# Vega expressions are built here from constants only. Names from data occur only as data, in these fields.
LANGUAGE = "language"
ONE_SCOPE = f"datum.scope == {LANGUAGE}"
SCOPES = f"{LANGUAGE} == '{POOLED}' || datum.scope == {LANGUAGE} || datum.scope == '{POOLED}'"
AS_PERCENT = "format(100 * datum.value, '.3~g')"

FATE_WORDS: dict[str, str] = {name: name.replace("_", " ") for name in FATES}
EVERY = "pooled"
TOO_FEW = "too few"
INTERVALS = "Lines are 95 % intervals"
MOST_TOLD = 4


def measured(estimate: Estimate | None, **fields: Any) -> ChartRow:
    """A row of data: the fields plus the estimate's; without an estimate, its numbers are null, never 0."""
    numbers = ("value", "low", "high", "n", "passages")
    if estimate is None:
        return fields | dict.fromkeys(numbers) | {"star": False, "shown": TOO_FEW}
    value, low, high, n, passages, *_ = estimate
    found = dict(zip(numbers, (value, low, high, n, passages), strict=True))
    return fields | found | {"star": not estimate.checked, "shown": percent_interval(estimate)}


def place(case: Case, number: int, scope: str) -> ChartRow:
    """The panel and the language of a row."""
    known = [*case.languages, POOLED]
    return {
        "case": case.label,
        "case_order": number,
        "scope": scope if scope == POOLED else plain(scope),
        "where": EVERY if scope == POOLED else plain(scope),
        "where_order": known.index(scope),
    }


def panels(
    layers: Sequence[alt.Chart],
    rows: Sequence[Mapping[str, Any]],
    *,
    height: Any = None,
    width: int = WIDTH,
    column: str = "case",
) -> Any:
    """The layers over the rows, with one panel below the other for each value of `column`."""
    data = alt.InlineData(values=[_compact(row) for row in rows])
    chart = alt.layer(*layers).properties(width=width, height=alt.Step(ROW) if height is None else height)
    if len({row[column] for row in rows}) < 2:
        chart.data = data
        return chart
    header = alt.Header(title=None, labelAnchor="start", labelOrient="top")
    order = alt.EncodingSortField(field=f"{column}_order", op="min")
    return (
        chart.facet(row=alt.Row(field=column, type="nominal", header=header, sort=order), data=data, spacing=14)
        .resolve_scale(y="independent")
    )  # fmt: skip


def _compact(row: Mapping[str, Any]) -> ChartRow:
    """A row as embedded: only printable text, and six decimals, more than a screen can show."""
    kept: ChartRow = {}
    for key, value in row.items():
        if isinstance(value, str):
            kept[key] = printable(value)
        else:
            kept[key] = round(value, 6) if isinstance(value, float) else value
    return kept


def filtered(chart: Any, cases: Sequence[Case]) -> Any:
    """Add the parameter that the page's language filter sets: a language, or `pooled` for all of them."""
    languages = list(dict.fromkeys(plain(name) for case in cases for name in case.languages))
    parameter: ChartRow = {"name": LANGUAGE, "value": POOLED}
    if len(languages) > 1:
        parameter["bind"] = {
            "input": "select",
            "options": [POOLED, *languages],
            "labels": [EVERY, *languages],
            "name": "language ",
        }
    made = chart.copy()
    # `add_params` needs a view with its own name, which facets in a concatenation lack.
    made.params = [alt.TopLevelParameter.from_dict(parameter)]
    return made


def rows_axis(field: str = "where", *, order: str | None = None) -> alt.Y:
    """A row for each value of a field, ordered by another field."""
    return alt.Y(
        field=field,
        type="nominal",
        title=None,
        sort=alt.EncodingSortField(field=order or f"{field}_order", op="min"),
        axis=alt.Axis(ticks=False, domain=False, labelPadding=9),
    )


def percent_axis(title: str, *, field: str = "value", domain: Sequence[float] | None = None) -> alt.X:
    """A horizontal axis of shares, shown in per cent."""
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=True, nice=True)
    axis = alt.Axis(labelExpr=AS_PERCENT, tickCount=6, grid=True)
    return alt.X(field=field, type="quantitative", title=title, scale=scale, axis=axis)


def beside(field: str, y: alt.Y, *conditions: str, style: str = "guide-label") -> alt.Chart:
    """A column of texts to the right of the plot, one per row."""
    chart = alt.Chart().mark_text(align="left", dx=10, style=style)
    return _where(chart, conditions).encode(
        x=alt.value("width"), y=y, text=alt.Text(field=field, type="nominal")
    )


def dots(
    x: alt.X,
    y: alt.Y,
    *conditions: str,
    low: str = "low",
    high: str = "high",
    color: Any,
    tips: Sequence[alt.Tooltip],
    shape: str = "circle",
    filled: bool = True,
    nudge: float = 0,
    size: float = MARK,
    width: float = 2,
) -> list[alt.Chart]:
    """Points with their intervals, in rows. nudge: pixels downwards, to keep two points in a row apart."""
    rule = alt.Chart().mark_rule(strokeWidth=width, opacity=0.75, yOffset=nudge)
    span = _where(rule, conditions).encode(
        x=alt.X(field=low, type="quantitative"), x2=alt.X2(field=high), y=y, color=color
    )
    mark = alt.Chart().mark_point(
        shape=shape, size=size, filled=filled, opacity=1, strokeWidth=2, yOffset=nudge
    )
    return [span, _where(mark, conditions).encode(x=x, y=y, color=color, tooltip=list(tips))]


def _where(chart: alt.Chart, conditions: Sequence[str]) -> alt.Chart:
    for condition in conditions:
        chart = chart.transform_filter(condition)
    return chart


def stacked(charts: Sequence[Any]) -> Any:
    """Charts one below the other, each with its own axes."""
    return alt.vconcat(*charts, spacing=28).resolve_scale(
        x="independent", y="independent", color="independent"
    )


def tooltip(**titles: str) -> list[alt.Tooltip]:
    """Tooltip fields with their titles."""
    return [alt.Tooltip(field=field, type="nominal", title=title) for field, title in titles.items()]


@dataclass(frozen=True, slots=True)
class Label:
    """A text with intervals, with their stars and without; `settled` chooses for the whole figure."""

    starred: str
    plain: str

    def __add__(self, text: str) -> Label:
        return Label(self.starred + text, self.plain + text)

    def __radd__(self, text: str) -> Label:
        return Label(text + self.starred, text + self.plain)


Text = TypeVar("Text", str, Label)


def joined(separator: str, labels: Sequence[Label]) -> Label:
    """Labels as one."""
    return Label(*(separator.join(getattr(label, side) for label in labels) for side in ("starred", "plain")))


def percent_interval(estimate: Estimate) -> Label:
    """`39 [30, 48]`, in per cent, with a star if the interval was not validated for so few items."""
    return f"{signed(100 * estimate.value)} " + interval(estimate)


def interval(estimate: Estimate) -> Label:
    """`[30, 48]`, in per cent, with a star if it was not validated for so few items."""
    shown = f"[{signed(100 * estimate.low)}, {signed(100 * estimate.high)}]"
    return Label(shown if estimate.checked else f"{shown}*", shown)


def note(shown: Text, n: int | None) -> Text:
    """The text next to a row: its figures and the number of items."""
    return shown if n is None else shown + f" · n {n:,}"


def signed(number: float, digits: int = 0) -> str:
    """A number with a true minus sign, and none before 0."""
    text = f"{number:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def listed(parts: Sequence[str], *, most: int = MOST_TOLD) -> str:
    """A list of the first few parts, for a sentence."""
    shown = "; ".join(parts[:most])
    left = len(parts) - most
    return f"{shown}; and {left} more" if left > 0 else shown


def settled(rows: Sequence[ChartRow]) -> list[ChartRow]:
    """The rows of a figure with their labels as text: with stars if these set some intervals apart, else without."""
    side = "starred" if _rule(rows).kept else "plain"
    return [
        {key: getattr(value, side) if isinstance(value, Label) else value for key, value in row.items()}
        for row in rows
    ]


def starred(rows: Iterable[Mapping[str, Any]]) -> str:
    """The sentence that explains the stars, or replaces them."""
    note_ = _rule(list(rows)).note
    return f" {note_}" if note_ else ""


def _rule(rows: Sequence[Mapping[str, Any]]) -> Stars:
    drawn = [row for row in rows if row.get("low") is not None]
    return stars(sum(bool(row.get("star")) for row in drawn), len(drawn))


def compared(found: Sequence[Case]) -> str:
    """What is compared, for a caption."""
    bases, data, arms = ({getattr(case, name) for case in found} for name in ("base", "data", "arm"))
    what = plain(found[0].arm) if len(arms) == 1 else f"{len(arms)} arms"
    base = found[0].base if len(bases) == 1 else f"{len(bases)} bases"
    where = found[0].data if len(data) == 1 else f"{len(data)} data sets"
    weak = dict.fromkeys(name for case in found for name in case.run.results.excluded_languages)
    without = f" (pooled without {plain(', '.join(weak))}: base is too weak there)" if weak else ""
    return f"{what} against {base} on {where}{without}"


def in_one_panel(rows: Sequence[ChartRow]) -> list[ChartRow]:
    """Rows in which cases become the rows of one panel, if no case has more than one language."""
    by_case: dict[str, set[str]] = {}
    for row in rows:
        by_case.setdefault(row["case"], set()).add(row["where"])
    if len(by_case) < 2 or any(len(where) > 1 for where in by_case.values()):
        return list(rows)
    return [row | {"where": row["case"], "where_order": row["case_order"], "case": ""} for row in rows]
