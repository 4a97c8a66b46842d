"""The vocabulary of an experiment file: networks, initializers, samplings, modes. Imports no torch.

An experiment is checked, listed and unraveled long before anything is trained, so the names are defined here
and what they do elsewhere: networks in ``nteleport.networks``, samplings in ``nteleport.core.cob``,
modes in ``nteleport.training.modes``. The name of a network is canonical when it is lower case and carries
no suffix ``COB``: the published implementation had a separate class for each teleportable network
(``MLPCOB``, ``resnet18COB``), while here every network can be teleported as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from nteleport.errors import UnknownNameError, nearest

#: Image classifiers of ``torchvision.models``, by family.
_TORCHVISION_NAMES = """
alexnet
convnext_tiny convnext_small convnext_base convnext_large
densenet121 densenet161 densenet169 densenet201
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l
googlenet inception_v3 maxvit_t
mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf
regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf
regnet_y_128gf
resnet18 resnet34 resnet50 resnet101 resnet152
resnext50_32x4d resnext101_32x8d resnext101_64x4d wide_resnet50_2 wide_resnet101_2
shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
squeezenet1_0 squeezenet1_1
swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14
"""

#: Every name that ``nteleport.networks.models.build_model`` knows.
MODEL_NAMES: tuple[str, ...] = ("mlp", "cnn", "vit", *_TORCHVISION_NAMES.split())

#: Every type that ``nteleport.networks.initializers.initialize`` knows.
INITIALIZERS: tuple[str, ...] = ("none", "normal", "xavier", "xavier_uniform", "kaiming", "orthogonal")

#: The non-linearities whose gain torch knows; an initializer's ``non_linearity`` is one of them.
NON_LINEARITIES: tuple[str, ...] = ("linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu")

#: The activations of ``mlp`` and ``cnn``.
ACTIVATIONS: tuple[str, ...] = ("relu", "elu", "leakyrelu", "tanh", "sigmoid")


def canonical_name(name: str) -> str:
    """The canonical form of a model's name: lower case, a suffix ``COB`` dropped.

    >>> canonical_name("MLPCOB"), canonical_name("ResNet18")
    ('mlp', 'resnet18')

    Raises:
        UnknownNameError: no model has this name; the message gives the nearest one.
    """
    lowered = str(name).strip().lower()
    plain = lowered.removesuffix("cob").rstrip("_")
    for candidate in (lowered, plain):
        if candidate in MODEL_NAMES:
            return candidate
    raise UnknownNameError(
        f"unknown model {name!r}: expected 'mlp', 'cnn', 'vit' or the name of a torchvision classifier"
        f"{nearest(plain, MODEL_NAMES)}"
    )


Activations = Literal["conjugated", "kept"]
"""``conjugated``: activations become ``x ↦ τ f(x / τ)``, as in the paper. ``kept``: nothing but weights
changes, so that teleported weights load into the unmodified network."""

Norms = Literal["exact", "up_to_eps"]
"""``exact``: the input of a normalization is not scaled. ``up_to_eps``: it is, and the ``eps`` beside its
variance is what does not follow."""
NORMS: tuple[Norms, ...] = get_args(Norms)

Sampling = Literal["intra_landscape", "inter_landscape", "positive", "negative", "centered"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)

Metric = Literal["weighted_grad_norm", "loss_lookahead_diff"]
METRICS: tuple[Metric, ...] = get_args(Metric)

Objective = Literal[
    "grad_norm",
    "weighted_grad_norm",
    "lookahead",
    "balance",
    "path_conditioning",
    "activation_range",
    "sharpness",
    "nearest",
]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

OptimizerState = Literal["reset", "transport", "keep"]
OPTIMIZER_STATES: tuple[OptimizerState, ...] = get_args(OptimizerState)

Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

LOSSES: tuple[str, ...] = ("cross_entropy", "mse")
"""The losses that need no plugin."""

RecoveryMethod = Literal["least_squares", "gradient"]
RECOVERY_METHODS: tuple[RecoveryMethod, ...] = get_args(RecoveryMethod)

Stem = Literal["cifar", "published", "imagenet"]
STEMS: tuple[Stem, ...] = get_args(Stem)

Histogram = Literal["tensor", "network"]
HISTOGRAMS: tuple[Histogram, ...] = get_args(Histogram)

Preprocessing = Literal["standard", "published"]
PREPROCESSINGS: tuple[Preprocessing, ...] = get_args(Preprocessing)

Monitor = Literal[
    "train_loss", "train_accuracy", "train_accuracy_top5", "val_loss", "val_accuracy", "val_accuracy_top5"
]
MONITORS: tuple[Monitor, ...] = get_args(Monitor)
"""The columns of ``metrics.csv`` that can reach a plateau. A loss is better when smaller."""

TuningScore = Literal["val_accuracy", "best_val_accuracy"]
TUNING_SCORES: tuple[TuningScore, ...] = get_args(TuningScore)
"""What tuning chooses by: the accuracy on held-out data after the last epoch, or after the best."""

Schedule = Literal["every_n_epochs", "epochs", "every_n_steps", "on_plateau"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
"""The options that say when to teleport, of which a teleportation has one; the first by default."""

Mode = Literal[
    "no_teleport",
    "random",
    "optim",
    "optimize",
    "pseudo",
    "same_distr",
    "layer_rates",
    "shuffled_rates",
    "layer_cob",
    "optimizer_reset",
    "matched_norms",
]


@dataclass(frozen=True)
class ModeInfo:
    """What is known about a teleportation mode without running it.

    Attributes:
        options: the fields of `Teleportation` that have an effect in it.
        label: what a job in this mode is called in legends and sentences: "teleported".
        changes_basis: whether it moves the change of basis or the rates, and with them the optimizer's state.
        resets: whether it resets the optimizer's state whatever ``optimizer_state`` says.
        draws_as: the mode with which it shares its draws, so that jobs of both are paired; itself if None.
    """

    options: tuple[str, ...]
    label: str
    changes_basis: bool = False
    resets: bool = False
    draws_as: Mode | None = None


_SCHEDULE = (*SCHEDULES, "teleport_only_once")
_DRAWN = (*_SCHEDULE, "cob_range", "cob_sampling", "center", "activations")
_AS_RANDOM = (*_DRAWN, "teleport_prob")

MODES: dict[Mode, ModeInfo] = {
    "no_teleport": ModeInfo((), "no teleport"),
    "random": ModeInfo(_AS_RANDOM, "teleported", changes_basis=True),
    "optim": ModeInfo(
        (*_DRAWN, "metric", "num_teleportations", "num_batches"), "optimized teleport", changes_basis=True
    ),
    "optimize": ModeInfo(
        (*_SCHEDULE, "activations", "objective", "steps", "max_log_range", "num_batches"),
        "chosen teleport",
        changes_basis=True,
    ),
    "pseudo": ModeInfo(_DRAWN, "pseudo-teleported"),
    "same_distr": ModeInfo((*_DRAWN, "histogram"), "same distribution"),
    "layer_rates": ModeInfo(_AS_RANDOM, "layer rates", changes_basis=True, draws_as="random"),
    "shuffled_rates": ModeInfo(_AS_RANDOM, "shuffled rates", changes_basis=True, draws_as="random"),
    "layer_cob": ModeInfo(_AS_RANDOM, "teleported by layer", changes_basis=True, draws_as="random"),
    "optimizer_reset": ModeInfo(_SCHEDULE, "optimizer reset", resets=True),
    "matched_norms": ModeInfo(_AS_RANDOM, "matched norms", draws_as="random"),
}
"""All modes, in the order of legends: baselines first."""


def sampling_problem(sampling: str, cob_range: float, center: float = 1.0) -> str | None:
    """Explain why changes of basis cannot be drawn like this, or return None if they can.

    With r = `cob_range`: `intra_landscape` needs 0 ≤ r ≤ 1 and `inter_landscape` r ≥ 0; `positive` and
    `negative` need r > 0; `centered` needs 0 < r ≤ `center`.
    """
    if sampling not in SAMPLINGS:
        names = ", ".join(SAMPLINGS)
        return f"unknown sampling {sampling!r}, expected one of {names}{nearest(str(sampling), SAMPLINGS)}"
    for number in (cob_range, center):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return f"cob_range and center are numbers, got {number!r}"
    if not (math.isfinite(cob_range) and math.isfinite(center)):
        return f"cob_range {cob_range:g} with center {center:g}: expected finite numbers"
    expected = {
        "intra_landscape": (0 <= cob_range <= 1, "a range from 0 to 1"),
        "inter_landscape": (cob_range >= 0, "a range of at least 0"),
        "positive": (cob_range > 0, "a range above 0"),
        "negative": (cob_range > 0, "a range above 0"),
        "centered": (0 < cob_range <= center, f"a range above 0 and at most its center {center:g}"),
    }
    allowed, wanted = expected[sampling]
    return None if allowed else f"cob_range {cob_range:g} is forbidden by {sampling}: expected {wanted}"
