"""What one example, or a vote of beams or samples, gives back without changing a weight, and what it costs."""

from __future__ import annotations

from anomia.measure.fallbacks import VOTES, FallbackRow
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.probes import short
from anomia.report.tables.table import ARM, LANGUAGE, Column, Filed, Marked, N, Table, in_files

NOTES = (
    "Each way gives one answer, picked without knowing the right one and graded like the greedy answer, so these are "
    "accuracies and not oracle recovery. vote: the answer of the likeliest beams, or of most samples; where no two "
    "agree, the best beam, or one sample at random",
    "share of the loss given back: (arm this way − arm greedy)/(base greedy − arm greedy) on the same items; not given "
    "where compression may have taken nothing. A way that helps base as well gives back more than was lost",
    "tokens: the arm's per answer, over those of its greedy answer. A prompt is read once for all beams or samples. "
    "Beams write their number times the longest; what a search drops isn't counted. est.: where tokens weren't "
    "recorded, each text is taken to be as long as the greedy answer",
)
IN_FILES = Filed(
    "fallbacks", "Decoding instead of repair (%)", " ".join(f"{note}." for note in NOTES), keys=3
)


def fallbacks(results: Results) -> Table:
    """By arm, way of decoding and language: base and arm, greedy and this way, the loss given back, and the cost."""
    rows = results.fallbacks
    return Table(
        "fallbacks",
        "Decoding instead of repair",
        (
            ARM, Column("way", "way", "text"), LANGUAGE, N,
            Column("base", "base,\ngreedy (%)"), Column("base_fallback", "base,\nthis way (%)"),
            Column("open", "arm,\ngreedy (%)"), Column("fallback", "arm,\nthis way (%)"),
            Column("base_change", "change in base\n(points)"), Column("change", "change in arm\n(points)"),
            Column("share", "share of the loss\ngiven back (%)"),
            Column("agreed", "two or more\nagree (%)"),
            Column("read", "tokens\nread", "number", digits=1),
            Column("written", "tokens\nwritten", "number", digits=1),
            Column("counted", "tokens written are", "text", place="files"),
        ),
        [
            (
                row.arm, way_name(row.way), row.scope, row.n, row.base, row.base_fallback, row.open, row.fallback,
                row.base_change, row.change, row.estimate, row.agreed, _times(row.read),
                _times(row.written, " est." if row.estimated else ""), _counted(row),
            )
            for row in rows
        ],
        NOTES,
        keys=3,
        rules=[place for place, row in enumerate(rows) if row.scope == POOLED],
    )  # fmt: skip


def fallbacks_file(results: Results) -> Table:
    """The same, for the files."""
    return in_files(IN_FILES, [("", fallbacks(results))])


def way_name(way: str) -> str:
    """The name of a way of decoding in the table.

    >>> way_name("beams"), way_name("one_shot")
    ('beams, vote', '1 shot')
    """
    return f"{short(way)}, vote" if way in VOTES else short(way)


def _times(ratio: float | None, mark: str = "") -> Marked | None:
    return None if ratio is None else Marked(ratio, f"×{mark}")


def _counted(row: FallbackRow) -> str | None:
    if row.written is None:
        return None
    return "estimated" if row.estimated else "recorded"
