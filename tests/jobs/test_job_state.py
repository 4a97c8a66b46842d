"""States of jobs, choosing by them, and the order in which a command takes its jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nteleport.jobs.atomic import write_json_atomic
from nteleport.jobs.job import Component, Job, Teleportation, TrainingParams
from nteleport.jobs.lease import leased
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.state import JobState, job_state, matching, read_status
from nteleport.jobs.table import read_results
from nteleport.runner.queue import PATIENCE, Queue, Ticket

FIRST = Job(
    "digits", TrainingParams(), Component("mlp"), Component("none"), Component("SGD", {"lr": 0.1}),
    teleportation=Teleportation("random"),
)  # fmt: skip
JOBS = {
    state: replace(FIRST, run=run)
    for run, state in enumerate(state for state in JobState if state != "stale")
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a job in each state, but for `running`, which looks like `pending`."""
    for state, job in JOBS.items():
        paths = JobPaths(tmp_path, job.name)
        if state not in ("pending", "running"):
            paths.directory.mkdir()
            paths.log.touch()
        if state in ("finished", "diverged", "failed"):
            write_json_atomic(paths.result, {"state": state})
    return tmp_path


def test_the_state_of_a_job_is_read_from_its_files(out: Path) -> None:
    with leased(JobPaths(out, JOBS[JobState.RUNNING].name)):
        assert {job_state(JobPaths(out, job.name)): job for job in JOBS.values()} == JOBS


def test_a_result_that_is_damaged_is_none(out: Path) -> None:
    paths = JobPaths(out, JOBS[JobState.FINISHED].name)
    paths.result.write_text('{"state": "finis')
    assert job_state(paths) == "unfinished"


def leave_lease_of_the_dead(paths: JobPaths) -> None:
    with leased(paths):
        file = next(paths.lease.iterdir())
        host, pid, _, machine, nonce = file.name.split(",")
        file.rename(paths.lease / f"{host},{pid},12,{machine},{nonce}")
    assert paths.lease.exists()


def test_a_job_whose_lease_outlived_its_process_is_stale_and_chosen_as_unfinished(out: Path) -> None:
    job = JOBS[JobState.UNFINISHED]
    leave_lease_of_the_dead(JobPaths(out, job.name))
    assert job_state(JobPaths(out, job.name)) == "stale"
    assert matching([job], out, ["unfinished"]) == matching([job], out, ["stale"]) == [job]


def test_a_failed_job_whose_lease_outlived_its_process_has_failed_everywhere(out: Path) -> None:
    job = JOBS[JobState.FAILED]
    paths = JobPaths(out, job.name)
    leave_lease_of_the_dead(paths)
    paths.config.touch()
    paths.hparams.write_text("training.epochs: 1\n")
    assert job_state(paths) == "failed"
    assert [status.state for status in read_status(out)] == ["failed"]
    assert [result.state for result in read_results(out).jobs] == ["failed"]
    assert matching([job], out, ["failed"]) == [job]


CHOICES: list[tuple[list[str], set[str]]] = [
    (["failed"], {"failed"}),
    (["pending"], {"pending", "running", "unfinished"}),
    (["failed", "diverged"], {"failed", "diverged"}),
    (["*-run5-*"], {"finished"}),
    (["*-run[34]-*", "pending"], {"pending", "running", "unfinished", "diverged", "failed"}),
    (["nothing"], set()),
    (["digits*"], set(JOBS)),
]


@pytest.mark.parametrize(("wanted", "expected"), CHOICES)
def test_jobs_are_chosen_by_state_and_by_name(wanted: list[str], expected: set[str], out: Path) -> None:
    with leased(JobPaths(out, JOBS[JobState.RUNNING].name)):
        chosen = matching(JOBS.values(), out, wanted)
    assert chosen == [job for state, job in JOBS.items() if state in expected]


def test_deferred_jobs_return_after_the_others_and_after_a_while(tmp_path: Path) -> None:
    now = 0.0
    first, second = (Ticket.issue(replace(FIRST, run=run), tmp_path) for run in range(2))
    queue = Queue([first, second], seconds=lambda: now)

    assert queue.next() == first
    queue.put_off(first)
    assert queue.announcement() is None
    assert queue.next() == second
    assert queue.next() is None
    assert len(queue) == 1
    assert "last 1 of these jobs" in str(queue.announcement())
    assert queue.announcement() is None  # said once
    now = PATIENCE
    assert queue.next() == first
    assert not queue


def test_a_ticket_knows_whether_the_job_has_ended_since(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path, FIRST.name)
    paths.directory.mkdir()
    fresh = Ticket.issue(FIRST, tmp_path)
    assert not fresh.ended_since
    write_json_atomic(paths.result, {"state": "failed"})
    assert fresh.ended_since

    later = Ticket.issue(FIRST, tmp_path)
    assert not later.ended_since
    write_json_atomic(paths.result, {"state": "failed"})
    assert later.ended_since
