"""Calls on daemon threads, so that a stopped run ends at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")
WAKE_SECONDS = 0.5
"""An interrupt that arrives just before the main thread starts to wait doesn't end the wait, so it wakes by itself."""


def in_order(
    call: Callable[[Given], Found], given: Sequence[Given], *, threads: int, stop: Callable[[], None]
) -> Iterator[Found]:
    """Yield the result of a call for each input, in the order of the inputs.

    The threads are daemons: unlike those of `ThreadPoolExecutor`, the interpreter doesn't wait for them at exit.

    Args:
        call: called once per input, on another thread.
        given: the inputs.
        threads: number of concurrent calls.
        stop: called if the results are not consumed to the end, so that running calls can give up.

    Raises:
        Exception: the exception of the first call that fails.
    """
    results: list[Future[Found]] = [Future() for _ in given]
    left = deque(zip(given, results, strict=True))

    def work() -> None:
        while True:
            try:
                each, result = left.popleft()
            except IndexError:
                return
            try:
                result.set_result(call(each))
            except BaseException as error:
                result.set_exception(error)

    for _ in range(min(threads, len(given))):
        Thread(target=work, daemon=True).start()
    try:
        for result in results:
            while not wait([result], timeout=WAKE_SECONDS).done:
                pass
            yield result.result()
    except BaseException:
        left.clear()
        stop()
        raise
