"""The text in a picture: data sets, models and metrics as a paper prints them, and short group labels.

A label names only what differs. Of a dozen hyper-parameters usually two distinguish the groups of a picture,
so `setting_labels` and `teleport_labels` compare all groups and name only those: "lr 0.01, momentum 0.9", not
everything that was passed to the optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nteleport.jobs.table import Scalar
from nteleport.plots.panels import identity
from nteleport.vocabulary import MODES, SCHEDULES

__all__ = [
    "MetricLabel",
    "dataset_name",
    "differing_keys",
    "labels_with_state",
    "metric_label",
    "mode_order",
    "model_name",
    "setting_labels",
    "split_state",
    "teleport_labels",
]

Values = Mapping[str, Scalar]
"""Some hyper-parameters of a group; those it does not have are absent."""

_DATASETS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}

_FAMILIES = {
    "alexnet": "AlexNet",
    "cnn": "CNN",
    "convnext": "ConvNeXt",
    "densenet": "DenseNet",
    "efficientnet": "EfficientNet",
    "googlenet": "GoogLeNet",
    "inception": "Inception",
    "maxvit": "MaxViT",
    "mlp": "MLP",
    "mnasnet": "MNASNet",
    "mobilenet": "MobileNet",
    "regnet": "RegNet",
    "resnet": "ResNet",
    "resnext": "ResNeXt",
    "shufflenet": "ShuffleNet",
    "squeezenet": "SqueezeNet",
    "swin": "Swin",
    "vgg": "VGG",
    "vit": "ViT",
}

_STATE = ", state "

_MODES = {str(mode): about.label for mode, about in MODES.items()}


@dataclass(frozen=True)
class MetricLabel:
    """How a metric is shown: its axis label with the unit, and whether its values are shown in percent."""

    text: str
    percent: bool = False
    may_be_logarithmic: bool = False


def metric_label(metric: str, *, nats: bool = True) -> MetricLabel:
    """The label of a column of `metrics.csv`; an unknown column is labeled by its own name.

    `nats` says whether the loss is cross-entropy; another one has no unit that is known here.
    """
    split = re.fullmatch(r"(train|val|test)_(loss|accuracy|accuracy_top5)", metric)
    if split:
        where = {"train": "training", "val": "validation", "test": "test"}[split[1]]
        if split[2] == "loss":
            return MetricLabel(f"{where} loss{' (nats)' if nats else ''}", may_be_logarithmic=True)
        return MetricLabel(f"{where} {'top-5 ' if 'top5' in metric else ''}accuracy (%)", percent=True)
    known = {
        "lr": MetricLabel("learning rate", may_be_logarithmic=True),
        "grad_norm": MetricLabel("gradient norm", may_be_logarithmic=True),
        "weight_norm": MetricLabel("weight norm", may_be_logarithmic=True),
        "seconds": MetricLabel("time per epoch (s)"),
        "teleported": MetricLabel("teleportations per epoch"),
    }
    return known.get(metric, MetricLabel(metric.replace("_", " ")))


def dataset_name(name: str) -> str:
    """`cifar10` as "CIFAR-10"."""
    return _DATASETS.get(name, name)


def model_name(name: str) -> str:
    """`resnet18` as "ResNet-18", `vgg16_bn` as "VGG-16-BN"; an unknown name is unchanged."""
    parts = re.fullmatch(r"([a-z]+?)(\d*)((?:_\w+)?)", name)
    if not parts or parts[1] not in _FAMILIES:
        return name
    variant = [piece.upper() if len(piece) <= 2 else piece for piece in parts[3].split("_") if piece]
    return "-".join([_FAMILIES[parts[1]], *([parts[2]] if parts[2] else []), *variant])


def differing_keys(groups: Sequence[Values], keys: Sequence[str]) -> tuple[str, ...]:
    """Those of `keys` in which the groups differ; not having one differs from having it."""
    return tuple(key for key in keys if len({identity(group.get(key)) for group in groups}) > 1)


def setting_labels(groups: Sequence[Values], keys: Sequence[str]) -> list[str]:
    """One label per group, naming the `keys` in which they differ; equal groups get equal labels.

    Missing values are omitted, unless the label would be empty or that of another group.
    """
    differing = differing_keys(groups, keys)
    short = [_join(_phrases(group, differing, missing=False)) for group in groups]
    owners: dict[str, set[tuple[object, ...]]] = {}
    for label, group in zip(short, groups, strict=True):
        owners.setdefault(label, set()).add(tuple(identity(group.get(key)) for key in differing))
    return [
        label if label and len(owners[label]) == 1 else _join(_phrases(group, differing, missing=True))
        for label, group in zip(short, groups, strict=True)
    ]


def teleport_labels(groups: Sequence[Values], keys: Sequence[str], modes: Sequence[str]) -> list[str]:
    """One label per group for its teleportation: "no teleport", "teleported", "teleported, range 0.9".

    `modes` are the groups' modes ("" where the jobs of a group differ). Options are named when they differ
    between groups of the same mode.
    """
    labels = []
    for group, mode in zip(groups, modes, strict=True):
        alike = [other for other, its_mode in zip(groups, modes, strict=True) if its_mode == mode]
        differing = [key for key in differing_keys(alike, keys) if key != "teleport.mode"]
        labels.append(_join([_MODES.get(mode, mode), *_teleport_phrases(group, differing)]))
    return labels


def labels_with_state(labels: Sequence[str], states: Sequence[object]) -> list[str]:
    """The labels of arms with what happens to the optimizer's state, named where it tells arms apart.

    Args:
        labels: of the teleportations; shape (arms,).
        states: what happens to the optimizer's state in each; shape (arms,).
    """
    several: dict[str, set[object]] = {}
    for label, state in zip(labels, states, strict=True):
        several.setdefault(label, set()).add(state)
    return [
        f"{label}{_STATE}{state}" if len(several[label]) > 1 else label
        for label, state in zip(labels, states, strict=True)
    ]


def split_state(label: str) -> tuple[str, str]:
    """The two parts of a label to which `labels_with_state` added a state; both empty where it added none."""
    plain, separator, state = label.rpartition(_STATE)
    return (plain, separator + state) if plain else ("", "")


def mode_order(mode: str) -> int:
    """The position of a mode in a legend: the baseline first."""
    return list(_MODES).index(mode) if mode in _MODES else len(_MODES)


def number(value: Scalar) -> str:
    """A value in its shortest readable form: 0.0001, 1e-05, 10."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _join(phrases: Sequence[str]) -> str:
    return ", ".join(phrase for phrase in phrases if phrase)


