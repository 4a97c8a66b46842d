"""The state of an unfinished job on disk, from which it continues as if it had never stopped.

A checkpoint is an ordinary torch file: a zip archive in which every record carries a checksum. It is written
to a temporary file beside its final place, flushed to disk and renamed, and the previous one is kept under
`JobPaths.checkpoint_before`. Loading checks every checksum and never unpickles code (`weights_only=True`); if
a file is damaged the previous one is used, and if none is left the job starts over.

All randomness of an epoch except dropout comes from generators recreated from the job's seed and the epoch's
number; dropout and similar layers draw from torch's default generators, whose states are in the checkpoint.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from nteleport.core.preserving import RandomStates
from nteleport.jobs.atomic import replacing
from nteleport.jobs.paths import JobPaths

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
    """

    job: str
    network: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    learning_rate: Mapping[str, Any]
    random: RandomStates
    rows: list[dict[str, Any]]
    versions: dict[str, str]
    begun: Mapping[str, Any] | None = None


def save_checkpoint(paths: JobPaths, checkpoint: Checkpoint) -> None:
    """Write `checkpoint.pt`, keeping the previous one."""
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    with replacing(paths.checkpoint, durable=True) as temporary:
        with temporary.open("wb") as file:  # an open file, so that the name is not in the content
            torch.save({"format": FORMAT, **content}, file)
        if paths.checkpoint.exists():
            os.replace(paths.checkpoint, paths.checkpoint_before)
    _flush_folder(paths.directory)


def load_checkpoint(paths: JobPaths, job: str, warn: Callable[[str], None]) -> Checkpoint | None:
    """The latest intact checkpoint of the job with digest `job`, tensors on the CPU; None if there is none.

    `warn` receives a message for each file that is skipped.
    """
    for path in (paths.checkpoint, paths.checkpoint_before):
        if not path.exists():
            continue
        try:
            return _read(path, job)
        except Exception as error:  # whatever torch, zipfile or pickle raise for a damaged file
            warn(f"{path.name} is damaged and skipped: {error}")
    return None


def remove_checkpoints(paths: JobPaths) -> None:
    """Remove the checkpoints of a job that has ended."""
    paths.checkpoint.unlink(missing_ok=True)
    paths.checkpoint_before.unlink(missing_ok=True)


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
