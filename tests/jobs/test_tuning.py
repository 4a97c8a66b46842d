"""The table of tuning: written, read back, shared by experiments, damaged; scores and good ranges."""

from __future__ import annotations

import contextlib
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.synthetic_results import matrix, write_jobs
from support.training_jobs import small_job

from nteleport.errors import NTeleportError, ResultsError
from nteleport.jobs.folders import job_names
from nteleport.jobs.job import Component, Job
from nteleport.jobs.state import read_status
from nteleport.jobs.table import collect, read_results
from nteleport.jobs.tuning import (
    ARM,
    TuningRow,
    arm_of,
    good_range,
    read_tuning,
    run_columns,
    score_of,
    training_of,
    tuned_keys,
    write_tuning,
)

BASELINE = replace(small_job(validation=0.2), optimizer=Component("SGD", {"momentum": 0.9}))
TELEPORTED = replace(small_job("random", validation=0.2), optimizer=BASELINE.optimizer)


def row(job: Job, rate: float, scores: dict[int, float | None], chosen: bool = False) -> TuningRow:
    point = {"optimizer.lr": rate, "optimizer.nesterov": True}
    return TuningRow(arm_of(job), point, 0, scores, "val_accuracy", chosen)


ROWS = [
    row(BASELINE, 0.1, {0: 0.5, 1: 0.75}, chosen=True),
    row(BASELINE, 1.0, {0: 0.1, 1: None}),
    row(TELEPORTED, 0.1, {0: 1 / 3, 1: 0.9}),
]


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    write_tuning(tmp_path, ROWS)
    with (tmp_path / "tuning.csv").open(newline="") as file:
        header, first, second, third = csv.reader(file)
    assert header == [
        "dataset", "model", "initializer", "optimizer", "lr_scheduler", "teleport", "training",
        "optimizer.lr", "optimizer.nesterov", "round", "run 0", "run 1", "score", "chosen", "edge", "by",
        "data",
    ]  # fmt: skip
    labels = ["digits", "mlp hidden_layers=[16, 12]", "none", "SGD momentum=0.9", "none", "no teleport"]
    assert first[:6] == labels
    after = [line[7:] for line in (first, second, third)]
    assert after == [
        ["0.1", "true", "0", "0.5", "0.75", "0.625", "true", "false", "val_accuracy", "held out"],
        ["1.0", "true", "0", "0.1", "", "", "false", "false", "val_accuracy", "held out"],
        ["0.1", "true", "0", "0.3333333333333333", "0.9", str((1 / 3 + 0.9) / 2), "false", "false",
         "val_accuracy", "held out"],
    ]  # fmt: skip


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    assert read_tuning(tmp_path) is None
    write_tuning(tmp_path, ROWS)
    table = read_tuning(tmp_path)
    assert table is not None
    assert (tuned_keys(table), run_columns(table)) == (
        ["optimizer.lr", "optimizer.nesterov"],
        ["run 0", "run 1"],
    )
    assert table["optimizer.lr"].tolist() == [0.1, 1.0, 0.1]
    assert table["score"].tolist()[0::2] == [0.625, (1 / 3 + 0.9) / 2]
    assert np.isnan(table["run 1"][1])
    assert np.isnan(table["score"][1])
    assert table["chosen"].tolist() == [True, False, False]
    assert table[list(ARM)].to_dict("records") == [dict(each.arm) for each in ROWS]


def test_two_experiments_share_a_folder(tmp_path: Path) -> None:
    """Rows of the other stay; those of an arm that is tuned anew are replaced; columns are those of both."""
    write_tuning(tmp_path, ROWS)
    other = TuningRow(arm_of(TELEPORTED), {"optimizer.weight_decay": 0.5}, 0, {7: 0.25}, "best_val_accuracy")
    write_tuning(tmp_path, [other])
    table = read_tuning(tmp_path)
    assert table is not None
    assert table["teleport"].tolist() == [TELEPORTED.teleportation.label, "no teleport", "no teleport"]
    assert run_columns(table) == ["run 0", "run 1", "run 7"]
    assert table["optimizer.weight_decay"].fillna(-1).tolist() == [0.5, -1, -1]
    assert table["score"].tolist()[:2] == [0.25, 0.625]
    before = (tmp_path / "tuning.csv").read_bytes()
    write_tuning(tmp_path, [other])
    assert (tmp_path / "tuning.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "is not a table of tuning: expected the columns dataset, model"),
        (lambda text: text.replace("round", "rounds"), "is not a table of tuning"),
        (lambda text: text.replace("run 1", "run 0"), "is not a table of tuning"),
        (lambda text: text.replace("0.75", "high"), "row 2 is damaged"),
        (lambda text: text + "digits,mlp\n", "row 5 is damaged"),
        (lambda text: text.replace("true,false,val", "yes,false,val"), "row 2 is damaged"),
    ],
)
def test_a_damaged_table_is_one_error_and_stays(tmp_path: Path, change: object, message: str) -> None:
    write_tuning(tmp_path, ROWS)
    path = tmp_path / "tuning.csv"
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    damaged = path.read_bytes()
    for act in (read_tuning, lambda out: write_tuning(out, ROWS)):
        with pytest.raises(ResultsError, match=message):
            act(tmp_path)
    assert path.read_bytes() == damaged