def _phrases(group: Values, keys: Sequence[str], *, missing: bool) -> list[str]:
    return [_phrase(key, group.get(key), _name(key, keys), missing) for key in keys]


def _name(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, or all of it if two keys end alike."""
    last = key.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in keys) == 1
    return last.replace("_", " ") if alone else key


_SPECIAL: Mapping[str, Callable[[str], str]] = {
    "dataset": dataset_name,
    "model.cls": model_name,
    "optimizer.cls": str,
    "lr_scheduler.cls": str,
    "initializer.type": lambda name: "default init" if name == "none" else f"{name.replace('_', ' ')} init",
}


def _phrase(key: str, value: Scalar | None, name: str, missing: bool) -> str:
    if value is None and key == "lr_scheduler.cls":
        return "no scheduler"
    if value is None and missing:
        return f"no {name}" if key == "optimizer.momentum" else f"default {name}"
    if value is None:
        return ""
    if key in _SPECIAL:
        return _SPECIAL[key](str(value))
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {number(value)}"


def _teleport_phrases(group: Values, differing: Sequence[str]) -> list[str]:
    phrases = []
    if any(key in differing for key in _SCHEDULE_KEYS):
        phrases.append(_schedule(group))
    for key in differing:
        value = group.get(key)
        if key in _SCHEDULE_KEYS or value is None:
            continue
        name = key.rpartition(".")[2]
        if name == "cob_sampling":
            phrases.append(str(value).removesuffix("_landscape"))
        elif name == "num_teleportations":
            phrases.append(f"best of {number(value)}")
        elif name in ("metric", "objective", "optimizer_state"):
            phrases.append(str(value).replace("_", " "))
        else:
            phrases.append(f"{name.removeprefix('cob_').replace('_', ' ')} {number(value)}")
    return phrases


_SCHEDULE_KEYS = tuple(f"teleport.{name}" for name in (*SCHEDULES, "teleport_only_once"))


def _schedule(group: Values) -> str:
    every, epochs, steps, plateau, once = map(group.get, _SCHEDULE_KEYS)
    if epochs is not None:
        numbers = str(epochs).strip("[]")
        return f"at epochs {numbers}" if "," in numbers else f"at epoch {numbers}"
    if steps is not None:
        return f"at step {number(steps)}" if once else f"every {number(steps)} steps"
    if plateau is not None:
        when = "at the first plateau" if once else "on plateau"
        details = re.sub(r'[{}:"]', "", str(plateau))  # of {"patience": 3}
        return f"{when} ({details})"
    if every is None:
        return "once" if once else ""
    if once or every == 0:
        return f"at epoch {number(every)}"
    return "every epoch" if every == 1 else f"every {number(every)} epochs"
