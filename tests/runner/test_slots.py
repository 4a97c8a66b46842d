"""Jobs side by side in worker processes: the same results, no job lost, no process left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.training_jobs import STANDING_CLOCK, Events, run_options, small_job

from nteleport.errors import JobError
from nteleport.jobs.atomic import write_text_atomic
from nteleport.jobs.events import EpochFinished, Event, JobEnded, Report, ignore
from nteleport.jobs.job import Component, Job
from nteleport.jobs.lease import read_lease
from nteleport.jobs.owner import Owner
from nteleport.jobs.paths import JobPaths
from nteleport.runner.places import Place
from nteleport.runner.queue import Ticket
from nteleport.runner.run import run_in_slots
from nteleport.runner.slot import Slot
from nteleport.schema.yaml_source import to_yaml

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)
THREADS = 2
PLAIN = small_job(epochs=1)
BAD = small_job(optimizer=Component("SGD", {"lr": 0.1, "speed": 1}), epochs=1)
DIVERGING = small_job(optimizer=Component("SGD", {"lr": 1e20}))
DROPOUT = small_job(
    optimizer=Component("Adam", {"lr": 0.01}), model=Component("squeezenet1_1"), max_batch=1, batch_size=4
)
LONG = small_job(epochs=100_000)
JOBS = [PLAIN, BAD, DIVERGING, small_job(validation=0.2), DROPOUT]


def run(
    jobs: Sequence[Job],
    out: Path,
    *,
    places: Sequence[Place] = (Place("cpu", THREADS),),
    report: Report = ignore,
    **options: Any,
) -> list[JobEnded]:
    given = run_options(out, save_weights=True, **options)
    return run_in_slots(jobs, out, given, report, lambda: False, STANDING_CLOCK, places)


def is_leased(out: Path, job: Job) -> int | None:
    """The number of the process that trains a job, None while there is none."""
    claim = read_lease(JobPaths(out, job.name))
    return claim.owner.pid if claim and claim.owner else None


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)
    return found


def without_seconds(metrics: Path) -> list[list[str]]:
    return [line.split(",")[:-1] for line in metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[JobEnded], Events]:
    """All jobs, one after the other in one worker."""
    out = tmp_path_factory.mktemp("together")
    events = Events()
    return out, run(JOBS, out, report=events), events


def test_one_worker_serves_many_jobs_and_a_failure_stops_none(
    together: tuple[Path, list[JobEnded], Events],
) -> None:
    _, outcomes, events = together
    states = [outcome.state for outcome in outcomes]

    assert states == ["finished", "failed", "diverged", *["finished"] * 2]
    assert [outcome.job for outcome in outcomes] == JOBS
    assert "speed" in outcomes[1].error
    assert "Traceback" in outcomes[1].paths.log.read_text()
    assert events.words[:6] == ["5 jobs", "start", "epoch 0", "finished", "start", "failed"]
    assert outcomes[0].val_accuracy is not None
    assert not any(is_leased(outcome.paths.out, outcome.job) for outcome in outcomes)


def in_a_fresh_process(job: Job, folder: Path) -> JobPaths:
    """The job trained by a command of its own."""
    folder.mkdir(exist_ok=True)
    config = folder / "job.yml"
    write_text_atomic(config, to_yaml(job.to_experiment()))
    command = [sys.executable, "-m", "nteleport", "train", config, "--out", folder, "--save-weights"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    subprocess.run([*command, "--device", "cpu"], check=True, capture_output=True, env=environment)
    return JobPaths(folder, job.name)


def assert_equal_results(reused: JobPaths, fresh: JobPaths) -> None:
    assert without_seconds(reused.metrics) == without_seconds(fresh.metrics)
    assert reused.weights.read_bytes() == fresh.weights.read_bytes()
    threads = [json.loads(paths.provenance.read_text())["threads"] for paths in (fresh, reused)]
    assert threads == [THREADS, THREADS]


def test_results_of_a_worker_are_those_of_a_fresh_process(
    together: tuple[Path, list[JobEnded], Events], tmp_path: Path
) -> None:
    """Of the last of its jobs, which draws random numbers of its own."""
    assert_equal_results(JobPaths(together[0], DROPOUT.name), in_a_fresh_process(DROPOUT, tmp_path))


@pytest.mark.slow
def test_what_a_worker_keeps_of_an_architecture_changes_no_result(tmp_path: Path) -> None:
    """It is analyzed once for several jobs of each mode that teleports."""
    jobs = [small_job(mode) for mode in ("optim", "pseudo", "same_distr", "random")]
    outcomes = run(jobs, tmp_path)
    assert [outcome.state for outcome in outcomes] == ["finished"] * 4
    assert_equal_results(JobPaths(tmp_path, jobs[-1].name), in_a_fresh_process(jobs[-1], tmp_path / "fresh"))


@needs_proc
def test_a_worker_that_dies_fails_its_job_alone(tmp_path: Path) -> None:
    """The only slot gets a new one for its next job."""
    environments: list[bytes] = []

    def murder(event: Event) -> None:
        if isinstance(event, EpochFinished) and not environments:
            pid = is_leased(tmp_path, LONG)
            assert pid is not None
            environments.append(Path(f"/proc/{pid}/environ").read_bytes())
            os.kill(pid, signal.SIGKILL)

    outcomes = run([LONG, PLAIN], tmp_path, places=[Place("cpu", 1, visible="7")], report=murder)

    assert [outcome.state for outcome in outcomes] == ["failed", "finished"]
    assert outcomes[0].error == "worker died (signal 9, SIGKILL; did memory run out?)"
    assert json.loads(outcomes[0].paths.result.read_text())["error"] == outcomes[0].error
    assert "worker died" in outcomes[0].paths.log.read_text()
    assert not outcomes[0].paths.lease.exists()
    assert outcomes[0].paths.checkpoint.exists()  # the job goes on from here when it is tried again
    assert b"CUDA_VISIBLE_DEVICES=7" in environments[0].split(b"\0")  # since before torch was imported


@pytest.mark.slow
def test_the_first_failure_stops_all_on_request(tmp_path: Path) -> None:
    outcomes = run([LONG, BAD, PLAIN], tmp_path, places=[Place("cpu", THREADS)] * 2, fail_fast=True)

    assert [(outcome.job, outcome.state) for outcome in outcomes] == [(LONG, "stopped"), (BAD, "failed")]


def test_workers_that_cannot_begin_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no device cuda:77"):
        run([PLAIN], tmp_path, places=[Place("cuda:77", THREADS)])
    assert not list(tmp_path.glob("*/log.txt"))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`nteleport train --jobs 2` on two endless jobs, both of which have a checkpoint."""
    experiment = {**LONG.to_experiment(), "runs": [0, 1]}
    (tmp_path / "experiment.yml").write_text(yaml.safe_dump(experiment))
    process = subprocess.Popen(
        [sys.executable, "-m", "nteleport", "train", "experiment.yml", "--out", "out", "--jobs", "2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: len(list((tmp_path / "out").glob("*/checkpoint.pt"))) == 2, "two checkpoints")
    yield process
    process.kill()
    process.communicate()


def workers(out: Path) -> list[Owner]:
    claims = [read_lease(JobPaths(out, folder.name)) for folder in out.iterdir()]
    return [claim.owner for claim in claims if claim and claim.owner]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@needs_proc
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        pytest.param([signal.SIGKILL], -9, id="kill -9"),
        pytest.param([signal.SIGTERM], 143, id="SIGTERM", marks=pytest.mark.slow),
        pytest.param([signal.SIGINT, signal.SIGINT], 130, id="Ctrl-C twice", marks=pytest.mark.slow),
    ],
)
def test_no_worker_outlives_its_command(
    signals: list[int], code: int, command: subprocess.Popen[str], tmp_path: Path
) -> None:
    pids = [owner.pid for owner in workers(tmp_path / "out")]
    assert len(set(pids)) == 2

    for number in signals:
        command.send_signal(number)
        time.sleep(0.001)

    assert command.wait(60) == code
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), f"the end of worker {pid}", 60)
    out, _ = command.communicate()
    if signals == [signal.SIGTERM]:
        assert "2 jobs: 2 stopped" in out
    if len(signals) == 1:  # they had the time to give their claims back
        assert workers(tmp_path / "out") == []


@pytest.mark.parametrize(("state", "expected"), [("finished", "finished"), (None, "failed")])
def test_a_worker_that_dies_after_it_has_written_the_result_has_ended_the_job(
    tmp_path: Path, state: str | None, expected: str
) -> None:
    slot = Slot(Place("cpu", THREADS), tmp_path, run_options(tmp_path), ignore, STANDING_CLOCK)
    slot.ticket, slot.ready = Ticket.issue(PLAIN, tmp_path), True
    slot.connection, theirs = Pipe()
    slot._process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    slot._process.wait()
    theirs.close()
    paths = slot.ticket.paths
    paths.directory.mkdir()
    if state is not None:
        paths.result.write_text(json.dumps({"state": state, "digest": PLAIN.digest}))

    outcome = slot.hear()

    assert outcome is not None
    assert (outcome.state, outcome.skipped) == (expected, False)
    assert json.loads(paths.result.read_text())["state"] == expected
