"""A tuned experiment from end to end: phases, interruptions, kills, two commands, slots."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from support import ROOT
from support.training_jobs import STANDING_CLOCK, Events, run_options, stop_after

from nteleport.cli.app import nteleport
from nteleport.cli.collect import collect
from nteleport.cli.status import status
from nteleport.cli.unravel import unravel
from nteleport.experiment.experiment import Experiment, load_experiment
from nteleport.experiment.trials import recorded_plan
from nteleport.jobs.atomic import write_json_atomic
from nteleport.jobs.events import RunStarted
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import read_result
from nteleport.runner.phases import run_tuned

EXPERIMENT = {
    "datasets": "digits",
    "models": [{"cls": "mlp", "hidden_layers": [8]}],
    "optimizers": "SGD",
    "training_params": {"epochs": 1, "batch_size": 32, "max_batch": 4, "validation": 0.2},
    "teleportations": {"no_teleport": None, "teleport": {"mode": "random", "every_n_epochs": 0}},
    "tune": {
        "optimizer.lr": {"log_grid": [0.001, 0.01], "points": 2, "extend": True},
        "by": "val_accuracy",
        "runs": [0, 1],
    },
    "runs": [10, 11],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run without interruption, and its phases."""
    out = tmp_path_factory.mktemp("whole")
    path = out / "experiment.yml"
    path.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    events = Events()
    run_tuned(load_experiment(path), out, run_options(out), events, clock=STANDING_CLOCK)
    return out, [f"{event.what} {len(event.jobs)}" for event in events if isinstance(event, RunStarted)]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "tuning.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names(out: Path) -> list[str]:
    return sorted(path.parent.name for path in out.glob("*-run*/result.json"))


def command(*words: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nteleport", "train", "experiment.yml", "--out", "out", "--device", "cpu",
         *words],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_phases_tune_extend_and_report(whole: tuple[Path, list[str]]) -> None:
    """At so small rates 4 steps learn nothing, so the grid has to be extended upward."""
    out, phases = whole
    assert phases[0] == "tuning 8"
    assert phases[1].startswith("extension ")
    assert phases[-1] == "reported 4"
    rows = table(out)
    assert len(names(out / "tuning")) == 2 * len(rows)
    assert len(names(out)) == 4


def test_the_table_holds_the_scores_of_the_results_and_the_best_is_reported(
    whole: tuple[Path, list[str]],
) -> None:
    out, _ = whole
    results = {}
    for name in names(out / "tuning"):
        paths = JobPaths(out / "tuning", name)
        settings = yaml.safe_load(paths.hparams.read_text())
        key = (settings["teleport"], float(settings["optimizer.lr"]), settings["run"])
        results[key] = read_result(paths)["final"]["val_accuracy"]
    best: dict[str, float] = {}
    rows = table(out)
    for row in rows:
        scores = [results[row["teleport"], float(row["optimizer.lr"]), run] for run in (0, 1)]
        assert [float(row["run 0"]), float(row["run 1"])] == scores
        assert float(row["score"]) == pytest.approx(sum(scores) / 2)
        best[row["teleport"]] = max(best.get(row["teleport"], 0), float(row["score"]))
    chosen = {row["teleport"]: row for row in rows if row["chosen"] == "true"}
    assert {arm: float(row["score"]) for arm, row in chosen.items()} == best
    for name in names(out):
        settings = yaml.safe_load(JobPaths(out, name).hparams.read_text())
        assert settings["optimizer.lr"] == float(chosen[settings["teleport"]]["optimizer.lr"])
        assert settings["run"] in (10, 11)
        assert settings["training.validation"] == 0.2


