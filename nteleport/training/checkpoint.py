"""The state of an unfinished job on disk, from which it continues as if it had never stopped.

A checkpoint is an ordinary torch file: a zip archive in which every record carries a checksum. It is written
to a temporary file beside its final place, flushed to disk and renamed, and the previous one is kept under
`JobPaths.checkpoint_before`. Loading checks every checksum and never unpickles code (`weights_only=True`); if
a file is damaged the previous one is used, and if none is left the job starts over. A file that cannot be
read may be intact: then the job fails, and the file is kept.

All randomness of an epoch except dropout comes from generators recreated from the job's seed and the epoch's
number; dropout and similar layers draw from torch's default generators, whose states are in the checkpoint.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from nteleport.core.preserving import RandomStates
from nteleport.errors import JobError
from nteleport.jobs.atomic import replacing
from nteleport.jobs.paths import JobPaths

_CHUNK = 1 << 20
_OF_ELEMENTS = frozenset(
    "momentum_buffer exp_avg exp_avg_sq max_exp_avg_sq exp_inf sum square_avg acc_delta grad_avg prev "
    "step_size ax".split()
)
"""Entries of torch's optimizers with a number for each element of a parameter."""

FORMAT = 1
"""Incremented when the content of a checkpoint changes in a way that an older reader would misunderstand."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that determines how a job continues.

    Attributes:
        job: the digest of the job.
        network: its `state_dict`: weights and buffers.
        optimizer: the `state_dict` of the optimizer, with the change of basis where there is one.
        learning_rate: progress of the scheduler.
        random: states of torch's default generators, by device type.
        rows: the rows of metrics of the finished epochs, as plain mappings.
        versions: of the software that wrote it.
        begun: progress of the epoch after these, if the job was stopped in the middle of it.
        certificates: one row per teleportation so far.
    """

    job: str
    network: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    learning_rate: Mapping[str, Any]
    random: RandomStates
    rows: list[dict[str, Any]]
    versions: dict[str, str]
    begun: Mapping[str, Any] | None = None
    certificates: Sequence[Mapping[str, Any]] = ()


def save_checkpoint(paths: JobPaths, checkpoint: Checkpoint) -> None:
    """Write `checkpoint.pt`, keeping the previous one."""
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    with replacing(paths.checkpoint, durable=True) as temporary:
        with temporary.open("wb") as file:  # an open file, so that the name is not in the content
            torch.save({"format": FORMAT, **content}, file)
        _remove_folder(paths.checkpoint)
        _remove_folder(paths.checkpoint_before)
        if paths.checkpoint.exists():
            os.replace(paths.checkpoint, paths.checkpoint_before)
    _flush_folder(paths.directory)


def intact_checkpoints(
    paths: JobPaths, job: str, warn: Callable[[str], None]
) -> Iterator[tuple[str, Checkpoint]]:
    """The intact checkpoints of the job with digest `job`, each with its file name, the latest first; tensors
    are on the CPU. `warn` receives a message for each file that is skipped.

    Raises:
        JobError: a file exists and cannot be read, which says nothing of what is in it.
    """
    for path in (paths.checkpoint, paths.checkpoint_before):
        try:
            _read_all(path)
            checkpoint = _read(path, job)
        except FileNotFoundError:
            continue
        except Exception as error:  # whatever torch, zipfile or pickle raise for a damaged file
            if not is_damage(error):
                raise
            warn(damaged(path.name, error))
            continue
        yield path.name, checkpoint


def damaged(name: str, error: Exception) -> str:
    """The warning about a checkpoint that is skipped, in one line."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
    return f"{name} is damaged and skipped: {reason}"


def is_damage(error: Exception) -> bool:
    """Whether an error in reading or restoring a checkpoint is due to its content, not to the machine."""
    if isinstance(error, (JobError, MemoryError, torch.OutOfMemoryError)):
        return False
    return not any(words in str(error) for words in ("can't allocate memory", "CUDA error"))


def check_optimizer_state(optimizer: Optimizer) -> None:
    """Check the shapes of a restored state, since torch does not.

    Raises:
        ValueError: an entry that belongs to the elements of a parameter has another shape.
    """
    for parameter, state in optimizer.state.items():
        for name in _OF_ELEMENTS & state.keys():
            entry = state[name]
            if isinstance(entry, torch.Tensor) and entry.shape != parameter.shape:
                found, expected = tuple(entry.shape), tuple(parameter.shape)
                raise ValueError(f"{name} of the optimizer has shape {found}, expected {expected}")


def remove_checkpoints(paths: JobPaths) -> None:
    """Remove the checkpoints of a job that has ended."""
    for path in (paths.checkpoint, paths.checkpoint_before):
        _remove_folder(path)
        path.unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    """Remove a folder with the name of a checkpoint, which is in the way of one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def _read_all(path: Path) -> None:
    """Read the whole file: zipfile and torch do not tell an unreadable file from a damaged one.

    Raises:
        JobError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while file.read(_CHUNK):
                pass
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise ValueError("it is a folder, expected a file") from None
    except OSError as error:
        raise JobError(
            f"{path} cannot be read: {error.strerror}; it is kept, and the job continues from it once it can"
        ) from error


def _read(path: Path, job: str) -> Checkpoint:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of its record {broken} is wrong")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.pop("format") != FORMAT:
        raise ValueError("it was written by another version of nteleport")
    if content["job"] != job:
        raise ValueError("it belongs to another job")
    return Checkpoint(**content)


def _flush_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut, on systems that support it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
