"""Which jobs a picture compares, what it calls them, and what it warns of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.synthetic_results import (
    BASELINE,
    PSEUDO,
    TELEPORTED,
    make_job,
    matrix,
    sgd,
    write_jobs,
)

from nteleport.errors import ResultsError
from nteleport.jobs.job import Component, Job, Plateau, Scheduler
from nteleport.jobs.table import read_results
from nteleport.plots.grouping import arrange
from nteleport.plots.panels import Panel, default_group_by
from nteleport.plots.wording import labels_with_state, metric_label, model_name, split_state

Arrange = Callable[[Sequence[Job], str], list[Panel]]


@pytest.fixture
def panels(tmp_path: Path) -> Arrange:
    """Write finished jobs and arrange them by a comma-separated list."""

    def arranged(jobs: Sequence[Job], group_by: str) -> list[Panel]:
        write_jobs(tmp_path, jobs)
        return arrange(read_results(tmp_path), group_by.split(","))

    return arranged


def labels(panel: Panel) -> list[str]:
    return [group.label for group in panel.groups]


def short(**fields: object) -> list[Job]:
    return matrix(**{"epochs": 1, "runs": 2, **fields})  # type: ignore[arg-type]


SIX = [sgd(lr, momentum) for lr in (0.01, 0.001, 0.0001) for momentum in (None, 0.9)]


def test_labels_name_only_what_differs(panels: Arrange) -> None:
    (panel,) = panels(short(optimizers=SIX), "teleport,optimizer")
    assert labels(panel) == [
        f"lr {lr}{momentum}, {kind}"
        for lr in ("0.0001", "0.001", "0.01")
        for momentum in ("", ", momentum 0.9")
        for kind in ("no teleport", "teleported")
    ]


@pytest.mark.parametrize(
    ("optimizers", "expected"),
    [
        ([sgd(), sgd(momentum=0.9)], ["no momentum", "momentum 0.9"]),
        ([sgd(), Component("Adam", {"lr": 0.01, "weight_decay": 0.01})], ["Adam", "SGD"]),
        ([sgd(0.1), Component("Adam", {"lr": 0.001})], ["Adam, lr 0.001", "SGD, lr 0.1, weight decay 0.01"]),
        (
            [Component("SGD", {"lr": 0.1, "nesterov": nesterov}) for nesterov in (False, True)],
            ["no nesterov", "nesterov"],
        ),
        ([sgd(1e-5), sgd(10.0)], ["lr 1e-05", "lr 10"]),
        ([sgd(0.12345678), sgd(0.12345679)], ["lr 0.12345678", "lr 0.12345679"]),
    ],
    ids=["unset", "class", "class and more", "flag", "numbers", "close numbers"],
)
def test_settings_in_words(panels: Arrange, optimizers: list[Component], expected: list[str]) -> None:
    (panel,) = panels(short(optimizers=optimizers, teleportations=[BASELINE]), "optimizer")
    assert labels(panel) == expected


@pytest.mark.parametrize(
    ("teleportations", "expected"),
    [
        ([BASELINE, TELEPORTED], ["no teleport", "teleported"]),
        ([PSEUDO, TELEPORTED, BASELINE], ["no teleport", "teleported", "pseudo-teleported"]),
        (
            [BASELINE, TELEPORTED, replace(TELEPORTED, cob_range=0.5)],
            ["no teleport", "teleported, range 0.5", "teleported, range 0.9"],
        ),
        (
            [TELEPORTED, replace(TELEPORTED, cob_sampling="intra_landscape")],
            ["teleported, inter", "teleported, intra"],
        ),
        (
            [TELEPORTED, replace(TELEPORTED, every_n_epochs=10, teleport_only_once=False)],
            ["teleported, at epoch 0", "teleported, every 10 epochs"],
        ),
        (
            [
                TELEPORTED,
                replace(TELEPORTED, epochs=(0, 10, 20), teleport_only_once=False),
                replace(TELEPORTED, every_n_steps=100),
                replace(TELEPORTED, every_n_steps=100, teleport_only_once=False),
                replace(TELEPORTED, on_plateau=Plateau(3), teleport_only_once=False),
                replace(TELEPORTED, on_plateau=Plateau(3, "val_loss")),
            ],
            [
                "teleported, at epochs 0, 10, 20",
                "teleported, on plateau (patience 3)",
                "teleported, at the first plateau (monitor val_loss, patience 3)",
                "teleported, at epoch 0",
                "teleported, every 100 steps",
                "teleported, at step 100",
            ],
        ),
        (
            [TELEPORTED, replace(TELEPORTED, activations="kept")],
            ["teleported", "teleported, activations kept"],
        ),
        (
            [replace(TELEPORTED, mode="optimize", objective=name) for name in ("balance", "grad_norm")],
            ["chosen teleport, balance", "chosen teleport, grad norm"],
        ),
        (
            [replace(TELEPORTED, mode="optim", num_teleportations=n) for n in (10, 20)],
            ["optimized teleport, best of 10", "optimized teleport, best of 20"],
        ),
    ],
    ids=[
        "pair",
        "modes",
        "ranges",
        "samplings",
        "schedules",
        "all schedules",
        "activations",
        "objectives",
        "options",
    ],
)
def test_teleportations_in_words(panels: Arrange, teleportations: list[object], expected: list[str]) -> None:
    (panel,) = panels(short(teleportations=teleportations), "teleport")
    assert labels(panel) == expected


def test_a_baseline_and_its_teleported_counterpart_share_a_setting(panels: Arrange) -> None:
    (panel,) = panels(short(optimizers=SIX[:2]), "optimizer,teleport")
    assert [(group.setting, group.is_baseline) for group in panel.groups] == [
        ("no momentum", True),
        ("no momentum", False),
        ("momentum 0.9", True),
        ("momentum 0.9", False),
    ]


def test_every_job_is_in_exactly_one_group(panels: Arrange) -> None:
    jobs = short(optimizers=SIX, dataset="mnist") + short(optimizers=SIX, model="vgg16_bn")
    found = [
        position
        for panel in panels(jobs, "teleport,optimizer")
        for group in panel.groups
        for position in group.jobs
    ]
    assert sorted(found) == list(range(len(jobs)))


def test_a_nested_hyper_parameter_groups(panels: Arrange) -> None:
    (panel,) = panels(short(optimizers=SIX, teleportations=[BASELINE]), "optimizer.lr")
    assert labels(panel) == ["lr 0.0001", "lr 0.001", "lr 0.01"]
    assert [len(group.jobs) for group in panel.groups] == [4, 4, 4]


def test_a_baseline_has_no_value_of_a_teleportation_s_option(panels: Arrange) -> None:
    teleportations = [BASELINE, *(replace(TELEPORTED, cob_range=r) for r in (0.9, 0.5))]
    (panel,) = panels(short(teleportations=teleportations), "teleport.cob_range")
    assert labels(panel) == ["no teleport", "teleported, range 0.5", "teleported, range 0.9"]
    assert [group.values["teleport.cob_range"] for group in panel.groups] == [None, 0.5, 0.9]


def test_whole_parts_carry_their_label_into_tables(panels: Arrange) -> None:
    (panel,) = panels(short(), "teleport,optimizer")
    assert panel.groups[1].values == {
        "teleport": TELEPORTED.label,
        "optimizer": "SGD lr=0.01 weight_decay=0.01",
    }


def test_each_data_set_and_model_has_its_picture(panels: Arrange) -> None:
    jobs = [
        job
        for dataset in ("digits", "cifar10")
        for model in ("mlp", "resnet18")
        for job in short(dataset=dataset, model=model)
    ]
    found = {(panel.title, panel.name) for panel in panels(jobs, "teleport")}
    assert found == {
        ("MLP on digits", "digits-mlp"),
        ("ResNet-18 on digits", "digits-resnet18"),
        ("MLP on CIFAR-10", "cifar10-mlp"),
        ("ResNet-18 on CIFAR-10", "cifar10-resnet18"),
    }


def test_models_that_are_compared_share_a_picture(panels: Arrange) -> None:
    jobs = short(model="mlp", teleportations=[BASELINE]) + short(model="vgg16_bn", teleportations=[BASELINE])
    (panel,) = panels(jobs, "model")
    assert (panel.title, panel.name) == ("digits", "digits")
    assert labels(panel) == ["MLP", "VGG-16-BN"]


def test_arguments_of_a_model_split_pictures_unless_they_are_compared(panels: Arrange) -> None:
    jobs = [
        job
        for activation in ("elu", "tanh")
        for job in short(model=Component("mlp", {"activation": activation}))
    ]
    split = panels(jobs, "teleport")
    assert [panel.title for panel in split] == [
        "MLP (activation elu) on digits",
        "MLP (activation tanh) on digits",
    ]
    assert len({panel.name for panel in split}) == 2


def test_arguments_of_a_model_that_are_compared_are_settings(panels: Arrange) -> None:
    jobs = [
        job
        for activation in ("elu", "tanh")
        for job in short(model=Component("mlp", {"activation": activation}), teleportations=[BASELINE])
    ]
    (panel,) = panels(jobs, "model.activation")
    assert (panel.title, labels(panel)) == ("MLP on digits", ["activation elu", "activation tanh"])


def test_initializers_and_schedulers_in_words(panels: Arrange) -> None:
    plateau = Scheduler("ReduceLROnPlateau", {"mode": "max"})
    jobs = [
        make_job(epochs=1, initializer=init, scheduler=scheduler)
        for init in ("none", "xavier")
        for scheduler in (None, plateau)
    ]
    (panel,) = panels(jobs, "initializer,lr_scheduler.cls")
    assert labels(panel) == [
        "default init, no scheduler",
        "default init, ReduceLROnPlateau",
        "xavier init, no scheduler",
        "xavier init, ReduceLROnPlateau",
    ]


@pytest.mark.parametrize(
    ("word", "hint"),
    [("teleprt", "'teleport'"), ("optimizer.l", "'optimizer.lr'"), ("lr", "'optimizer.lr'")],
)
def test_an_unknown_hyper_parameter_names_the_nearest_and_all(panels: Arrange, word: str, hint: str) -> None:
    with pytest.raises(ResultsError, match=rf"'{word}', did you mean {hint}\?") as error:
        panels(short(), word)
    assert "teleport.mode" in str(error.value)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (short(), ["teleport"]),
        (short(optimizers=SIX[:2]), ["teleport", "optimizer"]),
        (short() + short(epochs=2), ["teleport", "training.epochs"]),
        (short() + short(initializer="xavier"), ["teleport", "initializer"]),
        (short() + short(dataset="mnist", model="vgg16_bn"), ["teleport"]),
    ],
    ids=["pair", "optimizers", "epochs", "initializers", "models"],
)
def test_without_a_choice_groups_are_what_differs(
    tmp_path: Path, jobs: list[Job], expected: list[str]
) -> None:
    write_jobs(tmp_path, jobs)
    assert list(default_group_by(read_results(tmp_path).jobs)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", "MLP"),
        ("resnet18", "ResNet-18"),
        ("vgg16_bn", "VGG-16-BN"),
        ("densenet121", "DenseNet-121"),
        ("mobilenet_v3_large", "MobileNet-V3-large"),
        ("vit_b_16", "ViT-B-16"),
        ("wide_resnet50_2", "wide_resnet50_2"),
    ],
)
def test_models_have_their_published_names(name: str, expected: str) -> None:
    assert model_name(name) == expected


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("val_accuracy", "validation accuracy (%)"),
        ("train_accuracy_top5", "training top-5 accuracy (%)"),
        ("train_loss", "training loss (nats)"),
        ("seconds", "time per epoch (s)"),
        ("something_new", "something new"),
    ],
)
def test_metrics_have_units(metric: str, expected: str) -> None:
    assert metric_label(metric).text == expected


def test_states_are_named_where_they_tell_arms_apart() -> None:
    labels = labels_with_state(
        ["random, once at 0"] * 2 + ["no_teleport"] * 2, ["reset", "keep"] + ["reset"] * 2
    )
    assert labels == ["random, once at 0, state reset", "random, once at 0, state keep", *["no_teleport"] * 2]
    assert split_state(labels[1]) == ("random, once at 0", ", state keep")
    assert split_state(labels[2]) == ("", "")
