"""Comet: experiments that are uploaded live when an API key is configured.

Without a key they are written to `<out>/comet/*.zip` when their job ends; `comet upload <out>/comet/*.zip`
uploads them later. COMET_API_KEY, COMET_PROJECT_NAME and the other settings of the package are honored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comet_ml
from comet_ml.config import get_config

from nteleport.jobs.job import Job
from nteleport.trackers.tracker import PROJECT, Row


class CometTracker:
    """One experiment per job. Its key is derived from the job, so a resumed job continues in the same one.

    Earlier rows are logged again: an offline archive is lost when its process is killed, and logging a value
    that Comet already has does not change it.
    """

    def __init__(self) -> None:
        self._experiment: Any = None

    def start(self, job: Job, out: Path, earlier: Sequence[Row]) -> None:
        logging.getLogger("comet_ml").setLevel(logging.ERROR)  # else it prints into the progress bars
        settings = get_config()
        folder = out / "comet"
        folder.mkdir(exist_ok=True)
        self._experiment = comet_ml.start(
            project_name=settings["comet.project_name"] or PROJECT,
            experiment_key=job.digest[:48],
            mode="get_or_create",
            online=bool(settings["comet.api_key"]),
            experiment_config=_only_what_is_given(name=job.name, tags=[job.cell_name], folder=folder),
        )
        self._experiment.log_parameters(job.hparams(), nested_support=False)
        for row in earlier:
            self.log(row)

    def log(self, row: Row) -> None:
        epoch = int(row["epoch"])
        metrics = {key: value for key, value in row.items() if key != "epoch"}
        self._experiment.log_metrics(metrics, step=epoch, epoch=epoch)

    def finish(self, state: str, summary: Mapping[str, float]) -> None:
        self._experiment.log_others({"state": state, **summary})
        self._experiment.end()


def _only_what_is_given(*, name: str, tags: list[str], folder: Path) -> Any:
    """A configuration without what Comet collects by itself: code, output, environment, git."""
    off = (
        "log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch",
        "log_env_details", "log_env_gpu", "log_env_host", "log_env_cpu", "log_env_network", "log_env_disk",
        "auto_output_logging", "auto_param_logging", "auto_metric_logging", "auto_log_co2",
        "display_summary_level",
    )  # fmt: skip
    return comet_ml.ExperimentConfig(
        name=name, tags=tags, offline_directory=str(folder), **dict.fromkeys(off, False)
    )
