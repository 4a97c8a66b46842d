"""The messages between a command and its worker processes, pickled over a two-way connection. No torch.

The command sends the output folder and the `RunOptions` once, then one ticket at a time, possibly `Stop`. The
worker sends `Ready` or `Refused`, then for each ticket the events of the job, or `Busy`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stop:
    """Stop at the next batch."""


@dataclass(frozen=True)
class Ready:
    """The worker can start; a worker on a GPU is replaced after a failed job."""

    on_cpu: bool


@dataclass(frozen=True)
class Refused:
    """The worker cannot start, for this reason."""

    error: str


@dataclass(frozen=True)
class Busy:
    """Another process is training the job of the last ticket."""