def test_training_parameters_are_read_back_or_found_damaged() -> None:
    training = training_of(arm_of(BASELINE)["training"])
    assert training is not None
    assert {key: training[key] for key in ("epochs", "validation")} == {
        "epochs": BASELINE.training.epochs,
        "validation": 0.2,
    }
    for damaged in ("", "{", "[1]", "3", "[" * 100_000):
        assert training_of(damaged) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    write_tuning(tmp_path / "good", ROWS)
    content = (tmp_path / "good" / "tuning.csv").read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 30))
        new = data.draw(
            st.binary(max_size=8) | st.sampled_from([b",", b'"', b"\n", b"\x00", b"nan", b"1e999"])
        )
        content = content[:start] + new + content[start + length :]
    (tmp_path / "tuning.csv").write_bytes(content)
    with contextlib.suppress(NTeleportError):
        read_tuning(tmp_path)


FINISHED = {"state": "finished", "final": {"val_accuracy": 0.7}, "best": {"epoch": 1, "val_accuracy": 0.8}}


@pytest.mark.parametrize(
    ("result", "by", "expected"),
    [
        (FINISHED, "val_accuracy", 0.7),
        (FINISHED, "best_val_accuracy", 0.8),
        ({**FINISHED, "state": "diverged"}, "val_accuracy", 0.1),
        ({**FINISHED, "state": "diverged"}, "best_val_accuracy", 0.1),
        ({**FINISHED, "final": {"val_accuracy": None}}, "val_accuracy", 0.1),
        ({"state": "failed", "error": "out of memory"}, "val_accuracy", None),
        ({}, "val_accuracy", None),
    ],
)
def test_scores_follow_from_results(result: dict[str, object], by: str, expected: float | None) -> None:
    assert score_of(result, by, 0.1) == expected  # type: ignore[arg-type]


def test_a_good_range_ends_where_the_line_between_two_points_crosses(tmp_path: Path) -> None:
    """Scores that are straight lines in the logarithm: 2 points per decade below, 4 above the best at 0.1."""
    found = good_range([0.001, 0.01, 0.1, 1, 10], [0.86, 0.88, 0.90, 0.86, 0.82])
    assert (found.low, found.high) == pytest.approx((10**-1.5, 10**-0.75))
    assert found.decades == pytest.approx(0.75)
    assert (found.open_below, found.open_above) == (False, False)


def test_a_good_range_that_reaches_the_end_of_the_grid_is_open(tmp_path: Path) -> None:
    found = good_range([0.01, 0.1, 1], [0.895, 0.90, 0.892])
    assert (found.low, found.high, found.open_below, found.open_above) == (0.01, 1, True, True)


def test_a_good_range_does_not_reach_over_a_gap() -> None:
    found = good_range([0.01, 0.1, 1, 10], [0.90, 0.5, 0.90, 0.899])
    assert (found.low, found.open_below, found.high) == (0.01, True, pytest.approx(10**-1.975))


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[Path, list[str], list[str]]:
    """A folder with tuning jobs and one job to report, and the names of both."""
    jobs = matrix(runs=2, epochs=3)
    write_jobs(tmp_path / "tuning", jobs[:-1])
    write_jobs(tmp_path, jobs[-1:])
    return tmp_path, sorted(f"tuning/{job.name}" for job in jobs[:-1]), [jobs[-1].name]


def test_results_are_without_tuning_jobs_and_the_status_is_with_them(
    tuned: tuple[Path, list[str], list[str]],
) -> None:
    out, tuning, reported = tuned
    assert [job.name for job in read_results(out).jobs] == reported
    assert sorted(set(collect(out)["job"])) == reported
    assert sorted(job.job for job in read_status(out)) == sorted([*tuning, *reported])
    assert [f"tuning/{job.name}" for job in read_results(out / "tuning").jobs] == tuning


def test_in_a_subfolder_tuning_jobs_are_told_by_the_table_beside_them(
    tuned: tuple[Path, list[str], list[str]],
) -> None:
    out, tuning, reported = tuned
    above = out.parent / "above"
    above.mkdir()
    out.rename(above / "first")
    names = [f"first/{name}" for name in (*tuning, *reported)]
    assert job_names(above) == sorted(names)  # a folder that happens to have this name
    write_tuning(above / "first", ROWS)
    assert job_names(above) == [f"first/{name}" for name in reported]


def test_results_of_tuning_alone_say_where_they_are(tuned: tuple[Path, list[str], list[str]]) -> None:
    out, _, (name,) = tuned
    (out / name).rename(out / "tuning" / name)
    with pytest.raises(ResultsError, match=r"no jobs in .* but those of its tuning"):
        read_results(out)
