"""Orders, budgets, and the choice of items and halves."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from anomia.errors import AnomiaError, ModelError, RunError
from anomia.locate.attribution import Attribution, Margin
from anomia.locate.cases import Candidate, FreeAnswers, LocatedItem, choose, find_margins, halves
from anomia.locate.conclude import (
    best_alone,
    check_ends,
    directions_of,
    is_place,
    reliable,
    unit_rows,
    unreached,
)
from anomia.locate.find import _scores
from anomia.locate.leading import needed_units, pick_leader
from anomia.locate.located import Directions, LocateOptions, disagreement
from anomia.locate.pairs import WeightUnit
from anomia.locate.restore import (
    all_budgets,
    at_random,
    by_depth,
    by_weight,
    cumulative_mixtures,
    fill,
    share_of,
    single_mixtures,
)
from anomia.locate.sentence import Alone, _blocks, broken_of, described, notes_of, sentence_of, silent_of
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


def test_a_budget_takes_the_start_of_an_order_and_passes_over_nothing() -> None:
    assert fill(["b", "a", "c", "d", "e"], UNITS, 0.2) == ("b",)
    assert fill(["b", "d", "e", "a"], UNITS, 0.2) == ("b", "d", "e")
    assert share_of(("b", "d", "e"), UNITS) == pytest.approx(0.2)
    assert fill(["a", "b", "c", "d", "e"], UNITS, 1.0) == ("a", "b", "c", "d", "e")
    assert fill(["a", "b"], UNITS, 0.01) == ()
    found = cumulative_mixtures({"random": [["a", "b"], ["b", "a"]]}, UNITS, (0.1, 0.5))
    assert [(m.place, m.budget, m.restored) for m in found] == [
        ("0", 0.1, ()),
        ("0", 0.5, ("a", "b")),
        ("1", 0.1, ("b",)),
        ("1", 0.5, ("b", "a")),
    ]


MANY = tuple(
    unit(f"{n}.{name}", n, weights)
    for n in range(12)
    for name, weights in [("norm", 4), ("q", 300), ("down", 900), ("bias", 2)]
)


def test_more_weights_restore_all_that_fewer_did_in_every_order() -> None:
    budgets = [n / 40 for n in range(1, 40)]
    for order in [by_depth(MANY, 12), *(at_random(MANY, 3, draw) for draw in range(20))]:
        sets = [fill(order, MANY, budget) for budget in budgets]
        assert all(set(less) <= set(more) for less, more in pairwise(sets))
        assert all(share_of(names, MANY) <= budget for names, budget in zip(sets, budgets, strict=True))


def test_small_weights_do_not_ride_along_in_random_orders() -> None:
    """Of the norms, a small budget takes as large a part as of the other units: it was nearly all of them."""
    taken = [name for draw in range(200) for name in fill(at_random(MANY, 1, draw), MANY, 0.1)]
    norms = sum(name.endswith("norm") for name in taken) / (200 * 12)
    matrices = sum(name.endswith("down") for name in taken) / (200 * 12)
    assert norms < 0.25
    assert matrices > 0.03


def test_large_weights_come_last_in_random_orders_so_that_small_budgets_are_not_empty() -> None:
    units = (*MANY, unit("embedding", None, 20_000))
    assert {at_random(units, 0, draw)[-1] for draw in range(20)} == {"embedding"}
    assert len({at_random(units, 0, draw)[0] for draw in range(20)}) > 5


def test_the_first_units_of_leading_orders_are_steps_of_their_own_for_all_orders() -> None:
    norm, matrix, embedding = 0.0003, 0.0249, 0.58
    units = (
        unit("norm", None, 3), unit("matrix", 0, 249), unit("embedding", None, 5800), unit("rest", 1, 3948),
    )  # fmt: skip
    orders = {
        "attribution": [["norm", "matrix", "embedding", "rest"]],
        "output_change": [["matrix", "norm", "embedding", "rest"]],
        "depth": [["matrix", "rest", "norm", "embedding"]],
    }
    found = all_budgets((0.1, 0.5), orders, ("attribution", "output_change"), units)
    assert found == pytest.approx((norm, matrix, norm + matrix, 0.1, 0.4197, 0.5, norm + matrix + embedding))
    assert fill(orders["attribution"][0], units, found[0]) == ("norm",)
    assert fill(orders["depth"][0], units, found[0]) == ()


class ByUnits:
    """Counts, in place of reading answers: right where all culprits are restored."""

    def __init__(self, *culprits: str) -> None:
        self.culprits, self.asked = set(culprits), 0

    def __call__(self, names: Any) -> float:
        self.asked += 1
        return float(self.culprits <= set(names))


def test_the_order_that_needs_less_on_its_own_items_leads_and_attribution_if_both_do() -> None:
    order = [each.name for each in MANY]
    orders = {"attribution": [order], "output_change": [["5.down", *(n for n in order if n != "5.down")]]}

    def picked(*culprits: str, known: bool = True) -> str:
        return pick_leader(ByUnits(*culprits), orders, MANY, (0.05, 0.1), known=known)[0]

    assert picked("0.norm") == "attribution"
    assert picked("5.down") == "output_change"
    assert picked("5.down", known=False) == "attribution"
    assert picked("11.down") == "attribution"  # neither finds it
    found = pick_leader(ByUnits("5.down"), orders, MANY, (0.05, 0.1), known=True)[1]
    assert found == {"attribution": math.inf, "output_change": pytest.approx(900 / 14472)}


def test_units_that_bring_nothing_back_are_left_out_of_a_place() -> None:
    place = [each.name for each in MANY[:16]]
    for culprits in (["0.norm"], ["3.down"], ["1.q", "2.bias"], place):
        returned = ByUnits(*culprits)
        assert needed_units(returned, place, tries=100) == tuple(culprits)
    assert set(needed_units(ByUnits("3.down"), place, tries=2)) < set(place)
    few = ByUnits("3.down")
    needed_units(few, place, tries=3)
    assert few.asked == 4


def test_few_weights_or_one_unit_are_a_place_where_random_orders_need_clearly_more() -> None:
    def place(half: float, names: str, low: float, units: int = 9, differing: float = 1.0) -> bool:
        about = Estimate(half, half, half, 40, 30)
        return is_place(about, list(names), Estimate(low, low, 1.0, 40, 30), units=units, differing=differing)

    assert place(0.06, "ab", 0.2)
    assert not place(0.06, "ab", 0.0)
    assert not place(0.3, "ab", 0.2)
    assert place(0.58, "a", 0.2)  # an embedding alone
    assert place(1.0, "a", 0.0, units=1)
    assert place(1.0, "ab", 0.0, units=2, differing=0.05)


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
    # Where the last part of a name isn't enough, all of it is said.
    alike = [unit("x", 0, 1)._replace(place="attn.c_proj"), unit("y", 0, 1)._replace(place="mlp.c_proj")]
    assert described(["y"], alike) == "mlp.c_proj of block 0"
    assert described(["x", "y"], alike) == "attn.c_proj of block 0, mlp.c_proj of block 0"


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, 40, 30)


HALVES = {
    "attribution": estimate(0.06, 0.04, 0.09),
    "output_change": estimate(0.3, 0.2, 0.4),
    "random": estimate(0.5, 0.4, 0.6),
}
GIVEN: dict[str, Any] = {
    "leader": "attribution",
    "ahead": estimate(0.24, 0.1, 0.3),
    "chance": estimate(0.44, 0.3, 0.5),
    "found": True,
    "items": "40 items",
}
EVEN = estimate(0.0, -0.03, 0.03)


def test_a_place_is_said_with_what_is_enough_and_whether_attribution_was_needed() -> None:
    assert sentence_of(HALVES, ("a",), UNITS, **GIVEN) == (
        "Half of what was demoted comes back with 6 % of the weights (interval 4 % to 9 %): a of block 0 is enough "
        "(40 %). Attribution beats the change of outputs: it saves 24 points of the weights (10 to 30)."
    )
    halves = {**HALVES, "output_change": estimate(0.06, 0.04, 0.09)}
    assert sentence_of(halves, ("a", "b"), UNITS, **{**GIVEN, "ahead": EVEN}).endswith(
        "a of block 0, b of block 0 are enough (50 %). The change of outputs finds it as well: attribution saves 0 "
        "points of the weights (\N{MINUS SIGN}3 to 3)."
    )
    text = sentence_of(
        {**HALVES, "output_change": HALVES["attribution"], "attribution": estimate(0.4, 0.3, 0.5)},
        ("a",), UNITS, **{**GIVEN, "leader": "output_change", "ahead": estimate(-0.34, -0.4, -0.2)},
    )  # fmt: skip
    assert "(interval 4 % to 9 %), in the order of changed outputs: a of block 0 is enough" in text
    assert text.endswith(
        "The change of outputs beats attribution: it saves 34 points of the weights (20 to 40)."
    )
    unknown = sentence_of(HALVES, ("a",), UNITS, **{**GIVEN, "ahead": None})
    assert "is not known" in unknown


def test_diffuse_says_why_and_whether_attribution_beats_the_change_of_outputs() -> None:
    unclear = estimate(0.02, -0.1, 0.3)
    assert sentence_of(
        HALVES, ("a",), UNITS, **{**GIVEN, "found": False, "chance": unclear, "ahead": EVEN}
    ) == (
        "Diffuse: a random order may need no more (50 %; the difference of 2 points has an interval from "
        "\N{MINUS SIGN}10 to 30). Attribution does not clearly beat the change of outputs: it saves 0 points of the "
        "weights (\N{MINUS SIGN}3 to 3)."
    )
    halves = {**HALVES, "attribution": estimate(0.4, 0.2, 0.6)}
    assert sentence_of(halves, ("a",), UNITS, **{**GIVEN, "found": False}) == (
        "Diffuse: bringing half of the 40 items back takes 40 % of the weights (interval 20 % to 60 %). Attribution "
        "beats the change of outputs: it saves 24 points of the weights (10 to 30)."
    )
    halves = {**HALVES, "attribution": estimate(1.0, 1.0, 1.0)}
    assert "no share tried brings half of the 40 items back, only all of the weights" in sentence_of(
        halves, ("a",), UNITS, **{**GIVEN, "found": False}
    )


def test_a_block_that_brings_half_back_alone_is_said_where_no_order_finds_it() -> None:
    halves = {**HALVES, "attribution": estimate(1.0, 1.0, 1.0)}
    text = sentence_of(halves, ("a",), UNITS, **{**GIVEN, "found": False, "alone": Alone(1, 1.0, 0.08)})
    assert text.startswith("Diffuse by every order: ")
    assert "But base's weights in block 1 alone (8 %) bring 100 % back: look there first." in text
    found = [Directions(0, 0.2, 0, 0, 0, 1, 1), Directions(1, 0.6, 0, 0, 0, 1, 1)]
    assert best_alone(found, UNITS) == Alone(1, 0.6, share_of([u.name for u in UNITS if u.block == 1], UNITS))
    assert best_alone(found[:1], UNITS) is None
    assert best_alone([Directions(0, math.nan, 0, 0, 0, 1, 1)], UNITS) is None


def test_ends_that_are_not_the_two_models_are_refused() -> None:
    """All of base's weights bring nothing back where settings differ; nothing is left where answers came back alone."""

    def ends(nothing: int, everything: int) -> pl.DataFrame:
        right = [n < nothing for n in range(8)] + [n < everything for n in range(8)]
        kinds = ["nothing"] * 8 + ["everything"] * 8
        return pl.DataFrame({"kind": kinds, "group": ["demoted"] * 16, "correct": right})

    check_ends(ends(1, 7), WORDS["lost"])
    with pytest.raises(
        ModelError, match=r"has only 25 % of 8 demoted items right, .* differ in more than their weights"
    ):
        check_ends(ends(0, 2), WORDS["lost"])
    with pytest.raises(ModelError, match="the compressed model has 62 % of 8 demoted items right"):
        check_ends(ends(5, 8), WORDS["lost"])


