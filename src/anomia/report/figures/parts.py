"""What figures are put together from: rows of estimates, panels a case, the language filter, words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from anomia.measure.fates import FATES
from anomia.measure.frame import POOLED
from anomia.measure.rates import Estimate
from anomia.report.figures.cases import Case, plain
from anomia.report.figures.style import ROW, WIDTH

Row = dict[str, Any]

# Expressions of Vega are made here, of constants. Names from data stand in the data only, under these fields.
LANGUAGE = "language"
ONE_SCOPE = f"datum.scope == {LANGUAGE}"
SCOPES = f"{LANGUAGE} == '{POOLED}' || datum.scope == {LANGUAGE} || datum.scope == '{POOLED}'"
AS_PERCENT = "round(100 * datum.value * 10) / 10"

PROBE_WORDS = {
    "open": "open",
    "cued": "cued",
    "distractors_only": "cued without gold",
    "unrelated": "cued, unrelated",
    "choice": "choice",
    "choice_hard": "hard choice",
    "choice_passage": "same-passage choice",
    "choice_no_question": "choice, no question",
    "string_presence": "string presence",
}
FATE_WORDS = {name: name.replace("_", " ") for name in FATES}
EVERY = "all languages"
TOO_FEW = "too few"
STARRED = "* counts too small for an interval whose coverage is shown."
INTERVALS = "Lines are 95 % intervals"
MOST_TOLD = 4


def measured(estimate: Estimate | None, **fields: Any) -> Row:
    """A row of data: the fields, and the estimate's; without an estimate its numbers are null, never 0."""
    row: Row = {
        **fields,
        "value": None,
        "low": None,
        "high": None,
        "n": None,
        "passages": None,
        "star": False,
    }
    row["shown"] = TOO_FEW
    if estimate is not None:
        row |= {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "passages": estimate.clusters,
            "star": not estimate.checked,
            "shown": percent_interval(estimate),
        }
    return row


def place(case: Case, number: int, scope: str) -> Row:
    """Where a row belongs: its panel and its language."""
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
    column: str = "case",
) -> alt.LayerChart | alt.FacetChart:
    """The layers over the rows, one panel under the other for each value of `column`."""
    data = alt.InlineData(values=[dict(row) for row in rows])
    chart = alt.layer(*layers).properties(width=WIDTH, height=alt.Step(ROW) if height is None else height)
    if len({row[column] for row in rows}) < 2:
        chart.data = data
        return chart
    header = alt.Header(title=None, labelAnchor="start", labelOrient="top")
    order = alt.EncodingSortField(field=f"{column}_order", op="min")
    return (
        chart.facet(row=alt.Row(field=column, type="nominal", header=header, sort=order), data=data, spacing=18)
        .resolve_scale(y="independent")
    )  # fmt: skip


def filtered(chart: Any, names: Iterable[str]) -> Any:
    """Adds the parameter that the page's language filter sets: a language, or `pooled` for all of them."""
    languages = list(dict.fromkeys(map(plain, names)))
    if len(languages) < 2:
        return chart.add_params(alt.param(name=LANGUAGE, value=POOLED))
    select = alt.binding_select(options=[POOLED, *languages], labels=[EVERY, *languages], name="language ")
    return chart.add_params(alt.param(name=LANGUAGE, value=POOLED, bind=select))


def rows_axis(field: str = "where", *, order: str | None = None) -> alt.Y:
    """A row for each value of a field, in the order of another."""
    return alt.Y(
        field=field,
        type="nominal",
        title=None,
        sort=alt.EncodingSortField(field=order or f"{field}_order", op="min"),
        axis=alt.Axis(ticks=False, domain=False),
    )


def percent_axis(title: str, *, domain: Sequence[float] | None = None, channel: Any = alt.X) -> Any:
    """A quantitative axis of shares, shown in per cent."""
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=True, nice=True)
    axis = alt.Axis(labelExpr=AS_PERCENT, tickCount=6, domain=False, ticks=False)
    return channel(field="value", type="quantitative", title=title, scale=scale, axis=axis)


def beside(field: str, *, style: str | None = None) -> alt.Chart:
    """A column of texts at the right of the plot, one a row."""
    mark = {"align": "left", "dx": 10, **({"style": style} if style else {})}
    return (
        alt.Chart().mark_text(**mark).encode(x=alt.value("width"), text=alt.Text(field=field, type="nominal"))
    )


def tooltip(**titles: str) -> list[alt.Tooltip]:
    """What stands in the box at the pointer: fields and what they are called."""
    return [alt.Tooltip(field=field, type="nominal", title=title) for field, title in titles.items()]


def percent_interval(estimate: Estimate) -> str:
    """`39 [30, 48]`, in per cent; a star where coverage is not shown for so few items."""
    value, low, high = (signed(100 * number) for number in estimate[:3])
    return f"{value} [{low}, {high}]" + ("" if estimate.checked else "*")


def signed(number: float, digits: int = 0) -> str:
    """A number with a true minus sign, and no minus before 0."""
    text = f"{number:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def whole(case: Case) -> str:
    """The scope that stands for a whole case: `pooled`, which for one language is that language."""
    return POOLED


def listed(parts: Sequence[str], *, most: int = MOST_TOLD) -> str:
    """Parts of a sentence, the first few of them."""
    shown = "; ".join(parts[:most])
    left = len(parts) - most
    return f"{shown}; and {left} more" if left > 0 else shown


def starred(rows: Iterable[Mapping[str, Any]]) -> str:
    """The sentence on stars, where there is one to explain."""
    return f" {STARRED}" if any(row.get("star") for row in rows) else ""


def compared(found: Sequence[Case]) -> str:
    """What is compared with what, for a caption."""
    if len(found) == 1:
        return f"{found[0].label} against {found[0].base} on {found[0].data}"
    return f"{len(found)} compressed models against their bases"
