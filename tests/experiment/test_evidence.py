"""The experiments of `configs/evidence` are fair: what each must have for a verdict about its arms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from support import CONFIGS

from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import cells
from nteleport.experiment.trials import plan
from nteleport.jobs.job import Job, Teleportation
from nteleport.runner.preflight import load_checked

FOLDER = CONFIGS / "evidence"
BLOCKS = sorted(FOLDER.glob("*.yml"))
ALL = sorted(FOLDER.rglob("*.yml"))
MODES_OF_ALL_ARMS = {
    "no_teleport", "random", "layer_rates", "shuffled_rates", "layer_cob", "optimizer_reset",
    "matched_norms", "pseudo", "same_distr", "optimize",
}  # fmt: skip


def arms_of(path: Path) -> dict[str, list[Job]]:
    """The arms of each cell: jobs that differ in their teleportation alone."""
    found: dict[str, list[Job]] = {}
    for job in cells(replace(load_experiment(path), tune=None)):
        found.setdefault(replace(job, teleportation=Teleportation()).digest, []).append(job)
    return found


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_networks_and_optimizers_take_what_the_file_gives_them(path: Path) -> None:
    load_checked(path)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_smallest_p_that_all_pairs_can_reach_passes_holm(path: Path) -> None:
    runs = len(load_experiment(path).runs)
    for arms in arms_of(path).values():
        assert 2 / 2**runs * (len(arms) - 1) <= 0.05  # two signs of all differences, of 2ⁿ


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_cell_has_its_baseline_and_chooses_on_other_runs_than_it_reports(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.tune is not None
    assert not set(experiment.tune.runs) & set(experiment.runs)
    for arms in arms_of(path).values():
        modes = [arm.teleportation.mode for arm in arms]
        assert modes[0] == "no_teleport"
        assert {"random", "layer_rates", "shuffled_rates"} <= set(modes)
        assert all(arm.training.validation for arm in arms)


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
def test_the_comment_of_a_block_counts_its_trainings(path: Path) -> None:
    def score(job: Job) -> float:
        """Best at 0.01, inside of every grid: nothing is extended."""
        return 1 - abs(math.log10(job.optimizer.kwargs["lr"]) + 2) / 10

    planned = plan(load_experiment(path), score)
    assert planned.is_complete
    assert len({job.optimizer.kwargs["lr"] for job in planned.tuning}) == 7
    assert f" = {len(planned.tuning) + len(planned.reported)} trainings" in path.read_text(encoding="utf-8")


def test_digits_have_every_arm_from_both_initial_weights() -> None:
    for optimizer in ("momentum", "adamw"):
        found = arms_of(FOLDER / f"digits_{optimizer}.yml")
        assert [arms[0].initializer.cls for arms in found.values()] == ["none", "kaiming"]
        for arms in found.values():
            assert {arm.teleportation.mode for arm in arms} == MODES_OF_ALL_ARMS


def test_a_reset_is_compared_with_a_teleportation_at_its_epoch() -> None:
    for optimizer in ("momentum", "adamw"):
        for arms in arms_of(FOLDER / f"digits_{optimizer}.yml").values():
            schedule = {(arm.teleportation.mode, arm.teleportation.epochs) for arm in arms}
            assert {("random", (7,)), ("optimizer_reset", (7,))} <= schedule


def test_the_blocks_cover_the_data_sets_and_the_networks() -> None:
    found = {(arms[0].dataset, arms[0].model.cls) for path in ALL for arms in arms_of(path).values()}
    assert found == {
        ("digits", "mlp"), ("mnist", "mlp"), ("fashion_mnist", "mlp"), ("fashion_mnist", "cnn"),
        ("cifar10", "mlp"), ("cifar10", "resnet18"), ("cifar10", "vit"),
    }  # fmt: skip
