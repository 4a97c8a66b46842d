"""Readers of data files: whatever bytes they get, they return what was written or raise a clear error."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nteleport.data import files, pickled
from nteleport.data.files import read_cifar, read_idx
from nteleport.errors import DatasetError, NTeleportError

PIXELS = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
each_run = settings(max_examples=200, deadline=None)


def read(reader: Any, content: bytes, name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return reader(path)


def read_batch(content: bytes) -> Any:
    return read(lambda path: read_cifar([path], "labels", 10), content, "data_batch_1")


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values


def peak_of_refusing(reader: Any, content: bytes, name: str, message: str) -> int:
    """The most bytes that Python holds at once while a reader refuses a file."""
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=message):
            read(reader, content, name)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- whatever the bytes ---------------------------------------------------------------------------------

headers = st.builds(
    lambda sizes, values: idx(tuple(sizes), values),
    st.lists(st.integers(0, 5) | st.integers(0, 2**32 - 1), max_size=40),
    st.binary(max_size=200),
)


@each_run
@given(st.binary(max_size=200) | headers)
def test_any_bytes_are_an_idx_file_or_a_clear_error(content: bytes) -> None:
    try:
        array = read(read_idx, content, "images")
    except NTeleportError:
        return
    assert content == idx(array.shape, array.tobytes())


@each_run
@given(
    st.binary(max_size=200)
    | headers.map(gzip.compress)
    | st.tuples(headers.map(gzip.compress), st.integers(0, 100), st.binary(max_size=4)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + len(drawn[2]) :]
    )
)
def test_any_bytes_are_a_zipped_idx_file_or_a_clear_error(content: bytes) -> None:
    try:
        array = read(read_idx, content, "images.gz")
    except NTeleportError:
        return
    assert gzip.decompress(content) == idx(array.shape, array.tobytes())


def batches() -> st.SearchStrategy[bytes]:
    """Pickles of dictionaries that are nearly CIFAR batches, in every protocol."""
    values = st.sampled_from([PIXELS, PIXELS[:1], PIXELS.astype(np.float32), np.asfortranarray(PIXELS), None])
    labels = st.lists(st.integers(-1, 300), min_size=1, max_size=2) | st.lists(st.booleans() | st.floats())
    keys = st.sampled_from(["data", b"data", b"\xff", 7, ("data",), None])
    contents = st.tuples(keys, values, labels).map(lambda drawn: {drawn[0]: drawn[1], "labels": drawn[2]})
    return st.builds(pickle.dumps, contents, st.integers(0, 4))


@each_run
@given(
    st.binary(max_size=100)
    | batches()
    | st.tuples(batches(), st.integers(0, 400), st.binary(max_size=8)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + len(drawn[2]) :]
    )
)
def test_any_bytes_are_a_cifar_batch_or_a_clear_error(content: bytes) -> None:
    try:
        images, labels = read_batch(content)
    except NTeleportError:
        return
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == (len(labels), 3, 32, 32)
    assert all(labels < 10)


# --- CIFAR ----------------------------------------------------------------------------------------------


def in_python_2(array: np.ndarray, labels: list[int]) -> bytes:
    """The operations of the published files, which NumPy 1 wrote under Python 2."""
    short = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x05trainq\x03U\x06labelsq\x04]q\x05(" + short + b"e"
        b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08"
        b"K\x00\x85U\x01b\x87Rq\x09(K\x01K" + bytes([len(array)]) + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", array.size) + array.tobytes() + b"tbU\x09filenamesq\x0c]q\x0d("
        b"U\x05a.pngq\x0eh\x0eeu."
    )


def test_the_published_layout_is_read_as_pickle_reads_it() -> None:
    content = in_python_2(PIXELS, [3, 9])
    images, labels = read_batch(content)
    theirs = pickle.loads(content, encoding="bytes")  # noqa: S301
    assert np.array_equal(images.reshape(2, 3072), theirs[b"data"])
    assert labels.tolist() == theirs[b"labels"] == [3, 9]


@pytest.mark.parametrize("protocol", range(5))
def test_batches_are_read_in_every_protocol_and_order_of_memory(protocol: int) -> None:
    for array in (PIXELS, np.asfortranarray(PIXELS)):
        images, _ = read_batch(pickle.dumps({"data": array, "labels": [0, 1]}, protocol))
        assert np.array_equal(images.reshape(2, 3072), PIXELS)


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": Call(np.ndarray, (1,), "O", bytearray(8))}, "refers to __builtin__.bytearray"),
        ({"data": Call(np.ndarray, (1,), "O", b"\x41" * 8)}, "builds an array from memory"),
        ({"data": np.full((1, 3072), None), "labels": [1]}, "has no 'data'"),
        ({"data": np.zeros((1, 3072), np.int8), "labels": [1]}, "has no 'data'"),
        ({"data": np.zeros((1, 1, 3072), np.uint8), "labels": [1]}, "has no 'data'"),
        ({1 << 20_000: 1, b"\xff": 1}, "has no 'data'"),
    ],
)
def test_no_array_is_made_of_anything_but_bytes(content: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_batch(pickle.dumps(content, 2))


def test_an_array_of_another_length_than_its_shape_is_refused() -> None:
    content = in_python_2(PIXELS, [3, 9]).replace(b"K\x02M\x00\x0c\x86", b"K\x03M\x00\x0c\x86")
    with pytest.raises(DatasetError, match="has no 'data'"):
        read_batch(content)


PUT_FAR = b"\x80\x02}r" + struct.pack("<I", 2**28) + b"."
NESTED = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."
SAME_BYTES_AGAIN = (
    b"\x80\x02(c_codecs\nencode\nq\x01X" + struct.pack("<i", 100_000) + b"a" * 100_000
    + b"X\x06\x00\x00\x00latin1\x86q\x02R" + b"h\x01h\x02R" * 5_000 + b"l."
)  # fmt: skip
CHANGED_FUNCTION = b"\x80\x02c_codecs\nencode\nN}X\x05\x00\x00\x00_leftJ\xff\xff\xff\x7fs\x86b."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PUT_FAR, "writes memory cell 268435456"),
        (NESTED, "far more operations"),
        (SAME_BYTES_AGAIN, "encodes something other than its own bytes"),
        (CHANGED_FUNCTION, "changes a function"),
    ],
)
def test_a_small_pickle_cannot_take_much_memory(content: bytes, message: str) -> None:
    assert peak_of_refusing(lambda path: read_cifar([path], "labels", 10), content, "b", message) < 2**24


def test_a_pickle_of_too_many_operations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "_MOST_OPERATIONS", 50)
    with pytest.raises(DatasetError, match="far more operations than a CIFAR batch"):
        read_batch(b"\x80\x02(" + b"]" * 100 + b"l.")


def test_a_file_far_larger_than_a_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_BATCH", 1000)
    with pytest.raises(DatasetError, match="more than 1000 bytes, far more than a CIFAR batch"):
        read_batch(in_python_2(PIXELS, [3, 9]))


# --- IDX ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**20, 28, 28), (0, 28, 28), (1,) * 40, ()])
def test_a_header_makes_the_reader_allocate_nothing(name: str, shape: tuple[int, ...]) -> None:
    content = idx(shape, b"\0" * 99)
    content = gzip.compress(content) if name.endswith("gz") else content
    message = "where its header says|announces an array of shape"
    assert peak_of_refusing(read_idx, content, name, message) < 2**22


def test_a_gzip_file_is_not_read_beyond_what_its_header_says() -> None:
    bomb = io.BytesIO()
    with gzip.open(bomb, "wb") as stream:
        stream.write(idx((2, 28, 28), b""))
        for _ in range(64):
            stream.write(bytes(2**20))
    message = "holds more values where its header says 1568"
    assert peak_of_refusing(read_idx, bomb.getvalue(), "images.gz", message) < 2**22
