"""Leases: one job is trained by one process at a time, even when many processes share the folder.

A process acquires the lease of a job by creating the folder `claim` inside the job's folder; of many
processes, `mkdir` lets one succeed. The folder holds one empty file: its name identifies the owner, its
modification time is the owner's heartbeat. The lease of a dead owner is taken over by renaming that file to
a name of one's own: the old name is unique, so again exactly one process succeeds, and a suspended owner
that wakes up later finds its file gone. A folder without an owner, whose maker died before signing it, is
taken over by signing it. Whoever has signed looks for other live owners and withdraws if there is one, so
that of processes that sign at the same moment at most one stays. Files of others in the folder
(`.DS_Store`, `.nfs…`) are never in the way. No lock is ever left for a person to remove.

An owner on this machine is dead when no process has its process ID and start time. An owner elsewhere, or
one that cannot be seen, is dead when its heartbeat has stopped for `SILENCE` seconds. File times are
compared with the time of a file just written beside them, so the clocks of different machines need not
agree; a heartbeat in the future, left by a clock that was wrong, is dated anew by whoever waits for it. No
torch is imported.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR

from nteleport.jobs.owner import Owner
from nteleport.jobs.paths import JobPaths

HEARTBEAT = 10.0
"""Seconds between heartbeats."""

SILENCE = 90.0
"""Seconds without a heartbeat after which an owner that cannot be seen is considered dead."""


@dataclass(frozen=True)
class Lease:
    """A lease as found on disk: its owner, None at the moment it is acquired or released, and the time of its
    last heartbeat, in seconds since the Unix epoch.
    """

    owner: Owner | None
    heartbeat: float

    def is_alive(self, now: float | None = None) -> bool:
        """Whether the owner is alive; `now` is the time, by default from this machine's clock."""
        running = self.owner.is_running() if self.owner is not None else None
        if running is not None:
            return running
        return abs((time.time() if now is None else now) - self.heartbeat) < SILENCE


def read_lease(paths: JobPaths) -> Lease | None:
    """The lease of a job, alive or not; None if there is none.

    Raises:
        OSError: the folder `claim` cannot be read.
    """
    try:
        found = paths.lease.lstat()
        if not S_ISDIR(found.st_mode) and not paths.lease.is_dir():  # a file of others: nobody's lease
            return Lease(None, 0.0)
        signed = _signed(paths.lease)
    except FileNotFoundError:  # released or taken over at this moment
        return Lease(None, time.time()) if os.path.lexists(paths.lease) else None
    if len(signed) > 1:  # two have signed at the same moment, and one is about to withdraw
        signed.sort(key=lambda lease: (lease.is_alive(), lease.heartbeat), reverse=True)
    return signed[0] if signed else Lease(None, found.st_mtime)


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
            _clear(self._folder)


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
            now = time_at(paths)
            if _date_anew(paths, found, now) or found.is_alive(now):
                return None
            signed = _take_over(paths, found, myself)
        else:
            signed = _sign(paths, myself)
        if signed and _is_alone(paths, myself):
            return HeldLease(paths, myself)
    return None


def _sign(paths: JobPaths, myself: Owner) -> bool:
    """Write the name of this process into the folder; False if others have removed it meanwhile."""
    try:
        (paths.lease / myself.file_name).touch(exist_ok=False)
    except FileNotFoundError:
        return False
    return True


def _take_over(paths: JobPaths, dead: Lease, myself: Owner) -> bool:
    """Whether this process has taken over the dead owner's lease."""
    if dead.owner is None:
        if paths.lease.is_dir():
            return _sign(paths, myself)
        with contextlib.suppress(OSError):
            paths.lease.unlink()
        return False
    before = paths.lease / dead.owner.file_name
    try:
        os.utime(before)  # first: under the new name, the heartbeat must be fresh from the start
        before.rename(paths.lease / myself.file_name)
    except FileNotFoundError:
        return False
    return True


def _is_alone(paths: JobPaths, myself: Owner) -> bool:
    """Whether no other live process has signed; else the signature of this one is withdrawn."""
    with contextlib.suppress(FileNotFoundError):  # others have signed and withdrawn: nothing is certain
        others = [lease for lease in _signed(paths.lease) if lease.owner != myself]
        if not others:
            return True
        now = time_at(paths)
        if not any(lease.is_alive(now) for lease in others):
            for lease in others:
                _file_of(paths, lease).unlink()
            return True
    HeldLease(paths, myself).release()
    return False


def _date_anew(paths: JobPaths, found: Lease, now: float) -> bool:
    """Whether the heartbeat lies in the future and is now dated to the present: it then has `SILENCE` seconds
    to go on.
    """
    if found.heartbeat <= now + HEARTBEAT or (found.owner and found.owner.is_running() is not None):
        return False
    try:
        os.utime(_file_of(paths, found))
    except OSError:  # gone at this moment, or of another user
        return False
    return True


def _file_of(paths: JobPaths, lease: Lease) -> Path:
    """What carries the heartbeat of a lease."""
    return paths.lease / lease.owner.file_name if lease.owner else paths.lease


def _signed(folder: Path) -> list[Lease]:
    """The owners that have signed, usually one; files and folders of others are passed over."""
    with os.scandir(folder) as entries:
        owners = [(entry, Owner.parse(entry.name)) for entry in entries if not _is_folder(entry)]
    return [Lease(owner, entry.stat().st_mtime) for entry, owner in owners if owner is not None]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _clear(folder: Path) -> None:
    """Remove a folder without an owner and the files of others in it, or mark it as free."""
    with os.scandir(folder) as entries:
        foreign = [entry for entry in entries if not _is_folder(entry) and Owner.parse(entry.name) is None]
    for entry in foreign:
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
    try:
        folder.rmdir()
    except OSError:
        os.utime(folder, (0, 0))  # free at once, without waiting for silence


def time_at(paths: JobPaths) -> float:
    """The current time by the clock that dates the files of a job."""
    probe = paths.directory / f".clock.{secrets.token_hex(8)}.tmp"
    with probe.open("x") as file:
        probe.unlink(missing_ok=True)  # the owner of the lease may be cleaning up
        return os.fstat(file.fileno()).st_mtime


def is_recent(paths: JobPaths, file: Path) -> bool:
    """Whether a file of a job was changed in the last `SILENCE` seconds; False if there is none."""
    try:
        return abs(time_at(paths) - file.lstat().st_mtime) < SILENCE
    except FileNotFoundError:
        return False
