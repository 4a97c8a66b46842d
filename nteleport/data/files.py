"""Readers of the file formats that data sets come in, each returning NumPy arrays of bytes. No torch.

Every reader checks what it reads (header, length, shapes, label range) and turns anything else into a
``DatasetError`` that names the file. No file makes a reader allocate much more than it needs: what a header
announces is compared with what is there first. CIFAR's files are Python pickles, see ``pickled``.
"""

from __future__ import annotations

import gzip
import math
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from nteleport.data.pickled import LARGEST_BATCH, PickledArray, load_batch
from nteleport.errors import DatasetError

Bytes = npt.NDArray[np.uint8]
Arrays = tuple[Bytes, Bytes]
"""Images ``[N, C, H, W]`` and labels ``[N]``, both uint8."""

_UNSIGNED_BYTE = 0x08
_MOST_VALUES = 2**30
"""Of one IDX file: the largest set of the MNIST family, EMNIST, has 0.6 · 2³⁰."""
_PIECE = 2**20


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

    The header is read first, and no more than it announces after it: neither a header nor a gzip file can
    make this read more than 2³⁰ values.

    Raises:
        DatasetError: not an IDX file of unsigned bytes, or shorter or longer than its header says.
    """
    zipped = path.suffix == ".gz"
    try:
        with cast("BinaryIO", gzip.open(path) if zipped else path.open("rb")) as stream:
            shape = _idx_shape(path, stream)
            count, start = math.prod(shape), stream.tell()
            if not zipped and (held := path.stat().st_size - start) != count:
                raise damaged(path, f"holds {held} values where its header says {count}")
            values = _read_at_most(stream, count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, f"cannot be read ({error})") from error
    if len(values) != count:
        held_at_all = "more" if len(values) > count else len(values)
        raise damaged(path, f"holds {held_at_all} values where its header says {count}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _idx_shape(path: Path, stream: BinaryIO) -> list[int]:
    """The sizes in the header of an IDX file, the stream then being at its first value."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UNSIGNED_BYTE:
        raise damaged(path, "is not an IDX file of unsigned bytes")
    sizes = stream.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise damaged(path, "ends inside its header")
    shape = [int(size) for size in np.frombuffer(sizes, dtype=">u4")]
    if not 1 <= len(shape) <= 3 or not 1 <= math.prod(shape) <= _MOST_VALUES:
        raise damaged(path, f"announces an array of shape {shape}, which no set of the MNIST family has")
    return shape


def _read_at_most(stream: BinaryIO, count: int) -> bytearray:
    """``count`` bytes, fewer if the stream ends before; memory follows what is there, not ``count``."""
    found = bytearray()
    while len(found) < count and (piece := stream.read(min(_PIECE, count - len(found)))):
        found += piece
    return found


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


def _read_batch(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = bytes(_read_at_most(stream, LARGEST_BATCH + 1))
        if len(content) > LARGEST_BATCH:
            raise damaged(path, f"has more than {LARGEST_BATCH} bytes, far more than a CIFAR batch")
        return load_batch(content)
    except DatasetError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise damaged(path, f"cannot be read ({error})") from error


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
        batch = _read_batch(path)
        found, targets = batch.get("data"), batch.get(label_key)
        data = found.rows(3072) if isinstance(found, PickledArray) else None
        if data is None:
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
