"""What a model's program can't do: use the network, start processes, write, signal, run on, eat memory, or pass by ending early."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from anomia.errors import StudyError
from anomia.items import sandbox
from anomia.items.sandbox import passes, refuse_unsafe


@pytest.fixture(autouse=True)
def _sandboxed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sandbox.OUTSIDE, raising=False)
    refuse_unsafe.cache_clear()
    try:
        refuse_unsafe()
    except StudyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 + 1 == 2",
        "import math, re, json, random, itertools, collections, functools, heapq, bisect, string, datetime, decimal, fractions, statistics, hashlib, copy, typing, dataclasses, operator, time\nassert math.sqrt(9) == 3",
        "print('x' * 10**6)\nimport time; time.sleep(0.01)",
        "assert open(__import__('os').__file__).read()",
        "assert __name__ != '__main__'",
    ],
)
def test_computations_run(program: str) -> None:
    assert passes(program)


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 + 1 == 3",
        "def f(:",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "import os\nos.write(1, b'0' * 32)\nos._exit(0)",
        "import numpy",
        "\0",
    ],
)
def test_an_early_end_is_not_a_pass(program: str) -> None:
    assert not passes(program)


def test_the_network_is_out_of_reach() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert not passes(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")
        # Not through libc, either: 41 is socket on x86-64, 198 on ARM64.
        raw = "import ctypes\nlibc = ctypes.CDLL(None)\nassert max(libc.syscall(n, 2, 1, 0) for n in (41, 198)) >= 0"
        assert not passes(raw)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos.fork()",
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.execv('/bin/true', ['true'])",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os, signal\nos.kill(os.getppid(), 0)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    ],
)
def test_other_processes_are_out_of_reach(program: str) -> None:
    before = threading.active_count()
    assert not passes(program)
    assert threading.active_count() <= before


def test_nothing_can_be_written(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    for program in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "open('here', 'w')",
        f"open({str(kept)!r}, 'a')",
        f"open({str(kept)!r}, 'r+')",
        f"import os\nos.remove({str(kept)!r})",
        f"import os\nos.truncate({str(kept)!r}, 0)",
        f"import os\nos.rename({str(kept)!r}, {str(tmp_path / 'moved')!r})",
        f"import os\nos.mkdir({str(tmp_path / 'folder')!r})",
        f"import os\nos.symlink('/', {str(tmp_path / 'link')!r})",
        f"import os\nos.chmod({str(kept)!r}, 0)",
        f"import os\nos.utime({str(kept)!r}, (0, 0))",
        f"import os\nos.open({str(tmp_path)!r}, os.O_TMPFILE | os.O_RDWR)",
    ):
        assert not passes(program), program
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "as it was"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "x = []\nwhile True: x.append('x' * 10**7)",
        "x = 'x' * 2**30",
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        "def f(): f()\nf()",
        "10 ** 10 ** 10",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_time_and_memory_end(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 6.0)
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 1)
    began = time.monotonic()
    assert not passes(program)
    assert time.monotonic() - began < 30


def test_the_environment_and_the_folder_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert passes("import os\nassert 'HF_TOKEN' not in os.environ and not os.listdir()")
    assert passes("import os\nassert len(os.environ) <= 3")
    assert os.environ["HF_TOKEN"] == "secret"


def test_results_repeat() -> None:
    assert {passes("assert list({'a', 'b', 'c', 'd'})[0] == 'a'") for _ in range(3)} in ({True}, {False})


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "vax")
    refuse_unsafe.cache_clear()
    with pytest.raises(StudyError, match=r"on vax.*ANOMIA_CODE_SANDBOX=outside"):
        passes("1")
    monkeypatch.setenv(sandbox.OUTSIDE, "outside")
    refuse_unsafe.cache_clear()
    assert passes("import math")
    assert not passes("1 / 0")


def test_a_sandbox_that_leaks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_filter", lambda of: b"")
    refuse_unsafe.cache_clear()
    with pytest.raises(StudyError, match="lets through opening a socket"):
        passes("1")
    refuse_unsafe.cache_clear()
