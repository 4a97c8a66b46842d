"""The files of a job, and writing by rename."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nteleport.jobs.atomic import replacing, write_json_atomic, write_text_atomic
from nteleport.jobs.paths import JobPaths


def test_every_file_of_a_job_has_its_own_name_in_the_job_s_folder(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path, "a-job")
    files = [
        paths.config,
        paths.hparams,
        paths.metrics,
        paths.result,
        paths.provenance,
        paths.log,
        paths.checkpoint,
        paths.weights,
    ]
    assert len(set(files)) == len(files)
    assert {file.parent for file in files} == {tmp_path / "a-job"}
    assert not paths.directory.exists()


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    write_text_atomic(path, "é\n", durable=durable)
    assert path.read_bytes() == "é\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_with_the_same_process_id_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    """As in two containers; the second finishes first."""
    path = tmp_path / "x.txt"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_json_reads_back(tmp_path: Path) -> None:
    value = {"state": "finished", "epochs": 3, "final": {"val_accuracy": 0.5}}
    write_json_atomic(tmp_path / "r.json", value)
    assert json.loads((tmp_path / "r.json").read_text()) == value


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
