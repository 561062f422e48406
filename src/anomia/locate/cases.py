"""The items on which damage is located: which ones, what is asked about them, and which of them only decide.

Demoted items are those that base answers and the compressed model doesn't, although it still picks the answer
(choice-only), or positions of base's long answers at which the compressed model ranks base's token second to tenth.
They are compared with as many kept items. The passages are divided once: the items of one half give the order of the
weights, those of the other half decide what an order is worth.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from anomia.errors import RunError
from anomia.locate.attribution import Margin, Margins
from anomia.locate.words import ItemWords
from anomia.probe.ask import Ask, RankTarget, Reply, TokenIds
from anomia.probe.encode import EncodedItem
from anomia.words import counted

Group = Literal["demoted", "kept"]
GROUPS: tuple[Group, ...] = get_args(Group)
Half = Literal["order", "decide"]
ReadAt = Literal["gold", "divergence", "position"]


class AnswerPosition(NamedTuple):
    """A position of base's long answer.

    before: the answer's tokens up to it. token: base's own. others: base's other likely tokens there, likeliest first.
    """

    before: TokenIds
    token: int
    others: TokenIds = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question, or a position of base's long answer to a prompt, that may be chosen.

    passage: its passage's number in the run. position: None for a question.
    """

    encoded: EncodedItem
    language: str
    passage: int
    group: Group
    position: AnswerPosition | None = None

    @property
    def item_id(self) -> str:
        """The item's id; only unique within a language."""
        return self.encoded.item.question.id

    @property
    def index(self) -> int | None:
        """The position in base's long answer, from 0; None for a question."""
        return None if self.position is None else len(self.position.before)

    @property
    def tokens(self) -> int:
        """The number of tokens up to where the item is read; items of similar length share a batch."""
        return self.encoded.prompt_tokens + (self.index or 0)

    @property
    def prefix(self) -> TokenIds:
        """Prompt and base's long answer up to the position."""
        assert self.encoded.long is not None
        assert self.position is not None
        return self.encoded.long.prompt + self.position.before


@dataclass(frozen=True, slots=True)
class LocatedItem:
    """An item with its margins.

    gold: the gold answer's first distinct token against what the compressed model says there; `at` says whether it is
    read there (`gold`) or, where base says something else first or the compressed model would say gold's token, at the
    first position at which the two free answers part (`divergence`). control: the same for the control answer. At a
    `position` of a long answer, gold is base's token, and the control is the likeliest token in base that is neither of
    the two.
    """

    candidate: Candidate
    half: Half
    gold: Margin
    control: Margin | None
    at: ReadAt = "gold"

    @property
    def subject(self) -> Margins:
        """What attribution asks of it."""
        return Margins(self.candidate.item_id, self.gold, self.control)

    @property
    def ask(self) -> Ask:
        """What every mixture of the two models is asked: a question's open answer, and both tokens of each margin."""
        targets = {}
        for name, margin in (("gold", self.gold), ("control", self.control)):
            if margin is not None:
                targets[name] = RankTarget(margin.prefix, margin.token)
                targets[f"{name}_rival"] = RankTarget(margin.prefix, margin.rival)
        return Ask(self.candidate.item_id, greedy=_opened(self.candidate), targets=targets)


def _opened(candidate: Candidate) -> Mapping[str, TokenIds]:
    """A question's open prompt; nothing for a position of a long answer."""
    return {} if candidate.position is not None else {"open": candidate.encoded.ask.greedy["open"]}


def first_asks(candidate: Candidate) -> list[Ask]:
    """The asks that find an item's margins in the compressed model: for its open answer, and its next tokens.

    The next tokens are those after gold's prefix and, in a second ask, after the control's, if that differs. For a
    position of a long answer, one ask for the next tokens there is all.
    """
    if candidate.position is not None:
        return [Ask(candidate.item_id, distribution=candidate.prefix)]
    encoded = candidate.encoded
    item_id, targets = candidate.item_id, encoded.ask.targets
    gold = targets.get("gold_distinct")
    asks = [
        Ask(
            item_id,
            greedy=_opened(candidate),
            distribution=None if gold is None else gold.prefix,
        )
    ]
    control = targets.get("control_distinct")
    if control is not None and (gold is None or control.prefix != gold.prefix):
        asks.append(Ask(item_id, distribution=control.prefix))
    return asks


class FreeAnswers(NamedTuple):
    """The free answers of base and of the compressed model in tokens, each with its end token if it ended."""

    base: TokenIds
    compressed: TokenIds


