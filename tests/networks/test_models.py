"""Building networks by name: names, shapes, stems, arguments, image sizes, seeds."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
import torchvision
from torch import nn

from nteleport.errors import ModelError, UnknownNameError
from nteleport.networks.models import build_model, check_model, model_keywords, seeded_model, size_problem
from nteleport.networks.stems import fit_stem
from nteleport.vocabulary import MODEL_NAMES, canonical_name

ONE_OF_EACH_FAMILY = (
    "mlp", "cnn", "vit", "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
    "vit_b_16", "wide_resnet50_2",
)  # fmt: skip
NOT_FOR_32 = ("inception_v3", "maxvit_t", "vit_h_14")


def weightless(name: str, input_shape: tuple[int, int, int], **kwargs: object) -> nn.Module:
    """A network on the meta device, which checks shapes and holds no weights; RegNet cannot be made there."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return build_model(name, input_shape=input_shape, num_classes=7, **kwargs)


def output_shape(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[int, ...]:
    images = torch.zeros(2, *input_shape, device=next(network.parameters()).device)
    return tuple(network(images).shape)


def test_names_are_those_of_this_package_and_every_torchvision_classifier() -> None:
    published = torchvision.models.list_models(module=torchvision.models)
    assert sorted(MODEL_NAMES) == sorted(["mlp", "cnn", "vit", *published])


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("MLPCOB", "mlp"),
        ("mlp", "mlp"),
        ("ResNet18COB", "resnet18"),
        ("vgg16_bnCOB", "vgg16_bn"),
        (" VGG16 ", "vgg16"),
    ],
)
def test_canonical_name_drops_case_and_the_published_suffix(written: str, canonical: str) -> None:
    assert canonical_name(written) == canonical


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet18x'.*did you mean 'resnet18'"):
        canonical_name("resnet18x")


def test_names_and_catalogue_import_no_torch() -> None:
    code = (
        "import sys, nteleport.vocabulary; from nteleport.data.sources import is_present\n"
        "assert is_present('digits', 'nowhere') and not is_present('cifar10', 'nowhere')\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_family_runs_on_small_images_and_returns_logits_in_training(name: str, channels: int) -> None:
    shape = (channels, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # GoogLeNet warns when its init_weights is left open
        network = weightless(name, shape)
    assert network.training
    assert output_shape(network, shape) == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if not name.startswith("regnet")])
def test_which_models_run_on_32_by_32(name: str) -> None:
    if name in NOT_FOR_32:
        with pytest.raises(ModelError):
            weightless(name, (1, 32, 32))
    else:
        assert output_shape(weightless(name, (1, 32, 32)), (1, 32, 32)) == (2, 7)


@pytest.mark.parametrize("name", NOT_FOR_32)
def test_a_model_that_cannot_take_the_images_says_what_it_needs_and_which_can(name: str) -> None:
    with pytest.raises(ModelError, match=r"cannot take images of 32×32, it needs .*for example resnet18"):
        build_model(name, input_shape=(3, 32, 32), num_classes=10)


@pytest.mark.parametrize(
    ("name", "size"),
    [("alexnet", 29), ("densenet121", 29), ("googlenet", 15), ("squeezenet1_0", 21), ("vgg11", 32),
     ("alexnet", 63), ("inception_v3", 75), ("vit_h_14", 28), ("maxvit_t", 224)],
)  # fmt: skip
def test_the_smallest_size_named_does_run(name: str, size: int) -> None:
    assert size_problem(name, (3, size - 1, size - 1)) is not None or (name, size) == ("alexnet", 63)
    assert output_shape(weightless(name, (3, size, size)), (3, size, size)) == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_resnets_keep_small_images_at_full_resolution_until_the_first_stage(name: str) -> None:
    network = weightless(name, (3, 32, 32))
    stem = network.conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert network.maxpool(network.relu(network.bn1(stem(torch.zeros(2, 3, 32, 32, device="meta"))))).shape[
        2:
    ] == (32, 32)