def test_units_that_no_gradient_reaches_come_last_and_are_told() -> None:
    gold = np.array([[0.0, -0.1], [0.0, -0.2], [-0.0, -0.3]])
    ends = np.stack([np.zeros(3), gold.sum(axis=1)], axis=1)
    found = Attribution(("a", "b"), gold, gold, ends, ends, np.ones_like(gold), 3)
    assert unreached(found).tolist() == [True, False]
    scores = _scores(found, located_items("ddd"))["attribution"]
    assert math.isnan(scores["a"])
    # Without that, a share of 0 would come before one that is below 0.
    assert by_weight(scores, UNITS[:2])[0] == "b"
    (text,) = silent_of(UNITS[:2], unreached(found))
    assert text.startswith("no gradient reaches 1 matrix with ")
    assert "(a): attribution says nothing of these" in text
    assert silent_of(UNITS[:2], np.array([False, False])) == []


def test_answers_of_mixtures_that_are_not_finite_are_counted() -> None:
    readings = pl.DataFrame({"rank": [1, None, 3, None]})
    assert broken_of(readings) == [
        "2 of 4 answers of mixtures had logits that are NaN or infinite; they count as wrong"
    ]
    assert broken_of(readings.filter(pl.col("rank").is_not_null())) == []


def test_shares_are_of_the_differing_weights_where_not_all_differ_and_never_seem_none() -> None:
    halves = {**HALVES, "attribution": estimate(0.0006, 0.0006, 0.0006)}
    text = sentence_of(halves, ("a",), UNITS, differing=0.6, **GIVEN)
    assert text.startswith(
        "Half of what was demoted comes back with less than 1 % of the differing weights (the same on any resampled "
        "passages): a"
    )


