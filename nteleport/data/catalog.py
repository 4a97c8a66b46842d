"""The available data sets: shapes, classes, sizes and normalization constants. No torch, no files touched.

Images of MNIST and Fashion-MNIST are padded from 28×28 to 32×32 with black, and the 8×8 digits are enlarged
to 32×32, so that every network that runs on CIFAR runs on all of them. The normalization constants are those
of the images as they are served: for the padded sets the published mean and standard deviation of the 28×28
images, carried over exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nteleport.errors import UnknownNameError, nearest
from nteleport.vocabulary import Preprocessing


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before it is read.

    Attributes:
        name: its name in an experiment file.
        input_shape: (channels, height, width) of one image as served to a network; of a data set of the
            user's, the shape of one input.
        num_classes: labels are 0 … num_classes − 1. With `has_numbers`, how many numbers a target has.
        train_size, test_size: images in the two published splits.
        mean, std: per channel, of pixel values in [0, 1] over the training split.
        augmented: training images are randomly cropped (pad 4) and flipped.
        folder: where its files lie below the data folder, as torchvision lays them out.
        files: the files in that folder; none for a data set that ships inside the package.
        torchvision_class: the class of ``torchvision.datasets`` that downloads it.
        system_folder, system_package: a Debian package that has the files, and where it puts them.
        has_tokens: inputs are integers, not floats.
        has_numbers: targets are floats, not classes.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmented: bool = False
    folder: str = ""
    files: tuple[str, ...] = ()
    torchvision_class: str = ""
    system_folder: str = ""
    system_package: str = ""
    has_tokens: bool = False
    has_numbers: bool = False


@dataclass(frozen=True)
class DataSource:
    """A data set that a function of the user's loads; what it holds is known once it has been called.

    Attributes:
        name: what it is called in results.
        load: the function, as `module:name`.
        kwargs: its keyword arguments.
    """

    name: str
    load: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """As in an experiment file."""
        return {"load": self.load, "name": self.name, **self.kwargs}

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash((self.name, self.load))


def _padded(mean: float, std: float, content: float) -> tuple[tuple[float], tuple[float]]:
    """Mean and standard deviation after padding with black; ``content`` is the fraction that is image."""
    second_moment = (std**2 + mean**2) * content
    return (mean * content,), ((second_moment - (mean * content) ** 2) ** 0.5,)


_SMALL_IN_32 = (28 * 28) / (32 * 32)
_MNIST_MEAN, _MNIST_STD = _padded(0.1307, 0.3081, _SMALL_IN_32)
_FASHION_MEAN, _FASHION_STD = _padded(0.2860, 0.3530, _SMALL_IN_32)

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

#: The data sets an experiment file can name.
DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        name="digits",
        input_shape=(1, 32, 32),
        num_classes=10,
        train_size=1437,
        test_size=360,
        mean=(0.3058,),
        std=(0.3761,),
    ),
    "mnist": DatasetInfo(
        name="mnist",
        input_shape=(1, 32, 32),
        num_classes=10,
        train_size=60_000,
        test_size=10_000,
        mean=_MNIST_MEAN,
        std=_MNIST_STD,
        folder="MNIST/raw",
        files=IDX_FILES,
        torchvision_class="MNIST",
    ),
    "fashion_mnist": DatasetInfo(
        name="fashion_mnist",
        input_shape=(1, 32, 32),
        num_classes=10,
        train_size=60_000,
        test_size=10_000,
        mean=_FASHION_MEAN,
        std=_FASHION_STD,
        folder="FashionMNIST/raw",
        files=IDX_FILES,
        torchvision_class="FashionMNIST",
        system_folder="/usr/share/datasets/fashion-mnist",
        system_package="dataset-fashion-mnist",
    ),
    "cifar10": DatasetInfo(
        name="cifar10",
        input_shape=(3, 32, 32),
        num_classes=10,
        train_size=50_000,
        test_size=10_000,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augmented=True,
        folder="cifar-10-batches-py",
        files=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"),
        torchvision_class="CIFAR10",
    ),
    "cifar100": DatasetInfo(
        name="cifar100",
        input_shape=(3, 32, 32),
        num_classes=100,
        train_size=50_000,
        test_size=10_000,
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augmented=True,
        folder="cifar-100-python",
        files=("train", "test"),
        torchvision_class="CIFAR100",
    ),
}


def dataset_info(name: str) -> DatasetInfo:
    """The catalog entry of a data set.

    Raises:
        UnknownNameError: no data set has this name; the message gives the nearest one.
    """
    key = str(name).strip().lower()
    if key in DATASETS:
        return DATASETS[key]
    known = ", ".join(DATASETS)
    raise UnknownNameError(f"unknown data set {name!r}: expected one of {known}{nearest(key, DATASETS)}")


def preprocessed(info: DatasetInfo, preprocessing: Preprocessing) -> DatasetInfo:
    """A data set as the paper's code serves it (`published`), or as it is.

    Published: both CIFARs are normalized by one mean and standard deviation, MNIST is served as 28×28 values
    in [0, 1]. The other data sets are not in the paper's code and stay as they are.
    """
    if preprocessing == "published" and info.name in ("cifar10", "cifar100"):
        return replace(info, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    if preprocessing == "published" and info.name == "mnist":
        return replace(info, input_shape=(1, 28, 28), mean=(0.0,), std=(1.0,))
    return info
