"""The cost of a study, from model configurations alone: tokens, arithmetic, memory, time, money.

A few items of each language are encoded as in a run, with base's own tokenizer if it is on this machine, and laid out
as token trees. The arithmetic is that of docs/benchmarks.md: two operations per decoder weight and token, and two per
head weight and position read. Decode steps on GPUs are bound by reading the weights; both bounds are computed and the
larger one counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import torch
import transformers

from anomia.compress.answers import is_of_answers
from anomia.compress.sources import PASSAGES, PASSAGES_A_LANGUAGE
from anomia.compress.steps import Arm, bytes_beside, needs_calibration, passes_of
from anomia.errors import ModelError
from anomia.matrix import Matrix
from anomia.models.load import DTYPES, LoadedModel
from anomia.models.sizes import number, sizes_of
from anomia.plan.machines import Machine
from anomia.plan.stand_ins import config_of, item_sets_of, tokenizer_of
from anomia.probe.ask import Ask
from anomia.probe.continuation import LongQuestion, longest_ask
from anomia.probe.encode import EncodedItem
from anomia.probe.memory import BESIDE, LARGEST, LARGEST_ON_CPU, SPARE, MemoryNeed
from anomia.probe.precision import FLOAT32_SHARE, HALF
from anomia.probe.prefill import lay_out
from anomia.probes import CHOICE_OWN, CONTINUATION, NO_QUESTION_ENDING
from anomia.running.cells import CellRun, PlannedCell, models_of
from anomia.running.shard import decoding, encode, need_of
from anomia.study import BASE, Study

SAMPLED = 6
"""Items per language that are laid out."""
DISTINCT_LEAVES = 0.92
"""The share of requested leaves that are computed, because answers with the same tokens share leaves (measured)."""
PASSAGE_TOKENS = 600
"""Tokens of a calibration passage if the study's limit is larger: about the length in C4 and Wikipedia."""
DEMO_TOKENS = 6_000
"""Tokens of the shipped calibration text."""
TRIAL_TOKENS = 16_000
"""Tokens through base for the engine's self-test after loading."""
NOISE_SHARE = 0.35
"""The share of an item's work, without its long answer, that batch-size sensitivity asks again: open and choice
questions.
"""
RECORD_BYTES = 5_000
"""Bytes on disk per item and arm (measured: 3.1 to 4.6 kB)."""
READ_BYTES = 1e9
"""Bytes per second when loading weights."""
LOAD_SECONDS = 10.0
"""Additional seconds per model: building, fingerprint, checks; on two cores, with a share of the startup time."""
_CALIBRATION_SHARE = 1.25
"""Throughput of calibration relative to probing."""


