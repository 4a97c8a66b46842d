"""Claims: one owner at a time, whatever dies when."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nteleport.jobs import lease, owner
from nteleport.jobs.lease import SILENCE, HeldLease, leased, read_lease
from nteleport.jobs.owner import Owner
from nteleport.jobs.paths import JobPaths

HOLD = (
    "import sys, time; from pathlib import Path\n"
    "from nteleport.jobs.lease import leased; from nteleport.jobs.paths import JobPaths\n"
    "with leased(JobPaths(Path(sys.argv[1]), 'job')) as claim:\n"
    "    print('held' if claim else 'busy', flush=True)\n"
    "    sys.stdin.readline()"
)


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path, "job")


def holder(paths: JobPaths) -> subprocess.Popen[str]:
    """Another process that tries to hold the lease until a line is written to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(paths.out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def on_another_machine(paths: JobPaths, *, silent_for: float) -> Owner:
    """Leave a lease whose owner cannot be seen from here; returns that owner."""
    elsewhere = replace(Owner.myself(), host="node, 7", pid=1)
    paths.lease.mkdir(parents=True)
    file = paths.lease / elsewhere.file_name
    file.touch()
    heartbeat = time.time() - silent_for
    os.utime(file, (heartbeat, heartbeat))
    return elsewhere


def has(paths: JobPaths) -> bool:
    """Whether the lease can be had."""
    with leased(paths) as claim:
        return claim is not None


def test_of_two_processes_one_has_the_lease_until_it_gives_it_back(paths: JobPaths) -> None:
    process = holder(paths)
    assert answer(process) == "held"
    assert not has(paths)

    process.communicate("go\n")

    assert has(paths)
    assert not paths.lease.exists()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(paths: JobPaths) -> None:
    process = holder(paths)
    assert answer(process) == "held"
    process.kill()
    while (
        found := read_lease(paths)
    ) and found.is_alive():  # a zombie counts as dead: nobody waited for it yet
        time.sleep(0.01)

    assert paths.lease.exists()
    assert has(paths)
    process.communicate()


def test_a_process_with_the_number_of_the_dead_owner_is_not_the_owner(paths: JobPaths) -> None:
    earlier = replace(Owner.myself(), started="12")
    paths.lease.mkdir(parents=True)
    (paths.lease / earlier.file_name).touch()

    assert has(paths)


@pytest.mark.parametrize(("silence", "free"), [(SILENCE / 2, False), (SILENCE * 2, True)])
def test_an_owner_elsewhere_is_dead_when_its_heartbeat_stopped(
    paths: JobPaths, silence: float, free: bool
) -> None:
    on_another_machine(paths, silent_for=silence)

    assert has(paths) is free


@pytest.mark.parametrize(("silence", "free"), [(0.0, False), (SILENCE * 2, True)])
def test_a_lease_whose_maker_died_before_signing_it_is_cleared_away(
    paths: JobPaths, silence: float, free: bool
) -> None:
    paths.lease.mkdir(parents=True)
    made = time.time() - silence
    os.utime(paths.lease, (made, made))

    assert has(paths) is free


def test_an_owner_who_comes_back_finds_that_the_lease_is_lost(
    paths: JobPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = on_another_machine(paths, silent_for=SILENCE * 2)
    sleeper = HeldLease(paths, elsewhere)

    with leased(paths) as taken:
        assert taken is not None
        now = time.time()
        monkeypatch.setattr(lease.time, "time", lambda: now + SILENCE)
        assert sleeper.lost()
        assert not taken.lost()
        sleeper.release()  # does no harm to the new owner
        monkeypatch.undo()
        assert not has(paths)


def test_only_one_of_many_takes_over(tmp_path: Path) -> None:
    """Four processes, let loose at once on 40 claims of the dead; who holds one makes a file that is new."""
    dead = replace(Owner.myself(), started="12")
    for number in range(40):
        claim = JobPaths(tmp_path, f"job{number}").lease
        claim.mkdir(parents=True)
        (claim / dead.file_name).touch()
    rush = (
        "import sys, time; from pathlib import Path\n"
        "from nteleport.jobs.lease import leased; from nteleport.jobs.paths import JobPaths\n"
        "print(flush=True); sys.stdin.readline()\n"
        "for number in range(40):\n"
        "    paths = JobPaths(Path(sys.argv[1]), f'job{number}')\n"
        "    done = paths.directory / 'done'\n"
        "    while not done.exists():\n"
        "        with leased(paths) as claim:\n"
        "            if claim and not done.exists():\n"
        "                (paths.directory / 'mine').touch(exist_ok=False); time.sleep(0.002); done.touch()\n"
    )
    command = [sys.executable, "-c", rush, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        answer(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()

    assert [process.returncode for process in processes] == [0] * 4
    assert len(list(tmp_path.glob("*/done"))) == 40
    assert not list(tmp_path.glob("*/claim"))


def test_the_heart_beats_while_the_lease_is_held(paths: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    with leased(paths):
        file = next(paths.lease.iterdir())
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - file.stat().st_mtime < 10


def test_reading_gives_the_owner_and_leaves_no_trace(paths: JobPaths) -> None:
    assert read_lease(paths) is None
    elsewhere = on_another_machine(paths, silent_for=5)

    found = read_lease(paths)

    assert found is not None
    assert found.owner == elsewhere
    assert found.is_alive()
    assert not found.is_alive(time.time() + SILENCE)
    assert [path.name for path in paths.directory.iterdir()] == ["claim"]


def leave_foreign(folder: Path, kind: str) -> None:
    """Something that a file manager, a file server or a person leaves in a folder."""
    if kind == "folder":
        (folder / "folder").mkdir()
        (folder / "folder" / "file").touch()
    elif kind == "folder named like an owner":
        (folder / Owner.myself().file_name).mkdir()
    else:
        (folder / kind).touch()


FOREIGN = [".DS_Store", ".nfs0001", "folder", "folder named like an owner", "a b,1,2,3,4", "a,01,2,3,4"]


def silent_since(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_others_never_keep_an_abandoned_lease_alive(paths: JobPaths, kind: str) -> None:
    paths.lease.mkdir(parents=True)
    leave_foreign(paths.lease, kind)
    silent_since(paths.lease, SILENCE * 2)

    assert has(paths)
    assert has(paths)  # at once: what is left of it is free


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_others_in_the_lease_of_the_dead_are_not_in_the_way(paths: JobPaths, kind: str) -> None:
    on_another_machine(paths, silent_for=SILENCE * 2)
    leave_foreign(paths.lease, kind)

    assert has(paths)
    assert has(paths)


def test_files_of_others_that_cannot_be_removed_are_not_in_the_way(
    paths: JobPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `.nfs…` while a process has the file open."""
    remove = os.unlink

    def refuse(path: str, **options: int) -> None:
        if Path(path).name == ".nfs0001":
            raise OSError(16, "Device or resource busy")
        remove(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    paths.lease.mkdir(parents=True)
    (paths.lease / ".nfs0001").touch()
    silent_since(paths.lease, SILENCE * 2)

    assert has(paths)
    assert has(paths)


def test_a_held_lease_with_files_of_others_is_held(paths: JobPaths) -> None:
    with leased(paths) as taken:
        assert taken is not None
        leave_foreign(paths.lease, ".DS_Store")
        assert not has(paths)
        assert not taken.lost()
    assert not paths.lease.exists()


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to itself"])
def test_what_is_no_folder_is_nobodys_lease(paths: JobPaths, kind: str) -> None:
    paths.directory.mkdir(parents=True)
    if kind == "file":
        paths.lease.write_text("mine")
    else:
        paths.lease.symlink_to("nowhere" if kind == "dangling link" else paths.lease)

    found = read_lease(paths)
    assert found is not None
    assert not found.is_alive()
    assert has(paths)


@pytest.mark.parametrize("signed", [True, False])
def test_a_heartbeat_in_the_future_is_good_for_one_silence(
    paths: JobPaths, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    if signed:
        on_another_machine(paths, silent_for=-86400)
    else:
        paths.lease.mkdir(parents=True)
        silent_since(paths.lease, -86400)
    found = read_lease(paths)
    assert found is not None
    assert not found.is_alive()  # nobody knows, until somebody waits for it

    assert not has(paths)
    now = time.time()
    monkeypatch.setattr(lease, "time_at", lambda paths: now + SILENCE + 1)
    assert has(paths)


def test_an_owner_whose_heartbeat_was_in_the_future_and_who_lives_is_not_robbed(paths: JobPaths) -> None:
    elsewhere = on_another_machine(paths, silent_for=-86400)
    living = HeldLease(paths, elsewhere)

    assert not has(paths)
    living.beat()

    assert not has(paths)
    assert not living.lost()


HIDDEN = [FileNotFoundError(2, "hidepid=2"), PermissionError(1, "hidepid=1")]


@pytest.mark.parametrize("error", HIDDEN)
@pytest.mark.parametrize(("silence", "free"), [(SILENCE / 2, False), (SILENCE * 2, True)])
def test_an_owner_that_proc_hides_is_dead_when_its_heartbeat_stopped(
    paths: JobPaths, monkeypatch: pytest.MonkeyPatch, error: OSError, silence: float, free: bool
) -> None:
    """Another user's process, as seen from here; the process of this test stands for it."""
    neighbor = replace(Owner.myself(), pid=os.getppid(), started="77")
    paths.lease.mkdir(parents=True)
    (paths.lease / neighbor.file_name).touch()
    silent_since(paths.lease / neighbor.file_name, silence)
    read = Path.read_text

    def hide(path: Path, *arguments: str, **options: str) -> str:
        if str(path) == f"/proc/{neighbor.pid}/stat":
            raise error
        return read(path, *arguments, **options)

    def not_ours(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "read_text", hide)
    monkeypatch.setattr(owner.os, "kill", not_ours)

    assert has(paths) is free


def test_without_proc_and_ps_only_silence_decides(paths: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    neighbor = replace(Owner.myself(), pid=os.getppid(), started="77")
    paths.lease.mkdir(parents=True)
    file = paths.lease / neighbor.file_name
    file.touch()
    monkeypatch.setattr(owner, "_start_of", lambda pid: None)

    assert not has(paths)
    silent_since(file, SILENCE * 2)
    assert has(paths)


def test_of_two_that_sign_at_the_same_moment_at_most_one_stays(paths: JobPaths) -> None:
    """Another live process signs between the look of this one and its signature."""
    process = holder(paths)
    assert answer(process) == "held"
    myself = Owner.myself()
    assert lease._sign(paths, myself)

    assert not lease._is_alone(paths, myself)

    assert not (paths.lease / myself.file_name).exists()
    process.communicate("go\n")
    assert not paths.lease.exists()


def test_a_dead_owner_beside_a_live_one_does_not_free_the_lease(paths: JobPaths) -> None:
    with leased(paths) as taken:
        assert taken is not None
        for number in range(5):
            (paths.lease / replace(Owner.myself(), started=str(number)).file_name).touch()
        assert not has(paths)
        assert not taken.lost()
