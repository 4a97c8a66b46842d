"""`nteleport train`: what it checks, what it says and its exit codes."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from support.training_jobs import small_job

from nteleport.cli.app import nteleport
from nteleport.cli.progress import Lines, progress_on
from nteleport.jobs.events import EpochFinished, JobEnded, JobStarted, Resumed, RunStarted, Warned
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import MetricRow

MATRIX: dict[str, Any] = {
    "runs_per_config": 2,
    "datasets": ["digits"],
    "models": [{"cls": "MLPCOB", "hidden_layers": [8]}],
    "optimizers": [{"cls": "SGD", "lr": 0.01}],
    "training_params": {"epochs": 1, "batch_size": 32, "max_batch": 2},
    "teleportations": {
        "no_teleport": None,
        "teleport": {"mode": {"random": None}, "every_n_epochs": [0], "cob_range": [0.5]},
    },
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(MATRIX | changes, sort_keys=False))
    return path


def train(config: Path, out: Path, *options: str) -> Result:
    arguments = ["train", str(config), "--out", str(out), "--device", "cpu", *options]
    return CliRunner().invoke(nteleport, arguments)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tracker", "comet"], ("comet",)),
        (["--enable_comet"], ("comet",)),
        (["--enable-comet", "--tracker", "mlflow", "comet"], ("mlflow", "comet")),
        ([], ()),
    ],
)
def test_the_published_switch_of_comet_is_the_tracker_comet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: tuple[str, ...]
) -> None:
    seen: list[RunOptions] = []

    def record(jobs: object, out: object, run_options: RunOptions, again: object) -> int:
        seen.append(run_options)
        return 0

    monkeypatch.setattr("nteleport.cli.train._run", record)
    assert train(write(tmp_path), tmp_path / "out", *options).exit_code == 0
    assert seen[0].trackers == expected


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["--only", "failed", "pending", "{config}"], "4 jobs: 4 pending"),
        (["--devices", "0", "1", "{config}"], "4 jobs: 4 pending"),
        (["--only", "failed", "none.yml"], "'none.yml' does not exist"),
    ],
)
def test_the_configuration_may_follow_a_list(tmp_path: Path, order: list[str], message: str) -> None:
    words = [word.format(config=write(tmp_path)) for word in order]
    result = CliRunner().invoke(nteleport, ["train", "--out", str(tmp_path / "out"), "--dry-run", *words])
    assert re.search(message, result.output), result.output


def test_every_job_of_the_matrix_is_trained_and_the_summary_says_what_is_next(tmp_path: Path) -> None:
    out = tmp_path / "results"

    result = train(write(tmp_path), out)

    assert result.exit_code == 0, result.output
    assert len(list(out.glob("*/result.json"))) == 4
    assert not list(out.glob("*/weights.pt"))
    assert "4 jobs: 4 finished\n" in result.stdout
    assert f"nteleport plot {out} --metrics" in result.stdout
    assert result.stderr.count("finished val_accuracy") == 4


def test_the_same_command_again_does_nothing(tmp_path: Path) -> None:
    config, out = write(tmp_path), tmp_path / "results"
    train(config, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    result = train(config, out)

    assert result.exit_code == 0
    assert "4 jobs: 4 finished (4 of them not by this run)" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_extended_matrix_trains_only_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "results"
    train(write(tmp_path), out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}

    optimizers = [{"cls": "Adam", "lr": 0.01}, *MATRIX["optimizers"]]
    result = train(write(tmp_path, optimizers=optimizers), out)

    assert "8 jobs: 8 finished (4 of them not by this run)" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_dry_run_lists_the_jobs_with_their_states_and_writes_nothing(tmp_path: Path) -> None:
    config, out = write(tmp_path), tmp_path / "results"

    result = train(config, out, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.count("pending     digits-mlp") == 4
    assert "4 jobs: 4 pending" in result.stdout
    assert not out.exists()

    train(config, out, "--set", "runs_per_config=1")
    assert "4 jobs: 2 finished, 2 pending" in train(config, out, "--dry-run").stdout


def test_values_can_be_set_and_weights_kept(tmp_path: Path) -> None:
    out = tmp_path / "results"

    train(
        write(tmp_path),
        out,
        "--set",
        "training_params.epochs=2",
        "--set",
        "runs_per_config=1",
        "--save_weights",
    )

    rows = [len(path.read_text().splitlines()) - 1 for path in out.glob("*/metrics.csv")]
    assert rows == [2, 2]
    assert len(list(out.glob("*/weights.pt"))) == 2


def test_published_spellings_of_the_options_are_accepted(tmp_path: Path) -> None:
    arguments = ["train", str(write(tmp_path)), "--out_root_dir", str(tmp_path / "results"), "--dry_run"]

    result = CliRunner().invoke(nteleport, [*arguments, "--data_root_dir", str(tmp_path)])

    assert result.exit_code == 0, result.output


BAD_INPUT: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "a wrong key and a wrong keyword argument": (
        {"optimizers": [{"cls": "SGD", "lr": 0.1, "speed": 3}], "epochs": 3}, (), "speed",
    ),
    "an unknown device": ({}, ("--device", "gpu"), "unknown device 'gpu'"),
    "a device that is not there": ({}, ("--device", "cuda:77"), "there is no device cuda:77"),
    "no batch": (
        {"training_params": {"batch_size": 2000, "drop_last_batch": True}}, (), "no batch can be made",
    ),
    "a data set that is not there": ({"datasets": ["digits", "cifar10"]}, (), "could not be downloaded"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_reported_and_nothing_is_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("nteleport.data.sources._download", no_network)
    changes, options, message = BAD_INPUT[case]
    config, out = write(tmp_path, **changes), tmp_path / "results"

    result = train(config, out, "--data-dir", str(tmp_path / "data"), *options)

    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment.yml"]


def test_all_problems_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    config = write(tmp_path, optimizers=[{"cls": "SGD", "lr": 0.1, "speed": 3}], epoch=3)

    result = train(config, tmp_path / "results")

    assert result.stderr.count(f"{config}:") == 2


def test_an_impossible_output_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        result = train(write(tmp_path), out)

        assert result.exit_code == 2
        assert "is a file, expected a folder" in result.stderr


def test_a_read_only_output_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as a user who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)

    result = train(write(tmp_path), tmp_path / "results")

    assert result.exit_code == 2
    assert "expected a writable folder" in result.stderr


def test_a_failed_job_gives_exit_code_1_and_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nteleport.runner.attempt as attempt

    train_job, calls = attempt.train_job, []

    def fails_once(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the weather")
        return train_job(*arguments, **options)

    monkeypatch.setattr(attempt, "train_job", fails_once)

    result = train(write(tmp_path), tmp_path / "results")

    assert result.exit_code == 1
    assert "4 jobs: 3 finished, 1 failed" in result.stdout
    assert "RuntimeError: the weather" in result.stdout
    assert "RuntimeError: the weather" in result.stderr
    assert "log.txt" in result.stdout


def test_a_signal_stops_between_batches_and_the_same_command_continues(tmp_path: Path) -> None:
    params = {"epochs": 15, "batch_size": 16}
    config, out = write(tmp_path, training_params=params, runs_per_config=1), tmp_path / "results"
    command = [sys.executable, "-m", "nteleport", "train", str(config), "--out", str(out), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "2 jobs: 1 stopped, 1 not begun" in stdout
    assert "repeat the command to continue" in stdout
    result = train(config, out)
    assert result.exit_code == 0
    assert "continues after epoch" in result.stderr


JOB = small_job(epochs=3)
ROW = MetricRow(0, 0.1, 1.0, 0.5, 0.9, 1.0, 0.4321, 0.9, 0, 1.0, 1.0, 2.0)


def test_lines_come_from_within_a_long_job_only_now_and_then() -> None:
    stream, now = io.StringIO(), 0.0
    lines = Lines(stream, seconds=lambda: now)
    lines(RunStarted((JOB,)))
    lines(JobStarted(JOB))
    for now in (1.0, 29.0, 31.0, 40.0, 62.0):  # noqa: B007  # read by the clock
        lines(EpochFinished(JOB, ROW))
    lines(JobEnded(JOB, JobPaths(Path("out"), JOB.name), "finished", val_accuracy=0.5, seconds=3.0))

    assert stream.getvalue().count("epoch 1 of 3, val_accuracy 0.4321") == 2
    assert stream.getvalue().endswith(f"[1/1] {JOB.name}: finished val_accuracy 0.5000 in 3.0 s\n")


def test_a_terminal_gets_bars() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress_on(stream) as bars:
        bars(RunStarted((JOB,)))
        bars(JobStarted(JOB))
        bars(Resumed(JOB, 1))
        bars(EpochFinished(JOB, ROW))
        bars(Warned("the disk is nearly full"))
        bars(JobEnded(JOB, JobPaths(Path("out"), JOB.name), "failed", error="the weather"))

    shown = stream.getvalue()
    assert "jobs" in shown
    assert "0/3" in shown
    assert "the disk is nearly full" in shown
    assert "failed: the weather" in shown
