"""Reading jobs back: whatever a job has written so far is read exactly, and nothing it has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.synthetic_results import (
    HEADER,
    TELEPORTED,
    learning_curve,
    make_job,
    matrix,
    metrics_text,
    sgd,
    write_job,
    write_jobs,
)

from nteleport.cli.collect import collect as collect_command
from nteleport.errors import ResultsError
from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.table import Results, collect, jobs_table, read_results


@pytest.fixture
def job() -> Job:
    return make_job(epochs=4)


def accuracies(results: Results) -> list[float]:
    return results.epochs["val_accuracy"].tolist()


def test_every_value_is_read_exactly_as_it_was_written(tmp_path: Path) -> None:
    jobs = matrix(runs=2, epochs=7)
    write_jobs(tmp_path, jobs)
    results = read_results(tmp_path)
    assert sorted(read.name for read in results.jobs) == sorted(job.name for job in jobs)
    for position, read in enumerate(results.jobs):
        written = learning_curve(next(job for job in jobs if job.name == read.name), 7)
        rows = results.epochs[results.epochs["job"] == position].drop(columns="job")
        assert rows.to_dict("records") == written


@pytest.mark.parametrize("state", ["finished", "diverged", "failed"])
def test_the_state_is_that_of_the_result(tmp_path: Path, job: Job, state: str) -> None:
    write_job(tmp_path, job, state=state)
    assert read_results(tmp_path).jobs[0].state == state


def test_a_job_without_a_result_is_unfinished(tmp_path: Path, job: Job) -> None:
    write_job(tmp_path, job, state=None, epochs=3)
    read = read_results(tmp_path).jobs[0]
    assert (read.state, read.epochs, read.problems) == ("unfinished", 3, ())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "dancing"}', '{"state": ["finished"]}'])
def test_a_damaged_result_leaves_the_job_unfinished_and_is_named(
    tmp_path: Path, job: Job, content: str
) -> None:
    write_job(tmp_path, job).result.write_text(content)
    read = read_results(tmp_path).jobs[0]
    assert read.state == "unfinished"
    assert "result.json" in read.problems[0]


@pytest.mark.parametrize("keep", range(1, 12))
def test_a_half_written_last_line_does_not_count(tmp_path: Path, job: Job, keep: int) -> None:
    """Even one with all its commas: `0.1` may be the beginning of `0.15`."""
    rows = learning_curve(job, 4)
    paths = write_job(tmp_path, job, rows, state=None)
    text = metrics_text(rows)
    paths.metrics.write_text(text[:-keep])
    results = read_results(tmp_path)
    assert accuracies(results) == [row["val_accuracy"] for row in rows[:3]]
    assert results.jobs[0].problems == ()


def test_the_last_line_of_an_ended_job_counts_without_its_line_end(tmp_path: Path, job: Job) -> None:
    paths = write_job(tmp_path, job)
    paths.metrics.write_text(paths.metrics.read_text().rstrip("\n"))
    assert read_results(tmp_path).jobs[0].epochs == 4


@pytest.mark.parametrize("damage", ["1,0.01", "1" + "," * 20, "\0" * 40, "\0," * 11 + "\0"])
def test_a_damaged_line_is_left_out_and_named(tmp_path: Path, job: Job, damage: str) -> None:
    paths = write_job(tmp_path, job)
    lines = paths.metrics.read_text().splitlines()
    lines[2] = damage
    paths.metrics.write_text("\n".join(lines) + "\n")
    results = read_results(tmp_path)
    assert results.epochs["epoch"].tolist() == [0, 2, 3]
    assert "damaged lines (1)" in results.jobs[0].problems[0]


@pytest.mark.parametrize("content", [None, "", HEADER, HEADER + "\n"])
def test_a_job_that_has_just_begun_has_no_epoch_and_no_problem(
    tmp_path: Path, job: Job, content: str | None
) -> None:
    paths = write_job(tmp_path, job, [], state=None)
    if content is not None:
        paths.metrics.write_text(content)
    read = read_results(tmp_path).jobs[0]
    assert (read.epochs, read.problems) == (0, ())


def test_metrics_without_epochs_are_named(tmp_path: Path, job: Job) -> None:
    write_job(tmp_path, job).metrics.write_text("loss,accuracy\n0.1,0.2\n")
    assert "no column 'epoch'" in read_results(tmp_path).jobs[0].problems[0]


def test_an_epoch_written_twice_counts_once_and_the_later_row_wins(tmp_path: Path, job: Job) -> None:
    rows = learning_curve(job, 4)
    again = {**rows[1], "val_accuracy": 0.5}
    write_job(tmp_path, job, [*rows[:3], again])
    assert accuracies(read_results(tmp_path)) == [rows[0]["val_accuracy"], 0.5, rows[2]["val_accuracy"]]


def test_files_with_other_columns_are_joined_with_missing_values(tmp_path: Path) -> None:
    first, second = matrix(runs=1, epochs=2)
    write_job(tmp_path, first)
    write_job(tmp_path, second).metrics.write_text("extra,epoch\n7,0\n8,1\n")
    results = read_results(tmp_path)
    position = [read.name for read in results.jobs].index(second.name)
    rows = results.epochs[results.epochs["job"] == position]
    assert rows["extra"].tolist() == [7, 8]
    assert rows["val_accuracy"].isna().all()
    assert results.epochs.loc[results.epochs["job"] != position, "extra"].isna().all()


def test_what_is_no_number_is_missing(tmp_path: Path, job: Job) -> None:
    paths = write_job(tmp_path, job, [])
    paths.metrics.write_text("epoch,val_loss,val_accuracy\n0,nan,oops\n1,inf,\n2,-0.5,1\nx,1,1\n")
    epochs = read_results(tmp_path).epochs
    assert epochs["epoch"].tolist() == [0, 1, 2]
    assert epochs["val_loss"].tolist()[1:] == [float("inf"), -0.5]
    assert epochs[["val_loss", "val_accuracy"]].isna().to_numpy().tolist() == [
        [True, True],
        [False, True],
        [False, False],
    ]


def test_a_finished_job_with_fewer_rows_than_it_trained_is_named(tmp_path: Path, job: Job) -> None:
    paths = write_job(tmp_path, job)
    paths.metrics.write_text("".join(paths.metrics.read_text().splitlines(keepends=True)[:3]))
    assert read_results(tmp_path).jobs[0].problems == ("metrics.csv holds 2 of 4 epochs",)


@pytest.mark.parametrize("content", [None, "", "a: [", "- 1\n", "{}"])
def test_a_job_without_readable_hyper_parameters_is_skipped_and_named(
    tmp_path: Path, job: Job, content: str | None
) -> None:
    good, bad = matrix(runs=1, epochs=2)
    write_job(tmp_path, good)
    paths = write_job(tmp_path, bad)
    paths.hparams.unlink() if content is None else paths.hparams.write_text(content)
    results = read_results(tmp_path)
    assert [read.name for read in results.jobs] == [good.name]
    assert results.skipped[0].startswith(f"{bad.name}: ")


def test_what_is_no_job_is_passed_over_in_silence(tmp_path: Path, job: Job) -> None:
    write_job(tmp_path, job)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "picture.csv").write_text("epoch\n1\n")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "hparams.yml").write_text("run: 1\n")
    results = read_results(tmp_path)
    assert ([read.name for read in results.jobs], results.skipped) == ([job.name], ())


def test_hyper_parameters_are_those_of_the_job(tmp_path: Path, job: Job) -> None:
    write_job(tmp_path, job)
    expected = {key: value for key, value in job.hparams().items() if value is not None}
    assert read_results(tmp_path).jobs[0].hparams == expected


def test_collect_has_one_row_an_epoch_with_hyper_parameters_as_columns(tmp_path: Path) -> None:
    jobs = matrix(optimizers=[sgd(), sgd(momentum=0.9)], runs=1, epochs=3)
    write_jobs(tmp_path, jobs)
    table = collect(tmp_path)
    assert len(table) == len(jobs) * 3
    for job in jobs:
        rows = table[table["job"] == job.name]
        assert rows["epoch"].tolist() == [0, 1, 2]
        assert set(rows["state"]) == {"finished"}
        assert set(rows["seed"]) == {job.seed}  # 63 bits: a float would not hold them
        assert set(rows["teleport.mode"]) == {job.teleportation.mode}
        assert rows["val_accuracy"].tolist() == [row["val_accuracy"] for row in learning_curve(job, 3)]
        assert rows["optimizer.momentum"].isna().all() == ("momentum" not in job.optimizer.kwargs)


def test_columns_keep_their_kind_when_some_jobs_lack_them(tmp_path: Path) -> None:
    write_job(tmp_path, make_job(epochs=1))
    write_job(tmp_path, make_job(epochs=1, teleportation=TELEPORTED))
    table = jobs_table(read_results(tmp_path))
    assert str(table["run"].dtype) == "int64"
    assert str(table["teleport.every_n_epochs"].dtype) == "Int64"
    assert str(table["teleport.teleport_only_once"].dtype) == "boolean"
    assert str(table["training.shuffle_batches"].dtype) == "bool"
    assert str(table["teleport.cob_range"].dtype) == "float64"


def test_collect_leaves_out_jobs_without_an_epoch(tmp_path: Path) -> None:
    begun, done = matrix(runs=1, epochs=2)
    write_job(tmp_path, begun, [], state=None)
    write_job(tmp_path, done)
    assert set(collect(tmp_path)["job"]) == {done.name}


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no folder .*nowhere"):
        read_results(tmp_path / "nowhere")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="is a file"):
        read_results(tmp_path / "file")


def test_a_folder_without_jobs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no jobs in"):
        read_results(tmp_path)


def test_a_folder_with_unreadable_jobs_only_says_why(tmp_path: Path, job: Job) -> None:
    write_job(tmp_path, job).hparams.unlink()
    with pytest.raises(ResultsError, match=r"no readable job.*no hparams\.yml"):
        read_results(tmp_path)


def test_a_job_folder_that_vanishes_while_reading_is_no_error(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_job(tmp_path, job)
    gone = make_job(epochs=4, run=1)
    paths = write_job(tmp_path, gone)
    read_bytes = Path.read_bytes

    def vanish(path: Path) -> bytes:
        if path.parent == paths.directory:
            raise FileNotFoundError(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", vanish)
    results = read_results(tmp_path)
    assert [read.name for read in results.jobs] == [job.name]


def test_reading_results_does_not_import_torch(tmp_path: Path, job: Job) -> None:
    write_job(tmp_path, job)
    program = (
        "import sys; from nteleport.jobs.table import collect; collect(sys.argv[1]); "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 0


def test_job_paths_are_where_results_are_read(tmp_path: Path, job: Job) -> None:
    """The reader finds a job by the files that the runner writes, whichever comes first."""
    paths = JobPaths(tmp_path, job.name)
    for path in (paths.config, paths.hparams, paths.metrics, paths.result):
        paths.directory.mkdir()
        path.write_text("")
        with pytest.raises(ResultsError, match="no readable job"):
            read_results(tmp_path)
        path.unlink()
        paths.directory.rmdir()


def test_the_command_collect_reports_what_is_damaged_and_what_is_left_out(tmp_path: Path) -> None:
    whole, cut, unreadable = matrix(runs=3, epochs=2)[:3]
    write_job(tmp_path, whole)
    metrics = write_job(tmp_path, cut).metrics
    metrics.write_text(metrics.read_text()[:-30])
    write_job(tmp_path, unreadable).hparams.write_text("a: [b")

    ended = CliRunner().invoke(collect_command, [str(tmp_path), "--out", str(tmp_path / "all.csv")])

    assert (ended.exit_code, ended.stdout) == (0, f"{tmp_path / 'all.csv'}: 3 epochs of 2 jobs\n")
    assert sorted(ended.stderr.splitlines()) == [
        f"warning: {cut.name}: metrics.csv has damaged lines (1), left out, metrics.csv holds 1 of 2 epochs",
        f"warning: left out {unreadable.name}: hparams.yml is not YAML",
    ]


def test_a_table_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    write_job(tmp_path, make_job(epochs=1))
    ended = CliRunner().invoke(collect_command, [str(tmp_path), "--out", str(tmp_path / "none" / "all.csv")])
    assert ended.exit_code == 2
    assert "directory" in ended.stderr
