"""What locating will need, said before any model is loaded; of two models, before they are measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import NamedTuple

import torch

from anomia.errors import ModelError
from anomia.locate.attribution import BATCH_TOKENS
from anomia.locate.curves import GOAL
from anomia.locate.leading import LEADING
from anomia.locate.located import Among, LocateOptions
from anomia.locate.positions import find_positions
from anomia.locate.prepare import groups_of, pairs_of
from anomia.matrix import Matrix, StudyCell
from anomia.models.load import DTYPES, load_tokenizer, resolve_device
from anomia.models.sizes import Sizes, number, sizes_of
from anomia.plan.cost import forecast, on_machine
from anomia.plan.machines import MACHINES
from anomia.plan.stand_ins import config_of
from anomia.probe.memory import BESIDE, SPARE, free_bytes
from anomia.probes import CONTINUATION
from anomia.running.cells import OpenCell
from anomia.study import Study
from anomia.words import counted


class LocatePlan(NamedTuple):
    """Memory and work of locating one arm.

    needed, free: bytes. readings: about how many mixtures of the two models are asked. answers: the most questions
    answered, or tokens read, in total. minutes: an estimate from the run's own pace; None if the run's log doesn't
    tell.
    """

    needed: int
    free: int
    readings: int
    answers: int
    minutes: float | None
    among: Among

    @property
    def words(self) -> str:
        """The plan in one line."""
        # Reading a token needs no steps of its own, unlike the answers by which the pace is known.
        what, about = ("token", "at most") if self.among == "positions" else ("answer", "about")
        time = "" if self.minutes is None else f", {about} {_time(self.minutes)} at the run's pace"
        return (
            f"locating needs up to {self.needed / 1e9:.1f} GB of memory ({self.free / 1e9:.1f} GB are free) and asks "
            f"{_mixtures(self.readings)}, {counted(self.answers, what)} at most{time}"
        )


class Forecast(NamedTuple):
    """What locating two models will need at most, before anything is measured.

    needed, free: bytes. readings: about how many mixtures of the two models are asked. minutes: with measuring, on the
    machine named.
    """

    needed: int
    free: int
    readings: int
    minutes: float
    machine: str

    @property
    def words(self) -> str:
        """The forecast in one line."""
        return (
            f"measuring both models and then locating needs up to {self.needed / 1e9:.1f} GB of memory "
            f"({self.free / 1e9:.1f} GB are free), asks {_mixtures(self.readings)}, and takes at most "
            f"{_time(self.minutes)} on {self.machine}; a closer estimate follows when both are measured"
        )


def forecast_of(study: Study, arm: str, options: LocateOptions) -> Forecast:
    """What measuring and locating two models will need, from base's configuration and the questions alone.

    Raises:
        ModelError: the two models don't fit into memory, or base's configuration can't be read.
    """
    (cell,) = forecast(Matrix((StudyCell("", study),), single=True))
    config = config_of(study, study.base).get_text_config()
    device = torch.device(resolve_device("auto" if study.device == "map" else study.device))
    item, sizes = DTYPES[cell.size.dtype].itemsize, sizes_of(config)
    needed = _needed(cell.size.parameters, sizes, number(config, "vocab_size") or 1, item, BATCH_TOKENS)
    free = _check_fits(needed, arm, device)
    machine = MACHINES["cpu" if device.type == "cpu" else "H100"]
    # The forecast's own memory doesn't matter here: only the time is read of it.
    seconds = on_machine(cell, replace(machine, memory=math.inf)).seconds or 0.0
    readings, passes = _readings(options, sizes.layers)
    items = min(options.items, cell.items)
    per_answer = seconds / max(1, len(cell.work) * cell.items)
    minutes = (seconds + per_answer * items * (readings + passes)) / 60
    return Forecast(needed, free, readings, minutes, machine.name)


def plan_of(cell: OpenCell, arm: str, options: LocateOptions) -> LocatePlan:
    """What locating an arm will need.

    Raises:
        ModelError: the two models don't fit into memory; the message says how much they would need.
    """
    study, provenance = cell.study, cell.run.provenance
    _, config = load_tokenizer(study.base, revision=study.revision, trust_remote_code=study.trust_remote_code)
    sizes = sizes_of(config.get_text_config())
    item = DTYPES[str(provenance["dtype"])].itemsize
    work = _work(cell, arm, options)
    needed = _needed(
        int(provenance["parameters"]), sizes, int(provenance["vocabulary"]), item,
        max(BATCH_TOKENS, work.longest),
    )  # fmt: skip
    free = _check_fits(
        needed, arm, torch.device(resolve_device("auto" if study.device == "map" else study.device))
    )
    readings, passes = _readings(options, sizes.layers)
    answers = readings * work.items
    pace = _seconds_per_answer(cell, arm)
    asked = (answers + work.items * passes) * work.share
    minutes = None if pace is None else pace * asked / 60
    return LocatePlan(needed, free, readings, answers, minutes, options.among)


def _needed(parameters: int, sizes: Sizes, vocabulary: int, item: int, tokens: int) -> int:
    """Bytes for base, the compressed model and a copy of its weights, with gradients of a batch. item: of a weight."""
    return 3 * parameters * item + BESIDE + _activations(sizes, vocabulary, item, tokens)


def _check_fits(needed: int, arm: str, device: torch.device) -> int:
    """The bytes that are free on a device.

    Raises:
        ModelError: more are needed.
    """
    free = free_bytes(device)
    if needed > SPARE * free:
        raise ModelError(
            f"locate: base, {arm} and a copy of its weights need {needed / 1e9:.1f} GB with gradients, and "
            f"{free / 1e9:.1f} GB are free on {device}, of which {SPARE:.0%} may be used; take a machine with more "
            "memory"
        )
    return free


def _readings(options: LocateOptions, layers: int) -> tuple[int, float]:
    """About how many mixtures are asked, and what else is done per item, in answers.

    Each order takes the given budgets and the first unit of both leading orders; more sets that single units decide are
    few or repeat others. A pass with gradients at each point, for gold and for control, of half of the items, costs
    about five answers. What the ordering items decide is asked of the demoted half of them alone.
    """
    readings = 3 + (3 + options.draws) * (len(options.budgets) + len(LEADING)) + 2 * layers + options.leaders
    tried = len(LEADING) * sum(budget <= GOAL for budget in options.budgets) + 2 * options.leaders
    return readings, 5 * options.points + tried / 2


def _mixtures(readings: int) -> str:
    return f"about {counted(readings, 'mixture')} of the two models"


class _Work(NamedTuple):
    """What is asked of each mixture.

    items: questions or positions, at most. share: of one, as a part of what the run asked of an item. longest: the
    longest sequence in tokens; 0 for questions, whose length is that of the run's.
    """

    items: int
    share: float = 1.0
    longest: int = 0


def _work(cell: OpenCell, arm: str, options: LocateOptions) -> _Work:
    pairs = pairs_of(cell, arm)
    if options.among != "positions":
        demoted, kept = (groups_of(pairs, options.among).count(name) for name in ("demoted", "kept"))
        chosen = min(options.items, demoted)
        return _Work((chosen + min(chosen, kept) + 1) // 2)
    prompts = dict(zip(pairs.select("language", "item_id").iter_rows(), pairs["prompt_tokens"], strict=True))
    found = find_positions(pairs, per_answer=options.per_answer, seed=options.seed)
    lengths = [
        prompts[key] + len(position.before)
        for key, mine in found.items()
        for group, position in mine
        if group == "demoted"
    ]
    # Each item was answered once by steps, and once forced along base's answer.
    ran = (pairs["prompt_tokens"] + 2 * pairs[f"{CONTINUATION}_ids"].list.len()).mean()
    share = sum(lengths) / len(lengths) / float(ran) if lengths and ran else 0.0  # type: ignore[arg-type]
    return _Work(min(options.items, len(lengths)), share, max(lengths, default=0))


def _activations(sizes: Sizes, vocabulary: int, item: int, tokens: int) -> int:
    """Bytes that a batch with gradients keeps: every layer's inputs and outputs, and the logits of its last tokens.

    Measured on Gemma 3 270M, at batches of 2,048 tokens: 3.2 GB in float32, 2.3 to 2.6 GB in bfloat16, where norms keep
    their input in float32.
    """
    width = 12 * sizes.width + 6 * sizes.inner + 6 * sizes.heads * sizes.head
    norms = 0 if item >= 4 else 8 * sizes.width * 4
    return tokens * sizes.layers * (width * item + norms) + 64 * vocabulary * (item + 4)


def _seconds_per_answer(cell: OpenCell, arm: str) -> float | None:
    """The time that the run took for one item of an arm with all its probes, from its log."""
    file = cell.run.folder.log_file
    seconds, items = 0.0, 0
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "shard" and event.get("arm") == arm:
            seconds += float(event["seconds"])
            items += int(event["last"]) - int(event["first"])
    return seconds / items if items else None


def _time(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
