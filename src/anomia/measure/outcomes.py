"""The outcomes of a verdict and their meanings; `verdict` decides which one an arm gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Outcome = Literal[
    "intact",
    "illusion",
    "demotion",
    "mixed",
    "loss",
    "reverse",
    "untestable",
    "broken",
    "inconclusive",
    "unjudged",
]


class Meaning(NamedTuple):
    """headline: one sentence, for verdicts. advice: what to do, for the page. color: its color on the page.

    picked: the headline where the options don't show recognition, if it differs. caveat: what it then leaves open.
    """

    headline: str
    advice: str
    color: Literal["kept", "choice", "open", "lost"]
    picked: str = ""
    caveat: str = ""


OUTCOMES: Mapping[Outcome, Meaning] = {
    "intact": Meaning(
        headline="Open answers and multiple choice both held.",
        advice="Nothing that was measured here speaks against shipping it for questions like these.",
        color="kept",
    ),
    "illusion": Meaning(
        headline=(
            "The model still recognises answers that it no longer gives: a multiple-choice benchmark won't show "
            "it."
        ),
        advice=(
            "Don't ship it on the strength of multiple-choice scores: people who ask it directly won't get "
            "answers that those scores count as known."
        ),
        color="choice",
        picked=(
            "The model still picks answers that it no longer gives: a multiple-choice benchmark won't show the loss."
        ),
        caveat="Whether it still recognises them is not shown, because picking them may not need the question.",
    ),
    "demotion": Meaning(
        headline=(
            "The model still recognises the answers and ranks them high, but no longer gives them: they were "
            "demoted, not erased."
        ),
        advice=(
            "Don't ship it as it is where the model must give answers: the knowledge survived, so decoding, examples "
            "or a little training may bring it back."
        ),
        color="choice",
    ),
    "mixed": Meaning(
        headline="Both formats lost answers, and open answers lost a larger share.",
        advice=(
            "Don't ship it on the strength of multiple-choice scores: part of the knowledge is gone, and even more no "
            "longer comes out in free-form answers."
        ),
        color="open",
    ),
    "loss": Meaning(
        headline="Knowledge is gone: the model no longer recognises most of the answers that it no longer gives.",
        advice="Ship it only where this knowledge isn't needed: other decoding won't bring it back.",
        color="open",
        picked="Knowledge is gone: the model no longer picks most of the answers that it no longer gives.",
    ),
    "reverse": Meaning(
        headline="Multiple choice lost a larger share than open answers did.",
        advice="Look at the items before deciding: picking lost a larger share than answering, which is unusual.",
        color="open",
    ),
    "untestable": Meaning(
        headline="Base itself is too weak here for a comparison.",
        advice="This study can't decide: choose questions that the uncompressed model can answer.",
        color="lost",
    ),
    "broken": Meaning(
        headline="The outputs are broken: look at the model before its accuracy.",
        advice="Don't ship it: its outputs are broken.",
        color="open",
    ),
    "inconclusive": Meaning(
        headline="These items don't settle what was lost.",
        advice="Not decided: ask more questions before shipping it on this evidence.",
        color="lost",
    ),
    "unjudged": Meaning(
        headline="Only long answers were asked.",
        advice="Read some answers next to base's before shipping it: no verdict rests on long answers alone.",
        color="lost",
    ),
}
