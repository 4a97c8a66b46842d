"""A worker: the process of one slot. It trains one job after the other, as its command tells it to.

Started by `nteleport.runner.run` as `python -m nteleport.runner.worker FD`, where FD is its connection; its
environment, with the visible devices and the number of threads, is set before Python starts, and so before
torch is imported. It imports torch once for all its jobs. What else a job could leave behind for the next
(random states, rules of arithmetic, compiled graphs) is put back by the training itself, so that results are
those of a fresh process.

Signals do not stop a worker: its command does, which hears them too. When the command is gone, the closed
connection tells; the worker stops at the next batch, and in any case after a while. What libraries print
while a job is trained, and what a crash says, goes to the log of that job.
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
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from nteleport.errors import NTeleportError
from nteleport.jobs.paths import JobPaths
from nteleport.runner.options import Message, Settings, receive, send, ticket_from_json
from nteleport.runner.signals import stop_signals

if TYPE_CHECKING:
    from nteleport.jobs.job import Job
    from nteleport.jobs.records import MetricRow
    from nteleport.runner.attempt import Attempts, JobOutcome

GRACE = 30.0
"""Seconds in which a worker whose command is gone may reach the end of a batch."""


class Inbox:
    """Reads the connection in a thread, so that a stop is noticed in the middle of a job."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._jobs = connection, SimpleQueue[Message | None]()
        self._stop = False
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Message | None:
        """Wait for the next job; None when there is none to come."""
        return self._jobs.get()

    def stop_requested(self) -> bool:
        return self._stop

    def _read(self) -> None:
        try:
            while True:
                message = receive(self._connection)
                if message["kind"] == "stop":
                    self._stop = True
                else:
                    self._jobs.put(message)
        except (EOFError, OSError):  # the command has ended, or was killed
            self._stop = True
            self._jobs.put(None)
            time.sleep(GRACE)
            os._exit(1)


class Correspondent:
    """A `RunReporter` that passes everything on to the command; it points the output at the job's log."""

    def __init__(self, connection: Connection, out: Path) -> None:
        self._connection, self._out = connection, out
        self._standard_error = os.dup(sys.stderr.fileno())

    def run_started(self, jobs: Sequence[Job]) -> None: ...

    def job_started(self, job: Job) -> None:
        log = JobPaths(self._out, job.name).log
        with contextlib.suppress(OSError):
            _write_output_to(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
        self.tell("started")

    def resumed(self, epochs: int) -> None:
        self.tell("resumed", epochs=epochs)

    def epoch_finished(self, row: MetricRow) -> None:
        self.tell("epoch", row=asdict(row))

    def warning(self, text: str) -> None:
        self.tell("warning", text=text)

    def job_ended(self, outcome: JobOutcome) -> None:
        _write_output_to(os.dup(self._standard_error))
        told = ("state", "skipped", "error", "val_accuracy", "seconds", "ends_run")
        self.tell("ended", **{field: getattr(outcome, field) for field in told})

    def tell(self, kind: str, **content: Any) -> None:
        with contextlib.suppress(OSError):  # the command is gone: the inbox knows it too, and stops the job
            send(self._connection, kind=kind, **content)


def main(arguments: Sequence[str]) -> None:
    """Serve the connection whose file descriptor is the one argument."""
    faulthandler.enable()
    for number in stop_signals():
        signal.signal(number, lambda number, frame: None)
    _write_output_to(os.dup(sys.stderr.fileno()))  # standard output is for what the command says
    connection = Connection(int(arguments[0]))
    settings = Settings.from_json(receive(connection)["settings"])
    inbox = Inbox(connection)
    correspondent = Correspondent(connection, Path(settings.out))
    try:
        attempts = _attempts(settings, correspondent, inbox)
    except NTeleportError as error:
        correspondent.tell("refused", error=str(error))
        return
    correspondent.tell("ready", on_cpu=attempts.device.type == "cpu")
    _serve(inbox, correspondent, attempts, Path(settings.out))


def _attempts(settings: Settings, correspondent: Correspondent, inbox: Inbox) -> Attempts:
    from nteleport.runner.attempt import Attempts, RunReporter
    from nteleport.training.device import find_device

    report: RunReporter = correspondent
    if settings.trackers:
        from nteleport.trackers.reporting import TrackingReporter
        from nteleport.trackers.tracker import load_trackers

        report = TrackingReporter(correspondent, load_trackers(settings.trackers), Path(settings.out))
    return Attempts(
        device=find_device(settings.device),
        report=report,
        data_dir=settings.data_dir,
        save_weights=settings.save_weights,
        redo=settings.redo,
        stop_requested=inbox.stop_requested,
        command=settings.command,
    )


def _serve(inbox: Inbox, correspondent: Correspondent, attempts: Attempts, out: Path) -> None:
    from nteleport.runner.attempt import attempt

    while (message := inbox.next()) is not None:
        outcome = attempt(ticket_from_json(message["ticket"], out), attempts)
        if outcome is None:
            correspondent.tell("busy")
        else:
            attempts.report.job_ended(outcome)


def _write_output_to(descriptor: int) -> None:
    """Let standard output and standard error go there from now on."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
