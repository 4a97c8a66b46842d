"""Trackers: what they receive, and that their failures stay theirs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.tracked_runs import JOB, ROWS, play
from support.training_jobs import STANDING_CLOCK, Events, run_options

from nteleport.cli.train import train
from nteleport.errors import MissingExtraError, UnknownNameError
from nteleport.jobs.events import EpochFinished, JobEnded, JobStarted, ignore
from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.runner.run import run
from nteleport.trackers.reporting import Tracking
from nteleport.trackers.tracker import TRACKER_NAMES, Row, load_trackers, summary_of


class Diary:
    """A tracker, and the maker of itself, that writes down its calls; it fails in the methods `fails_in`."""

    def __init__(self, *fails_in: str) -> None:
        self.fails_in, self.calls = fails_in, list[Any]()

    def __call__(self) -> Diary:
        return self

    def start(self, job: Job, out: Path, earlier: Sequence[Row]) -> None:
        self._note("start", job.name, [row["epoch"] for row in earlier])

    def log(self, row: Row) -> None:
        self._note("log", row["epoch"])

    def finish(self, state: str, summary: Mapping[str, float]) -> None:
        self._note("finish", state, dict(summary))

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.fails_in:
            raise ConnectionError(f"no route to the service, in {name}")


def test_a_tracker_receives_all_events_of_a_job_and_so_does_the_report_it_wraps(
    tmp_path: Path,
) -> None:
    diary = Diary()
    events = play(tmp_path, {"diary": diary})
    summary = {
        "epochs": 4, "best.epoch": 3, "best.val_accuracy": 0.375, "test.accuracy": 0.5, "seconds": 0.0
    }  # fmt: skip
    logged = [("log", epoch) for epoch in range(4)]
    assert diary.calls == [("start", JOB.name, []), *logged, ("finish", "finished", summary)]
    assert events.words == ["1 jobs", "start", *[f"epoch {epoch}" for epoch in range(4)], "finished"]


def test_a_resumed_job_starts_with_its_completed_rows(tmp_path: Path) -> None:
    diary = Diary()
    play(tmp_path, {"diary": diary}, earlier=3)
    assert diary.calls[:2] == [("start", JOB.name, [0.0, 1.0, 2.0]), ("log", 3)]


def test_a_job_whose_checkpoint_was_damaged_starts_anew(tmp_path: Path) -> None:
    diary, paths = Diary(), JobPaths(tmp_path, JOB.name)
    paths.directory.mkdir()
    paths.checkpoint.touch()
    reporter = Tracking(Events(), {"diary": diary}, tmp_path)
    reporter(JobStarted(JOB))
    reporter(EpochFinished(JOB, ROWS[0]))
    assert diary.calls == [("start", JOB.name, []), ("log", 0)]


def test_a_job_that_was_over_before_is_not_tracked(tmp_path: Path) -> None:
    diary = Diary()
    reporter = Tracking(Events(), {"diary": diary}, tmp_path)
    reporter(JobEnded(JOB, JobPaths(tmp_path, JOB.name), "finished", skipped=True))
    assert diary.calls == []


def test_a_job_that_fails_at_once_is_shown_as_failed(tmp_path: Path) -> None:
    diary, paths = Diary(), JobPaths(tmp_path, JOB.name)
    reporter = Tracking(Events(), {"diary": diary}, tmp_path)
    reporter(JobStarted(JOB))
    reporter(JobEnded(JOB, paths, "failed", error="no such device"))
    assert diary.calls == [("start", JOB.name, []), ("finish", "failed", {})]


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_warns_once_and_leaves_the_others_alone(tmp_path: Path, method: str) -> None:
    good, bad = Diary(), Diary(method)
    events = play(tmp_path, {"bad": bad, "good": good})
    reason = f"ConnectionError: no route to the service, in {method}"
    assert events.warnings == [f"the tracker bad failed, training continues without it: {reason}"]
    assert [call[0] for call in good.calls] == ["start", *["log"] * 4, "finish"]
    assert [call[0] for call in bad.calls].count(method) == 1


def test_training_continues_to_the_same_result_with_a_tracker_that_fails(tmp_path: Path) -> None:
    """Two jobs through the real loop, with and without."""
    jobs, metrics = [JOB, replace(JOB, run=1)], []
    for name, trackers in {"without": {}, "with": {"bad": Diary("log")}}.items():
        out = tmp_path / name
        outcomes = run(jobs, out, run_options(out), Tracking(ignore, trackers, out), clock=STANDING_CLOCK)
        assert [outcome.state for outcome in outcomes] == ["finished", "finished"]
        metrics.append([outcome.paths.metrics.read_text() for outcome in outcomes])
    assert metrics[0] == metrics[1]


def test_a_tracker_that_failed_three_jobs_in_a_row_is_not_tried_again(tmp_path: Path) -> None:
    bad, reporter_events = Diary("start"), Events()
    reporter = Tracking(reporter_events, {"bad": bad}, tmp_path)
    for number in range(5):
        job = replace(JOB, run=number)
        reporter(JobStarted(job))
        reporter(JobEnded(job, JobPaths(tmp_path, job.name), "failed"))
    assert len(bad.calls) == 3
    assert len(reporter_events.warnings) == 1


def test_an_unknown_tracker_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tensorboard'"):
        load_trackers(["tensorbord"])


@pytest.mark.parametrize("name", TRACKER_NAMES)
def test_a_tracker_that_is_not_installed_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"comet": "comet_ml"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"{name} needs the package {package}.*nteleport\[tracking\]"
    ):
        load_trackers([name])


def test_train_refuses_a_tracker_it_does_not_know_before_anything_is_written(tmp_path: Path) -> None:
    config = tmp_path / "experiment.yml"
    config.write_text("{datasets: [digits], models: [mlp], optimizers: [{cls: SGD, lr: 0.1}]}")
    outcome = CliRunner().invoke(train, [str(config), "--out", str(tmp_path / "out"), "--tracker", "wandbb"])
    assert outcome.exit_code == 2
    assert "did you mean 'wandb'" in outcome.output
    assert not (tmp_path / "out").exists()


def test_the_summary_is_the_numbers_of_the_result_without_its_last_row() -> None:
    result = {"state": "diverged", "epochs": 2, "final": {"lr": 1.0}, "best": None, "test": {"loss": 2.0}}
    assert summary_of(result) == {"epochs": 2, "test.loss": 2.0}
