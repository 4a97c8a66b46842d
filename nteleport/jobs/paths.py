"""The places of a job on disk.

`JobPaths` is the one class that knows the filenames of a job. A file appears under its name only when it is
whole: `nteleport.jobs.atomic` writes it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nteleport.errors import JobError


@dataclass(frozen=True)
class JobPaths:
    """The files of the job `name` below the output folder `out`. Nothing is created by asking."""

    out: Path
    name: str

    @property
    def directory(self) -> Path:
        return self.out / self.name

    @property
    def config(self) -> Path:
        """A one-job experiment that runs this job again."""
        return self.directory / "config.yml"

    @property
    def hparams(self) -> Path:
        """The hyper-parameters, flat, for grouping."""
        return self.directory / "hparams.yml"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.directory / "metrics.csv"

    @property
    def result(self) -> Path:
        """How the job ended; its presence means that the job is over."""
        return self.directory / "result.json"

    @property
    def provenance(self) -> Path:
        """Versions, devices, times and the command line."""
        return self.directory / "provenance.json"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from; there only while the job is unfinished."""
        return self.directory / "checkpoint.pt"

    @property
    def checkpoint_before(self) -> Path:
        """The checkpoint before that one, for when it is damaged."""
        return self.directory / "checkpoint.before.pt"

    @property
    def weights(self) -> Path:
        """The trained network, when asked for."""
        return self.directory / "weights.pt"

    @property
    def lease(self) -> Path:
        """The folder that says which process trains the job: see `nteleport.jobs.lease`."""
        return self.directory / "claim"

    @property
    def before(self) -> Path:
        """The folder with the results that a redone job had, until it has new ones."""
        return self.directory / "before"


def check_folder(folder: Path, *, writable: bool = True) -> None:
    """Check that `folder` is one, or can be made, and, if asked, can be written to. Nothing is written.

    Raises:
        JobError: it is or lies below a file, or writing is forbidden.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise JobError(f"{folder}: {existing} is a file, expected a folder")
    if writable and not os.access(existing, os.W_OK | os.X_OK):
        raise JobError(f"{folder}: {existing} cannot be written to, expected a writable folder")
