"""Data sets, held once as bytes on the training device and turned into batches there.

A data set here is one ``uint8`` tensor of images and one tensor of labels, both on the training device
(``splits.Split``). An epoch draws its order and its crops in bulk from a generator seeded by the job's seed
and the epoch's number, then gathers, crops, flips and normalizes whole batches with a few tensor operations
(``batching.batches``). There are no worker processes and no per-sample Python.

The modules, from the cheapest to the most expensive import:

- ``catalog``: the available data sets, their shapes, constants and files. No torch.
- ``files``: readers of the IDX and CIFAR file formats into NumPy arrays. No torch.
- ``sources``: find a data set on this machine or fetch it through torchvision.
- ``splits``: ``Split``, ``Dataset`` and ``load_dataset``.
- ``loaded``: the same for a data set of the user's.
- ``batching``: epochs of batches, and splitting off a validation set.
"""
