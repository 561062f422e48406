"""A model's own greedy answers, as calibration text in the form in which it will be asked."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from anomia.compress.answers import AnswerTokens, answer_row, is_answer, is_control, is_of_answers
from anomia.compress.overlap import build_sieve
from anomia.compress.sources import PASSAGES_A_LANGUAGE
from anomia.compress.steps import Arm
from anomia.errors import DataError
from anomia.files import is_local, write_text
from anomia.items import Item, ItemSet, read_questions
from anomia.items.sets import only_probes
from anomia.models.fingerprint import fingerprint_token_ids, fingerprint_weights
from anomia.probe.ask import Decoding
from anomia.probe.encode import EncodedItem
from anomia.probes import STANDARD
from anomia.running.answerer import LocalModel
from anomia.running.apart import texts_in
from anomia.running.begin import batch_size_of
from anomia.running.cells import where_read
from anomia.running.compress import sources_of
from anomia.running.progress import Progress
from anomia.running.shard import decoding, encode
from anomia.study import Study, read_study
from anomia.words import counted

OPEN = "open"
OTHER_PROMPTS = "give more prompts, or prompts whose answers differ"
"""The remedy where control answers don't exist."""


class WrittenAnswers(NamedTuple):
    """What was written. rows: one per prompt, in the order of the file. removed: prompts that share text with others.

    empty: prompts that the model answers with nothing. not_finite: those whose logits are NaN or infinite.
    """

    rows: Sequence[Mapping[str, Any]]
    removed: int
    empty: int
    not_finite: int

    @property
    def tokens(self) -> int:
        """The number of tokens, of prompts and answers."""
        return sum(len(row["token_ids"]) for row in self.rows)


def study_of_answers(settings: Mapping[str, Any]) -> Study:
    """The study whose prompts are answered: of all probes, only the answer itself is asked.

    settings: base and how it is asked, by the names of a study's fields.

    Raises:
        StudyError: a setting is wrong.
    """
    only = only_probes(str(settings.get("data", "")))
    # A study has at least one arm; this one is never measured.
    return read_study(
        None, {"arms": ["null:int8"], "run_code": True, "probes": list(only or (OPEN,)), **settings}
    )


def study_for(study: Study, source: str) -> Study:
    """The study of the calibration source `answers` or `answers:DATA`: other prompts, asked as a study asks its own.

    Control answers are to the same prompts, so that both sources need base's answers only once.

    Raises:
        StudyError: the data can't be asked in this way.
    """
    data = source.partition(":")[2]
    settings = study.model_dump(exclude={"arms", "probes", "languages", "limit", "prompts", "grader", "stop"})
    if data and data != study.data:
        settings |= {"data": data}
    else:
        settings |= {"languages": study.languages, "prompts": study.prompts}
    given = {name: value for name, value in settings.items() if value is not None}
    return study_of_answers({**given, "limit": study.calibration_samples or PASSAGES_A_LANGUAGE})


def check_answers(study: Study, arms: Sequence[Arm], avoid: Collection[str]) -> None:
    """Reads the prompts that base will have to answer for calibration, before spending hours on base.

    avoid: the passages that are measured.

    Raises:
        AnomiaError: they can't be read.
    """
    for source in sources_of((step for arm in arms for step in arm.steps), study):
        if is_of_answers(source):
            sets, _ = prompts_of(study_for(study, source), avoid)
            if is_control(source):
                check_several(sets)


def check_several(sets: Iterable[ItemSet]) -> None:
    """Refuse control answers, before base is asked, where a prompt is its language's only one.

    Raises:
        DataError: the message names the language.
    """
    for items in sets:
        if len(items.items) < 2:
            raise DataError(
                f"control answers: {items.language} has a single prompt, so there is no other answer that it could be "
                f"given; {OTHER_PROMPTS}"
            )


def answers_in(
    place: Callable[[str], Path],
    asked: Study,
    base: LocalModel,
    *,
    avoid: Collection[str] = (),
    progress: Progress,
) -> Path:
    """The file with base's answers to a study's prompts; written if it isn't there yet.

    place: the file for a key, which depends on everything that the answers depend on. avoid: the passages that are
    measured.
    """
    parts = (asked.model_dump_json(), fingerprint_weights(base.loaded.model), sorted(set(avoid)))
    out = place(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16])
    if not out.exists():
        found = write_answers(asked, out, base, progress=progress, avoid=avoid)
        progress.say(
            f"{asked.base} answered {counted(len(found.rows), 'prompt')} for calibration"
            + (", none of which is measured" if avoid else "")
            + f" ({counted(found.tokens, 'token')})"
        )
    return out