def test_resnets_keep_torchvisions_stem_on_large_images() -> None:
    stem = weightless("resnet18", (3, 224, 224)).conv1
    assert (stem.kernel_size, stem.stride) == ((7, 7), (2, 2))


def first_convolution(network: nn.Module) -> nn.Conv2d:
    return next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))


# The rule each of torchvision's families writes for its convolutions, as a standard deviation.
STEM_STD = {
    "alexnet": lambda fan_in, fan_out: (1 / (3 * fan_in)) ** 0.5,  # uniform on ±1/√fan_in
    "convnext_tiny": lambda fan_in, fan_out: 0.02,
    "densenet121": lambda fan_in, fan_out: (2 / fan_in) ** 0.5,
    "efficientnet_b0": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "googlenet": lambda fan_in, fan_out: 0.01,
    "mnasnet1_0": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "mobilenet_v2": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "mobilenet_v3_small": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "regnet_x_400mf": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "resnet18": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "shufflenet_v2_x1_0": lambda fan_in, fan_out: (1 / (3 * fan_in)) ** 0.5,
    "squeezenet1_0": lambda fan_in, fan_out: (2 / fan_in) ** 0.5,
    "swin_t": lambda fan_in, fan_out: (1 / (3 * fan_in)) ** 0.5,
    "vgg11": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "vit_b_16": lambda fan_in, fan_out: (1 / fan_in) ** 0.5,
}


def test_init_weights_false_leaves_a_new_stem_as_torch_makes_it() -> None:
    network = weightless("vgg11", (3, 32, 32), init_weights=False)
    fit_stem(network, (1, 32, 32), default_weights=True)
    assert first_convolution(network).weight.abs().max().item() <= 1 / 3  # uniform on ±1/√fan_in
    assert first_convolution(network).bias.any()


@pytest.mark.parametrize("name", STEM_STD)
def test_one_channel_keeps_the_familys_hyper_parameters_and_initialisation(name: str) -> None:
    color = first_convolution(weightless(name, (3, 32, 32)))
    network = weightless(name, (3, 32, 32))
    torch.manual_seed(0)
    fit_stem(network, (1, 32, 32))  # only the new layer has weights: the others stay on the meta device
    gray = first_convolution(network)
    hyper_parameters = (
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )
    assert [getattr(gray, key) for key in hyper_parameters] == [
        getattr(color, key) for key in hyper_parameters
    ]
    assert gray.in_channels == 1
    assert (gray.bias is None) == (color.bias is None)
    area = gray.kernel_size[0] * gray.kernel_size[1]
    expected = STEM_STD[name](area, gray.out_channels * area)
    # Of n draws the sample's deviation is off by 1/√(2n) of itself: five of those.
    tolerance = 5 / (2 * gray.weight.numel()) ** 0.5
    assert gray.weight.std(correction=0).item() == pytest.approx(expected, rel=tolerance)


def test_mlp_has_five_layers_of_500_by_default() -> None:
    network = weightless("MLPCOB", (3, 32, 32))
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert shapes == [(500, 3072), (500, 500), (500, 500), (500, 500), (500, 500), (7, 500)]
    assert [type(layer) for layer in network][:3] == [nn.Flatten, nn.Linear, nn.ReLU]


