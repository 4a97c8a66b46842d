"""Networks that are named by a reference: a plugin's, or one of timm or transformers without weights.

=====================  ====================================================================================
`my_nets:SmallNet`     a class, or a function that makes a network, of a plugin (`nteleport.plugins`)
`timm:resnet10t`       any model of timm; its arguments are those of `timm.create_model`
`hf:bert`              a classifier of transformers by the type of its configuration: of images where inputs
                       are images, of sequences where they are tokens; its arguments are the configuration's
=====================  ====================================================================================

What a data set gives is passed on where it is taken: `num_classes` and `input_shape` to a plugin whose
signature has them, channels and classes to timm, channels, size and classes to transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nteleport.errors import ModelError, UnknownNameError, nearest
from nteleport.extras import import_extra
from nteleport.plugins import keywords_of, located, look_up, one_line

_GIVEN = ("num_classes", "input_shape")
"""What the data set gives."""

_NOT_OF_TIMM = frozenset(
    "num_classes in_chans pretrained pretrained_cfg pretrained_cfg_overlay pretrained_strict checkpoint_path "
    "cache_dir features_only scriptable exportable no_jit device dtype".split()
)
"""What the data set gives, what reads files, and what makes another kind of network."""

_NOT_OF_TRANSFORMERS = frozenset({"num_channels", "image_size", "model_type", "dtype", "architectures"})


def build_reference(
    reference: str, kwargs: Mapping[str, Any], *, input_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    """Make a network with random weights; see the module.

    Raises:
        PluginError: the module of the network cannot be run.
        UnknownNameError: the module is not admitted, or it or the library has no such name.
        MissingExtraError: the library is not installed.
        ModelError: the network cannot be made with these arguments, or is none.
    """
    library, _, name = reference.partition(":")
    if library == "timm":
        return _of_timm(name, kwargs, input_shape, num_classes)
    if library == "hf":
        return _of_transformers(name, kwargs, input_shape, num_classes)
    make = _callable(reference)
    given = {"num_classes": num_classes, "input_shape": input_shape}
    settings = {**{key: given[key] for key in keywords_of(make) or () if key in given}, **kwargs}
    try:
        network = make(**settings)
    except (Exception, SystemExit) as error:
        message = f"{reference} cannot be made with {dict(kwargs)}: {located(reference, error)}"
        raise ModelError(message) from error
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        kind = "a network without parameters" if isinstance(network, nn.Module) else type(network).__name__
        raise ModelError(f"{reference} makes {kind}, expected a torch.nn.Module with parameters")
    return network


def reference_defaults(reference: str) -> dict[str, Any] | None:
    """The arguments that an experiment file may give to a network, with their defaults; None if only making
    the network tells, as with ``**kwargs`` in its signature. Errors are those of ``build_reference``.
    """
    library, _, name = reference.partition(":")
    if library == "timm":
        _timm_names(name)
        return None
    if library == "hf":
        return _configuration_defaults(name)
    return keywords_of(_callable(reference), without=_GIVEN)


def _callable(reference: str) -> Any:
    make = look_up(reference)
    if not callable(make):
        raise ModelError(f"{reference} is a {type(make).__name__}, expected the class of a network")
    return make


def _timm_names(name: str) -> Any:
    timm = import_extra("timm", extra="zoo", purpose=f"the model timm:{name}")
    if not timm.is_model(name):
        raise UnknownNameError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    return timm


def _of_timm(
    name: str, kwargs: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    timm = _timm_names(name)
    for key in kwargs:
        if key in _NOT_OF_TIMM:
            raise ModelError(
                f"timm:{name} takes no argument {key!r} here: it has no weights, and fits the data"
            )
    if len(input_shape) != 3:
        raise ModelError(f"timm:{name} takes images of channels, height, width; got inputs of {input_shape}")
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=input_shape[0], **kwargs
        )
    except Exception as error:  # whatever a constructor raises
        raise ModelError(f"timm:{name} cannot be made with {dict(kwargs)}: {one_line(error)}") from error
    return network


class Logits(nn.Module):
    """A classifier of transformers that returns its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs).logits
        return logits


def _of_transformers(
    name: str, kwargs: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    transformers = _transformers(name)
    known = _configuration_defaults(name)
    for key in kwargs:
        if key not in known:
            raise ModelError(f"hf:{name} takes no argument {key!r}{nearest(key, known)}")
    images = len(input_shape) == 3
    settings: dict[str, Any] = {"num_labels": num_classes, **kwargs}
    makers = transformers.AutoModelForImageClassification, transformers.AutoModelForSequenceClassification
    maker = makers[0] if images else makers[1]
    try:
        config = transformers.AutoConfig.for_model(name, **settings)
        if images:
            for key, value in {"num_channels": input_shape[0], "image_size": input_shape[1]}.items():
                if hasattr(config, key):
                    setattr(config, key, value)
        network: nn.Module = maker.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a configuration or a constructor raises
        raise ModelError(
            f"hf:{name} cannot be made with {dict(kwargs)}: {' '.join(one_line(error).split())}"
        ) from error
    return Logits(network)


def _configuration_defaults(name: str) -> dict[str, Any]:
    """The entries of a configuration that say what the network is."""
    transformers = _transformers(name)
    general = transformers.PretrainedConfig().to_dict().keys() | _NOT_OF_TRANSFORMERS
    own = transformers.AutoConfig.for_model(name).to_dict()
    return {
        key: value
        for key, value in own.items()
        if key not in general and not key.startswith("_") and "backbone" not in key and "config" not in key
    }


def _transformers(name: str) -> Any:
    transformers = import_extra("transformers", extra="zoo", purpose=f"the model hf:{name}")
    auto = import_extra("transformers.models.auto.modeling_auto", extra="zoo", purpose=f"the model hf:{name}")
    known = {
        *auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        *auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    } - {"timm_wrapper"}
    if name not in known:
        raise UnknownNameError(f"transformers has no classifier {name!r}{nearest(name, known)}")
    return transformers
