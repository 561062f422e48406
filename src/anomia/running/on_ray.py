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
from anomia.running.cells import CellRun, Turn
from anomia.running.execute import Measure, begin_cell, check_arm, measure_here
from anomia.running.folder import OpenedRun, Shard
from anomia.running.model import Ready, make_ready
from anomia.running.noise import lacks_noise, measure_noise
from anomia.running.progress import Finished, PlainProgress, Progress
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

    finished: Finished | None = None
    folders: tuple[OpenedRun | None, ...] = ()
    said: tuple[str, ...] = ()
    failed: str | None = None
    of_folder: bool = False


class Worker:
    """One model, asked shard after shard. Lives in a process of its own on the cluster."""

    def __init__(self, turn: Turn, threads: int) -> None:
        torch.set_num_threads(max(1, threads))
        self._turn = turn
        self._ready: Ready | None = None
        self._said: list[str] = []
        self._progress = _Silent(self._said)

    def start(self) -> Answer:
        """Answers as soon as the cluster has found room; no model is loaded yet."""
        return Answer()

    def begin(self, reuse: Sequence[Path]) -> Answer:
        """Makes the folders of all cells, as base's first worker."""
        return self._guarded(lambda: self._begin(reuse))

    def measure(self, cell: int, folder: OpenedRun, shard: Shard) -> Answer:
        """Asks one shard and writes its rows."""
        return self._guarded(lambda: self._measure(cell, folder, shard))

    def noise(self, cell: int, folder: OpenedRun) -> Answer:
        """Measures the noise floor of a cell whose base is done."""
        return self._guarded(lambda: self._noise(cell, folder))

    def _begin(self, reuse: Sequence[Path]) -> Answer:
        ready = self._made(reuse)
        for cell in self._turn.cells:
            begin_cell(cell, ready, self._progress, reuse)
        return Answer(folders=tuple(cell.run for cell in self._turn.cells))

    def _measure(self, index: int, folder: OpenedRun, shard: Shard) -> Answer:
        cell = self._cell(index, folder)
        ready = self._made()
        measure_shard(cell, shard, ready, self._progress, where=f"{platform.node()}:{os.getpid()}")
        return Answer(finished=self._progress.finished)

    def _noise(self, index: int, folder: OpenedRun) -> Answer:
        measure_noise(self._cell(index, folder), self._made(), self._progress)
        return Answer()

    def _cell(self, index: int, folder: OpenedRun) -> CellRun:
        cell = self._turn.cells[index]
        cell.run = folder
        return cell

    def _made(self, reuse: Sequence[Path] = ()) -> Ready:
        if self._ready is None:
            self._ready = make_ready(self._turn, self._progress, reuse)
            if self._turn.arm.name != BASE:
                for cell in self._turn.cells:
                    check_arm(cell, self._turn.arm.name, self._ready)
        return self._ready

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
class _Queue:
    """A turn on the cluster: what is left of it, and who is at work on it.

    at_work: by task, the worker and its shard. waiting: workers that Ray has found no room for yet, by task.
    spare: base's first worker, which stays for the noise floor.
    """

    turn: Turn
    left: deque[tuple[int, Shard]]
    workers: list[Any] = field(default_factory=list)
    at_work: dict[Any, tuple[Any, int, Shard]] = field(default_factory=dict)
    waiting: dict[Any, Any] = field(default_factory=dict)
    attempts: dict[tuple[int, str], int] = field(default_factory=dict)
    failed: str | None = None
    spare: Any = None

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
def on_ray(address: str | None, size: Size | None, progress: Progress) -> Iterator[Measure]:
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
        yield lambda turns, told, reuse: _measure_all(turns, told, reuse, wanted, slots)
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


def _measure_all(
    turns: Sequence[Turn], progress: Progress, reuse: Sequence[Path], size: Size, slots: int
) -> list[str | None]:
    """Asks what is pending in all turns; as `execute.measure_here`.

    Served models are asked from this process: it has the key, and one limit of requests holds for all of them.
    """
    there = [turn for turn in turns if turn.served is None]
    here = [turn for turn in turns if turn.served is not None]
    failed = iter(_measure_turns(there, progress, reuse, size, slots) if there else ())
    failed_here = iter(measure_here(here, progress, reuse))
    return [next(failed if turn.served is None else failed_here) for turn in turns]


