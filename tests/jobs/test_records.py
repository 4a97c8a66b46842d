"""Jobs are described before they begin, by whoever comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import small_job

from nteleport.errors import JobError
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import describe_new

JOBS = [small_job(), small_job("optim"), small_job("pseudo")]


def test_what_has_a_description_keeps_it(tmp_path: Path) -> None:
    first = JobPaths(tmp_path, JOBS[0].name)
    first.directory.mkdir()
    first.config.write_text("mine")

    describe_new(JOBS, tmp_path)

    assert first.config.read_text() == "mine"
    assert not first.hparams.exists()
    for job in JOBS[1:]:
        assert sorted(path.name for path in (tmp_path / job.name).iterdir()) == ["config.yml", "hparams.yml"]


def test_a_job_that_another_process_begins_at_this_moment_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That process clears away all temporary files in the folder of the job, ours too."""
    second = JobPaths(tmp_path, JOBS[1].name)
    write = Path.write_text

    def write_and_lose(path: Path, *arguments: Any, **options: Any) -> int:
        written = write(path, *arguments, **options)
        if path.parent == second.directory:
            path.unlink()
        return written

    monkeypatch.setattr(Path, "write_text", write_and_lose)
    describe_new(JOBS, tmp_path)

    assert [JobPaths(tmp_path, job.name).config.exists() for job in JOBS] == [True, False, True]


def test_an_output_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"cannot write to .*file/out: Not a directory"):
        describe_new(JOBS, tmp_path / "file" / "out")
