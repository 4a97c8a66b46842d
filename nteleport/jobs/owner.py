"""Processes that own leases and temporary files: how they are named, and whether they are alive. No torch.

A process is named by its machine, process ID and start time, so that it is never confused with a later
process of the same ID. Whether it is alive can be seen only from its own machine, and not always there:
`/proc` may be hidden from other users (`hidepid`). In doubt the answer is that nobody knows, and silence
has to decide.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote


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
        owner = cls(parts[0], int(parts[1]), *parts[2:])
        return owner if owner.file_name == file_name else None

    @classmethod
    def myself(cls) -> Owner:
        """This process, with a new nonce."""
        pid = os.getpid()
        return cls(_host(), pid, _start_of(pid) or "", _machine(), secrets.token_hex(4))

    def is_running(self) -> bool | None:
        """Whether the process is alive; None if that cannot be seen from here."""
        if not self.is_here:
            return None
        started = _start_of(self.pid)
        if started is not None:
            return started == self.started
        return None if _exists(self.pid) else False

    @property
    def is_here(self) -> bool:
        """Whether its process would be visible from here if it were alive."""
        return bool(self.started) and (self.host, self.machine) == (_host(), _machine())

    @property
    def _parts(self) -> tuple[str, str, str, str]:
        return self.host, str(self.pid), self.started, self.machine


def temporary_mark() -> str:
    """A unique mark for the name of a temporary file, which `maker_is_running` understands."""
    pid = os.getpid()
    return f"{_here()}-{pid}-{_my_start(pid)}-{secrets.token_hex(4)}"


def maker_is_running(mark: str) -> bool | None:
    """Whether the process that made a mark is alive; None if that cannot be seen from here, or it is none."""
    where, pid, started, *rest = [*mark.split("-"), "", "", ""]
    if where != _here() or not pid.isdecimal() or not started or len(rest) != 4:
        return None
    return Owner(_host(), int(pid), unquote(started), _machine(), rest[0]).is_running()


_ZOMBIE = ""


@lru_cache(maxsize=1)
def _here() -> str:
    return hashlib.sha256(f"{_host()} {_machine()}".encode()).hexdigest()[:8]


@lru_cache(maxsize=1)
def _my_start(pid: int) -> str:
    """The start time of this process, whose ID changes in a fork."""
    return quote(_start_of(pid) or "", safe="")


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
    """When a process of this machine started, `_ZOMBIE` if it has ended; None if none can be seen."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:  # there is none, or `hidepid` hides it
            return None
        state, *fields = text.rpartition(")")[2].split()  # the program name in parentheses may contain ")"
        return _ZOMBIE if state in "ZXx" else fields[18]
    try:
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    state, _, start = done.stdout.strip().partition(" ")
    if state.startswith("Z"):
        return _ZOMBIE
    return " ".join(start.split()) if state else None


def _exists(pid: int) -> bool:
    """Whether there is a process with this ID here, whoever owns it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True
