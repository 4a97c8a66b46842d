"""One slot: a place, its worker process, if any, and the job that the worker is training, if any.

A worker is started with its first job and serves many. When it dies, the job it was training has failed, and
the next job gets a new worker. A worker on a GPU is replaced after any failed job, since some errors leave
the GPU unusable for the process in which they occurred.
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
from pathlib import Path

from nteleport.errors import JobError
from nteleport.jobs.events import Event, JobEnded, Report
from nteleport.jobs.lease import leased
from nteleport.jobs.options import RunOptions
from nteleport.runner.attempt import known_outcome, record_failure
from nteleport.runner.messages import Busy, Ready, Refused, Stop
from nteleport.runner.places import Place
from nteleport.runner.queue import Ticket
from nteleport.training.loop import Clock

_SECONDS_TO_END = 5.0


class Slot:
    """One slot.

    Attributes:
        ticket: the current job; None while idle.
        connection: to the worker; None while there is none.
        ready: whether a worker was able to start here.
    """

    def __init__(self, place: Place, out: Path, options: RunOptions, report: Report, clock: Clock) -> None:
        self.ticket: Ticket | None = None
        self.connection: Connection | None = None
        self._place, self._out, self._report, self._clock = place, out, report, clock
        self._options = replace(options, device=place.device)
        self._process: subprocess.Popen[bytes] | None = None
        self.ready = self._stopping = False
        self._on_cpu = True

    def begin(self, ticket: Ticket) -> None:
        """Let the worker train a job."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start_worker()
        self.ticket = ticket
        self._tell(ticket)

    def stop(self) -> None:
        """Let the worker stop at its next batch."""
        self._stopping = True
        self._tell(Stop())

    def hear(self) -> JobEnded | None:
        """Receive one message from the worker; returns the outcome if the current job has ended.

        If there is no outcome and no ticket afterwards, another process is training the job.

        Raises:
            JobError: the worker cannot start.
        """
        try:
            assert self.connection is not None
            message = self.connection.recv()
        except (EOFError, OSError):
            return self._worker_died()
        return self._react(message)

    def hang_up(self) -> None:
        """Close the connection: an idle worker then ends by itself."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def close(self) -> None:
        """End the worker, immediately if it is training."""
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

    def _react(self, message: Ready | Refused | Busy | Event) -> JobEnded | None:
        match message:
            case Refused(error):
                raise JobError(error)
            case Ready(on_cpu):
                self.ready, self._on_cpu = True, on_cpu
            case Busy():
                self.ticket = None
            case JobEnded():
                self.ticket = None
                if message.state == "failed" and not message.skipped and not self._on_cpu:
                    self.close()
                return message
            case _:
                self._report(message)
        return None

    def _worker_died(self) -> JobEnded | None:
        """The outcome of the job that the worker was training; None if another process has taken it over."""
        ticket, process = self.ticket, self._process
        assert ticket is not None
        assert process is not None
        self.close()
        self.ticket = None
        how = _how_it_ended(process.returncode)
        if self._stopping:
            return JobEnded(ticket.job, ticket.paths, "stopped")
        if not self.ready:
            raise JobError(f"a worker process died {how} before it could start; its output is above")
        outcome = JobEnded(ticket.job, ticket.paths, "failed", error=f"worker died {how}")
        with contextlib.suppress(OSError), leased(ticket.paths) as lease:  # the lease of the dead worker
            if lease is None:
                return None
            ended = known_outcome(ticket, redo=False)
            if ended is not None and ended.state != "failed" and ticket.ended_since:
                return replace(ended, skipped=False)  # it died after it had written the result
            record_failure(outcome, self._clock)
        return outcome

    def _start_worker(self) -> None:
        ours, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nteleport.runner.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=self._place.environment(os.environ),
            process_group=0,  # Ctrl-C reaches only this process, which stops the workers
        )
        theirs.close()
        self.connection, self.ready = ours, False
        self._tell((self._out, self._options))

    def _tell(self, message: object) -> None:
        if self.connection is not None:
            with contextlib.suppress(OSError):  # it has died, which is noticed at the next read
                self.connection.send(message)


def _how_it_ended(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"(exit code {code})"
    name = signal.Signals(-code).name
    reason = "; did memory run out?" if name == "SIGKILL" else ""
    return f"(signal {-code}, {name}{reason})"
