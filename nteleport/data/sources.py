"""Locating the files of a data set, and downloading them when they are missing.

Files lie below the data folder as torchvision lays them out, so a folder that torchvision filled is used as
it is, and vice versa. Files that are present are read by this package's own readers, which check their
structure but not a checksum; a download goes through torchvision, which verifies the published MD5 sums.
Looking for files imports no torch.

Search path of the MNIST family: ``DATA_DIR/MNIST/raw`` or ``DATA_DIR/FashionMNIST/raw``, files plain or
gzipped; then, for Fashion-MNIST, the folder of Debian's package ``dataset-fashion-mnist``. CIFAR:
``DATA_DIR/cifar-10-batches-py`` or ``DATA_DIR/cifar-100-python``; the published archive beside it is unpacked
when the folder is missing.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from nteleport.data.catalog import DatasetInfo, dataset_info
from nteleport.data.files import existing
from nteleport.errors import DatasetError

_CONNECTION_TIMEOUT = 30.0
"""Seconds without an answer after which a server counts as unreachable."""

_DOWNLOAD_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    zlib.error,
    tarfile.TarError,
    http.client.HTTPException,
)


def locate(name: str, data_dir: Path | str) -> dict[str, Path] | None:
    """The files of a data set that are on this machine, by their plain name; None when any is missing.

    ``digits`` ships inside the package and needs no file: the dictionary is empty.

    Raises:
        UnknownNameError: no data set has this name.
        DatasetError: the folder cannot be looked into.
    """
    info = dataset_info(name)
    for folder in _folders(info, Path(data_dir)):
        try:
            found = {file: existing(folder / file) for file in info.files}
        except OSError as error:  # such as a name that is too long
            raise DatasetError(f"cannot look for {name} in {str(folder)[:200]}: {error.strerror}") from error
        if all(found.values()):
            return {file: path for file, path in found.items() if path is not None}
    return None


def _folders(info: DatasetInfo, data_dir: Path) -> list[Path]:
    """The folders to search, in order."""
    folders = [data_dir / info.folder]
    return [*folders, Path(info.system_folder)] if info.system_folder else folders


def is_present(name: str, data_dir: Path | str) -> bool:
    """Whether all files of a data set are on this machine. Imports no torch, writes nothing.

    Raises:
        UnknownNameError: no data set has this name.
    """
    return locate(name, data_dir) is not None


def availability(name: str, data_dir: Path | str, *, download: bool = True) -> None:
    """Make sure that a data set can be loaded: return at once when its files are there, else download them.

    Meant to be called for every data set of an experiment before anything is trained. Imports torch only to
    download.

    Args:
        name: a name in ``DATASETS``.
        data_dir: the data folder; created if it is missing and something was downloaded.
        download: if False, only check.

    Raises:
        UnknownNameError: no data set has this name.
        DatasetError: the files are not there and cannot be downloaded. Nothing is left behind.
    """
    if is_present(name, data_dir):
        return
    info = dataset_info(name)
    if not download:
        raise DatasetError(_how_to_get(info, Path(data_dir), "is not on this machine"))
    try:
        _download(info, Path(data_dir))
    except _DOWNLOAD_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        message = _how_to_get(
            info, Path(data_dir), f"is not on this machine and could not be downloaded ({reason})"
        )
        raise DatasetError(message) from error


def _how_to_get(info: DatasetInfo, data_dir: Path, state: str) -> str:
    """One message: what is missing, which files are expected where, and three ways to get them."""
    folder = data_dir / info.folder
    download = f"from torchvision.datasets import {info.torchvision_class} as D; D('data', download=True)"
    lines = [f"data set {info.name!r} {state}", f"expected in {folder}: {', '.join(info.files)}"]
    if info.system_folder:
        lines.append(f"or in {info.system_folder}, where Debian's package {info.system_package!r} puts them")
    lines.append(f'to get them, run on a machine with a network: python -c "{download}"')
    lines.append(f"and copy data/{info.folder} from there to {folder} here; 'digits' needs no files at all")
    return "\n  ".join(lines)


def _download(info: DatasetInfo, data_dir: Path) -> None:
    """Fetch into a temporary folder, then rename file by file: nothing half-written is ever seen."""
    with _folder_made(data_dir), tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as temporary:
        _fetch(info, data_dir, Path(temporary))
        fetched, target = Path(temporary) / info.folder, data_dir / info.folder
        paths = {file: existing(fetched / file) for file in info.files}
        missing = [file for file, path in paths.items() if path is None]
        if missing:
            raise RuntimeError(f"the download did not contain {', '.join(missing)}")
        target.mkdir(parents=True, exist_ok=True)
        for path in paths.values():
            if path is not None:
                os.replace(path, target / path.name)


def _fetch(info: DatasetInfo, data_dir: Path, temporary: Path) -> None:
    """Unpack the published archive if it is intact in ``data_dir``, else download through torchvision."""
    from torchvision import datasets  # slow to import, and needed only here
    from torchvision.datasets.utils import check_integrity, extract_archive

    dataset_class = getattr(datasets, info.torchvision_class)
    archive = data_dir / getattr(dataset_class, "filename", "")
    if archive.is_file() and check_integrity(str(archive), dataset_class.tgz_md5):
        extract_archive(str(archive), str(temporary))
        return
    previous = socket.getdefaulttimeout()
    # torchvision sets no timeout: a silent server would block us forever.
    socket.setdefaulttimeout(_CONNECTION_TIMEOUT)
    try:
        with open(os.devnull, "w", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
            dataset_class(str(temporary), train=True, download=True)
    finally:
        socket.setdefaulttimeout(previous)


@contextlib.contextmanager
def _folder_made(folder: Path) -> Iterator[None]:
    """Create ``folder`` and its parents; if the body fails, remove those that were created here."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # only when empty, deepest first
        raise
