"""Runs models on a Ray cluster: a worker holds one model and takes shards until none is left.

Ray decides where and when workers start, by the CPUs and GPUs that each requests. One worker per model is requested
first, then helpers; workers without room wait, and helpers that start too late get nothing to do. Workers write
their own records to the run's folder, which all of them must see: a shared folder, or an fsspec URL such as
`s3://bucket/run`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from anomia.errors import AnomiaError, MissingExtraError, RunError, StudyError, nearest
from anomia.running.answerer import Answerer, LocalModel
from anomia.running.cells import OpenCell, PlannedCell, Turn, turns_of
from anomia.running.execute import Executor, arms_here, begin_cell, check_arm
from anomia.running.folder import OpenedRun, Shard
from anomia.running.model import make_arm, make_base
from anomia.running.noise import lacks_noise, measure_noise
from anomia.running.progress import FinishedShard, PlainProgress, Progress
from anomia.running.shard import measure_shard
from anomia.study import BASE

ATTEMPTS = 3
"""Attempts per shard before the death of its worker is blamed on the shard."""


class Size(NamedTuple):
    """The resources that a worker requests from the cluster."""

    cpus: float = 1.0
    gpus: float = 0.0


def read_size(text: str) -> Size:
    """Parses the resources of a worker, such as `cpus=4,gpus=0.5`.

    Raises:
        StudyError: an unknown name, or a value that isn't a number.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        key, _, written = part.partition("=")
        if key not in Size._fields:
            raise StudyError(f"--ray-worker {text}: unknown {key!r}; {nearest(key, Size._fields)}")
        try:
            values[key] = float(written)
        except ValueError:
            values[key] = -1.0
        if not 0 <= values[key] < float("inf"):
            raise StudyError(f"--ray-worker {text}: {key} must be a number, not {written!r}")
    return Size(**values)


class Answer(NamedTuple):
    """The reply of a worker. failed: the text of an `AnomiaError`; of_folder: whether it concerns the run folder."""

    finished: FinishedShard | None = None
    runs: tuple[OpenedRun, ...] = ()
    lines: tuple[str, ...] = ()
    failed: str | None = None
    of_folder: bool = False


class Worker:
    """One model, asked shard after shard. Runs in a separate process on the cluster."""

    def __init__(self, cells: Sequence[PlannedCell], turn: Turn | None, threads: int) -> None:
        """`cells` share the base; `turn` is the turn of an arm, or None for base itself."""
        torch.set_num_threads(max(1, threads))
        self._cells, self._turn = cells, turn
        self._base: LocalModel | None = None
        self._arm: Answerer | None = None
        self._lines: list[str] = []
        self._progress = _Silent(self._lines)

    def start(self) -> Answer:
        """Returns as soon as the cluster has room for the worker; loads no model yet."""
        return Answer()

    def begin(self, reuse: Sequence[Path]) -> Answer:
        """Creates the folders of all cells; called on base's first worker."""
        return self._guarded(lambda: self._begin(reuse))

    def measure(self, cell: int, run: OpenedRun, shard: Shard) -> Answer:
        """Measures one shard and writes its rows."""
        return self._guarded(lambda: self._measure(self._cells[cell].begun_as(run), shard))

    def noise(self, cell: int, run: OpenedRun) -> Answer:
        """Measures the batch-size sensitivity of a cell whose base is done."""
        return self._guarded(lambda: self._noise(self._cells[cell].begun_as(run)))

    def _begin(self, reuse: Sequence[Path]) -> Answer:
        base = self._made_base(reuse)
        begun = [begin_cell(cell, base, self._progress, reuse) for cell in self._cells]
        return Answer(runs=tuple(cell.run for cell in begun))

    def _measure(self, cell: OpenCell, shard: Shard) -> Answer:
        model = self._made_base() if self._turn is None else self._made_arm(self._turn)
        measure_shard(cell, shard, model, self._progress, where=f"{platform.node()}:{os.getpid()}")
        return Answer(finished=self._progress.finished)

    def _noise(self, cell: OpenCell) -> Answer:
        measure_noise(cell, self._made_base(), self._progress)
        return Answer()

    def _made_base(self, reuse: Sequence[Path] = ()) -> LocalModel:
        if self._base is None:
            self._base = make_base(self._cells, self._progress, reuse)
        return self._base

    def _made_arm(self, turn: Turn) -> Answerer:
        if self._arm is None:
            self._arm = make_arm(turn, self._progress)
            for cell in turn.cells:
                check_arm(cell, turn.arm.name, self._arm)
        return self._arm

    def _guarded(self, work: Any) -> Answer:
        # Errors are sent as values: not every exception can be rebuilt from its text on the other side.
        try:
            answer: Answer = work()
        except AnomiaError as error:
            answer = Answer(failed=str(error), of_folder=isinstance(error, RunError))
        lines = tuple(self._lines)
        self._lines.clear()
        return answer._replace(lines=lines)


