"""`nteleport train`: choosing jobs, redoing them, and what it says when some fail."""

from __future__ import annotations

import io
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from support.training_jobs import small_job
from tqdm import tqdm

from nteleport.cli.app import nteleport
from nteleport.cli.progress import progress_on
from nteleport.cli.summary import summarize
from nteleport.jobs.events import EpochFinished, JobEnded, JobStarted, Resumed, RunStarted
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import MetricRow

EXPERIMENT: dict[str, Any] = {
    "runs_per_config": 2,
    "datasets": ["digits"],
    "models": [{"cls": "mlp", "hidden_layers": [8]}, {"cls": "mlp", "hidden_layers": [10**12]}],
    "optimizers": [{"cls": "SGD", "lr": 0.01}],
    "training_params": {"epochs": 1, "batch_size": 32, "max_batch": 2},
}
"""Two jobs that train and, between other things, two that need more memory than there is."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "an experiment.yml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    return path


def command(*words: str) -> Result:
    return CliRunner().invoke(nteleport, [*words])


def train(config: Path, *options: str) -> Result:
    return command("train", str(config), "--out", str(config.parent / "out"), "--device", "cpu", *options)


def listed(result: Result) -> list[tuple[str, str]]:
    """State and name of each job of a dry run."""
    assert result.exit_code == 0, result.output
    return [(words[0], words[1]) for words in map(str.split, result.stdout.splitlines()[:-1])]


def mtimes(config: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (config.parent / "out").glob("*/*")}


def test_equal_failures_are_reported_once_with_the_command_that_runs_them_again(config: Path) -> None:
    result = train(config, "--set", "training_params.epochs=2", "--only", "*")

    assert result.exit_code == 1
    assert result.stderr.count("failed: out of memory: ") == 2  # each as it happens
    assert "4 jobs: 2 finished, 2 failed" in result.stdout
    assert result.stdout.count("2 × out of memory: ") == 1
    logs = re.findall(r"^ +(\S.*log\.txt)$", result.stdout, re.MULTILINE)
    assert [("Traceback" in Path(log).read_text()) for log in logs] == [True, True]

    again = re.findall(r"run the failed ones again: (.*)", result.stdout)[0]
    before = mtimes(config)
    program, *words = shlex.split(again)
    assert (program, words[-2:]) == ("nteleport", ["--only", "failed"])
    repeated = command(*words)

    assert repeated.exit_code == 1
    assert "2 jobs: 2 failed" in repeated.stdout
    assert repeated.stdout.endswith(
        result.stdout[result.stdout.index("run the failed") :].partition("\npic")[0] + "\n"
    )
    changed = {path.parent.name for path, time in mtimes(config).items() if before.get(path) != time}
    assert changed == {Path(log).parent.name for log in logs}


def test_many_failures_are_grouped_with_the_most_frequent_first(capsys: pytest.CaptureFixture[str]) -> None:
    job = small_job()
    errors = ["RuntimeError: the weather", *[f"out of memory: {size} MiB" for size in range(5)]]
    outcomes = [
        JobEnded(job, JobPaths(Path("out"), f"job{n}"), "failed", error=e) for n, e in enumerate(errors)
    ]

    summarize(7, outcomes, Path("out"), "nteleport again")

    assert capsys.readouterr().out.splitlines() == [
        "7 jobs: 6 failed, 1 not begun",
        "  5 × out of memory: 0 MiB",
        "      out/job1/log.txt",
        "      out/job2/log.txt",
        "      out/job3/log.txt",
        "      … and 2 more",
        "  1 × RuntimeError: the weather",
        "      out/job0/log.txt",
        "run the failed ones again: nteleport again",
        "results: out",
        "repeat the command to continue with what is missing",
    ]


def test_the_first_failure_ends_the_run_on_request(config: Path) -> None:
    result = train(config, "--only", "*1000*", "--fail-fast")

    assert result.exit_code == 1
    assert "2 jobs: 1 failed, 1 not begun" in result.stdout


def test_jobs_are_chosen_by_state_and_name(config: Path) -> None:
    names = [name for state, name in listed(train(config, "--dry-run")) if state == "pending"]
    assert len(names) == 4

    train(config, "--only", "*run0*")

    assert listed(train(config, "--dry-run")) == [
        ("finished", names[0]), ("pending", names[1]), ("failed", names[2]), ("pending", names[3]),
    ]  # fmt: skip
    assert [name for _, name in listed(train(config, "--dry-run", "--only", "failed"))] == [names[2]]
    assert [name for _, name in listed(train(config, "--dry-run", "--only", "pending"))] == names[1::2]
    both = train(config, "--dry-run", "--only", f"{names[0]},failed")
    assert [name for _, name in listed(both)] == names[::2]


def test_choosing_no_job_is_reported(config: Path) -> None:
    assert train(config, "--only", "failed").stdout == "none of 4 jobs is failed\n"
    unknown = train(config, "--only", "faild")
    assert unknown.exit_code == 2
    assert "none of 4 jobs; expected a state (running, " in unknown.stderr
    assert not (config.parent / "out").exists()


def test_force_trains_again_what_is_over(config: Path) -> None:
    only = ("--only", "*8-sgd*")
    train(config, *only)
    before = {path: content for path in mtimes(config) if (content := path.read_bytes())}

    result = train(config, "--force", *only)

    assert result.exit_code == 0
    assert "2 jobs: 2 finished\n" in result.stdout
    for path in before:
        if path.name == "metrics.csv":
            rows = [
                content.splitlines()[1].rpartition(b",")[0] for content in (path.read_bytes(), before[path])
            ]
            assert rows[0] == rows[1]
    assert set(mtimes(config)) == set(before)


def test_a_dry_run_reads_a_folder_of_somebody_else(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert len(listed(train(config, "--dry-run"))) == 4
    assert "expected a writable folder" in train(config).stderr


def test_a_dry_run_needs_no_torch(config: Path) -> None:
    words = ["train", str(config), "--out", str(config.parent / "out"), "--dry-run"]
    program = "import sys; from nteleport.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}print('torch' in sys.modules)", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.endswith("4 jobs: 4 pending\nFalse\n")


def test_a_full_disk_is_reported_and_leaves_earlier_results_alone(config: Path) -> None:
    """The disk has room for files of up to 4 kB, so a checkpoint has none."""
    small = ("--only", "*hidden_layers-8-*")
    assert train(config, *small).exit_code == 0
    before = {path: path.read_bytes() for path in mtimes(config)}

    words = ["train", str(config), "--out", str(config.parent / "out"), "--device", "cpu", *small]
    done = subprocess.run(
        [sys.executable, "-m", "nteleport", *words, "--set", "training_params.epochs=3"],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )  # fmt: skip

    assert done.returncode == 1
    assert "2 jobs: 1 failed, 1 not begun" in done.stdout  # every other job would meet the same
    assert "1 × cannot write results: File too large" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert train(config, *small, "--set", "training_params.epochs=3").exit_code == 0  # now there is room


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ROW = MetricRow(0, 0.1, 1.0, 0.5, 0.9, 1.0, 0.4321, 0.9, 0, 1.0, 1.0, 2.0)


def screen(shown: str) -> list[str]:
    """The lines of a terminal after it was sent `shown`."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[A|[\r\n]|[^\r\n\x1b]+", shown):
        if piece == "\x1b[A":
            row -= 1
        elif piece == "\r":
            column = 0
        elif piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines]


