"""The subject of a study: a network with its quiver and its data, built from the study's settings.

Everything random is drawn from generators named by their purpose (`generator_for`), so that adding a draw to
one part of a study changes no other part, and all studies with one seed use the same network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from itertools import count
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from nteleport.checkpoints.files import read_checkpoint
from nteleport.checkpoints.fitting import load_into
from nteleport.core.analysis import analyze
from nteleport.core.cob import sample_cob
from nteleport.core.quiver import Quiver
from nteleport.data.batching import batches
from nteleport.data.catalog import DatasetInfo, DataSource, dataset_info
from nteleport.data.loaded import load_source
from nteleport.data.splits import Dataset, example_inputs, load_dataset, random_split
from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.networks.models import seeded_model
from nteleport.randomness import generator_for, seed_of, wide_dtype
from nteleport.studies.settings import StudySettings
from nteleport.training.device import find_device
from nteleport.vocabulary import Sampling

RANDOM_IMAGES = (4096, 1024)
"""Number of images in the training and the test split of random data."""

_RANDOM_LIKE = "cifar10"

Batch = tuple[Tensor, Tensor]

_Compute = TypeVar("_Compute", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Subject:
    """One network on one data set.

    Attributes:
        model: the name and arguments of the network.
        dataset: the name of the data set.
        network: on `device`, in training mode.
        quiver: of the network, on `device`.
        data: both splits, on `device`.
        seed: of the study.
    """

    model: Component
    dataset: str
    network: nn.Module
    quiver: Quiver
    data: Dataset
    seed: int

    @property
    def device(self) -> torch.device:
        """The device of the network and the data."""
        return self.data.train.device

    def batches(self, batch_size: int, purpose: str) -> Iterator[Batch]:
        """An endless sequence of full training batches: epoch after epoch, each in a new random order.

        Images are cropped and flipped as in training. The seed and `purpose` determine the sequence.
        """
        seed = seed_of("study", self.seed, purpose)
        for epoch in count():
            yield from batches(
                self.data.train, batch_size=batch_size, generator=generator_for("epoch", seed, epoch),
                augment=self.data.augmented, drop_last=True,
            )  # fmt: skip


def subjects(settings: StudySettings) -> Iterator[Subject]:
    """Every model on every data set of the settings, one after another.

    Raises:
        NTeleportError: an unknown name, a model that cannot take these images, missing data or weights that
            do not fit.
    """
    for dataset in settings.datasets:
        data = load_data(dataset, settings)
        for model in settings.models:
            yield build_subject(model, dataset, data, settings)


def one_subject(settings: StudySettings) -> Subject:
    """The subject of a study that takes one model and one data set.

    Raises:
        StudyError: the settings name several.
    """
    model, dataset = settings.model, settings.dataset
    return build_subject(model, dataset, load_data(dataset, settings), settings)


def build_subject(
    model: Component, dataset: str | DataSource, data: Dataset, settings: StudySettings
) -> Subject:
    """Build the network, load its weights if the settings have any, and find its quiver."""
    network = build_network(model, data.info, settings.seed)
    if settings.weights is not None:
        load_into(network, read_checkpoint(settings.weights))
    network = network.to(data.train.device)
    inputs = example_inputs(data.input_shape, tokens=data.info.has_tokens, device=data.train.device)
    quiver = analyze(network, inputs)
    return Subject(model, str(dataset), network, quiver.to(data.train.device), data, settings.seed)


def build_network(model: Component, info: DatasetInfo, seed: int) -> nn.Module:
    """A network with the initial weights determined by `seed`, on the CPU."""
    return seeded_model(
        model.cls, model.kwargs, input_shape=info.input_shape, num_classes=info.num_classes,
        seed=seed_of("study", seed, "weights"),
    )  # fmt: skip


def load_data(dataset: str | DataSource, settings: StudySettings) -> Dataset:
    """A data set of the catalog or of the user's, or random data, on the device of the settings.

    Raises:
        NTeleportError: it cannot be loaded.
        StudyError: its targets are numbers: studies measure cross-entropy.
    """
    device = find_device(settings.device)
    if isinstance(dataset, DataSource):
        found = load_source(dataset, device)
        if found.info.has_numbers:
            raise StudyError(
                f"targets of {dataset} are numbers, expected classes: a study takes the cross-entropy"
            )
        return found
    kind, _, like = dataset.partition(":")
    if kind != "random":
        return load_dataset(dataset, settings.data_dir, device)
    train, test = RANDOM_IMAGES
    model = dataset_info(like or _RANDOM_LIKE)
    info = replace(model, name=dataset, train_size=train, test_size=test, augmented=False)
    generator = generator_for("study", settings.seed, f"data {dataset}")
    splits = (random_split(info.input_shape, info.num_classes, n, generator, device) for n in RANDOM_IMAGES)
    return Dataset(info, *splits)


def draw_cob(subject: Subject, cob_range: float, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """A random change of basis of the subject's network, shape (cob_size,), on its device, in float64."""
    cob = sample_cob(subject.quiver.cob_size, cob_range, sampling, generator=generator)
    return cob.to(subject.device, wide_dtype(subject.device))


def seeded(compute: _Compute) -> _Compute:
    """Make dropout, which draws from torch's default generators, depend on the seed of a study's settings.

    The states of these generators are restored after the study.
    """

    @wraps(compute)
    def computed(settings: StudySettings, **kwargs: Any) -> Any:
        device = find_device(settings.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of("study", settings.seed, "dropout"))
            return compute(settings, **kwargs)

    return cast(_Compute, computed)