def _measure_turns(
    turns: Sequence[Turn], progress: Progress, reuse: Sequence[Path], size: Size, slots: int
) -> list[str | None]:
    """Asks what is pending in turns at once, on the cluster."""
    import ray

    queues = [_Queue(turn, deque()) for turn in turns]
    try:
        for queue in queues:
            if queue.turn.arm.name == BASE:
                _begin(queue, progress, reuse, size)
            cells = enumerate(queue.turn.cells)
            queue.left.extend((i, shard) for i, cell in cells for shard in queue.turn.pending(cell))
        shards = sum(len(queue.left) for queue in queues)
        names = ", ".join(dict.fromkeys(turn.arm.name for turn in turns))
        items = sum(shard.last - shard.first for queue in queues for _, shard in queue.left)
        progress.stage(f"{names}: {shards} shards on Ray", items)
        for number in range(slots):
            for queue in queues:
                if number == 0 and queue.spare:
                    _give(queue, queue.spare)
                elif number < len(queue.left) + len(queue.at_work):
                    worker = _worker(queue, size)
                    queue.waiting[worker.start.remote()] = worker
        while tasks := {task: queue for queue in queues for task in (*queue.at_work, *queue.waiting)}:
            done, _ = ray.wait(list(tasks), num_returns=1)
            queue = tasks[done[0]]
            if done[0] in queue.waiting:
                _start(queue, done[0])
            else:
                _receive(queue, done[0], progress, size)
            if queue.failed or not queue.left:
                # A helper that finds room only now would load a model for nothing.
                for worker in queue.waiting.values():
                    _let_go(queue, worker)
                queue.waiting.clear()
        for queue in queues:
            if queue.turn.arm.name == BASE and queue.failed is None:
                _noise(queue, progress, size)
    finally:
        for queue in queues:
            for worker in queue.workers:
                ray.kill(worker)
    for queue in queues:
        if queue.failed and queue.turn.arm.name == BASE:
            raise AnomiaError(queue.failed)
    return [queue.failed for queue in queues]


def _worker(queue: _Queue, size: Size) -> Any:
    import ray

    remote = ray.remote(Worker).options(num_cpus=size.cpus, num_gpus=size.gpus)
    worker = remote.remote(queue.turn, int(size.cpus))
    queue.workers.append(worker)
    return worker


def _start(queue: _Queue, task: Any) -> None:
    """A worker has found room, or died on the way; then the shards are left to the others."""
    import ray

    worker = queue.waiting.pop(task)
    try:
        ray.get(task)
    except ray.exceptions.RayActorError:
        queue.workers.remove(worker)
        if not queue.workers:
            queue.failed = "no worker could be started; the logs are in Ray's dashboard"
        return
    _give(queue, worker)


def _give(queue: _Queue, worker: Any) -> None:
    """Gives a worker its next shard, or lets it go."""
    shard = None if queue.failed else queue.take()
    if shard is not None:
        index, wanted = shard
        folder = queue.turn.cells[index].run
        queue.at_work[worker.measure.remote(index, folder, wanted)] = (worker, index, wanted)
    elif worker is not queue.spare:
        _let_go(queue, worker)


def _let_go(queue: _Queue, worker: Any) -> None:
    import ray

    queue.workers.remove(worker)
    ray.kill(worker)


def _receive(queue: _Queue, task: Any, progress: Progress, size: Size) -> None:
    """Takes an answer, or replaces a worker that was lost and gives its shard out again."""
    import ray

    worker, index, shard = queue.at_work.pop(task)
    try:
        answer: Answer = ray.get(task)
    except ray.exceptions.RayActorError:
        key = (index, shard.key)
        queue.attempts[key] = queue.attempts.get(key, 0) + 1
        name = f"{shard.arm}: {shard.language} {shard.first + 1}–{shard.last}"
        queue.workers.remove(worker)
        if queue.attempts[key] >= ATTEMPTS:
            queue.failed = f"{name}: {ATTEMPTS} workers died over it; the last logs are in Ray's dashboard"
            progress.say(queue.failed)
            return
        progress.say(f"{name}: its worker was lost; another does it again")
        queue.left.appendleft((index, shard))
        another = _worker(queue, size)
        if worker is queue.spare:
            queue.spare = another
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


def _begin(queue: _Queue, progress: Progress, reuse: Sequence[Path], size: Size) -> None:
    """Lets a worker look at base and make the folders of the cells."""
    cells = queue.turn.cells
    progress.stage(f"loading {cells[0].study.base} on Ray", 1)
    answer = _ask_one(queue, size, progress, lambda worker: worker.begin.remote(list(reuse)))
    for cell, folder in zip(cells, answer.folders, strict=True):
        cell.run = folder
    progress.advance()


def _noise(queue: _Queue, progress: Progress, size: Size) -> None:
    for index, cell in enumerate(queue.turn.cells):
        if cell.run is not None and lacks_noise(cell.run):
            folder = cell.run
            progress.stage(f"{cell.label}noise floor on Ray", 1)
            _ask_one(queue, size, progress, lambda w, i=index, f=folder: w.noise.remote(i, f))
            progress.advance()


def _ask_one(queue: _Queue, size: Size, progress: Progress, call: Any) -> Answer:
    """One call on the worker that is free, on another if that one is lost.

    Raises:
        AnomiaError: the call failed, or worker after worker died over it.
    """
    import ray

    name = queue.turn.arm.name
    for _ in range(ATTEMPTS):
        queue.spare = queue.spare or _worker(queue, size)
        try:
            answer: Answer = ray.get(call(queue.spare))
        except ray.exceptions.RayActorError:
            progress.say(f"{name}: a worker was lost; another does it again")
            queue.workers.remove(queue.spare)
            queue.spare = None
            continue
        _tell(answer, progress)
        if answer.failed is not None:
            raise AnomiaError(answer.failed)
        return answer
    raise RunError(f"run: {ATTEMPTS} workers died over {name}; the last logs are in Ray's dashboard")


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
        self.finished: Finished | None = None

    def say(self, text: str) -> None:
        """Keeps the line."""
        self._said.append(text)

    def finish(self, shard: Finished) -> None:
        """Keeps the shard."""
        self.finished = shard
