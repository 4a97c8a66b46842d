"""The places of a job on disk.

`JobPaths` is the one class that knows the filenames of a job. A file appears under its name only when it is
whole: `nteleport.jobs.atomic` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
