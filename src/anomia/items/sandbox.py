"""Run a program that a model wrote: without network, files to write, other processes, or much time and memory.

The program runs in a Python process of its own, in an empty folder and a clean environment, with limits on processor
time, memory and open files, behind a seccomp filter that lets through only system calls that a computation needs. So
it can't open a socket, start a process or thread, signal one, or open a file for writing. It can read files, and has
no way to send what it reads. Its tests run in the same process, so a program that is written for it can claim to pass.
Linux on x86-64 and ARM64 only; elsewhere nothing runs unless the environment variable `ANOMIA_CODE_SANDBOX=outside`
says that the machine itself is the sandbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from anomia.errors import StudyError

OUTSIDE = "ANOMIA_CODE_SANDBOX"
CPU_SECONDS = 4
WALL_SECONDS = 12.0
MEMORY_BYTES = 512 * 2**20
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # refused calls fail with EPERM
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND; the same on both architectures.
_WRITES = 0x1 | 0x2 | 0x40 | 0x200 | 0x400
_TERMINAL_SIZE_AND_KIND, _FD_FLAGS = (0x5401, 0x5451), (1, 2, 3, 1030)


class _Architecture(NamedTuple):
    """Numbers of system calls. opens: those with flags, and which argument these are."""

    audit: int
    allowed: Sequence[int]
    opens: Sequence[tuple[int, int]]
    ioctl: int
    fcntl: int


# read, write, close, stat, fstat, lstat, poll, lseek, mmap, mprotect, munmap, brk, signals' handlers, pread64, readv,
# writev, access, sched_yield, mremap, madvise, dup, nanosleep, getpid, exit, uname, getcwd, readlink, clocks, user and
# group ids, futex, getdents64, exit_group, …
_ARCHITECTURES = {
    "x86_64": _Architecture(
        0xC000003E,
        (
            0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 24, 25, 28, 32, 35, 39, 60, 63, 79, 89,
            96, 98, 99, 100, 102, 104, 107, 108, 131, 158, 186, 202, 204, 217, 218, 228, 229, 230, 231, 262, 267, 269,
            270, 271, 273, 318, 324, 332, 334, 439,
        ),
        ((2, 1), (257, 2)), 16, 72,
    ),
    "aarch64": _Architecture(
        0xC00000B7,
        (
            17, 23, 48, 57, 61, 62, 63, 64, 65, 66, 67, 72, 73, 78, 79, 80, 93, 94, 96, 98, 99, 101, 113, 114, 115, 123,
            124, 132, 134, 135, 139, 153, 160, 165, 169, 172, 174, 175, 176, 177, 178, 179, 214, 215, 216, 222, 226,
            233, 278, 283, 291, 293, 439,
        ),
        ((56, 2),), 29, 25,
    ),
}  # fmt: skip

# The start of the child process. It says the nonce only after the program's last line.
_RUNNER = """
import ctypes, json, os, resource, sys
job = json.load(sys.stdin)
for name, value in job["limits"].items():
    limit = getattr(resource, name, None)
    if limit is not None:
        resource.setrlimit(limit, (value, value))
