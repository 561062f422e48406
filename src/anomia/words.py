"""Wording of numbers and of other packages' errors."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun. many: the plural, if it isn't `one` with an s.

    >>> counted(1, "matrix", "matrices"), counted(2000, "token")
    ('1 matrix', '2,000 tokens')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def percent(share: float) -> str:
    """A share in whole per cent, with a true minus sign.

    >>> percent(0.276), percent(-0.1)
    ('28 %', '−10 %')
    """
    return f"{100 * share:.0f} %".replace("-", "−")


def innermost(error: BaseException) -> BaseException:
    """The original exception at the end of the `__cause__` chain; checks of configurations wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def reason_of(error: BaseException) -> str:
    """The message of another package's original exception, in one line."""
    first = innermost(error)
    return " ".join(str(first).split()).rstrip(".") or type(first).__name__
