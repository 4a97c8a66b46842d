"""MLflow: runs in the database `<out>/mlflow.db`.

View them with `mlflow ui --backend-store-uri sqlite:///<out>/mlflow.db`.
MLFLOW_TRACKING_URI names another store or a server, MLFLOW_EXPERIMENT_NAME another experiment.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.time import get_current_time_millis

from nteleport.jobs.job import Job
from nteleport.trackers.tracker import PROJECT, Row

_JOB = "nteleport.job"
_CELL = "nteleport.cell"
_STATUS = {"finished": "FINISHED", "diverged": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflowTracker:
    """One run per job, found again by a tag with the job's digest when the job continues."""

    def __init__(self) -> None:
        self._client: Any = None
        self._run = ""

    def start(self, job: Job, out: Path, earlier: Sequence[Row]) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it prints into the progress bars
        uri = os.environ.get("MLFLOW_TRACKING_URI") or _database(out)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        self._client = MlflowClient(tracking_uri=uri)
        experiment = _experiment(self._client, name, out)
        if earlier and self._find(experiment, job):
            self._client.update_run(self._run, status="RUNNING")
            earlier = earlier[self._epochs_logged() :]
        else:
            tags = {_JOB: job.digest, _CELL: job.cell_name}
            self._run = self._client.create_run(experiment, run_name=job.name, tags=tags).info.run_id
            parameters = [Param(key, str(value)) for key, value in job.hparams().items()]
            self._client.log_batch(self._run, params=parameters)
        for row in earlier:
            self.log(row)

    def log(self, row: Row) -> None:
        self._log({key: value for key, value in row.items() if key != "epoch"}, int(row["epoch"]))

    def finish(self, state: str, summary: Mapping[str, float]) -> None:
        self._log(summary, 0)
        self._client.set_tag(self._run, "state", state)
        self._client.set_terminated(self._run, _STATUS[state])

    def _find(self, experiment: str, job: Job) -> bool:
        """Whether the job has a run; the latest one is then used."""
        tag = f"tags.`{_JOB}` = '{job.digest}'"
        found = self._client.search_runs(
            [experiment], tag, max_results=1, order_by=["attributes.start_time DESC"]
        )
        self._run = found[0].info.run_id if found else ""
        return bool(found)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = get_current_time_millis()
        metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def _epochs_logged(self) -> int:
        steps = [metric.step for metric in self._client.get_metric_history(self._run, "val_loss")]
        return max(steps, default=-1) + 1


def _experiment(client: Any, name: str, out: Path) -> str:
    """The id of the experiment called `name`, created if missing."""
    found = client.get_experiment_by_name(name)
    if found is None:
        with suppress(MlflowException):  # another process was faster
            client.create_experiment(name, artifact_location=(out / "mlartifacts").absolute().as_uri())
        found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def _database(out: Path) -> str:
    """The address of `<out>/mlflow.db`.

    MLflow initializes a new database in many steps, which several processes must not do at once. So it is
    initialized beside its target and appears there complete; if two processes do so, the first wins.
    """
    place = (out / "mlflow.db").absolute()
    if not place.exists():
        draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
        MlflowClient(tracking_uri=f"sqlite:///{draft}").search_experiments()
        with suppress(FileExistsError):
            os.link(draft, place)  # unlike a rename, it never replaces an existing database
        draft.unlink()
    return f"sqlite:///{place}"
