"""The look of all figures: colors by meaning, and the light and dark themes."""

from __future__ import annotations

import itertools
from typing import Any

from anomia.probes import ORACLES

# Okabe and Ito (2008), safe for color-blind readers, with a darker sky blue and brown instead of orange, so that each
# has a contrast of 3:1 or more on white and on the dark background (WCAG 2.2, 1.4.11); magenta from Tol (2021).
BLUE, VERMILLION, GREEN, PURPLE, BROWN, SKY, GREY, MAGENTA = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A57C52", "#3C93CC", "#6B6B6B", "#AA4499",
)  # fmt: skip

# The same color for the same thing in every figure: what a model says is vermillion, what it picks is blue.
COLORS = {
    "open": VERMILLION,
    "cued": PURPLE,
    "choice": BLUE,
    "kept": GREEN,
    "choice_only": BLUE,
    "open_only": VERMILLION,
    "lost": GREY,
    "control": GREY,
    "gap": MAGENTA,
} | dict(zip(ORACLES, itertools.cycle((BROWN, SKY, PURPLE, GREEN)), strict=False))

LIGHT = {"ink": "#1A1A1A", "soft": "#5C5C5C", "line": "#DADADA", "ground": "#FFFFFF"}
DARK = {"ink": "#EDEDED", "soft": "#A8A8A8", "line": "#3A3D42", "ground": "#15171A"}
FONT = "'Liberation Sans', Arial, 'Noto Sans', sans-serif"

WIDTH = 460
ROW = 24
MARK = 75


def theme(dark: bool = False) -> dict[str, Any]:
    """A Vega-Lite config: text, axes and neutral marks; marks with their own color keep it in both themes.

    The background is transparent, so figures take the page's.
    """
    ink = DARK if dark else LIGHT
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink["ink"],
            "titleColor": ink["soft"],
            "gridColor": ink["line"],
            "domainColor": ink["line"],
            "tickColor": ink["line"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            # Labels are short; Vega could cut a long one inside a surrogate pair, which vl-convert refuses.
            "labelLimit": 0,
            "labelFlush": False,
            # On a narrow page, every other number that would touch its neighbours is dropped.
            "labelSeparation": 5,
            "domain": False,
            "ticks": False,
        },
        "header": {
            "labelColor": ink["ink"],
            "titleColor": ink["soft"],
            "labelFontSize": 13,
            "labelFontWeight": "bold",
            "labelLimit": 0,
        },
        "legend": {"labelColor": ink["ink"], "titleColor": ink["soft"], "labelFontSize": 12},
        "title": {
            "color": ink["ink"],
            "subtitleColor": ink["soft"],
            "fontSize": 13,
            "subtitleFontSize": 12,
            "anchor": "start",
        },
        "text": {"color": ink["ink"], "fontSize": 12},
        "tick": {"color": ink["soft"]},
        "rule": {"color": ink["ink"]},
        "style": {
            "guide-label": {"fill": ink["ink"], "fontSize": 12},
            "soft": {"fill": ink["soft"], "stroke": ink["soft"]},
        },
    }
