"""From a run to what is located: its two models as one pair, and the demoted and kept items as the run asked them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import polars as pl

from anomia.arms import find_arm
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Null
from anomia.errors import ModelError, RunError
from anomia.locate.cases import (
    AnswerPosition,
    Candidate,
    FreeAnswers,
    Group,
    Half,
    LocatedItem,
    choose,
    find_margins,
    first_asks,
    halves,
)
from anomia.locate.located import AMONG, Among, LocateOptions
from anomia.locate.pairs import ModelPair
from anomia.locate.positions import Key, find_positions
from anomia.locate.restore import MixtureReader
from anomia.locate.words import WORDS
from anomia.measure.fates import FATES, Fate
from anomia.measure.frame import pair as paired
from anomia.measure.passages import passage_numbers
from anomia.measure.recognition import fate_index
from anomia.probe.ask import Ask, Reply
from anomia.probe.select import ChosenEngine
from anomia.probes import CONTINUATION
from anomia.run_folder import RunFolder, runs_of
from anomia.running.alike import check_base, check_like_base
from anomia.running.answerer import LocalModel
from anomia.running.cells import OpenCell, open_cell, turns_of
from anomia.running.model import make_arm, make_base
from anomia.running.progress import Progress
from anomia.running.shard import decoding, encode_shard
from anomia.study import BASE, read_study
from anomia.words import counted

PROBES_OF: Mapping[Among, tuple[str, ...]] = {
    "choice_only": ("open", "choice", "rank"),
    "lost": ("open", "rank"),
    "positions": (CONTINUATION,),
}
"""The probes that a run must have asked, by what is located."""
_GROUP_OF: Mapping[Fate, Group] = {"choice_only": "demoted", "kept": "kept"}


@dataclass(frozen=True, slots=True)
class Subjects:
    """The items and the models of an arm, ready to be mixed.

    lacking: chosen items without a margin, which are left out. answered: by case, whether base and the compressed model
    answered it in the run.
    """

    arm: str
    pair: ModelPair
    reader: MixtureReader
    cases: tuple[LocatedItem, ...]
    lacking: int


def open_arm(run: Path, arm: str, progress: Progress, among: Among) -> tuple[OpenCell, str]:
    """The cell of a run, and the full name of one of its arms.

    Raises:
        RunError: the run or the arm can't be located: see the message.
    """
    runs = runs_of(run)
    if len(runs) > 1:
        raise RunError(f"locate: {run} holds {len(runs)} runs; name one: {', '.join(map(str, runs))}")
    folder = RunFolder(runs[0])
    folder.check_is_run()
    study = read_study(folder.study_file, {})
    cell = open_cell("", study, folder.path, progress).opened()
    assert cell is not None
    names = [each.name for each in cell.arms if each.name != BASE]
    name = find_arm(arm, names, where=f"locate: {run}")
    lacking = sorted(set(PROBES_OF[among]) - set(study.probes))
    if lacking:
        others = [name for name in AMONG if set(PROBES_OF[name]) <= set(study.probes)]
        either = "".join(f", or take --among {name}" for name in others[:1])
        raise RunError(
            f"locate: {run} doesn't ask {' and '.join(lacking)}, which --among {among} needs; run it with "
            f"{'this probe' if len(lacking) == 1 else 'these probes'}{either}"
        )
    if cell.pending(BASE) or cell.pending(name):
        raise RunError(f"locate: {name} of {run} is not measured to the end; finish its `anomia run` first")
    if isinstance(parse_arm(name).steps[0], Null):
        raise RunError(
            f"locate: {name} is base under another dtype or batch size; there is no damage in its weights"
        )
    return cell, name


def pairs_of(cell: OpenCell, arm: str) -> pl.DataFrame:
    """Base's records with those of an arm, item by item; `passage` is a number."""
    records = cell.run.folder.records()
    records = records.with_columns(passage=passage_numbers(records))
    return paired(records.filter(records["arm"].is_in([BASE, arm])), arm)


def candidates_of(cell: OpenCell, arm: str, model: LocalModel, options: LocateOptions) -> list[Candidate]:
    """The demoted and the kept items of an arm, encoded as the run asked them.

    Raises:
        RunError: the arm was not asked like base.
    """
    pairs = pairs_of(cell, arm)
    passages = dict(zip(_keys(pairs), pairs["passage"], strict=True))
    wanted: Mapping[Key, Sequence[tuple[Group, AnswerPosition | None]]]
    if options.among == "positions":
        wanted = find_positions(pairs, per_answer=options.per_answer, seed=options.seed)
    else:
        groups = zip(_keys(pairs), groups_of(pairs, options.among), strict=True)
        wanted = {key: [(group, None)] for key, group in groups if group is not None}
    found = []
    for shard in cell.shards(arm):
        encoded = encode_shard(cell, shard, model)
        check_like_base(cell.run, shard, encoded)
        for each in encoded:
            key = (shard.language, each.item.question.id)
            for group, position in wanted.get(key, ()):
                if each.long is not None if position is not None else "open" in each.ask.greedy:
                    found.append(Candidate(each, shard.language, int(passages[key]), group, position))
    return found


