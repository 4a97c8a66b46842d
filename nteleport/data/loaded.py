"""Data sets of the user's: what a function of a plugin returns, checked and made into splits.

The function returns ``(inputs, targets)`` of the training and of the test split, four tensors (or NumPy
arrays) in two pairs:

============================  ============================================================================
inputs                        a network sees
============================  ============================================================================
uint8 ``[N, C, H, W]``        float32, divided by 255
floats ``[N, …]``             float32, as they are
integers ``[N, …]``           int64, as they are: the tokens of a text
============================  ============================================================================

Targets are classes, integers ``[N]`` from 0, or numbers, floats ``[N]`` or ``[N, outputs]``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nteleport.data.catalog import DatasetInfo, DataSource, dataset_info, preprocessed
from nteleport.data.splits import Dataset, Split, load_dataset
from nteleport.errors import DatasetError
from nteleport.plugins import digest_of, keywords_of, located, look_up
from nteleport.randomness import seed_of
from nteleport.vocabulary import Preprocessing

_EXPECTED = "expected two pairs of tensors, (train_inputs, train_targets), (test_inputs, test_targets)"


def open_dataset(
    dataset: str | DataSource,
    data_dir: Path | str,
    device: torch.device | str = "cpu",
    preprocessing: Preprocessing = "standard",
) -> Dataset:
    """A data set of the catalog, see ``splits.load_dataset``, or of the user's, see ``load_source``."""
    if isinstance(dataset, DataSource):
        return load_source(dataset, device)
    return load_dataset(dataset, data_dir, device, preprocessing)


def described(dataset: str | DataSource, preprocessing: Preprocessing = "standard") -> DatasetInfo:
    """What is known about a data set; the function of one of the user's is called for it.

    Raises:
        NTeleportError: as for ``load_source``, or no data set has this name.
    """
    if isinstance(dataset, DataSource):
        return load_source(dataset).info
    return preprocessed(dataset_info(dataset), preprocessing)


def load_source(source: DataSource, device: torch.device | str = "cpu") -> Dataset:
    """Call the function of a data set, and put what it returns on ``device``.

    Python's, NumPy's and torch's default random generators are seeded for the call, by the name of the data
    set, and are afterwards as before: equal jobs get equal data. The result is kept for the next call.

    Raises:
        PluginError: the module of the function cannot be run.
        UnknownNameError: its module is not admitted, or has no such name.
        DatasetError: it raises an error, or returns something else than described above.
    """
    found = _loaded(source, digest_of(source.load))
    train, test = (
        Split(split.images.to(device), split.labels.to(device)) for split in (found.train, found.test)
    )
    return Dataset(found.info, train, test)


def source_keywords(source: DataSource) -> dict[str, Any] | None:
    """The keyword arguments of the function of a data set with their defaults, see ``keywords_of``.

    Errors are those of ``look_up``, and ``DatasetError`` if it is no function.
    """
    function = look_up(source.load)
    if not callable(function):
        raise DatasetError(f"{source.load} is no function, {_EXPECTED} from one")
    return keywords_of(function)


@lru_cache(maxsize=2)
def _loaded(source: DataSource, digest: str) -> Dataset:
    function = look_up(source.load)
    try:
        with _seeded(source.name):
            returned = function(**source.kwargs)
    except (Exception, SystemExit) as error:
        raise DatasetError(f"{source.load} raised {located(source.load, error)}") from error
    first, second = _pairs(source, returned)
    train, test = _split(source, first, "train"), _split(source, second, "test")
    return Dataset(_described(source, train, test), train, test)


def _pairs(source: DataSource, returned: Any) -> tuple[Any, Any]:
    is_pairs = isinstance(returned, (tuple, list)) and len(returned) == 2
    if not is_pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in returned):
        raise DatasetError(f"{source.load} returned {_kind(returned)}, {_EXPECTED}")
    return returned[0], returned[1]


def _split(source: DataSource, pair: Any, where: str) -> Split:
    """A checked split; messages name the tensor."""
    inputs = _tensor(source, pair[0], f"{where}_inputs")
    targets = _tensor(source, pair[1], f"{where}_targets")
    shapes = f"{where}_inputs {list(inputs.shape)} and {where}_targets {list(targets.shape)}"
    if inputs.ndim < 2 or targets.ndim < 1 or len(inputs) != len(targets) or len(inputs) == 0:
        raise DatasetError(f"{source.load}: {shapes}, expected [N, …] and [N] with N of at least 1")
    if targets.is_floating_point():
        if targets.ndim > 2:
            raise DatasetError(f"{source.load}: {shapes}, expected floats [N] or [N, outputs]")
    elif targets.ndim > 1 or int(targets.min()) < 0:
        least = int(targets.min())
        raise DatasetError(f"{source.load}: {shapes}, integers from {least}: expected classes [N] from 0")
    is_image = inputs.dtype == torch.uint8 and inputs.ndim == 4
    if not inputs.is_floating_point() and not is_image:
        inputs = inputs.to(torch.int64)
    return Split(inputs, targets if targets.is_floating_point() else targets.to(torch.int64))


def _tensor(source: DataSource, value: Any, name: str) -> Tensor:
    """A tensor on the CPU: floats as float32, all finite."""
    if not isinstance(value, (Tensor, np.ndarray)):
        raise DatasetError(f"{source.load}: {name} is {_kind(value)}, expected a tensor")
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, RuntimeError) as error:  # an array of objects
        raise DatasetError(f"{source.load}: {name}: {error}, expected numbers") from error
    if tensor.is_complex() or tensor.layout != torch.strided:
        raise DatasetError(f"{source.load}: {name} is {tensor.dtype} {tensor.layout}, expected real numbers")
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
        if not bool(tensor.isfinite().all()):
            raise DatasetError(f"{source.load}: {name} has values that are not finite")
    return tensor.contiguous()


def _described(source: DataSource, train: Split, test: Split) -> DatasetInfo:
    shapes = train.images.shape[1:], test.images.shape[1:]
    dtypes = (train.images.dtype, train.labels.dtype), (test.images.dtype, test.labels.dtype)
    numbers = train.labels.is_floating_point()
    if shapes[0] != shapes[1] or dtypes[0] != dtypes[1] or train.labels.shape[1:] != test.labels.shape[1:]:
        raise DatasetError(
            f"{source.load}: the training split has {_in_words(train)} and the test split {_in_words(test)}, "
            "expected the same"
        )
    classes = 1 + max(int(train.labels.max()), int(test.labels.max()))
    return DatasetInfo(
        name=source.name,
        input_shape=tuple(shapes[0]),
        num_classes=train.labels[0].numel() if numbers else classes,
        train_size=len(train),
        test_size=len(test),
        mean=(0.0,),
        std=(1.0,),
        has_tokens=train.images.dtype == torch.int64,
        has_numbers=numbers,
    )


def _in_words(split: Split) -> str:
    return " and ".join(
        f"{str(tensor.dtype).removeprefix('torch.')} {['N', *tensor.shape[1:]]}".replace("'", "")
        for tensor in (split.images, split.labels)
    )


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


@contextmanager
def _seeded(name: str) -> Iterator[None]:
    """Seed the default random generators, and restore them."""
    seed = seed_of("data set", name)
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
