"""The files of a job on disk.

`JobPaths` is the only class that knows the filenames of a job. A file appears under its name only when it is
complete: `nteleport.jobs.atomic` writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nteleport.errors import JobError


@dataclass(frozen=True)
class JobPaths:
    """The files of the job `name` in the output folder `out`. Reading a path creates nothing."""

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
        """The flat hyper-parameters, for grouping."""
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
    def certificates(self) -> Path:
        """One row per teleportation; exists once there was one."""
        return self.directory / "certificates.json"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from; exists only while the job is unfinished."""
        return self.directory / "checkpoint.pt"

    @property
    def checkpoint_before(self) -> Path:
        """The previous checkpoint, in case the latest is damaged."""
        return self.directory / "checkpoint.before.pt"

    @property
    def weights(self) -> Path:
        """The trained network, if requested."""
        return self.directory / "weights.pt"

    @property
    def lease(self) -> Path:
        """The folder that records which process trains the job: see `nteleport.jobs.lease`."""
        return self.directory / "claim"

    @property
    def before(self) -> Path:
        """The folder with the old results of a job that is redone, until it has new ones."""
        return self.directory / "before"


JOB_NAME = re.compile(r".+-run\d+-[0-9a-f]{8}")


def holds_a_job(paths: JobPaths, files: Iterable[Path]) -> bool:
    """Whether one of these files of a job exists. A folder that cannot be looked into counts if it is named
    like a job, so that it is reported rather than passed over.
    """
    for file in files:
        try:
            file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return JOB_NAME.fullmatch(paths.name) is not None
        return True
    return False


def printable(text: str) -> str:
    """The text with `?` and replacement characters for what is not Unicode, such as parts of file names."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def check_folder(folder: Path, *, writable: bool = True) -> None:
    """Check that `folder` exists or can be created and, with `writable`, is writable. Nothing is written.

    Raises:
        JobError: it is a file or lies below one, or writing is forbidden.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # such as a name that is too long
        raise JobError(f"{_shortened(folder)}: {error.strerror}, expected a folder") from error
    if not existing.is_dir():
        raise JobError(f"{folder}: {existing} is a file, expected a folder")
    if writable and not os.access(existing, os.W_OK | os.X_OK):
        raise JobError(f"{folder}: {existing} cannot be written to, expected a writable folder")


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}…{text[-50:]}"
