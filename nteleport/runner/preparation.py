"""What jobs need besides their experiment: trackers, devices, batches, and data, which are fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nteleport.data.batching import num_batches
from nteleport.data.catalog import DataSource
from nteleport.data.loaded import described
from nteleport.data.sources import availability
from nteleport.errors import JobError
from nteleport.jobs.job import Job, TrainingParams
from nteleport.jobs.options import RunOptions
from nteleport.networks.pretrained import pretrained_weights
from nteleport.plugins import is_reference
from nteleport.trackers.tracker import load_trackers
from nteleport.training.device import find_device


def prepare(jobs: Sequence[Job], options: RunOptions, *, here: bool = True) -> None:
    """Check what a run needs besides its experiment, and download data sets that are missing.

    Args:
        jobs: the jobs to train.
        options: how to train them.
        here: whether they run on this machine; else its devices are not checked.

    Raises:
        NTeleportError: a tracker, device or data set is unavailable, or a job has no batch to train on.
    """
    load_trackers(options.trackers)
    check_trainable(jobs)
    if here:
        _check_devices(options)
    for dataset in dict.fromkeys(job.dataset for job in jobs):
        if isinstance(dataset, str):
            availability(dataset, options.data_dir)
    for name in dict.fromkeys(job.model.cls for job in jobs if job.model.kwargs.get("pretrained")):
        if not is_reference(name):
            pretrained_weights(name)


def check_trainable(jobs: Iterable[Job]) -> None:
    """Check that every job has a batch to train on, and reaches its first teleportation, before anything is
    written.

    Raises:
        DatasetError: one of them has none.
        JobError: the first teleportation of one is past its last step.
    """
    for dataset, params, first in {
        (job.dataset, job.training, job.teleportation.settings().get("every_n_steps", 0)) for job in jobs
    }:
        steps = params.epochs * steps_per_epoch(dataset, params)
        if first >= steps:
            raise JobError(
                f"every_n_steps {first} is past the end of training, expected at most {steps - 1}: steps "
                f"count from 0 and there are {steps} in {params.epochs} epochs of {dataset}"
            )


def _check_devices(options: RunOptions) -> None:
    """Check that the devices exist, without using any of them."""
    named = "cuda:0" if options.device == "cuda" else options.device
    for name in [f"cuda:{number}" for number in options.devices] or [named]:
        if name != "auto":
            find_device(name)


def steps_per_epoch(dataset: str | DataSource, params: TrainingParams) -> int:
    """Batches of an epoch.

    Raises:
        DatasetError: there is none.
    """
    images = round(described(dataset).train_size * (1 - (params.validation or 0)))
    images = min(images, params.train_images or images)
    return num_batches(
        images,
        batch_size=params.batch_size,
        drop_last=params.drop_last_batch,
        max_batch=params.max_batch,
    )
