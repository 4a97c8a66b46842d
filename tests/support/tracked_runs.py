"""A run that is only reported, never trained, for the tests of trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nteleport.jobs.events import EpochFinished, JobEnded, JobStarted, Resumed, RunStarted
from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import MetricRow, metrics_csv, write_result
from nteleport.jobs.records import TrainingResult as Result
from nteleport.trackers.reporting import Tracking
from support.training_jobs import Events, small_job

JOB = small_job(epochs=4)
ROWS = [
    MetricRow(
        epoch=epoch, lr=0.0625,
        train_loss=2.0 - epoch / 4, train_accuracy=epoch / 4, train_accuracy_top5=0.875,
        val_loss=2.5 - epoch / 4, val_accuracy=epoch / 8, val_accuracy_top5=0.75, teleported=0, grad_norm=1.5,
        weight_norm=3.0, seconds=0.0,
    )
    for epoch in range(4)
]  # fmt: skip
"""Numbers that 32-bit floats hold exactly, for TensorBoard keeps no more."""


def play(
    out: Path,
    trackers: Mapping[str, Any],
    *,
    job: Job = JOB,
    rows: Sequence[MetricRow] = ROWS,
    earlier: int = 0,
    state: str = "finished",
) -> Events:
    """Report `rows` of a job from number `earlier` on, leaving the files that a training leaves."""
    events, paths = Events(), JobPaths(out, job.name)
    paths.directory.mkdir(parents=True, exist_ok=True)
    if earlier:
        paths.checkpoint.touch()
        paths.metrics.write_text(metrics_csv(rows[:earlier]))
    report = Tracking(events, trackers, out)
    report(RunStarted((job,)))
    report(JobStarted(job))
    if earlier:
        report(Resumed(job, earlier))
    for row in rows[earlier:]:
        report(EpochFinished(job, row))
    if state != "stopped":
        write_result(paths, Result(state, tuple(rows), {"accuracy": 0.5}))
    report(JobEnded(job, paths, state))
    return events