def test_a_terminal_shows_a_line_for_each_slot_and_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    jobs = [small_job(epochs=4), small_job("optim", epochs=5), small_job("pseudo")]
    stream = Terminal()
    with progress_on(stream) as report:
        for event in (
            RunStarted(tuple(jobs)),
            JobEnded(jobs[2], JobPaths(Path("out"), "c"), "finished", skipped=True),
            JobStarted(jobs[0]),
            JobStarted(jobs[1]),
            Resumed(jobs[1], 3),
            EpochFinished(jobs[0], ROW),
            EpochFinished(jobs[1], ROW),
        ):
            report(event)
        for bar in tqdm._instances:  # type: ignore[attr-defined]
            bar.refresh()  # now, and not only when a tenth of a second is over
        total, *slots = screen(stream.getvalue())[-3:]

    assert total.startswith("jobs:")
    assert "1/3" in total
    for line, job, epoch in zip(slots, jobs, ("1/4", "4/5"), strict=False):
        assert job.name[:20] in line
        assert epoch in line
        assert "val_accuracy 0.432" in line
        assert "<" in line  # the time that is left


def test_lines_of_several_slots_share_a_count() -> None:
    stream, jobs = io.StringIO(), [small_job(), small_job("optim")]
    with progress_on(stream) as report:
        report(RunStarted(tuple(jobs)))
        for job in jobs:
            report(JobStarted(job))
        for job in jobs:
            report(JobEnded(job, JobPaths(Path("out"), job.name), "finished"))

    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["[1/2]", "[2/2]"]


@pytest.mark.parametrize("option", ["--out", "--data-dir"])
def test_a_name_that_is_too_long_is_one_short_error(option: str, config: Path) -> None:
    result = train(config, option, "a" * 5000, "--set", "datasets=mnist")
    assert result.exit_code == 2
    assert "File name too long" in result.stderr
    assert len(result.stderr) < 500
