"""No work is lost: what cannot be read, does not fit or is of another job is never replaced."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import STANDING_CLOCK, Events, run_options, small_job

from nteleport.jobs.events import EpochFinished, Event, JobEnded, Warned
from nteleport.jobs.job import Component, Job
from nteleport.jobs.paths import JobPaths
from nteleport.runner.attempt import attempt, record_failure
from nteleport.runner.queue import Ticket
from nteleport.runner.run import run as run_all

JOB = small_job(epochs=3)
OTHER = small_job(epochs=1)


def run(jobs: list[Job], out: Path, **options: Any) -> tuple[list[JobEnded], Events]:
    events = Events()
    return run_all(jobs, out, run_options(out, **options), events, clock=STANDING_CLOCK), events


def content(paths: JobPaths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.directory.iterdir() if path.is_file()}


def stopped_after(epochs: int, job: Job, out: Path) -> JobPaths:
    """A job that was stopped after so many epochs and left a checkpoint."""
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        done += isinstance(event, EpochFinished)

    attempt(
        Ticket.issue(job, out),
        run_options(out),
        count,
        stop_requested=lambda: done >= epochs,
        clock=STANDING_CLOCK,
    )
    paths = JobPaths(out, job.name)
    assert paths.checkpoint.exists()
    return paths


def uninterrupted(job: Job, out: Path) -> bytes:
    (outcome,), _ = run([job], out)
    return outcome.paths.metrics.read_bytes()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("options", [{}, {"redo": True}, {"slots": 2}])
def test_a_result_that_cannot_be_read_fails_the_job_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, options: dict[str, Any]
) -> None:
    run([JOB], tmp_path)
    paths = JobPaths(tmp_path, JOB.name)
    before = content(paths)
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path == paths.result:
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "read_bytes", fail)
        outcomes, _ = run([JOB, OTHER], tmp_path, **options)

    assert [outcome.state for outcome in outcomes] == ["failed", "finished"]
    assert f"result.json cannot be read: {os.strerror(number)}" in outcomes[0].error
    assert content(paths) == before
    assert run([JOB], tmp_path)[0][0].state == "finished"


def test_a_checkpoint_that_cannot_be_read_fails_the_job_and_is_continued_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = stopped_after(2, JOB, tmp_path / "parts")
    kept = paths.checkpoint.read_bytes()
    open_file = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == paths.checkpoint:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return open_file(path, *arguments, **options)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", fail)
        (failed,), _ = run([JOB], tmp_path / "parts")
    assert failed.state == "failed"
    assert "checkpoint.pt cannot be read: Input/output error" in failed.error
    assert paths.checkpoint.read_bytes() == kept

    (outcome,), events = run([JOB], tmp_path / "parts")
    assert outcome.state == "finished"
    assert "resumed 2" in events.words
    assert paths.metrics.read_bytes() == uninterrupted(JOB, tmp_path / "whole")


def without_weights(content: dict[str, Any]) -> None:
    del content["network"][next(iter(content["network"]))]


def with_other_weights(content: dict[str, Any]) -> None:
    content["network"] = {name: torch.ones(2, 7) for name in content["network"]}


def with_other_momentum(content: dict[str, Any]) -> None:
    for state in content["optimizer"]["optimizer"]["state"].values():
        state["momentum_buffer"] = torch.ones(2, 7)


def without_cob(content: dict[str, Any]) -> None:
    del content["optimizer"]["cob"]


def with_other_cob(content: dict[str, Any]) -> None:
    content["optimizer"]["cob"] = torch.ones(1)


def with_other_rows(content: dict[str, Any]) -> None:
    content["rows"] = [{**row, "epoch": row["epoch"] + 1} for row in content["rows"]]


def with_other_columns(content: dict[str, Any]) -> None:
    content["rows"] = [{"epoch": 0}]


def with_text(content: dict[str, Any]) -> None:
    content["network"] = "weights"


WRONG: list[Callable[[dict[str, Any]], None]] = [
    without_weights,
    with_other_weights,
    with_other_momentum,
    without_cob,
    with_other_cob,
    with_other_rows,
    with_other_columns,
    with_text,
]


@pytest.mark.parametrize("spoil", WRONG)
@pytest.mark.parametrize("both", [False, True])
def test_a_checkpoint_that_does_not_fit_is_passed_over_with_one_warning(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], both: bool
) -> None:
    paths = stopped_after(2, JOB, tmp_path / "parts")
    spoiled = [paths.checkpoint, paths.checkpoint_before] if both else [paths.checkpoint]
    for file in spoiled:
        held = torch.load(file, weights_only=True)
        spoil(held)
        torch.save(held, file)

    (outcome,), events = run([JOB], tmp_path / "parts")

    assert outcome.state == "finished"
    warnings = [event.text for event in events if isinstance(event, Warned)]
    assert [text.partition(" is damaged and skipped: ")[0] for text in warnings] == [
        file.name for file in spoiled
    ]
    assert not any("\n" in text for text in warnings)
    assert ("resumed 1" in events.words) is not both
    assert paths.metrics.read_bytes() == uninterrupted(JOB, tmp_path / "whole")


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop",
                                       "ASGD", "NAdam", "Adafactor"])  # fmt: skip
def test_a_checkpoint_of_every_optimizer_fits(tmp_path: Path, optimizer: str) -> None:
    job = replace(JOB, optimizer=Component(optimizer, {"lr": 0.01}))
    stopped_after(2, job, tmp_path)

    (outcome,), events = run([job], tmp_path)

    assert outcome.state == "finished"
    assert "resumed 2" in events.words
    assert events.warnings == []


def test_the_digest_of_the_job_is_in_its_result(tmp_path: Path) -> None:
    bad = small_job(optimizer=Component("SGD", {"lr": 0.1, "speed": 1}))
    for job in (OTHER, bad):
        attempt(Ticket.issue(job, tmp_path), run_options(tmp_path), Events(), clock=STANDING_CLOCK)
        assert json.loads(JobPaths(tmp_path, job.name).result.read_text())["digest"] == job.digest


@pytest.mark.parametrize("options", [{}, {"redo": True}, {"slots": 2}])
def test_a_job_with_the_name_of_another_fails_and_the_result_of_the_other_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    run([JOB], tmp_path)
    paths = JobPaths(tmp_path, JOB.name)
    result = json.loads(paths.result.read_text())
    paths.result.write_text(json.dumps({**result, "digest": JOB.digest[:8] + 56 * "0"}))
    before = content(paths)

    outcomes, _ = run([JOB, OTHER], tmp_path, **options)

    assert [outcome.state for outcome in outcomes] == ["failed", "finished"]
    assert JOB.digest in outcomes[0].error
    assert JOB.digest[:8] + 56 * "0" in outcomes[0].error
    assert content(paths) == before


def test_one_job_that_has_no_folder_does_not_keep_the_others_from_training(tmp_path: Path) -> None:
    (tmp_path / JOB.name).write_text("a file")

    outcomes, _ = run([JOB, OTHER], tmp_path)

    assert [outcome.state for outcome in outcomes] == ["failed", "finished"]


def test_a_failure_never_replaces_the_result_of_a_job_that_is_over(tmp_path: Path) -> None:
    """As when a worker dies right after it wrote the result."""
    run([OTHER], tmp_path)
    paths = JobPaths(tmp_path, OTHER.name)
    before = paths.result.read_bytes()

    record_failure(JobEnded(OTHER, paths, "failed", error="worker died"), STANDING_CLOCK)

    assert paths.result.read_bytes() == before
