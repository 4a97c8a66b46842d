"""Small jobs for the tests of training: digits, a narrow MLP, a few batches an epoch; and running them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from nteleport.jobs.job import Component, Job, Scheduler, Teleportation, TrainingParams
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import TrainingResult
from nteleport.training.loop import Clock, Silent, train_job

CPU = torch.device("cpu")
STANDING_CLOCK = Clock(seconds=lambda: 0.0, now=lambda: datetime(2020, 1, 1))

BASELINE = Job(
    dataset="digits",
    training=TrainingParams(epochs=3, batch_size=32, shuffle_batches=True, max_batch=4),
    model=Component("mlp", {"hidden_layers": [16, 12]}),
    initializer=Component("none"),
    optimizer=Component("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
)


def small_job(
    mode: str = "no_teleport",
    *,
    teleport: dict[str, Any] | None = None,
    optimizer: Component | None = None,
    scheduler: Scheduler | None = None,
    model: Component | None = None,
    **training: Any,
) -> Job:
    """A variation of the baseline; `teleport` holds options of the mode, `training` training parameters."""
    options = {"cob_sampling": "inter_landscape", "cob_range": 0.5, "every_n_epochs": 0, **(teleport or {})}
    return replace(
        BASELINE,
        training=replace(BASELINE.training, **training),
        teleportation=Teleportation(mode=mode, **options) if mode != "no_teleport" else Teleportation(),
        optimizer=optimizer or BASELINE.optimizer,
        scheduler=scheduler,
        model=model or BASELINE.model,
    )


def run(job: Job, out: Path, **options: Any) -> TrainingResult:
    """Train `job` into a folder below `out`, with a clock that stands still."""
    settings = {"data_dir": out / "data", "device": CPU, "clock": STANDING_CLOCK, **options}
    return train_job(job, JobPaths(out, job.name), **settings)


class Quiet(Silent):
    """A `RunReporter` that nobody reads."""

    def run_started(self, jobs: Any) -> None: ...

    def job_started(self, job: Job) -> None: ...

    def job_ended(self, outcome: Any) -> None: ...


def stop_after(calls: int) -> Callable[[], bool]:
    """A `stop_requested` that says yes when it has been asked more than `calls` times."""
    asked = 0

    def stop_requested() -> bool:
        nonlocal asked
        asked += 1
        return asked > calls

    return stop_requested