code = bytes.fromhex(job["filter"])
if code:
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
    libc = ctypes.CDLL(None, use_errno=True)
    wide = ctypes.c_ulong
    if libc.prctl(38, wide(1), wide(0), wide(0), wide(0)) or libc.prctl(
        22, wide(2), ctypes.byref(Filter(len(code) // 8, code)), wide(0), wide(0)
    ):
        os._exit(3)
class Nowhere:
    encoding = "utf-8"
    def write(self, text):
        return len(text)
    def flush(self):
        pass
sys.stdout = sys.stderr = Nowhere()
sys.argv = ["program"]
nonce, program = job["nonce"].encode(), job["program"]
del job, code
try:
    exec(compile(program, "program", "exec"), {"__name__": "program"})
except BaseException:
    os._exit(1)
os.write(1, nonce)
os._exit(0)
"""


def passes(program: str) -> bool:
    """Whether a program runs to its last line without an error, within the limits.

    Raises:
        StudyError: programs can't be run safely on this machine.
    """
    refuse_unsafe()
    return _run(program, filtered=not _is_outside())


@cache
def refuse_unsafe() -> None:
    """Refuse to run anything if this machine's sandbox lets through what it must not.

    Raises:
        StudyError: it does, or there is none; the message says what to do.
    """
    if _is_outside():
        return
    fault = _fault()
    if fault:
        raise StudyError(
            f"run_code: programs that models write can't be run safely here: {fault}. Run this in a container or "
            f"virtual machine without network and without files that matter, and set {OUTSIDE}=outside there"
        )


def _is_outside() -> bool:
    return os.environ.get(OUTSIDE) == "outside"


# Each must fail in the sandbox.
_ATTEMPTS = {
    "opening a socket": "import socket\nsocket.socket()",
    "starting a process": "import os\nif os.fork() == 0: os._exit(0)",
    "writing a file": "open('x', 'w')",
    "signalling a process": "import os\nos.kill(os.getppid(), 0)",
}


def _fault() -> str:
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return f"the sandbox needs Linux on x86-64 or ARM64, and this is {platform.system()} on {platform.machine()}"
    if not _run("import math, re, collections, itertools\nassert math.gcd(4, 6) == 2", filtered=True):
        return "the system refuses seccomp filters, or a harmless program fails behind one"
    let_through = [name for name, program in _ATTEMPTS.items() if _run(program, filtered=True)]
    return f"the sandbox lets through {', '.join(let_through)}" if let_through else ""


def _run(program: str, *, filtered: bool) -> bool:
    nonce = secrets.token_hex(16)
    limits = {
        "RLIMIT_CPU": CPU_SECONDS, "RLIMIT_AS": MEMORY_BYTES, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 32,
    }  # fmt: skip
    # Only where nothing else does: it counts all processes of the user.
    if not filtered:
        limits["RLIMIT_NPROC"] = 0
    job = {
        "nonce": nonce,
        "program": program,
        "limits": limits,
        "filter": _filter(_ARCHITECTURES[platform.machine()]).hex() if filtered else "",
    }
    # A fixed hash seed, so that the order of sets is the same each time.
    environment = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", "-c", _RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            close_fds=True,
            start_new_session=True,
        )
        timer = threading.Timer(WALL_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as stream:
                stream.write(json.dumps(job).encode())
            # No more than this, however much the program writes.
            return process.stdout.read(len(nonce) + 1) == nonce.encode()
        finally:
            timer.cancel()
            timer.join()
            process.kill()
            if process.stdout is not None:
                process.stdout.close()
            process.wait()


def _filter(of: _Architecture) -> bytes:
    """The filter as a program of classic BPF: each system call that isn't allowed fails."""

    def returns(what: int) -> tuple[int, int, int, int]:
        return (_RETURN, 0, 0, what)

    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),  # architecture
        (_EQUAL, 1, 0, of.audit),
        returns(_KILL),
        (_LOAD, 0, 0, 0),  # number of the call
        (_AT_LEAST, 0, 1, 0x40000000),  # x32's numbers
        returns(_REFUSE),
    ]
    for number in of.allowed:
        code += [(_EQUAL, 0, 1, number), returns(_ALLOW)]
    for number, argument in of.opens:
        code += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, 16 + 8 * argument),
            (_ANY_BIT, 1, 0, _WRITES),
            returns(_ALLOW),
            returns(_REFUSE),
        ]
    for number, values in ((of.ioctl, _TERMINAL_SIZE_AND_KIND), (of.fcntl, _FD_FLAGS)):
        code += [(_EQUAL, 0, 2 * len(values) + 2, number), (_LOAD, 0, 0, 16 + 8)]
        code += _each(values)
        code += [returns(_REFUSE)]
    code += [returns(_REFUSE)]
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _each(values: Iterable[int]) -> list[tuple[int, int, int, int]]:
    return [part for value in values for part in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
