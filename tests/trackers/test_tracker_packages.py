"""Each tracker with its real package, without a network: what is in its files afterwards.

They are read back by the packages' own readers, where there are any.
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
from support import ROOT
from support.tracked_runs import JOB, ROWS, play
from support.training_jobs import Events

from nteleport.trackers.tracker import TRACKER_NAMES, Tracker, load_trackers


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account, no key, no telemetry: whatever the machine has configured."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "COMET_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    switches = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "1", "WANDB_ERROR_REPORTING": "false"}
    for name, value in {**switches, "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)


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
        "import sys; from trackers.test_tracker_packages import *;"
        "job = replace(JOB, run=int(sys.argv[2]));"
        "sys.exit(len(play(Path(sys.argv[1]), load_trackers(['mlflow']), job=job).warnings))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    together = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(run)], env=environment)
        for run in range(3)
    ]
    assert [process.wait(timeout=120) for process in together] == [0] * 3
    assert sorted(path.name for path in tmp_path.glob("*mlflow.db*")) == ["mlflow.db"]
