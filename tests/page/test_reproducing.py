"""The experiment file of a report expands to the jobs of the folder, no more and no less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.synthetic_results import BASELINE, PSEUDO, TELEPORTED, make_job, matrix, sgd

from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.job import Component, Job, Scheduler
from nteleport.page.reproducing import experiment_files
from nteleport.schema.yaml_source import to_yaml

WHOLE = matrix(optimizers=[sgd(), sgd(0.1, 0.9)], teleportations=[BASELINE, TELEPORTED, PSEUDO], runs=3)
KEPT = [
    replace(job, training=replace(job.training, optimizer_state=state))
    for job in matrix(runs=2)
    for state in ("reset", "transport")
]
SCHEDULED = [
    make_job(scheduler=how, model=model)
    for how in (None, Scheduler("StepLR", {"step_size": 3}))
    for model in ("mlp", Component("mlp", {"hidden_layers": [8, 8]}))
]


@pytest.mark.parametrize(
    ("jobs", "files"),
    [(WHOLE, 1), (WHOLE[1:], 6), ([make_job()], 1), (list(dict.fromkeys(KEPT)), 1), (SCHEDULED, 1)],
    ids=["matrix", "one missing", "one job", "states", "schedules"],
)
def test_files_expand_to_the_jobs(jobs: list[Job], files: int, tmp_path: Path) -> None:
    written = experiment_files(jobs)
    assert len(written) == files
    expanded = []
    for number, content in enumerate(written):
        path = tmp_path / f"{number}.yml"
        path.write_text(to_yaml(content))
        expanded += expand(load_experiment(path))
    assert sorted(job.name for job in expanded) == sorted(job.name for job in jobs)
