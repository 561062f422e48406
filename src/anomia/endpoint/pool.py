"""Calls on several threads that nobody has to wait for: a run that is stopped ends at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")


def in_order(
    call: Callable[[Given], Found], given: Sequence[Given], *, threads: int, stop: Callable[[], None]
) -> Iterator[Found]:
    """What a call finds for each input, in the order of the inputs, so many at a time.

    The threads are daemons: unlike those of `ThreadPoolExecutor` no interpreter waits for them at its end.

    Args:
        call: made once for each input, on another thread.
        given: the inputs.
        threads: how many calls are made at a time.
        stop: called if the results are not taken to their end, so that calls under way can give up.

    Raises:
        Exception: that of the first call that fails.
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
            yield result.result()
    except BaseException:
        left.clear()
        stop()
        raise