class Work(NamedTuple):
    """An amount of work on one model.

    tokens: through the decoder. reads: positions through the output head. steps: sequential forward passes, which each
    read all weights, at batch size 1. calibration: calibration tokens through the decoder, over all passes. loads: how
    often the model is loaded.
    """

    items: int = 0
    tokens: float = 0.0
    reads: float = 0.0
    steps: float = 0.0
    calibration: float = 0.0
    loads: float = 0.0

    def plus(self, other: Work) -> Work:
        """The sum of both."""
        items, *amounts = (a + b for a, b in zip(self, other, strict=True))
        return Work(int(items), *amounts)


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Sizes counted on a model without weights.

    parameters, active, head: numbers of weights in total, used per token in the decoder, and in the output head.
    in_float32: the need if a run on a CPU may turn the stored half precision into float32; None if it doesn't.
    """

    name: str
    dtype: str
    parameters: int
    active: int
    head: int
    layers: int
    need: MemoryNeed
    in_float32: MemoryNeed | None = None
    blocks: int = 0

    def need_on(self, machine: Machine) -> MemoryNeed:
        """The memory need on a machine; on a CPU in float32, which a run prefers there, if the weights leave room."""
        return self.need if not self._turned(machine) or self.in_float32 is None else self.in_float32

    def peak_on(self, machine: Machine, batch: int, arms: Sequence[Arm] = ()) -> int:
        """Peak bytes on a machine, with what making the arms keeps beside a model that it loads whole.

        On a CPU, loading counts too: the stored weights next to float32 ones, and copies of the two largest tensors.
        """
        need = self.need_on(machine)
        item = need.weights // max(1, self.parameters)
        beside = max((bytes_beside(step, item) for arm in arms for step in arm.steps), default=0)
        making = need.weights + beside * self.blocks if beside else 0
        if not machine.cores:
            return max(need.total(batch), making)
        stored = self.need.weights if self._turned(machine) else 0
        loading = need.weights + stored + 2 * self.head * need.weights // max(1, self.parameters)
        return BESIDE + max(need.total(batch), loading, making)

    def _turned(self, machine: Machine) -> bool:
        exact = self.in_float32
        return machine.cores and exact is not None and exact.weights <= FLOAT32_SHARE * machine.memory

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return self.parameters * DTYPES[self.dtype].itemsize


class CellForecast(NamedTuple):
    """The forecast for one cell. work: by arm. exact: the tokenizer and the questions are the real ones. arms: what is
    made.
    """

    name: str
    size: ModelSize
    study: Study
    items: int
    work: dict[str, Work]
    exact: bool
    arms: tuple[Arm, ...] = ()

    @property
    def total(self) -> Work:
        """The work of all arms."""
        whole = Work()
        for work in self.work.values():
            whole = whole.plus(work)
        return whole

    @property
    def operations(self) -> float:
        """Floating-point operations (multiplications and additions) of all arms."""
        return _operations(self.total, self.size)

    @property
    def record_bytes(self) -> int:
        """Bytes of the records on disk."""
        return RECORD_BYTES * self.items * len(self.work)


class Stay(NamedTuple):
    """A cell on a machine. seconds: None if the batch doesn't fit into memory; `why` is the reason."""

    seconds: float | None
    batch: int
    need_bytes: int
    why: str = ""


def forecast(matrix: Matrix) -> list[CellForecast]:
    """Forecasts the work of each cell. An arm shared by several cells is made once and counted in the first.

    Raises:
        ModelError: a configuration can't be read.
        DataError: questions on this machine can't be used.
    """
    found, made, answered = [], set[tuple[str, str, str]](), set[tuple[Any, ...]]()
    for cell in matrix.cells:
        study = cell.study
        loaded = _without_weights(study)
        sets, counts, real = item_sets_of(study)
        run = CellRun(cell.name, study, Path(cell.name), sets, None)
        per_item, short, encoded = _per_item(run, loaded, counts)
        size = _measured(
            study, loaded, _need(study, loaded, encoded), _need_in_float32(study, loaded, encoded)
        )
        items = sum(counts.values())
        work = {}
        for arm in run.arms:
            work[arm.name] = per_item
            key = (study.base, repr(study.chat), arm.name)
            if key not in made:
                made.add(key)
                for languages in models_of(arm, [run]):
                    work[arm.name] = work[arm.name].plus(_making(study, arm, len(languages), answered))
            if arm.name == BASE and study.probes != (CONTINUATION,):
                noise = min(study.noise_items, items) * NOISE_SHARE / max(1, items)
                more = Work(0, noise * short.tokens, noise * short.reads, noise * short.steps)
                work[arm.name] = work[arm.name].plus(more)
        exact = real and tokenizer_of(study)[1]
        found.append(CellForecast(cell.name, size, study, items, work, exact, tuple(run.arms)))
    return found


def on_machine(cell: CellForecast, machine: Machine) -> Stay:
    """The time of a cell on a machine, in the study's batch size or the largest that fits (docs/engine.md, Memory)."""
    size, study = cell.size, cell.study
    need = size.need_on(machine)
    beside = BESIDE if machine.cores else 0
    room = (SPARE * machine.memory - beside - need.weights - need.fixed) / max(1, need.item)
    largest = LARGEST_ON_CPU if machine.cores else LARGEST
    batch = study.batch_size if study.batch_size != "auto" else int(min(largest, room))
    peak = size.peak_on(machine, max(batch, 1), cell.arms)
    if batch < 1 or peak > machine.memory:
        return Stay(None, max(batch, 1), peak, "does not fit into its memory")
    rate, work = machine.rate(size.dtype), cell.total
    compute = 2 * (work.tokens * size.active + work.reads * size.head) / rate
    # The time of the steps if bound by reading weights or by launching layers.
    steps = work.steps / batch
    reading = steps * max(size.weight_bytes / (0.6 * machine.bandwidth), size.layers * machine.pass_seconds)
    calibration = 2 * work.calibration * size.active / (rate * _CALIBRATION_SHARE)
    loading = work.loads * (LOAD_SECONDS + size.weight_bytes / READ_BYTES)
    return Stay(max(compute, reading) + calibration + loading, batch, peak)


