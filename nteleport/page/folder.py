"""A folder of results as the sections read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nteleport.errors import ResultsError
from nteleport.jobs.folders import job_names
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import read_provenance
from nteleport.jobs.state import JobState, JobStatus, read_status
from nteleport.jobs.table import JobResult, Results, read_results
from nteleport.jobs.tuning import tuning_folder
from nteleport.page.arms import Arms


@dataclass(frozen=True)
class Folder:
    """Everything that was read.

    Attributes:
        directory: the output folder.
        results: the jobs, their hyper-parameters and epochs.
        arms: the teleportations of these jobs.
        statuses: the status of each job by name; none of jobs of the published implementation.
        provenance: the content of `provenance.json` of each job, in the order of `results.jobs`.
        seconds: what the epochs of each job took, in the same order.
    """

    directory: Path
    results: Results
    arms: Arms
    statuses: Mapping[str, JobStatus]
    provenance: tuple[Mapping[str, Any], ...]
    seconds: tuple[float, ...]

    @property
    def only_tuning(self) -> bool:
        """Whether the jobs are those of the tuning, as there are none to report yet."""
        return self.results.directory != self.directory

    def paths(self, job: JobResult) -> JobPaths:
        """Where the files of a job are."""
        return JobPaths(self.results.directory, job.name)

    def state(self, job: JobResult) -> JobState:
        """How a job stands."""
        status = self.statuses.get(job.name)
        return status.state if status is not None and not job.state.is_over else job.state

    @property
    def states(self) -> dict[JobState, int]:
        """How many jobs are in each state that occurs."""
        counts = Counter(self.state(job) for job in self.results.jobs)
        return {state: counts[state] for state in JobState if counts[state]}


def read_folder(directory: Path) -> Folder:
    """Read every job of a folder, however far it is; its tuning jobs if there are no others yet.

    Raises:
        ResultsError: it is not a readable folder, or holds no readable job.
    """
    results = read_results(tuning_folder(directory) if _has_only_tuning(directory) else directory)
    try:
        statuses = {status.job: status for status in read_status(results.directory)}
    except ResultsError:  # of the published implementation, which leaves no `config.yml`
        statuses = {}
    provenance = tuple(read_provenance(JobPaths(results.directory, job.name)) for job in results.jobs)
    return Folder(directory, results, Arms(results.jobs), statuses, provenance, _seconds(results))


def _has_only_tuning(directory: Path) -> bool:
    tuning = tuning_folder(directory)
    return tuning.is_dir() and not job_names(directory) and bool(job_names(tuning))


def _seconds(results: Results) -> tuple[float, ...]:
    totals = np.zeros(len(results.jobs))
    if "seconds" in results.epochs:
        spent = np.nan_to_num(results.epochs["seconds"].to_numpy(), nan=0.0, posinf=0.0, neginf=0.0)
        np.add.at(totals, results.epochs["job"].to_numpy(), np.clip(spent, 0, None))
    return tuple(totals.tolist())
