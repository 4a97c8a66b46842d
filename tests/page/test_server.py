"""The page of a folder in use: on this machine only, and new when a job has moved on."""

from __future__ import annotations

import html
import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.synthetic_results import make_job, write_job

from nteleport.errors import ResultsError
from nteleport.page.server import HOST, Live, server

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request("GET", path, headers={"Host": host or f"{HOST}:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    write_job(tmp_path, make_job(), epochs=2, state=None)
    with server(Live(tmp_path, 0.0)) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving.server_address[1]
        serving.shutdown()
        thread.join()


def test_a_job_that_moves_on_is_a_new_version(port: int, tmp_path: Path) -> None:
    status, page = get(port, "/")
    assert status == 200
    assert "1 job: 1 pending" in page
    assert "connect-src 'self'" in html.unescape(page)
    _, before = get(port, "/version")
    assert get(port, "/version") == (200, before)
    write_job(tmp_path, make_job(run=1), epochs=2)
    assert get(port, "/version")[1] != before
    assert "2 jobs: 1 pending, 1 finished" in get(port, "/")[1]


def test_no_other_file_and_no_other_name_is_served(port: int) -> None:
    assert get(port, "/report.html")[0] == 404
    assert get(port, "/../../etc/passwd")[0] == 404
    assert get(port, "/", "evil.example")[0] == 403
    assert get(port, "/", f"evil.example:{port}")[0] == 403
    assert get(port, "/version", "localhost:9999")[0] == 200  # a forwarded port


def test_a_folder_without_jobs_says_so_on_the_page(tmp_path: Path) -> None:
    assert "no jobs in" in Live(tmp_path, 0.0).page()


def test_a_port_in_use_is_an_error(port: int, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=f"port {port}"):
        server(Live(tmp_path, 0.0), port)
