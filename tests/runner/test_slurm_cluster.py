"""A matrix on a real SLURM cluster, with tasks that are interrupted, against the same matrix here.

Marked `slurm`: `eval "$(scripts/slurm-test-cluster start)"`, then `python -m pytest -m slurm`.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nteleport.jobs.paths import JobPaths
from nteleport.runner.slurm import split, tasks_in_queue

pytestmark = pytest.mark.slurm

MATRIX = """
runs_per_config: 3
datasets: [digits]
models: [{cls: mlp, hidden_layers: [128, 128]}]
optimizers: [{cls: SGD, lr: 0.02, momentum: 0.9}]
training_params: {epochs: 100, batch_size: 8, shuffle_batches: true}
teleportations:
  no_teleport:
  teleport:
    mode: {random: }
    every_n_epochs: [7]
    teleport_only_once: [false]
    cob_sampling: [inter_landscape]
    cob_range: [0.5]
"""


def rows_without_seconds(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, as text, without how long they took."""
    with path.open(newline="") as file:
        return [{key: text for key, text in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def ask(*command: str, seconds: float = 60) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True).stdout


def nteleport(*arguments: str) -> str:
    one_thread = ["env", "OMP_NUM_THREADS=1"]  # as each task has: sums depend on it
    return ask(*one_thread, sys.executable, "-m", "nteleport", *arguments, seconds=900)


@dataclass
class SubmittedMatrix:
    """What became of the matrix on the cluster, and of the same matrix here.

    Attributes:
        submissions: what `nteleport submit` said at first, while tasks ran, and in the end.
        numbers: the number of the task of each job.
    """

    here: Path
    cluster: Path
    submissions: list[str] = field(default_factory=list)
    numbers: dict[str, str] = field(default_factory=dict)

    @property
    def jobs(self) -> list[str]:
        """In the order of their tasks."""
        return sorted(self.numbers, key=lambda job: [int(part) for part in self.numbers[job].split("_")])

    def log(self, job: str) -> str:
        """What SLURM kept of the output of its task."""
        return (self.cluster / ".slurm" / f"{self.numbers[job]}_0_log.out").read_text()


def wait_until(happened: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s; the queue:\n{ask('squeue')}")
        time.sleep(0.05)


def epochs_of(paths: JobPaths) -> int:
    return len(rows_without_seconds(paths.metrics)) if paths.metrics.exists() else 0


def interrupt(matrix: SubmittedMatrix, job: str, *command: str) -> None:
    """Run a command of SLURM on the task of a job once it has trained for three epochs."""
    paths = JobPaths(matrix.cluster, job)
    wait_until(lambda: epochs_of(paths) >= 3, 180, f"the third epoch of {job}")
    assert not paths.result.exists(), "the job was over before it could be interrupted: make it longer"
    ask(*(matrix.numbers[job] if word == "TASK" else word for word in command))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> SubmittedMatrix:
    """Six jobs on the cluster, three of them interrupted, and the same six jobs here."""
    answer = shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True, timeout=60, check=False)
    if not answer or answer.returncode != 0:
        pytest.skip('no SLURM cluster answers sinfo: eval "$(scripts/slurm-test-cluster start)" starts one')
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("matrix")
    config = folder / "matrix.yml"
    config.write_text(MATRIX)
    matrix = SubmittedMatrix(here=folder / "here", cluster=folder / "cluster")
    options = ["--device", "cpu", "--data-dir", str(folder / "data")]
    submission = [
        "submit",
        str(config),
        "--out",
        str(matrix.cluster),
        "--cpus",
        "1",
        "--time",
        "30",
        *options,
    ]
    matrix.submissions.append(nteleport(*submission))
    matrix.numbers = tasks_in_queue(matrix.cluster)
    interrupt(matrix, matrix.jobs[0], "scontrol", "requeue", "TASK")
    # scancel tries again for minutes when the task it has signaled is in the queue again
    interrupt(matrix, matrix.jobs[1], "sh", "-c", 'timeout 5 scancel --signal=USR2 "$0" || :', "TASK")
    matrix.submissions.append(nteleport(*submission))
    if "urgent" in ask("sinfo", "--noheader", "--format=%R").split():
        urgent = ["--partition=urgent", "--exclusive", f"--output={os.devnull}", "--wrap=sleep 1"]
        interrupt(matrix, matrix.jobs[2], "sbatch", *urgent)
    nteleport("train", str(config), "--out", str(matrix.here), "--jobs", "2", *options)
    wait_until(lambda: not tasks_in_queue(matrix.cluster), 600, "the end of the last task")
    matrix.submissions.append(nteleport(*submission))
    return matrix


def test_the_cluster_and_this_machine_compute_the_same(matrix: SubmittedMatrix) -> None:
    assert len(matrix.jobs) == 6
    for job in matrix.jobs:
        there, here = JobPaths(matrix.cluster, job), JobPaths(matrix.here, job)
        assert rows_without_seconds(there.metrics) == rows_without_seconds(here.metrics)
        assert epochs_of(there) == 100


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_an_interrupted_task_continues_from_its_checkpoint(matrix: SubmittedMatrix, interrupted: int) -> None:
    """By `scontrol requeue`, by the warning before the time limit, and by preemption."""
    if interrupted == 2 and "urgent" not in ask("sinfo", "--noheader", "--format=%R").split():
        pytest.skip("this cluster has no partition `urgent` that preempts others")
    log = JobPaths(matrix.cluster, matrix.jobs[interrupted]).log.read_text()
    (resumed,) = re.findall(r"resumed on cpu after (\d+) epochs", log)
    assert int(resumed) >= 3
    assert log.count("started on cpu") == 1


def test_a_task_at_its_time_limit_asks_to_be_queued_again(matrix: SubmittedMatrix) -> None:
    assert "time limit: queued again" in matrix.log(matrix.jobs[1])


def test_a_matrix_is_split_at_the_limit_of_the_cluster(matrix: SubmittedMatrix) -> None:
    limit = int(re.findall(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))[0])
    sizes = [len(group) for group in split(range(6), limit)]  # type: ignore[type-var]
    assert [int(size) for size in re.findall(r"SLURM job \d+: (\d+) task", matrix.submissions[0])] == sizes


def test_no_job_is_submitted_twice(matrix: SubmittedMatrix) -> None:
    _, meanwhile, in_the_end = matrix.submissions
    assert "SLURM job" not in meanwhile
    assert "SLURM job" not in in_the_end
    assert "6 jobs: 6 finished" in in_the_end
