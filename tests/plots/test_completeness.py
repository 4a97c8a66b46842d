"""What a picture does not show by itself: missing and unfinished runs, holes, and mixtures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.synthetic_results import (
    BASELINE,
    TELEPORTED,
    matrix,
    sgd,
    write_job,
    write_jobs,
)

from nteleport.jobs.job import Job
from nteleport.jobs.table import read_results
from nteleport.plots.grouping import arrange
from nteleport.plots.panels import Panel

Arrange = Callable[[Sequence[Job], str], list[Panel]]


@pytest.fixture
def panels(tmp_path: Path) -> Arrange:
    """Write finished jobs and arrange them by a comma-separated list."""

    def arranged(jobs: Sequence[Job], group_by: str) -> list[Panel]:
        write_jobs(tmp_path, jobs)
        return arrange(read_results(tmp_path), group_by.split(","))

    return arranged


def labels(panel: Panel) -> list[str]:
    return [group.label for group in panel.groups]


def short(**fields: object) -> list[Job]:
    return matrix(**{"epochs": 1, "runs": 2, **fields})  # type: ignore[arg-type]


SIX = [sgd(lr, momentum) for lr in (0.01, 0.001, 0.0001) for momentum in (None, 0.9)]


def test_a_complete_matrix_gives_no_warning(panels: Arrange) -> None:
    (panel,) = panels(short(optimizers=SIX), "teleport,optimizer")
    assert panel.warnings == ()
    assert {group.expected for group in panel.groups} == {2}


def test_runs_are_no_repetitions_when_grouped_by_run(panels: Arrange) -> None:
    (panel,) = panels(short(teleportations=[BASELINE]), "run")
    assert (labels(panel), panel.warnings) == (["run 0", "run 1"], ())


def test_a_missing_run_is_named(panels: Arrange) -> None:
    jobs = [job for job in short(runs=5) if (job.run, job.teleportation.mode) != (3, "random")]
    (panel,) = panels(jobs, "teleport")
    assert panel.warnings == ("MLP on digits: 'teleported' has 4 of 5 runs finished: 1 missing (run 3)",)
    assert [group.expected for group in panel.groups] == [5, 5]


def test_runs_known_from_any_group_are_expected_of_all(panels: Arrange) -> None:
    """Runs 0 to 2 here and 2 to 4 there make five, though no group has more than three."""
    jobs = short(runs=3, teleportations=[BASELINE])
    jobs += [job for job in short(runs=5, teleportations=[TELEPORTED]) if job.run >= 2]
    (panel,) = panels(jobs, "teleport")
    assert [group.expected for group in panel.groups] == [5, 5]
    assert [warning.split(": ")[-1] for warning in panel.warnings] == [
        "2 missing (run 3, 4)",
        "2 missing (run 0, 1)",
    ]


def test_runs_without_a_number_are_counted(tmp_path: Path) -> None:
    for job in short(runs=3):
        paths = write_job(tmp_path, job)
        kept = [line for line in paths.hparams.read_text().splitlines() if not line.startswith("run:")]
        paths.hparams.write_text("\n".join(kept))
        if job.run == 2 and job.teleportation == TELEPORTED:
            shutil.rmtree(paths.directory)
    (panel,) = arrange(read_results(tmp_path), ["teleport"])
    assert panel.warnings == ("MLP on digits: 'teleported' has 2 of 3 runs finished: 1 missing",)


def test_a_group_of_several_cells_expects_the_runs_of_each(panels: Arrange) -> None:
    teleportations = [BASELINE, *(replace(TELEPORTED, cob_range=r) for r in (0.9, 0.5))]
    (panel,) = panels(short(teleportations=teleportations), "teleport.mode")
    assert [(len(group.jobs), group.expected) for group in panel.groups] == [(2, 2), (4, 4)]


@pytest.mark.parametrize(
    ("state", "epochs", "remark"),
    [
        (None, 1, "run 1 unfinished after 1 epoch"),
        (None, 0, "run 1 unfinished after 0 epochs"),
        ("failed", 2, "run 1 failed after 2 epochs"),
        ("diverged", 2, "run 1 diverged after 2 epochs"),
    ],
)
def test_runs_that_did_not_finish_are_named(
    tmp_path: Path, state: str | None, epochs: int, remark: str
) -> None:
    for job in matrix(runs=3, epochs=3, teleportations=[BASELINE]):
        if job.run == 1:
            write_job(tmp_path, job, state=state, epochs=epochs)
        else:
            write_job(tmp_path, job)
    (panel,) = arrange(read_results(tmp_path), ["teleport"])
    assert panel.warnings == (f"MLP on digits: 'no teleport' has 2 of 3 runs finished: {remark}",)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    first, *others = matrix(runs=2, epochs=3, teleportations=[BASELINE])
    write_jobs(tmp_path, others)
    paths = write_job(tmp_path, first)
    paths.metrics.write_text(paths.metrics.read_text() + "broken\n")
    (panel,) = arrange(read_results(tmp_path), ["teleport"])
    assert "run 0 metrics.csv has damaged lines (1), left out" in panel.warnings[0]


def test_a_hole_in_the_matrix_is_named(panels: Arrange) -> None:
    jobs = [
        job
        for job in short(optimizers=SIX[:2])
        if not ("momentum" in job.optimizer.kwargs and job.teleportation.mode == "random")
    ]
    (panel,) = panels(jobs, "teleport,optimizer")
    assert panel.warnings == ("MLP on digits: no runs at all of 'momentum 0.9, teleported'",)


def test_what_is_averaged_over_by_oversight_is_named(panels: Arrange) -> None:
    (panel,) = panels(short(optimizers=SIX[:2]), "teleport")
    assert panel.warnings == (
        "MLP on digits: groups mix runs that differ in optimizer.momentum (0.9, unset): "
        "group by what matters too",
    )


def test_different_teleportations_in_one_group_are_named(panels: Arrange) -> None:
    (panel,) = panels(short(), "optimizer")
    assert "differ in teleport.mode (no_teleport, random)" in panel.warnings[0]
    assert not panel.groups[0].is_baseline
