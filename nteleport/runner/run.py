"""Running jobs: in turn in this process, or in parallel with one worker process per slot.

    command ── queue ──┬── slot ── connection ── worker process (nteleport.runner.worker)
                       ├── slot ── connection ── worker process
                       └── …

A job that is over is skipped, so repeating the command does what is missing; the run waits for a job that
another command is training. A failed job does not stop the others, unless requested. The leases on disk
decide who trains what, between slots as between commands: see `lease` and `queue`.

With slots, one loop hands out jobs, waits for messages from all workers and reacts. A stop is passed on to
the workers, which stop at their next batch. However this process ends, its workers end too: it kills those
that are training, and if it is killed itself, their connections close.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from nteleport.jobs.events import JobEnded, Report, RunStarted, Warned
from nteleport.jobs.job import Job
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import describe_new
from nteleport.jobs.state import job_state
from nteleport.plugins import Plugin, admitted
from nteleport.runner.attempt import attempt, known_outcome
from nteleport.runner.places import Place, places
from nteleport.runner.preparation import prepare
from nteleport.runner.queue import Queue, Ticket
from nteleport.runner.slot import Slot
from nteleport.trackers.reporting import tracking
from nteleport.training.loop import Clock
from nteleport.training.provenance import trained_with

_BETWEEN_LOOKS = 0.2


def run(
    jobs: Sequence[Job],
    out: Path,
    options: RunOptions,
    report: Report,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> list[JobEnded]:
    """Train every job that is not over, as many in parallel as the options say.

    Args:
        jobs: the jobs to train.
        out: the folder of their results.
        options: how to train them; missing data sets are downloaded.
        report: receives every event.
        stop_requested: called several times per second, and before each batch.
        clock: dates what is written.

    Returns:
        The outcome of each job, in the order of `jobs`; fewer if the run was stopped.

    Raises:
        NTeleportError: the run cannot start; nothing has been written then.
    """
    slots = places(options, os.environ)
    prepare(jobs, options)
    if not options.redo:
        for warning in changed_plugins(jobs, out):
            report(Warned(warning))
    run_them = run_here if len(slots) == 1 and slots[0].visible is None else run_in_slots
    outcomes = run_them(jobs, out, options, report, stop_requested, clock or Clock(), slots)
    place = {job.digest: number for number, job in enumerate(jobs)}
    return sorted(outcomes, key=lambda outcome: place[outcome.job.digest])


def changed_plugins(jobs: Iterable[Job], out: Path) -> list[str]:
    """A warning for each admitted file that has changed since jobs that are over were trained with it."""
    plugins = admitted()
    counts: Counter[Plugin] = Counter()
    for paths in (JobPaths(out, job.name) for job in jobs if plugins):
        if job_state(paths).is_over:
            before = trained_with(paths)
            counts.update(each for each in plugins if before.get(each.module, each.digest) != each.digest)
    return [
        f"{plugin.path} has changed since {count} of these jobs {'were' if count > 1 else 'was'} trained"
        for plugin, count in counts.items()
    ]


def run_here(
    jobs: Sequence[Job],
    out: Path,
    options: RunOptions,
    report: Report,
    stop_requested: Callable[[], bool],
    clock: Clock,
    slots: Sequence[Place],
) -> list[JobEnded]:
    """Train the jobs in turn, in this process."""
    outcomes: list[JobEnded] = []
    report = tracking(report, options.trackers, out)
    report(RunStarted(tuple(jobs)))
    describe_new(jobs, out)
    queue = Queue(Ticket.issue(job, out) for job in jobs)
    while queue and not stop_requested():
        ticket = queue.next()
        if ticket is None:
            if waits_for := queue.announcement():
                report(Warned(waits_for))
            time.sleep(_BETWEEN_LOOKS)
            continue
        outcome = attempt(ticket, options, report, stop_requested=stop_requested, clock=clock)
        if outcome is None:
            queue.put_off(ticket)
            continue
        outcomes.append(outcome)
        report(outcome)
        if _ends_run(outcome, fail_fast=options.fail_fast):
            break
    return outcomes


def run_in_slots(
    jobs: Sequence[Job],
    out: Path,
    options: RunOptions,
    report: Report,
    stop_requested: Callable[[], bool],
    clock: Clock,
    slots: Iterable[Place],
) -> list[JobEnded]:
    """Train jobs in parallel, each in a worker process. Nothing is written until a worker was able to start.

    Raises:
        JobError: the workers cannot start.
    """
    report(RunStarted(tuple(jobs)))
    queue = Queue(Ticket.issue(job, out) for job in jobs)
    running = _Run(queue, [Slot(place, out, options, report, clock) for place in slots], report)
    described = False
    try:
        while running.continues():
            if stop_requested():
                running.stop()
            running.hand_out(redo=options.redo)
            running.listen(fail_fast=options.fail_fast)
            if not described and running.has_begun:
                describe_new(jobs, out)
                described = True
    finally:
        running.close()
    return running.outcomes


def _ends_run(outcome: JobEnded, *, fail_fast: bool) -> bool:
    """Whether no other job is started after this one."""
    return outcome.state == "stopped" or outcome.ends_run or (fail_fast and outcome.state == "failed")


class _Run:
    """The waiting jobs, the slots, and the outcomes so far."""

    def __init__(self, queue: Queue, slots: Sequence[Slot], report: Report) -> None:
        self._queue, self._slots, self._report = queue, slots, report
        self._stopping = False
        self.outcomes: list[JobEnded] = []

    def continues(self) -> bool:
        return bool(self._busy) or (len(self._queue) > 0 and not self._stopping)

    @property
    def has_begun(self) -> bool:
        """Whether a worker was able to start: until then, nothing is written."""
        return any(slot.ready for slot in self._slots)

    def stop(self) -> None:
        """Start no other job, and let the running ones stop at their next batch."""
        if not self._stopping:
            self._stopping = True
            for slot in self._slots:
                slot.stop()

    def hand_out(self, *, redo: bool) -> None:
        """Give each idle slot a job, if there is one."""
        for slot in self._slots:
            while slot.ticket is None and not self._stopping and (ticket := self._queue.next()):
                outcome = known_outcome(ticket, redo=redo)
                if outcome is None:
                    slot.begin(ticket)
                else:
                    self._note(outcome)
        if not self._busy and (waits_for := self._queue.announcement()):
            self._report(Warned(waits_for))

    def listen(self, *, fail_fast: bool) -> None:
        """Wait a moment for messages from the workers, and react to them."""
        speaking = wait([slot.connection for slot in self._busy if slot.connection], _BETWEEN_LOOKS)
        for slot in self._busy:
            ticket = slot.ticket
            if slot.connection not in speaking or ticket is None:
                continue
            outcome = slot.hear()
            if outcome is not None:
                self._note(outcome)
                if _ends_run(outcome, fail_fast=fail_fast):
                    self.stop()
            elif slot.ticket is None:
                self._queue.put_off(ticket)

    def close(self) -> None:
        """End all workers."""
        for slot in self._slots:
            if slot.ticket is None:
                slot.hang_up()
        for slot in self._slots:
            slot.close()

    @property
    def _busy(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.ticket is not None]

    def _note(self, outcome: JobEnded) -> None:
        self.outcomes.append(outcome)
        self._report(outcome)