@dataclass(slots=True)
class _Crew:
    """The workers that hold one model: the base of some cells, or the model of an arm's turn.

    spare: base's first worker, which is kept for the batch-size sensitivity.
    """

    name: str
    size: Size
    cells: Sequence[PlannedCell]
    turn: Turn | None = None
    workers: list[Any] = field(default_factory=list)
    spare: Any = None

    def hire(self) -> Any:
        """Requests another worker from the cluster."""
        import ray

        remote = ray.remote(Worker).options(num_cpus=self.size.cpus, num_gpus=self.size.gpus)
        worker = remote.remote(self.cells, self.turn, int(self.size.cpus))
        self.workers.append(worker)
        return worker

    def let_go(self, worker: Any) -> None:
        """Ends a worker."""
        import ray

        self.workers.remove(worker)
        ray.kill(worker)


@dataclass(slots=True)
class _Queue:
    """A turn on the cluster: the shards left, as (cell index, shard), and the workers on it.

    at_work: the worker, cell index and shard by task. waiting: workers that Ray has no room for yet, by task.
    attempts: failed attempts by cell index and shard key.
    """

    turn: Turn
    left: deque[tuple[int, Shard]]
    crew: _Crew
    at_work: dict[Any, tuple[Any, int, Shard]] = field(default_factory=dict)
    waiting: dict[Any, Any] = field(default_factory=dict)
    attempts: dict[tuple[int, str], int] = field(default_factory=dict)
    failed: str | None = None

    def take(self) -> tuple[int, Shard] | None:
        """The next shard that may start now; with optional stopping, a round must finish before the next starts."""
        while self.left:
            index, shard = self.left[0]
            cell = self.turn.cells[index]
            if cell.study.until_width is not None:
                if any(at == index and other.first < shard.first for _, at, other in self.at_work.values()):
                    return None
                if self.turn.narrow_enough(cell):
                    self.left = deque((at, other) for at, other in self.left if at != index)
                    continue
            return self.left.popleft()
        return None


