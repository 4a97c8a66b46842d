"""What a task of SLURM does when its training ends, and when it is cut short."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from support.training_jobs import run, small_job

from nteleport.cli.submit import TrainTask
from nteleport.jobs.atomic import write_text_atomic
from nteleport.jobs.paths import JobPaths
from nteleport.runner.slurm_task import Scontrol, reason_to_requeue, run_task
from nteleport.schema.yaml_source import to_yaml

RUNNING = {"JobState": "RUNNING", "PreemptTime": "None"}
PREEMPTED = {"JobState": "RUNNING", "PreemptTime": "2026-01-01T00:00:00"}
ENDING = {"JobState": "COMPLETING", "PreemptTime": "None"}


@pytest.mark.parametrize(
    ("number", "described", "reason"),
    [
        (signal.SIGUSR2, RUNNING, "time limit"),
        (signal.SIGTERM, RUNNING, None),  # a person asked it to stop
        (signal.SIGTERM, PREEMPTED, "preempted"),
        (signal.SIGUSR2, PREEMPTED, "preempted"),
        (signal.SIGTERM, ENDING, None),  # canceled, or queued again already
        (signal.SIGUSR2, ENDING, None),
        (signal.SIGUSR2, {}, None),
    ],
)
def test_a_task_asks_to_be_queued_again_only_where_slurm_does_not_do_it(
    number: int, described: dict[str, str], reason: str | None
) -> None:
    assert reason_to_requeue(number, described) == reason


class FakeScontrol(Scontrol):
    """SLURM says this of the task, and agrees to queue it again or not."""

    def __init__(self, described: Mapping[str, str], agrees: bool = True) -> None:
        super().__init__("7")
        self.described, self.agrees, self.asked = dict(described), agrees, 0

    def describe(self) -> dict[str, str]:
        return self.described

    def requeue(self) -> bool:
        self.asked += 1
        return self.agrees


@pytest.fixture
def signals_restored() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ending_with(code: int, *, after_a_batch: bool) -> Callable[[Sequence[str]], int]:
    """A `nteleport train` that ends with `code`, and has left a checkpoint if it has trained."""

    def train(arguments: Sequence[str]) -> int:
        if after_a_batch:
            (Path(arguments[1]).parent / "checkpoint.pt").write_text("whatever")
        sys.exit(code)

    return train


@pytest.mark.usefixtures("signals_restored")
@pytest.mark.parametrize(
    ("code", "after_a_batch", "described", "agrees", "asked", "exit_code"),
    [
        (0, True, RUNNING, True, 0, 0),
        (1, True, RUNNING, True, 0, 1),  # the job failed: that is final
        (128 + signal.SIGUSR2, True, RUNNING, True, 1, 128 + signal.SIGUSR2),
        (128 + signal.SIGUSR2, True, RUNNING, False, 1, 1),
        (128 + signal.SIGUSR2, False, RUNNING, True, 0, 1),  # it would continue for ever
        (128 + signal.SIGTERM, False, PREEMPTED, True, 1, 128 + signal.SIGTERM),
        (128 + signal.SIGTERM, True, ENDING, True, 0, 128 + signal.SIGTERM),
    ],
)
def test_a_task_ends_as_its_training_does(
    tmp_path: Path, code: int, after_a_batch: bool, described: dict[str, str], agrees: bool, asked: int,
    exit_code: int,
) -> None:  # fmt: skip
    scontrol = FakeScontrol(described, agrees)
    ended = 0
    try:
        run_task(str(tmp_path / "config.yml"), [], ending_with(code, after_a_batch=after_a_batch), scontrol)
    except SystemExit as exit_:
        ended = int(exit_.code or 0)
    assert (ended, scontrol.asked) == (exit_code, asked)


@pytest.mark.usefixtures("signals_restored")
def test_a_task_that_is_signalled_before_its_training_began_stops(tmp_path: Path) -> None:
    def train(arguments: Sequence[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return 0

    scontrol = FakeScontrol(PREEMPTED)
    with pytest.raises(SystemExit):
        run_task(str(tmp_path / "config.yml"), [], train, scontrol)
    assert scontrol.asked == 1


@pytest.mark.usefixtures("signals_restored")
def test_a_task_leaves_what_train_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and result of the task are those of the training loop called directly."""
    monkeypatch.setattr(sys, "argv", ["pytest"])
    job = small_job(epochs=2)
    direct, task = JobPaths(tmp_path / "direct", job.name), JobPaths(tmp_path / "task", job.name)
    run(job, direct.out, save_weights=True)
    task.directory.mkdir(parents=True)
    write_text_atomic(task.config, to_yaml(job.to_experiment()))
    TrainTask(("--device", "cpu", "--save-weights"))(str(task.config))
    weights = [torch.load(paths.weights, weights_only=True)["weights"] for paths in (direct, task)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "nteleport train" in task.provenance.read_text()
