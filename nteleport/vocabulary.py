"""The names of networks and their initializers in an experiment file, without importing torch.

An experiment is checked, listed and unravelled long before anything is trained, so the names live here, the
networks in :mod:`nteleport.networks.models` and the initializers in :mod:`nteleport.networks.initializers`. A
name is canonical
when it is lower case and carries no suffix ``COB``: the published implementation had a class of its own for
each teleportable network (``MLPCOB``, ``resnet18COB``), while here every network can be teleported as it is.
"""

from __future__ import annotations

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

#: Every name that :func:`nteleport.networks.models.build_model` knows.
MODEL_NAMES: tuple[str, ...] = ("mlp", *_TORCHVISION_NAMES.split())

#: Every type that :func:`nteleport.networks.initializers.initialize` knows.
INITIALIZERS: tuple[str, ...] = ("none", "normal", "xavier", "xavier_uniform", "kaiming", "orthogonal")

#: The non-linearities whose gain torch knows; an initializer's ``non_linearity`` is one of them.
NON_LINEARITIES: tuple[str, ...] = ("linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu")

#: The activations of ``mlp``.
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
        f"unknown model {name!r}: expected 'mlp' or the name of a torchvision classifier"
        f"{nearest(plain, MODEL_NAMES)}"
    )
