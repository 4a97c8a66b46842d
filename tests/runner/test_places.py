"""Slots, their devices and threads, and what is sent to their workers."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import small_job

from nteleport.errors import JobError
from nteleport.jobs.job import Component, Scheduler
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.runner.places import Place, available_cores, places
from nteleport.runner.queue import Ticket


def laid_out(environment: dict[str, str] | None = None, **arguments: Any) -> list[tuple[str, str | None]]:
    """Device and visible device of each slot."""
    found = places(RunOptions(**arguments), environment or {})
    return [(place.device, place.visible) for place in found]


def test_one_slot_by_default() -> None:
    assert laid_out() == [("auto", None)]


def test_slots_without_devices_share_one() -> None:
    assert laid_out(slots=3, device="cuda:1") == [("cuda:1", None)] * 3


def test_each_slot_sees_one_of_the_devices() -> None:
    assert laid_out(devices=(0, 2)) == [("cuda", "0"), ("cuda", "2")]
    assert laid_out(devices=(0, 2), jobs_per_device=2) == [("cuda", name) for name in "0202"]


def test_devices_are_counted_within_an_inherited_list() -> None:
    assert laid_out({"CUDA_VISIBLE_DEVICES": "4, GPU-6,7"}, devices=(1, 2)) == [
        ("cuda", "GPU-6"),
        ("cuda", "7"),
    ]


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a device beside devices": ({"device": "cpu", "devices": (0,)}, "device cpu beside devices 0"),
    "a device twice": ({"devices": (1, 1)}, "expected different devices"),
    "other jobs than devices": ({"devices": (0, 1), "slots": 3}, "with 1 jobs each: expected 2"),
    "a device beyond the inherited list": (
        {"devices": (0, 2), "environment": {"CUDA_VISIBLE_DEVICES": "4,5"}}, "VISIBLE_DEVICES=4,5 leaves 2",
    ),
    "no device inherited": (
        {"devices": (0,), "environment": {"CUDA_VISIBLE_DEVICES": ""}}, "CUDA_VISIBLE_DEVICES= leaves 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_reported(case: str) -> None:
    arguments, message = CONTRADICTIONS[case]
    with pytest.raises(JobError, match=message):
        laid_out(**arguments)


@pytest.mark.parametrize(
    ("environment", "slots", "threads"),
    [
        ({}, 1, available_cores()),
        ({}, 10 * available_cores(), 1),
        ({"OMP_NUM_THREADS": "8"}, 3, 2),
        ({"OMP_NUM_THREADS": "8,2"}, 1, 8),
        ({"OMP_NUM_THREADS": "1"}, 4, 1),
        ({"OMP_NUM_THREADS": "many"}, 1, available_cores()),
    ],
)
def test_threads_are_divided_among_the_slots(environment: dict[str, str], slots: int, threads: int) -> None:
    found = places(RunOptions(slots=slots, device="cpu"), environment)
    assert [place.threads for place in found] == [threads] * slots


def test_the_environment_of_a_worker() -> None:
    inherited = {"HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "4,5", "OMP_NUM_THREADS": "8"}
    changed = Place("cuda", 2, visible="5").environment(inherited)

    assert {key: changed[key] for key in inherited} == {
        "HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "5", "OMP_NUM_THREADS": "2",
    }  # fmt: skip
    assert changed["PYTHONPATH"].split(os.pathsep) == [folder for folder in sys.path if folder]
    assert Place("cpu", 2).environment(inherited)["CUDA_VISIBLE_DEVICES"] == "4,5"


JOBS = [
    small_job(),
    small_job("random", teleport={"every_n_epochs": 2, "cob_sampling": "centered", "center": 2.0}),
    small_job("optim", optimizer=Component("Adam", {"lr": 1e-3, "betas": [0.9, 0.99]}), validation=0.1),
    small_job(scheduler=Scheduler("OneCycleLR", {"max_lr": 0.1}, interval="step")),
]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("stamp", [None, (1234567890123456789, 42)])
def test_a_ticket_survives_its_way_to_the_worker(
    job: Any, stamp: tuple[int, int] | None, tmp_path: Path
) -> None:
    ticket = Ticket(job, JobPaths(tmp_path, job.name), stamp)

    arrived = pickle.loads(pickle.dumps(ticket))  # noqa: S301

    assert arrived == ticket
    assert arrived.job.hparams() == job.hparams()