def test_stopped_anywhere_and_continued_the_table_is_the_same(
    config: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    """Stopped every few batches, in every phase."""
    out = tmp_path / "out"
    experiment = load_experiment(config)
    interruptions = 0
    while run_tuned(
        experiment, out, run_options(out), Events(), stop_requested=stop_after(30), clock=STANDING_CLOCK
    ).interrupted:
        interruptions += 1
    assert interruptions > 2
    assert (out / "tuning.csv").read_bytes() == (whole[0] / "tuning.csv").read_bytes()
    assert names(out) == names(whole[0])
    assert names(out / "tuning") == names(whole[0] / "tuning")


def test_killed_and_continued_the_table_is_the_same(
    config: Path, tmp_path: Path, whole: tuple[Path, list[str]]
) -> None:
    out = tmp_path / "out"
    first = command(folder=tmp_path)
    while len(names(out / "tuning")) < 3:
        assert first.poll() is None
        time.sleep(0.005)
    first.kill()
    first.communicate()
    assert not names(out)
    second = CliRunner().invoke(nteleport, ["train", str(config), "--out", str(out), "--device", "cpu"])
    assert second.exit_code == 0, second.output
    assert (out / "tuning.csv").read_bytes() == (whole[0] / "tuning.csv").read_bytes()
    assert names(out) == names(whole[0])


@pytest.mark.parametrize("options", [(), pytest.param(("--jobs", "2"), marks=pytest.mark.slow)])
def test_two_commands_share_all_phases(
    config: Path, tmp_path: Path, whole: tuple[Path, list[str]], options: tuple[str, ...]
) -> None:
    both = [command(folder=tmp_path), command(*options, folder=tmp_path)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    out = tmp_path / "out"
    assert (out / "tuning.csv").read_bytes() == (whole[0] / "tuning.csv").read_bytes()
    assert names(out) == names(whole[0])
    logs = [*out.glob("*-run*/log.txt"), *out.glob("tuning/*-run*/log.txt")]
    starts = [len(re.findall(r"  (?:started|resumed) on ", log.read_text())) for log in logs]
    assert starts == [1] * (len(names(out)) + len(names(out / "tuning")))


def invoke(config: Path, *words: str) -> Result:
    out = config.parent / "out"
    return CliRunner().invoke(nteleport, ["train", str(config), "--out", str(out), "--device", "cpu", *words])


def make_results(experiment: Experiment, out: Path) -> list[str]:
    """Results of all tuning jobs that are planned, the best at a rate of 0.1; returns the new ones."""
    made = []
    for job in recorded_plan(experiment, out).tuning:
        paths = JobPaths(out / "tuning", job.name)
        if paths.result.exists():
            continue
        paths.directory.mkdir(parents=True, exist_ok=True)
        rate = job.optimizer.kwargs["lr"]
        accuracy = {0.001: 0.2, 0.01: 0.5, 0.1: 0.9}.get(rate, 0.1)
        content = {"state": "finished", "final": {"val_accuracy": accuracy}, "digest": job.digest}
        write_json_atomic(paths.result, content)
        made.append(job.name)
    return made


def test_a_failed_tuning_job_is_no_score_and_its_cell_waits(config: Path, tmp_path: Path) -> None:
    """One of its folders cannot be made; the other network is reported nevertheless."""
    out = tmp_path / "out"
    content = {**EXPERIMENT, "tune": {"optimizer.lr": [0.001, 0.01], "runs": [0]}}
    content["teleportations"] = {"no_teleport": None}
    content["models"] = [{"cls": "mlp", "hidden_layers": [size]} for size in (8, 9)]
    config.write_text(yaml.safe_dump(content))
    lost = JobPaths(out / "tuning", recorded_plan(load_experiment(config), out).tuning[2].name)
    lost.directory.parent.mkdir(parents=True)
    lost.directory.write_text("in the way")
    outcome = invoke(config)
    assert outcome.exit_code == 1
    assert "4 jobs tuning: 3 finished, 1 failed" in outcome.output
    assert "2 jobs to report: 2 finished" in outcome.output
    assert "chosen for 1 of 2 arms; 2 jobs to report wait for their tuning" in outcome.output
    assert all("hidden_layers-8" in name for name in names(out))
    assert [row["score"] == "" for row in table(out)] == [False, False, True, False]
    lost.directory.unlink()
    outcome = invoke(config)
    assert (outcome.exit_code, len(names(out))) == (0, 4)
    assert "chosen for 2 of 2 arms" in outcome.output


def test_the_listing_has_both_kinds_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    listed = invoke(config, "--dry-run")
    assert listed.exit_code == 0
    assert not (tmp_path / "out").exists()
    assert len(re.findall(r"^pending +tuning/digits-\S+-run[01]-", listed.output, re.M)) == 8
    assert "chosen for 0 of 2 arms; 4 jobs to report wait for their tuning" in listed.output
    out = tmp_path / "out"
    while make_results(load_experiment(config), out):
        pass
    listed = invoke(config, "--dry-run")
    assert len(re.findall(r"^finished +tuning/digits-", listed.output, re.M)) == 16
    assert len(re.findall(r"^pending +digits-\S+lr0\.1-\S+-run1[01]-", listed.output, re.M)) == 4
    assert "chosen for 2 of 2 arms" in listed.output
    outcome = CliRunner().invoke(unravel, [str(config), "--out", str(tmp_path / "files")])
    assert (outcome.exit_code, (tmp_path / "files").exists()) == (2, False)
    assert "experiment.yml:17:1: tune: the jobs to report follow from tuning" in outcome.output


def test_only_chooses_among_both_kinds(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    while make_results(load_experiment(config), out):
        pass
    outcome = invoke(config, "--only", "*no_teleport*")
    assert outcome.exit_code == 0, outcome.output
    assert "2 jobs to report: 2 finished" in outcome.output
    assert all("no_teleport" in name for name in names(out))
    refused = invoke(config, "--only", "*teleprot*")
    assert refused.exit_code == 2
    assert "--only *teleprot*: none of 20 jobs" in refused.output


def test_status_and_collect_tell_the_kinds_apart(whole: tuple[Path, list[str]]) -> None:
    out, _ = whole
    shown = CliRunner().invoke(status, [str(out)]).output
    tuning = len(names(out / "tuning"))
    assert f"{tuning + 4} jobs: {tuning + 4} finished" in shown
    assert f"{tuning} of them tuning: {tuning} finished" in shown
    rows = list(csv.DictReader(CliRunner().invoke(collect, [str(out)]).output.splitlines()))
    assert sorted({row["job"] for row in rows}) == names(out)