def _keys(pairs: pl.DataFrame) -> list[Key]:
    return list(pairs.select("language", "item_id").iter_rows())


def groups_of(pairs: pl.DataFrame, among: Among) -> list[Group | None]:
    """The group of each question, by whether base and the arm answer it; None for those that aren't looked at."""
    if among == "choice_only":
        return [_GROUP_OF.get(FATES[n]) if n >= 0 else None for n in fate_index(pairs)]
    verdicts = (pairs[name].fill_null(False) for name in ("open_correct", "open_correct_arm"))
    return [
        ("kept" if after else "demoted") if before else None for before, after in zip(*verdicts, strict=True)
    ]


def prepare(
    cell: OpenCell, arm: str, progress: Progress, options: LocateOptions, folder: Path | None
) -> Subjects:
    """Loads both models as the run does, chooses the items, and finds their margins.

    Raises:
        AnomiaError: a model has changed since the run, they can't be aligned, or there are too few demoted items.
    """
    (parsed,) = (each for each in cell.arms if each.name == arm)
    turns = turns_of(parsed, [cell])
    if len(turns) != 1:
        raise RunError(
            f"locate: {arm} is another model for each language (calibration=own); run it with one calibration text"
        )
    base = make_base([cell], progress)
    check_base(cell.run, base.loaded)
    made = make_arm(turns[0], progress)
    if not isinstance(made, LocalModel):
        raise ModelError(f"locate: {arm} is behind a server; its weights can't be read")
    if not made.asked.alike:
        raise ModelError(
            f"locate: {arm} is not asked like base ({made.asked.why}), so their answers can't be mixed"
        )
    words = WORDS[options.among]
    chosen = choose(candidates_of(cell, arm, made, options), options.items, options.seed, words)
    settings = replace(
        decoding(cell.study), eos_token_ids=tuple(cell.run.provenance["eos_token_ids"]), top_tokens=2
    )
    size = int(cell.run.provenance["batch_size"])
    asks = [first_asks(each) for each in chosen]
    # A position of a long answer has no free answer.
    opened = [[replace(ask, distribution=None) for ask in mine if ask.greedy] for mine in asks]
    progress.stage(f"what base and {arm} say", len(asks) + sum(map(len, opened)))
    said = _ask(made.engine, made.loaded.model, asks, settings, size, progress)
    before = _ask(base.engine, base.loaded.model, opened, settings, size, progress)
    cases = []
    for each, half, replies, mine in zip(chosen, halves(chosen, options.seed), said, before, strict=True):
        ends = settings.eos_token_ids[:1]
        free = [*mine, replies[0]] if mine else [Reply(""), Reply("")]
        answers = FreeAnswers(*(_ended(reply, ends, settings.max_new_tokens) for reply in free))
        margins = find_margins(each, replies, answers) if all(reply.finite for reply in replies) else None
        if margins is not None:
            cases.append(LocatedItem(each, half, *margins))
    for half in get_args(Half):
        passages = {
            case.candidate.passage
            for case in cases
            if case.half == half and case.candidate.group == "demoted"
        }
        if len(passages) < 2:
            raise RunError(
                f"locate: the half of the {words.many} that is to {half} has {words.demoted} on "
                f"{counted(len(passages), words.passage)}, and needs 2: {len(chosen) - len(cases)} of "
                f"{len(chosen)} {words.many} are excluded ({words.excluded}, or logits aren't finite)"
            )
    pair = ModelPair(base.loaded.model, made.loaded.model, _longest(cases, settings.max_new_tokens))
    reader = MixtureReader(pair, made.engine, made.tokenizer, settings, size, folder)
    return Subjects(arm, pair, reader, tuple(cases), len(chosen) - len(cases))


def _longest(cases: Sequence[LocatedItem], more: int) -> list[int]:
    """The longest text that the cases ask, and as many tokens as an answer may have, from its own beginning."""
    texts: list[Sequence[int]] = [
        text
        for case in cases
        for text in (*case.ask.greedy.values(), *(target.prefix for target in case.ask.targets.values()))
    ]
    longest = max(texts, key=len)
    return [*longest, *longest[:more]]


def _ask(
    engine: ChosenEngine,
    model: Any,
    asks: Sequence[Sequence[Ask]],
    settings: Any,
    batch_size: int,
    progress: Progress,
) -> list[list[Reply]]:
    """The replies to the asks of each item; asks of like length share a batch."""
    flat = [(n, place, ask) for n, mine in enumerate(asks) for place, ask in enumerate(mine)]
    flat.sort(
        key=lambda entry: (
            not entry[2].greedy,
            max(map(len, (*entry[2].greedy.values(), entry[2].distribution or ()))),
        )
    )
    found: list[list[Reply]] = [[None] * len(mine) for mine in asks]  # type: ignore[list-item]
    replies = engine.answer(model, [ask for *_, ask in flat], settings, batch_size=batch_size)
    for (n, place, _), reply in zip(flat, replies, strict=True):
        found[n][place] = reply
        if place == 0:
            progress.advance()
    return found


def _ended(reply: Reply, ends: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """An answer's tokens, with an end token if it ended before the limit."""
    tokens = tuple(reply.greedy.get("open", ()))
    return tokens if len(tokens) >= limit else tokens + ends
