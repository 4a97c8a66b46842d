"""One slot: a place, the worker process that is there, if any, and the job that it is at, if any.

A worker is started with its first job and serves many. When it dies, the job that it was at has failed, and
the next job gets a new worker. A worker on a GPU is replaced after any failed job, for some errors leave the
GPU unusable for the process that met them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from nteleport.errors import JobError
from nteleport.jobs.lease import leased
from nteleport.jobs.records import MetricRow
from nteleport.runner.attempt import JobOutcome, RunReporter, record_failure
from nteleport.runner.options import Message, Settings, receive, send, ticket_as_json
from nteleport.runner.places import Place
from nteleport.runner.queue import Ticket
from nteleport.training.loop import Clock

_SECONDS_TO_END = 5.0


class Slot:
    """One slot.

    Attributes:
        report: told of the jobs that are trained here.
        ticket: the present job; None while idle.
        connection: to the worker; None while there is none.
        ready: a worker was able to begin here.
    """

    def __init__(self, place: Place, report: RunReporter, settings: Settings, clock: Clock) -> None:
        self.report = report
        self.ticket: Ticket | None = None
        self.connection: Connection | None = None
        self._place, self._clock = place, clock
        self._settings = replace(settings, device=place.device)
        self._process: subprocess.Popen[bytes] | None = None
        self.ready = self._stopping = False
        self._on_cpu = True

    def begin(self, ticket: Ticket) -> None:
        """Let the worker train a job."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start_worker()
        self.ticket = ticket
        self._tell("job", ticket=ticket_as_json(ticket))

    def stop(self) -> None:
        """Let the worker stop at its next batch."""
        self._stopping = True
        self._tell("stop")

    def hear(self) -> JobOutcome | None:
        """Take one message of the worker; returns the outcome, if the present job has ended.

        If there is no outcome and no ticket afterwards, another process trains the job.

        Raises:
            JobError: the worker cannot begin.
        """
        try:
            assert self.connection is not None
            message = receive(self.connection)
        except (EOFError, OSError):
            return self._worker_died()
        return self._react(message)

    def hang_up(self) -> None:
        """Close the connection: an idle worker ends by itself then."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def close(self) -> None:
        """End the worker, at once if it is at a job."""
        self.hang_up()
        if self._process is None:
            return
        if self.ticket is not None:
            self._process.kill()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _react(self, message: Message) -> JobOutcome | None:
        kind, ticket = message.pop("kind"), self.ticket
        assert ticket is not None
        if kind == "refused":
            raise JobError(message["error"])
        if kind == "ready":
            self.ready, self._on_cpu = True, message["on_cpu"]
        elif kind == "started":
            self.report.job_started(ticket.job)
        elif kind == "resumed":
            self.report.resumed(message["epochs"])
        elif kind == "epoch":
            self.report.epoch_finished(MetricRow(**message["row"]))
        elif kind == "warning":
            self.report.warning(message["text"])
        else:
            self.ticket = None  # busy, or:
        return self._ended(ticket, message) if kind == "ended" else None

    def _ended(self, ticket: Ticket, message: Message) -> JobOutcome:
        outcome = JobOutcome(ticket.job, ticket.paths, **message)
        if outcome.state == "failed" and not outcome.skipped and not self._on_cpu:
            self.close()
        return outcome

    def _worker_died(self) -> JobOutcome | None:
        """The outcome of the job that the worker was at; None if another process has taken it over."""
        ticket, process = self.ticket, self._process
        assert ticket is not None
        assert process is not None
        self.close()
        self.ticket = None
        how = _how_it_ended(process.returncode)
        if self._stopping:
            return JobOutcome(ticket.job, ticket.paths, "stopped")
        if not self.ready:
            raise JobError(f"a worker process died {how} before it could begin; what it said is above")
        outcome = JobOutcome(ticket.job, ticket.paths, "failed", error=f"worker died {how}")
        with contextlib.suppress(OSError), leased(ticket.paths) as claim:  # which was that of the worker
            if claim is None:
                return None
            record_failure(outcome, self._clock)
        return outcome

    def _start_worker(self) -> None:
        ours, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nteleport.runner.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=self._place.environment(os.environ),
            process_group=0,  # Ctrl-C is for this process alone, which tells the workers
        )
        theirs.close()
        self.connection, self.ready = ours, False
        self._tell("settings", settings=self._settings.as_json())

    def _tell(self, kind: str, **content: Any) -> None:
        if self.connection is not None:
            with contextlib.suppress(OSError):  # it has died, which is noticed when it is listened to
                send(self.connection, kind=kind, **content)


def _how_it_ended(code: int) -> str:
    """The end of a process in words."""
    if code >= 0:
        return f"(exit code {code})"
    name = signal.Signals(-code).name
    reason = "; did memory run out?" if name == "SIGKILL" else ""
    return f"(signal {-code}, {name}{reason})"
