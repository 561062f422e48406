"""Processes that run a study and may be killed: forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from anomia.study import Study

# Forking from the test's own process would copy thread pools that no longer have threads.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["anomia.running.execute", "tests.running.workers", "transformers.models.llama.modeling_llama"]
)


def start(study: Study, out: Path, **how: Any) -> Any:
    """A process that runs the study."""
    process = CONTEXT.Process(target=work, args=(study.model_dump_json(), out), kwargs=how)
    process.start()
    return process


def work(
    study: str,
    out: Path,
    *,
    kill_at_rename: int | None = None,
    after: bool = False,
    errors: Path | None = None,
) -> None:
    """Runs a study in shards of two; exits with 2 and one line on a deliberate error.

    kill_at_rename: the process kills itself at that rename, before or `after` it.
    """
    import torch

    from anomia.errors import AnomiaError
    from anomia.running import folder
    from anomia.running.execute import run_study
    from anomia.running.progress import PlainProgress

    torch.set_num_threads(1)
    folder.SHARD_ITEMS = 2
    if kill_at_rename is not None:
        _kill_at(kill_at_rename, after=after)
    try:
        run_study(Study.model_validate_json(study), out, progress=PlainProgress(lambda text: None))
    except AnomiaError as error:
        (errors or out.parent).joinpath(f"{os.getpid()}.error").write_text(str(error))
        sys.exit(2)


def _kill_at(number: int, *, after: bool) -> None:
    count, rename = 0, Path.replace

    def replace(self: Path, target: Any) -> Path:
        nonlocal count
        count += 1
        if count == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        made = rename(self, target)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    Path.replace = replace  # type: ignore[method-assign,assignment]


def start_command(study: Study, out: Path, said: Path) -> Any:
    """A process that runs the study as the command does; what it writes to the terminal goes into a file."""
    process = CONTEXT.Process(target=command, args=(study.model_dump_json(), out, said))
    process.start()
    return process


def command(study: str, out: Path, said: Path) -> None:
    """`anomia run` in shards of two."""
    import torch

    from anomia.cli import main
    from anomia.running import folder

    torch.set_num_threads(1)
    folder.SHARD_ITEMS = 2
    file = said.with_suffix(".yaml")
    file.write_text(study)
    # A child of the server ignores Ctrl-C; a command doesn't.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with said.open("w") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
        main(["run", str(file), "--out", str(out)])
