"""The commands of some pages work, run on tiny models."""

from __future__ import annotations

import pytest

from tests.docs.commands import Command, Ran, Treatment, check, of, pages_of


@pytest.mark.slow
@pytest.mark.timeout(1800)
@of("run", pages=pages_of(1))
def test_run(command: Command, done: Treatment, ran: Ran) -> None:
    check(command, done, ran)
