"""Leases: one job is trained by one process at a time, even when many processes share the folder.

A process acquires the lease of a job by creating the folder `claim` inside the job's folder; of many
processes, `mkdir` lets one succeed. The folder holds one empty file: its name identifies the owner, its
modification time is the owner's heartbeat. The lease of a dead owner is taken over by renaming that file to a
name of one's own: the old name is unique, so again exactly one process succeeds, and a suspended owner that
wakes up later finds its file gone. No lock is ever left for a person to remove.

An owner on this machine is dead when no process has its process ID and start time; an owner elsewhere is dead
when its heartbeat has stopped for `SILENCE` seconds. File times are compared with the time of a file just
written beside them, so the clocks of different machines need not agree. No torch is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

from nteleport.jobs.paths import JobPaths

HEARTBEAT = 10.0
"""Seconds between heartbeats."""

SILENCE = 90.0
"""Seconds without a heartbeat after which an owner on another machine is considered dead."""


@dataclass(frozen=True)
class Owner:
    """A process that acquires leases.

    Attributes:
        host: the name of its machine.
        pid: its process ID there.
        started: its start time, in the units of the system: distinguishes it from a later process with the
            same ID.
        machine: distinguishes machines with the same name, containers on them, and reboots.
        nonce: makes each lease unique.
    """

    host: str
    pid: int
    started: str
    machine: str
    nonce: str

    @property
    def file_name(self) -> str:
        return ",".join(quote(str(part), safe="") for part in (*self._parts, self.nonce))

    @classmethod
    def parse(cls, file_name: str) -> Owner | None:
        """The owner named by a file in the folder `claim`; None for any other file."""
        parts = [unquote(part) for part in file_name.split(",")]
        if len(parts) != 5 or not parts[1].isdecimal():
            return None
        return cls(parts[0], int(parts[1]), *parts[2:])

    @classmethod
    def myself(cls) -> Owner:
        """This process, with a new nonce."""
        pid = os.getpid()
        return cls(_host(), pid, _start_of(pid) or "", _machine(), secrets.token_hex(4))

    @property
    def is_here(self) -> bool:
        """Whether its process would be visible from here if it were alive."""
        return bool(self.started) and (self.host, self.machine) == (_host(), _machine())

    @property
    def _parts(self) -> tuple[str, str, str, str]:
        return self.host, str(self.pid), self.started, self.machine


@dataclass(frozen=True)
class Lease:
    """A lease as found on disk: its owner, None at the moment it is acquired or released, and the time of its
    last heartbeat, in seconds since the Unix epoch.
    """

    owner: Owner | None
    heartbeat: float

    def is_alive(self, now: float | None = None) -> bool:
        """Whether the owner is alive; `now` is the time, by default from this machine's clock."""
        if self.owner is not None and self.owner.is_here:
            return _start_of(self.owner.pid) == self.owner.started
        return (time.time() if now is None else now) - self.heartbeat < SILENCE


def read_lease(paths: JobPaths) -> Lease | None:
    """The lease of a job, alive or not; None if there is none."""
    try:
        beat = paths.lease.stat().st_mtime
        owners = {entry: Owner.parse(entry.name) for entry in os.scandir(paths.lease)}
        for entry, owner in owners.items():
            if owner is not None:
                return Lease(owner, entry.stat().st_mtime)
    except FileNotFoundError:  # released or taken over at this moment
        return Lease(None, time.time()) if paths.lease.exists() else None
    return Lease(None, beat)


class HeldLease:
    """A lease held by this process."""

    def __init__(self, paths: JobPaths, owner: Owner) -> None:
        self._folder, self._file = paths.lease, paths.lease / owner.file_name
        self._last, self._lost = time.time(), False

    def beat(self) -> None:
        """Show that the owner is alive."""
        try:
            os.utime(self._file)
        except FileNotFoundError:
            self._lost = True
        except OSError:  # the file server is unreachable: try again next time
            return
        self._last = time.time()

    def lost(self) -> bool:
        """Whether the lease was taken over, which happens to a process that was suspended for a long time. It
        must no longer write to the job.
        """
        if abs(time.time() - self._last) > 2 * HEARTBEAT:
            self.beat()
        return self._lost

    def release(self) -> None:
        """Release the lease."""
        with contextlib.suppress(OSError):
            self._file.unlink()
            self._folder.rmdir()


@contextmanager
def leased(paths: JobPaths) -> Iterator[HeldLease | None]:
    """Hold the lease of a job within the block if it is available; yield None if it has a live owner.

    The job's folder is created if missing. A background thread sends the heartbeats.

    Raises:
        OSError: the folder cannot be written to.
    """
    claim = _acquire(paths)
    if claim is None:
        yield None
        return
    over = threading.Event()

    def keep_beating() -> None:
        while not over.wait(HEARTBEAT):
            claim.beat()

    heart = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
    heart.start()
    try:
        yield claim
    finally:
        over.set()
        heart.join()
        claim.release()


def _acquire(paths: JobPaths) -> HeldLease | None:
    myself = Owner.myself()
    paths.directory.mkdir(parents=True, exist_ok=True)
    for _ in range(3):  # more than once only if others release or take over at the same moment
        try:
            paths.lease.mkdir()
        except FileExistsError:
            found = read_lease(paths)
            if found is None:
                continue
            if found.is_alive(_time_at(paths)):
                return None
            if not _take_over(paths, found, myself):
                continue
        else:
            try:
                (paths.lease / myself.file_name).touch(exist_ok=False)
            except FileNotFoundError:  # we slept so long that the empty lease was considered dead
                continue
        return HeldLease(paths, myself)
    return None


def _take_over(paths: JobPaths, dead: Lease, myself: Owner) -> bool:
    """Whether this process is the one that took over the dead owner's lease."""
    if dead.owner is None:  # its creator died between two system calls: remove it and start over
        with contextlib.suppress(OSError):
            paths.lease.rmdir()
        return False
    before = paths.lease / dead.owner.file_name
    try:
        os.utime(before)  # first: under the new name, the heartbeat must be fresh from the start
        before.rename(paths.lease / myself.file_name)
    except FileNotFoundError:
        return False
    return True


def _time_at(paths: JobPaths) -> float:
    """The current time by the clock that dates the files of a job."""
    probe = paths.directory / f".clock.{secrets.token_hex(8)}.tmp"
    with probe.open("x") as file:
        probe.unlink(missing_ok=True)  # the owner of the lease may be cleaning up
        return os.fstat(file.fileno()).st_mtime


@lru_cache(maxsize=1)
def _host() -> str:
    return platform.node()[:64]


@lru_cache(maxsize=1)
def _machine() -> str:
    """Distinguishes machines, their reboots, and containers with process IDs of their own."""
    known: list[str] = []
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(known).encode()).hexdigest()[:8]


def _start_of(pid: int) -> str | None:
    """When a process of this machine started; None if there is none, or only a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = text.rpartition(")")[2].split()  # the program name in parentheses may contain ")"
        return None if state in "ZXx" else fields[18]
    try:
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    state, _, start = done.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else " ".join(start.split())
