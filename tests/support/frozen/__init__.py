"""What the structure of the code must not change: names and seeds of jobs, small trainings, quivers.

``python -m support.frozen`` (with ``tests`` on the path) writes the files beside this one anew. Do that only
where a change is meant, and say in the commit why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from nteleport import Quiver, analyze
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.job import Job
from support import CONFIGS
from support.training_jobs import run, small_job
from support.zoo.networks import CONSTRUCTS, ZOO

FOLDER = Path(__file__).parent

TRAININGS: dict[str, Callable[[], Job]] = {
    "no_teleport": lambda: small_job(),
    "random": lambda: small_job("random", teleport={"every_n_epochs": 1}, optimizer_state="transport"),
    "optim": lambda: small_job("optim", teleport={"num_teleportations": 3, "every_n_epochs": 1}),
    "pseudo": lambda: small_job("pseudo"),
    "same_distr": lambda: small_job("same_distr"),
}
"""One small job for each mode. Three epochs of four batches."""


def jobs_of(config: Path) -> Iterator[list[str]]:
    """Name (which ends in the digest) and seed of every job of an experiment file."""
    for job in expand(load_experiment(config)):
        yield [job.name, str(job.seed)]


def job_table() -> str:
    """A line for each job of each file in ``configs/``: file, name and seed.

    The jobs of ``configs/evidence`` follow from the results of its tuning.
    """
    lines = ["file,name,seed"]
    tuned = CONFIGS / "evidence"
    for config in sorted(path for path in CONFIGS.rglob("*.yml") if tuned not in path.parents):
        lines += [",".join([config.relative_to(CONFIGS).as_posix(), *row]) for row in jobs_of(config)]
    return "\n".join(lines) + "\n"


def trained(mode: str, out: Path) -> tuple[list[list[str]], dict[str, torch.Tensor]]:
    """Rows of ``metrics.csv`` without their seconds, and the weights at the end."""
    job = TRAININGS[mode]()
    run(job, out, save_weights=True)
    lines = (out / job.name / "metrics.csv").read_text().splitlines()
    assert lines[0].endswith(",seconds")
    return [line.split(",")[:-1] for line in lines], torch.load(out / job.name / "weights.pt")


NETWORKS: dict[str, Callable[[], Any]] = {**ZOO, **CONSTRUCTS}


def quiver_digest(name: str) -> str:
    """Digest of the quiver of a network of the zoo in float64."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    try:
        return _digest(analyze(*NETWORKS[name]()))
    finally:
        torch.set_default_dtype(kept)


def _digest(quiver: Quiver) -> str:
    """Of all that a quiver says but its reasons, whose words may get better."""
    content = {
        "cob_size": quiver.cob_size,
        "training": quiver.training,
        "layers": [[layer.name, layer.start, layer.size] for layer in quiver.layers],
        "parameters": {
            name: [
                list(scaling.shape),
                scaling.status,
                [
                    [factor.power, list(factor.index.shape), factor.index.tolist()]
                    for factor in scaling.factors
                ],
                [output.tolist() for output in scaling.outputs],
            ]
            for name, scaling in quiver.parameters.items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
