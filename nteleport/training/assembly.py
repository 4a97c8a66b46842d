"""From a job to everything needed to train it: data, seeded network, quiver, optimizer, learning rate.

A job and its baseline share a seed, so they get the same initial weights, the same held-out images and the
same batches. What is costly and shared by many jobs of a matrix, the data set in memory and the analysis of
an architecture, is made once per process.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nteleport.core.analysis import analyze
from nteleport.core.optimizer import TeleportedOptimizer
from nteleport.core.optimizer_state import check_transportable
from nteleport.core.preserving import keeping_random_states
from nteleport.core.quiver import Quiver
from nteleport.data.batching import EVALUATION_BATCH, batches, hold_out, num_batches, some_of
from nteleport.data.catalog import DataSource
from nteleport.data.loaded import open_dataset
from nteleport.data.splits import Dataset, Split, example_inputs
from nteleport.errors import JobError, nearest
from nteleport.expression import compile_lambda
from nteleport.jobs.job import Component, Job
from nteleport.networks.models import build_model, seeded_model
from nteleport.plugins import digest_of, is_reference, look_up
from nteleport.randomness import generator_for
from nteleport.training.device import forward_of
from nteleport.training.learner import Learner, leaves_lone_image
from nteleport.training.learning_rate import LearningRate, build_learning_rate
from nteleport.training.losses import find_loss
from nteleport.vocabulary import MODES, Activations, Preprocessing


@dataclass(frozen=True)
class Assembly:
    """A job made concrete on a device.

    Attributes:
        job: what was asked for.
        device: where everything is.
        learner: network and optimizer.
        learning_rate: of the optimizer.
        train, validation, test: the images; validation is the test split itself, or held out of train.
        augmented: training images are cropped and flipped.
        drops_last: an incomplete last batch is left out: because the job says so, or because it would be a
            single image, for which BatchNorm has no variance.
        steps_per_epoch: batches of an epoch.
        analysis_seconds: what the analysis of the architecture took, in this process or for an earlier job;
            0 for a job that needs none.
    """

    job: Job
    device: torch.device
    learner: Learner
    learning_rate: LearningRate
    train: Split
    validation: Split
    test: Split
    augmented: bool
    drops_last: bool
    steps_per_epoch: int
    analysis_seconds: float

    def training_batches(
        self, seed: int, epoch: int, max_batch: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch; order and augmentation come from `seed` and `epoch`."""
        params = self.job.training
        limits = [limit for limit in (params.max_batch, max_batch) if limit is not None]
        return batches(
            self.train,
            batch_size=params.batch_size,
            generator=generator_for("epoch", seed, epoch),
            shuffle=params.shuffle_batches,
            augment=self.augmented,
            drop_last=self.drops_last,
            max_batch=min(limits, default=None),
        )

    def evaluation_batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of a split, in order."""
        return batches(split, batch_size=max(EVALUATION_BATCH, self.job.training.batch_size))


def assemble(job: Job, *, data_dir: Path | str, device: torch.device) -> Assembly:
    """Build what `job` names, on `device`.

    Raises:
        NTeleportError: a data set, model, optimizer or scheduler is not available as the job specifies it.
    """
    params = job.training
    code = digest_of(job.dataset.load) if isinstance(job.dataset, DataSource) else ""
    dataset = _dataset(job.dataset, str(data_dir), str(device), params.preprocessing, code)
    train, validation = dataset.train, dataset.test
    if params.validation is not None:
        train, validation = hold_out(dataset.train, params.validation, job.seed)
    if params.train_images is not None:
        train = some_of(train, params.train_images, job.seed)
    network = _network(job, dataset).to(device)
    if params.channels_last:
        network = network.to(memory_format=torch.channels_last)
    drops_last = params.drop_last_batch or leaves_lone_image(network, len(train), params.batch_size)
    steps = num_batches(train, batch_size=params.batch_size, drop_last=drops_last, max_batch=params.max_batch)
    quiver, analysis_seconds = _quiver(job, dataset)
    optimizer = _optimizer(job, network, quiver.to(device))
    learning_rate = build_learning_rate(
        optimizer.optimizer,
        job.scheduler,
        epochs=params.epochs,
        steps_per_epoch=steps,
        compile_lambda=compile_lambda,
        watches="loss" if dataset.info.has_numbers else "accuracy",
    )
    forward = forward_of(
        network,
        device,
        precision=params.precision,
        compile=params.compile,
        channels_last=params.channels_last,
    )
    learner = Learner(network, optimizer, forward, find_loss(params.loss))
    return Assembly(
        job=job,
        device=device,
        learner=learner,
        learning_rate=learning_rate,
        train=train,
        validation=validation,
        test=dataset.test,
        augmented=dataset.augmented,
        drops_last=drops_last,
        steps_per_epoch=steps,
        analysis_seconds=analysis_seconds,
    )


def _network(job: Job, dataset: Dataset) -> nn.Module:
    return seeded_model(
        job.model.cls,
        job.model.kwargs,
        input_shape=dataset.input_shape,
        num_classes=dataset.num_classes,
        seed=job.seed,
        initializer=job.initializer.cls,
        initializer_kwargs=job.initializer.kwargs,
    )


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """An optimizer's class by its name in torch, or as `module:name`.

    Raises:
        PluginError: the module cannot be run.
        UnknownNameError: it is not admitted, or has no such name.
        JobError: there is no such optimizer.
    """
    cls = look_up(name) if is_reference(name) else getattr(torch.optim, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        if is_reference(name):
            raise JobError(f"{name} is no optimizer, expected a subclass of torch.optim.Optimizer")
        raise JobError(f"torch has no optimizer {name!r}{nearest(name, dir(torch.optim))}")
    return cls


def build_optimizer(
    chosen: Component, network: nn.Module, quiver: Quiver, *, fused: str | bool = "auto"
) -> TeleportedOptimizer:
    """An optimizer by its name in torch, or as `module:name`. With a change of basis of ones it is just that
    optimizer, at no extra cost.

    Raises:
        PluginError: the module cannot be run.
        JobError: there is no such optimizer, or it refuses its arguments.
    """
    name = chosen.cls
    cls = optimizer_class(name)
    kwargs: dict[str, Any] = dict(chosen.kwargs)
    if fused != "auto":
        kwargs.setdefault("fused", bool(fused))
    try:
        return TeleportedOptimizer(network, quiver, cls, **kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        known = [key for key in inspect.signature(cls).parameters if key != "params"]
        unknown = [key for key in kwargs if key not in known]
        hint = f", expected {', '.join(known)}{nearest(unknown[0], known)}" if unknown else ""
        raise JobError(f"torch refuses the arguments of the optimizer {name}: {error}{hint}") from error


def _optimizer(job: Job, network: nn.Module, quiver: Quiver) -> TeleportedOptimizer:
    optimizer = build_optimizer(job.optimizer, network, quiver, fused=job.training.fused)
    if job.training.optimizer_state == "transport" and MODES[job.teleportation.mode].changes_basis:
        check_transportable(optimizer.optimizer)  # now, rather than at the first teleportation
    return optimizer


def _quiver(job: Job, dataset: Dataset) -> tuple[Quiver, float]:
    """How the network teleports, and the seconds to find it; a job that never teleports needs no analysis."""
    if job.teleportation.mode in ("no_teleport", "optimizer_reset"):
        return Quiver(0, {}, ()), 0.0
    info = dataset.info
    return _architecture(
        _ModelKey.of(job.model),
        info.input_shape,
        info.num_classes,
        job.teleportation.activations,
        tokens=info.has_tokens,
    )


@dataclass(frozen=True)
class _ModelKey:
    """A model's name, arguments and code in hashable form."""

    name: str
    arguments: str
    code: str

    @classmethod
    def of(cls, model: Component) -> _ModelKey:
        return cls(model.cls, json.dumps(dict(model.kwargs), sort_keys=True), digest_of(model.cls))


@lru_cache(maxsize=8)
def _architecture(
    model: _ModelKey,
    input_shape: tuple[int, ...],
    num_classes: int,
    activations: Activations,
    *,
    tokens: bool,
) -> tuple[Quiver, float]:
    """The quiver of an architecture, which does not depend on its weights, and the seconds to find it."""
    begun = time.perf_counter()
    with keeping_random_states(torch.device("cpu")):
        network = build_model(
            model.name, input_shape=input_shape, num_classes=num_classes, **json.loads(model.arguments)
        )
    quiver = analyze(network, example_inputs(input_shape, tokens=tokens), activations=activations)
    return quiver, time.perf_counter() - begun


@lru_cache(maxsize=1)
def _dataset(
    dataset: str | DataSource, data_dir: str, device: str, preprocessing: Preprocessing, code: str
) -> Dataset:
    return open_dataset(dataset, data_dir, device, preprocessing)
