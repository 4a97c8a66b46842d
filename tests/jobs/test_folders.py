"""Jobs are found in subfolders, each once, whatever the links."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.synthetic_results import make_job, matrix, write_job, write_jobs

from nteleport.cli.collect import collect as collect_command
from nteleport.cli.plot import plot
from nteleport.cli.status import status
from nteleport.errors import ResultsError
from nteleport.jobs.folders import DEEPEST, job_names
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.state import read_status
from nteleport.jobs.table import collect, read_results

BASELINES, TELEPORTED = matrix(runs=2, epochs=3)[:2], matrix(runs=2, epochs=3)[2:]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Jobs in two subfolders at different depths, and one directly in the folder."""
    write_jobs(tmp_path / "mnist", BASELINES)
    write_jobs(tmp_path / "more" / "again", TELEPORTED[:1])
    write_jobs(tmp_path, TELEPORTED[1:])
    return tmp_path


def expected() -> list[str]:
    names = [f"mnist/{job.name}" for job in BASELINES]
    return sorted([*names, f"more/again/{TELEPORTED[0].name}", TELEPORTED[1].name])


def test_names_are_paths_in_the_output_folder(out: Path) -> None:
    assert job_names(out) == expected()
    assert [job.name for job in read_results(out).jobs] == expected()
    assert sorted(job.job for job in read_status(out)) == expected()
    assert sorted(set(collect(out)["job"])) == expected()


@pytest.mark.parametrize("command", [plot, collect_command, status])
def test_commands_read_subfolders(out: Path, command: object) -> None:
    result = CliRunner().invoke(command, [str(out)])  # type: ignore[arg-type]
    assert (result.exit_code, result.stderr) == (0, "")


def test_links_in_a_circle_end_and_no_job_counts_twice(out: Path) -> None:
    (out / "a-loop").symlink_to(out, target_is_directory=True)
    (out / "mnist" / "loop").symlink_to(out / "more", target_is_directory=True)
    (out / "more" / "loop").symlink_to(out / "mnist", target_is_directory=True)
    (out / "latest").symlink_to(out / "mnist" / BASELINES[0].name, target_is_directory=True)
    (out / "root").symlink_to("/", target_is_directory=True)
    assert job_names(out) == expected()


def test_jobs_elsewhere_are_found_through_a_link(out: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_jobs(elsewhere, [make_job(run=7, epochs=1)])
    (out / "linked").symlink_to(elsewhere, target_is_directory=True)
    assert f"linked/{make_job(run=7, epochs=1).name}" in job_names(out)


def test_nothing_is_searched_inside_a_job_or_a_hidden_folder(out: Path) -> None:
    write_jobs(JobPaths(out, TELEPORTED[1].name).before, [make_job(run=8, epochs=1)])
    write_jobs(out / ".cache", [make_job(run=9, epochs=1)])
    assert job_names(out) == expected()


def test_the_file_of_an_experiment_beside_its_jobs_hides_none(out: Path) -> None:
    (out / "mnist" / "config.yml").write_text("datasets: [mnist]\n")
    (out / "config.yml").write_text("datasets: [mnist]\n")
    assert job_names(out) == expected()


def test_old_results_of_a_job_that_is_being_redone_are_no_job(out: Path) -> None:
    paths = JobPaths(out, make_job(run=8, epochs=1).name)
    write_job(paths.directory, make_job(run=8, epochs=1)).directory.rename(paths.before)
    paths.lease.mkdir()
    assert job_names(out) == expected()


def test_the_depth_is_bounded(tmp_path: Path) -> None:
    chain = [f"d{depth}" for depth in range(DEEPEST - 1)]
    write_job(tmp_path.joinpath(*chain), make_job(run=0, epochs=1))
    write_job(tmp_path.joinpath(*chain, "deeper"), make_job(run=1, epochs=1))
    assert job_names(tmp_path) == ["/".join([*chain, make_job(run=0, epochs=1).name])]


def test_thousands_of_jobs_are_found_in_a_moment(tmp_path: Path) -> None:
    for position in range(3000):
        folder = tmp_path / f"part{position % 30}" / f"job{position}"
        folder.mkdir(parents=True)
        (folder / "hparams.yml").touch()
    start = time.perf_counter()
    assert len(job_names(tmp_path)) == 3000
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(("name", "message"), [("none", "no folder"), ("file", "is a file")])
def test_what_is_no_folder_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=message):
        job_names(tmp_path / name)
