"""The places of a job on disk, and how a file gets there.

`JobPaths` is the one class that knows the filenames of a job. A file appears under its name only when it is
whole: it is written beside its final place and renamed over it, so a reader or a crash never meets half a
file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
        """One row an epoch."""
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
    def claim(self) -> Path:
        """The folder that says which process trains the job: see `nteleport.runner.claims`."""
        return self.directory / "claim"

    @property
    def before(self) -> Path:
        """The folder with the results that a redone job had, until it has new ones."""
        return self.directory / "before"


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it takes the place of `path` in one step.

    On an error the temporary file is removed and `path` is as it was. With `durable` the content reaches the
    disk before the rename, so that not even a power cut leaves an empty file under the name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str, *, durable: bool = False) -> None:
    """Write UTF-8 text to `path` by rename; its folder must exist."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented JSON to `path` by rename; its folder must exist."""
    write_text_atomic(path, json.dumps(value, indent=2) + "\n", durable=durable)
