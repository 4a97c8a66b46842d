"""Running jobs side by side: a worker process for each slot, fed with one job at a time.

    command ── queue ──┬── slot ── connection ── worker process (nteleport.runner.worker)
                       ├── slot ── connection ── worker process
                       └── …

One loop hands out jobs, waits for messages of all workers and reacts. Who trains what is decided by the
claims on disk, as between commands: see `claims` and `queue`.

A stop is passed on to the workers, which stop at their next batch. However this process ends, its workers end
too: it kills those that are at a job, and if it is killed itself, their connection closes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from nteleport.jobs.job import Job
from nteleport.jobs.records import describe_new
from nteleport.runner.attempt import JobOutcome, RunReporter, known_outcome
from nteleport.runner.local import ends_run, in_order
from nteleport.runner.options import Settings
from nteleport.runner.places import Place
from nteleport.runner.queue import Queue, Ticket
from nteleport.runner.slot import Slot
from nteleport.training.loop import Clock

_BETWEEN_LOOKS = 0.2


def run_in_slots(
    jobs: Sequence[Job],
    slots: Sequence[tuple[Place, RunReporter]],
    settings: Settings,
    *,
    fail_fast: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> list[JobOutcome]:
    """Train every job that is not over, as many at a time as there are slots.

    Args:
        jobs: what to train.
        slots: where, and who is told of what happens there; of the run as a whole, the first one is told.
        settings: what all jobs have in common; the device is that of each place.
        fail_fast: stop all when a job fails.
        stop_requested: asked several times a second.
        clock: dates what is written for a job whose worker died.

    Returns:
        What became of each job, in the order of `jobs`; shorter when the run was stopped.

    Raises:
        JobError: the workers cannot begin.
    """
    report = slots[0][1]
    report.run_started(jobs)
    queue = Queue(Ticket.issue(job, Path(settings.out)) for job in jobs)
    clock = clock or Clock()
    run = _Run(queue, [Slot(place, told, settings, clock) for place, told in slots], report)
    described = False
    try:
        while run.goes_on():
            if stop_requested():
                run.stop()
            run.hand_out(redo=settings.redo)
            run.listen(fail_fast=fail_fast)
            if not described and run.has_begun:
                describe_new(jobs, Path(settings.out))
                described = True
    finally:
        run.close()
    return in_order(run.outcomes, jobs)


class _Run:
    """The jobs that wait, the slots, and what has become of jobs so far."""

    def __init__(self, queue: Queue, slots: Sequence[Slot], report: RunReporter) -> None:
        self._queue, self._slots, self._report = queue, slots, report
        self._stopping = False
        self.outcomes: list[JobOutcome] = []

    def goes_on(self) -> bool:
        return bool(self._busy) or (len(self._queue) > 0 and not self._stopping)

    @property
    def has_begun(self) -> bool:
        """Whether a worker was able to begin: until then, nothing is written."""
        return any(slot.ready for slot in self._slots)

    def stop(self) -> None:
        """Begin no other job, and let those under way stop at their next batch."""
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
                    self._note(outcome, self._report)
        if not self._busy and (waits_for := self._queue.announcement()):
            self._report.warning(waits_for)

    def listen(self, *, fail_fast: bool) -> None:
        """React to what the workers say, after waiting for it a moment."""
        speaking = wait([slot.connection for slot in self._busy if slot.connection], _BETWEEN_LOOKS)
        for slot in self._busy:
            ticket = slot.ticket
            if slot.connection not in speaking or ticket is None:
                continue
            outcome = slot.hear()
            if outcome is not None:
                self._note(outcome, slot.report)
                if ends_run(outcome, fail_fast=fail_fast):
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

    def _note(self, outcome: JobOutcome, report: RunReporter) -> None:
        self.outcomes.append(outcome)
        report.job_ended(outcome)
