"""Orders, budgets, and the choice of items and halves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from anomia.errors import RunError
from anomia.locate.cases import Candidate, FreeAnswers, choose, find_margins, halves
from anomia.locate.conclude import directions_of
from anomia.locate.located import disagreement
from anomia.locate.pairs import WeightUnit
from anomia.locate.restore import (
    at_random,
    by_depth,
    by_weight,
    cumulative_mixtures,
    fill,
    share_of,
    single_mixtures,
)
from anomia.locate.sentence import _blocks, described, sentence_of
from anomia.locate.words import WORDS
from anomia.measure.rates import Estimate
from anomia.probe.ask import Ask, Distribution, RankTarget, Reply


def unit(name: str, block: int | None, weights: int) -> WeightUnit:
    return WeightUnit(name, f"{name}.weight", None, block, name, "matrix", weights, weights)


UNITS = (unit("a", 0, 40), unit("b", 0, 10), unit("c", 1, 40), unit("d", 1, 5), unit("e", None, 5))


def test_orders_by_hand() -> None:
    assert by_weight({"a": 4.0, "b": 2.0, "c": -1.0, "d": float("nan"), "e": 0.0}, UNITS) == [
        "b",
        "a",
        "e",
        "c",
        "d",
    ]
    assert by_depth(UNITS[::-1], 2) == ["b", "a", "d", "c", "e"]
    assert at_random(UNITS, 1, 0) == at_random(UNITS, 1, 0)
    assert sorted(at_random(UNITS, 1, 0)) == list("abcde")
    assert len({tuple(at_random(UNITS, 1, draw)) for draw in range(8)}) > 1


def test_a_budget_takes_what_still_fits() -> None:
    assert fill(["b", "a", "c", "d", "e"], UNITS, 0.2) == ("b", "d", "e")
    assert share_of(("b", "d", "e"), UNITS) == pytest.approx(0.2)
    assert fill(["a", "b", "c", "d", "e"], UNITS, 1.0) == ("a", "b", "c", "d", "e")
    assert fill(["a", "b"], UNITS, 0.01) == ()
    found = cumulative_mixtures({"random": [["a", "b"], ["b", "a"]]}, UNITS, (0.1, 0.5))
    assert [(m.place, m.budget, m.restored) for m in found] == [
        ("0", 0.1, ("b",)),
        ("0", 0.5, ("a", "b")),
        ("1", 0.1, ("b",)),
        ("1", 0.5, ("b", "a")),
    ]


def test_every_block_is_restored_alone_and_left_compressed_alone() -> None:
    found = {(m.kind, m.place): m.restored for m in single_mixtures(UNITS, 3, ["d"])}
    assert found == {
        ("block", "0"): ("a", "b"),
        ("without_block", "0"): ("c", "d", "e"),
        ("block", "1"): ("c", "d"),
        ("without_block", "1"): ("a", "b", "e"),
        ("matrix", "d"): ("d",),
    }


def candidate(
    number: int, group: Any, passage: int, language: str = "english", **targets: RankTarget
) -> Candidate:
    """An item whose prompt is 1, 2."""
    item = SimpleNamespace(question=SimpleNamespace(id=str(number)))
    ask = Ask(str(number), greedy={"open": (1, 2)}, targets=targets)
    return Candidate(SimpleNamespace(item=item, ask=ask, prompt_tokens=2), language, passage, group)  # type: ignore[arg-type]


def test_halves_divide_passages_and_share_the_demoted_items() -> None:
    candidates = [candidate(n, "demoted" if n % 3 == 0 else "kept", n // 2) for n in range(60)]
    found = halves(candidates, 5)
    assert found == halves(candidates, 5)
    assert found != halves(candidates, 6)
    sides: dict[int, set[str]] = {}
    for each, half in zip(candidates, found, strict=True):
        sides.setdefault(each.passage, set()).add(half)
    assert all(len(mine) == 1 for mine in sides.values())
    demoted = [half for each, half in zip(candidates, found, strict=True) if each.group == "demoted"]
    assert demoted.count("order") == demoted.count("decide") == 10


def test_as_many_kept_items_as_demoted_ones_and_languages_take_turns() -> None:
    candidates = [
        *(candidate(n, "demoted", n, "english") for n in range(20)),
        *(candidate(n, "demoted", 100 + n, "finnish") for n in range(3)),
        *(candidate(n, "kept", 200 + n) for n in range(50)),
    ]
    found = choose(candidates, 8, 0, WORDS["choice_only"])
    assert [each.group for each in found].count("kept") == 8
    assert [each.language for each in found if each.group == "demoted"].count("finnish") == 3
    assert found == choose(candidates, 8, 0, WORDS["choice_only"])
    with pytest.raises(RunError, match="--among lost"):
        choose([candidate(n, "demoted", n // 2) for n in range(6)], 8, 0, WORDS["choice_only"])


def said(*tops: tuple[int, ...]) -> list[Reply]:
    return [Reply("0", distribution=Distribution(top, (0.0,) * len(top), 0.0)) for top in tops]


GOLD = RankTarget((1, 2), 5)
ANSWERS = FreeAnswers((5, 6, 7, 0), (5, 6, 9, 9))


def test_the_margin_is_gold_against_what_is_said_instead() -> None:
    item = candidate(0, "demoted", 0, gold_distinct=GOLD, control_distinct=RankTarget((1, 2), 8))
    found = find_margins(item, said((9, 8)), ANSWERS)
    assert found is not None
    gold, control, at = found
    assert (gold.prefix, gold.token, gold.rival, at) == ((1, 2), 5, 9, "gold")
    assert control is not None
    assert (control.token, control.rival) == (8, 9)


def test_the_control_may_stand_after_another_prefix() -> None:
    item = candidate(0, "demoted", 0, gold_distinct=GOLD, control_distinct=RankTarget((1, 2, 4), 8))
    found = find_margins(item, said((9, 8), (8, 3)), ANSWERS)
    assert found is not None
    assert found[1] is not None
    assert (found[1].prefix, found[1].token, found[1].rival) == ((1, 2, 4), 8, 3)


def test_where_gold_is_on_top_the_margin_is_read_where_the_answers_part() -> None:
    item = candidate(0, "demoted", 0, gold_distinct=GOLD)
    found = find_margins(item, said((5, 9)), ANSWERS)
    assert found is not None
    gold, control, at = found
    assert (gold.prefix, gold.token, gold.rival, at, control) == ((1, 2, 5, 6), 7, 9, "divergence", None)
    assert find_margins(item, said((5, 9)), FreeAnswers((5, 6), (5, 6))) is None
    assert find_margins(candidate(0, "demoted", 0), [Reply("0")], ANSWERS) is not None


def test_where_base_says_something_before_gold_the_margin_is_read_where_the_answers_part() -> None:
    """Base is right with "in Paris", and its margin at the prompt says nothing about that answer: it may be negative."""
    item = candidate(0, "demoted", 0, gold_distinct=GOLD)
    found = find_margins(item, said((9, 8)), FreeAnswers((4, 5, 7, 0), (4, 9, 9, 9)))
    assert found is not None
    assert (found[0].prefix, found[0].token, found[0].rival, found[2]) == ((1, 2, 4), 5, 9, "divergence")
    later = candidate(0, "demoted", 0, gold_distinct=RankTarget((1, 2, 4), 5))
    found = find_margins(later, said((9, 8)), FreeAnswers((4, 5, 7, 0), (3, 9, 9, 9)))
    assert found is not None
    assert (found[0].prefix, found[0].token, found[0].rival, found[2]) == ((1, 2, 4), 5, 9, "gold")


def test_a_kept_item_has_golds_margin_against_the_next_token() -> None:
    found = find_margins(candidate(0, "kept", 0, gold_distinct=GOLD), said((5, 9)), FreeAnswers((5,), (5,)))
    assert found is not None
    assert (found[0].token, found[0].rival, found[2]) == (5, 9, "gold")


def test_places_in_words() -> None:
    assert _blocks([3]) == "block 3"
    assert _blocks([2, 3, 4, 5]) == "blocks 2 to 5"
    assert _blocks([0, 1, 4, 6, 7, 8]) == "blocks 0 and 1, 4 and 6 to 8"
    units = [
        unit("x", 0, 1)._replace(place="mlp.down_proj"),
        unit("y", 2, 1)._replace(place="self_attn.o_proj"),
        UNITS[4],
    ]
    assert described(["x", "y", "e"], units) == "down_proj of block 0, o_proj of block 2, e"


def test_a_place_takes_few_weights_and_fewer_than_a_random_order() -> None:
    def estimate(value: float, low: float, high: float) -> Estimate:
        return Estimate(value, low, high, 40, 30)

    halves = {
        "attribution": estimate(0.06, 0.04, 0.09),
        "output_change": estimate(0.3, 0.2, 0.4),
        "random": estimate(0.5, 0.4, 0.6),
    }
    clear, unclear = estimate(0.44, 0.3, 0.5), estimate(0.02, -0.1, 0.3)

    def said(names: tuple[str, ...], **given: Any) -> str:
        return sentence_of(
            halves,
            names,
            UNITS,
            **{"leader": "attribution", "beaten": True, "chance": clear, "items": "40 items", **given},
        )

    text = said(("a", "b"), found=True)
    assert text.startswith(
        "Half of what was demoted comes back with 6 % of the weights (4 % to 9 %). The first 50 % are"
    )
    assert "changed outputs" not in text
    halves["output_change"] = estimate(0.06, 0.04, 0.09)
    assert said(("a",), found=True, beaten=False).endswith(
        "The order of changed outputs finds them as well (6 % of the weights)."
    )
    assert said(("a",), found=False, chance=unclear) == (
        "Diffuse: a random order may need no more (50 %; the difference of 2 points has an interval from \N{MINUS SIGN}10 to 30)."
    )
    halves["attribution"] = estimate(0.4, 0.2, 0.6)
    assert said(("a",), found=False) == (
        "Diffuse: bringing half of the 40 items back takes 40 % of the weights (20 % to 60 %)."
    )
    text = said(("a",), found=True, leader="output_change")
    assert "(4 % to 9 %), in the order of changed outputs. The first" in text
    assert text.endswith("The order by attribution takes 40 %.")


def test_models_that_differ_in_few_weights_have_their_damage_there() -> None:
    halves = {name: Estimate(0.5, 0.5, 0.5, 40, 30) for name in ("attribution", "output_change", "random")}
    same = Estimate(0.0, 0.0, 0.0, 40, 30)
    given: dict[str, Any] = {
        "leader": "attribution",
        "beaten": False,
        "chance": same,
        "found": True,
        "items": "40 items",
    }
    one = [UNITS[0]]
    assert sentence_of(halves, ("a",), one, differing=0.005, **given) == (
        f"The models differ in less than 1 % of their weights: {described(['a'], one)}."
    )
    text = sentence_of(halves, ("a",), UNITS, differing=0.05, **given)
    assert text.startswith(
        f"The models differ in only 5 % of their weights: {described([u.name for u in UNITS], UNITS)}."
    )
    assert "Of these, 50 % (50 % to 50 %) bring half of what was demoted back" in text
    assert text.endswith(f"the first are {described(['a'], UNITS)}.")
    assert sentence_of(halves, ("a",), UNITS, differing=0.2, **{**given, "found": False}).startswith(
        "Diffuse"
    )


def test_what_both_directions_say_of_a_block() -> None:
    rows = [
        {"kind": kind, "place": place, "group": "demoted", "correct": right, "margin": margin}
        for kind, place, right, margin in [
            ("nothing", "", 0.0, -1.0), ("everything", "", 1.0, 3.0),
            ("block", "0", 0.5, 0.0), ("without_block", "0", 0.25, 2.0),
            ("block", "1", 0.0, 1.0), ("without_block", "1", 1.0, 1.0),
        ]
    ]  # fmt: skip
    found = directions_of(pl.DataFrame(rows))
    assert [tuple(each) for each in found] == [(0, 0.5, 0.75, 0.25, 0.25), (1, 0.0, 0.0, 0.5, 0.5)]
    apart = disagreement(found)
    assert apart["answers_distance"] == pytest.approx(0.125)
    assert apart["margin_distance"] == 0
    assert apart["answers_rank_correlation"] is None