@pytest.mark.parametrize(
    ("written", "layer"),
    [("relu", nn.ReLU), ("elu", nn.ELU), ("leakyrelu", nn.LeakyReLU), ("tanh", nn.Tanh),
     ("sigmoid", nn.Sigmoid), ("LeakyReLU", nn.LeakyReLU), ("leaky_relu", nn.LeakyReLU), ("nn.ELU", nn.ELU)],
)  # fmt: skip
def test_mlp_takes_its_sizes_and_activation(written: str, layer: type[nn.Module]) -> None:
    network = build_model(
        "mlp", input_shape=(1, 4, 4), num_classes=3, hidden_layers=[8, 5], activation=written
    )
    expected = [nn.Flatten, nn.Linear, layer, nn.Linear, layer, nn.Linear]
    assert [type(part) for part in network] == expected
    assert [p.shape[0] for p in network.parameters() if p.ndim == 2] == [8, 5, 3]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("mlp", {"hidden_layer": [5]}, "did you mean 'hidden_layers'"),
        ("mlp", {"hidden_layers": 500}, "expected a list of whole numbers"),
        ("mlp", {"hidden_layers": []}, "expected a list of whole numbers"),
        ("mlp", {"hidden_layers": [5, -1]}, "expected a list of whole numbers"),
        ("mlp", {"activation": "relo"}, "did you mean 'relu'"),
        ("mlp", {"num_classes": 3}, "the data set gives it"),
        ("cnn", {"channel": [5]}, "did you mean 'channels'"),
        ("cnn", {"channels": []}, "channels is \\[\\]: expected a list of whole numbers"),
        ("cnn", {"channels": [4] * 6}, "6 poolings need at least 64×64"),
        ("cnn", {"hidden_layers": [0]}, "hidden_layers is \\[0\\]: expected a list of whole numbers"),
        ("cnn", {"activation": "relo"}, "did you mean 'relu'"),
        ("vit", {"patch_size": 5}, "needs squares whose side is a multiple of patch_size 5"),
        ("vit", {"hidden_dim": 130}, "130 is not a multiple of num_heads 4"),
        ("vit", {"num_layers": 0}, "num_layers is 0, expected a whole number"),
        ("vit", {"num_layers": 1.5}, "num_layers is 1.5, expected a whole number"),
        ("vit", {"dropout": 2}, "model 'vit' cannot be built"),
        ("vit", {"image_size": 32}, "takes no argument 'image_size'"),
        ("resnet18", {"hidden_layers": [5]}, "takes no argument 'hidden_layers'"),
        ("resnet18", {"weights": "DEFAULT"}, "takes no argument 'weights'"),
        ("resnet18", {"groups": 2}, "cannot be built"),
        ("vgg16", {"dropuot": 0.1}, "did you mean 'dropout'"),
        ("googlenet", {"aux_logits": True}, "takes no argument 'aux_logits'"),
        ("regnet_x_400mf", {"drop": 1}, "takes no argument 'drop'"),
    ],
)
def test_arguments_are_checked_before_anything_is_built(
    name: str, kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_model(name, kwargs, input_shape=(3, 32, 32), num_classes=10)


def test_good_arguments_pass_the_check_and_reach_the_model() -> None:
    check_model("vgg16", {"dropout": 0.25}, input_shape=(3, 32, 32), num_classes=10)
    network = weightless("vgg16", (3, 32, 32), dropout=0.25)
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.25}


def test_model_keywords_leave_out_what_a_file_cannot_say() -> None:
    assert model_keywords("MLPCOB") == ("hidden_layers", "activation")
    assert model_keywords("cnn") == ("channels", "hidden_layers", "activation")
    assert model_keywords("resnet18") == (
        "zero_init_residual", "groups", "width_per_group", "replace_stride_with_dilation", "pretrained",
        "stem",
    )  # fmt: skip
    assert "dropout" in model_keywords("efficientnet_b0")


def test_seeded_model_depends_on_its_seed_alone_and_leaves_torchs_generator_untouched() -> None:
    def weights(seed: int) -> torch.Tensor:
        network = seeded_model("mlp", {"hidden_layers": [6]}, input_shape=(1, 3, 3), num_classes=2, seed=seed)
        return nn.utils.parameters_to_vector(network.parameters())

    first = weights(3)
    before = torch.get_rng_state()
    torch.rand(5)
    assert torch.equal(weights(3), first)
    assert not torch.equal(weights(4), first)
    torch.set_rng_state(before)
    weights(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_model_applies_the_initializer() -> None:
    network = seeded_model(
        "mlp", {}, input_shape=(1, 8, 8), num_classes=2, seed=0,
        initializer="normal", initializer_kwargs={"gain": 0.5},
    )  # fmt: skip
    assert network[3].weight.std().item() == pytest.approx(0.5, rel=0.01)
    assert not network[3].bias.any()
