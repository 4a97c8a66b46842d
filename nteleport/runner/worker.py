"""A worker: the process of one slot. It trains one job after another, as instructed by its command.

`nteleport.runner.slot` starts it as `python -m nteleport.runner.worker FD`, where FD is its connection; its
environment, with the visible devices and the number of threads, is set before Python starts, and so before
torch is imported. It imports torch once for all its jobs. Other state that a job could leave to the next
(random states, arithmetic settings, compiled graphs) is reset by the training itself, so that results are
those of a fresh process.

Signals do not stop a worker: its command, which receives them too, does. When the command has ended, the
connection closes; the worker stops at the next batch, or at the latest after `GRACE` seconds. The output of
libraries during the training of a job, and of a crash, goes to the log of that job.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from nteleport.errors import NTeleportError
from nteleport.jobs.events import Event, JobEnded, JobStarted
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.runner.messages import Busy, Ready, Refused, Stop
from nteleport.runner.queue import Ticket
from nteleport.runner.signals import stop_signals

GRACE = 30.0
"""Seconds that a worker whose command has ended has to reach the end of a batch."""


class Inbox:
    """Reads the connection in a thread, so that a stop is noticed in the middle of a job."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._jobs = connection, SimpleQueue[Ticket | None]()
        self._stop = False
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Ticket | None:
        """Wait for the next job; None when no more will come."""
        return self._jobs.get()

    def stop_requested(self) -> bool:
        return self._stop

    def _read(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Stop):
                    self._stop = True
                else:
                    self._jobs.put(message)
        except (EOFError, OSError):  # the command has ended, or was killed
            self._stop = True
            self._jobs.put(None)
            time.sleep(GRACE)
            os._exit(1)


class _Report:
    """Sends every event to the command, and redirects output to the log of the current job."""

    def __init__(self, connection: Connection, out: Path) -> None:
        self._connection, self._out = connection, out
        self._standard_error = os.dup(sys.stderr.fileno())

    def __call__(self, event: Event | Ready | Refused | Busy) -> None:
        if isinstance(event, JobStarted):
            log = JobPaths(self._out, event.job.name).log
            with contextlib.suppress(OSError):
                _write_output_to(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
        elif isinstance(event, JobEnded):
            _write_output_to(os.dup(self._standard_error))
        with contextlib.suppress(OSError):  # the command has ended: the inbox notices too and stops the job
            self._connection.send(event)


def main(arguments: Sequence[str]) -> None:
    """Serve the connection whose file descriptor is the only argument."""
    faulthandler.enable()
    for number in stop_signals():
        signal.signal(number, lambda number, frame: None)
    _write_output_to(os.dup(sys.stderr.fileno()))  # standard output belongs to the command
    connection = Connection(int(arguments[0]))
    out, options = connection.recv()
    inbox, send = Inbox(connection), _Report(connection, out)
    try:
        _serve(inbox, send, out, options)
    except NTeleportError as error:
        send(Refused(str(error)))


def _serve(inbox: Inbox, send: _Report, out: Path, options: RunOptions) -> None:
    from nteleport.plugins import admit
    from nteleport.runner.attempt import attempt
    from nteleport.trackers.reporting import tracking
    from nteleport.training.device import find_device

    admit(options.plugins)
    report = tracking(send, options.trackers, out)
    send(Ready(on_cpu=find_device(options.device).type == "cpu"))
    while (ticket := inbox.next()) is not None:
        outcome = attempt(ticket, options, report, stop_requested=inbox.stop_requested)
        if outcome is None:
            send(Busy())
        else:
            report(outcome)


def _write_output_to(descriptor: int) -> None:
    """Redirect standard output and standard error to `descriptor`."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
