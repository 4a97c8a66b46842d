"""Several commands on one output folder: every job is trained once, and none waits for the dead."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.paths import JobPaths

EXPERIMENT = {
    "runs_per_config": 60,
    "datasets": ["digits"],
    "models": [{"cls": "mlp", "hidden_layers": [8]}],
    "optimizers": [{"cls": "SGD", "lr": 0.01}],
    "training_params": {"epochs": 1, "batch_size": 32, "max_batch": 4},
}


def commands(folder: Path, count: int, *options: str) -> list[subprocess.Popen[str]]:
    words = ["-m", "nteleport", "train", "experiment.yml", "--out", "out", "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(count)
    ]  # fmt: skip


def starts(folder: Path) -> list[int]:
    """How often each job was started or resumed, by its log."""
    jobs = expand(load_experiment(folder / "experiment.yml"))
    logs = [JobPaths(folder / "out", job.name).log.read_text() for job in jobs]
    return [len(re.findall(r"  (?:started|resumed) on ", log)) for log in logs]


def test_four_commands_train_sixty_jobs_once_each(tmp_path: Path) -> None:
    (tmp_path / "experiment.yml").write_text(yaml.safe_dump(EXPERIMENT))

    processes = commands(tmp_path, 4)
    said = [process.communicate(timeout=300) for process in processes]

    assert [process.returncode for process in processes] == [0] * 4, said
    assert starts(tmp_path) == [1] * 60
    assert all("60 jobs: 60 finished" in out for out, _ in said)
    done = [err.count(": finished ") for _, err in said]
    assert sum(done) == 60  # each command tells of those that it trained itself
    assert not list(tmp_path.glob("out/*/claim"))


@pytest.mark.slow
def test_of_two_commands_one_dies_and_the_other_finishes_its_job(tmp_path: Path) -> None:
    """One job, two commands: the second waits for the first, which is killed in the middle."""
    training = {"epochs": 400, "batch_size": 32, "max_batch": 1}
    (tmp_path / "experiment.yml").write_text(
        yaml.safe_dump({**EXPERIMENT, "runs_per_config": 1, "training_params": training})
    )
    (first,) = commands(tmp_path, 1)
    while not list(tmp_path.glob("out/*/checkpoint.pt")):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # alive, but not getting on
    (second,) = commands(tmp_path, 1)
    assert second.stderr is not None
    assert "other processes are training the last 1 of these jobs" in second.stderr.readline()

    first.kill()
    out, err = second.communicate(timeout=300)

    assert second.returncode == 0, err
    assert "1 job: 1 finished" in out
    assert "continues after epoch" in err
    first.communicate()
