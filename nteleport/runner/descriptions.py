"""The files by which a job is known. All jobs of a run get theirs before the first begins: none is invisible.

`nteleport status` and `plot` find the jobs of a folder by these files, those that still wait too. No torch is
imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from nteleport.errors import JobError
from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths, write_text_atomic
from nteleport.schema.yaml_source import to_yaml


def describe(job: Job, paths: JobPaths) -> None:
    """Write `config.yml`, which runs this job again, and `hparams.yml`, which says what it is."""
    paths.directory.mkdir(parents=True, exist_ok=True)
    write_text_atomic(paths.hparams, to_yaml(job.hparams()))
    write_text_atomic(paths.config, to_yaml(job.to_experiment()))


def describe_new(jobs: Iterable[Job], out: Path) -> None:
    """Describe those of `jobs` that have no description in `out` yet. No claim is needed for this.

    Raises:
        JobError: `out` cannot be written to.
    """
    try:
        for job in jobs:
            paths = JobPaths(out, job.name)
            if not paths.config.exists():
                with contextlib.suppress(FileNotFoundError):  # who claims the job tidies up and describes it
                    describe(job, paths)
    except OSError as error:
        raise JobError(f"cannot write to {out}: {error.strerror}; results there are as they were") from error
