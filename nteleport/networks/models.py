"""Building the network of an experiment by name: one of this package, a torchvision classifier, or one that a
reference names (see ``references``).

A network made here is plain PyTorch; nothing about it is prepared for teleportation. It takes normalized
images ``[B, C, H, W]`` and always returns one tensor of logits ``[B, num_classes]``, in training and in
evaluation: the auxiliary heads of GoogLeNet and Inception, which return tuples in training, are left out.

Images are those of the data set. Classifiers that torchvision made for 224×224 color images are fitted to
small images and to other channels (see ``stems``); a few cannot take 32×32 and report it
(``size_problem``).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from nteleport.errors import ModelError, UnknownNameError, nearest
from nteleport.networks.cnn import CNN
from nteleport.networks.initializers import initialize
from nteleport.networks.mlp import MLP
from nteleport.networks.pretrained import load_where_shapes_fit, pretrained_weights
from nteleport.networks.references import build_reference, reference_defaults
from nteleport.networks.stems import fit_stem
from nteleport.networks.vit import vit
from nteleport.plugins import is_reference
from nteleport.vocabulary import MODEL_NAMES, STEMS, canonical_name

__all__ = [
    "MLP",
    "MODEL_NAMES",
    "build_model",
    "canonical_name",
    "check_model",
    "model_keywords",
    "seeded_model",
    "size_problem",
]

_OWN: Mapping[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN, "vit": vit}
"""Those of this package, by name."""

# Smallest height and width that a family's poolings do not reduce to nothing.
_MINIMUM_SIZE = {"alexnet": 29, "densenet": 29, "googlenet": 15, "inception": 75, "squeezenet": 21, "vgg": 32}
_PATCH_SIZE = {"vit_b_16": 16, "vit_b_32": 32, "vit_l_16": 16, "vit_l_32": 32, "vit_h_14": 14}
_MAXVIT_MULTIPLE = 224  # four halvings after a stem of stride 2, then windows of 7

# What an experiment does not set: it follows from the data set, loads weights, or adds outputs.
_NOT_AN_ARGUMENT = frozenset(
    {"num_classes", "input_shape", "weights", "progress", "aux_logits", "dropout_aux", "transform_input"}
)


def build_model(name: str, *, input_shape: tuple[int, ...], num_classes: int, **kwargs: Any) -> nn.Module:
    """Make a network with random weights, on the CPU (or under an active ``torch.device`` context).

    The weights come from torch's default generator; see ``seeded_model``.

    Args:
        name: ``mlp``, ``cnn``, ``vit`` or a torchvision classifier, in any case, with or without a suffix
            ``COB``; or a reference.
        input_shape: (channels, height, width) of an image. An MLP and networks of the user's take inputs of
            other shapes, too.
        num_classes: size of the output.
        kwargs: arguments of the model, as in an experiment file: of ``MLP``, ``CNN`` or ``vit``, or of
            torchvision's class.

    Returns:
        The network in training mode; its output is ``[B, num_classes]``.

    Raises:
        UnknownNameError: no model has this name.
        PluginError: the module of a network of the user's cannot be run.
        ModelError: an argument the model does not take, or images of a size it cannot take.
    """
    if is_reference(name):
        return build_reference(name, kwargs, input_shape=input_shape, num_classes=num_classes)
    canonical = canonical_name(name)
    _check_arguments(canonical, kwargs)
    problem = size_problem(canonical, input_shape)
    if problem is not None:
        raise ModelError(problem)
    try:
        if canonical == "mlp":
            return MLP(input_shape=input_shape, num_classes=num_classes, **kwargs)
        channels, height, width = input_shape
        image = (channels, height, width)
        if canonical in _OWN:
            network = _OWN[canonical](input_shape=image, num_classes=num_classes, **kwargs)
            if canonical == "vit":
                fit_stem(network, image)
            return network
        return _torchvision_model(canonical, image, num_classes, kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"model {canonical!r} cannot be built with {kwargs}: {error}") from error


def _torchvision_model(
    canonical: str, input_shape: tuple[int, int, int], num_classes: int, kwargs: Mapping[str, Any]
) -> nn.Module:
    """A torchvision classifier without pretrained weights, fitted to the images."""
    settings = {"weights": None, "num_classes": num_classes, **kwargs}
    stem, is_pretrained = settings.pop("stem", "cifar"), settings.pop("pretrained", False)
    if stem not in STEMS:
        raise ModelError(f"stem {stem!r}: expected one of {', '.join(STEMS)}{nearest(str(stem), STEMS)}")
    if canonical in ("googlenet", "inception_v3"):
        # Explicit, because the default warns that it will change. Takes 0.1 s and 0.4 s.
        settings = {"aux_logits": False, "init_weights": True, **settings}
    elif canonical in _PATCH_SIZE:
        settings["image_size"] = input_shape[1]
    elif canonical == "maxvit_t":
        settings["input_size"] = input_shape[1:]
    network: nn.Module = _torchvision_builder(canonical)(**settings)
    fit_stem(network, input_shape, stem=stem, default_weights=settings.get("init_weights") is False)
    if is_pretrained:
        load_where_shapes_fit(network, pretrained_weights(canonical))
    return network


def _torchvision_builder(canonical: str) -> Callable[..., nn.Module]:
    from torchvision import models  # takes a second to import, and an MLP does not need it

    builder: Callable[..., nn.Module] | None = getattr(models, canonical, None)
    if builder is None:
        raise UnknownNameError(f"the installed torchvision has no model {canonical!r}, a newer one does")
    return builder


def _torchvision_class(canonical: str) -> type[nn.Module]:
    made: type[nn.Module] = typing.get_type_hints(_torchvision_builder(canonical))["return"]
    return made


def model_defaults(name: str) -> dict[str, Any] | None:
    """The arguments that an experiment file may give to a model with their defaults, where a value of another
    type is a mistake; None if only building the model tells. Errors are those of ``build_model``.
    """
    if is_reference(name):
        return reference_defaults(name)
    return dict.fromkeys(model_keywords(name), inspect.Parameter.empty)


def model_keywords(name: str) -> tuple[str, ...]:
    """The arguments an experiment file may give to a model.

    Raises:
        UnknownNameError: no model has this name.
    """
    canonical = canonical_name(name)
    made: Callable[..., nn.Module] = _OWN.get(canonical) or _torchvision_class(canonical)
    keywords = [
        parameter.name
        for parameter in inspect.signature(made).parameters.values()
        if parameter.default is not parameter.empty
        and parameter.name not in _NOT_AN_ARGUMENT
        and "Callable" not in str(parameter.annotation)  # a layer class cannot be written in a file
    ]
    if canonical not in _OWN:
        keywords.append("pretrained")
    if made.__name__ == "ResNet":
        keywords.append("stem")
    if canonical.startswith("efficientnet"):
        keywords.append("dropout")  # the class requires it, torchvision's builders have a default
    return tuple(keywords)


def _check_arguments(canonical: str, kwargs: Mapping[str, Any]) -> None:
    known = model_keywords(canonical) if kwargs else ()
    for keyword in kwargs:
        if keyword not in known:
            raise ModelError(
                f"model {canonical!r} takes no argument {keyword!r}: expected one of "
                f"{', '.join(known) or '(none)'}{nearest(keyword, known)}"
            )


def size_problem(name: str, input_shape: tuple[int, ...]) -> str | None:
    """Why a model cannot take images of this size, and which models can; None if it can.

    Args:
        name: a model's name.
        input_shape: (channels, height, width).

    Raises:
        UnknownNameError: no model has this name.
    """
    if len(input_shape) != 3:
        if canonical_name(name) == "mlp":
            return None
        return f"model {canonical_name(name)!r} takes images of channels, height, width; got {input_shape}"
    _, height, width = input_shape
    needed = _needed_size(canonical_name(name), height, width)
    if needed is None:
        return None
    refused = [other for other in MODEL_NAMES if _needed_size(other, height, width) is not None]
    return (
        f"model {canonical_name(name)!r} cannot take images of {height}×{width}, it needs {needed}; "
        f"every model but {', '.join(refused)} can, for example resnet18"
    )


def _needed_size(canonical: str, height: int, width: int) -> str | None:
    """The size a model needs if it is not ``height × width``, in words."""
    if canonical in _PATCH_SIZE:
        patch = _PATCH_SIZE[canonical]
        fits = height == width and height % patch == 0
        return None if fits else f"squares whose side is a multiple of {patch}"
    if canonical == "maxvit_t":
        fits = height % _MAXVIT_MULTIPLE == 0 and width % _MAXVIT_MULTIPLE == 0
        return None if fits else f"a height and width that are multiples of {_MAXVIT_MULTIPLE}"
    least = next((size for family, size in _MINIMUM_SIZE.items() if canonical.startswith(family)), 1)
    return None if min(height, width) >= least else f"at least {least}×{least}"


def check_model(
    name: str, kwargs: Mapping[str, Any], *, input_shape: tuple[int, ...], num_classes: int
) -> None:
    """Check a model's name, arguments and image size by building it without allocating its weights.

    Takes a few hundredths of a second; for checking an experiment before anything runs.

    Raises:
        UnknownNameError: no model has this name.
        ModelError: an argument or its value that the model does not take, or images of a size it cannot take.
    """
    canonical = canonical_name(name)
    if canonical.startswith("regnet"):  # building it computes with tensors, which the meta device cannot
        _check_arguments(canonical, kwargs)
        return
    arguments = dict(_without_reserved(canonical, kwargs))
    _check_arguments(canonical, arguments)
    if not isinstance(arguments.pop("pretrained", False), bool):  # no file is read to check a shape
        raise ModelError(f"model {canonical!r}: pretrained is true or false")
    with torch.device("meta"):
        build_model(canonical, input_shape=input_shape, num_classes=num_classes, **arguments)


def _without_reserved(canonical: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """``kwargs``, refusing arguments that ``build_model`` gets from the data set."""
    for reserved in ("name", "input_shape", "num_classes"):
        if reserved in kwargs:
            raise ModelError(f"model {canonical!r} takes no argument {reserved!r}: the data set gives it")
    return kwargs


def seeded_model(
    name: str,
    kwargs: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    initializer: str = "none",
    initializer_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a network whose weights depend on the arguments and ``seed`` alone.

    The network is made on the CPU, so that it is the same whichever device trains it. Torch's own generators
    stay as they were.

    Args:
        name, kwargs: as for ``build_model``.
        input_shape: (channels, height, width).
        num_classes: size of the output.
        seed: usually the job's seed.
        initializer, initializer_kwargs: as for ``nteleport.networks.initializers.initialize``.

    Raises:
        UnknownNameError: no model or initializer has this name.
        ModelError: arguments or images the model or the initializer cannot take.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        arguments = _without_reserved(name if is_reference(name) else canonical_name(name), kwargs)
        network = build_model(name, input_shape=input_shape, num_classes=num_classes, **arguments)
        initialize(network, initializer, generator=torch.default_generator, **(initializer_kwargs or {}))
    return network
