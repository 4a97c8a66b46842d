"""What a command and its worker processes tell each other, pickled over one connection each way. No torch.

The command sends the folder of the results and the `RunOptions` once, then one ticket at a time, and perhaps
`Stop`. The worker sends `Ready` or `Refused`, then the events of each job, or `Busy`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stop:
    """Stop at the next batch."""


@dataclass(frozen=True)
class Ready:
    """The worker can begin; a worker on a GPU is replaced after a failed job."""

    on_cpu: bool


@dataclass(frozen=True)
class Refused:
    """The worker cannot begin, for this reason."""

    error: str


@dataclass(frozen=True)
class Busy:
    """Another process trains the job of the last ticket."""
