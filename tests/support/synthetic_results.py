"""Folders of results as `nteleport train` leaves them, but made up: for tests of reading and plotting.

Names, hyper-parameters and places come from the real `Job` and `JobPaths`; the learning curves are made up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from nteleport.jobs.job import Component, Job, Scheduler, Teleportation, TrainingParams
from nteleport.jobs.paths import JobPaths

HEADER = (
    "epoch,lr,train_loss,train_accuracy,train_accuracy_top5,val_loss,val_accuracy,val_accuracy_top5,"
    "teleported,grad_norm,weight_norm,seconds"
)

BASELINE = Teleportation()
TELEPORTED = Teleportation(
    mode="random", every_n_epochs=0, teleport_only_once=True, cob_range=0.9, cob_sampling="inter_landscape"
)
PSEUDO = replace(TELEPORTED, mode="pseudo")


def sgd(lr: float = 0.01, momentum: float | None = None) -> Component:
    """SGD as in the published matrices."""
    extra = {} if momentum is None else {"momentum": momentum}
    return Component("SGD", {"lr": lr, **extra, "weight_decay": 0.01})


def make_job(
    *,
    dataset: str = "digits",
    model: Component | str = "mlp",
    optimizer: Component | None = None,
    teleportation: Teleportation = BASELINE,
    run: int = 0,
    epochs: int = 100,
    initializer: str = "none",
    scheduler: Scheduler | None = None,
) -> Job:
    return Job(
        dataset=dataset,
        training=TrainingParams(epochs=epochs, batch_size=256, shuffle_batches=True, drop_last_batch=True),
        model=Component(model) if isinstance(model, str) else model,
        initializer=Component(initializer),
        optimizer=optimizer or sgd(),
        scheduler=scheduler,
        teleportation=teleportation,
        run=run,
    )


def matrix(
    *,
    optimizers: Iterable[Component] = (sgd(),),
    teleportations: Iterable[Teleportation] = (BASELINE, TELEPORTED),
    runs: int = 5,
    **fields: object,
) -> list[Job]:
    """All combinations, in the order of an experiment file."""
    return [
        make_job(optimizer=optimizer, teleportation=teleportation, run=run, **fields)  # type: ignore[arg-type]
        for optimizer in optimizers
        for teleportation in teleportations
        for run in range(runs)
    ]


def learning_curve(job: Job, epochs: int) -> list[dict[str, float]]:
    """Rows of a plausible training: faster when teleported, with momentum or a larger learning rate."""
    noise = np.random.default_rng([job.seed % 2**32, int(job.hash8, 16)])
    speed = job.optimizer.kwargs.get("lr", 0.01) * 100 * (3 if "momentum" in job.optimizer.kwargs else 1)
    speed = 0.04 * speed**0.5 * (2.5 if job.teleportation.mode == "random" else 1)
    best = 0.93 + 0.02 * noise.standard_normal() * 0.5
    rows = []
    for epoch in range(epochs):
        progress = 1 - np.exp(-speed * (epoch + 1))
        accuracy = float(np.clip(0.1 + (best - 0.1) * progress + 0.012 * noise.standard_normal(), 0, 1))
        loss = float(2.3 * np.exp(-1.4 * speed * (epoch + 1)) + 0.03 * (1 + 0.2 * noise.standard_normal()))
        rows.append(
            {
                "epoch": epoch,
                "lr": float(job.optimizer.kwargs.get("lr", 0.01)) * (0.1 if epoch >= 0.7 * epochs else 1),
                "train_loss": loss,
                "train_accuracy": min(accuracy + 0.02, 1.0),
                "train_accuracy_top5": min(accuracy + 0.2, 1.0),
                "val_loss": loss + 0.1,
                "val_accuracy": accuracy,
                "val_accuracy_top5": min(accuracy + 0.15, 1.0),
                "teleported": int(epoch == 0 and job.teleportation.mode != "no_teleport"),
                "grad_norm": 2.0 * loss,
                "weight_norm": 30.0 + 0.01 * epoch,
                "seconds": 0.25,
            }
        )
    return rows


def metrics_text(rows: Sequence[Mapping[str, object]]) -> str:
    lines = [",".join(str(row.get(name, "")) for name in HEADER.split(",")) for row in rows]
    return "\n".join([HEADER, *lines]) + "\n"


def write_job(
    out: Path,
    job: Job,
    rows: Sequence[Mapping[str, object]] | None = None,
    *,
    state: str | None = "finished",
    epochs: int | None = None,
) -> JobPaths:
    """Write one job; `state` None leaves it unfinished, `epochs` keeps only its first rows."""
    paths = JobPaths(out, job.name)
    paths.directory.mkdir(parents=True)
    paths.hparams.write_text(yaml.safe_dump(job.hparams(), sort_keys=False))
    paths.config.write_text(yaml.safe_dump(job.to_experiment(), sort_keys=False))
    if rows is None:
        rows = learning_curve(job, job.training.epochs)[:epochs]
    if rows:
        paths.metrics.write_text(metrics_text(rows))
    if state is not None:
        result = {
            "state": state,
            "epochs": len(rows),
            "final": dict(rows[-1]) if rows else {},
            "seconds": 25.0,
        }
        paths.result.write_text(json.dumps(result))
    return paths


def write_jobs(out: Path, jobs: Iterable[Job]) -> None:
    """Write finished jobs."""
    for job in jobs:
        write_job(out, job)