def find_margins(
    candidate: Candidate, replies: Sequence[Reply], answers: FreeAnswers
) -> tuple[Margin, Margin | None, ReadAt] | None:
    """The margins of an item, from the compressed model's replies to `first_asks`; None if it has none.

    A question has none if gold has no token of its own or the two answers don't part. A position has none if rounding
    decides whether base's token comes first.
    """
    if candidate.position is not None:
        said_there = replies[0].distribution
        return None if said_there is None else _margins_at(candidate, candidate.position, said_there.tokens)
    targets = candidate.encoded.ask.targets
    gold, control = targets.get("gold_distinct"), targets.get("control_distinct")
    said = {}
    for ask, reply in zip(first_asks(candidate), replies, strict=True):
        if ask.distribution is not None and reply.distribution is not None:
            said[ask.distribution] = reply.distribution.tokens
    beside = None
    if control is not None and control.prefix in said:
        beside = Margin(control.prefix, control.token, _other(said[control.prefix], control.token))
    prompt = candidate.encoded.ask.greedy["open"]
    read = None
    if gold is not None and gold.prefix in said:
        top = said[gold.prefix]
        read = Margin(gold.prefix, gold.token, _other(top, gold.token))
        if candidate.group == "kept":
            return read, beside, "gold"
        if top[0] == gold.token:
            read = None
        elif (prompt + answers.base)[: len(gold.prefix) + 1] == (*gold.prefix, gold.token):
            return read, beside, "gold"
    for place, (one, other) in enumerate(zip(answers.base, answers.compressed, strict=False)):
        if one != other:
            return Margin(prompt + answers.base[:place], one, other), beside, "divergence"
    return None if read is None else (read, beside, "gold")


def _margins_at(
    candidate: Candidate, position: AnswerPosition, top: TokenIds
) -> tuple[Margin, Margin | None, ReadAt] | None:
    """The margins at a position of a long answer. top: the compressed model's likeliest tokens there."""
    if (top[0] == position.token) != (candidate.group == "kept"):
        return None
    rival = _other(top, position.token)
    control = next((token for token in position.others if token not in (position.token, rival)), None)
    beside = None if control is None else Margin(candidate.prefix, control, rival)
    return Margin(candidate.prefix, position.token, rival), beside, "position"


def _other(top: TokenIds, token: int) -> int:
    """The likeliest token besides this one."""
    return next(each for each in top if each != token)


def halves(candidates: Sequence[Candidate], seed: int) -> list[Half]:
    """The half of each item. Passages are divided, not items; each half gets about half of the demoted items.

    Passages are shuffled by the seed, and each goes to the half that has fewer demoted items, then fewer items.
    """
    members: dict[int, list[Candidate]] = {}
    for each in candidates:
        members.setdefault(each.passage, []).append(each)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    counts: dict[Half, list[int]] = {"order": [0, 0], "decide": [0, 0]}
    found: dict[int, Half] = {}
    for passage in order:
        half: Half = min(("decide", "order"), key=lambda name: counts[name])
        found[passage] = half
        counts[half][0] += sum(each.group == "demoted" for each in members[passage])
        counts[half][1] += len(members[passage])
    return [found[each.passage] for each in candidates]


def choose(candidates: Sequence[Candidate], items: int, seed: int, words: ItemWords) -> list[Candidate]:
    """At most `items` demoted items and as many kept ones, in the order given.

    Languages take turns, so that each is represented, and so do the passages of a language: no passage gives a second
    item before each has given one. Which items are taken first depends on the seed.

    Raises:
        RunError: there are too few demoted items for two halves.
    """
    demoted = _take([each for each in candidates if each.group == "demoted"], items, seed)
    passages = len({each.passage for each in demoted})
    if passages < 4:
        raise RunError(
            f"locate: only {counted(len(demoted), f'demoted {words.one}')} on "
            f"{counted(passages, words.passage)}: half of them order the weights and the other half decide, "
            f"so at least 4 {words.passages} are needed; {words.more}"
        )
    kept = _take([each for each in candidates if each.group == "kept"], len(demoted), seed)
    chosen = {id(each) for each in (*demoted, *kept)}
    return [each for each in candidates if id(each) in chosen]


def _take(candidates: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    by_language: dict[str, list[Candidate]] = {}
    for each in candidates:
        by_language.setdefault(each.language, []).append(each)
    for language, members in by_language.items():
        random.Random(f"{seed} {language}").shuffle(members)
        # Taken from the end.
        by_language[language] = _passages_in_turn(members)[::-1]
    taken: list[Candidate] = []
    while len(taken) < count and any(by_language.values()):
        for members in by_language.values():
            if members and len(taken) < count:
                taken.append(members.pop())
    return taken


def _passages_in_turn(members: Sequence[Candidate]) -> list[Candidate]:
    """The first of every passage, then the second of every passage, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for each in members:
        turns.append(seen.get(each.passage, 0))
        seen[each.passage] = turns[-1] + 1
    return [members[n] for n in sorted(range(len(members)), key=lambda n: turns[n])]
