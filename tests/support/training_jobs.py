"""Small jobs for the tests of training: digits, a narrow MLP, a few batches an epoch; and running them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from nteleport.jobs.events import EpochFinished, Event, JobEnded, JobStarted, Resumed, RunStarted, Warned
from nteleport.jobs.job import Component, Job, Scheduler, Teleportation, TrainingParams
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import TrainingResult
from nteleport.training.loop import Clock, train_job

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
    given = {key: options.pop(key) for key in ("stop_requested", "clock", "report") if key in options}
    return train_job(
        job, JobPaths(out, job.name), run_options(out, **options), **{"clock": STANDING_CLOCK, **given}
    )


def run_options(out: Path, **options: Any) -> RunOptions:
    """On the CPU, data beside the results."""
    return RunOptions(**{"data_dir": out / "data", "device": "cpu", **options})


class Events(list[Event]):
    """A report that keeps what it is given."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self if isinstance(event, Warned)]

    @property
    def words(self) -> list[str]:
        """Each event in a word or two."""
        return [_in_words(event) for event in self]


def _in_words(event: Event) -> str:
    match event:
        case RunStarted(jobs):
            return f"{len(jobs)} jobs"
        case JobStarted():
            return "start"
        case Resumed(_, epochs):
            return f"resumed {epochs}"
        case EpochFinished(_, row):
            return f"epoch {row.epoch}"
        case Warned(text):
            return f"warning: {text}"
        case JobEnded():
            return f"{'skipped ' if event.skipped else ''}{event.state}"


def stop_after(calls: int) -> Callable[[], bool]:
    """A `stop_requested` that says yes when it has been asked more than `calls` times."""
    asked = 0

    def stop_requested() -> bool:
        nonlocal asked
        asked += 1
        return asked > calls

    return stop_requested
