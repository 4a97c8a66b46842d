"""Data set files in their published layouts: reading, searching, fetching, and refusing damaged ones."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from nteleport.data.catalog import DATASETS
from nteleport.data.sources import availability, is_present
from nteleport.data.splits import load_dataset
from nteleport.errors import DatasetError, UnknownNameError

RANDOM = np.random.default_rng(0)
COUNTS = {"train": 7, "t10k": 3}
CIFAR10_FILES = DATASETS["cifar10"].files


def write_idx(path: Path, array: np.ndarray, compress: bool = False) -> None:
    """IDX format: two zero bytes, type 8, number of axes, their sizes in big-endian order, the bytes."""
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_mnist(folder: Path, compress: bool = False) -> dict[str, np.ndarray]:
    written = {}
    for split, count in COUNTS.items():
        written[f"{split}-images-idx3"] = RANDOM.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        written[f"{split}-labels-idx1"] = RANDOM.integers(0, 10, count, dtype=np.uint8)
    for name, array in written.items():
        write_idx(folder / f"{name}-ubyte", array, compress)
    return written


def write_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def cifar_batch(count: int, label_key: str, classes: int) -> dict[str, object]:
    return {
        "batch_label": "a batch",
        "data": RANDOM.integers(0, 256, (count, 3072), dtype=np.uint8),
        label_key: RANDOM.integers(0, classes, count).tolist(),
        "filenames": ["a.png"] * count,
    }


def write_cifar10(folder: Path) -> dict[str, dict[str, object]]:
    written = {name: cifar_batch(4, "labels", 10) for name in CIFAR10_FILES}
    for name, batch in written.items():
        write_pickle(folder / name, batch)
    return written


# --- reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_served_with_a_black_border(
    tmp_path: Path, compress: bool, name: str, folder: str
) -> None:
    written = write_mnist(tmp_path / folder / "raw", compress)
    data = load_dataset(name, tmp_path)
    for split, prefix in ((data.train, "train"), (data.test, "t10k")):
        expected = np.pad(written[f"{prefix}-images-idx3"], ((0, 0), (2, 2), (2, 2)))
        assert np.array_equal(split.images[:, 0].numpy(), expected)
        assert np.array_equal(split.labels.numpy(), written[f"{prefix}-labels-idx1"])
        assert split.labels.dtype == torch.int64


def test_mnist_files_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    theirs = torchvision.datasets.MNIST(tmp_path, train=False)
    ours = load_dataset("mnist", tmp_path).test
    assert torch.equal(ours.images[:, 0, 2:30, 2:30], theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


def test_cifar10_batches_are_joined_in_order(tmp_path: Path) -> None:
    written = write_cifar10(tmp_path / "cifar-10-batches-py")
    data = load_dataset("cifar10", tmp_path)
    expected = np.concatenate([written[name]["data"] for name in CIFAR10_FILES[:5]])
    # A row is the red, then the green, then the blue plane, each of 32 lines of 32.
    assert data.train.images.shape == (20, 3, 32, 32)
    assert np.array_equal(data.train.images.flatten(1).numpy(), expected)
    assert data.train.labels.tolist() == [
        label for name in CIFAR10_FILES[:5] for label in written[name]["labels"]
    ]
    assert data.test.labels.tolist() == written["test_batch"]["labels"]
    assert data.augmented


def test_cifar100_uses_its_fine_labels_and_reads_python_2_keys(tmp_path: Path) -> None:
    written = {name: cifar_batch(5, "fine_labels", 100) for name in ("train", "test")}
    for name, batch in written.items():
        batch["coarse_labels"] = [0] * 5
        as_python_2 = {key.encode(): value for key, value in batch.items()}
        write_pickle(tmp_path / "cifar-100-python" / name, as_python_2)
    data = load_dataset("cifar100", tmp_path)
    assert data.test.labels.tolist() == written["test"]["fine_labels"]
    assert data.num_classes == 100


# --- damaged files --------------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1 + 1",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Malicious(), "refers to __builtin__.eval"),
        ([1, 2], "is not a CIFAR batch"),
        ({"labels": [1]}, "has no 'data'"),
        ({"data": np.zeros((1, 3072), np.float32), "labels": [1]}, "has no 'data'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "a label for each of its 2 images"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "whole numbers from 0 to 9"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [0.5]}, "whole numbers from 0 to 9"),
    ],
)
def test_a_cifar_file_of_another_kind_is_refused(tmp_path: Path, content: object, message: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder)
    write_pickle(folder / "data_batch_3", content)
    with pytest.raises(DatasetError, match=f"data_batch_3: .*{message}"):
        load_dataset("cifar10", tmp_path)


def test_a_truncated_cifar_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder)
    content = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="data_batch_2: cannot be read"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file"),
        (b"<html>not found</html>", "is not an IDX file"),
        (struct.pack(">BBBBI", 0, 0, 8, 3, 7), "ends inside its header"),
        (
            struct.pack(">BBBBIII", 0, 0, 8, 3, 7, 28, 28) + b"\0" * 99,
            "holds 99 values where its header says 5488",
        ),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 1, 2, 2) + b"\0" * 4, r"expected \[N, 28, 28\]"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder)
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DatasetError, match=f"train-images-idx3-ubyte: .*{message}"):
        load_dataset("mnist", tmp_path)


def test_a_truncated_gzip_file_and_wrong_labels_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder, compress=True)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match="cannot be read"):
        load_dataset("mnist", tmp_path)
    write_mnist(folder)
    write_idx(folder / "train-labels-idx1-ubyte", np.full(7, 10, np.uint8))
    with pytest.raises(DatasetError, match="expected labels from 0 to 9"):
        load_dataset("mnist", tmp_path)


# --- searching and fetching -----------------------------------------------------------------------------


def test_fashion_mnist_is_found_where_debian_puts_it_unless_the_data_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, own = tmp_path / "system", tmp_path / "own"
    monkeypatch.setitem(
        DATASETS, "fashion_mnist", dataclasses.replace(DATASETS["fashion_mnist"], system_folder=str(system))
    )
    assert not is_present("fashion_mnist", own)
    from_system = write_mnist(system, compress=True)
    assert load_dataset("fashion_mnist", own).test.labels.tolist() == from_system["t10k-labels-idx1"].tolist()
    from_own = write_mnist(own / "FashionMNIST" / "raw")
    assert load_dataset("fashion_mnist", own).test.labels.tolist() == from_own["t10k-labels-idx1"].tolist()


def test_a_set_is_present_only_with_all_its_files(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    assert is_present("CIFAR10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    assert not is_present("cifar10", tmp_path)
    with pytest.raises(UnknownNameError):
        is_present("cifar", tmp_path)


class Downloads:
    """Stands in for a class of torchvision: a download that writes the files, or fails half-way."""

    filename = "cifar-10-python.tar.gz"
    tgz_md5 = ""
    fails = False

    def __init__(self, root: str, train: bool, download: bool) -> None:
        folder = Path(root) / "cifar-10-batches-py"
        write_cifar10(folder)
        if type(self).fails:
            (folder / "test_batch").unlink()
            raise RuntimeError("File not found or\ncorrupted.")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> type[Downloads]:
    monkeypatch.setattr(Downloads, "fails", False)
    monkeypatch.setattr(Downloads, "tgz_md5", "")
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Downloads)
    return Downloads


def test_a_missing_set_is_downloaded_once(tmp_path: Path, downloads: type[Downloads]) -> None:
    folder = tmp_path / "new" / "data"
    first = load_dataset("cifar10", folder)
    second = load_dataset("cifar10", folder)
    assert torch.equal(first.train.images, second.train.images)  # each download writes other images
    assert [path.name for path in folder.iterdir()] == ["cifar-10-batches-py"]


def test_a_failed_download_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, downloads: type[Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "fails", True)
    with pytest.raises(DatasetError) as caught:
        availability("cifar10", tmp_path / "new" / "data")
    message = str(caught.value)
    assert "could not be downloaded (File not found or corrupted.)" in message
    assert f"expected in {tmp_path / 'new' / 'data' / 'cifar-10-batches-py'}: data_batch_1, " in message
    assert "torchvision.datasets import CIFAR10" in message
    assert list(tmp_path.iterdir()) == []


def test_looking_without_downloading_names_the_files(tmp_path: Path, downloads: type[Downloads]) -> None:
    with pytest.raises(DatasetError, match=r"'cifar10' is not on this machine\n.*data_batch_1"):
        availability("cifar10", tmp_path, download=False)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_made_is_a_clear_error(
    tmp_path: Path, downloads: type[Downloads]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match="could not be downloaded"):
        availability("cifar10", tmp_path / "file" / "data")


def test_the_published_archive_is_unpacked_if_its_checksum_is_right(
    tmp_path: Path, downloads: type[Downloads], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source" / "cifar-10-batches-py"
    written = write_cifar10(source)
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname=source.name)
    monkeypatch.setattr(downloads, "fails", True)
    with pytest.raises(DatasetError, match="could not be downloaded"):  # a wrong checksum: not unpacked
        load_dataset("cifar10", tmp_path / "data")
    monkeypatch.setattr(downloads, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = load_dataset("cifar10", tmp_path / "data")
    assert data.test.labels.tolist() == written["test_batch"]["labels"]