def test_models_that_differ_in_few_weights_have_their_damage_there() -> None:
    halves = {name: estimate(0.5, 0.4, 0.6) for name in ("attribution", "output_change", "random")}
    given = {**GIVEN, "ahead": EVEN, "chance": EVEN}
    text = sentence_of(halves, ("a",), UNITS, differing=0.05, **given)
    assert text.startswith(
        f"The models differ in only 5 % of their weights: {described([u.name for u in UNITS], UNITS)}."
    )
    assert "Of these, 50 % (interval 40 % to 60 %) bring half of what was demoted back" in text
    assert "a of block 0 is enough (40 %). The change of outputs finds it as well" in text
    everything = tuple(each.name for each in UNITS)
    assert sentence_of(halves, everything, UNITS, differing=0.005, **given).endswith(
        "Only all of them together brought half of what was demoted back."
    )
    assert sentence_of(halves, ("a",), UNITS, differing=0.2, **{**given, "found": False}).startswith(
        "Diffuse"
    )


@pytest.mark.parametrize("kind", ["norm", "embedding", "head", "bias"])
def test_a_single_unit_that_differs_is_named_however_large_it_is(kind: Any) -> None:
    one = unit("model.odd", None, 50)._replace(kind=kind)
    halves = {name: estimate(1.0, 1.0, 1.0) for name in ("attribution", "output_change", "random")}
    text = sentence_of(
        halves, ("model.odd",), [one], differing=0.49, **{**GIVEN, "ahead": EVEN, "chance": EVEN}
    )
    assert (
        text == f"The models differ in model.odd ({kind}) alone, 49 % of their weights: the damage is there."
    )


