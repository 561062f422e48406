"""Progress of a run and the time remaining: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import psutil  # type: ignore[import-untyped]
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

FEWEST_FOR_A_PACE = 4
"""Items needed for a forecast: the first ones of a run are slow, and a forecast from them is off by a factor."""
REDRAW_SECONDS = 0.25
"""How often a bar shows the tokens so far; a step may take a few milliseconds."""


class Ahead(NamedTuple):
    """The work ahead of a run. items: pairs of an item and an arm; shards, cells: how many contain them."""

    items: int
    shards: int
    cells: int


class FinishedShard(NamedTuple):
    """A shard whose records are on disk. seconds: time taken. where: the worker that did it, if there are several."""

    cell: str
    arm: str
    language: str
    first: int
    last: int
    seconds: float
    where: str = ""


class Progress(Protocol):
    """The events that a run reports. Stages follow one another; items are counted over the whole run."""

    def begin(self, ahead: Ahead) -> None:
        """The run starts."""

    def stage(self, text: str, total: int) -> None:
        """A stage of the run starts, with `total` steps."""

    def advance(self, *, items: int = 0) -> None:
        """A step of the stage is done; `items` are added to the count of the whole run."""

    def tokens(self, count: int) -> None:
        """Count generated tokens; a long answer takes hundreds of decode steps."""

    def finish(self, shard: FinishedShard) -> None:
        """A shard is on disk."""

    def say(self, text: str) -> None:
        """A message, shown permanently."""


class RichProgress:
    """Two bars: the stage, and the whole run with shards, items per second and memory."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._whole: TaskID | None = None
        self._stage: TaskID | None = None
        self._count = Count()
        self._tokens = Tokens("")
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, ahead: Ahead) -> None:
        """Shows the bar of the whole run."""
        self._count = Count(ahead)
        self._whole = self._bars.add_task(self._count.text(), total=ahead.items)

    def stage(self, text: str, total: int) -> None:
        """Replaces the stage's bar."""
        if self._stage is not None:
            self._bars.remove_task(self._stage)
        self._stage = self._bars.add_task(text, total=max(1, total))
        self._tokens = Tokens(text)

    def advance(self, *, items: int = 0) -> None:
        """Moves the stage's bar by one and the whole run's by `items`."""
        if self._stage is not None:
            self._bars.advance(self._stage)
        if self._whole is not None and items:
            self._count.add(items)
            self._bars.update(self._whole, advance=items, description=self._count.text())

    def tokens(self, count: int) -> None:
        """Counts the tokens, and shows them with their rate a few times per second."""
        self._tokens.add(count)
        now = time.monotonic()
        if self._stage is not None and now - self._shown >= REDRAW_SECONDS:
            self._shown = now
            self._bars.update(self._stage, description=self._tokens.text())

    def finish(self, shard: FinishedShard) -> None:
        """Counts the shard."""
        self._count.shards += 1
        if self._whole is not None:
            self._bars.update(self._whole, description=self._count.text())

    def say(self, text: str) -> None:
        """Prints the message above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


class PlainProgress:
    """A line at each stage and every `every` seconds within one, for logs and pipes."""

    def __init__(self, write: Callable[[str], object] | None = None, *, every: float = 30.0) -> None:
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))
        self._every = every
        self._steps = self._step = 0
        self._tokens = Tokens("")
        self._spoke = time.monotonic()
        self._count = Count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, ahead: Ahead) -> None:
        """Starts the clock."""
        self._count = Count(ahead)

    def stage(self, text: str, total: int) -> None:
        """Writes the name of the stage."""
        self._tokens, self._steps, self._step, self._spoke = Tokens(text), total, 0, time.monotonic()
        self._write(text)

    def advance(self, *, items: int = 0) -> None:
        """Counts the step, and writes a line every `every` seconds."""
        self._count.add(items)
        self._step += 1
        self._speak()

    def tokens(self, count: int) -> None:
        """Counts the tokens, and writes a line every `every` seconds."""
        self._tokens.add(count)
        self._speak()

    def _speak(self) -> None:
        now = time.monotonic()
        if now - self._spoke >= self._every:
            self._spoke = now
            whole = self._count.line() if self._count.known else memory_text()
            self._write(f"{self._tokens.text()}: {self._step}/{self._steps}; {whole}")

    def finish(self, shard: FinishedShard) -> None:
        """Counts the shard."""
        self._count.shards += 1

    def say(self, text: str) -> None:
        """Writes the line."""
        self._write(text)


class Several:
    """Forwards every event to several progresses."""

    def __init__(self, parts: Sequence[Progress]) -> None:
        self._parts = parts

    def begin(self, ahead: Ahead) -> None:
        """Tells all."""
        for part in self._parts:
            part.begin(ahead)

    def stage(self, text: str, total: int) -> None:
        """Tells all."""
        for part in self._parts:
            part.stage(text, total)

    def advance(self, *, items: int = 0) -> None:
        """Tells all."""
        for part in self._parts:
            part.advance(items=items)

    def tokens(self, count: int) -> None:
        """Tells all."""
        for part in self._parts:
            part.tokens(count)

    def finish(self, shard: FinishedShard) -> None:
        """Tells all."""
        for part in self._parts:
            part.finish(shard)

    def say(self, text: str) -> None:
        """Tells all."""
        for part in self._parts:
            part.say(text)


class Tokens:
    """The name of a stage, with the tokens that were generated in it and their rate."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._began = time.monotonic()
        self._count = 0

    def add(self, count: int) -> None:
        """Counts tokens."""
        self._count += count

    def text(self) -> str:
        """The stage alone if nothing was generated in it."""
        if not self._count:
            return self._stage
        rate = self._count / max(1e-9, time.monotonic() - self._began)
        return f"{self._stage}, {self._count:,} tokens, {rate:,.1f} tokens/s"


