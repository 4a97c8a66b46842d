"""A data set in memory: one tensor of inputs and one of labels for each split, on the training device.

Bytes are a quarter of the size of floats (CIFAR-10 is 184 MB), so a whole data set stays on the device and is
copied there once. What a network sees, ``(byte / 255 − mean) / std`` per channel, is made batch by batch in
``batching``. Floats and tokens of a data set of the user's (``loaded``) are served as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nteleport.data.catalog import IDX_FILES, DatasetInfo, dataset_info, preprocessed
from nteleport.data.files import Arrays, read_cifar, read_digits, read_mnist
from nteleport.data.sources import availability, locate
from nteleport.errors import DatasetError
from nteleport.vocabulary import Preprocessing


@dataclass(frozen=True, eq=False)
class Split:
    """Images, or other inputs, and labels of one split.

    Attributes:
        images: uint8 ``[N, C, H, W]``; or float32 or int64 ``[N, …]``, served as they are.
        labels: int64 ``[N]``, or float32 ``[N]`` or ``[N, outputs]``, on the same device.
        mean, std: of pixel values in [0, 1], one per channel or one for all.
        scale, shift: float32 ``[1, C or 1, 1, 1]`` on the same device; a byte ``b`` is normalized to
            ``b·scale + shift``.
    """

    images: Tensor
    labels: Tensor
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    scale: Tensor = field(init=False, repr=False)
    shift: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        are_bytes = self.images.dtype == torch.uint8
        served = self.images.ndim == 4 if are_bytes else self.images.dtype in (torch.float32, torch.int64)
        if not served or self.labels.shape[:1] != self.images.shape[:1]:
            raise DatasetError(
                "a split needs uint8 images [N, C, H, W], or float32 or int64 inputs, and labels [N]; got "
                f"{self.images.dtype} {tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )
        mean, std = (
            torch.tensor(tuple(values), dtype=torch.float64).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        object.__setattr__(self, "scale", (1 / (255 * std)).float().to(self.images.device))
        object.__setattr__(self, "shift", (-mean / std).float().to(self.images.device))

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def select(self, rows: Tensor) -> Split:
        """A copy of some rows, in the order of the int64 tensor ``rows`` (on the same device)."""
        images, labels = self.images.index_select(0, rows), self.labels.index_select(0, rows)
        return Split(images, labels, self.mean, self.std)

    def normalized(self, images: Tensor) -> Tensor:
        """Bytes ``[B, C, H, W]`` as the float32 a network sees: ``(byte / 255 − mean) / std`` per channel;
        inputs of another dtype as they are."""
        if images.dtype != torch.uint8:
            return images
        # Three passes over one buffer that stays in the cache: faster on a CPU than one broadcasting addcmul.
        return images.to(torch.float32).mul_(self.scale).add_(self.shift)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set on one device: its two published splits and its catalog entry."""

    info: DatasetInfo
    train: Split
    test: Split

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width), or the shape of one input of another kind."""
        return self.info.input_shape

    @property
    def num_classes(self) -> int:
        """Number of classes, or of the numbers of a target."""
        return self.info.num_classes

    @property
    def augmented(self) -> bool:
        """Whether training images are to be cropped and flipped at random."""
        return self.info.augmented


def load_dataset(
    name: str,
    data_dir: Path | str,
    device: torch.device | str = "cpu",
    preprocessing: Preprocessing = "standard",
) -> Dataset:
    """Read a data set, downloading it first if its files are missing, and put it on ``device``.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``cifar10`` or ``cifar100``.
        data_dir: where the files are or will be, laid out as torchvision does (see ``sources``).
        device: where the two tensors of each split live.
        preprocessing: see `nteleport.data.catalog.preprocessed`.

    Raises:
        UnknownNameError: no data set has this name.
        DatasetError: the files are missing and cannot be downloaded, or are damaged.
    """
    info = preprocessed(dataset_info(name), preprocessing)
    availability(info.name, data_dir)
    paths = locate(info.name, data_dir) or {}
    train, test = _read(info, paths)
    return Dataset(info, _to_split(info, train, device), _to_split(info, test, device))


def _read(info: DatasetInfo, paths: dict[str, Path]) -> tuple[Arrays, Arrays]:
    """The training and the test arrays of a data set whose files are at ``paths``."""
    found = [paths[file] for file in info.files]
    if info.name == "digits":
        return read_digits("train"), read_digits("test")
    if info.files == IDX_FILES:
        return read_mnist(found[0], found[1]), read_mnist(found[2], found[3])
    label_key = "labels" if info.name == "cifar10" else "fine_labels"
    train, test = (read_cifar(paths, label_key, info.num_classes) for paths in (found[:-1], found[-1:]))
    return train, test


def _to_split(info: DatasetInfo, arrays: Arrays, device: torch.device | str) -> Split:
    images, labels = (torch.from_numpy(array) for array in arrays)
    border = (images.shape[-1] - info.input_shape[-1]) // 2
    if border:  # the padding of images that are served unpadded
        images = images[..., border:-border, border:-border].contiguous()
    if len(labels) == 0 or int(labels.max()) >= info.num_classes:
        raise DatasetError(
            f"data set {info.name!r}: expected labels from 0 to {info.num_classes - 1} and at least one "
            "image; its files are damaged or of another data set"
        )
    return Split(images.to(device), labels.to(device, torch.int64), info.mean, info.std)


def example_inputs(
    shape: Sequence[int], *, tokens: bool = False, device: torch.device | str = "cpu"
) -> Tensor:
    """Two inputs of zeros to analyze a network with, float32 or int64: ``(2, *shape)``."""
    return torch.zeros(2, *shape, dtype=torch.int64 if tokens else torch.float32, device=device)


def random_split(
    shape: tuple[int, ...],
    classes: int,
    n: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Split:
    """Random data for studies: uniform bytes, uniform labels, nothing to learn.

    Normalized with the mean and standard deviation of that distribution, so a network sees zero mean and unit
    variance.

    Args:
        shape: (channels, height, width).
        classes: number of classes.
        n: number of images.
        generator: a CPU generator.
        device: where to put the split.
    """
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    # 256 equally likely values k / 255: variance (256² − 1) / 12 / 255².
    std = ((256**2 - 1) / 12) ** 0.5 / 255
    return Split(images.to(device), labels.to(device), (0.5,), (std,))
