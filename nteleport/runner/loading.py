"""From a file to an experiment in which everything is right, or to one error with all that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nteleport.errors import ExperimentError
from nteleport.experiment.experiment import Experiment, read_experiment


def load_experiment(
    path: Path | str, *, overrides: Sequence[str] = (), signatures: bool = False
) -> Experiment:
    """Read and check an experiment file.

    Args:
        path: the file.
        overrides: changes such as `training_params.epochs=5`, applied in order before the checks.
        signatures: check keyword arguments against torch's signatures as well, which imports torch.

    Raises:
        ExperimentError: with all problems, in the order of the file.
    """
    experiment, problems = read_experiment(Path(path), overrides)
    if signatures:
        from nteleport.runner.preflight import signature_problems

        problems += signature_problems(experiment)
    if problems:
        raise ExperimentError(sorted(set(problems)))
    return experiment
