"""Calls in order, so many at a time; whoever stops does not wait for them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.endpoint.pool import in_order


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_results_come_in_the_order_of_the_inputs(given: list[int], threads: int) -> None:
    def call(number: int) -> int:
        time.sleep((number % 3) / 1000)
        return -number

    assert list(in_order(call, given, threads=threads, stop=pytest.fail)) == [-number for number in given]


def test_so_many_at_a_time() -> None:
    active, most, lock = 0, 0, threading.Lock()

    def call(number: int) -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.01)
        with lock:
            active -= 1

    list(in_order(call, range(20), threads=4, stop=pytest.fail))
    assert most == 4


@pytest.mark.parametrize("how", ["fault", "left"])
def test_what_is_not_taken_to_its_end_is_stopped(how: str) -> None:
    called, stopped = [], threading.Event()

    def call(number: int) -> int:
        called.append(number)
        if number == 3 and how == "fault":
            raise ValueError("three")
        stopped.wait(0.05)
        return number

    results = in_order(call, range(1000), threads=2, stop=stopped.set)
    if how == "fault":
        with pytest.raises(ValueError, match="three"):
            list(results)
    else:
        next(results)
        results.close()
    assert stopped.is_set()
    assert len(called) < 20


WAITS = """
import http.server, os, signal, threading, time
from anomia.endpoint.abilities import Abilities
from anomia.endpoint.client import Client
from anomia.endpoint.pool import in_order

# A shell starts what runs in its background with interrupts switched off.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Hangs(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        os.write(1, b"asked" + os.linesep.encode())
        time.sleep(600)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hangs)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Client(f"http://127.0.0.1:{server.server_address[1]}/v1", "tiny")
list(in_order(client.complete, ["a", "b", "c"], threads=2, stop=client.stop))
"""


def test_an_interrupted_process_ends_while_a_server_is_silent() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert errors.rstrip().endswith("KeyboardInterrupt")
