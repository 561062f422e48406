"""From records to figures: the joins are by item, fates are every combination, nothing asked is nothing said."""

from __future__ import annotations

import itertools
from typing import Any

import polars as pl
import pytest

from anomia.measure.diagnosis import diagnose
from anomia.measure.figures import find
from anomia.measure.frame import POOLED
from anomia.measure.judge import judge
from anomia.measure.positions import PLACES
from anomia.measure.recognition import with_fates
from anomia.records import SCHEMA


def rows(
    arm: str, opened: list[bool], chosen: list[bool], language: str = "english", **more: Any
) -> pl.DataFrame:
    count = len(opened)
    values = {
        "arm": [arm] * count, "dataset": ["d"] * count, "language": [language] * count,
        "item_id": [f"{language}-{n}" for n in range(count)], "index": list(range(count)),
        "passage_id": [f"{language}-{n}" for n in range(count)], "finite": [True] * count,
        "open_correct": opened, "choice_correct": chosen, **more,
    }  # fmt: skip
    return pl.DataFrame([{**dict.fromkeys(SCHEMA), **dict(zip(values, line, strict=True))}
                         for line in zip(*values.values(), strict=True)], schema=SCHEMA)  # fmt: skip


COMBINATIONS = list(itertools.product([True, False], repeat=4))


def test_fates_of_every_combination() -> None:
    base = rows("base", [c[0] for c in COMBINATIONS], [c[1] for c in COMBINATIONS])
    arm = rows("a", [c[2] for c in COMBINATIONS], [c[3] for c in COMBINATIONS])
    # Another order of the rows must not matter: the join is by item.
    frame = with_fates(pl.concat([base, arm.reverse()]))
    found = dict(frame.filter(pl.col("arm") == "a").select("item_id", "fate").iter_rows())
    names = {
        (True, True): "kept",
        (False, True): "choice_only",
        (True, False): "open_only",
        (False, False): "lost",
    }
    for n, (base_open, base_choice, arm_open, arm_choice) in enumerate(COMBINATIONS):
        wanted = names[arm_open, arm_choice] if base_open and base_choice else None
        assert found[f"english-{n}"] == wanted
    assert frame.filter(pl.col("arm") == "base")["fate"].null_count() == len(COMBINATIONS)


def test_figures_of_a_run_that_can_be_counted_by_hand() -> None:
    base = rows("base", [True] * 40 + [False] * 10, [True] * 45 + [False] * 5)
    arm = rows("a", [True] * 20 + [False] * 30, [True] * 40 + [False] * 10)
    found = diagnose(pl.concat([base, arm]))
    value = {m: find(found.figures, "a", m, "english") for m in (
        "accuracy/open", "drop/open", "normalized_drop/open", "normalized_drop/choice", "gap/choice",
        "dissociation/choice",
    )}  # fmt: skip
    assert value["accuracy/open"].value == pytest.approx(0.4)
    assert value["drop/open"].value == pytest.approx(0.4)
    assert value["normalized_drop/open"].value == pytest.approx(0.5)
    assert value["normalized_drop/choice"].value == pytest.approx(0.1 / 0.65)
    assert value["gap/choice"].value == pytest.approx(0.5 - 0.1 / 0.65)
    assert value["dissociation/choice"].value == pytest.approx(20 / 40)
    assert value["dissociation/choice"].n == 40
    fates = next(f for f in found.fates if (f.options, f.scope) == ("choice", POOLED))
    assert fates.counts == (20, 20, 0, 0)


def test_a_probe_that_was_not_asked_gives_no_figure() -> None:
    found = diagnose(pl.concat([rows("base", [True] * 20, [True] * 20), rows("a", [True] * 20, [True] * 20)]))
    assert {figure.measure.split("/")[1] for figure in found.figures} == {
        "open",
        "choice",
        "choice_minus_open",
    }
    assert not found.ranks
    assert not found.divergence


def test_an_arm_that_lacks_items_is_compared_on_what_it_has() -> None:
    base = rows("base", [True] * 40, [True] * 40)
    arm = rows("a", [False] * 20, [True] * 20)
    found = diagnose(pl.concat([base, arm]))
    assert find(found.figures, "a", "drop/open", POOLED).n == 20


