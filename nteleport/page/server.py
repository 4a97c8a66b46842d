"""The page of a folder in use, served on this machine: it is made anew when something has changed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nteleport.errors import NTeleportError, ResultsError
from nteleport.jobs.paths import printable
from nteleport.jobs.state import read_status
from nteleport.jobs.tuning import tuning_table
from nteleport.page.anonymous import without_names
from nteleport.page.html import as_html
from nteleport.page.parts import Report
from nteleport.page.report import read_report

__all__ = ["HOST", "Live", "server"]

HOST = "127.0.0.1"

_NAMES = (HOST, "localhost")
"""How a browser on this machine calls it. Any other name was made to point here from elsewhere."""


class Live:
    """The latest page of a folder, and what it was made from.

    Args:
        directory: the folder.
        every: seconds; files are looked at no more often.
        options: of `nteleport.page.report.read_report`.
    """

    def __init__(self, directory: Path, every: float, **options: Any) -> None:
        self._directory, self._every, self._options = directory, every, options
        self._lock = threading.Lock()
        self._looked, self._version, self._made, self._page = float("-inf"), "", "", ""

    def version(self) -> str:
        """A digest of how all jobs stand."""
        with self._lock:
            return self._current()

    def page(self) -> str:
        """The page of the current version."""
        with self._lock:
            version = self._current()
            if self._made != version:
                self._page, self._made = self._make(), version
            return self._page

    def _current(self) -> str:
        if time.monotonic() - self._looked >= self._every:
            self._version, self._looked = _version(self._directory), time.monotonic()
        return self._version

    def _make(self) -> str:
        try:
            report = read_report(self._directory, **self._options)
        except NTeleportError as error:  # such as a folder without a job as yet
            report = Report(printable(self._directory.name), "nothing to show yet", (str(error),), ())
            if self._options.get("anonymous"):
                report = without_names(report, [], [self._directory])
        return as_html(report, refresh=self._every)


def _version(directory: Path) -> str:
    try:
        found = [(each.job, str(each.state), each.epochs, each.error) for each in read_status(directory)]
    except NTeleportError as error:
        found = [(str(error), "", 0, "")]
    try:
        tuned = tuning_table(directory).stat().st_mtime_ns
    except OSError:
        tuned = 0
    return hashlib.sha256(repr((found, tuned)).encode()).hexdigest()


def server(live: Live, port: int = 0) -> ThreadingHTTPServer:
    """A server of `/`, the page, and `/version`, its version, on this machine only; port 0 is a free one.

    Raises:
        ResultsError: the port cannot be used.
    """
    answers: dict[str, tuple[str, Callable[[], str]]] = {
        "/": ("text/html; charset=utf-8", live.page),
        "/version": ("text/plain; charset=utf-8", live.version),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host", "").rpartition(":")[0] not in _NAMES:
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            if self.path not in answers:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            kind, answer = answers[self.path]
            body = answer().encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the terminal belongs to the command."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ResultsError(
            f"cannot serve on port {port} of {HOST}: {error.strerror}; expected a free port"
        ) from error
