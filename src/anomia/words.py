"""Numbers and other packages' errors in sentences."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun. many: the noun's plural where it isn't `one` with an s.

    >>> counted(1, "matrix", "matrices"), counted(2000, "token")
    ('1 matrix', '2,000 tokens')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def innermost(error: BaseException) -> BaseException:
    """The exception that others were raised from, one from the next: checks of configurations wrap what they found."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def reason_of(error: BaseException) -> str:
    """What another package's exception says in one line, without what it is wrapped in."""
    first = innermost(error)
    return " ".join(str(first).split()).rstrip(".") or type(first).__name__