def write_answers(
    study: Study,
    out: Path,
    base: LocalModel,
    *,
    progress: Progress,
    avoid: Collection[str] = (),
) -> WrittenAnswers:
    """Has base answer a study's prompts greedily, and writes prompts and answers as calibration text (JSON lines).

    The rows take turns by language, so that any first part of the file has all of them. An interrupted call is
    continued: each batch is added to a file beside `out`.

    Args:
        study: the prompts: its base, data, languages, limit per language, and how they are asked.
        out: the file to write; replaced only when everything is answered.
        base: base and its engine.
        progress: receives progress and messages.
        avoid: passages, such as those of questions that will be measured; prompts that share text with one are
            replaced by the next ones, by the rule of `overlap`.

    Raises:
        DataError: no prompt is left, or none is answered.
    """
    sets, removed = prompts_of(study, avoid)
    encoded = [
        encode(study, item, items, base.tokenizer, positions=base.positions, oracle=False)
        for item, items in _by_turns(sets)
    ]
    settings, size = decoding(study), batch_size_of(study, sets, base)
    key = _key(base, settings, size)
    part = out.with_name(f".{out.name}.unfinished")
    done = _read_unfinished(part, key, encoded)
    progress.stage(f"{study.base} answers {counted(len(encoded), 'prompt')}", len(encoded))
    if is_local(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    # Items of similar length share a batch; in half precision it matters which, also when an earlier call is continued.
    order = sorted(encoded, key=lambda each: (each.prompt_tokens, _place(each)))
    # An address such as s3://bucket/run has no files that grow.
    with part.open("a", encoding="utf-8") if is_local(part) else io.StringIO() as file:
        for batch in (order[first : first + size] for first in range(0, len(order), size)):
            if not all(_place(each) in done for each in batch):
                answered = list(_answered(batch, settings, base, progress))
                done |= answered
                rows = [json.dumps({"key": key, **row}, ensure_ascii=False) for _, row in answered]
                file.write("".join(f"{row}\n" for row in rows))
                file.flush()
            for _ in batch:
                progress.advance()
    ordered = [done[_place(each)] for each in encoded]
    found = [row for row in ordered if is_answer(row)]
    broken = sum(bool(row.get("not_finite")) for row in ordered)
    if not found:
        raise DataError(
            f"answers: {study.base} answers none of {counted(len(ordered), 'prompt')}"
            + (
                f"; its logits are NaN or infinite for {broken}, try another --dtype"
                if broken
                else "; give other prompts"
            )
        )
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    part.unlink(missing_ok=True)
    return WrittenAnswers(found, removed, len(ordered) - len(found) - broken, broken)


def prompts_of(study: Study, avoid: Collection[str]) -> tuple[list[ItemSet], int]:
    """A study's questions by language, in the order in which it draws them, and how many were left out before them.

    Questions that share text with a passage of `avoid`, or with what the study's `not_in` names, are replaced by the
    next ones, up to the study's limit.
    """
    sieve = build_sieve([*avoid, *texts_in(study.not_in)])
    sets, removed = [], 0
    for language, questions in read_questions(where_read(study), study.languages).items():
        shuffled = list(questions)
        random.Random(study.seed).shuffle(shuffled)
        chosen: list[Item] = []
        for question in shuffled:
            if len(chosen) == study.limit:
                break
            if sieve.catches(question.context or question.question):
                removed += 1
            else:
                # Encoding finds where an answer starts from the options; nothing else is asked about them here.
                chosen.append(Item(question, {} if question.as_is else {STANDARD: (question.gold,)}))
        sets.append(ItemSet(study.data, language, tuple(chosen), None))
    if not any(items.items for items in sets):
        raise DataError(
            f"answers: {study.data} has no prompts"
            + (f"; all {removed} share text with the questions to be measured" if removed else "")
            + "; give other data"
        )
    return [items for items in sets if items.items], removed


def _by_turns(sets: Sequence[ItemSet]) -> Iterator[tuple[Item, ItemSet]]:
    for turn in zip_longest(*(items.items for items in sets)):
        for item, items in zip(turn, sets, strict=True):
            if item is not None:
                yield item, items


def _place(encoded: EncodedItem) -> tuple[str, str]:
    """The language and id of an item; translations of a question may share its id."""
    return encoded.item.question.language, encoded.item.question.id


def _answered(
    batch: Sequence[EncodedItem], settings: Decoding, base: LocalModel, progress: Progress
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """The row of each item of a batch, by its place; without tokens if there is no answer."""
    meaning = fingerprint_token_ids(base.tokenizer)
    ends = base.loaded.eos_token_ids
    answers = base.answer(batch, settings, batch_size=len(batch), on_tokens=progress.tokens)
    for each, (reply, decoded) in zip(batch, answers, strict=True):
        ((probe, prompt),) = each.asked.greedy.items()
        answer = reply.greedy.get(probe, ())
        language, name = _place(each)
        if not reply.finite or not answer:
            yield _place(each), {"id": name, "language": language, "not_finite": not reply.finite}
            continue
        limit = settings.max_new_tokens if each.long is None else each.long.limit
        # Which of several end tokens ended an answer isn't known.
        end = ends if len(answer) < limit and len(ends) == 1 else ()
        tokens = AnswerTokens((*prompt, *answer, *end), len(prompt), meaning)
        written = decoded.greedy[probe].text
        yield _place(each), answer_row(name, language, each.rendered[OPEN] + written, written, tokens)


def _key(base: LocalModel, settings: Decoding, size: int) -> str:
    """A hash of all that answers depend on besides their prompts."""
    parts = (fingerprint_weights(base.loaded.model), repr(settings), size, base.engine.name)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _read_unfinished(
    part: Path, key: str, encoded: Sequence[EncodedItem]
) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of an interrupted call whose model, settings and prompts were the same, by language and id."""
    if not part.is_file():
        return {}
    prompts = {_place(each): tuple(*each.asked.greedy.values()) for each in encoded}
    found = {}
    for line in part.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            # The line that an interruption cut off.
            continue
        place = (row["language"], row["id"])
        if row.pop("key") != key or place not in prompts:
            continue
        if not is_answer(row) or tuple(row["token_ids"][: row["answer_start"]]) == prompts[place]:
            found[place] = row
    return found
