"""Claims: one owner at a time, whatever dies when."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nteleport.jobs import lease
from nteleport.jobs.lease import SILENCE, HeldLease, Owner, leased, read_lease
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
    owner = replace(Owner.myself(), host="node, 7", pid=1)
    paths.lease.mkdir(parents=True)
    file = paths.lease / owner.file_name
    file.touch()
    heartbeat = time.time() - silent_for
    os.utime(file, (heartbeat, heartbeat))
    return owner


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
    owner = on_another_machine(paths, silent_for=SILENCE * 2)
    sleeper = HeldLease(paths, owner)

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
    owner = on_another_machine(paths, silent_for=5)

    found = read_lease(paths)

    assert found is not None
    assert found.owner == owner
    assert found.is_alive()
    assert not found.is_alive(time.time() + SILENCE)
    assert [path.name for path in paths.directory.iterdir()] == ["claim"]
