"""The order of jobs for a command: its jobs in turn, then again those that another command was training.

Two commands on one folder share the work through the leases on disk alone. A job leased by another command is
postponed and offered again later: by then it is over, or its owner has died and it is free. So a command ends
only when all its jobs have ended, whoever trained them. No torch is imported.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths

PATIENCE = 2.0
"""Seconds until a job that is being trained elsewhere is checked again."""

Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class Ticket:
    """A job to be done by this command.

    Attributes:
        job: what to train.
        paths: where its files are.
        stamp: identifies the `result.json` that existed when the command started, None if there was none. A
            different one means that another command has ended the job since: then this command does not
            repeat it, even if it failed or was to be redone.
    """

    job: Job
    paths: JobPaths
    stamp: Stamp

    @classmethod
    def issue(cls, job: Job, out: Path) -> Ticket:
        paths = JobPaths(out, job.name)
        return cls(job, paths, _stamp(paths))

    @property
    def ended_since(self) -> bool:
        """Whether another command has ended the job since this one started."""
        stamp = _stamp(self.paths)
        return stamp is not None and stamp != self.stamp


class Queue:
    """The waiting tickets.

    Args:
        tickets: in the order in which to train them.
        seconds: the clock.
    """

    def __init__(self, tickets: Iterable[Ticket], seconds: Callable[[], float] = time.monotonic) -> None:
        self._fresh = deque(tickets)
        self._put_off: deque[tuple[float, Ticket]] = deque()
        self._seconds = seconds
        self._announced = False

    def next(self) -> Ticket | None:
        """The next ticket; None if none is available at the moment."""
        if self._fresh:
            return self._fresh.popleft()
        if self._put_off and self._put_off[0][0] <= self._seconds():
            return self._put_off.popleft()[1]
        return None

    def put_off(self, ticket: Ticket) -> None:
        """Offer `ticket` again later."""
        self._put_off.append((self._seconds() + PATIENCE, ticket))

    def announcement(self) -> str | None:
        """What the command waits for, reported once, when all remaining jobs are being trained elsewhere."""
        if self._fresh or not self._put_off or self._announced:
            return None
        self._announced = True
        return f"other processes are training the last {len(self._put_off)} of these jobs; waiting for them"

    def __len__(self) -> int:
        return len(self._fresh) + len(self._put_off)


def _stamp(paths: JobPaths) -> Stamp:
    try:
        found = paths.result.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
