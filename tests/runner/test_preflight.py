"""Keyword arguments of optimizers, schedulers and models against what torch really takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import CONFIGS
from support.releases import needs_torch

from nteleport.errors import ExperimentError
from nteleport.experiment.experiment import load_experiment
from nteleport.runner.preflight import load_checked, signature_problems


def complaints(tmp_path: Path, *, models: str = "mlp", optimizers: str = "SGD", more: str = "") -> list[str]:
    """The problems as `line:column: message`; `models` is on line 2 and `optimizers` on line 3."""
    path = tmp_path / "e.yml"
    path.write_text(f"datasets: [digits, cifar10]\nmodels: [{models}]\noptimizers: [{optimizers}]\n{more}\n")
    try:
        load_checked(path)
    except ExperimentError as error:
        return [str(problem).removeprefix(f"{path}:") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "optimizer",
    [
        "{cls: SGD, lr: 1, momentum: 0.9, nesterov: true, weight_decay: 1e-4}",
        "{cls: Adam, betas: [0.9, 0.95], capturable: true, fused: true}",
        "AdamW",
        "Adagrad",
        "RMSprop",
        "LBFGS",
        "{cls: Adafactor, eps: [null, 1e-3]}",
    ],
)
def test_a_right_optimizer_passes(tmp_path: Path, optimizer: str) -> None:
    assert complaints(tmp_path, optimizers=optimizer) == []


@pytest.mark.parametrize(
    "scheduler",
    [
        "{cls: ReduceLROnPlateau, mode: max, patience: 3}",
        "{cls: OneCycleLR, max_lr: 0.1, interval: step}",
        "CosineAnnealingLR",
        "{cls: LambdaLR, lr_lambda: 'lambda epoch: 0.95 ** epoch'}",
        "{cls: CyclicLR, base_lr: 0.01, max_lr: 0.1, interval: step, scale_fn: 'lambda x: 0.9 ** x'}",
        "{cls: SequentialLR, milestones: [2], schedulers: [{cls: ConstantLR}, {cls: StepLR, step_size: 3}]}",
    ],
)
def test_a_right_scheduler_passes_without_what_is_computed(tmp_path: Path, scheduler: str) -> None:
    optimizer = f"{{cls: SGD, lr: 0.1, momentum: 0.9, lr_scheduler: {scheduler}}}"
    assert complaints(tmp_path, optimizers=optimizer) == []


@pytest.mark.parametrize(
    ("optimizer", "place", "message"),
    [
        ("{cls: SDG}", "3:20", "unknown optimizer 'SDG', expected one of ASGD"),
        ("Optimizer", "3:14", "unknown optimizer 'Optimizer'"),
        ("{cls: SGD, momentun: 0.9}", "3:25", "SGD takes no argument 'momentun', expected lr, momentum"),
        ("{cls: SGD, momentun: 0.9}", "3:25", "did you mean 'momentum'?"),
        ("{cls: SGD, lr: 0.1, momentum: [0.9]}", "3:44", "momentum: a list, expected a number"),
        ("{cls: SGD, params: []}", "3:25", "SGD takes no argument 'params'"),
        ("{cls: SGD, lr: fast}", "3:29", "lr: the text 'fast', expected a number"),
        ("{cls: SGD, lr: true}", "3:29", "lr: true, expected a number"),
        ("{cls: SGD, nesterov: 1}", "3:35", "nesterov: the number 1, expected true or false"),
        ("{cls: Adam, betas: 0.9}", "3:33", "betas: the number 0.9, expected a list of 2"),
        ("{cls: Adam, betas: [0.9]}", "3:33", "betas: a list, expected a list of 2"),
        ("{cls: SGD, lr: -1}", "3:20", "SGD: Invalid learning rate: -1"),
        ("{cls: SGD, nesterov: true}", "3:20", "SGD: Nesterov momentum requires a momentum"),
        ("SparseAdam", "3:14", "SparseAdam does not support dense gradients"),
        pytest.param("Muon", "3:14", "Muon only supports 2D parameters", marks=needs_torch("2.9")),
    ],
)
def test_a_wrong_optimizer_is_reported_with_its_place(
    tmp_path: Path, optimizer: str, place: str, message: str
) -> None:
    (problem,) = complaints(tmp_path, optimizers=optimizer)
    assert problem.startswith(f"{place}: ")
    assert message in problem


@pytest.mark.parametrize(
    ("scheduler", "column", "message"),
    [
        ("Plateau", 1, "unknown learning-rate scheduler 'Plateau'"),
        ("{cls: StepLr, step_size: 1}", 7, "did you mean 'StepLR'?"),
        ("{cls: StepLR}", 7, "StepLR without step_size, which it needs"),
        ("{cls: OneCycleLR}", 7, "OneCycleLR without max_lr, which it needs"),
        ("{cls: ReduceLROnPlateau, patiense: 3}", 26, "did you mean 'patience'?"),
        ("{cls: ReduceLROnPlateau, patience: soon}", 36, "patience: the text 'soon', expected a number"),
        ("{cls: ReduceLROnPlateau, mode: most}", 7, "mode most is unknown"),
        ("{cls: ExponentialLR, gamma: a}", 7, "ExponentialLR: "),
        ("{cls: LambdaLR, lr_lambda: 'lambda epoch: 1 / epoch'}", 7, "has no value at epoch = 0"),
        ("{cls: SequentialLR, milestones: [], schedulers: [{cls: ConstantLR, factr: 1}]}", 68, "'factor'?"),
    ],
)  # fmt: skip
def test_a_wrong_scheduler_is_reported_with_its_place(
    tmp_path: Path, scheduler: str, column: int, message: str
) -> None:
    before = "{cls: SGD, lr: 0.1, lr_scheduler: "
    problems = complaints(tmp_path, optimizers=f"{before}{scheduler}}}")
    assert len(problems) == 1
    assert problems[0].startswith(f"3:{len('optimizers: [' + before) + column}: ")
    assert message in problems[0]


def test_a_cyclic_momentum_needs_a_momentum(tmp_path: Path) -> None:
    optimizer = "{cls: Adagrad, lr: 0.1, lr_scheduler: {cls: OneCycleLR, max_lr: 1}}"
    (problem,) = complaints(tmp_path, optimizers=optimizer)
    assert "momentum" in problem


@pytest.mark.parametrize(
    ("model", "place", "message"),
    [
        ("{cls: mlp, hiden_layers: [3]}", "2:21", "model mlp takes no argument 'hiden_layers'"),
        ("{cls: mlp, hidden_layers: [3, a]}", "2:16", "expected a list of whole numbers"),
        ("{cls: mlp, num_classes: 3}", "2:21", "takes no argument 'num_classes'"),
        ("{cls: resnet18, zero_init_residuals: true}", "2:26", "did you mean 'zero_init_residual'?"),
        ("maxvit_t", "2:10", "cannot take images of 32×32"),
    ],
)
def test_a_wrong_model_is_reported_with_its_place(
    tmp_path: Path, model: str, place: str, message: str
) -> None:
    (problem,) = complaints(tmp_path, models=model)
    assert problem.startswith(f"{place}: ")
    assert message in problem


def test_an_optimizer_without_a_fused_form_cannot_be_fused(tmp_path: Path) -> None:
    assert complaints(tmp_path, optimizers="SGD", more="training_params: {fused: true}") == []
    (problem,) = complaints(tmp_path, optimizers="Rprop", more="training_params: {fused: true}")
    assert problem.startswith("3:14: Rprop has no fused form")


def test_a_state_that_cannot_be_transported_is_reported_before_training(tmp_path: Path) -> None:
    never = "training_params: {optimizer_state: transport}"
    more = f"{never}\nteleportations: {{no_teleport: , teleport: {{mode: random}}}}"
    assert complaints(tmp_path, optimizers="Adam", more=more) == []
    (problem,) = complaints(tmp_path, optimizers="LBFGS", more=more)
    assert "the state of LBFGS cannot be transported" in problem
    assert complaints(tmp_path, optimizers="LBFGS", more=never) == []


def test_problems_of_structure_and_of_signatures_come_together(tmp_path: Path) -> None:
    problems = complaints(
        tmp_path, models="mpl, {cls: mlp, width: 3}", optimizers="{cls: SGD, rate: 1}", more="runs: x"
    )
    assert [problem.split(": ")[0] for problem in problems] == ["2:10", "2:26", "3:25", "4:7"]


def test_checking_draws_no_random_number(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    assert complaints(tmp_path, models="resnet18, mlp", optimizers="Adam") == []
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "config", sorted(CONFIGS.rglob("*.yml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_shipped_experiment_can_be_trained(config: Path) -> None:
    assert signature_problems(load_experiment(config)) == []


def test_a_cycle_that_would_end_in_mid_training_is_found_before_it(tmp_path: Path) -> None:
    """With its place: 1,437 images in batches of 32 are 45 steps."""
    one_cycle = "{cls: OneCycleLR, max_lr: 1, interval: step, total_steps: 89}"
    training = "training_params: {epochs: 2, batch_size: 32}"
    found = complaints(
        tmp_path, optimizers=f"{{cls: SGD, lr: 0.1, lr_scheduler: {one_cycle}}}", more=training
    )
    assert len(found) == 1
    assert "ends after 89 steps, but this training makes" in found[0]
