"""Weights & Biases: runs in `<out>/wandb`, uploaded live when you are logged in.

Without a login, or with WANDB_MODE=offline, they are only written; `wandb sync <out>/wandb/offline-run-*`
uploads them later. WANDB_PROJECT and the other variables of the package are honored. The runs of a cell form
a group.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from nteleport.jobs.job import Job
from nteleport.trackers.tracker import PROJECT, Row

_OVER = ("finished", "diverged")


class WandbTracker:
    """One run per job. Its id is derived from the job, so a resumed job continues in the same run."""

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, job: Job, out: Path, earlier: Sequence[Row]) -> None:
        # wandb.init would ask for a key in the terminal, in the middle of a run
        online = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=job.digest[:32],
            name=job.name,
            group=job.cell_name,
            config=job.hparams(),
            dir=out,
            mode=None if online else "offline",
            resume="allow" if online else None,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        for row in earlier:
            if row["epoch"] >= self._run.step:
                self.log(row)

    def log(self, row: Row) -> None:
        metrics = {key: value for key, value in row.items() if key != "epoch"}
        self._run.log(metrics, step=int(row["epoch"]), commit=True)

    def finish(self, state: str, summary: Mapping[str, float]) -> None:
        self._run.summary.update({"state": state, **summary})
        self._run.finish(exit_code=0 if state in _OVER else 1)
