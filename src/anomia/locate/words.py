"""What located items are called: questions with a gold answer, or tokens of base's long answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ItemWords(NamedTuple):
    """The words for one kind of item.

    one: the noun. passage: what intervals are clustered by. gold, control: the tokens of the two margins.
    right: describes items that have come back. returned: what restoration curves show. excluded: why an item has no
    margin. again: how many items the compressed model and base answer differently when asked again. more: what to do
    if there are too few.
    """

    one: str
    passage: str
    gold: str
    control: str
    right: str
    returned: str
    excluded: str
    again: str
    more: str

    @property
    def many(self) -> str:
        """The plural."""
        return f"{self.one}s"

    @property
    def passages(self) -> str:
        """The plural."""
        return f"{self.passage}s"

    @property
    def demoted(self) -> str:
        """Those that base's weights are to bring back."""
        return f"demoted {self.many}"

    @property
    def kept(self) -> str:
        """Those that they are compared with."""
        return f"kept {self.many}"


_QUESTIONS = ItemWords(
    one="item",
    passage="passage",
    gold="gold",
    control="control answer",
    right="right",
    returned="right free-form answers",
    excluded="no token tells gold from what the compressed model says",
    again="asked again in other batches, the compressed model answers {} of them and base misses {}",
    more="ask more questions, or take --among lost",
)
WORDS: Mapping[str, ItemWords] = {
    "choice_only": _QUESTIONS,
    "lost": _QUESTIONS._replace(more="ask more questions"),
    "positions": ItemWords(
        one="token",
        passage="prompt",
        gold="base's token",
        control="base's next choice",
        right="ranked first",
        returned="tokens of base's long answers that rank first again",
        excluded="read again in other batches, they have no rank above 1 any more, or one if they had none",
        again="read again in other batches, {} of them rank first in the compressed model and {} don't in base",
        more="ask more prompts, or longer answers",
    ),
}
"""By what is located (`anomia.locate.located.AMONG`)."""
