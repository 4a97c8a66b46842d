"""Jobs that are killed at random moments, without a chance to clean up, end as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

import pytest
import torch
from support.training_jobs import run, small_job

from nteleport.jobs.job import Component, Scheduler
from nteleport.jobs.paths import JobPaths

KILLS = 20
ADAM = Component("Adam", {"lr": 0.003})
EVERY_2 = {"every_n_epochs": 2, "num_teleportations": 3}
JOBS = [
    small_job(epochs=6, max_batch=20),
    small_job("random", teleport=EVERY_2, epochs=6, max_batch=20),
    small_job(
        "random", teleport=EVERY_2, optimizer=ADAM, optimizer_state="transport", epochs=6, max_batch=20
    ),
    small_job(
        "optim",
        teleport=EVERY_2,
        scheduler=Scheduler("OneCycleLR", {"max_lr": 0.1}, interval="step"),
        epochs=6,
        max_batch=20,
    ),
    small_job(
        "optim", teleport=EVERY_2 | {"metric": "loss_lookahead_diff"}, optimizer=ADAM, epochs=6, max_batch=20
    ),
    small_job("pseudo", teleport=EVERY_2, optimizer_state="keep", epochs=6, max_batch=20),
]


def train_what_is_missing(out: Path) -> None:
    torch.set_num_threads(1)
    for job in JOBS:
        if not JobPaths(out, job.name).result.exists():
            run(job, out, save_weights=True)


@pytest.mark.slow
def test_killed_jobs_end_byte_for_byte_as_undisturbed_ones(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process with threads cannot be forked
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_what_is_missing(whole)
    moments, kills, exit_code = random.Random(0), 0, None
    while exit_code != 0:
        process = multiprocessing.get_context("fork").Process(target=train_what_is_missing, args=(parts,))
        process.start()
        process.join(moments.uniform(0.05, 0.4) if kills < KILLS else None)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        exit_code = process.exitcode
        assert exit_code in (0, -9)
    torch.set_num_threads(threads)

    resumed = 0
    for job in JOBS:
        ours, expected = JobPaths(parts, job.name), JobPaths(whole, job.name)
        resumed += ours.log.read_text().count("resumed")
        assert ours.metrics.read_bytes() == expected.metrics.read_bytes()
        assert ours.weights.read_bytes() == expected.weights.read_bytes()
        assert ours.result.read_bytes() == expected.result.read_bytes()
    assert kills > 3
    assert resumed > 2