def attributed(residuals: list[float]) -> Attribution:
    """Shares of two units that leave these parts of a change of 1 unexplained; the first item's are far larger."""
    sums = 1 - np.array(residuals)
    gold = np.stack([sums - 0.25, np.full(len(sums), 0.25)], axis=1)
    ends = np.tile([0.0, 1.0], (len(sums), 1))
    return Attribution(("a", "b"), gold, gold, ends, ends, np.ones_like(gold), 3)


def located_items(groups: str) -> list[LocatedItem]:
    margin = Margin((1,), 2, 3)
    return [
        LocatedItem(candidate(n, "demoted" if each == "d" else "kept", n), "order", margin, margin)
        for n, each in enumerate(groups)
    ]


def test_items_whose_shares_do_not_add_up_count_in_no_figure_and_are_named() -> None:
    found, items = attributed([-40.0, 0.0, 0.1, -0.1, 9.0, 0.0]), located_items("dddddk")
    rows = unit_rows(UNITS[:2], found, items)
    assert rows["share"].to_list() == pytest.approx([0.75, 0.25])
    assert rows["control"].to_list() == pytest.approx([0.75, 0.25])
    assert float(rows["share_high"][0]) < 1.5
    assert reliable(found, items).tolist() == [False, True, True, True, False, True]
    subjects: Any = SimpleNamespace(lacking=0)
    text = " ".join(notes_of(subjects, found, items, np.ones((40, 2)), WORDS["lost"]))
    assert "2 of 6 items" in text
    assert "neither in the order nor in shares, intervals and rank agreement" in text
    assert "items.parquet: 0, 4)" in text