class Count:
    """Items and shards done so far, with speed, remaining time and memory."""

    def __init__(self, ahead: Ahead | None = None) -> None:
        self._ahead = ahead or Ahead(0, 0, 0)
        self._began = time.monotonic()
        self._pace_from: tuple[float, int] | None = None
        self.items = self.shards = 0

    def add(self, items: int) -> None:
        """Counts items. The pace is measured after the first ones, which leaves out loading the model."""
        self.items += items
        if items and self._pace_from is None:
            self._pace_from = time.monotonic(), self.items

    @property
    def known(self) -> bool:
        """Whether a whole run is counted; work on a single model has no shards."""
        return self._ahead.shards > 0

    @property
    def rate(self) -> float:
        """Items per second since the start, including loading and compressing models."""
        return self.items / max(1e-9, time.monotonic() - self._began)

    def text(self) -> str:
        """The description of the whole run's bar."""
        cells = f"{self._ahead.cells} cells, " if self._ahead.cells > 1 else ""
        rate = f", {self.rate:.2f} items/s" if self.items else ""
        return f"whole run ({cells}shard {self.shards}/{self._ahead.shards}{rate}, {memory_text()})"

    def line(self) -> str:
        """A line for logs, with the remaining time."""
        left = self._minutes_left()
        text = f"{self.text()} {self.items}/{self._ahead.items}"
        return text if left is None else f"{text}, about {left:.0f} min left"

    def _minutes_left(self) -> float | None:
        """Remaining minutes at the pace so far; None before there is one, and at the end."""
        if self._pace_from is None or self.items >= self._ahead.items:
            return None
        since, first = self._pace_from
        if self.items - first < max(FEWEST_FOR_A_PACE, self._ahead.items / 50):
            return None
        pace = (self.items - first) / max(1e-9, time.monotonic() - since)
        return (self._ahead.items - self.items) / pace / 60


def memory_bytes() -> dict[str, int]:
    """Bytes that this process holds now: `host`, and `gpu` if there is one."""
    found = {"host": int(psutil.Process().memory_info().rss)}
    if torch.cuda.is_available():
        found["gpu"] = int(torch.cuda.memory_allocated())
    return found


def memory_text() -> str:
    """The memory held on the GPU, or else on the host, in GB."""
    held = memory_bytes()
    return f"{held.get('gpu', held['host']) / 1e9:.1f} GB"


def stage_counter(progress: Progress, text: str) -> Callable[[int, int], None]:
    """Returns a callback for (done, total) that reports a stage, and another one whenever they start anew."""
    before, out_of = 0, 0

    def count(done: int, total: int) -> None:
        nonlocal before, out_of
        if done <= before or total != out_of:
            progress.stage(text, total)
            before = 0
        # A resumed call begins where an earlier one ended.
        for _ in range(done - before):
            progress.advance()
        before, out_of = done, total

    return count
