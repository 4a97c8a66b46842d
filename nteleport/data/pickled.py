"""Pickled CIFAR batches, read without building a single object that the file names. No torch.

A pickle names functions and says what to call them with. NumPy trusts these arguments: ``ndarray(shape, 'O',
bytes)``, for one, takes bytes for the addresses of objects. Here every name stands for a class of this module
that only records its arguments; the one array that is wanted is built from them afterwards. What a pickle
makes Python allocate is bounded before it runs: its length, its operations, and its memory cells.
"""

from __future__ import annotations

import pickle
import pickletools
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

LARGEST_BATCH = 200_000_000
"""Bytes of a file; the training batch of CIFAR-100, the largest, has 155 million."""

_MOST_OPERATIONS = 2_000_000
"""The training batch of CIFAR-100 takes some 200,000: a few for each of its images."""

_MOST_TUPLES = 1_000
"""A batch takes about ten. Python crashes when it hashes a tuple that nests a hundred thousand deep."""


def load_batch(content: bytes) -> dict[str, Any]:
    """The dictionary of a CIFAR batch, pickled by Python 2 or 3.

    Args:
        content: of the file.

    Returns:
        Its entries: lists, numbers and strings, and ``PickledArray`` in place of arrays. Entries that do
        not have a string as their key are left out.

    Raises:
        Exception: of nearly any kind, where the content is not a pickle of these.
    """
    _check_operations(content)
    batch = _Unpickler(content).load()
    if not isinstance(batch, dict):
        raise pickle.UnpicklingError("is not a CIFAR batch")
    named = ((k.decode(errors="replace") if isinstance(k, bytes) else k, v) for k, v in batch.items())
    return {key: value for key, value in named if isinstance(key, str)}


def _check_operations(content: bytes) -> None:
    """Raise where a pickle would make Python allocate without bounds, or is none."""
    tuples = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        tuples += operation.name.startswith("TUPLE")
        if count >= _MOST_OPERATIONS or tuples > _MOST_TUPLES:
            raise pickle.UnpicklingError("has far more operations than a CIFAR batch")
        if operation.name.endswith("PUT") and int(argument or 0) > count:
            raise pickle.UnpicklingError(f"writes memory cell {argument} in operation {count}")


class PickledArray:
    """What a pickle says about an array: its dtype, shape and bytes, none of them checked."""

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def rows(self, width: int) -> npt.NDArray[np.uint8] | None:
        """The array, if it is one of bytes of shape ``[N, width]``; otherwise None."""
        match self._state:
            case (_, (int() as count, int() as columns), _PickledDtype() as dtype, order, bytes() as data):
                if dtype.is_byte and columns == width and count >= 0 and len(data) == count * columns:
                    found = np.frombuffer(data, np.uint8)
                    return found.reshape((count, columns), order="F" if order else "C")
        return None


class _PickledDtype:
    def __init__(self, is_byte: bool) -> None:
        self.is_byte = is_byte

    def __setstate__(self, state: Any) -> None:
        """Byte order, fields and alignment: a byte has none that matter."""


class _Named:
    """What stands for something that files name. A pickle can call it, but not change it."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("changes a function, which no CIFAR file needs")


class _Type(_Named):
    """``ndarray``, which CIFAR files name, and never call."""

    __slots__ = ()

    def __call__(self, *_: Any) -> Any:
        raise pickle.UnpicklingError("builds an array from memory, which no CIFAR file needs")


class _NewArray(_Named):
    """``_reconstruct(ndarray, (0,), b'b')``: an empty array, whose state follows."""

    __slots__ = ()

    def __call__(self, *_: Any) -> PickledArray:
        return PickledArray()


class _NewDtype(_Named):
    """``dtype('u1', 0, 1)``; every other dtype is the same here: not the one of images."""

    __slots__ = ()

    def __call__(self, name: Any, *_: Any) -> _PickledDtype:
        return _PickledDtype(name in ("u1", b"u1"))


class _Encode(_Named):
    """``encode(text, 'latin1')``, how Python 3 writes bytes for Python 2; of no more text than there is."""

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1" or len(text) > self._left:
            raise pickle.UnpicklingError("encodes something other than its own bytes")
        self._left -= len(text)
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and the classes above; refuses every other object."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _NewArray(),  # its module up to NumPy 1
        ("numpy._core.multiarray", "_reconstruct"): _NewArray(),
        ("numpy", "ndarray"): _Type(),
        ("numpy", "dtype"): _NewDtype(),
    }

    def __init__(self, content: bytes) -> None:
        super().__init__(BytesIO(content), encoding="bytes")
        self._names = {**self._ALLOWED, ("_codecs", "encode"): _Encode(len(content))}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"refers to {module}.{name}, which no CIFAR file needs")
        return self._names[module, name]