def _operations(work: Work, size: ModelSize) -> float:
    return 2 * ((work.tokens + work.calibration) * size.active + work.reads * size.head)


def _per_item(
    cell: PlannedCell, loaded: LoadedModel, counts: dict[str, int]
) -> tuple[Work, Work, list[EncodedItem]]:
    """The work of all items of a cell for one arm, extrapolated from sampled items; that without long answers; the
    items.
    """
    study, encoded, whole, short = cell.study, list[EncodedItem](), Work(), Work()
    own = CHOICE_OWN in study.probes
    for items in cell.item_sets:
        count = counts[items.language]
        reached = min(count, study.oracle_limit)
        for oracle, how_many in ((True, reached), (False, count - reached)):
            if not how_many or not items.items:
                continue
            spread = range(0, len(items.items), max(1, len(items.items) // SAMPLED))
            chosen = [
                encode(
                    study, items.items[n], items, loaded.tokenizer, positions=loaded.positions, oracle=oracle
                )
                for n in spread
            ][:SAMPLED]
            share = how_many / len(chosen)
            for item in chosen:
                asked = _scaled(_asked(study, item.ask), share)
                if own:
                    whole = whole.plus(_scaled(_options_again(item.ask), share))
                short = short.plus(asked)
                whole = whole.plus(asked).plus(_scaled(_at_length(item.long), share))
            encoded += chosen
        whole = whole.plus(Work(items=count))
    return whole, short, encoded


def _scaled(work: Work, share: float) -> Work:
    """The work of this many items like this one, without their count."""
    return Work(0, share * work.tokens, share * work.reads, share * work.steps)


def _asked(study: Study, ask: Ask) -> Work:
    """The work of one item without its long answer: the nodes of its trees, plus a leaf per answer and step."""
    if not ask.greedy:
        return Work(1)
    batch = lay_out([ask])
    paths = len(ask.greedy) + study.num_beams * len(ask.beams)
    paths += study.num_samples * study.sample_seeds * len(ask.samples)
    steps = study.max_new_tokens - 1
    leaves = DISTINCT_LEAVES * paths * steps
    nodes = sum(len(row.tree.tokens) for row in batch.rows) - len(ask.shared_prefix)
    return Work(1, nodes + leaves, len(batch.reads) + leaves, steps + 1)


def _options_again(ask: Ask) -> Work:
    """The work of the options made from base's answer, which are asked separately: about that of the standard ones."""
    standard = {
        name: ask.options[name] for name in ("choice", f"choice{NO_QUESTION_ENDING}") if name in ask.options
    }
    batch = lay_out([Ask(ask.item_id, options=standard)])
    return Work(0, sum(len(row.tree.tokens) for row in batch.rows), len(batch.reads), 1)


def _at_length(question: LongQuestion | None) -> Work:
    """The work of a long answer that reaches its limit, and of following one of that length."""
    if question is None:
        return Work()
    batch = lay_out([longest_ask(question)])
    nodes = sum(len(row.tree.tokens) for row in batch.rows)
    return Work(0, nodes + question.limit - 1, len(batch.reads) + question.limit - 1, question.limit)


def _making(study: Study, arm: Arm, languages: int, answered: set[tuple[Any, ...]]) -> Work:
    """The work of loading and compressing the model of an arm once.

    answered: the prompts that base has answered for arms before, which it doesn't answer again; extended.
    """
    if arm.name == BASE:
        return Work(tokens=TRIAL_TOKENS, loads=1)
    calibration, answering = 0.0, Work()
    for step in arm.steps:
        if not needs_calibration(step):
            continue
        text = step.calibration
        source = text.source or study.calibration
        passes = passes_of(step)
        if source == "demo":
            calibration += passes * DEMO_TOKENS
            continue
        by_language = source == "balanced" or is_of_answers(source)
        streams = languages if by_language else 1
        each = PASSAGES_A_LANGUAGE if by_language or source == "own" else PASSAGES
        passages = text.samples or study.calibration_samples or each
        if is_of_answers(source):
            prompts = passages * streams
            asked = (study.base, repr(study.chat), source.partition(":")[2] or study.data, prompts)
            if asked in answered:
                prompts = 0
            answered.add(asked)
            answering = answering.plus(
                Work(
                    tokens=prompts * study.prompt_tokens,
                    reads=prompts * study.max_new_tokens,
                    steps=prompts * study.max_new_tokens,
                )
            )
        tokens = passages * streams * min(text.tokens or study.calibration_tokens, PASSAGE_TOKENS)
        budget = text.budget or study.calibration_budget or math.inf
        calibration += passes * min(tokens, budget)
    return answering.plus(Work(calibration=calibration, loads=1))


def _without_weights(study: Study) -> LoadedModel:
    """Base with its modules and shapes, but without weights in memory."""
    if study.base.endswith(".gguf"):
        raise ModelError(
            f"plan: {study.base} is a GGUF file, which has no config.json; plan with the model it "
            "was made from: anomia plan STUDY --base MODEL"
        )
    dtype = DTYPES[_dtype(study)]
    model = _skeleton(study.base, study.revision, study.trust_remote_code).to(dtype)
    return LoadedModel(study.base, model, tokenizer_of(study)[0])


@cache
def _skeleton(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    study = Study(base=name, arms=("magnitude:0.5",), revision=revision, trust_remote_code=trust_remote_code)
    config = config_of(study, name)
    try:
        with accelerate.init_empty_weights():
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"plan: {name!r} is not a causal language model: {reason}") from None
    model.tie_weights()
    return model


def _dtype(study: Study) -> str:
    if study.dtype != "auto":
        return study.dtype
    stored = str(getattr(config_of(study, study.base), "dtype", None)).removeprefix("torch.")
    return stored if stored in DTYPES else "bfloat16"


def _need(study: Study, loaded: LoadedModel, encoded: Sequence[EncodedItem]) -> MemoryNeed:
    return need_of(loaded.model, encoded, decoding(study), own=CHOICE_OWN in study.probes)


def _need_in_float32(study: Study, loaded: LoadedModel, encoded: Sequence[EncodedItem]) -> MemoryNeed | None:
    """The need of a model in float32 if a run on a CPU may choose that over the stored type; else None."""
    model, stored = loaded.model, loaded.model.dtype
    packed = getattr(model.config, "quantization_config", None) is not None
    if study.dtype != "auto" or packed or stored not in HALF:
        return None
    try:
        model.to(torch.float32)
        return _need(study, loaded, encoded)
    finally:
        model.to(stored)


def _measured(
    study: Study, loaded: LoadedModel, need: MemoryNeed, in_float32: MemoryNeed | None
) -> ModelSize:
    model = loaded.model
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    outside = {id(head), id(embedding)}
    share = _active_experts(config)
    active = sum(
        tensor.numel() * (share if "experts" in name else 1.0)
        for name, tensor in model.named_parameters()
        if id(tensor) not in outside
    )
    return ModelSize(
        name=study.base,
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        active=round(active),
        head=head.numel(),
        layers=sizes_of(config).layers,
        need=need,
        in_float32=in_float32,
        blocks=sum(each.numel() for each in model.parameters() if id(each) not in outside),
    )


def _active_experts(config: Any) -> float:
    """The share of experts that a token uses in an MoE; 1 for other models."""
    experts = number(config, "num_local_experts", "num_experts", "n_routed_experts")
    chosen = number(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
    return min(1.0, chosen / experts) if experts and chosen else 1.0
