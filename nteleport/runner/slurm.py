"""Jobs as tasks of SLURM arrays, through submitit.

A submission is one or more arrays, split at the cluster's size limit. Scripts, logs and the record of which
task trains which job are in `<out>/.slurm`; a job that is still queued or running is not submitted again.

`sbatch --signal` warns a task before its time limit, and `--requeue` allows SLURM to start it again after
preemption: see `nteleport.runner.slurm_task` for the rest.
"""

from __future__ import annotations

import getpass
import io
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nteleport.errors import SlurmError
from nteleport.extras import import_extra
from nteleport.jobs.atomic import write_json_atomic
from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import describe

__all__ = ["Resources", "array_limit", "batch_scripts", "minutes", "split", "submit", "tasks_in_queue"]

DEFAULT_ARRAY_LIMIT = 1001
"""SLURM's own default of MaxArraySize."""

Task = Callable[[str], None]
"""What a task runs, called with the path of a job's `config.yml`; it is pickled by its name."""

_NAME = "nteleport"
_LONGEST_WARNING = 90
_FORMS_OF_TIME = (
    r"(?P<m>\d+)(:(?P<s>\d+))?",
    r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)",
    r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?",
)


@dataclass(frozen=True)
class Resources:
    """The resources each task requests. None leaves the choice to the cluster.

    Attributes:
        time: time limit of a task in minutes; it is queued again if it is not done by then.
        gres: generic resources in SLURM's notation, such as `gpu:a100:1`.
        gpus: number of GPUs of any kind; `gres` or this.
        mem: memory in SLURM's notation, such as `16G`.
        email: address that SLURM notifies at the end and on failure.
        array_parallelism: maximum number of tasks running at once.
        setup: shell lines that run first, such as `module load cuda`.
        more: further options of `sbatch` by their long names.

    Raises:
        SlurmError: a text of several lines, which would become lines of the batch script.
    """

    partition: str | None = None
    account: str | None = None
    time: int | None = None
    gres: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    mem: str | None = None
    email: str | None = None
    array_parallelism: int | None = None
    setup: tuple[str, ...] = ()
    more: tuple[tuple[str, str | bool], ...] = ()

    def __post_init__(self) -> None:
        texts = [*vars(self).items(), *((f"setup line {n}", line) for n, line in enumerate(self.setup, 1))]
        for name, value in (*texts, *self.more, *((key, key) for key, _ in self.more)):
            if isinstance(value, str) and not value.isprintable():
                raise SlurmError(f"{name} {value!r}: expected one line of plain text")

    def parameters(self, tasks: int) -> dict[str, Any]:
        """The parameters of submitit's SLURM executor, for an array of `tasks` tasks."""
        threads = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_ON_NODE}"'
        return {
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
            "gres": self.gres,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "mem": self.mem,
            "mail_user": self.email,
            "mail_type": "END,FAIL" if self.email else None,
            "array_parallelism": self.array_parallelism or tasks,
            "setup": [threads, *self.setup],
            "signal_delay_s": self._warning,
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.cpus else [],
            "stderr_to_stdout": True,
            "wckey": None,
            "additional_parameters": {"requeue": True, **dict(self.more)},
        }

    @property
    def _warning(self) -> int:
        """Seconds before the time limit at which SLURM signals a task to stop, or up to a minute earlier."""
        return _LONGEST_WARNING if self.time is None else min(_LONGEST_WARNING, self.time * 60 // 4)


def minutes(text: str) -> int:
    """A time in one of SLURM's notations, in minutes, rounded up.

    The notations are `MINUTES`, `MINUTES:SECONDS`, `HOURS:MINUTES:SECONDS`, `DAYS-HOURS`,
    `DAYS-HOURS:MINUTES` and `DAYS-HOURS:MINUTES:SECONDS`.

    Raises:
        SlurmError: the text has none of these notations, or the time is zero.
    """
    found = next(filter(None, (re.fullmatch(form, text.strip()) for form in _FORMS_OF_TIME)), None)
    parts = {key: int(value) for key, value in (found.groupdict() if found else {}).items() if value}
    weights = {"d": 24 * 60, "h": 60, "m": 1, "s": 1 / 60}
    total = math.ceil(sum(weights[key] * value for key, value in parts.items()))
    if total <= 0:
        raise SlurmError(f"{text!r} is not a time: expected minutes, or 90:00, 12:00:00, 2-00, 2-12:00:00")
    return total


def split(jobs: Sequence[Job], limit: int) -> list[Sequence[Job]]:
    """Groups of at most `limit` jobs, in their order: each becomes an array."""
    return [jobs[start : start + limit] for start in range(0, len(jobs), limit)]


def array_limit() -> int:
    """How many tasks an array may have on this cluster; at least 1.

    Raises:
        SlurmError: no cluster answers.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _answer("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(found.group(1))) if found else DEFAULT_ARRAY_LIMIT


def batch_scripts(groups: Sequence[Sequence[Job]], out: Path, resources: Resources) -> list[str]:
    """The scripts that `submit` would pass to `sbatch`, one per group. No cluster is contacted.

    Where arrays wait for each other, the number of the previous array is not known yet and is left out.

    Raises:
        MissingExtraError: submitit is not installed.
    """
    slurm = import_extra("submitit.slurm.slurm", extra="slurm", purpose="nteleport submit")
    folder = records_folder(out)
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return [
        slurm._make_sbatch_string(
            command=command,
            folder=folder,
            map_count=len(jobs) if len(jobs) > 1 else None,
            job_name=_NAME,
            **resources.parameters(len(jobs)),
        )
        for jobs in groups
    ]


def submit(
    groups: Sequence[Sequence[Job]], out: Path, resources: Resources, task: Task
) -> Iterator[tuple[str, Sequence[Job]]]:
    """Submit each group of jobs as an array, and yield its number with its jobs as soon as SLURM accepts it.

    With a limit on the tasks that run at once, an array starts when the previous one has ended: SLURM applies
    such limits only within an array.

    Raises:
        MissingExtraError: submitit is not installed.
        SlurmError: there is no cluster, or it refuses an array. Earlier arrays are in its queue.
        JobError, OSError: `out` cannot be written.
    """
    submitit = import_extra("submitit", extra="slurm", purpose="nteleport submit")
    executor = _executor(submitit, out)
    before: str | None = None
    for jobs in groups:
        parameters = resources.parameters(len(jobs))
        if before is not None and resources.array_parallelism:
            parameters["dependency"] = f"afterany:{before}"
        for job in jobs:
            describe(job, JobPaths(out, job.name))
        with _sbatch_errors(submitit):
            executor.update_parameters(job_name=_NAME, **parameters)
            tasks = executor.map_array(task, [str(JobPaths(out, job.name).config) for job in jobs])
        before = str(tasks[0].job_id).partition("_")[0]
        record = {str(task.job_id): job.name for task, job in zip(tasks, jobs, strict=True)}
        write_json_atomic(records_folder(out) / f"{before}.json", record)
        yield before, jobs


def records_folder(out: Path) -> Path:
    """The folder of the scripts, logs and records of submissions of an output folder."""
    return out.absolute() / ".slurm"


def tasks_in_queue(out: Path) -> dict[str, str]:
    """The jobs of `out` that are queued or running on the cluster: for each name, the number of its task.

    Raises:
        SlurmError: no cluster answers.
    """
    records: dict[str, str] = {}
    for path in sorted(records_folder(out).glob("*.json")):
        records.update(json.loads(path.read_text(encoding="utf-8")))
    if not records:
        return {}
    queue = _answer("squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}")
    return {records[number]: number for number in queue.split() if number in records}


def _executor(submitit: Any, out: Path) -> Any:
    try:
        return submitit.SlurmExecutor(folder=records_folder(out))
    except RuntimeError as error:
        raise SlurmError(f"no SLURM here: {error}") from error


@contextmanager
def _sbatch_errors(submitit: Any) -> Iterator[None]:
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints the message of sbatch, and raises it too
            yield
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise SlurmError(f"SLURM refused the jobs: {' '.join(str(error).split())}") from error


def _answer(*command: str) -> str:
    """The output of a SLURM program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise SlurmError(
            f"there is no SLURM on this machine, {command[0]} was not found: submit from a machine of the "
            "cluster, or look at the scripts with --dry-run"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"the SLURM cluster does not answer: {command[0]} took more than a minute") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SlurmError(f"the SLURM cluster does not answer: {reason}")
    return done.stdout
