"""`nteleport status` and `collect` tell what the files of a folder hold."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from support.synthetic_results import learning_curve, make_job, matrix, write_job, write_jobs

from nteleport.cli.collect import collect
from nteleport.cli.status import status
from nteleport.errors import ResultsError
from nteleport.jobs.lease import SILENCE, leased
from nteleport.jobs.owner import Owner
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.state import duration, read_status, summarize

EPOCHS = 8


def begun(out: Path, run: int, epochs: int) -> JobPaths:
    """A job that was begun: it has a log, some epochs and no result."""
    paths = write_job(out, make_job(run=run, epochs=EPOCHS), state=None, epochs=epochs)
    paths.log.touch()
    return paths


def killed_elsewhere(paths: JobPaths) -> None:
    """A lease of another machine that has been silent for too long."""
    paths.lease.mkdir()
    file = paths.lease / replace(Owner.myself(), host="node7", pid=41).file_name
    file.touch()
    silent_since = time.time() - 2 * SILENCE
    os.utime(file, (silent_since, silent_since))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """One job in every state; the sixth trains in this process."""
    write_job(tmp_path, make_job(run=0, epochs=EPOCHS))
    write_job(tmp_path, make_job(run=1, epochs=EPOCHS), state="diverged", epochs=2)
    failed = write_job(tmp_path, make_job(run=2, epochs=EPOCHS), rows=[], state="failed")
    failed.result.write_text(json.dumps({"state": "failed", "error": "out of memory: 3 GiB"}))
    write_job(tmp_path, make_job(run=3, epochs=EPOCHS), rows=[], state=None)
    begun(tmp_path, 4, 3)
    begun(tmp_path, 5, 6)
    killed_elsewhere(begun(tmp_path, 6, 1))
    return tmp_path


def running(out: Path) -> JobPaths:
    return JobPaths(out, make_job(run=5, epochs=EPOCHS).name)


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])  # type: ignore[arg-type]


def test_every_state_is_distinguished(out: Path) -> None:
    with leased(running(out)):
        found = {status.job.split("-run")[1][0]: status for status in read_status(out)}
    assert {run: status.state for run, status in found.items()} == {
        "0": "finished",
        "1": "diverged",
        "2": "failed",
        "3": "pending",
        "4": "unfinished",
        "5": "running",
        "6": "stale",
    }
    assert {run: (status.epochs, status.of_epochs) for run, status in found.items()} == {
        "0": (8, 8),
        "1": (2, 8),
        "2": (0, 8),
        "3": (0, 8),
        "4": (3, 8),
        "5": (6, 8),
        "6": (1, 8),
    }
    assert found["6"].owner == "node7:41"
    assert found["2"].error == "out of memory: 3 GiB"
    expected = learning_curve(make_job(run=4, epochs=EPOCHS), EPOCHS)[2]["val_accuracy"]
    assert found["4"].val_accuracy == expected


def test_the_time_left_follows_from_the_last_epochs(out: Path) -> None:
    with leased(running(out)):
        found = read_status(out)
        (going,) = [status for status in found if status.state == "running"]
        assert going.eta_seconds == pytest.approx(2 * 0.25)  # two epochs of a quarter of a second are left
        # unfinished 5, running 2, stale 7 epochs of 0.25 s; pending and failed 8 each at the mean pace
        trained = sum(status.epochs for status in found)
        pace = sum(status.seconds for status in found) / trained
        assert summarize(found).eta_seconds == pytest.approx(14 * 0.25 + 16 * pace)


def test_nothing_runs_and_nothing_is_promised(out: Path) -> None:
    assert summarize(read_status(out)).eta_seconds is None


def test_a_half_written_row_does_not_count(out: Path) -> None:
    metrics = running(out).metrics
    metrics.write_text(metrics.read_text()[:-60])
    (found,) = [status for status in read_status(out) if status.job == running(out).name]
    assert found.epochs == 5


def test_text_shows_what_asks_for_attention(out: Path) -> None:
    with leased(running(out)):
        lines = run(status, out).stdout.splitlines()
    assert lines[0].startswith(
        "7 jobs: 1 running, 1 stale, 1 unfinished, 1 pending, 1 failed, 1 diverged, 1 finished; all over in"
    )
    assert [line.split()[0] for line in lines[1:]] == ["running", "stale", "unfinished", "failed", "diverged"]
    assert lines[2].endswith("node7:41 is gone")
    assert lines[4].endswith("out of memory: 3 GiB")


def test_json_and_csv_hold_every_job(out: Path) -> None:
    content = json.loads(run(status, out, "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(run(status, out, "--csv").stdout)))
    assert content["summary"]["states"]["finished"] == 1
    assert [row["job"] for row in rows] == [each["job"] for each in content["jobs"]]
    assert len(rows) == 7
    assert rows[0].keys() == content["jobs"][0].keys()


def test_watch_ends_when_nothing_runs(out: Path) -> None:
    assert run(status, out, "--watch").stdout.count("7 jobs") == 1


@pytest.mark.parametrize("arguments", [("--json", "--csv"), ("--json", "--watch")])
def test_options_that_exclude_each_other(out: Path, arguments: tuple[str, ...]) -> None:
    assert run(status, out, *arguments).exit_code == 2


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_a_folder_without_jobs_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=r"expected the output folder of `nteleport train`"):
        read_status(tmp_path / name)
    assert run(status, tmp_path / name).exit_code == 2


def test_status_imports_neither_torch_nor_pandas(out: Path) -> None:
    code = (
        "import sys; from nteleport.cli import main\n"
        "try: main(['status', sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (89, "89 s"), (120, "2 min"), (7500, "2 h 05 min"), (3 * 86400 + 4 * 3600, "3 d 4 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class TestCollect:
    def test_a_file_holds_a_row_for_each_epoch(self, tmp_path: Path) -> None:
        jobs = matrix(runs=2, epochs=3)
        write_jobs(tmp_path / "out", jobs)
        result = run(collect, tmp_path / "out", "--out", tmp_path / "all.csv")
        table = pd.read_csv(tmp_path / "all.csv")
        assert result.stdout.strip() == f"{tmp_path / 'all.csv'}: 12 epochs of 4 jobs"
        assert set(table["job"]) == {each.name for each in jobs}
        for each in jobs:
            rows = table[table["job"] == each.name]
            expected = [row["val_accuracy"] for row in learning_curve(each, 3)]
            assert rows["val_accuracy"].tolist() == pytest.approx(expected)
            assert set(rows["teleport.mode"]) == {each.teleportation.mode}

    def test_standard_output_is_the_same_table(self, out: Path, tmp_path: Path) -> None:
        run(collect, out, "--out", tmp_path / "all.csv")
        assert run(collect, out).stdout == (tmp_path / "all.csv").read_text()

    @pytest.mark.parametrize(
        ("file", "says"), [("all.xlsx", ".csv or .parquet"), ("no/folder.csv", "cannot write")]
    )
    def test_a_file_that_cannot_be_written_is_refused(self, out: Path, file: str, says: str) -> None:
        result = run(collect, out, "--out", out / file)
        assert result.exit_code == 2
        assert says in result.stderr
        assert not (out / file).exists()

    def test_parquet_needs_pyarrow_and_says_so(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nteleport.cli.collect.find_spec", lambda name: None)
        result = run(collect, out, "--out", out / "all.parquet")
        assert result.exit_code == 2
        assert "pip install pyarrow" in result.stderr
