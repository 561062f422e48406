"""What a verdict rests on, gathered for each language and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.bootstrap import DRAWS, resample
from anomia.measure.contrasts import Answers
from anomia.measure.drops import QUARTER
from anomia.measure.fates import FATES, count_fates, fates
from anomia.measure.paired import paired_difference
from anomia.measure.quantities import Everywhere, Quantity, everywhere_all, gap_quantity, normalized, restrict
from anomia.measure.rates import Estimate, cluster, rate, right_or_wrong
from anomia.measure.verdict import Evidence

Mask = NDArray[np.bool_]

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Case:
    """The answers of base and one arm to the same items, and what else is known of them: [items] each.

    languages, passages: of each item. floor: what guessing gets in choice, one number or one an item.
    near: gold − foil or 0 shot − 1 shot, as quantities of these items (`contrasts.rank_nearness`,
    `contrasts.one_shot_recovery`, `reach.recovery_over_foil`).
    base_broken, arm_broken: outputs that are not a number, empty or degenerate (`grade.is_degenerate`).
    identical: every recorded probability of the arm equals base's.
    """

    answers: Answers
    languages: Sequence[str]
    passages: ArrayLike | None = None
    floor: ArrayLike = QUARTER
    near: Mapping[str, Quantity] = field(default_factory=dict)
    base_broken: ArrayLike | None = None
    arm_broken: ArrayLike | None = None
    identical: bool = False


def gather(case: Case, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95) -> dict[str, Evidence]:
    """Evidence by language, in the order of their names, and last under `OVERALL`.

    Overall is over the pooled items of the languages in which base is strong enough for both drops; the
    others are named in its `left_out`.
    """
    labels = np.asarray(case.languages, dtype=np.str_)
    if len({column.shape for column in map(np.asarray, case.answers)} | {labels.shape}) != 1:
        raise DataError("a verdict needs the same items in base and arm: join the records by item")
    everything = np.ones(len(labels), dtype=bool)
    by_measure = _measure(case, labels, everything, draws, seed, level)
    found: dict[str, Evidence] = {}
    left_out = []
    for name in np.unique(labels):
        places = {measure: where.by_language[str(name)] for measure, where in by_measure.items()}
        found[str(name)] = _evidence(case, labels == name, places, level)
        if places["gap"] is None:
            left_out.append(str(name))
    usable = ~np.isin(labels, left_out)
    if not usable.any():
        usable = everything
    elif left_out:
        by_measure = _measure(case, labels, usable, draws, seed, level)
    pooled = {measure: where.pooled for measure, where in by_measure.items()}
    found[OVERALL] = _evidence(case, usable, pooled, level, tuple(left_out))
    return found


def _measure(
    case: Case, labels: NDArray[np.str_], mask: Mask, draws: int, seed: int, level: float
) -> dict[str, Everywhere]:
    columns = Answers(*(right_or_wrong(column)[mask] for column in case.answers))
    passages = cluster(case.passages, len(labels)).index[mask]
    floor = np.broadcast_to(np.asarray(case.floor, dtype=np.float64), mask.shape)[mask]
    quantities = {
        "open": normalized(columns.base_open, columns.arm_open, passages, floor=0.0),
        "choice": normalized(columns.base_choice, columns.arm_choice, passages, floor=floor),
        "gap": gap_quantity(*columns, passages, floor=floor),
    }
    quantities |= {f"near {name}": restrict(quantity, mask) for name, quantity in case.near.items()}
    return everywhere_all(quantities, resample(labels[mask], passages, draws=draws, seed=seed), level=level)


def _evidence(
    case: Case,
    mask: Mask,
    estimates: Mapping[str, Estimate | None],
    level: float,
    left_out: tuple[str, ...] = (),
) -> Evidence:
    base_open, arm_open, base_choice, arm_choice = (right_or_wrong(c)[mask] for c in case.answers)
    passages = cluster(case.passages, len(mask)).index[mask]
    index = fates(base_open, base_choice, arm_open, arm_choice)
    unsaid = np.isin(index, [FATES.index("choice_only"), FATES.index("lost")])
    broken = None
    if case.base_broken is not None and case.arm_broken is not None:
        before, after = (right_or_wrong(c)[mask] for c in (case.base_broken, case.arm_broken))
        broken = paired_difference(after, before, passages, level=level)
    near = {name.removeprefix("near "): e for name, e in estimates.items() if name.startswith("near ") and e}
    return Evidence(
        n=int(mask.sum()),
        base_open=float(base_open.mean()),
        arm_open=float(arm_open.mean()),
        base_choice=float(base_choice.mean()),
        arm_choice=float(arm_choice.mean()),
        open_drop=estimates["open"],
        choice_drop=estimates["choice"],
        gap=estimates["gap"],
        fates=count_fates(base_open, base_choice, arm_open, arm_choice),
        lost=rate(index[unsaid] == FATES.index("lost"), passages[unsaid], level=level),
        floor=float(np.broadcast_to(np.asarray(case.floor, dtype=np.float64), mask.shape)[mask].mean()),
        near=near,
        broken=broken,
        identical=case.identical,
        left_out=left_out,
    )
