"""What a command and its worker processes tell each other: JSON, over one connection each way.

The command sends `Settings` once, then a ticket at a time, and perhaps `stop`. The worker sends `ready`, and
of each job what a `RunReporter` hears; `busy` if another process trains it; `ended` with the outcome. Nothing
is ever unpickled. No torch is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nteleport.jobs.job import Component, Job, Scheduler, Teleportation, TrainingParams
from nteleport.jobs.paths import JobPaths
from nteleport.runner.queue import Ticket

Message = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What all jobs of a worker have in common; the fields mean what they do in `attempt.Attempts`.

    Attributes:
        out: the folder of the results.
        trackers: names of experiment trackers.
    """

    out: str
    data_dir: str
    device: str
    save_weights: bool = False
    redo: bool = False
    trackers: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    def as_json(self) -> Message:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Settings:
        tuples = {key: tuple(content[key]) for key in ("trackers", "command")}
        return cls(**{**content, **tuples})


def send(connection: Connection, **message: Any) -> None:
    """Send a message.

    Raises:
        OSError: the other side is gone.
    """
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> Message:
    """Wait for a message.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    content: Message = json.loads(connection.recv_bytes())
    return content


def ticket_as_json(ticket: Ticket) -> Message:
    return {"job": asdict(ticket.job), "stamp": ticket.stamp}


def ticket_from_json(content: Mapping[str, Any], out: Path) -> Ticket:
    parts = content["job"]
    job = Job(
        dataset=parts["dataset"],
        training=TrainingParams(**parts["training"]),
        model=Component(**parts["model"]),
        initializer=Component(**parts["initializer"]),
        optimizer=Component(**parts["optimizer"]),
        scheduler=Scheduler(**parts["scheduler"]) if parts["scheduler"] else None,
        teleportation=Teleportation(**parts["teleportation"]),
        run=parts["run"],
    )
    stamp = content["stamp"]
    return Ticket(job, JobPaths(out, job.name), tuple(stamp) if stamp else None)
