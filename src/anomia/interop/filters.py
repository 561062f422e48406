"""Match a log with base's log, and make both use the same lm-evaluation-harness filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anomia.errors import DataError
from anomia.interop.samples import SampleFile


def counterpart(base: Sequence[SampleFile], file: SampleFile) -> SampleFile | None:
    """Base's log with the most of the same questions in the same form, preferring the same task; None if none match."""
    mine = _names(file)
    for each in base:
        # Most of the questions are enough: comparing every two logs of hundreds of tasks takes minutes.
        if (each.form, each.task) == (file.form, file.task) and 2 * len(mine & _names(each)) > len(mine):
            return each
    shared = [
        (len(mine & _names(each)), each.task == file.task, -number)
        for number, each in enumerate(base)
        if each.form == file.form
    ]
    most = max(shared, default=None)
    return base[-most[2]] if most and most[0] else None


def with_filter_of_base(
    base: Sequence[SampleFile],
    file: SampleFile,
    read: Callable[[str], SampleFile | None],
    *,
    model: str,
    given: str | None = None,
) -> SampleFile:
    """A compressed model's log, read with the filter that graded base's log.

    read: reads the same log with another filter. given: the filter that the user asked for.

    Raises:
        DataError: the log lacks base's filter, or only one of the two logs has the user's. Losses could then come
            from the filter.
    """
    other = counterpart(base, file)
    if other is None or other.filter == file.filter:
        return file
    if given is None and other.filter in file.filters:
        return read(str(other.filter)) or file
    both = [name for name in other.filters if name in file.filters]
    remedy = (
        f"give a filter that both have: --filter {both[0]}"
        if both
        else "no --filter is in both, so log both models with the same task"
    )
    raise DataError(
        f"import: base is graded through the filter {other.filter} ({other.path} has {', '.join(other.filters)}) and "
        f"{model} through {file.filter} ({file.path} has {', '.join(file.filters)}), so its losses may come from the "
        f"filter; {remedy}"
    )


def _names(file: SampleFile) -> set[tuple[str, str]]:
    return {key for sample in file.samples for key in sample.keys.items()}
