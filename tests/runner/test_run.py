"""Running jobs in turn: what is over is skipped, what fails is recorded, and the others go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import STANDING_CLOCK, Events, run_options, small_job, stop_after

from nteleport.errors import DatasetError, JobError
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.atomic import replacing
from nteleport.jobs.events import JobEnded
from nteleport.jobs.job import Component, Job
from nteleport.jobs.lease import SILENCE
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.state import read_status
from nteleport.runner.preparation import check_trainable
from nteleport.runner.run import run as run_all

GOOD = small_job(epochs=1)
TELEPORTED = small_job("random", epochs=1)
BAD = small_job(optimizer=Component("SGD", {"lr": 0.1, "speed": 1}), epochs=1)


def run(
    jobs: Sequence[Job], out: Path, *, stop_requested: Callable[[], bool] = lambda: False, **options: Any
) -> tuple[list[JobEnded], list[str]]:
    events = Events()
    given = run_options(out, **options)
    outcomes = run_all(jobs, out, given, events, stop_requested=stop_requested, clock=STANDING_CLOCK)
    return outcomes, events.words


def test_jobs_are_trained_in_turn(tmp_path: Path) -> None:
    outcomes, events = run([GOOD, TELEPORTED], tmp_path)

    assert [outcome.job for outcome in outcomes] == [GOOD, TELEPORTED]
    assert events == ["2 jobs", "start", "epoch 0", "finished", "start", "epoch 0", "finished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([GOOD.name, TELEPORTED.name])


def test_what_is_over_is_skipped_and_left_alone(tmp_path: Path) -> None:
    first, _ = run([GOOD], tmp_path)
    content = {path: path.read_bytes() for path in JobPaths(tmp_path, GOOD.name).directory.iterdir()}

    second, events = run([GOOD, TELEPORTED], tmp_path)

    assert events == ["2 jobs", "skipped finished", "start", "epoch 0", "finished"]
    assert second[0].val_accuracy == first[0].val_accuracy
    assert {path: path.read_bytes() for path in content} == content


def test_a_diverged_job_is_over_too(tmp_path: Path) -> None:
    job = small_job(optimizer=Component("SGD", {"lr": 1e20}))

    states = [run([job], tmp_path)[0][0] for _ in range(2)]

    assert [(outcome.state, outcome.skipped) for outcome in states] == [
        ("diverged", False),
        ("diverged", True),
    ]


def test_a_job_that_fails_is_recorded_and_the_others_continue(tmp_path: Path) -> None:
    outcomes, events = run([BAD, GOOD], tmp_path)

    assert events == ["2 jobs", "start", "failed", "start", "epoch 0", "finished"]
    paths = JobPaths(tmp_path, BAD.name)
    assert "speed" in outcomes[0].error
    assert "\n" not in outcomes[0].error
    assert json.loads(paths.result.read_text())["state"] == "failed"
    assert "Traceback" in paths.log.read_text()


def test_a_failed_job_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("the weather")

    with monkeypatch.context() as context:
        context.setattr("nteleport.runner.attempt.train_job", fail)
        assert run([GOOD], tmp_path)[0][0].error == "RuntimeError: the weather"

    outcomes, events = run([GOOD], tmp_path)

    assert events == ["1 jobs", "start", "epoch 0", "finished"]
    assert json.loads(outcomes[0].paths.result.read_text())["state"] == "finished"


def test_a_stop_ends_the_run_and_the_same_call_continues(tmp_path: Path) -> None:
    jobs = [small_job(), TELEPORTED]

    outcomes, events = run(jobs, tmp_path, stop_requested=stop_after(8))
    assert events == ["2 jobs", "start", "epoch 0", "stopped"]
    assert len(outcomes) == 1

    _, events = run(jobs, tmp_path)
    assert events == [
        "2 jobs", "start", "resumed 1", "epoch 1", "epoch 2", "finished", "start", "epoch 0", "finished",
    ]  # fmt: skip


def test_a_job_does_not_depend_on_the_jobs_before_it(tmp_path: Path) -> None:
    run([TELEPORTED], tmp_path / "alone")
    run([GOOD, small_job("optim", epochs=1), TELEPORTED], tmp_path / "last")

    files = [JobPaths(tmp_path / out, TELEPORTED.name).metrics for out in ("alone", "last")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_description_of_a_job_runs_it_again(tmp_path: Path) -> None:
    run([TELEPORTED], tmp_path)
    paths = JobPaths(tmp_path, TELEPORTED.name)

    again = expand(load_experiment(paths.config))

    assert [job.name for job in again] == [TELEPORTED.name]
    assert "teleport.cob_range: 0.5" in paths.hparams.read_text()


def test_leftovers_of_a_killed_process_are_cleared_away(tmp_path: Path) -> None:
    directory = JobPaths(tmp_path, GOOD.name).directory
    directory.mkdir()
    write_half = (
        "import os, sys; from pathlib import Path; from nteleport.jobs.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary: temporary.touch(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", write_half, str(directory / "checkpoint.pt")], check=True)
    assert len(list(directory.glob(".checkpoint.pt.*.tmp"))) == 1
    elsewhere = directory / ".config.yml.123.tmp"  # by a process that cannot be seen from here
    elsewhere.write_bytes(b"half")
    long_ago = time.time() - 2 * SILENCE
    os.utime(elsewhere, (long_ago, long_ago))

    run([GOOD], tmp_path)

    assert not list(directory.glob(".*"))


def test_what_another_command_is_writing_is_not_cleared_away(tmp_path: Path) -> None:
    directory = JobPaths(tmp_path, GOOD.name).directory
    directory.mkdir()
    elsewhere = directory / ".config.yml.123.tmp"
    elsewhere.write_bytes(b"half")

    with replacing(directory / "hparams.yml") as here:
        here.write_text("half")
        run([GOOD], tmp_path)
        assert here.exists()
    assert elsewhere.exists()


def test_a_job_without_a_batch_is_found_before_anything_runs() -> None:
    check_trainable([GOOD, TELEPORTED])
    with pytest.raises(DatasetError, match="no batch can be made of 1437 images"):
        check_trainable([GOOD, small_job(batch_size=1438, drop_last_batch=True)])
    with pytest.raises(DatasetError, match="no batch can be made of 718 images"):
        check_trainable([small_job(batch_size=800, drop_last_batch=True, validation=0.5)])


def test_a_first_step_past_the_end_is_found_before_anything_runs() -> None:
    """Three epochs of four batches have steps 0 to 11."""
    check_trainable([small_job("random", teleport={"every_n_steps": 11})])
    with pytest.raises(JobError, match=r"every_n_steps 12 is past the end .* at most 11: .* there are 12"):
        check_trainable([GOOD, small_job("random", teleport={"every_n_steps": 12})])


def test_jobs_that_wait_are_known_from_the_first_moment(tmp_path: Path) -> None:
    outcomes, _ = run([GOOD, TELEPORTED], tmp_path, stop_requested=lambda: True)

    assert outcomes == []
    assert [(status.job, status.state) for status in read_status(tmp_path)] == [
        (name, "pending") for name in sorted([GOOD.name, TELEPORTED.name])
    ]
