"""What is being done and how long it still takes: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

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


class Progress(Protocol):
    """What a run tells while it works. Stages follow one another; `total` counts items of the whole run."""

    def begin(self, total: int) -> None:
        """The run starts; `total` probings of one item each lie ahead."""

    def stage(self, text: str, total: int) -> None:
        """A part of the run starts, with its own number of steps."""

    def advance(self, *, items: int = 0) -> None:
        """A step of the stage is done; `items` of them count towards the whole."""

    def say(self, text: str) -> None:
        """A line that stays."""


class RichProgress:
    """Two bars: the stage and the whole run."""

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

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, total: int) -> None:
        """Shows the bar of the whole run."""
        self._whole = self._bars.add_task("whole run", total=total)

    def stage(self, text: str, total: int) -> None:
        """Replaces the stage's bar."""
        if self._stage is not None:
            self._bars.remove_task(self._stage)
        self._stage = self._bars.add_task(text, total=max(1, total))

    def advance(self, *, items: int = 0) -> None:
        """Moves the stage's bar by one and the whole run's by `items`."""
        if self._stage is not None:
            self._bars.advance(self._stage)
        if self._whole is not None and items:
            self._bars.advance(self._whole, items)

    def say(self, text: str) -> None:
        """Prints above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


class PlainProgress:
    """A line at each stage, and every half minute within one: for logs and pipes."""

    def __init__(self, write: Callable[[str], object] | None = None, *, every: float = 30.0) -> None:
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))
        self._every = every
        self._total = self._done = self._steps = self._step = 0
        self._text = ""
        self._started = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, total: int) -> None:
        """Starts the clock."""
        self._total, self._done, self._started = total, 0, time.monotonic()

    def stage(self, text: str, total: int) -> None:
        """Writes what begins."""
        self._text, self._steps, self._step, self._spoke = text, total, 0, time.monotonic()
        self._write(text)

    def advance(self, *, items: int = 0) -> None:
        """Counts, and writes now and then."""
        self._done += items
        self._step += 1
        now = time.monotonic()
        if now - self._spoke >= self._every:
            self._spoke = now
            line = f"{self._text}: {self._step}/{self._steps}"
            if 0 < self._done < self._total:
                left = (now - self._started) / self._done * (self._total - self._done)
                line += f"; whole run {self._done}/{self._total}, about {left / 60:.0f} min left"
            self._write(line)

    def say(self, text: str) -> None:
        """Writes the line."""
        self._write(text)


def stage_counter(progress: Progress, text: str) -> Callable[[int, int], None]:
    """Turns calls of (done, total) into a stage of a progress."""
    begun = False

    def count(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            progress.stage(text, total)
            begun = True
        progress.advance()

    return count