@contextmanager
def on_ray(address: str | None, size: Size | None, progress: Progress) -> Iterator[Executor]:
    """Joins a Ray cluster, or starts one on this machine, for the duration of the context.

    Args:
        address: the address of a cluster (`auto`, `ray://HOST:10001`); None starts a local one.
        size: the size of a worker; by default one CPU, plus one GPU if the cluster has GPUs.
        progress: receives the address of Ray's dashboard and the size of the cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: there is no such cluster, or a worker is larger than the cluster.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    local = address is None
    joined = ray.is_initialized()
    if not joined:
        # Local workers import from the same paths as this process.
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}} if local else None
        try:
            context = ray.init(
                address=address or "local", log_to_driver=False, logging_level="ERROR", runtime_env=paths
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"run: there is no Ray cluster at {address}: {reason}") from None
        url = getattr(context, "dashboard_url", None)
        progress.say(f"Ray's dashboard: http://{url}" if url else "this Ray has no dashboard")
    try:
        resources = ray.cluster_resources()
        wanted = size or Size(1.0, 1.0 if resources.get("GPU") else 0.0)
        slots = _slots(resources, wanted)
        progress.say(f"Ray: room for {slots} workers of {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs")
        yield Executor(
            base=lambda cells, shown_to, reuse: _measure_base(cells, shown_to, reuse, wanted, slots),
            arms=lambda turns, shown_to: _measure_arms(turns, shown_to, wanted, slots),
        )
    finally:
        if not joined:
            ray.shutdown()


def _slots(resources: dict[str, float], size: Size) -> int:
    """How many workers fit into the cluster at the same time.

    Raises:
        RunError: not even one fits.
    """
    rooms = [resources.get("CPU", 0.0) / size.cpus] if size.cpus else []
    rooms += [resources.get("GPU", 0.0) / size.gpus] if size.gpus else []
    slots = int(min(rooms, default=1))
    if slots < 1:
        raise RunError(
            f"run: a worker asks for {size.cpus:g} CPUs and {size.gpus:g} GPUs, and the cluster has "
            f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}; change --ray-worker"
        )
    return slots


def _measure_base(
    planned: Sequence[PlannedCell], progress: Progress, reuse: Sequence[Path], size: Size, slots: int
) -> list[OpenCell]:
    """Measures base on the cluster; see `execute.base_here`."""
    crew = _Crew(BASE, size, planned)
    try:
        cells = _begin(crew, progress, reuse)
        (turn,) = turns_of(cells[0].arms[0], cells)
        queue = _queue(turn, crew)
        _work_off([queue], progress, slots)
        if queue.failed:
            raise AnomiaError(queue.failed)
        _noise(crew, cells, progress)
        return cells
    finally:
        _end([crew])


def _measure_arms(turns: Sequence[Turn], progress: Progress, size: Size, slots: int) -> list[str | None]:
    """Measures all turns at once on the cluster; see `execute.arms_here`.

    Served models are asked from this process, because it has the API key and one request limit covers all of them.
    """
    queues = [
        _queue(turn, _Crew(turn.arm.name, size, turn.cells, turn)) for turn in turns if turn.served is None
    ]
    try:
        if queues:
            _work_off(queues, progress, slots)
    finally:
        _end([queue.crew for queue in queues])
    here = arms_here([turn for turn in turns if turn.served is not None], progress)
    there, failed = iter(queue.failed for queue in queues), iter(here)
    return [next(there if turn.served is None else failed) for turn in turns]


def _queue(turn: Turn, crew: _Crew) -> _Queue:
    left = deque((i, shard) for i, cell in enumerate(turn.cells) for shard in turn.pending(cell))
    return _Queue(turn, left, crew)


def _end(crews: Sequence[_Crew]) -> None:
    import ray

    for crew in crews:
        for worker in crew.workers:
            ray.kill(worker)


def _work_off(queues: Sequence[_Queue], progress: Progress, slots: int) -> None:
    """Works off all queues at once until no shard is left."""
    import ray

    shards = sum(len(queue.left) for queue in queues)
    names = ", ".join(dict.fromkeys(queue.crew.name for queue in queues))
    items = sum(shard.last - shard.first for queue in queues for _, shard in queue.left)
    progress.stage(f"{names}: {shards} shards on Ray", items)
    for number in range(slots):
        for queue in queues:
            if number == 0 and queue.crew.spare:
                _give(queue, queue.crew.spare)
            elif number < len(queue.left) + len(queue.at_work):
                worker = queue.crew.hire()
                queue.waiting[worker.start.remote()] = worker
    while tasks := {task: queue for queue in queues for task in (*queue.at_work, *queue.waiting)}:
        done, _ = ray.wait(list(tasks), num_returns=1)
        queue = tasks[done[0]]
        if done[0] in queue.waiting:
            _start(queue, done[0])
        else:
            _receive(queue, done[0], progress)
        if queue.failed or not queue.left:
            # A helper that starts only now would load a model for nothing.
            for worker in queue.waiting.values():
                queue.crew.let_go(worker)
            queue.waiting.clear()


def _start(queue: _Queue, task: Any) -> None:
    """Puts a started worker to work; if it died while starting, its shards are left to the others."""
    import ray

    worker = queue.waiting.pop(task)
    try:
        ray.get(task)
    except ray.exceptions.RayActorError:
        queue.crew.workers.remove(worker)
        if not queue.crew.workers:
            queue.failed = "no worker could be started; the logs are in Ray's dashboard"
        return
    _give(queue, worker)


def _give(queue: _Queue, worker: Any) -> None:
    """Gives a worker its next shard, or ends it if there is none."""
    shard = None if queue.failed else queue.take()
    if shard is not None:
        index, wanted = shard
        run = queue.turn.cells[index].run
        queue.at_work[worker.measure.remote(index, run, wanted)] = (worker, index, wanted)
    elif worker is not queue.crew.spare:
        queue.crew.let_go(worker)


def _receive(queue: _Queue, task: Any, progress: Progress) -> None:
    """Takes an answer, or replaces a lost worker and puts its shard back into the queue."""
    import ray

    worker, index, shard = queue.at_work.pop(task)
    try:
        answer: Answer = ray.get(task)
    except ray.exceptions.RayActorError:
        key = (index, shard.key)
        queue.attempts[key] = queue.attempts.get(key, 0) + 1
        name = f"{shard.arm}: {shard.language} {shard.first + 1}–{shard.last}"
        queue.crew.workers.remove(worker)
        if queue.attempts[key] >= ATTEMPTS:
            queue.failed = (
                f"{name}: {ATTEMPTS} workers died while working on it; the last logs are in Ray's dashboard"
            )
            progress.say(queue.failed)
            return
        progress.say(f"{name}: its worker was lost; another will redo it")
        queue.left.appendleft((index, shard))
        another = queue.crew.hire()
        if worker is queue.crew.spare:
            queue.crew.spare = another
        _give(queue, another)
        return
    _tell(answer, progress)
    if answer.failed is not None:
        queue.failed = answer.failed
    elif answer.finished is not None:
        for _ in range(shard.first, shard.last):
            progress.advance(items=1)
        progress.finish(answer.finished)
    _give(queue, worker)


def _begin(crew: _Crew, progress: Progress, reuse: Sequence[Path]) -> list[OpenCell]:
    """Lets a worker load base and create the folders of the cells."""
    progress.stage(f"loading {crew.cells[0].study.base} on Ray", 1)
    answer = _ask_one(crew, progress, lambda worker: worker.begin.remote(list(reuse)))
    cells = [cell.begun_as(run) for cell, run in zip(crew.cells, answer.runs, strict=True)]
    crew.cells = cells
    progress.advance()
    return cells


def _noise(crew: _Crew, cells: Sequence[OpenCell], progress: Progress) -> None:
    for index, cell in enumerate(cells):
        if lacks_noise(cell.run):
            progress.stage(f"{cell.label}batch-size sensitivity on Ray", 1)
            _ask_one(crew, progress, lambda w, i=index, run=cell.run: w.noise.remote(i, run))
            progress.advance()


def _ask_one(crew: _Crew, progress: Progress, call: Any) -> Answer:
    """Makes one call on the spare worker, or on a new one if that is lost.

    Raises:
        AnomiaError: the call failed, or ATTEMPTS workers died while working on it.
    """
    import ray

    for _ in range(ATTEMPTS):
        crew.spare = crew.spare or crew.hire()
        try:
            answer: Answer = ray.get(call(crew.spare))
        except ray.exceptions.RayActorError:
            progress.say(f"{crew.name}: a worker was lost; another will redo it")
            crew.workers.remove(crew.spare)
            crew.spare = None
            continue
        _tell(answer, progress)
        if answer.failed is not None:
            raise AnomiaError(answer.failed)
        return answer
    raise RunError(f"run: {ATTEMPTS} workers died over {crew.name}; the last logs are in Ray's dashboard")


def _tell(answer: Answer, progress: Progress) -> None:
    for line in answer.lines:
        progress.say(line)
    if answer.failed is not None and answer.of_folder:
        raise RunError(answer.failed)


class _Silent(PlainProgress):
    """Keeps messages and the last finished shard, to be sent back with the answer."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lambda text: None)
        self._lines = lines
        self.finished: FinishedShard | None = None

    def say(self, text: str) -> None:
        """Keeps the message."""
        self._lines.append(text)

    def finish(self, shard: FinishedShard) -> None:
        """Keeps the shard."""
        self.finished = shard
