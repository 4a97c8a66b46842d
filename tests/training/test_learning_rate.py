"""Learning-rate schedulers: equal to torch's own, with computed lengths, through teleportations and
checkpoints.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from nteleport import TeleportedOptimizer, analyze
from nteleport.errors import JobError
from nteleport.expression import compile_lambda
from nteleport.jobs.job import Scheduler
from nteleport.training.learning_rate import LearningRate, build_learning_rate

EPOCHS, STEPS = 4, 3


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)


def build(spec: Scheduler | None, optimizer: torch.optim.Optimizer) -> LearningRate:
    return build_learning_rate(
        optimizer, spec, epochs=EPOCHS, steps_per_epoch=STEPS, compile_lambda=compile_lambda
    )


def rates(learning_rate: LearningRate, optimizer: torch.optim.Optimizer) -> list[float]:
    """The rate of each step of a whole training."""
    found = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            found.append(learning_rate.current)
            optimizer.step()
            learning_rate.step_finished()
        learning_rate.epoch_finished(0.5)
    return found


# What the experiment says, and the scheduler of torch that it means.
CASES: dict[str, tuple[Scheduler, Any]] = {
    "StepLR": (
        Scheduler("StepLR", {"step_size": 2, "gamma": 0.5}),
        lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    ),
    "MultiStepLR by step": (
        Scheduler("MultiStepLR", {"milestones": [2, 5]}, interval="step"),
        lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    ),
    "OneCycleLR by step, length left out": (
        Scheduler("OneCycleLR", {"max_lr": 1.0}, interval="step"),
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=EPOCHS * STEPS),
    ),
    "OneCycleLR by epoch, length left out": (
        Scheduler("OneCycleLR", {"max_lr": 1.0}),
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=EPOCHS),
    ),
    "OneCycleLR by step, epochs given": (
        Scheduler("OneCycleLR", {"max_lr": 1.0, "epochs": 8}, interval="step"),
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, epochs=8, steps_per_epoch=STEPS),
    ),
    "CosineAnnealingLR, length left out": (
        Scheduler("CosineAnnealingLR"),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=EPOCHS),
    ),
    "CyclicLR by step": (
        Scheduler("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 2}, interval="step"),
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=2),
    ),
    "LambdaLR": (
        Scheduler("LambdaLR", {"lr_lambda": "lambda epoch: 0.95 ** epoch"}),
        lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.95**epoch),
    ),
    "MultiplicativeLR": (
        Scheduler("MultiplicativeLR", {"lr_lambda": ["lambda epoch: 0.5"]}),
        lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.5),
    ),
    "SequentialLR": (
        Scheduler(
            "SequentialLR",
            {
                "schedulers": [
                    {"cls": "ConstantLR", "factor": 0.1},
                    {"cls": "ExponentialLR", "gamma": 0.9},
                ],
                "milestones": [2],
            },
        ),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [2]
        ),
    ),
    "ReduceLROnPlateau": (
        Scheduler("ReduceLROnPlateau", {"patience": 0}),
        lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", patience=0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rates_are_those_of_the_scheduler_of_torch(case: str) -> None:
    spec, torch_scheduler = CASES[case]
    ours, theirs = sgd(), sgd()
    by_hand = torch_scheduler(theirs)
    expected = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            expected.append(theirs.param_groups[0]["lr"])
            theirs.step()
            if spec.interval == "step":
                by_hand.step()
        if spec.interval == "epoch":
            by_hand.step(*([0.5] if spec.cls == "ReduceLROnPlateau" else []))

    assert rates(build(spec, ours), ours) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("case", CASES)
def test_progress_survives_a_file_that_may_hold_no_code(case: str) -> None:
    spec, _ = CASES[case]
    whole = sgd()
    expected = rates(build(spec, whole), whole)
    first, second = sgd(), sgd()
    begun, resumed = build(spec, first), build(spec, second)
    for _ in range(STEPS):
        first.step()
        begun.step_finished()
    begun.epoch_finished(0.5)

    file = io.BytesIO()
    torch.save((first.state_dict(), begun.state_dict()), file)
    file.seek(0)
    optimizer_state, progress = torch.load(file, weights_only=True)
    second.load_state_dict(optimizer_state)
    resumed.load_state_dict(progress)

    continued = []
    for _ in range(EPOCHS - 1):
        for _ in range(STEPS):
            continued.append(resumed.current)
            second.step()
            resumed.step_finished()
        resumed.epoch_finished(0.5)
    assert continued == expected[STEPS:]


def test_plateau_watches_the_validation_accuracy_by_epochs() -> None:
    optimizer = sgd()
    learning_rate = build(Scheduler("ReduceLROnPlateau", {"patience": 0}, interval="step"), optimizer)
    seen = []
    for accuracy in (0.5, 0.6, 0.6, 0.7, 0.6):
        optimizer.step()
        learning_rate.step_finished()
        learning_rate.epoch_finished(accuracy)
        seen.append(round(learning_rate.current, 6))

    assert seen == [0.1, 0.1, 0.01, 0.01, 0.001]


def test_progress_continues_through_a_teleportation_that_resets_the_optimizer() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    quiver = analyze(network, torch.zeros(2, 3))
    optimizer = TeleportedOptimizer(network, quiver, torch.optim.SGD, lr=0.1, momentum=0.9)
    learning_rate = build(Scheduler("ExponentialLR", {"gamma": 0.5}), optimizer.optimizer)
    seen = []
    for _ in range(4):
        seen.append(learning_rate.current)
        optimizer.teleport(torch.full((quiver.cob_size,), 2.0), "reset")
        network(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        learning_rate.epoch_finished(0.5)

    assert seen == [0.1, 0.05, 0.025, 0.0125]


def test_without_a_scheduler_the_rate_is_constant() -> None:
    optimizer = sgd()

    assert rates(build(None, optimizer), optimizer) == [0.1] * EPOCHS * STEPS


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Scheduler("StepLr", {"step_size": 1}), "did you mean 'StepLR'"),
        (Scheduler("Counter"), "torch has no learning-rate scheduler 'Counter'"),
        (Scheduler("StepLR"), "torch refuses the arguments of the scheduler StepLR: .*step_size"),
        (Scheduler("StepLR", {"step_size": 1, "speed": 2}), "speed"),
    ],
)
def test_a_scheduler_that_torch_does_not_know_or_accept_is_an_error(spec: Scheduler, message: str) -> None:
    with pytest.raises(JobError, match=message):
        build(spec, sgd())


def test_steps_per_epoch_follow_from_the_data_whatever_the_file_says() -> None:
    """As in the published code, whose files give 196 for every batch size."""
    spec = Scheduler("OneCycleLR", {"max_lr": 1.0, "epochs": EPOCHS, "steps_per_epoch": 196}, interval="step")
    ours, theirs = sgd(), sgd()
    learning_rate = build(spec, ours)
    expected = lr_scheduler.OneCycleLR(theirs, 1.0, epochs=EPOCHS, steps_per_epoch=STEPS)
    assert rates(learning_rate, ours) == rates(LearningRate(theirs, expected, "step"), theirs)
    assert learning_rate.notes == (
        "OneCycleLR: steps_per_epoch is 3 here, not 196 as in the experiment file",
    )


@pytest.mark.parametrize("options", [{"total_steps": 11}, {"epochs": 3}])
def test_a_cycle_that_ends_before_the_training_is_refused(options: dict[str, int]) -> None:
    spec = Scheduler("OneCycleLR", {"max_lr": 1.0, **options}, interval="step")
    with pytest.raises(JobError, match="this training makes 12"):
        build(spec, sgd())
