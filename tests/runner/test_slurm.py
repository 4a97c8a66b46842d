"""Submitting without a cluster: small shell programs answer as `sbatch`, `scontrol` and `squeue` do."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.training_jobs import small_job

from nteleport.cli.submit import submit
from nteleport.errors import SlurmError
from nteleport.jobs.atomic import write_json_atomic
from nteleport.jobs.paths import JobPaths
from nteleport.runner.slurm import Resources, batch_scripts, minutes, split

JOBS = [small_job(epochs=2, batch_size=size) for size in range(32, 39)]
EXPERIMENT = """
datasets: [digits]
models: [{cls: mlp, hidden_layers: [16, 12]}]
optimizers: [{cls: SGD, lr: 0.05, momentum: 0.9, weight_decay: 0.01}]
training_params:
"""
EXPERIMENT += "".join(
    f"  - {{epochs: 2, batch_size: {size}, shuffle_batches: true, max_batch: 4}}\n" for size in range(32, 39)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90), ("90:00", 90), ("0:30", 1), ("12:00:00", 720), ("1:01:01", 62), ("2-00", 2880),
        ("1-12:30", 2190), ("1-00:00:01", 1441),
    ],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0:00:00", "1h", "-5", "1:2:3:4", "infinite"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SlurmError, match=r"is not a time: expected minutes"):
        minutes(text)


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (1000, [7])])
def test_jobs_are_split_into_arrays_at_the_limit_in_their_order(limit: int, sizes: list[int]) -> None:
    groups = split(JOBS, limit)
    assert [len(group) for group in groups] == sizes
    assert [job for group in groups for job in group] == JOBS


def sbatch_options(script: str) -> dict[str, str]:
    """The options in the head of a batch script, as `sbatch` reads them."""
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    pairs = [shlex.split(line)[0].removeprefix("--").partition("=") for line in lines]
    return {key: value for key, _, value in pairs}


def commands(script: str) -> list[str]:
    return [line for line in script.splitlines() if line and not line.startswith("#")]


def test_every_resource_is_in_the_script(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    resources = Resources(
        partition="gpu", account="lab", time=90, gres="gpu:a100:1", cpus=4, mem="16G", email="me@example.org",
        array_parallelism=2, setup=("module load cuda", "ulimit -c 0"),
        more=(("qos", "long"), ("exclusive", True)),
    )  # fmt: skip
    (script,) = batch_scripts([JOBS], tmp_path / "my results", resources)
    logs = str(tmp_path / "my results" / ".slurm" / "%A_%a_0_log.out")
    assert sbatch_options(script) == {
        "account": "lab", "array": "0-6%2", "cpus-per-task": "4", "exclusive": "", "gres": "gpu:a100:1",
        "job-name": "nteleport", "mail-type": "END,FAIL", "mail-user": "me@example.org", "mem": "16G",
        "nodes": "1", "open-mode": "append", "output": logs, "partition": "gpu", "qos": "long", "requeue": "",
        "signal": "USR2@90", "time": "90",
    }  # fmt: skip
    threads, cuda, limit, _, srun = commands(script)
    assert (cuda, limit) == ("module load cuda", "ulimit -c 0")
    assert threads == 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_ON_NODE}"'
    words = shlex.split(srun)
    assert words[0] == "srun"
    assert "--cpus-per-task=4" in words
    assert words[-5:] == [sys.executable, "-u", "-m", "submitit.core._submit", str(Path(logs).parent)]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_what_is_not_asked_for_is_left_to_the_cluster(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (script,) = batch_scripts([JOBS[:1]], tmp_path, Resources())
    assert set(sbatch_options(script)) == {"job-name", "nodes", "open-mode", "output", "requeue", "signal"}


def test_a_short_time_limit_leaves_most_of_it_for_training(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (script,) = batch_scripts([JOBS[:1]], tmp_path, Resources(time=2))
    assert sbatch_options(script)["signal"] == "USR2@30"


@dataclass
class FakeCluster:
    """Programs that answer like SLURM's, and what they were asked."""

    folder: Path

    def program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def queue(self, *tasks: str) -> None:
        (self.folder / "queue").write_text("".join(f"{task}\n" for task in tasks))

    @property
    def scripts(self) -> list[str]:
        paths = sorted(self.folder.glob("submitted-*"), key=lambda path: int(path.name.partition("-")[2]))
        return [path.read_text() for path in paths]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster that takes arrays of three tasks and gives them the numbers 101, 102, …"""
    pytest.importorskip("submitit")
    fake = FakeCluster(tmp_path / "bin")
    fake.folder.mkdir()
    here = shlex.quote(str(fake.folder))
    fake.queue()
    fake.program(
        "sbatch",
        f"n=$((101 + $(ls {here} | grep -c submitted-)))\n"
        f'cp "$1" {here}/submitted-$n\necho "Submitted batch job $n"',
    )
    fake.program("scontrol", 'echo "MaxArraySize            = 3"')
    fake.program("squeue", f"cat {here}/queue")
    fake.program("srun", "exit 1")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yml"
    path.write_text(EXPERIMENT)
    return path


def submit_with(config: Path, *options: str, out: Path | None = None) -> Result:
    out = out or config.parent / "out"
    return CliRunner().invoke(submit, [str(config), "--out", str(out), *options])


def told(folder: Path) -> dict[str, list[object]]:
    """For each task that was submitted, what its function receives."""
    from submitit.core.utils import DelayedSubmission

    pickles = {path.name.removesuffix("_submitted.pkl"): path for path in folder.glob("*_submitted.pkl")}
    return {name: list(DelayedSubmission.load(path).args) for name, path in pickles.items()}


def test_a_matrix_is_submitted_as_arrays_whose_tasks_get_one_path_each(
    cluster: FakeCluster, config: Path
) -> None:
    outcome = submit_with(config)
    assert outcome.exit_code == 0
    arrays = [sbatch_options(script).get("array") for script in cluster.scripts]
    assert arrays == ["0-2%3", "0-2%3", None]
    out = config.parent / "out"
    numbers = ["101_0", "101_1", "101_2", "102_0", "102_1", "102_2", "103"]
    paths = [JobPaths(out, job.name).config for job in JOBS]
    assert told(out / ".slurm") == {number: [str(path)] for number, path in zip(numbers, paths, strict=True)}
    assert all(path.is_file() for path in paths)


def test_the_dry_run_prints_what_is_submitted_and_writes_nothing(cluster: FakeCluster, config: Path) -> None:
    options = ["--partition", "gpu", "--time", "2-00", "--setup", "module load cuda"]
    printed = submit_with(config, *options, "--dry-run")
    assert printed.exit_code == 0
    assert not (config.parent / "out").exists()
    submit_with(config, *options)
    for script in cluster.scripts:
        assert script in printed.stdout
    assert len(cluster.scripts) == 3
    tasks = re.findall(r"^# task \d: (\S+)$", printed.stdout, re.M)
    assert tasks == [job.name for job in JOBS]


def test_arrays_wait_for_each_other_where_few_tasks_may_run_at_once(
    cluster: FakeCluster, config: Path
) -> None:
    submit_with(config, "--array-parallelism", "2")
    waits = [sbatch_options(script).get("dependency") for script in cluster.scripts]
    assert waits == [None, "afterany:101", "afterany:102"]


def test_jobs_that_are_over_or_in_the_queue_are_not_submitted(cluster: FakeCluster, config: Path) -> None:
    out = config.parent / "out"
    submit_with(config)
    write_json_atomic(JobPaths(out, JOBS[0].name).result, {"state": "finished"})
    write_json_atomic(JobPaths(out, JOBS[1].name).result, {"state": "failed", "error": "a node was lost"})
    cluster.queue("77", "101_2", "102_0", "102_1", "102_2")
    outcome = submit_with(config)
    assert "7 jobs: 1 finished, 4 in the queue, 2 submitted" in outcome.stdout
    names = [Path(str(told(out / ".slurm")[task][0])).parent.name for task in ("104_0", "104_1")]
    assert names == [JOBS[1].name, JOBS[6].name]


def test_nothing_is_submitted_when_all_is_over(cluster: FakeCluster, config: Path) -> None:
    for job in JOBS:
        paths = JobPaths(config.parent / "out", job.name)
        paths.directory.mkdir(parents=True)
        write_json_atomic(paths.result, {"state": "finished"})
    outcome = submit_with(config)
    assert (outcome.exit_code, cluster.scripts) == (0, [])
    assert "7 jobs: 7 finished" in outcome.stdout


def test_a_refusal_of_the_cluster_is_one_message(cluster: FakeCluster, config: Path) -> None:
    cluster.program("sbatch", 'echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1')
    outcome = submit_with(config, "--partition", "gpu")
    assert outcome.exit_code == 2
    assert (
        outcome.stderr == "Error: SLURM refused the jobs: sbatch: error: invalid partition specified: gpu\n"
    )


def test_a_cluster_that_does_not_answer_is_one_message(cluster: FakeCluster, config: Path) -> None:
    cluster.program("scontrol", 'echo "scontrol: error: Unable to contact slurm controller" >&2; exit 1')
    outcome = submit_with(config)
    assert outcome.exit_code == 2
    assert outcome.stderr == (
        "Error: the SLURM cluster does not answer: scontrol: error: Unable to contact slurm controller\n"
    )


def test_without_slurm_submitting_fails_clearly_and_the_dry_run_works(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(config.parent))
    outcome = submit_with(config)
    assert outcome.exit_code == 2
    assert "there is no SLURM on this machine, scontrol was not found" in outcome.stderr
    assert not (config.parent / "out").exists()
    outcome = submit_with(config, "--dry-run")
    assert outcome.exit_code == 0
    assert sbatch_options(outcome.stdout)["array"] == "0-6%7"


def test_without_submitit_the_extra_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    outcome = submit_with(config, "--dry-run")
    assert outcome.exit_code == 2
    assert "pip install 'nteleport[slurm]'" in outcome.stderr


def test_two_ways_to_ask_for_gpus_are_refused(config: Path) -> None:
    pytest.importorskip("submitit")
    outcome = submit_with(config, "--gres", "gpu:1", "--gpus", "1")
    assert outcome.exit_code == 2
    assert "--gres or --gpus" in outcome.stderr


@pytest.mark.parametrize(
    "asked",
    [
        {"partition": "main\n#SBATCH --uid=0"},
        {"setup": ("module load cuda\nrm -rf ~",)},
        {"more": (("qos", "long\r\n#SBATCH --begin=now"),)},
        {"more": (("qos\nx", True),)},
    ],
)
def test_a_text_that_would_add_lines_to_the_script_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SlurmError, match="expected one line of plain text"):
        Resources(**asked)


TUNED = """
datasets: digits
models: {cls: mlp, hidden_layers: [8]}
optimizers: SGD
training_params: {epochs: 1, max_batch: 4, validation: 0.2}
tune: {optimizer.lr: {log_grid: [0.001, 0.01], points: 2, extend: true}, runs: [0]}
runs: [10, 11]
"""


def test_a_tuned_experiment_is_submitted_by_repeating_the_command(cluster: FakeCluster, config: Path) -> None:
    """Tuning jobs, those of an extension, the jobs to report; results are made between the commands."""
    config.write_text(TUNED)
    out = config.parent / "out"

    def submitted() -> tuple[str, list[str]]:
        before = set(out.glob("*/config.yml")) | set(out.glob("tuning/*/config.yml"))
        outcome = submit_with(config)
        assert outcome.exit_code == 0, outcome.output
        after = set(out.glob("*/config.yml")) | set(out.glob("tuning/*/config.yml"))
        return outcome.stdout, sorted(str(path.parent.relative_to(out)) for path in after - before)

    def train(names: list[str], scores: dict[str, float]) -> None:
        for name in names:
            (accuracy,) = [score for rate, score in scores.items() if f"-lr{rate}-" in name]
            result = {"state": "finished", "final": {"val_accuracy": accuracy}}
            write_json_atomic(out / name / "result.json", result)

    said, first = submitted()
    assert len(first) == 2
    assert all(name.startswith("tuning/") for name in first)
    assert "chosen for 0 of 1 arm; 2 jobs to report wait for their tuning" in said
    assert "repeat this command when the tuning jobs have ended, to choose and to submit what follows" in said
    train(first, {"0.001": 0.2, "0.01": 0.5})

    said, second = submitted()
    assert [name.split("-lr")[1].split("-")[0] for name in second] == ["0.1", "1"]
    train(second, {"0.1": 0.9, "1": 0.1})

    said, third = submitted()
    assert len(third) == 2
    assert all(name.startswith("digits-") and "-lr0.1-" in name for name in third)
    assert "chosen for 1 of 1 arm" in said
    assert "repeat this command" not in said
    with (out / "tuning.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["optimizer.lr"]: row["chosen"] for row in rows} == {
        "0.001": "false",
        "0.01": "false",
        "0.1": "true",
        "1.0": "false",
    }
