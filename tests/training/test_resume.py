"""A job that is killed, whenever and however often, ends byte for byte as one that never was.

Jobs run in processes of their own, forked from a server that has imported torch, so that killing one and
starting the next takes no longer than the training itself. All the random moments come from one seed; what
the machine is doing at such a moment is its own affair.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import run_options, small_job

from nteleport.jobs.events import ignore
from nteleport.jobs.job import Component, Job, Plateau, Scheduler
from nteleport.jobs.paths import JobPaths
from nteleport.runner.run import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX systems do"),
]

KILLS_PER_MODE = 3
EVERY = {"every_n_epochs": 1}
ADAM = Component("Adam", {"lr": 0.01})
MODES: dict[str, Job] = {
    "random every 2 epochs, momentum": small_job("random", teleport={"every_n_epochs": 2}),
    "random, Adam transported": small_job(
        "random", teleport=EVERY, optimizer=ADAM, optimizer_state="transport"
    ),
    "optim": small_job("optim", teleport={**EVERY, "num_teleportations": 3}),
    "optim by lookahead, state kept": small_job(
        "optim",
        teleport={**EVERY, "num_teleportations": 2, "metric": "loss_lookahead_diff"},
        optimizer_state="keep",
    ),
    "pseudo, OneCycle per step": small_job(
        "pseudo", teleport=EVERY, scheduler=Scheduler("OneCycleLR", {"max_lr": 0.1}, interval="step")
    ),
    "same_distr, plateau": small_job(
        "same_distr", teleport=EVERY, scheduler=Scheduler("ReduceLROnPlateau", {"patience": 0})
    ),
    "random every 3 steps, Adam transported": small_job(
        "random", teleport={"every_n_steps": 3}, optimizer=ADAM, optimizer_state="transport"
    ),
    "optim on plateaus": small_job(
        "optim", teleport={"on_plateau": Plateau(0, "val_loss"), "num_teleportations": 3}
    ),
    "dropout and held-out images": small_job(
        model=Component("squeezenet1_1"), optimizer=ADAM, validation=0.1, batch_size=4
    ),
}
MODES = {
    name: replace(job, training=replace(job.training, epochs=2 if "dropout" in name else 6))
    for name, job in MODES.items()
}

Start = Callable[..., BaseProcess]


def train(job: Job, out: Path, crash: tuple[str, int] | None) -> None:
    """What the processes do. With `crash` the process is gone right before or after its n-th rename."""
    if crash is not None:
        when, left = crash
        rename = os.replace

        def renaming(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = renaming  # type: ignore[assignment]
    run([job], out, run_options(out, save_weights=True), ignore)


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts the training of a job in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes: list[BaseProcess] = []

    def begin(job: Job, out: Path, crash: tuple[str, int] | None = None) -> BaseProcess:
        process = context.Process(target=train, args=(job, out, crash))
        process.start()
        processes.append(process)
        return process

    begin(small_job(epochs=1, max_batch=1), Path(os.devnull) / "nowhere").join()  # let the server get ready
    yield begin
    for process in processes:
        process.kill()
        process.join()


def files(job: Job, out: Path) -> tuple[list[list[str]], bytes, str, str]:
    """All that a job leaves for people, without the times."""
    paths = JobPaths(out, job.name)
    rows = [line.split(",")[:-1] for line in paths.metrics.read_text().splitlines()]
    result = paths.result.read_text().partition('"seconds"')[0]
    certificates = paths.certificates.read_text() if paths.certificates.exists() else ""
    return rows, paths.weights.read_bytes(), result, certificates


@pytest.mark.parametrize("mode", MODES)
def test_killed_at_random_moments(mode: str, start: Start, tmp_path: Path) -> None:
    job, whole, parts = MODES[mode], tmp_path / "whole", tmp_path / "parts"
    moments = random.Random(f"the moments of {mode}")
    began = time.monotonic()
    start(job, whole).join()
    duration = time.monotonic() - began

    kills = 0
    while kills < KILLS_PER_MODE:
        process = start(job, parts)
        process.join(moments.uniform(0, duration))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:  # it was faster: there is nothing left to kill
            shutil.rmtree(parts)
    start(job, parts).join()

    assert files(job, parts) == files(job, whole)
    assert {path.name for path in JobPaths(parts, job.name).directory.iterdir()} == {
        path.name for path in JobPaths(whole, job.name).directory.iterdir()
    }


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_rename_of_a_file(when: str, start: Start, tmp_path: Path) -> None:
    """Every file of a job appears by rename, so these are all the states in which its folder can be left."""
    job = small_job(epochs=4)
    start(job, tmp_path / "whole").join()
    expected = files(job, tmp_path / "whole")

    for number in range(1, 100):
        out = tmp_path / str(number)
        first = start(job, out, (when, number))
        first.join()
        paths = JobPaths(out, job.name)
        continues = not paths.result.exists() and bool(list(paths.directory.glob("checkpoint*")))
        start(job, out).join()
        assert files(job, out) == expected
        assert ("resumed on" in paths.log.read_text()) == continues
        if first.exitcode == 0:  # there are no more renames
            break
    assert 12 < number < 99
