"""`anomia view`: who is answered, what is answered, and that it is the same page."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.errors import RunError
from anomia.measure.fates import FATES
from anomia.measure.results import in_study_order
from anomia.report.page.explorer import PROBES, graded, index, item_whole
from anomia.report.server_rows import Filter, Rows, read_filter
from anomia.run_folder import RunFolder
from tests.report.synthetic import write_run

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("view") / "a 'run' [1] *",
        languages=("arabic", "thai"),
        items=40,
        oracle_limit=20,
    )


@pytest.fixture(scope="module")
def rows(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    found = Rows(run.resolve(), tmp_path_factory.mktemp("scratch"))
    yield found
    found.close()


def test_duckdb_numbers_and_grades_as_the_embedded_index_does(rows: Rows, run: Path) -> None:
    records = in_study_order(RunFolder(run).records(), RunFolder(run).study())
    columns, _ = index([(records, RunFolder(run).items())])
    served = rows.page(Filter(), 0, 500)
    assert len(served) == len(columns["rows"]["item"]) == rows.index()["size"] == 160
    for number, row in enumerate(served):
        item = columns["rows"]["item"][number]
        assert row["number"] == number
        assert row["id"] == columns["items"]["id"][item]
        assert row["arm"] == columns["arms"][columns["rows"]["arm"][number]][1]
        for name in ("fate", "rank", "said"):
            assert row[name] == columns["rows"][name][number], (name, row)
        assert (row["baseRank"], row["baseSaid"]) == (
            columns["items"]["rank"][item],
            columns["items"]["said"][item],
        )
        for name in PROBES:
            assert row["verdicts"][name] == (
                int(columns["before"][name][item]),
                int(columns["after"][name][number]),
            )


def test_an_item_is_the_same_served_and_embedded(rows: Rows, run: Path) -> None:
    number = 57
    row = rows.page(Filter(), number, 1)[0]
    key = (pl.col("language") == row["language"]) & (pl.col("item_id") == row["id"])
    item = RunFolder(run).items().filter(key).to_dicts()[0]
    answers = in_study_order(RunFolder(run).records(), RunFolder(run).study()).filter(key).to_dicts()
    assert rows.item(number) == item_whole(item, answers)
    assert rows.item(10_000) is None


filters = st.builds(
    dict,
    search=st.sampled_from(["", "thai-00", "ARABIC 3", "'; DROP TABLE rows; --", "%_$limit"]),
    arm=st.sampled_from([None, "wanda:0.5", "no such arm"]),
    language=st.sampled_from([None, "thai", "' OR 1=1 --"]),
    fate=st.sampled_from([None, 0, 1, 4]),
    rank=st.sampled_from([(None, None), (1, 1), (2, None), (None, 2000)]),
    probes=st.dictionaries(
        st.sampled_from(list(PROBES)), st.sampled_from(["11", "12", "21", "22"]), max_size=2
    ),
)


@settings(max_examples=60, deadline=None)
@given(wanted=filters)
def test_filters_pick_what_polars_picks(rows: Rows, run: Path, wanted: dict[str, Any]) -> None:
    first, last = wanted.pop("rank")
    found = read_filter(json.dumps(wanted | {"from": first, "to": last}))
    frame = graded(RunFolder(run).records()).with_columns(fate=pl.col("fate").fill_null("none"))
    base = frame.filter(pl.col("arm") == "base")
    kept = frame.filter(pl.col("arm") != "base").join(base, on=["language", "item_id"], suffix="_base")
    for name in ("arm", "language"):
        if wanted[name] is not None:
            kept = kept.filter(pl.col(name) == wanted[name])
    if wanted["fate"] is not None:
        kept = kept.filter(pl.col("fate") == (*FATES, "none")[wanted["fate"]])
    kept = kept.filter(pl.col("rank").is_between(first or 1, last or 10**9))
    for name, pair in wanted["probes"].items():
        kept = kept.filter(pl.col(f"verdict_{name}_base") + pl.col(f"verdict_{name}") == pair)
    for word in wanted["search"].lower().split():
        texts = pl.concat_str("item_id", "question", "gold", "open_text", "open_text_base", separator="\n")
        kept = kept.filter(texts.str.to_lowercase().str.contains(word, literal=True))
    assert rows.count(found)["total"] == len(kept)
    assert {(row["arm"], row["id"]) for row in rows.page(found, 0, 500)} == set(
        kept.select("arm", "item_id").rows()
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}x", '{"probes": {"open; DROP TABLE rows": "21"}}', '{"fate": 9}', '{"from": -1}', '{"who": 1}', '{"search": "' + "x" * 600 + '"}'],
)  # fmt: skip
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(ValueError, match="no"):
        read_filter(text)


def test_nothing_but_the_run_can_be_read(rows: Rows) -> None:
    for query in ("SELECT * FROM read_text('/etc/passwd')", "COPY (SELECT 1) TO '/tmp/x.csv'", "SET enable_external_access = true"):  # fmt: skip
        with pytest.raises(Exception, match=r"(?i)permission|disabled|lock"):
            rows._database.cursor().execute(query)


class Served(NamedTuple):
    process: subprocess.Popen[str]
    port: int
    token: str

    def ask(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest("GET", path, skip_host=True)
        for name, value in {"Host": f"127.0.0.1:{self.port}", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return (
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            answer.read().decode(),
        )

    @property
    def cookie(self) -> str:
        return f"anomia_{self.port}={self.token}"


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, "-m", "anomia.cli", "view", str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    # A server that doesn't come up must not hang the tests.
    watch = threading.Timer(180, process.kill)
    watch.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", line)
    assert found, line + (process.stderr.read() if process.stderr else "")
    yield Served(process, int(found[1]), found[2])
    watch.cancel()
    process.kill()
    process.wait()


def test_the_token_opens_and_leaves_the_address(served: Served) -> None:
    status, headers, _ = served.ask(f"/?token={served.token}")
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"].startswith(f"{served.cookie}; HttpOnly")
    assert "samesite=strict" in headers["set-cookie"].lower()
    status, headers, body = served.ask("/", Cookie=served.cookie)
    assert status == 200
    assert "connect-src 'self'" in body
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"


def test_strangers_are_refused(served: Served) -> None:
    for path in (
        "/",
        "/api/index",
        "/api/rows",
        "/api/item?number=0",
        "/?token=wrong",
        f"/api/index?token={served.token}",
    ):
        assert served.ask(path)[0] == 403, path
    assert served.ask("/api/index", Cookie=f"anomia_{served.port}={served.token[:-1]}")[0] == 403
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert served.ask(f"/?token={served.token}", Host=host)[0] == 421, host
    assert served.ask("/api/index", Host=f"localhost:{served.port}", Cookie=served.cookie)[0] == 200


def test_no_path_leads_out_of_the_run(served: Served) -> None:
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "/study.yaml", "/api/../study.yaml", "//etc/passwd", "/api/item?number=../0", "/api/item?number=1e99"):  # fmt: skip
        status, _, body = served.ask(path, Cookie=served.cookie)
        assert status in (400, 404), path
        assert "root:" not in body
    status, _, body = served.ask("/api/rows?filter=%7B%7D&offset=0&limit=999999999", Cookie=served.cookie)
    assert (status, len(json.loads(body))) == (200, 160)


def test_no_other_interface_listens(served: Served) -> None:
    with socket.socket() as probe:
        probe.settimeout(2)
        # The whole of 127/8 is this machine; only the one address that was asked for answers.
        with pytest.raises(OSError):
            probe.connect(("127.0.0.2", served.port))


def test_the_served_page_filters_and_opens_items(served: Served, open_page: Open) -> None:
    page = open_page(f"http://127.0.0.1:{served.port}/?token={served.token}", figures=True)
    assert "token" not in page.url
    page.locator(".status", has_text="80 of 160 rows").wait_for()
    page.locator("#explorer").get_by_label("Language").select_option(label="thai")
    page.locator(".status", has_text="40 of 160 rows").wait_for()
    page.locator(".entry").nth(3).click()
    page.locator(".item .where", has_text="thai-0003").wait_for()
    assert page.locator(".item .passage mark").count() >= 1
    page.keyboard.press("j")
    page.locator(".item .where", has_text="thai-0004").wait_for()
    page.keyboard.press("a")
    page.wait_for_timeout(300)
    assert page.heard == []


def test_ctrl_c_ends_it_cleanly(served: Served) -> None:
    served.process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, err = served.process.communicate(timeout=20)
    assert served.process.returncode == 0, err
    assert "Traceback" not in out + err
    assert err.strip().endswith("ended")
    assert time.monotonic() - begin < 15


def test_the_first_arm_is_the_first_compressed_model_of_the_study(tmp_path: Path) -> None:
    arms = ("null:float32", "wanda:0.5", "checkpoint:some/model")
    run = write_run(tmp_path / "run", languages=("english",), items=2, arms=arms)
    wanted = ["wanda:0.5", "checkpoint:some/model", "null:float32"]
    folder = RunFolder(run)
    columns, _ = index([(in_study_order(folder.records(), folder.study()), folder.items())])
    assert [arm for _, arm in columns["arms"]] == wanted
    (tmp_path / "scratch").mkdir()
    rows = Rows(run.resolve(), tmp_path / "scratch")
    assert [arm for _, arm in rows.index()["arms"]] == wanted
    assert [row["arm"] for row in rows.page(Filter(), 0, 500)] == [arm for arm in wanted for _ in range(2)]
    item = rows.item(0)
    assert item is not None
    assert [answer["arm"] for answer in item["answered"]] == ["base", *wanted]
    rows.close()


def test_a_run_without_records(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't be read"):
        Rows(tmp_path, tmp_path)
