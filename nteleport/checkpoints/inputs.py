"""The inputs on which the outputs of two files of weights are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from nteleport.data.splits import load_dataset
from nteleport.networks.chosen import random_inputs
from nteleport.randomness import generator_for

IMAGES = 16
"""How many images of a data set are used."""


class Inputs(NamedTuple):
    """A batch of inputs, and what they are, in words."""

    tensor: Tensor
    description: str


def drawn(shape: Sequence[int], seed: int) -> Inputs:
    """Two normal inputs of ``shape``.

    Raises:
        ModelError: they need more memory than there is.
    """
    tensor = random_inputs(shape, generator_for("inputs", seed))
    return Inputs(tensor, f"{len(tensor)} random inputs, normal, seed {seed}")


def images(dataset: str, data_dir: Path, size: Sequence[int]) -> Inputs:
    """The first training images of a data set, normalized as for training and not augmented.

    Training images, since a change of basis may be chosen on them.

    Args:
        dataset: its name. It is downloaded if its files are not in ``data_dir``.
        size: height and width; images of another size are resized, bilinearly.

    Raises:
        UnknownNameError: no data set has this name.
        DatasetError: the files are missing and cannot be downloaded, or are damaged.
    """
    data = load_dataset(dataset, data_dir)
    tensor = data.train.normalized(data.train.images[:IMAGES])
    description = f"the first {len(tensor)} training images of {data.info.name}"
    if tuple(tensor.shape[-2:]) != tuple(size):
        tensor = interpolate(tensor, tuple(size), mode="bilinear", antialias=True)
        description += f", resized to {size[0]}x{size[1]}"
    return Inputs(tensor, description)
