"""Trackers: what they are told, that their failures stay theirs, and what each real package has afterwards.

The packages are read back by their own readers where they have one, from the files that they write without a
network.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nteleport.cli.train import train
from nteleport.errors import MissingExtraError, UnknownNameError
from nteleport.runner.local import JobOutcome, run_jobs
from nteleport.runner.paths import JobPaths
from nteleport.trackers.reporting import TrackingReporter
from nteleport.trackers.tracker import TRACKER_NAMES, Row, Tracker, load_trackers, summary_of
from nteleport.training.job import Job
from nteleport.training.records import MetricRow, metrics_csv, write_result
from nteleport.training.records import TrainingResult as Result
from tests.training_jobs import CPU, STANDING_CLOCK, small_job

JOB = small_job(epochs=4)
ROWS = [
    MetricRow(
        epoch=epoch, lr=0.0625,
        train_loss=2.0 - epoch / 4, train_accuracy=epoch / 4, train_accuracy_top5=0.875,
        val_loss=2.5 - epoch / 4, val_accuracy=epoch / 8, val_accuracy_top5=0.75, teleported=0, grad_norm=1.5,
        weight_norm=3.0, seconds=0.0,
    )
    for epoch in range(4)
]  # fmt: skip
"""Numbers that 32-bit floats hold exactly, for TensorBoard keeps no more."""


class Events(list[Any]):
    """A `RunReporter` that keeps what it hears."""

    def run_started(self, jobs: Sequence[Job]) -> None:
        self.append(("run", len(jobs)))

    def job_started(self, job: Job) -> None:
        self.append(("job", job.name))

    def resumed(self, epochs: int) -> None:
        self.append(("resumed", epochs))

    def epoch_finished(self, row: MetricRow) -> None:
        self.append(("epoch", row.epoch))

    def warning(self, text: str) -> None:
        self.append(("warning", text))

    def job_ended(self, outcome: JobOutcome) -> None:
        self.append(("ended", outcome.state))

    @property
    def warnings(self) -> list[str]:
        return [text for kind, text in self if kind == "warning"]


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


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account, no key, no telemetry: whatever the machine has configured."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "COMET_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    switches = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "1", "WANDB_ERROR_REPORTING": "false"}
    for name, value in {**switches, "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)


def play(
    out: Path,
    trackers: Mapping[str, Any],
    *,
    job: Job = JOB,
    rows: Sequence[MetricRow] = ROWS,
    earlier: int = 0,
    state: str = "finished",
) -> Events:
    """Report `rows` of a job from number `earlier` on, leaving the files that a training leaves."""
    events, paths = Events(), JobPaths(out, job.name)
    paths.directory.mkdir(parents=True, exist_ok=True)
    if earlier:
        paths.checkpoint.touch()
        paths.metrics.write_text(metrics_csv(rows[:earlier]))
    reporter = TrackingReporter(events, trackers, out)
    reporter.run_started([job])
    reporter.job_started(job)
    if earlier:
        reporter.resumed(earlier)
    for row in rows[earlier:]:
        reporter.epoch_finished(row)
    if state != "stopped":
        write_result(paths, Result(state, tuple(rows), {"accuracy": 0.5}))
    reporter.job_ended(JobOutcome(job, paths, state))
    return events


def test_a_tracker_hears_a_job_from_start_to_finish_and_so_does_the_reporter_behind(
    tmp_path: Path,
) -> None:
    diary = Diary()
    events = play(tmp_path, {"diary": diary})
    summary = {
        "epochs": 4, "best.epoch": 3, "best.val_accuracy": 0.375, "test.accuracy": 0.5, "seconds": 0.0
    }  # fmt: skip
    logged = [("log", epoch) for epoch in range(4)]
    assert diary.calls == [("start", JOB.name, []), *logged, ("finish", "finished", summary)]
    heard = [("epoch", epoch) for epoch in range(4)]
    assert events == [("run", 1), ("job", JOB.name), *heard, ("ended", "finished")]


def test_a_resumed_job_starts_with_the_rows_behind_it(tmp_path: Path) -> None:
    diary = Diary()
    play(tmp_path, {"diary": diary}, earlier=3)
    assert diary.calls[:2] == [("start", JOB.name, [0.0, 1.0, 2.0]), ("log", 3)]


def test_a_job_whose_checkpoint_was_damaged_starts_anew(tmp_path: Path) -> None:
    diary, paths = Diary(), JobPaths(tmp_path, JOB.name)
    paths.directory.mkdir()
    paths.checkpoint.touch()
    reporter = TrackingReporter(Events(), {"diary": diary}, tmp_path)
    reporter.job_started(JOB)
    reporter.epoch_finished(ROWS[0])
    assert diary.calls == [("start", JOB.name, []), ("log", 0)]


def test_a_job_that_was_over_before_is_not_tracked(tmp_path: Path) -> None:
    diary = Diary()
    reporter = TrackingReporter(Events(), {"diary": diary}, tmp_path)
    reporter.job_ended(JobOutcome(JOB, JobPaths(tmp_path, JOB.name), "finished", skipped=True))
    assert diary.calls == []


def test_a_job_that_fails_at_once_is_shown_as_failed(tmp_path: Path) -> None:
    diary, paths = Diary(), JobPaths(tmp_path, JOB.name)
    reporter = TrackingReporter(Events(), {"diary": diary}, tmp_path)
    reporter.job_started(JOB)
    reporter.job_ended(JobOutcome(JOB, paths, "failed", error="no such device"))
    assert diary.calls == [("start", JOB.name, []), ("finish", "failed", {})]


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_warns_once_and_leaves_the_others_alone(tmp_path: Path, method: str) -> None:
    good, bad = Diary(), Diary(method)
    events = play(tmp_path, {"bad": bad, "good": good})
    reason = f"ConnectionError: no route to the service, in {method}"
    assert events.warnings == [f"the tracker bad failed, training goes on without it: {reason}"]
    assert [call[0] for call in good.calls] == ["start", *["log"] * 4, "finish"]
    assert [call[0] for call in bad.calls].count(method) == 1


def test_training_goes_on_to_the_same_result_with_a_tracker_that_fails(tmp_path: Path) -> None:
    """Two jobs through the real loop, with and without."""
    jobs, metrics = [JOB, replace(JOB, run=1)], []
    for name, trackers in {"without": {}, "with": {"bad": Diary("log")}}.items():
        out = tmp_path / name
        report = TrackingReporter(Events(), trackers, out)
        outcomes = run_jobs(jobs, out, data_dir=out, device=CPU, report=report, clock=STANDING_CLOCK)
        assert [outcome.state for outcome in outcomes] == ["finished", "finished"]
        metrics.append([outcome.paths.metrics.read_text() for outcome in outcomes])
    assert metrics[0] == metrics[1]


def test_a_tracker_that_failed_three_jobs_in_a_row_is_not_tried_again(tmp_path: Path) -> None:
    bad, reporter_events = Diary("start"), Events()
    reporter = TrackingReporter(reporter_events, {"bad": bad}, tmp_path)
    for run in range(5):
        job = replace(JOB, run=run)
        reporter.job_started(job)
        reporter.job_ended(JobOutcome(job, JobPaths(tmp_path, job.name), "failed"))
    assert len(bad.calls) == 3
    assert len(reporter_events.warnings) == 1


def test_an_unknown_tracker_is_told_the_nearest() -> None:
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


def interrupted_and_resumed(out: Path, name: str, *, pause: float = 0.0) -> Events:
    """A job of four epochs that was stopped after two, in the real tracker called `name`."""
    trackers = load_trackers([name])
    events = play(out, trackers, rows=ROWS[:2], state="stopped")
    time.sleep(pause)
    events += play(out, trackers, earlier=2)
    return events


def rows_by_epoch(histories: Mapping[str, Sequence[tuple[int, float]]]) -> list[dict[str, float]]:
    """Rows from the (epoch, value) pairs of each metric; an epoch that is there twice is an error."""
    rows: dict[int, dict[str, float]] = {}
    for metric, points in histories.items():
        for epoch, value in points:
            row = rows.setdefault(epoch, {"epoch": epoch})
            assert metric not in row, f"{metric} of epoch {epoch} is there twice"
            row[metric] = value
    return [rows[epoch] for epoch in sorted(rows)]


EXPECTED = [asdict(row) for row in ROWS]


def test_tensorboard_shows_each_epoch_of_an_interrupted_job_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    assert interrupted_and_resumed(tmp_path, "tensorboard").warnings == []
    reader = EventAccumulator(str(tmp_path / "tensorboard" / JOB.name))
    reader.Reload()
    tags = reader.Tags()["scalars"]
    histories = {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags}
    summary = {tag: histories.pop(tag) for tag in tags if tag.startswith("summary/")}
    assert rows_by_epoch(histories) == EXPECTED
    assert summary["summary/test.accuracy"] == [(0, 0.5)]
    (content,) = reader.PluginTagToContent("hparams").values()
    known = HParamsPluginData.FromString(content).session_start_info.hparams
    assert known["optimizer.momentum"].number_value == 0.9
    assert known["model"].string_value == "mlp hidden_layers=[16, 12]"


def test_tensorboard_forgets_the_first_training_of_a_job_that_is_trained_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = load_trackers(["tensorboard"])
    play(tmp_path, trackers)
    play(tmp_path, trackers, rows=[replace(row, train_loss=9.0) for row in ROWS[:2]])
    reader = EventAccumulator(str(tmp_path / "tensorboard" / JOB.name))
    reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("train_loss")] == [(0, 9.0), (1, 9.0)]


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: the log format of LevelDB in blocks of 32 KiB, after seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, content = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):  # being written
            return
        content += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(content)
            content = b""


def test_wandb_writes_each_epoch_of_an_interrupted_job_and_its_end(tmp_path: Path) -> None:
    """Offline, a resumed job is a second folder with the same run, which `wandb sync` sends to one place."""
    pytest.importorskip("wandb")
    events = interrupted_and_resumed(tmp_path, "wandb", pause=1.1)  # it names folders by the second
    assert events.warnings == []
    latest = max(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    deadline = time.monotonic() + 60
    while not any(record.HasField("exit") for record in wandb_records(latest)):  # it writes a while later
        assert time.monotonic() < deadline
        time.sleep(0.1)
    rows: list[dict[str, Any]] = []
    runs: list[Any] = []
    summary: dict[str, Any] = {}
    for record in wandb_records(latest):
        if record.HasField("run"):
            runs.append(record.run)
        if record.HasField("history"):
            items = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows.append({"epoch": items["_step"], **{k: v for k, v in items.items() if k[0] != "_"}})
        if record.HasField("summary"):
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
    assert rows == EXPECTED
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert (runs[0].run_id, runs[0].display_name, runs[0].project) == (JOB.digest[:32], JOB.name, "nteleport")
    assert config["optimizer.momentum"] == 0.9
    assert (summary["state"], summary["test.accuracy"]) == ("finished", 0.5)


def test_comet_archives_each_epoch_of_an_interrupted_job_and_its_end(tmp_path: Path) -> None:
    """Offline, a resumed job is a second archive for the same experiment, with all of its epochs."""
    pytest.importorskip("comet_ml")
    assert interrupted_and_resumed(tmp_path, "comet").warnings == []
    latest = max(tmp_path.glob("comet/*.zip"), key=lambda path: path.stat().st_mtime_ns)
    with zipfile.ZipFile(latest) as archive:
        experiment = json.loads(archive.read("experiment.json"))
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
    assert experiment["offline_id"] == JOB.digest[:48]
    payloads = {
        kind: [message["payload"] for message in messages if message["type"] == kind]
        for kind in ("metric_msg", "parameter_msg", "log_other")
    }
    histories: dict[str, list[tuple[int, float]]] = {}
    for metric in (payload["metric"] for payload in payloads["metric_msg"]):
        histories.setdefault(metric["metricName"], []).append((metric["step"], metric["metricValue"]))
    histories.pop("process duration", None)  # Comet's own
    assert rows_by_epoch(histories) == EXPECTED
    parameters = {
        each["param"]["paramName"]: each["param"]["paramValue"]
        for each in payloads["parameter_msg"]
        if "param" in each
    }
    assert parameters["optimizer.momentum"] == 0.9
    others = {payload["key"]: payload["value"] for payload in payloads["log_other"]}
    assert (others["Name"], others["state"], others["test.accuracy"]) == (JOB.name, "finished", 0.5)


@pytest.mark.slow
def test_mlflow_shows_each_epoch_of_an_interrupted_job_once(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    assert interrupted_and_resumed(tmp_path, "mlflow").warnings == []
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("nteleport")
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = {key for key in EXPECTED[0] if key != "epoch"}
    histories = {
        key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        for key in metrics - {"seconds"}  # in the summary, too, by that name
    }
    expected = [{key: value for key, value in row.items() if key != "seconds"} for row in EXPECTED]
    assert rows_by_epoch(histories) == expected
    assert (run.info.run_name, run.info.status, run.data.tags["state"]) == (JOB.name, "FINISHED", "finished")
    assert run.data.params["optimizer.momentum"] == "0.9"
    assert run.data.metrics["test.accuracy"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKER_NAMES)
def test_a_job_that_diverges_is_tracked_like_any_other(tmp_path: Path, name: str) -> None:
    pytest.importorskip({"comet": "comet_ml"}.get(name, name))
    rows = [ROWS[0], replace(ROWS[1], train_loss=float("nan"), val_loss=float("inf"))]
    tracker: Mapping[str, type[Tracker]] = load_trackers([name])
    assert play(tmp_path, tracker, rows=rows, state="diverged").warnings == []


@pytest.mark.slow
def test_mlflow_lays_out_its_database_once_when_processes_start_together(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    program = (
        "import sys; from tests.test_trackers import *;"
        "job = replace(JOB, run=int(sys.argv[2]));"
        "sys.exit(len(play(Path(sys.argv[1]), load_trackers(['mlflow']), job=job).warnings))"
    )
    root = Path(__file__).parent.parent
    together = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(run)], cwd=root)
        for run in range(3)
    ]
    assert [process.wait(timeout=120) for process in together] == [0] * 3
    assert sorted(path.name for path in tmp_path.glob("*mlflow.db*")) == ["mlflow.db"]
