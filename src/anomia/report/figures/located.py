"""Where the damage of an arm is: blocks × matrices, restoration curves, and the logit lens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import altair as alt
import polars as pl

from anomia.locate.curves import ORDERS
from anomia.locate.located import Located
from anomia.report.figures.cases import Drawn, plain
from anomia.report.figures.style import BLUE, BROWN, GREEN, GREY, MARK, VERMILLION, WIDTH
from anomia.report.tables.located import ORDER_NAMES

OUTSIDE = "outside"
_ORDERS = alt.Scale(domain=[ORDER_NAMES[name] for name in ORDERS], range=[VERMILLION, BLUE, BROWN, GREY])

# Without it, the legend takes the opacity of the intervals.
_LEGEND = alt.Legend(symbolOpacity=1, symbolType="circle")


def draw_located(found: Located) -> list[Drawn]:
    """The figures of one located arm, in reading order; those without data are left out."""
    return [
        figure
        for figure in (draw_map(found), draw_restoration(found), draw_lens(found))
        if figure is not None
    ]


def draw_map(found: Located) -> Drawn | None:
    """The mean share of each matrix in gold's log-odds over demoted items; experts of a block are added up."""
    rows = (
        found.units.with_columns(
            block=pl.col("block").cast(pl.String).fill_null(OUTSIDE),
            number=pl.col("block").fill_null(pl.col("block").max() + 1),
            place=pl.col("place").str.replace(r"\[\d+\]$", ""),
        )
        .group_by("block", "number", "place", maintain_order=True)
        .agg(pl.col("share").sum(), pl.col("weights").sum())
        .drop_nulls("share")
    )
    if rows.is_empty():
        return None
    words = found.words
    most = float(rows["share"].abs().max())  # type: ignore[arg-type]
    places = rows["place"].unique(maintain_order=True).to_list()
    blocks = rows.sort("number")["block"].unique(maintain_order=True).to_list()
    chart = (
        alt.Chart(alt.InlineData(rows.to_dicts()))
        .mark_rect()
        .encode(
            x=alt.X(field="block", type="ordinal", title="block", sort=blocks, axis=alt.Axis(labelAngle=0)),
            y=alt.Y(field="place", type="ordinal", title=None, sort=places),
            color=alt.Color(
                field="share",
                type="quantitative",
                title="nats",
                scale=alt.Scale(scheme="blueorange", domain=[-most or -1.0, most or 1.0], domainMid=0),
            ),
            tooltip=[
                alt.Tooltip(field="place", type="nominal", title="weights"),
                alt.Tooltip(field="block", type="nominal", title="block"),
                alt.Tooltip(field="share", type="quantitative", format=".3f", title="nats"),
                alt.Tooltip(field="weights", type="quantitative", format=",", title="number of weights"),
            ],
        )
        .properties(width=WIDTH)
    )
    best = rows.sort("share", descending=True).head(5)
    listed = ", ".join(
        f"{row['place']} of block {row['block']} {row['share']:.2f}" for row in best.iter_rows(named=True)
    )
    return Drawn(
        name="located_map",
        title="Which weights carry the margin",
        caption=(
            f"{plain(found.arm)}: the mean share of each matrix in the change of the log-odds of {words.gold} from the "
            f"compressed model to base, in nats, over the {words.demoted} of one half of the "
            f"{words.passages}. A margin rewards one token over another; the restoration curves say what it "
            "is worth."
        ),
        alt=f"Shares by block and matrix. The largest: {listed}.",
        chart=chart,
        table=rows.drop("number"),
    )  # fmt: skip


