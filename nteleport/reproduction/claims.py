"""The claims of the paper as data: what each says, what is run to check it, and how it is judged.

Three tiers: `cpu` runs small networks on digits (and Fashion-MNIST if it is on the machine), in minutes on
two cores; `real` runs the paper's networks on MNIST and CIFAR-10, as far as two cores get in 40 minutes;
`paper` runs the published experiments, which need a GPU cluster. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nteleport.vocabulary import Mode

REACH = {"digits": 0.9, "mnist": 0.95, "fashion_mnist": 0.7, "cifar10": 0.4, "cifar100": 0.15}
"""The validation accuracy to reach, by data set: the number of epochs until then is compared."""

EARLY_MIDDLE_LAST = (0.3, 0.6, 0.95)
"""The epochs at which accuracies are compared, as fractions of a training; in the paper 30, 60, 95 of 100."""


@dataclass(frozen=True)
class StudyClaim:
    """A claim checked by a study.

    Attributes:
        name: of its folders.
        figure: of the paper.
        says: what the paper says.
        study: the name of the study.
        measure: the name of the statistic and its criterion, in `nteleport.reproduction.measures`.
        settings: of the study, as in a `study.yml`.
        seeds: the number of seeds; the study runs once for each.
    """

    name: str
    figure: int
    says: str
    study: str
    measure: str
    settings: Mapping[str, Any]
    seeds: int


@dataclass(frozen=True)
class TrainingClaim:
    """A claim checked by pairs of trainings: the same seed with two kinds of teleportation.

    It has one row per data set, model, initializer and momentum in the experiment.

    Attributes:
        name: unique.
        figure: of the paper.
        says: what the paper says.
        experiments: the files with its jobs, in the experiments folder of the tier.
        treated, baseline: the teleportation modes to compare.
        gain: whether the treated training should be better, or should not.
        overrides: changes to the experiment, as for `train --set`.
    """

    name: str
    figure: int
    says: str
    experiments: tuple[str, ...]
    treated: Mode = "random"
    baseline: Mode = "no_teleport"
    gain: bool = True
    overrides: tuple[str, ...] = field(default=())


Claim = StudyClaim | TrainingClaim

_FASTER = "One teleportation of the initial weights makes training converge faster"
_ORTHOGONAL = "Micro-teleportations are orthogonal to the gradient, more than random vectors are"
_SHARPER = "Teleported minima are sharper"
_GROWS = "The normalized gradient changes with a teleportation, more so the wider the CoB"
_WIDER = "Teleported weights spread wider"
_PSEUDO = "Moving as far in a random direction brings no gain"
_BEATS_PSEUDO = "Teleporting gains over moving as far in a random direction"

_FOUR_MODELS = ["mlp", "vgg16_bn", "resnet18", "densenet121"]


def _trainings(runs: int | None, experiments: Mapping[int, tuple[str, ...]]) -> tuple[TrainingClaim, ...]:
    overrides = () if runs is None else (f"runs_per_config={runs}",)
    pairs = [(figure, experiment) for figure, names in experiments.items() for experiment in names]
    return tuple(
        TrainingClaim(
            f"fig{figure}-{experiment}", figure, _FASTER, (f"{experiment}.yml",), overrides=overrides
        )
        for figure, experiment in pairs
    )


def _pseudo(runs: int | None, files: tuple[str, ...]) -> tuple[TrainingClaim, ...]:
    overrides = () if runs is None else (f"runs_per_config={runs}",)
    return (
        TrainingClaim("fig10-no-gain", 10, _PSEUDO, files, "pseudo", gain=False, overrides=overrides),
        TrainingClaim("fig10-teleport", 10, _BEATS_PSEUDO, files, baseline="pseudo", overrides=overrides),
    )


_SGD = {"cls": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
_FIG11 = {"models": ["mlp"], "histogram": "network"}
_SMALL_MLP = {"cls": "mlp", "hidden_layers": [128]}

CPU: tuple[Claim, ...] = (
    StudyClaim(
        "fig4-mlp", 4, _ORTHOGONAL, "micro", "orthogonal",
        {"models": [_SMALL_MLP], "datasets": ["digits", "random"], "batch_sizes": [8, 64]}, seeds=5,
    ),
    StudyClaim(
        "fig4-vgg16", 4, _ORTHOGONAL, "micro", "orthogonal",
        {"models": ["vgg16"], "datasets": ["random"], "batch_sizes": [8], "teleportations": 10}, seeds=3,
    ),
    StudyClaim(
        "fig5", 5, _SHARPER, "interpolate", "sharper",
        {"models": ["mlp"], "datasets": ["digits"], "epochs": 12, "batch_size_a": 8, "batch_size_b": 64,
         "optimizer_a": _SGD, "optimizer_b": _SGD, "teleportations": 3, "points": 41}, seeds=4,
    ),
    *_trainings(5, {6: ("sgd_vs_teleport",)}),
    *_trainings(3, {6: ("fashion_mnist", "convolutional")}),
    StudyClaim(
        "fig7", 7, _GROWS, "gradients", "grows",
        {"models": _FOUR_MODELS, "datasets": ["digits"], "batches": 5}, seeds=3,
    ),
    *_trainings(5, {8: ("other_activations",), 9: ("initializers",)}),
    *_pseudo(5, ("pseudo_teleport.yml",)),
    StudyClaim("fig11", 11, _WIDER, "weights", "wider", {**_FIG11, "datasets": ["digits"]}, 5),
)  # fmt: skip

REAL: tuple[Claim, ...] = (
    StudyClaim(
        "fig4-mlp", 4, _ORTHOGONAL, "micro", "orthogonal",
        {"models": [_SMALL_MLP], "datasets": ["mnist", "cifar10"], "batch_sizes": [8, 64]}, seeds=5,
    ),
    StudyClaim(
        "fig4-vgg16", 4, _ORTHOGONAL, "micro", "orthogonal",
        {"models": ["vgg16"], "datasets": ["mnist", "cifar10"], "batch_sizes": [8], "teleportations": 10},
        seeds=3,
    ),
    *(
        StudyClaim(
            f"fig5-{name}", 5, _SHARPER, "interpolate", "sharper",
            {"models": ["mlp"], "datasets": [name], "epochs": 3, "batch_size_a": 32, "batch_size_b": 1024,
             "optimizer_a": _SGD, "optimizer_b": _SGD, "points": 41, "images": 1000}, seeds=3,
        )
        for name in ("mnist", "cifar10")
    ),
    *_trainings(3, {6: ("sgd_vs_teleport",)}),
    StudyClaim(
        "fig7", 7, _GROWS, "gradients", "grows",
        {"models": _FOUR_MODELS, "datasets": ["mnist", "cifar10"], "batches": 5}, seeds=3,
    ),
    *_trainings(3, {8: ("other_activations",), 9: ("initializers",)}),
    *_pseudo(3, ("pseudo_teleport.yml",)),
    *(
        StudyClaim(f"fig11-{name}", 11, _WIDER, "weights", "wider", {**_FIG11, "datasets": [name]}, 5)
        for name in ("mnist", "cifar10")
    ),
)  # fmt: skip

PAPER: tuple[Claim, ...] = (
    StudyClaim(
        "fig4-mlp", 4, _ORTHOGONAL, "micro", "orthogonal",
        {"models": [_SMALL_MLP], "datasets": ["cifar10", "random"], "batch_sizes": [8, 64]}, seeds=5,
    ),
    StudyClaim(
        "fig4-vgg16", 4, _ORTHOGONAL, "micro", "orthogonal",
        {"models": ["vgg16"], "datasets": ["cifar10", "random"], "batch_sizes": [8, 64]}, seeds=5,
    ),
    StudyClaim(
        "fig5", 5, _SHARPER, "interpolate", "sharper",
        {"models": ["mlp"], "datasets": ["cifar10"], "epochs": 50, "batch_size_a": 8, "batch_size_b": 1024,
         "optimizer_a": _SGD, "optimizer_b": _SGD, "teleportations": 3, "points": 101}, seeds=5,
    ),
    *_trainings(None, {6: ("sgd_vs_teleport",)}),
    StudyClaim(
        "fig7", 7, _GROWS, "gradients", "grows",
        {"models": _FOUR_MODELS, "datasets": ["cifar10"], "batches": 10}, seeds=5,
    ),
    *_trainings(None, {8: ("other_activations",), 9: ("initializers", "initializers_mlp")}),
    *_pseudo(None, ("pseudo_teleport.yml", "sgd_vs_teleport.yml")),
    StudyClaim("fig11", 11, _WIDER, "weights", "wider", {**_FIG11, "datasets": ["cifar10"]}, 5),
)  # fmt: skip


def claims_of(tier: str) -> tuple[Claim, ...]:
    """The claims of a tier, by figure."""
    return {"cpu": CPU, "real": REAL, "paper": PAPER}[tier]
