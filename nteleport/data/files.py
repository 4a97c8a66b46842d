"""Readers of the file formats that data sets come in, each returning NumPy arrays of bytes. No torch.

Every reader checks what it reads (header, length, shapes, label range) and turns anything else into a
``DatasetError`` that names the file. CIFAR's files are Python pickles; they are read by an unpickler that
knows how to build arrays and nothing else, so a file of unknown origin cannot run code.
"""

from __future__ import annotations

import codecs
import gzip
import pickle
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nteleport.errors import DatasetError

Bytes = npt.NDArray[np.uint8]
Arrays = tuple[Bytes, Bytes]
"""Images ``[N, C, H, W]`` and labels ``[N]``, both uint8."""

_UNSIGNED_BYTE = 0x08


def existing(path: Path) -> Path | None:
    """``path`` itself, or the same with ``.gz``, whichever is a file; None if neither is."""
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def damaged(path: Path, reason: str) -> DatasetError:
    """The error for a file that exists but cannot be used."""
    return DatasetError(
        f"{path}: {reason}; the file is damaged or of another kind: delete it and fetch it again"
    )


def read_idx(path: Path) -> Bytes:
    """An array in IDX format (the MNIST family), gzipped or not.

    Raises:
        DatasetError: not an IDX file of unsigned bytes, or shorter or longer than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, f"cannot be read ({error})") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise damaged(path, "is not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise damaged(path, "ends inside its header")
    shape = [int(size) for size in np.frombuffer(content[4:start], dtype=">u4")]
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != expected:
        raise damaged(path, f"holds {len(content) - start} values where its header says {expected}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


def read_mnist(images_path: Path, labels_path: Path) -> Arrays:
    """28×28 images of the MNIST family, padded with two black pixels on every side to 32×32.

    Raises:
        DatasetError: a file is damaged or the two do not fit together.
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise damaged(images_path, f"holds an array of shape {images.shape}, expected [N, 28, 28]")
    if labels.shape != images.shape[:1]:
        raise damaged(labels_path, f"holds labels of shape {labels.shape} for {len(images)} images")
    padded = np.zeros((len(images), 1, 32, 32), dtype=np.uint8)
    padded[:, 0, 2:30, 2:30] = images
    return padded, labels


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and NumPy arrays; refuses every other object."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # its module up to NumPy 1
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refers to {module}.{name}, which no CIFAR file needs")
        return self._ALLOWED[module, name]


def _read_pickled_batch(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise damaged(path, f"cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise damaged(path, "is not a CIFAR batch")
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def read_cifar(paths: list[Path], label_key: str, num_classes: int) -> Arrays:
    """CIFAR batches in the published pickled layout, joined.

    A batch is a dictionary with ``data``, rows of 3,072 bytes (red, green and blue planes of 32×32), and a
    list of labels.

    Args:
        paths: the batch files, in order.
        label_key: ``labels`` (CIFAR-10) or ``fine_labels`` (CIFAR-100).
        num_classes: labels must lie below it.

    Raises:
        DatasetError: a file is damaged or of another layout.
    """
    images, labels = [], []
    for path in paths:
        batch = _read_pickled_batch(path)
        data, targets = batch.get("data"), batch.get(label_key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
            raise damaged(path, "has no 'data' of shape [N, 3072] and type uint8")
        if not isinstance(targets, list) or len(targets) != len(data):
            raise damaged(path, f"has no list {label_key!r} with a label for each of its {len(data)} images")
        if not all(isinstance(label, int) and 0 <= label < num_classes for label in targets):
            raise damaged(path, f"has labels that are not whole numbers from 0 to {num_classes - 1}")
        images.append(data.reshape(-1, 3, 32, 32))
        labels.append(np.array(targets, dtype=np.uint8))
    return np.concatenate(images), np.concatenate(labels)


def read_digits(split: str) -> Arrays:
    """The shipped 8×8 digits, every pixel repeated 4×4 and its 0 … 16 scaled to 0 … 255: ``[N, 1, 32, 32]``.

    Args:
        split: ``train`` or ``test``.
    """
    with files("nteleport.data").joinpath("digits.npz").open("rb") as stream, np.load(stream) as arrays:
        counts, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    gray = np.round(counts * (255 / 16)).astype(np.uint8)
    return gray.repeat(4, axis=1).repeat(4, axis=2)[:, None], labels
