"""The section `tune`: what is read, and what is refused (more of it in `bad_experiments.txt`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nteleport.errors import ExperimentError
from nteleport.experiment.experiment import Experiment, load_experiment
from nteleport.experiment.grids import MOST_EXTENSIONS, POINTS_PER_EXTENSION, LogGrid, Tuning
from nteleport.runner.preflight import load_checked

HEAD = """
datasets: digits
models: mlp
training_params: {epochs: 1, validation: 0.2}
runs: [10, 11]
"""


def load(tmp_path: Path, tune: str, *overrides: str, optimizers: str = "SGD") -> Experiment:
    path = tmp_path / "e.yml"
    path.write_text(f"{HEAD}optimizers: [{optimizers}]\n{f'tune: {tune}' if tune else ''}\n")
    return load_checked(path, overrides=overrides)


def tuning_of(experiment: Experiment) -> Tuning:
    assert experiment.tune is not None
    return experiment.tune


def test_a_section_is_read_by_hand(tmp_path: Path) -> None:
    grid = "{log_grid: [1e-4, 1], points: 13, extend: true}"
    tuning = tuning_of(
        load(
            tmp_path,
            f"{{optimizer.lr: {grid}, optimizer.weight_decay: [0, 0.01], by: val_accuracy, runs: [0, 1, 2]}}",
        )
    )
    rate, decay = tuning.keys
    assert (rate.name, rate.grid) == ("optimizer.lr", LogGrid(1e-4, 1, 13, extend=True))
    assert [rate.value(at) for at in range(13)] == [
        1e-4, 2.154e-4, 4.642e-4, 1e-3, 2.154e-3, 4.642e-3, 0.01, 0.02154, 0.04642, 0.1, 0.2154, 0.4642, 1,
    ]  # fmt: skip
    assert [rate.value(at) for at in (-2, -1, 13, 14)] == [2.154e-5, 4.642e-5, 2.154, 4.642]
    assert [decay.value(at) for at in decay.reach] == [0, 0.01]
    assert (tuning.runs, tuning.by) == ((0, 1, 2), "val_accuracy")
    beyond = MOST_EXTENSIONS * POINTS_PER_EXTENSION
    assert rate.reach == range(-beyond, 13 + beyond)


@pytest.mark.parametrize(("low", "high", "points"), [(1e-3, 10, 5), (3e-5, 0.7, 8), (0.5, 0.9, 4)])
def test_a_grid_has_equal_ratios_and_ends_as_written(low: float, high: float, points: int) -> None:
    grid = LogGrid(low, high, points)
    values = [grid.value(at) for at in range(points)]
    assert (values[0], values[-1]) == (low, high)
    assert values == pytest.approx(np.geomspace(low, high, points), rel=5e-4)  # four digits
    step = (high / low) ** (1 / (points - 1))
    assert grid.value(points) == pytest.approx(high * step, rel=5e-4)
    assert grid.value(-1) == pytest.approx(low / step, rel=5e-4)


def test_overrides_reach_dotted_keys_and_make_them(tmp_path: Path) -> None:
    grid = "{optimizer.lr: {log_grid: [0.01, 1], points: 3}, runs: [0]}"
    changed = load(tmp_path, grid, "tune.by=best_val_accuracy", "tune.optimizer.lr.points=5", "tune.runs=[1]")
    tuning = tuning_of(changed)
    assert (tuning.by, tuning.runs, tuning.keys[0].size) == ("best_val_accuracy", (1,), 5)
    made = load(tmp_path, "", "tune.optimizer.weight_decay=[0, 1]", "tune.runs=[0]")
    assert [key.name for key in tuning_of(made).keys] == ["optimizer.weight_decay"]


def test_values_that_only_work_together_are_tried_together(tmp_path: Path) -> None:
    tune = (
        "{optimizer.lr: [0.1], optimizer.momentum: [0.5, 0.9], optimizer.nesterov: [true, false], runs: [0]}"
    )
    assert len(tuning_of(load(tmp_path, tune)).keys) == 3
    assert tuning_of(
        load(tmp_path, "{optimizer.momentum: [0.9], runs: [0]}", optimizers="{cls: SGD, nesterov: true}")
    )


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("{§optimizer.lrr: [0.1], runs: [5]}", "SGD takes no argument 'lrr', expected lr, momentum"),
        ("{§optimizer.lrr: [0.1], runs: [5]}", "did you mean 'lr'?"),
        ("{optimizer.lr: [0.1, §-1], runs: [5]}", "Invalid learning rate: -1"),
        ("{optimizer.lr: [§fast], runs: [5]}", "lr: the text 'fast', expected a number"),
        ("{optimizer.lr: [1], optimizer.weight_decay: [§-1], runs: [5]}", "Invalid weight_decay"),
        ("{optimizer.nesterov: §{log_grid: [1, 2], points: 2}, runs: [5]}", "expected true or false"),
    ],
)
def test_what_the_optimizer_refuses_has_its_place(tmp_path: Path, marked: str, message: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, marked.replace("§", ""))
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (7, len("tune: ") + marked.index("§") + 1)
    assert message in problem.message


def test_an_extension_that_the_optimizer_would_refuse_is_refused_at_once(tmp_path: Path) -> None:
    """Adadelta takes no `rho` above 1; the grid itself ends at 0.9."""
    path = tmp_path / "e.yml"
    grid = "{optimizer.rho: {log_grid: [0.5, 0.9], points: 3, extend: EXTEND}, runs: [0]}"
    for extend, fails in (("false", False), ("true", True)):
        path.write_text(f"{HEAD}optimizers: Adadelta\ntune: {grid.replace('EXTEND', extend)}\n")
        if fails:
            with pytest.raises(ExperimentError, match="Invalid rho value"):
                load_checked(path)
        else:
            load_checked(path)


def test_the_section_alone_needs_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "e.yml"
    path.write_text(f"{HEAD}optimizers: SGD\ntune: {{optimizer.lrr: [0.1], runs: [0]}}\n")
    assert tuning_of(load_experiment(path)).keys[0].argument == "lrr"
