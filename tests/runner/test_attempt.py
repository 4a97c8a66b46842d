"""One attempt at one job: what is over is left alone, what is redone is not lost, errors get their names."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import STANDING_CLOCK, run_options, small_job

from nteleport.errors import JobError
from nteleport.jobs import lease
from nteleport.jobs.events import EpochFinished, Event, JobEnded, Report, ignore
from nteleport.jobs.job import Component, Job
from nteleport.jobs.lease import leased
from nteleport.jobs.paths import JobPaths
from nteleport.runner.attempt import attempt, error_in_words
from nteleport.runner.queue import Ticket

JOB = small_job(epochs=2)
BAD = small_job(optimizer=Component("SGD", {"lr": 0.1, "speed": 1}))


def try_it(job: Job, out: Path, **options: Any) -> JobEnded | None:
    return try_ticket(Ticket.issue(job, out), out, **options)


def try_ticket(
    ticket: Ticket,
    out: Path,
    report: Report = ignore,
    stop_requested: Callable[[], bool] = lambda: False,
    **options: Any,
) -> JobEnded | None:
    given = run_options(out, **options)
    return attempt(ticket, given, report, stop_requested=stop_requested, clock=STANDING_CLOCK)


def breaking(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Every training ends with `error`."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr("nteleport.runner.attempt.train_job", fail)


def content(paths: JobPaths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.directory.iterdir() if path.is_file()}


def test_a_job_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path, JOB.name)
    with leased(paths):
        assert try_it(JOB, tmp_path) is None
        assert content(paths) == {}


def test_no_lease_is_left_behind(tmp_path: Path) -> None:
    for job in (JOB, BAD):
        try_it(job, tmp_path)
        assert not JobPaths(tmp_path, job.name).lease.exists()


@pytest.mark.parametrize(("job", "state"), [(JOB, "finished"), (BAD, "failed")])
@pytest.mark.parametrize("redo", [False, True])
def test_what_another_command_has_ended_meanwhile_is_not_repeated(
    job: Job, state: str, redo: bool, tmp_path: Path
) -> None:
    ticket = Ticket.issue(job, tmp_path)
    try_it(job, tmp_path)
    before = content(ticket.paths)

    outcome = try_ticket(ticket, tmp_path, redo=redo)

    assert outcome is not None
    assert (outcome.state, outcome.skipped) == (state, True)
    assert content(ticket.paths) == before


def test_a_failure_of_an_earlier_command_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        breaking(broken, RuntimeError("the weather"))
        try_it(JOB, tmp_path)

    outcome = try_it(JOB, tmp_path)

    assert outcome is not None
    assert (outcome.state, outcome.skipped) == ("finished", False)


def test_a_job_redone_gets_new_results_and_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path, JOB.name)
    try_it(JOB, tmp_path, save_weights=True)
    metrics = paths.metrics.read_text()
    paths.metrics.write_text("numbers of a program with an error")

    outcome = try_it(JOB, tmp_path, redo=True)

    assert outcome is not None
    assert (outcome.state, outcome.skipped) == ("finished", False)
    assert paths.metrics.read_text() == metrics
    assert not paths.weights.exists()
    assert not paths.before.exists()
    assert paths.log.read_text().count("started on") == 1


def test_old_results_are_kept_until_there_are_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = JobPaths(tmp_path, JOB.name)
    try_it(JOB, tmp_path, save_weights=True)
    kept = {name: text for name, text in content(paths).items() if name not in ("config.yml", "hparams.yml")}
    with monkeypatch.context() as broken:
        breaking(broken, RuntimeError("the weather"))
        for _ in range(2):  # the second time there is nothing whole to keep, and the first is not lost
            failed = try_it(JOB, tmp_path, redo=True)
            assert failed is not None
            assert failed.state == "failed"
            assert {path.name: path.read_bytes() for path in paths.before.iterdir()} == kept

    again = try_it(JOB, tmp_path)  # without redo: the failed job is trained, and now the old results can go

    assert again is not None
    assert again.state == "finished"
    assert paths.metrics.read_bytes() == kept["metrics.csv"]
    assert not paths.before.exists()


def test_redoing_an_unfinished_job_begins_at_the_start(tmp_path: Path) -> None:
    ask = iter([False] * 6 + [True] * 9)  # the last of four batches of the first epoch is completed
    stopped = try_it(JOB, tmp_path, stop_requested=lambda: next(ask))
    assert stopped is not None
    assert stopped.state == "stopped"
    paths = JobPaths(tmp_path, JOB.name)
    assert paths.checkpoint.exists()

    try_it(JOB, tmp_path, redo=True)

    assert "resumed" not in paths.log.read_text()


def test_a_process_that_lost_its_lease_leaves_the_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended in the first epoch, for so long that another one took over."""
    paths = JobPaths(tmp_path, JOB.name)
    now = time.time()

    def suspend(event: Event) -> None:
        if isinstance(event, EpochFinished):
            for file in paths.lease.iterdir():
                file.rename(paths.lease / "another,1,2,3,4")
            monkeypatch.setattr(lease.time, "time", lambda: now + 1000)

    outcome = try_it(JOB, tmp_path, report=suspend)

    assert outcome is None
    assert not paths.result.exists()
    assert len(paths.metrics.read_text().splitlines()) == 1 + 1
    assert [path.name for path in paths.lease.iterdir()] == ["another,1,2,3,4"]


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__context__ = cause
    return error


ERRORS: dict[str, tuple[BaseException, str]] = {
    "ours": (JobError("no such thing\nmore"), "no such thing"),
    "anybody's": (KeyError("momentum"), "KeyError: 'momentum'"),
    "mute": (RuntimeError(), "RuntimeError: no reason given"),
    "Python's memory": (MemoryError("12 GB"), "out of memory: 12 GB"),
    "memory in disguise": (chained(JobError("torch refuses"), MemoryError()), "out of memory: torch refuses"),
    "the disk": (
        chained(RuntimeError("unexpected pos"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "f")),
        "cannot write results: No space left on device",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_in_words(case: str) -> None:
    error, words = ERRORS[case]
    assert error_in_words(error) == words


def test_running_out_of_memory_is_called_that(tmp_path: Path) -> None:
    huge = small_job(model=Component("mlp", {"hidden_layers": [10**12]}))

    outcome = try_it(huge, tmp_path)

    assert outcome is not None
    assert outcome.error.startswith("out of memory: ")
    assert json.loads(outcome.paths.result.read_text())["error"] == outcome.error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_an_output_that_cannot_be_written_to_ends_the_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, OSError(number, os.strerror(number)))

    outcome = try_it(JOB, tmp_path)

    assert outcome is not None
    assert (outcome.state, outcome.ends_run) == ("failed", True)


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_job(tmp_path: Path) -> None:
    (tmp_path / JOB.name).write_text("a file")

    outcome = try_it(JOB, tmp_path)

    assert outcome is not None
    assert (outcome.state, outcome.ends_run) == ("failed", False)
    assert "FileExistsError" in outcome.error


def test_compiled_code_of_earlier_jobs_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def note(name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: calls.append(name)

    breaking(monkeypatch, RuntimeError("not trained"))
    monkeypatch.setattr("torch.compiler.reset", note("reset"))
    for job in (JOB, small_job(compile=True)):
        try_it(job, tmp_path)
        calls.append("job")

    assert calls == ["job", "reset", "job"]
