"""Data sets, held once as bytes on the training device and turned into batches there.

A data set here is one ``uint8`` tensor of images and one tensor of labels, both on the device that trains
(:class:`Split`). An epoch draws its order and its crops in bulk from a generator seeded by the job's seed and
the epoch's number, then gathers, crops, flips and normalises whole batches with a few tensor operations
(:func:`batches`). There are no worker processes and no per-sample Python.

The modules, from the cheap to the expensive import:

- ``catalog``: which data sets there are, their shapes, constants and files. No torch.
- ``files``: readers of the IDX and CIFAR file formats into NumPy arrays. No torch.
- ``sources``: is it on this machine; if not, fetch it through torchvision.
- ``splits``: ``Split``, ``Dataset`` and :func:`load_dataset`.
- ``batching``: epochs of batches, and splitting off a validation set.

Names are imported on first use, so that ``from nteleport.data import DATASETS`` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nteleport.data.batching import batches, hold_out, num_batches
    from nteleport.data.catalog import DATASETS, DatasetInfo, dataset_info
    from nteleport.data.sources import availability, is_present
    from nteleport.data.splits import Dataset, Split, load_dataset, random_split

_HOME = {
    "DATASETS": "catalog",
    "DatasetInfo": "catalog",
    "dataset_info": "catalog",
    "availability": "sources",
    "is_present": "sources",
    "Dataset": "splits",
    "Split": "splits",
    "load_dataset": "splits",
    "random_split": "splits",
    "batches": "batching",
    "hold_out": "batching",
    "num_batches": "batching",
}

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "Split",
    "availability",
    "batches",
    "dataset_info",
    "hold_out",
    "is_present",
    "load_dataset",
    "num_batches",
    "random_split",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"nteleport.data.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