def test_the_illusion_is_called_by_its_name_and_not_loss() -> None:
    # Figures of Gemma 3 270M at Wanda 0.5, enlarged until the intervals decide.
    controls = {"choice_no_question_correct": [True] * 250 + [False] * 750, "string_presence": [0.25] * 1000}
    base = rows("base", [True] * 400 + [False] * 600, [True] * 930 + [False] * 70, **controls)
    arm = rows("a", [True] * 120 + [False] * 880, [True] * 920 + [False] * 80, **controls)
    overall = next(v for v in judge(pl.concat([base, arm])) if v.scope == "overall")
    assert overall.decision.outcome == "illusion"
    assert "280 are still recognised but no longer answered" in overall.words.text
    assert (
        "Of the answers that are only picked, 130 of 280 are picked without the question, too."
        in overall.words.text
    )


def test_what_is_picked_without_the_question_is_not_recognised() -> None:
    """Base needs the question, and the arm doesn't in most of what it only picks; or nobody asked."""
    opened, chosen = [True] * 400 + [False] * 600, [True] * 930 + [False] * 70
    asked = {"choice_no_question_correct": [True] * 250 + [False] * 750, "string_presence": [0.25] * 1000}
    base = rows("base", opened, chosen, **asked)
    blind = asked | {"choice_no_question_correct": [True] * 700 + [False] * 300}
    arm = rows("a", [True] * 120 + [False] * 880, chosen, **blind)
    verdict = next(v for v in judge(pl.concat([base, arm])) if v.scope == "overall")
    assert (verdict.word, verdict.evidence.recognised) == ("picked", False)
    assert (
        "280 of 280 are picked without the question, too, so most of these picks don't need"
        in verdict.words.text
    )
    assert "recognised but" not in verdict.words.text
    untried = [
        rows(name, opened if name == "base" else [True] * 120 + [False] * 880, chosen)
        for name in ("base", "a")
    ]
    verdict = next(v for v in judge(pl.concat(untried)) if v.scope == "overall")
    assert verdict.word == "picked"
    assert "standard options were not tried without the question" in verdict.why


def test_outputs_without_content_are_called_broken() -> None:
    base = rows("base", [True] * 40, [True] * 40, open_degenerate=[False] * 40)
    arm = rows("a", [False] * 40, [False] * 40, open_degenerate=[True] * 40)
    assert {v.decision.outcome for v in judge(pl.concat([base, arm]))} == {"broken"}
    sick = arm.with_columns(finite=False, open_correct=None, choice_correct=None, open_degenerate=None).cast(
        pl.Schema(SCHEMA)
    )
    assert {v.decision.outcome for v in judge(pl.concat([base, sick]))} == {"broken"}


def test_base_against_itself_is_intact() -> None:
    scores = [[-1.0, -2.0]] * 40
    base = rows("base", [True] * 30 + [False] * 10, [True] * 40, choice_scores=scores)
    same = base.with_columns(arm=pl.lit("a"))
    assert {v.decision.outcome for v in judge(pl.concat([base, same]))} == {"intact"}
    # One probability that differs, and forty items can no longer rule out a drop.
    other = base.with_columns(arm=pl.lit("a"), choice_scores=pl.Series([[-1.5, -2.0], *scores[1:]]))
    other = other.with_columns(gold_log_prob=pl.lit(-1.0))
    first = base.with_columns(gold_log_prob=pl.lit(-1.0))
    assert {v.decision.outcome for v in judge(pl.concat([first, other]))} == {"inconclusive"}


def test_each_arm_is_ranked_in_its_own_vocabulary() -> None:
    def asked(arm: str, *ranks: int) -> pl.DataFrame:
        places = {f"{place}_{part}": value for place in PLACES for part, value in
                  (("rank", list(ranks)), ("rank_ties", [0] * len(ranks)), ("margin", [0.0] * len(ranks)))}  # fmt: skip
        return rows(arm, [True] * len(ranks), [True] * len(ranks), **places)

    records = pl.concat(
        [asked("base", 10, 20), asked("like it", 30, 50), asked("larger", 30, 150), asked("unsaid", 30, 150)]
    )
    found = diagnose(records, vocabulary=100, vocabularies={"larger": 200})
    shares = {
        (row.arm, row.when): row.vocabulary_share
        for row in found.ranks
        if (row.place, row.group, row.scope) == ("gold", "all", POOLED)
    }
    assert shares == {
        ("like it", "before"): 0.15, ("like it", "after"): 0.4,
        ("larger", "before"): 0.15, ("larger", "after"): 0.45,
        ("unsaid", "before"): 0.15, ("unsaid", "after"): None,
    }  # fmt: skip