def test_where_no_items_shares_add_up_the_note_says_that_all_count() -> None:
    found, items = attributed([9.0] * 9), located_items("d" * 9)
    assert reliable(found, items).all()
    subjects: Any = SimpleNamespace(lacking=0)
    text = " ".join(notes_of(subjects, found, items, np.ones((40, 2)), WORDS["lost"]))
    assert "don't trust the order" in text
    assert "0, 1, 2, 3, 4 and 4 more" in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"among": "foo"}, "among foo: .*choice_only"),
        ({"points": 4}, "give 5"),
        ({"points": 1}, "from 3 on"),
        ({"items": 0}, "items 0: give a whole number from 4 on"),
        ({"items": 8.5}, "items 8.5"),
        ({"draws": 0}, "draws 0"),
        ({"per_answer": 0}, "per_answer 0"),
        ({"budgets": ()}, "budgets"),
        ({"budgets": (0.1, 2)}, "between 0 and 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(AnomiaError, match=said):
        LocateOptions(**changed)
    assert LocateOptions(budgets=(0.5, 0.1)).budgets == (0.1, 0.5)


def test_every_passage_gives_an_item_before_one_gives_two() -> None:
    candidates = [candidate(n, "demoted", n // 3) for n in range(30)]
    for seed in range(20):
        found = choose(candidates, 6, seed, WORDS["positions"])
        assert len({each.passage for each in found}) == 6
        assert len({each.passage for each in choose(candidates, 14, seed, WORDS["positions"])}) == 10
    with pytest.raises(
        RunError, match=r"only 6 demoted tokens on 3 prompts: .* at least 4 prompts are needed"
    ):
        choose(candidates[:9], 6, 0, WORDS["positions"])


def test_what_both_directions_say_of_a_block() -> None:
    rows = [
        {"kind": kind, "place": place, "group": "demoted", "correct": right, "margin": margin}
        for kind, place, right, margin in [
            ("nothing", "", 0.0, -1.0), ("everything", "", 1.0, 3.0),
            ("block", "0", 0.5, 0.0), ("without_block", "0", 0.25, 2.0),
            ("block", "1", 0.0, 1.0), ("without_block", "1", 1.0, 1.0),
        ]
    ]  # fmt: skip
    frame = pl.DataFrame(rows).with_columns(rank=pl.Series([9, 1, 4, 2, 7, 1], dtype=pl.Int32))
    found = directions_of(frame)
    assert [tuple(each) for each in found] == [
        (0, 0.5, 0.75, 0.25, 0.25, 4, 2),
        (1, 0.0, 0.0, 0.5, 0.5, 7, 1),
    ]
    apart = disagreement(found)
    assert apart["answers_distance"] == pytest.approx(0.125)
    assert apart["margin_distance"] == 0
    assert apart["answers_rank_correlation"] is None