def draw_restoration(found: Located) -> Drawn | None:
    """Right answers of held-out items against the share of the weights put back, by order."""
    if found.curve.is_empty():
        return None
    words = found.words
    groups = {"demoted": words.demoted, "kept": words.kept}
    rows = found.curve.with_columns(
        order=pl.col("order").replace_strict(ORDER_NAMES), group=pl.col("group").replace_strict(groups)
    )
    base = alt.Chart(alt.InlineData(rows.to_dicts())).encode(
        x=alt.X(
            field="share",
            type="quantitative",
            title="weights put back (%)",
            axis=alt.Axis(format="%", tickCount=5),
        ),
        color=alt.Color(field="order", type="nominal", title="order", scale=_ORDERS, legend=_LEGEND),
        tooltip=[
            alt.Tooltip(field="order", type="nominal", title="order"),
            alt.Tooltip(field="share", type="quantitative", format=".1%", title="weights"),
            alt.Tooltip(field="right", type="quantitative", format=".0%", title=words.right),
            alt.Tooltip(field="low", type="quantitative", format=".0%", title="from"),
            alt.Tooltip(field="high", type="quantitative", format=".0%", title="to"),
            alt.Tooltip(field="items", type="quantitative", title=words.many),
            alt.Tooltip(field="margin", type="quantitative", format=".2f", title=f"log-odds of {words.gold}"),
        ],
    )
    title = f"{words.right} (%)"
    y = alt.Y(
        field="right", type="quantitative", title=title, scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", tickCount=5),
    )  # fmt: skip
    low, high = alt.Y(field="low", type="quantitative", title=title), alt.Y2(field="high")
    layers = alt.layer(
        base.mark_rule(opacity=0.35).encode(y=low, y2=high),
        base.mark_line(strokeWidth=2, interpolate="step-after").encode(y=y),
        base.mark_point(filled=True, size=MARK / 2, opacity=1).encode(y=y),
    ).properties(width=WIDTH / 2, height=220)
    chart = layers.facet(
        column=alt.Column(field="group", type="nominal", title=None, sort=list(groups.values()))
    )
    needs = "; ".join(
        f"{ORDER_NAMES[name]} {100 * each.value:.0f} % ({100 * each.low:.0f} to {100 * each.high:.0f})"
        for name, each in found.halves.items()
    )
    return Drawn(
        name="located_restoration",
        title="What comes back",
        caption=(
            f"{plain(found.arm)} with base's weights put back in four orders: {words.returned}, among those "
            "that gave no order, with 95 % intervals. Smallest share tried that brings half of the "
            f"{words.demoted} back: {needs}."
        ),
        alt=f"Restoration curves. {found.sentence}",
        chart=chart,
        table=rows,
    )


def draw_lens(found: Located) -> Drawn | None:
    """Median rank of the competing tokens if each block were the last, in base and in the compressed model."""
    words = found.words
    tokens = {"gold": words.gold, "rival": "said instead", "control": words.control}
    rows = pl.DataFrame(list(_lens_rows(found.lens.filter(pl.col("group") == "demoted"), tokens)))
    if rows.is_empty():
        return None
    scale = alt.Scale(domain=list(tokens.values()), range=[GREEN, VERMILLION, GREY])
    chart = (
        alt.Chart(alt.InlineData(rows.to_dicts()))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X(field="block", type="quantitative", title="block", axis=alt.Axis(tickMinStep=1)),
            # On a scale of log-probabilities the first blocks, hundreds of nats down, would flatten all others.
            y=alt.Y(
                field="median_rank",
                type="quantitative",
                title="median rank",
                scale=alt.Scale(type="log", reverse=True),
                axis=alt.Axis(format="~s", tickCount=5),
            ),
            color=alt.Color(field="token", type="nominal", title=None, scale=scale),
            tooltip=[
                alt.Tooltip(field="token", type="nominal", title="token"),
                alt.Tooltip(field="model", type="nominal", title="model"),
                alt.Tooltip(field="block", type="quantitative", title="block"),
                alt.Tooltip(field="median_rank", type="quantitative", format=",.0f", title="median rank"),
                alt.Tooltip(
                    field="log_prob", type="quantitative", format=".2f", title="mean log-probability"
                ),
            ],
        )
        .properties(width=WIDTH / 2, height=220)
        .facet(column=alt.Column(field="model", type="nominal", title=None))
    )
    last = rows.filter(pl.col("block") == rows["block"].max())
    ends = ", ".join(
        f"{row['token']} in {row['model']} {row['median_rank']:,.0f}" for row in last.iter_rows(named=True)
    )
    return Drawn(
        name="located_lens",
        title=f"Where {words.gold} falls behind",
        caption=(
            f"Logit lens, {plain(found.arm)} and base: median rank of three tokens if each block's output were the "
            f"last, at the position of the margin, over the {words.demoted} of one half of the {words.passages}."
        ),
        alt=f"Logit lens through the blocks. Median ranks after the last: {ends}.",
        chart=chart,
        table=rows,
    )


def _lens_rows(lens: pl.DataFrame, tokens: Mapping[str, str]) -> Iterator[dict[str, object]]:
    for (model, block), part in lens.sort("model", "block", maintain_order=True).group_by(
        "model", "block", maintain_order=True
    ):
        for name, token in tokens.items():
            if part[f"{name}_log_prob"].drop_nulls().len():
                yield {
                    "model": model,
                    "block": block,
                    "token": token,
                    "log_prob": part[f"{name}_log_prob"].mean(),
                    "median_rank": part[f"{name}_rank"].median(),
                    "items": part[f"{name}_log_prob"].drop_nulls().len(),
                }
