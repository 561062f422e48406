"""A model whose output is altered in a known way, and the diagnosis that must follow: from prompt to verdict."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from anomia.items import Question, build_items
from anomia.measure.diagnosis import diagnose
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.judge import ScopeVerdict, judge
from anomia.probe.encode import EncodedItem
from tests.measure.scripted import KNOWN, SAID, Logits, Scripted, encode, gold_sequence, probe

ITEMS = 160
Arm = Callable[..., pl.DataFrame]


def _names(generator: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < 4 * ITEMS + 8:
        syllables = [generator.choice("bdfgklmnprstvz") + generator.choice("aeiou") for _ in range(3)]
        found["".join(syllables).capitalize()] = None
    return list(found)


@pytest.fixture(scope="module")
def encoded(tokenizer: Any) -> list[EncodedItem]:
    names = _names(random.Random(0))
    questions = []
    for n in range(ITEMS + 1):
        people = names[4 * n : 4 * n + 4]
        towns = ("the mill", "the port", "the school", "the bridge")
        context = " ".join(f"{person} built {town}." for person, town in zip(people, towns, strict=True))
        questions.append(Question(f"q{n}", "english", context, "Who built the port?", (people[1],)))
    items = build_items({"english": questions}, dataset="scripted", limit=ITEMS, seed=1)["english"]
    return encode(items, tokenizer)


@pytest.fixture(scope="module")
def says(encoded: list[EncodedItem]) -> list[bool]:
    """Whether base says the answer; it knows all of them."""
    generator = random.Random(1)
    return [generator.random() < 0.65 for _ in encoded]


@pytest.fixture(scope="module")
def arm(encoded: list[EncodedItem], says: list[bool], tokenizer: Any) -> Arm:
    """Makes the records of an arm. texts: what it says in gold's place. forgets: gold is no path any more."""

    def make(
        name: str,
        *,
        alter: Callable[[Logits, tuple[int, ...], tuple[int, ...]], Logits] | None = None,
        text: Callable[[str], str] | None = None,
        forgets: bool = False,
    ) -> pl.DataFrame:
        paths = {}
        for item, said in zip(encoded, says, strict=True):
            gold = gold_sequence(item.ask)
            strength = SAID if said and text is None else KNOWN
            mine = [] if forgets else [(gold, strength)]
            wrong = "Nobody knows" if text is None or not said else text(item.item.question.gold)
            spoken = tuple(tokenizer(f"{item.prompt} {wrong}").input_ids)
            mine.append((spoken, SAID - 1 if text is None or not said else SAID))
            paths[item.ask.item_id] = mine
        model = Scripted(len(tokenizer), paths) if alter is None else Scripted(len(tokenizer), paths, alter)
        return probe(name, model, encoded, tokenizer)

    return make


@pytest.fixture(scope="module")
def base(arm: Arm) -> pl.DataFrame:
    found = arm("base")
    assert 0.6 < found["open_correct"].mean() < 0.8
    assert found["choice_correct"].mean() > 0.95
    assert found["choice_passage_correct"].mean() > 0.95
    return found


def overall(base: pl.DataFrame, altered: pl.DataFrame) -> ScopeVerdict:
    return judge(pl.concat([base, altered]))[-1]


def test_competitors_pushed_above_gold_are_demotion_with_the_planted_rank(
    base: pl.DataFrame, arm: Arm, encoded: list[EncodedItem], says: list[bool]
) -> None:
    competitors = (41, 42, 43)
    # Where base says nothing, the answer is far from the top: what was demoted must be nearer than that.
    far = tuple(range(41, 71))
    prompts = {
        item.ask.greedy["open"]: competitors if said else far
        for item, said in zip(encoded, says, strict=True)
    }

    def push(logits: Logits, prefix: tuple[int, ...], gold: tuple[int, ...]) -> Logits:
        # Where the answer begins, so that it takes the same from every option and choice does not see it.
        logits[list(prompts.get(prefix, ()))] = SAID + 4
        return logits

    altered = arm("shifted", alter=push)
    verdict = overall(base, altered)
    assert verdict.decision.outcome == "demotion"
    assert "rank" in verdict.decision.near
    assert verdict.same_passage is not None
    # Demotion is said of the options that decide; the passage contains all of these, so they do.
    assert verdict.decided_by == "choice_passage"
    assert verdict.standard is not None
    assert verdict.standard.outcome == "illusion"
    assert base["choice_correct"].equals(altered["choice_correct"])
    ranks = {
        (row.place, row.when, row.group): row.median
        for row in diagnose(pl.concat([base, altered])).ranks
        if row.scope == POOLED
    }
    assert ranks["gold", "before", "choice_only"] == 1
    assert ranks["gold", "after", "choice_only"] == 1 + len(competitors)
    assert ranks["control_distinct", "after", "choice_only"] > 50


def test_a_destroyed_association_is_loss(base: pl.DataFrame, arm: Arm) -> None:
    altered = arm("erased", forgets=True)
    assert altered["choice_correct"].mean() < 0.45
    verdict = overall(base, altered)
    assert verdict.decision.outcome == "loss"
    assert "lost in both" in verdict.words.text


def test_the_base_model_against_itself_is_intact(base: pl.DataFrame, arm: Arm) -> None:
    records = pl.concat([base, arm("same")])
    assert {verdict.decision.outcome for verdict in judge(records)} == {"intact"}
    figures = lookup(diagnose(records).figures)
    for measure in ("drop/open", "gap/choice", "dissociation/choice"):
        estimate = figures["same", measure, POOLED]
        assert estimate is not None
        assert estimate.value == 0


def test_items_that_a_server_would_not_answer_are_no_loss(base: pl.DataFrame, arm: Arm) -> None:
    whole = overall(base, arm("same"))
    untold = pl.col("index") % 3 == 0
    altered = arm("same").with_columns(
        **{name: pl.when(untold).then(None).otherwise(pl.col(name)) for name in ("open_correct", "open_text")}
    )
    found = overall(base, altered)
    assert found.decision.outcome == whole.decision.outcome == "intact"
    assert found.evidence.n == altered["open_correct"].len() - altered["open_correct"].null_count()
    assert found.evidence.n < whole.evidence.n


def test_right_answers_behind_a_prefix_are_intact(base: pl.DataFrame, arm: Arm) -> None:
    altered = arm("chatty", text=lambda gold: f"It was {gold}")
    assert altered["open_correct"].equals(base["open_correct"])
    assert overall(base, altered).decision.outcome == "intact"


def test_an_alias_that_grading_does_not_know_is_not_loss(base: pl.DataFrame, arm: Arm) -> None:
    altered = arm("alias", text=lambda gold: "the founder of the port")
    assert altered["open_correct"].sum() == 0
    assert overall(base, altered).decision.outcome in ("illusion", "demotion")
