"""Asks models on a Ray cluster: a worker holds one model and is given shards until none is left.

Ray decides where and when workers start, by the CPUs and GPUs that each asks for. Of every model one worker is
asked for first, then helpers; what finds no room waits, and helpers that come too late find nothing to do. Records
are written by whoever computed them, into the run's folder, which all workers must see: a shared folder, or an
fsspec address such as `s3://bucket/run`.
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
"""How often a shard is given out before a worker's death is taken for the shard's fault."""


class Size(NamedTuple):
    """What a worker asks of the cluster."""

    cpus: float = 1.0
    gpus: float = 0.0


def read_size(text: str) -> Size:
    """What a worker asks for, as in `cpus=4,gpus=0.5`.

    Raises:
        StudyError: an unknown name, or no number.
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
    """What a worker sends back. failed: a deliberate error's text; of_folder: whether the run folder is at fault."""

    finished: FinishedShard | None = None
    runs: tuple[OpenedRun, ...] = ()
    said: tuple[str, ...] = ()
    failed: str | None = None
    of_folder: bool = False


class Worker:
    """One model, asked shard after shard. Lives in a process of its own on the cluster."""

    def __init__(self, cells: Sequence[PlannedCell], turn: Turn | None, threads: int) -> None:
        """Cells whose base it is, or the turn of an arm."""
        torch.set_num_threads(max(1, threads))
        self._cells, self._turn = cells, turn
        self._base: LocalModel | None = None
        self._arm: Answerer | None = None
        self._said: list[str] = []
        self._progress = _Silent(self._said)

    def start(self) -> Answer:
        """Answers as soon as the cluster has found room; no model is loaded yet."""
        return Answer()

    def begin(self, reuse: Sequence[Path]) -> Answer:
        """Makes the folders of all cells, as base's first worker."""
        return self._guarded(lambda: self._begin(reuse))

    def measure(self, cell: int, run: OpenedRun, shard: Shard) -> Answer:
        """Asks one shard and writes its rows."""
        return self._guarded(lambda: self._measure(self._cells[cell].begun_as(run), shard))

    def noise(self, cell: int, run: OpenedRun) -> Answer:
        """Measures the noise floor of a cell whose base is done."""
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
        # Errors go as values: not every exception can be rebuilt from its text on the other side.
        try:
            answer: Answer = work()
        except AnomiaError as error:
            answer = Answer(failed=str(error), of_folder=isinstance(error, RunError))
        said = tuple(self._said)
        self._said.clear()
        return answer._replace(said=said)


@dataclass(slots=True)
class _Crew:
    """The workers that hold one model: base of some cells, or what an arm's turn asks.

    spare: base's first worker, which stays for the noise floor.
    """

    name: str
    size: Size
    cells: Sequence[PlannedCell]
    turn: Turn | None = None
    workers: list[Any] = field(default_factory=list)
    spare: Any = None

    def hire(self) -> Any:
        """Asks the cluster for another worker."""
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
    """A turn on the cluster: what is left of it, and who is at work on it.

    at_work: by task, the worker and its shard. waiting: workers that Ray has found no room for yet, by task.
    """

    turn: Turn
    left: deque[tuple[int, Shard]]
    crew: _Crew
    at_work: dict[Any, tuple[Any, int, Shard]] = field(default_factory=dict)
    waiting: dict[Any, Any] = field(default_factory=dict)
    attempts: dict[tuple[int, str], int] = field(default_factory=dict)
    failed: str | None = None

    def take(self) -> tuple[int, Shard] | None:
        """The next shard that may be asked now; under optional stopping rounds are finished one by one."""
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
    """Joins a cluster, or starts one on this machine, for as long as the context lasts.

    Args:
        address: of a cluster (`auto`, `ray://HOST:10001`); None starts a local one.
        size: of a worker; by default one GPU where there are GPUs, else one CPU.
        progress: told the address of Ray's dashboard, and every worker that was lost.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    local = address is None
    joined = ray.is_initialized()
    if not joined:
        # A local worker imports from where this process does.
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
            base=lambda cells, told, reuse: _measure_base(cells, told, reuse, wanted, slots),
            arms=lambda turns, told: _measure_arms(turns, told, wanted, slots),
        )
    finally:
        if not joined:
            ray.shutdown()


def _slots(resources: dict[str, float], size: Size) -> int:
    """How many workers find room at once.

    Raises:
        RunError: not even one does.
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
    """Asks base on the cluster; as `execute.base_here`."""
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
    """Asks what is pending in turns at once, on the cluster; as `execute.arms_here`.

    Served models are asked from this process: it has the key, and one limit of requests holds for all of them.
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
    """Gives out what is left in queues, all at once, until nothing is."""
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
            # A helper that finds room only now would load a model for nothing.
            for worker in queue.waiting.values():
                queue.crew.let_go(worker)
            queue.waiting.clear()


def _start(queue: _Queue, task: Any) -> None:
    """A worker has found room, or died on the way; then the shards are left to the others."""
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
    """Gives a worker its next shard, or lets it go."""
    shard = None if queue.failed else queue.take()
    if shard is not None:
        index, wanted = shard
        run = queue.turn.cells[index].run
        queue.at_work[worker.measure.remote(index, run, wanted)] = (worker, index, wanted)
    elif worker is not queue.crew.spare:
        queue.crew.let_go(worker)


def _receive(queue: _Queue, task: Any, progress: Progress) -> None:
    """Takes an answer, or replaces a worker that was lost and gives its shard out again."""
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
    """Lets a worker look at base and make the folders of the cells."""
    progress.stage(f"loading {crew.cells[0].study.base} on Ray", 1)
    answer = _ask_one(crew, progress, lambda worker: worker.begin.remote(list(reuse)))
    cells = [cell.begun_as(run) for cell, run in zip(crew.cells, answer.runs, strict=True)]
    crew.cells = cells
    progress.advance()
    return cells


def _noise(crew: _Crew, cells: Sequence[OpenCell], progress: Progress) -> None:
    for index, cell in enumerate(cells):
        if lacks_noise(cell.run):
            progress.stage(f"{cell.label}noise floor on Ray", 1)
            _ask_one(crew, progress, lambda w, i=index, run=cell.run: w.noise.remote(i, run))
            progress.advance()


def _ask_one(crew: _Crew, progress: Progress, call: Any) -> Answer:
    """One call on the worker that is free, on another if that one is lost.

    Raises:
        AnomiaError: the call failed, or worker after worker died over it.
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
    for line in answer.said:
        progress.say(line)
    if answer.failed is not None and answer.of_folder:
        raise RunError(answer.failed)


class _Silent(PlainProgress):
    """Keeps what is said, and the last shard, for the one who asked."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(lambda text: None)
        self._said = said
        self.finished: FinishedShard | None = None

    def say(self, text: str) -> None:
        """Keeps the line."""
        self._said.append(text)

    def finish(self, shard: FinishedShard) -> None:
        """Keeps the shard."""
        self.finished = shard
