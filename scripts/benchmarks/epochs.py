"""A whole epoch of a job: data, augmentation, training, validation, metrics and checkpoint.

A real job runs, `train_job` on files of the shape of CIFAR-10 (random images, 50,000 + 10,000). Whenever it
has finished an epoch, the baselines have their turn.
"""

from __future__ import annotations

import pickle
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nteleport import analyze
from nteleport.jobs.events import EpochFinished, Event
from nteleport.jobs.job import Component, Job, Teleportation, TrainingParams
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.training.loop import train_job

from .baselines.activation_rescaling import rescaling_network
from .baselines.per_sample_pipeline import PerSamplePipeline
from .networks import COB_RANGE, OPTIMIZERS, SAMPLING, make_network, plain, random_batch, random_cob
from .steps import plain_action
from .timing import Figure, Setting, compare, take_turns, timed

TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
BATCH_SIZE = 256
STEPS = TRAIN_IMAGES // BATCH_SIZE
ROUNDS = 2
OPTIMIZER = "SGD momentum"
FILES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def whole_epoch(setting: Setting) -> Iterator[Figure]:
    """An epoch of the MLP against its plain steps alone, and against the per-sample pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        images, labels = _write_files(Path(folder))
        turns = _Turns(setting, images, labels)
        rounds = max(1, round(ROUNDS * setting.effort))
        job = _job(epochs=rounds + 1)
        turns.resume()
        options = RunOptions(data_dir=Path(folder), device=str(setting.device))
        train_job(job, JobPaths(Path(folder), "job"), options, turns)
    what = "epoch with validation, 50,000 + 10,000 images: mlp"
    yield compare(
        "epoch", what, f"{STEPS} plain steps", turns.epochs, turns.steps, unit="s", factor=1, target=1.25
    )
    yield compare(
        "epoch", what, "per-sample pipeline, rescaled activations", turns.epochs, turns.pipeline,
        unit="s", factor=1, target=0.35,
    )  # fmt: skip


class _Turns:
    """Measures the epochs of a job from outside, and runs the baselines between them. The first epoch, which
    includes the start of the job, is the warm-up.
    """

    def __init__(self, setting: Setting, images: np.ndarray, labels: np.ndarray) -> None:
        self.epochs: list[float] = []
        self.steps: list[float] = []
        self.pipeline: list[float] = []
        self._setting, self._began = setting, 0.0
        self._step = plain_action("mlp", OPTIMIZER, random_batch(setting, BATCH_SIZE))
        network = make_network("mlp", setting.device)
        cob = random_cob(analyze(network, torch.zeros(2, 3, 32, 32))).to(setting.device)
        self._rescaling = rescaling_network(network, cob)
        self._optimizer = plain(self._rescaling, OPTIMIZER)
        train, test = slice(0, TRAIN_IMAGES), slice(TRAIN_IMAGES, None)
        self._pipeline = PerSamplePipeline(
            (images[train], labels[train]), (images[test], labels[test]), BATCH_SIZE
        )

    def resume(self) -> None:
        """The job continues."""
        self._began = self._setting.clock()

    def __call__(self, event: Event) -> None:
        """Take the time of an epoch, and let the baselines run."""
        if not isinstance(event, EpochFinished):
            return
        seconds = self._setting.clock() - self._began
        (steps,) = take_turns([self._step], self._setting, 1.5, at_least=20)
        if event.row.epoch > 0:
            self.epochs.append(seconds)
            self.steps.append(statistics.median(steps) * STEPS)
            epoch = self._pipeline.epoch
            self.pipeline.append(timed(lambda: epoch(self._rescaling, self._optimizer), self._setting))
        self.resume()


def _job(epochs: int) -> Job:
    hyper_parameters = {key: value for key, value in OPTIMIZERS[OPTIMIZER][1].items() if key != "fused"}
    return Job(
        dataset="cifar10",
        training=TrainingParams(
            epochs=epochs, batch_size=BATCH_SIZE, shuffle_batches=True, drop_last_batch=True
        ),
        model=Component("mlp"),
        initializer=Component("none"),
        optimizer=Component("SGD", hyper_parameters),
        teleportation=Teleportation(
            mode="random", every_n_epochs=0, teleport_only_once=True, cob_range=COB_RANGE,
            cob_sampling=SAMPLING,
        ),
    )  # fmt: skip


def _write_files(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Random images as files of CIFAR-10; returned as uint8 (n, 32, 32, 3) and labels."""
    random = np.random.default_rng(0)
    count = TRAIN_IMAGES + TEST_IMAGES
    planes = random.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = random.integers(0, 10, count)
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir()
    size = count // len(FILES)
    for number, name in enumerate(FILES):
        part = slice(number * size, (number + 1) * size)
        content = {b"data": planes[part], b"labels": labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels
