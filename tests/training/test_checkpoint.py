"""Checkpoints: written whole or not at all, damage noticed, and never a way to run code."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from nteleport.core.preserving import keeping_random_states, random_states
from nteleport.errors import JobError
from nteleport.jobs.paths import JobPaths
from nteleport.training.checkpoint import (
    Checkpoint,
    intact_checkpoints,
    remove_checkpoints,
    save_checkpoint,
)

CPU = torch.device("cpu")


def a_checkpoint(epochs: int) -> Checkpoint:
    return Checkpoint(
        job="digest",
        network={"weight": torch.full((3, 4), float(epochs))},
        optimizer={"cob": torch.ones(2), "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}}},
        learning_rate={"last_epoch": epochs, "milestones": [1, 2]},
        random=random_states(CPU),
        rows=[{"epoch": epoch, "train_loss": 0.1 + 0.2, "lr": float("nan")} for epoch in range(epochs)],
        versions={"torch": "2"},
    )


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    (tmp_path / "job").mkdir()
    return JobPaths(tmp_path, "job")


def load(paths: JobPaths, job: str = "digest") -> tuple[Checkpoint | None, list[str]]:
    warnings: list[str] = []
    latest = next((found for _, found in intact_checkpoints(paths, job, warnings.append)), None)
    return latest, warnings


def epochs_of(checkpoint: Checkpoint | None) -> int | None:
    return None if checkpoint is None else len(checkpoint.rows)


def test_what_is_saved_is_loaded(paths: JobPaths) -> None:
    saved = a_checkpoint(2)
    save_checkpoint(paths, saved)

    loaded, warnings = load(paths)

    assert warnings == []
    assert loaded is not None
    assert torch.equal(loaded.network["weight"], saved.network["weight"])
    assert torch.equal(loaded.random["cpu"], saved.random["cpu"])
    assert loaded.rows[1]["train_loss"] == 0.1 + 0.2
    assert repr((loaded.learning_rate, loaded.rows, loaded.versions, loaded.optimizer)) == repr(
        (saved.learning_rate, saved.rows, saved.versions, saved.optimizer)
    )


def test_without_a_file_there_is_no_checkpoint(paths: JobPaths) -> None:
    assert load(paths) == (None, [])


def test_the_latest_is_loaded_and_the_one_before_it_is_kept(paths: JobPaths) -> None:
    for epochs in (1, 2, 3):
        save_checkpoint(paths, a_checkpoint(epochs))

    assert epochs_of(load(paths)[0]) == 3
    paths.checkpoint.unlink()
    assert epochs_of(load(paths)[0]) == 2
    assert sorted(path.name for path in paths.directory.iterdir()) == ["checkpoint.before.pt"]


def test_the_same_state_gives_the_same_bytes(paths: JobPaths) -> None:
    save_checkpoint(paths, a_checkpoint(1))
    first = paths.checkpoint.read_bytes()
    save_checkpoint(paths, a_checkpoint(1))

    assert paths.checkpoint.read_bytes() == first


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_gives_way_to_the_one_before(paths: JobPaths, keep: float) -> None:
    save_checkpoint(paths, a_checkpoint(1))
    save_checkpoint(paths, a_checkpoint(2))
    content = paths.checkpoint.read_bytes()
    paths.checkpoint.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])

    loaded, warnings = load(paths)

    assert epochs_of(loaded) == 1
    assert len(warnings) == 1
    assert "checkpoint.pt is damaged" in warnings[0]


def test_a_flipped_bit_is_noticed_or_harmless(paths: JobPaths) -> None:
    save_checkpoint(paths, a_checkpoint(1))
    save_checkpoint(paths, a_checkpoint(2))
    content = paths.checkpoint.read_bytes()
    expected = load(paths)[0]
    noticed = 0
    for position in random.Random(0).sample(range(len(content)), 150):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        paths.checkpoint.write_bytes(damaged)
        loaded, warnings = load(paths)
        if warnings:
            noticed += 1
            assert epochs_of(loaded) == 1
        else:  # a time stamp or a padding byte of the archive
            assert repr(loaded) == repr(expected)

    assert noticed > 20


def test_with_both_files_damaged_the_job_starts_again(paths: JobPaths) -> None:
    save_checkpoint(paths, a_checkpoint(1))
    save_checkpoint(paths, a_checkpoint(2))
    paths.checkpoint.write_bytes(b"x")
    paths.checkpoint_before.write_bytes(b"")

    loaded, warnings = load(paths)

    assert loaded is None
    assert len(warnings) == 2


def test_a_checkpoint_of_another_job_is_passed_over(paths: JobPaths) -> None:
    save_checkpoint(paths, a_checkpoint(1))

    loaded, warnings = load(paths, job="another digest")

    assert loaded is None
    assert "belongs to another job" in warnings[0]


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_before"])
def test_a_checkpoint_that_is_a_folder_is_passed_over_and_makes_way(paths: JobPaths, name: str) -> None:
    getattr(paths, name).mkdir()
    (getattr(paths, name) / "file").touch()

    loaded, warnings = load(paths)

    assert loaded is None
    (warning,) = warnings
    assert "is damaged and skipped: it is a folder" in warning
    for epochs in (1, 2, 3):
        save_checkpoint(paths, a_checkpoint(epochs))
    assert epochs_of(load(paths)[0]) == 3
    assert paths.checkpoint_before.is_file()


def test_folders_in_the_place_of_checkpoints_are_removed_with_them(paths: JobPaths) -> None:
    paths.checkpoint.mkdir()
    paths.checkpoint_before.mkdir()

    remove_checkpoints(paths)

    assert list(paths.directory.iterdir()) == []


def breaking_disk(monkeypatch: pytest.MonkeyPatch, *broken: Path, number: int, after: int) -> None:
    """These files fail to open, or after so many bytes."""
    open_file = Path.open

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= after:
                raise OSError(number, os.strerror(number))
            return super().read(min(size, 64) if size and size > 0 else 64)

    def opening(path: Path, *arguments: Any, **options: Any) -> Any:
        if path not in broken:
            return open_file(path, *arguments, **options)
        if after == 0:
            raise OSError(number, os.strerror(number), str(path))
        with open_file(path, "rb") as file:
            return Failing(file.read())

    monkeypatch.setattr(Path, "open", opening)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("after", [0, 500])
@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_before"])
def test_a_checkpoint_that_cannot_be_read_is_an_error_and_is_kept(
    paths: JobPaths, monkeypatch: pytest.MonkeyPatch, name: str, after: int, number: int
) -> None:
    for epochs in (1, 2):
        save_checkpoint(paths, a_checkpoint(epochs))
    if name == "checkpoint_before":
        paths.checkpoint.write_bytes(b"damaged")
    kept = getattr(paths, name).read_bytes()
    with monkeypatch.context() as disk:
        breaking_disk(disk, getattr(paths, name), number=number, after=after)
        with pytest.raises(JobError, match=rf"\.pt cannot be read: {os.strerror(number)}"):
            load(paths)

    assert getattr(paths, name).read_bytes() == kept


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_is_not_taken_for_damage(
    paths: JobPaths, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save_checkpoint(paths, a_checkpoint(1))

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        load(paths)


def test_a_checkpoint_without_an_entry_is_passed_over(paths: JobPaths) -> None:
    torch.save({"format": 1, "job": "digest", "network": {}}, paths.checkpoint)

    loaded, warnings = load(paths)

    assert loaded is None
    assert len(warnings) == 1
    assert "\n" not in warnings[0]


class _Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_cannot_run_code(paths: JobPaths, tmp_path: Path) -> None:
    save_checkpoint(paths, a_checkpoint(1))
    with zipfile.ZipFile(paths.checkpoint) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    records[pickled] = pickle.dumps({"format": 1, "job": "digest", "network": _Attack(tmp_path / "run")}, 2)
    with zipfile.ZipFile(paths.checkpoint, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)

    loaded, warnings = load(paths)

    assert loaded is None
    assert len(warnings) == 1
    assert not (tmp_path / "run").exists()
    pickle.loads(records[pickled])  # noqa: S301  # the attack would have worked
    assert (tmp_path / "run").exists()


def test_a_write_that_fails_leaves_the_earlier_checkpoint(
    paths: JobPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(paths, a_checkpoint(1))

    def full_disk(content: object, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(paths, a_checkpoint(2))

    assert epochs_of(load(paths)[0]) == 1
    assert [path.name for path in paths.directory.iterdir()] == ["checkpoint.pt"]


def test_checkpoints_are_removed_when_a_job_is_over(paths: JobPaths) -> None:
    for epochs in (1, 2):
        save_checkpoint(paths, a_checkpoint(epochs))

    remove_checkpoints(paths)

    assert list(paths.directory.iterdir()) == []


def test_random_states_are_put_back() -> None:
    with keeping_random_states(CPU):
        first = torch.rand(3)

    assert torch.equal(torch.rand(3), first)
